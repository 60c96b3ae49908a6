"""METEOR and SPICE of captions: programs in Java, called through pycocoevalcap where both are here.

Sources: Denkowski and Lavie, "Meteor Universal" (2014), version 1.5; Anderson et al., "SPICE"
(2016). pycocoevalcap (optional; `pip install pycocoevalcap`) brings both programs, but not
Stanford's language models that SPICE needs.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sight_beyond_text.evaluation.scorers.captions import tokenise

_MODELS = "stanford-corenlp-3.6.0-models.jar"


def score(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], list[str]]:
    """Scores one caption an image, as far as the programs are here.

    Args:
        predictions: image id -> caption; ids without references are left aside.
        references: image id -> one or more captions.

    Returns:
        `METEOR` and `SPICE`, 0..1; and a line for each that is left out, with the reason.
    """
    if shutil.which("java") is None:
        return {}, ["METEOR, SPICE: left out, there is no java on the PATH; install one"]
    if importlib.util.find_spec("pycocoevalcap") is None:
        return {}, ["METEOR, SPICE: left out, pycocoevalcap isn't there; pip install it"]
    said = {image: [" ".join(tokenise(predictions[image]))] for image in references}
    truths = {
        image: [" ".join(tokenise(caption)) for caption in captions]
        for image, captions in references.items()
    }
    metrics, notices = {}, []
    for name, measure in (("METEOR", _meteor), ("SPICE", _spice)):
        try:
            metrics[name] = measure(truths, said)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            notices.append(f"{name}: left out, {' '.join(str(error).split())[:200]}")
    return metrics, notices


def _meteor(truths: dict, said: dict) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        return float(Meteor().compute_score(truths, said)[0])
    except ValueError:
        # The program ended, so that what is read from it is empty.
        raise ValueError("its program failed; does `java -Xmx2G` run here?") from None


def _spice(truths: dict, said: dict) -> float:
    from pycocoevalcap.spice import spice

    models = Path(spice.__file__).parent / "lib" / _MODELS
    if not models.is_file():
        raise ValueError(
            f"{models} isn't there; pycocoevalcap.spice.get_stanford_models fetches it"
        )
    return float(spice.Spice().compute_score(truths, said)[0])
