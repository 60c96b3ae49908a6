"""From a run's files to its samples: kinds, subset, and what stands for the image. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sight_beyond_text.data.contexts import read_contexts
from sight_beyond_text.data.kinds import read_kinds, with_kinds
from sight_beyond_text.data.sources import apply_form, read_instructions, select_kinds
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json


def load_rows(spec: dict) -> list[dict]:
    """The samples of a run with its source applied, in the file's order.

    The subset (`max_samples`) is drawn by the seed before the source is applied, so that sources
    which differ only in form learn from the same conversations, and a smaller subset lies within
    each larger one of the same seed.

    Args:
        spec: an alignment's or a run's; of it `data`, `source`, `training.max_samples` and `seed`.

    Raises:
        UserError: a broken file, no instruction of the kinds, or an image without captions.
    """
    data, source = spec["data"], spec["source"]
    path = data["instructions"]
    rows = read_instructions(path, data.get("layout"))
    if data.get("leaks"):
        found = read_json(data["leaks"], "samples that leak")["samples"]
        if path not in found:
            raise UserError(
                f"{data['leaks']}: {path} wasn't looked at; remove this file, and the next start"
                " looks again"
            )
        left_out = set(found[path])
        rows = [row for number, row in enumerate(rows) if number not in left_out]
    if source["kinds"] != "all" and data.get("kinds"):
        rows = with_kinds(rows, read_kinds(data["kinds"]))
    rows = select_kinds(rows, source["kinds"], path)
    limit = spec["training"]["max_samples"]
    if limit is not None and limit < len(rows):
        rows = [rows[place] for place in sorted(drawn(len(rows), spec["seed"])[:limit])]
    if source["form"] != "caption":
        return [apply_form(row, source["form"]) for row in rows]
    if data["captions"] is None:
        raise UserError("data.captions: needed for a source of form 'caption'; give COCO captions")
    boxes = source.get("boxes", False)
    captions, lines = read_contexts(
        data["captions"], data.get("instances") if boxes else None, data["captions_in_place"]
    )
    return [apply_form(row, "caption", captions, lines if boxes else None) for row in rows]


def drawn(count: int, seed: int) -> Sequence[int]:
    """All places from 0 to `count` in an order that the seed draws; subsets are its beginnings."""
    return random.Random(f"{seed} subset").sample(range(count), count)
