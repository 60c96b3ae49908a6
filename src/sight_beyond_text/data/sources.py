"""The three sources: the image, its captions as text, or nothing in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sight_beyond_text.data.templates import IMAGE, turns_of
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json


def read_instructions(path: str | Path) -> list[dict]:
    """Reads LLaVA-style JSON and checks its layout.

    Returns:
        Rows `{id, image?, kind?, conversations}`.

    Raises:
        UserError: broken JSON, a row without id or conversations, or roles that don't take turns.
    """
    rows = read_json(path, "LLaVA-style instructions")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: LLaVA-style instructions are a list of samples; found none")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or "id" not in row or "conversations" not in row:
            raise UserError(f"{path}: sample {number + 1}: needs 'id' and 'conversations'")
        turns_of(row["conversations"], f"{path}: sample {row['id']!r}")
    return rows


def check_instructions(path: str | Path, images: str | Path) -> None:
    """Reads a file of instructions, and sees that its images are there.

    Raises:
        UserError: the file is broken, or images are missing (the count and the first are told).
    """
    named = sorted({row["image"] for row in read_instructions(path) if "image" in row})
    missing = [name for name in named if not (Path(images) / name).is_file()]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of its {len(named)} images are not in {images}, the first is"
            f" {missing[0]}; fetch them or take their samples out"
        )


def select_kinds(rows: Sequence[dict], kinds: Sequence[str] | str, where: str) -> list[dict]:
    """Keeps the rows of some kinds of instruction; "all" keeps every row.

    Raises:
        UserError: nothing is left; `where` names the file.
    """
    if kinds == "all":
        return list(rows)
    kept = [row for row in rows if row.get("kind") in kinds]
    if not kept:
        found = sorted({str(row.get("kind")) for row in rows})
        raise UserError(f"{where}: no instruction of kind {list(kinds)}; found {', '.join(found)}")
    return kept


def apply_form(
    row: Mapping, form: str, captions: Mapping[str, Sequence[str]] | None = None
) -> dict:
    """Puts what a source has in the image's place; all else stays as it was.

    Args:
        row: one LLaVA-style sample.
        form: "visual" keeps `<image>`; "caption" puts the image's captions there; "text" removes
            it with the line break beside it.
        captions: by image file name; needed for "caption".

    Returns:
        A new row; without `image` unless visual.

    Raises:
        UserError: captions are missing for the sample's image.
    """
    if form == "visual" or "image" not in row:
        return dict(row)
    if form == "caption":
        texts = (captions or {}).get(row["image"])
        if not texts:
            raise UserError(
                f"sample {row['id']!r}: no captions for image {row['image']!r};"
                " add them to data.captions or leave the sample out"
            )
        instead = " ".join(texts)
    elif form == "text":
        instead = ""
    else:
        raise UserError(f"no source form {form!r}; there are: visual, caption, text")
    turns = []
    for turn in row["conversations"]:
        value = turn["value"]
        if turn["from"] == "human" and IMAGE in value:
            bare = re.sub(rf"\s*{IMAGE}\s*", "\n", value).strip()
            value = f"{instead}\n{bare}".strip() if instead else bare
        turns.append({**turn, "value": value})
    out = {key: value for key, value in row.items() if key != "image"}
    return {**out, "conversations": turns}
