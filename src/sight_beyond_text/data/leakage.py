"""What of the evaluation stands in the training data: its photos, and its questions' words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sight_beyond_text.data.coco import coco_id
from sight_beyond_text.data.sources import read_instructions

WORDS = 13
"""Words in a row that count as an overlap (as GPT-3's authors took it)."""

FEWEST = 8
"""A shorter question is too common a phrase to tell anything."""

_ASKED = ("question", "Problem", "input", "scenario", "activity")
"""Where the text benchmarks' rows have what is asked."""


class Question(NamedTuple):
    """A question of a benchmark: its name and words."""

    name: str
    words: tuple[str, ...]


def find_leaks(
    files: Mapping[str, str | None],
    text: Mapping[str, Mapping[str, Any]],
    image: Mapping[str, Mapping[str, Any]],
) -> dict:
    """Looks for the evaluation in files of instructions.

    Photos are compared by COCO's ids, which stay when 2014's files are named and split anew in
    2017; images of other names can't be compared, and are counted. Questions are compared by their
    words: one overlaps with a sample that has `WORDS` of its words in a row, or, where it is
    shorter, all of them; questions of fewer than `FEWEST` words aren't compared, and are counted.

    Args:
        files: instructions by path, with their layout (None: told by keys).
        text, image: the benchmarks, as `grid.benchmarks` gives them; those of text without a path
            come from the hub and aren't compared.

    Returns:
        `benchmarks`: by name, `kind`, `items`, `images`, `leaked_images`, `uncompared_images`;
        for text `too_short`, `overlapping` and up to ten `examples`. `samples`: by path, the places
        of the samples that hold a photo or a text benchmark's question of the evaluation.
    """
    # Readers of the image benchmarks need no torch, but their package is imported late all the
    # same: most studies never come here.
    from sight_beyond_text.evaluation.image_data import load_all

    told: dict[str, dict] = {}
    questions: dict[str, list[Question]] = {}
    photos: dict[str, set[int]] = {}
    for name, entry in text.items():
        if entry.get("path"):
            questions[name] = text_questions(name, entry)
            told[name] = _compared(questions[name], "text")
        else:
            told[name] = {"kind": "text", "not_compared": "its questions are on the hub"}
    clean = {name: entry for name, entry in image.items() if "corruption" not in entry}
    for name, rows in load_all(clean).items():
        named = {row["image"] for row in rows}
        numbers = {coco_id(image) for image in named} - {None}
        photos[name] = numbers
        asked = {row["prompt"] for row in rows} if clean[name]["type"] != "captions" else set()
        questions[name] = [Question(text, words_of(text)) for text in sorted(asked)]
        told[name] = {
            **_compared(questions[name], "image"),
            "items": len(rows),
            "images": len(named),
            "uncompared_images": sum(coco_id(image) is None for image in named),
            "leaked_images": 0,
        }
    index = Index(questions)
    overlapping: dict[str, dict[str, str]] = {name: {} for name in questions}
    leaked: dict[str, set[int]] = {name: set() for name in photos}
    samples: dict[str, list[int]] = {}
    for path, layout in files.items():
        samples[str(path)] = []
        for place, row in enumerate(read_instructions(path, layout)):
            number = coco_id(row["image"]) if "image" in row else None
            shown = [name for name, numbers in photos.items() if number in numbers]
            for name in shown:
                leaked[name].add(number)
            found = index.found_in(turn["value"] for turn in row["conversations"])
            for name, question in found:
                overlapping[name].setdefault(question, str(row["id"]))
            if shown or any(told[name]["kind"] == "text" for name, _ in found):
                samples[str(path)].append(place)
    for name, found_by in overlapping.items():
        told[name]["overlapping"] = len(found_by)
        told[name]["examples"] = [
            {"question": question, "sample": sample}
            for question, sample in sorted(found_by.items())[:10]
        ]
    for name, numbers in leaked.items():
        told[name]["leaked_images"] = len(numbers)
    return {"benchmarks": told, "samples": samples}


def _compared(questions: Sequence[Question], kind: str) -> dict:
    short = sum(len(question.words) < FEWEST for question in questions)
    return {"kind": kind, "items": len(questions), "too_short": short}


def text_questions(name: str, entry: Mapping[str, Any]) -> list[Question]:
    """What a text benchmark asks, each question once.

    Args:
        name: the benchmark's.
        entry: as for `text_data.read_benchmark`; tasks that it can't read have no questions here.
    """
    from sight_beyond_text.evaluation.text_data import READERS, is_mirror, read_benchmark

    task = entry.get("task") or name
    if task not in READERS or is_mirror(Path(entry["path"])):
        return []
    asked: dict[str, None] = {}
    for splits in read_benchmark(name, {**entry, "fewshot": 0}).values():
        rows = splits.get("test") or splits.get("validation") or []
        for row in rows[: entry.get("limit")]:
            asked[next(row[key] for key in _ASKED if key in row)] = None
    return [Question(text, words_of(text)) for text in asked]


def words_of(text: str) -> tuple[str, ...]:
    """A text's words and numbers in small letters, without punctuation."""
    return tuple(_WORD.findall(text.lower()))


_WORD = re.compile(r"\w+")


class Index:
    """Finds questions in texts.

    Args:
        questions: by benchmark.
    """

    def __init__(self, questions: Mapping[str, Sequence[Question]]):
        self._by_words: dict[str, list[tuple[str, str]]] = {}
        # Most places of a text are passed over by their first three words.
        self._lengths: dict[tuple[str, ...], set[int]] = {}
        for benchmark, asked in questions.items():
            for question in asked:
                for run in _runs(question.words):
                    self._by_words.setdefault(" ".join(run), []).append((benchmark, question.name))
                    self._lengths.setdefault(run[:3], set()).add(len(run))

    def found_in(self, texts: Iterable[str]) -> set[tuple[str, str]]:
        """(benchmark, question) of those that overlap with one of the texts."""
        found: set[tuple[str, str]] = set()
        for text in texts:
            words = words_of(text)
            for place, first in enumerate(zip(words, words[1:], words[2:], strict=False)):
                for length in self._lengths.get(first, ()):
                    found.update(self._by_words.get(" ".join(words[place : place + length]), ()))
        return found


def _runs(words: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    """What of a question must be found: all its runs of `WORDS`, or all of it."""
    if len(words) < FEWEST:
        return ()
    if len(words) <= WORDS:
        return (words,)
    return (words[place : place + WORDS] for place in range(len(words) - WORDS + 1))


def refusals(leaks: Mapping[str, Any]) -> list[str]:
    """A line for each benchmark of which something stands in the training data."""
    lines = []
    for name, told in leaks["benchmarks"].items():
        where = f"evaluation.{told['kind']}.{name}"
        if told.get("leaked_images"):
            lines.append(
                f"{where}: {told['leaked_images']} of its {told['images']} images are among the"
                " training images; set data.leakage to drop, or leave their samples out"
            )
        if told["kind"] == "text" and told.get("overlapping"):
            example = told["examples"][0]
            lines.append(
                f"{where}: {told['overlapping']} of its {told['items']} questions stand in training"
                f" texts, the first in sample {example['sample']!r}: {example['question'][:60]!r};"
                " set data.leakage to drop, or leave their samples out"
            )
    return lines


def as_table(leaks: Mapping[str, Any]) -> str:
    """The leaks as text for a terminal, a line a benchmark."""
    head = ("benchmark", "kind", "items", "images", "leaked", "overlapping", "not compared")
    rows = [head]
    for name, told in leaks["benchmarks"].items():
        apart = [told.get("not_compared", "")]
        if told.get("too_short"):
            apart.append(f"{told['too_short']:,} short questions")
        if told.get("uncompared_images"):
            apart.append(f"{told['uncompared_images']:,} images that aren't COCO's")
        numbers = (told.get(key) for key in ("items", "images", "leaked_images", "overlapping"))
        shown = ("-" if number is None else f"{number:,}" for number in numbers)
        rows.append((name, told["kind"], *shown, "; ".join(filter(None, apart))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place in (0, 1, 6) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for path, places in leaks["samples"].items():
        lines.append(f"{path}: {len(places):,} samples hold a leaked image or text question")
    return "\n".join(lines)
