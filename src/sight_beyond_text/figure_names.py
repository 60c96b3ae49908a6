"""Which figures a study has, told from its file alone: without pandas, before anything is run."""

from __future__ import annotations

from collections.abc import Callable

from sight_beyond_text.analysis import names
from sight_beyond_text.study import Study

RADAR_AXES = 3
"""The fewest image scores that a radar makes sense of."""


def figures(study: Study) -> list[str]:
    """Names of the figures that the study has data for, in the order of `FIGURES`."""
    missing = left_out(study)
    return [name for name in FIGURES if name not in missing]


def left_out(study: Study) -> dict[str, str]:
    """The figures that the study has no data for, each with what it lacks."""
    lacks = {name: lack(study) for name, lack in FIGURES.items()}
    return {name: why for name, why in lacks.items() if why}


def notice(study: Study) -> str:
    """One line on the figures that are left out, and why; empty where none is."""
    reasons: dict[str, list[str]] = {}
    for name, why in left_out(study).items():
        reasons.setdefault(why, []).append(name)
    told = "; ".join(f"{', '.join(found)} ({why})" for why, found in reasons.items())
    return f"Figures left out: {told}." if told else ""


def _nothing(study: Study) -> str:
    return ""


def _headline(study: Study) -> str:
    return "" if _has_headline(study) else "no TruthfulQA or whole ETHICS"


def _sources(study: Study) -> str:
    if sum(name in study.sources for name in names.SOURCES) < 2:
        return "only one source"
    return _headline(study)


def _shifts(study: Study) -> str:
    text = set(study.evaluation.text)
    if "truthfulqa_mc2" in text or text.issuperset(names.ETHICS):
        return ""
    return "no TruthfulQA mc2 or whole ETHICS"


def _others(study: Study) -> str:
    beside = [name for name in study.evaluation.text if not name.startswith("truthfulqa")]
    return "" if beside else "no text benchmarks beside TruthfulQA"


def _kinds(study: Study) -> str:
    kinds = {
        source.kinds if isinstance(source.kinds, str) else "+".join(source.kinds)
        for source in study.sources.values()
    }
    return _headline(study) if len(kinds) > 1 else "all sources have the same kinds of instruction"


def _mmlu(study: Study) -> str:
    asked = [benchmark.task or name for name, benchmark in study.evaluation.text.items()]
    return "" if "mmlu" in asked else "no MMLU"


def _ethics(study: Study) -> str:
    return "" if set(study.evaluation.text).issuperset(names.ETHICS) else "not all of ETHICS"


def _images(study: Study) -> str:
    return "" if study.evaluation.image else "no image benchmarks"


def _radar(study: Study) -> str:
    # MME reports two sums.
    axes = sum(2 if own.type == "mme" else 1 for own in study.evaluation.image.values())
    return "" if axes >= RADAR_AXES else f"fewer than {RADAR_AXES} image scores"


def _claims(study: Study) -> str:
    return "" if study.claims else "no claims"


def _corrupted(study: Study) -> str:
    asked = any(own.corruptions for own in study.evaluation.image.values())
    return "" if asked else "no corrupted images"


def _published(study: Study) -> str:
    return "" if study.published else "no published values"


def _has_headline(study: Study) -> bool:
    text = set(study.evaluation.text)
    return bool(text & {"truthfulqa_mc1", "truthfulqa_mc2"}) or text.issuperset(names.ETHICS)


FIGURES: dict[str, Callable[[Study], str]] = {
    "claims": _claims,
    "truthfulness_ethics": _headline,
    "effects": _headline,
    "sources": _sources,
    "tunings": _shifts,
    "kinds": _kinds,
    "price": _others,
    "mmlu_groups": _mmlu,
    "ethics_subsets": _ethics,
    "image_benchmarks": _images,
    "radar": _radar,
    "robustness": _corrupted,
    "corruption_curves": _corrupted,
    "published": _published,
    "training_curves": _nothing,
}
"""Every figure in the order in which it is shown, with what says what a study lacks for it."""
