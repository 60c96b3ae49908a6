"""How answers are generated: what a prompt's tokens are, and where an answer ends."""

from __future__ import annotations

from collections.abc import Sequence

from sight_beyond_text.data.samples import encode
from sight_beyond_text.data.templates import Segment, end_marks, segments


def prompt_ids(
    turns: Sequence[tuple[str, str]],
    template: str,
    tokenizer,
    image_token: int,
    patches: int,
    image_marks: Sequence[str] | None = None,
) -> list[int]:
    """Tokens to generate the last answer from.

    Args:
        turns: (human, assistant) pairs, the last assistant text empty.
        image_token: id of one image position.
        patches: positions an image.
        image_marks: tokens just before and after the image (`<im_start>`, `<im_end>`), for
            imported models that were trained with them.
    """
    laid = segments(turns, template, tokenizer, True)
    if image_marks:
        before, after = (Segment(name, mark=True) for name in image_marks)
        laid = [
            part
            for segment in laid
            for part in ((before, segment, after) if segment.is_image else (segment,))
        ]
    return encode(laid, tokenizer, image_token, patches)[0]


def endings(template: str, tokenizer) -> tuple[tuple[str, ...], list[int]]:
    """What ends an answer: texts to cut it at, and the tokens that end generation."""
    marks = end_marks(template, tokenizer)
    vocabulary = tokenizer.get_vocab()
    # A mark that is one token of the vocabulary ends generation as the end of the text does.
    ends = {tokenizer.eos_token_id, *(vocabulary.get(mark) for mark in marks)} - {None}
    return (*marks, *(text for text in tokenizer.all_special_tokens if text)), sorted(ends)


def cut(text: str, stops: Sequence[str]) -> str:
    """An answer up to the first stop string."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text.strip()
