"""How many questions the benchmarks ask, in which groups, and how long they are. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.text_data import READERS, is_mirror, read_benchmark


@dataclass(frozen=True)
class Size:
    """The size of a benchmark.

    Attributes:
        items: questions.
        together: questions that share a photo, a passage or a scene, on average.
        read: tokens read a question, its choices included; what all questions share is read once.
        written: tokens of an answer that is generated, at most.
    """

    items: int
    together: float = 1.0
    read: float = 0.0
    written: float = 0.0


TEXT = {
    "truthfulqa_mc1": Size(817, read=77),
    "truthfulqa_mc2": Size(817, read=110),
    "truthfulqa_gen": Size(817, read=20, written=256),
    "ethics_cm": Size(3885, read=193),
    "ethics_justice": Size(2704, 4, 25),
    "ethics_deontology": Size(3596, 4, 23),
    "ethics_virtue": Size(4975, 5, 22),
    "ethics_utilitarianism": Size(4808, read=35),
    "mmlu": Size(14_042, read=106),
    "gsm8k": Size(1319, read=58, written=256),
    "mathqa": Size(2985, read=57),
    "boolq": Size(3270, 1.2, 144),
    "squadv2": Size(11_873, 9.4, 217, 30),
}
"""Test splits by task (validation of BoolQ and SQuAD); tokens from the files' characters."""

HARD = {
    "ethics_cm": 3964,
    "ethics_justice": 2052,
    "ethics_deontology": 3536,
    "ethics_virtue": 4780,
    "ethics_utilitarianism": 4272,
}
"""Questions of ETHICS' hard test splits (`*_test_hard.csv`)."""

MME = {
    "existence": 60, "count": 60, "position": 60, "color": 60, "posters": 294, "celebrity": 340,
    "scene": 400, "landmark": 400, "artwork": 400, "OCR": 40, "commonsense_reasoning": 140,
    "numerical_calculation": 40, "text_translation": 40, "code_reasoning": 40,
}  # fmt: skip
"""Questions of each subtask, two to a picture."""

PUBLISHED_SHOTS = 3
"""Of VQAv2's published subset, in text alone; a shot takes some 15 tokens."""


def text_size(name: str, entry: Mapping[str, Any]) -> Size | None:
    """The size of a text benchmark: of its files, as far as they are here, or as published.

    Args:
        name: the benchmark's name in the study.
        entry: of `grid.benchmarks`.

    Returns:
        None for a task of which nothing is known.
    """
    task = entry.get("task") or name
    known = TEXT.get(task, TEXT["mmlu"] if task.startswith("mmlu") else None)
    own = _counted(task, entry["path"]) if entry.get("path") else None
    if known is None or (own is None and (task not in TEXT or _is_micro(entry["path"]))):
        return None
    if own is None and "_hard" in Path(entry.get("path") or "").name:
        own = HARD.get(task)
    size = known if own is None else replace(known, items=own)
    return replace(size, items=min(size.items, entry.get("limit") or size.items))


def _is_micro(path: str | None) -> bool:
    """Whether it lies in the micro world, whose benchmarks are smaller than the published ones."""
    return str(path).startswith("resources/micro/")


@cache
def _counted(task: str, path: str) -> int | None:
    """Questions in a benchmark's own files; None where they can't be read."""
    if task not in READERS or not Path(path).exists():
        return None
    try:
        if Path(path).is_dir() and is_mirror(Path(path)):
            return None
        read = read_benchmark(task, {"path": path, "fewshot": 0})
    except (UserError, OSError):
        return None
    return sum(
        len(splits.get("test") or splits.get("validation") or ()) for splits in read.values()
    )


def image_size(entry: Mapping[str, Any], patches: int) -> Size | None:
    """The size of an image benchmark, as published.

    Args:
        entry: of `grid.benchmarks`.
        patches: positions an image.

    Returns:
        None where it isn't known.
    """
    kind, size = entry["type"], None
    if _is_micro(entry["images"]) and (kind != "pope" or _rows(entry["questions"]) is None):
        return None
    read = patches + 60.0
    written = min(entry["max_new_tokens"], 10)
    if kind == "pope":
        count = _rows(entry["questions"])
        size = Size(3000 if count is None else count, 6, read, 2)
    elif kind == "mme":
        count = sum(MME[name] for name in MME if name not in entry["without"])
        size = Size(count, 2, read, 2)
    elif kind == "vqa" and entry["subset"] == "published":
        size = Size(5000, 1.1, read + 15 * PUBLISHED_SHOTS, written)
    elif kind == "vqa" and "val2014" in str(entry["questions"]):
        size = Size(214_354, 5.3, read, written)
    elif kind == "captions" and entry["split"] in (None, "test"):
        items = {"dataset_coco": 5000, "dataset_flickr30k": 1000}
        found = [n for name, n in items.items() if name in str(entry["annotations"])]
        size = Size(found[0], 1, read, entry["max_new_tokens"]) if found else None
    if size is None:
        return None
    if entry.get("only_present") and "val2017" in entry["images"] and kind in ("pope", "captions"):
        # COCO's val2017 holds an eighth of val2014.
        size = replace(size, items=round(size.items / 8))
    return replace(size, items=min(size.items, entry.get("limit") or size.items))


def _rows(path: str | None) -> int | None:
    """Lines of a small file."""
    try:
        with open(path or "", encoding="utf-8") as stream:
            return sum(1 for line in stream if line.strip())
    except (OSError, ValueError):
        return None  # not here, or packed
