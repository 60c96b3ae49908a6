"""Whether text benchmarks have as many questions as were published. No torch, no lm-eval here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sight_beyond_text.benchmark_sizes import HARD, TEXT

SUBJECTS = 57
"""Of MMLU."""

SETS = {"ethics_deontology": 4, "ethics_justice": 4, "ethics_virtue": 5}
"""Items that ETHICS counts as right only together (Hendrycks et al., 2021)."""


def coverage(name: str, entry: Mapping[str, Any], counts: Mapping[str, int]) -> list[str]:
    """What of a benchmark's questions is otherwise than published, a line each.

    Nothing is said of the micro world's files, whose sizes are its own, nor of a study's `limit`.

    Args:
        name: the benchmark's name in the study.
        entry: `{task, path}`, None where not given.
        counts: questions that are asked, by lm-eval's task (one a subject, for MMLU).
    """
    task, path, total = entry.get("task") or name, entry.get("path"), sum(counts.values())
    where, lines = f"evaluation.text.{name}", []
    size = SETS.get(task)
    if size and total % size:
        lines.append(f"{where}: {total} questions aren't whole sets of {size}, so there is no em")
    if task not in TEXT or (path and _is_micro(Path(path))):
        return lines
    published = TEXT[task].items
    if task == "mmlu" and len(counts) != SUBJECTS:
        lines.append(f"{where}: {len(counts)} of {SUBJECTS} subjects, {total} questions")
    elif total not in (published, HARD.get(task)):
        hard = f" ({HARD[task]} hard ones)" if task in HARD else ""
        lines.append(f"{where}: {total} questions, where {published}{hard} are published")
    return lines


def _is_micro(path: Path) -> bool:
    return any((folder / "world.json").is_file() for folder in path.parents)
