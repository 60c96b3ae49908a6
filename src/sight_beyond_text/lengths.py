"""How long samples get, about, before they are tokenized: from characters, or from what is known.

Files are read as far as they are at hand; of the published ones the lengths are known without. No
torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from sight_beyond_text.data.glance import WHOLE, glance, rows_with
from sight_beyond_text.data.kinds import kinds_of, read_kinds, with_kinds
from sight_beyond_text.data.layouts import laid_out, read_laid
from sight_beyond_text.data.templates import segments
from sight_beyond_text.errors import UserError

CHARACTERS_A_TOKEN = 4.2
"""Of English text: 4.0 to 4.4 for tokenizers of 32,000 words and more."""

CHARACTERS_A_CAPTION = 53
"""Of COCO's captions, with the space between two."""

TOKENS_OF_BOXES = 227
"""Of an image's boxes: COCO has 7.3 to a photo, and a line takes 31 of Llama 2's tokens."""


class Sample(NamedTuple):
    """What of a conversation its length hangs on.

    Attributes:
        kind: of instruction, where it is told.
        image: whether there is one.
        asked, answered: characters.
        turns: questions with an answer.
        weight: how many samples it stands for; 0 where it is only one of the longest.
    """

    kind: str | None
    image: bool
    asked: float
    answered: float
    turns: float
    weight: float = 1.0


@dataclass(frozen=True)
class Sizes:
    """What a run learns from in one pass over its data, about.

    Attributes:
        samples, images: how many.
        tokens: positions of all samples, those of images included, without padding.
        learned: tokens that the loss is taken on.
        squares: sum of the samples' squared positions.
        longest: positions of the longest sample.
    """

    samples: int
    images: int
    tokens: float
    learned: float
    squares: float
    longest: int


def read_samples(
    path: str, layout: str | None = None, kinds: Mapping[str, str] | None = None
) -> list[Sample] | None:
    """The samples of a file of instructions; of a large one, some that stand for all.

    Args:
        path: the file.
        layout: see `layouts.read_laid`.
        kinds: files that tell the samples' kinds by their ids (`kinds.read_kinds`).

    Returns:
        None where the file isn't there, or isn't such a file.
    """
    try:
        looked = glance(path) if Path(path).stat().st_size > WHOLE else None
        if looked is None:
            return [_sample(row) for row in _with_kinds(read_laid(path, layout).rows, kinds)]
        laid = laid_out(looked.rows, layout, path)
        rows = _with_kinds(laid.rows, kinds)
        weight = looked.count / len(looked.rows)
        longest = laid_out(looked.longest, layout, path).rows
        return [
            *(_sample(row)._replace(weight=weight) for row in rows),
            *(_sample(row)._replace(weight=0) for row in _with_kinds(longest, kinds)),
        ]
    except (OSError, UserError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _sample(row: Mapping[str, Any]) -> Sample:
    said = row["conversations"]
    return Sample(
        row.get("kind"),
        "image" in row,
        sum(len(turn["value"]) for turn in said[::2]),
        sum(len(turn["value"]) for turn in said[1::2]),
        len(said) // 2,
    )


def _with_kinds(rows: list[dict], kinds: Mapping[str, str] | None) -> list[dict]:
    """Rows with their kind; of the files that tell it, only their own ids are read."""
    if not kinds:
        return rows
    names = {str(row["id"]) for row in rows}
    found = {kind: rows_with(path, names) for kind, path in kinds.items()}
    if any(made is None for made in found.values()):
        return with_kinds(rows, read_kinds(kinds))
    return with_kinds(rows, kinds_of((kind, kinds[kind], found[kind]) for kind in kinds))


def measure(
    samples: Sequence[Sample],
    form: str,
    template: str,
    patches: int,
    captions: int,
    max_length: int,
    boxes: bool = False,
) -> Sizes:
    """About how long the samples get when they are laid out in a template.

    Args:
        samples: at least one.
        form: of the source.
        template: of the prompt.
        patches: positions an image.
        captions: captions that stand for an image.
        max_length: limit in positions.
        boxes: whether the image's boxes follow its captions.
    """
    opening, a_turn = _overhead(template)
    count = tokens = learned = squares = longest = images = 0.0
    in_words = captions * CHARACTERS_A_CAPTION / CHARACTERS_A_TOKEN + TOKENS_OF_BOXES * boxes
    instead = {"visual": patches, "caption": in_words}
    for sample in samples:
        asked = 0 if template == "plain" else sample.asked
        length = (asked + sample.answered) / CHARACTERS_A_TOKEN + opening + sample.turns * a_turn
        weight = sample.weight
        if sample.image:
            images += weight * (form == "visual")
            length += instead.get(form, 0)
        length = min(length, max_length)
        count += weight
        tokens += weight * length
        squares += weight * length**2
        longest = max(longest, length)
        learned += weight * (sample.answered / CHARACTERS_A_TOKEN + sample.turns)
    return Sizes(
        samples=round(count),
        images=round(images),
        tokens=tokens,
        learned=min(learned, tokens),
        squares=squares,
        longest=math.ceil(longest),
    )


def _overhead(template: str) -> tuple[float, float]:
    """Tokens that a template adds: once (the opening mark and the system's words), and a turn."""
    if template == "chat":
        return 10, 10  # the base's own; most have two marks and a role a message
    marks = SimpleNamespace(bos_token="<s>", eos_token="</s>")
    laid = [segments([("", "")] * turns, template, marks) for turns in (1, 2)]
    one, two = (
        sum(1 if part.mark else len(part.text) / CHARACTERS_A_TOKEN for part in parts)
        for parts in laid
    )
    return 1 + one - (two - one), two - one
