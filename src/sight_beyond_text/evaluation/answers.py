"""How answers are generated: a prompt's tokens, the published sampling, where an answer ends."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

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


class Sampling:
    """Chooses tokens by chance, as Tu et al. (2023) did: temperature 0.2, the 50 likeliest.

    What comes out hangs on the names and the logits alone, not on what else is in a batch.

    Args:
        names: of the prompts; one that bears the same name is given the same luck.
        temperature: divides the logits.
        likeliest: tokens to choose from; more where several are as likely as the last of them.
    """

    def __init__(self, names: Sequence[str], temperature: float = 0.2, likeliest: int = 50):
        self.names, self.temperature, self.likeliest = names, temperature, likeliest

    def __call__(
        self, numbers: Sequence[int], steps: Sequence[int], logits: torch.Tensor
    ) -> list[int]:
        """The next token of each prompt.

        Args:
            numbers: which prompts.
            steps: how many tokens each has got.
            logits: (prompts, vocabulary), float32.
        """
        least = logits.topk(min(self.likeliest, logits.shape[-1])).values[:, -1:]
        scaled = (logits.double() / self.temperature).masked_fill(logits < least, -torch.inf)
        # In the order of the vocabulary: that of equally likely tokens isn't certain.
        sums = scaled.softmax(-1).cumsum(-1)
        luck = [
            random.Random(f"{self.names[number]} {step}").random()
            for number, step in zip(numbers, steps, strict=True)
        ]
        points = torch.tensor(luck, dtype=sums.dtype, device=sums.device)[:, None] * sums[:, -1:]
        return torch.searchsorted(sums, points, right=True)[:, 0].tolist()
