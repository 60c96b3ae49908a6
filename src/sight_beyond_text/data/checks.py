"""What is wrong with a file of instructions, told before anything is trained."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sight_beyond_text.data.images import BROKEN, inside, opened
from sight_beyond_text.data.layouts import read_laid
from sight_beyond_text.data.templates import IMAGE, turns_of
from sight_beyond_text.errors import UserError

REMEDIES = {
    "broken samples": "mend them or take them out",
    "samples whose roles don't take turns": "human and gpt must take turns; mend them",
    "samples with an empty turn": "take them out; nothing can be learned from them",
    "samples whose image and mark don't match": f"each image needs one {IMAGE}, in a human's text",
    "missing images": "fetch them or take their samples out",
    "unreadable images": "fetch them again",
}
"""What may be wrong, and what to do."""


@dataclass
class Findings:
    """What a check found.

    Attributes:
        samples: that were looked at.
        images: that they name, each once.
        problems: by name (`REMEDIES`), what is wrong: (sample or image, detail).
        left_out: (sample, reason) of what the layout can't lay out as a conversation.
        double_ids: samples whose id another has too (LLaVA's ids are those of images).
        doubles: ids of samples that say of the same image what an earlier one says.
        longest: characters of the longest sample.
    """

    samples: int = 0
    images: int = 0
    problems: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    double_ids: int = 0
    doubles: list[str] = field(default_factory=list)
    longest: int = 0

    def add(self, problem: str, where: str, detail: str) -> None:
        """Notes one problem."""
        self.problems.setdefault(problem, []).append((where, detail))

    def told(self, path: str | Path, images: str | Path | None) -> list[str]:
        """What was looked at, and what is no mistake but good to know, a line each.

        Args:
            path: the file that was checked.
            images: the folder of its images; None where they were left alone.
        """
        looked = "not looked at" if images is None else f"looked at in {images}"
        lines = [
            f"{path}: {self.samples:,} samples, {self.images:,} images ({looked})",
            f"longest: {self.longest:,} characters",
            f"said twice of the same image: {len(self.doubles):,}",
            f"samples that share an id: {self.double_ids:,}",
            *(f"left out: {name}: {reason}" for name, reason in self.left_out[:10]),
        ]
        if len(self.left_out) > 10:
            lines.append(f"left out: {len(self.left_out) - 10:,} more")
        return lines

    def lines(self, path: str | Path) -> list[str]:
        """The problems, a line each: how many, the first, and what to do."""
        return [
            f"{path}: {problem}: {len(found)}, the first is {found[0][0]!r}: {found[0][1]};"
            f" {REMEDIES[problem]}"
            for problem, found in self.problems.items()
        ]


def check_file(
    path: str | Path,
    images: str | Path | None = None,
    layout: str | None = None,
    decode: bool = False,
) -> Findings:
    """Checks a file of instructions and the images that it names.

    Args:
        path: LLaVA-style, Alpaca-style or ShareGPT-style JSON.
        images: the folder of its images; None leaves them alone.
        layout: see `layouts.read_laid`.
        decode: read each image to its last pixel; else only its beginning and its end.

    Raises:
        UserError: the file can't be read at all.
    """
    laid = read_laid(path, layout)
    found = check_rows(laid.rows)
    found.left_out = laid.left_out
    if images is not None:
        check_images(images_of(laid.rows), images, found, decode)
    return found


def check_instructions(path: str | Path, images: str | Path, layout: str | None = None) -> None:
    """Prints what is in a file of instructions, and refuses it where something is wrong.

    Raises:
        UserError: all that is wrong, a line each.
    """
    found = check_file(path, images, layout)
    print(*found.told(path, images), sep="\n")
    lines = found.lines(path)
    if lines:
        raise UserError("\n".join(lines))


def images_of(rows: Iterable[Any]) -> list[str]:
    """The images that samples name, each once."""
    named = {row.get("image") for row in rows if isinstance(row, Mapping)}
    return sorted(name for name in named if isinstance(name, str))


def check_rows(rows: Sequence[Any]) -> Findings:
    """Checks the samples themselves: schema, roles, marks, doubles, lengths."""
    found = Findings(samples=len(rows), images=len(images_of(rows)))
    ids: Counter[str] = Counter()
    seen: set[int] = set()
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) or not isinstance(row.get("conversations"), list):
            found.add("broken samples", f"sample {number}", "needs 'id' and 'conversations'")
            continue
        if "id" not in row:
            found.add("broken samples", f"sample {number}", "needs 'id' and 'conversations'")
            continue
        name = str(row["id"])
        ids[name] += 1
        try:
            turns = turns_of(row["conversations"], name)
        except UserError as error:
            detail = str(error).removeprefix(f"{name}: ")
            found.add("samples whose roles don't take turns", name, detail)
            continue
        _check_marks(row, name, turns, found)
        if not all(said.replace(IMAGE, "").strip() for _, said in turns):
            found.add("samples with an empty turn", name, "an answer without text")
        content = hash((str(row.get("image")), *turns))
        if content in seen:
            found.doubles.append(name)
        seen.add(content)
        found.longest = max(found.longest, sum(len(one) + len(two) for one, two in turns))
    found.double_ids = sum(count for count in ids.values() if count > 1)
    return found


def _check_marks(row: Mapping, name: str, turns: list[tuple[str, str]], found: Findings) -> None:
    asked = sum(human.count(IMAGE) for human, _ in turns)
    answered = sum(said.count(IMAGE) for _, said in turns)
    if "image" in row and not isinstance(row["image"], str):
        found.add("broken samples", name, f"its image is {row['image']!r}, not a file name")
    elif asked != ("image" in row) or answered:
        where = f"{asked} {IMAGE} in questions, {answered} in answers"
        detail = f"{'an' if 'image' in row else 'no'} image and {where}"
        found.add("samples whose image and mark don't match", name, detail)


def check_images(
    names: Sequence[str], folder: str | Path, found: Findings, decode: bool = False
) -> None:
    """Sees that images are there and can be read; notes in `found` those that don't.

    Args:
        names: file names in `folder`.
        folder: where they should be.
        found: gets the problems.
        decode: read each to its last pixel; else only its beginning and its end.
    """
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
        wrong = pool.map(lambda name: _wrong_with(folder, name, decode), names, chunksize=64)
        for name, problem in zip(names, wrong, strict=True):
            if problem is not None:
                found.add(problem[0], name, problem[1])


_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""How whole files end; some cameras put a few bytes after that."""


def _wrong_with(folder: str | Path, name: str, decode: bool) -> tuple[str, str] | None:
    try:
        path = inside(folder, name)
    except UserError:
        return "unreadable images", "the name leads out of the folder"
    try:
        with opened(path) as image:
            if decode:
                image.load()
            elif (end := _ENDS.get(image.format)) is not None:
                with path.open("rb") as stream:
                    stream.seek(max(0, path.stat().st_size - 65536))
                    if end not in stream.read():
                        return "unreadable images", "it has no end; the file is cut off"
    except FileNotFoundError:
        return "missing images", f"not in {path.parent}"
    except BROKEN as error:
        return "unreadable images", str(error).replace(f" {str(path)!r}", "")
    return None
