"""METEOR and SPICE of captions: programs in Java, as the package pycocoevalcap brings them.

Sources: Denkowski and Lavie, "Meteor Universal" (2014), version 1.5; Anderson et al., "SPICE"
(2016). The programs are called directly: the package's own classes wait for ever where METEOR
fails, and write where they are installed. SPICE also needs Stanford's language
models, which the package doesn't hold.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

METRICS = ("METEOR", "SPICE")

_PACKAGE = "pycocoevalcap"
_PROGRAMS = {"METEOR": "meteor/meteor-1.5.jar", "SPICE": "spice/spice-1.0.jar"}
_MODELS = "stanford-corenlp-3.6.0-models.jar"
_MEMORY = {"METEOR": "-Xmx2G", "SPICE": "-Xmx8G"}


def lacking(metric: str) -> str | None:
    """What a metric needs and isn't here, with the remedy; None where all is."""
    if shutil.which("java") is None:
        return "there is no java on the PATH; install one"
    program = _program(metric)
    if program is None:
        return f"{_PACKAGE} isn't there; pip install it"
    models = program.parent / "lib" / _MODELS
    if metric == "SPICE" and not models.is_file():
        return f"{models} isn't there; pycocoevalcap.spice.get_stanford_models fetches it"
    return None


def score(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = METRICS,
) -> tuple[dict[str, float], list[str]]:
    """Scores one caption an image, as far as the programs are here.

    Args:
        predictions: image id -> caption; ids without references are left aside.
        references: image id -> one or more captions.
        metrics: which of `METRICS`.

    Returns:
        The metrics, 0..1; and a line for each that is left out, with the reason.
    """
    reasons = {metric: lacking(metric) for metric in metrics}
    able = [metric for metric in metrics if reasons[metric] is None]
    values: dict[str, float] = {}
    if able:
        # Not at the top: whether a program is here is asked before anything is computed.
        from sight_beyond_text.evaluation.scorers.captions import tokenise

        said = [" ".join(tokenise(predictions[image])) for image in references]
        truths = [[" ".join(tokenise(text)) for text in texts] for texts in references.values()]
        for metric in able:
            try:
                values[metric] = {"METEOR": _meteor, "SPICE": _spice}[metric](truths, said)
            except (OSError, ValueError) as error:
                reasons[metric] = str(error)
    alike: dict[str, list[str]] = {}
    for metric, reason in reasons.items():
        if reason is not None:
            alike.setdefault(reason, []).append(metric)
    return values, [f"{', '.join(names)}: left out, {why}" for why, names in alike.items()]


def _program(metric: str) -> Path | None:
    package = importlib.util.find_spec(_PACKAGE)
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder) / _PROGRAMS[metric]
        if path.is_file():
            return path
    return None


def _meteor(truths: Sequence[Sequence[str]], said: Sequence[str]) -> float:
    """METEOR of the corpus: the program counts image by image, then scores all that it counted."""
    program = _program("METEOR")
    command = [*_command("METEOR", program), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            cwd=program.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )

        def tell(*words: str) -> None:
            process.stdin.write(f"{' ||| '.join(words)}\n".encode())
            process.stdin.flush()

        def answer() -> str:
            line = process.stdout.readline().decode().strip()
            if not line:
                raise ValueError("it ended before its answer")
            return line

        try:
            counted = []
            for texts, caption in zip(truths, said, strict=True):
                tell("SCORE", *texts, caption)
                counted.append(answer())
            tell("EVAL", *counted)
            # One score an image, then that of all.
            return float([answer() for _ in range(len(said) + 1)][-1])
        except (OSError, ValueError) as error:
            process.kill()
            process.wait()
            complaints.seek(0)
            raise ValueError(_failure("METEOR", complaints.read(), error)) from None
        finally:
            process.kill()
            # What it never read is still in the pipe.
            with suppress(OSError):
                process.stdin.close()
            process.stdout.close()
            process.wait()


def _spice(truths: Sequence[Sequence[str]], said: Sequence[str]) -> float:
    """SPICE of the corpus: the mean over its images."""
    program = _program("SPICE")
    rows = [
        {"image_id": number, "test": caption, "refs": list(texts)}
        for number, (texts, caption) in enumerate(zip(truths, said, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        asked, made = Path(folder) / "captions.json", Path(folder) / "scores.json"
        asked.write_text(json.dumps(rows), encoding="utf-8")
        command = [*_command("SPICE", program), str(asked), "-out", str(made), "-subset", "-silent"]
        done = subprocess.run(
            command, cwd=program.parent, stdin=subprocess.DEVNULL, capture_output=True
        )
        if done.returncode or not made.is_file():
            raise ValueError(_failure("SPICE", done.stderr, f"it ended with {done.returncode}"))
        try:
            scores = [row["scores"]["All"]["f"] for row in json.loads(made.read_bytes())]
            return math.fsum(scores) / len(rows)
        except (KeyError, TypeError):
            raise ValueError("its program wrote no scores") from None


def _command(metric: str, program: Path) -> list[str]:
    # Java 17 reads texts as the locale says, Java 18 as UTF-8.
    return ["java", "-Dfile.encoding=UTF-8", _MEMORY[metric], "-jar", program.name]


def _failure(metric: str, complaints: bytes, why: object) -> str:
    """A failed program in a line: what it said, else what happened to it."""
    told = " ".join(complaints.decode(errors="replace").split())[:200] or why
    return f"its program failed ({told}); does `java {_MEMORY[metric]} -version` run here?"
