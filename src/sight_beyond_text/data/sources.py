"""The three sources: the image, its captions as text, or nothing in its place."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sight_beyond_text.data.layouts import read_laid
from sight_beyond_text.data.templates import IMAGE, turns_of
from sight_beyond_text.errors import UserError


def read_instructions(path: str | Path, layout: str | None = None) -> list[dict]:
    """Reads instructions and checks their layout.

    Args:
        path: LLaVA-style, Alpaca-style or ShareGPT-style JSON.
        layout: see `layouts.read_laid`.

    Returns:
        Rows `{id, image?, kind?, conversations}`. How many couldn't be one is told on standard
        error.

    Raises:
        UserError: broken JSON, a row without id or conversations, or roles that don't take turns.
    """
    laid = read_laid(path, layout)
    for number, row in enumerate(laid.rows):
        if not isinstance(row, dict) or "id" not in row or "conversations" not in row:
            raise UserError(f"{path}: sample {number + 1}: needs 'id' and 'conversations'")
        turns_of(row["conversations"], f"{path}: sample {row['id']!r}")
    if laid.left_out:
        reasons = Counter(reason for _, reason in laid.left_out)
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        print(f"{path}: {len(laid.left_out)} samples are left out: {told}", file=sys.stderr)
    return laid.rows


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
    row: Mapping,
    form: str,
    captions: Mapping[str, Sequence[str]] | None = None,
    boxes: Mapping[str, Sequence[str]] | None = None,
) -> dict:
    """Puts what a source has in the image's place; all else stays as it was.

    Args:
        row: one LLaVA-style sample.
        form: "visual" keeps `<image>`; "caption" puts the image's captions there; "text" removes
            it with the line break beside it.
        captions: by image file name; needed for "caption".
        boxes: by image file name, lines that follow the captions; none where not given.

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
        instead = "\n".join([" ".join(texts), *((boxes or {}).get(row["image"]) or ())])
    elif form == "text":
        instead = ""
    else:
        raise UserError(f"no source form {form!r}; there are: visual, caption, text")
    turns = []
    for turn in row["conversations"]:
        value = turn["value"]
        if turn["from"] == "human" and IMAGE in value:
            bare = _AROUND.sub("\n", value).strip()
            value = f"{instead}\n{bare}".strip() if instead else bare
        turns.append({**turn, "value": value})
    out = {key: value for key, value in row.items() if key != "image"}
    return {**out, "conversations": turns}


_AROUND = re.compile(rf"\s*{IMAGE}\s*")
