"""From conversations to tokens and labels, and from samples to batches."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageOps

from sight_beyond_text.data.images import BROKEN, inside, opened
from sight_beyond_text.data.prepare import drawn
from sight_beyond_text.data.templates import IMAGE, Segment, segments, turns_of
from sight_beyond_text.errors import UserError

IGNORED = -100
"""The label of a token that isn't learned (the loss functions' convention)."""


@dataclass
class Losses:
    """Samples that couldn't be used as they are.

    Attributes:
        total: samples seen.
        cut: ids of samples longer than the limit.
        dropped: ids of samples left out: nothing to learn is within the limit, or the limit would
            go through their image.
        lost: how many samples are in either.
    """

    total: int = 0
    cut: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    lost: int = 0

    @property
    def share(self) -> float:
        """Cut and dropped samples among all."""
        return self.lost / max(1, self.total)


def encode(
    laid: Sequence[Segment],
    tokenizer,
    image_token: int,
    patches: int,
    tokenize: Callable[[str], list[int]] | None = None,
) -> tuple[list[int], list[int]]:
    """Tokens and labels of one laid-out conversation.

    Each segment is tokenized once, and its labels are its tokens or nothing. Only marks become
    special tokens: "</s>" in a text is tokenized as the four characters that it is. A text that
    follows text goes on from it, without the space that SentencePiece puts before a text of its
    own. A text that follows a mark or the image is one of its own: the published code, too,
    tokenizes what stands before and after the image apart, and Llama's (in its form of 2023) does
    so after every special token.

    Args:
        laid: a conversation's segments, as a template gives them.
        tokenizer: its BOS opens the sequence, where it has one.
        image_token: id that stands for one position of an image.
        patches: positions an image.
        tokenize: gives a text's tokens, where many are known already; by default the tokenizer.

    Returns:
        ids and labels of the same length; labels are `IGNORED` where nothing is learned.

    Raises:
        UserError: the tokenizer has no token for a mark.
    """
    tokenize = partial(_plain_tokens, tokenizer) if tokenize is None else tokenize
    ids, labels = [], []
    if (opening := tokenizer.bos_token_id) is not None:
        ids, labels = [opening], [IGNORED]
    goes_on = swallows = False
    for segment in laid:
        if segment.mark:
            token, swallows = image_token, False
            if not segment.is_image:
                token, swallows = _mark_token(tokenizer, segment.text)
            tokens = [token] * (patches if segment.is_image else 1)
            goes_on = False
        else:
            text = segment.text.lstrip() if swallows else segment.text
            tokens = _going_on(tokenize, text) if goes_on else tokenize(text)
            goes_on, swallows = goes_on or bool(tokens), swallows and not tokens
        ids += tokens
        labels += tokens if segment.learn else [IGNORED] * len(tokens)
    return ids, labels


def _going_on(tokenize: Callable[[str], list[int]], text: str) -> list[int]:
    """Tokens of a text that follows another: those it has after a line's end.

    Where a line's end and the text's begin make one token, the tokenizer is a byte-level one, which
    puts no space before a text.
    """
    before, tokens = tokenize("\n"), tokenize(f"\n{text}")
    if tokens[: len(before)] == before:
        return tokens[len(before) :]
    return tokenize(text)


def _plain_tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


class _Tokens:
    """Tokens of texts; a fast tokenizer is asked for many at once, which its threads share.

    Attributes:
        tokenizer: the base's.
        known: by text; `foresee` fills it anew.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}

    def foresee(self, several: Iterable[Sequence[Segment]]) -> None:
        """Tokenizes what `encode` will most likely ask for."""
        texts: dict[str, None] = {}
        for laid in several:
            goes_on = False
            for segment in laid:
                if not segment.mark:
                    texts[f"\n{segment.text}" if goes_on else segment.text] = None
                goes_on = not segment.mark
        # This call also leaves a fast tokenizer's own part set as it should be for the others.
        self.known = {"\n": _plain_tokens(self.tokenizer, "\n")}
        if self.tokenizer.is_fast:
            backend = self.tokenizer.backend_tokenizer
            made = backend.encode_batch_fast(list(texts), add_special_tokens=False)
            self.known.update(zip(texts, (one.ids for one in made), strict=True))

    def __call__(self, text: str) -> list[int]:
        """A text's tokens."""
        known = self.known.get(text)
        return _plain_tokens(self.tokenizer, text) if known is None else known


@lru_cache(maxsize=1024)
def _mark_token(tokenizer, name: str) -> tuple[int, bool]:
    """A mark's id, and whether its token swallows the spaces after it (as Phi's do)."""
    if name not in tokenizer.get_vocab():
        raise UserError(f"the tokenizer has no token {name!r}; choose another template")
    token = tokenizer.convert_tokens_to_ids(name)
    return token, getattr(tokenizer.added_tokens_decoder.get(token), "rstrip", False)


class Conversations(torch.utils.data.Dataset):
    """Encoded samples; pixel values are read when asked for, or taken from a cache.

    Args:
        rows: LLaVA-style samples with their source already applied.
        tokenizer: the base's.
        template: one of `templates.TEMPLATES`.
        image_token: id of one image position.
        patches: positions an image.
        max_length: limit in positions, the image's included.
        pixels: from an image file name to pixel values (3, H, W).
    """

    def __init__(self, rows, tokenizer, template, image_token, patches, max_length, pixels):
        self.losses = Losses(total=len(rows))
        self.samples: list[dict] = []
        self.pixels = pixels
        tokens = _Tokens(tokenizer)
        for place, (row, laid) in enumerate(_laid_out(rows, template, tokenizer, tokens)):
            name = str(row["id"])
            images = sum(segment.is_image for segment in laid)
            ids, labels = encode(laid, tokenizer, image_token, patches, tokens)
            if ids.count(image_token) != images * patches:
                raise UserError(
                    f"sample {name!r}: the tokenizer gives its text the token {image_token}, which"
                    " stands for the image; take out the characters that it doesn't know"
                )
            cut = len(ids) > max_length
            whole = image_token not in ids[max_length:]
            ids, labels = ids[:max_length], labels[:max_length]
            kept = whole and labels.count(IGNORED) < len(labels)
            if cut:
                self.losses.cut.append(name)
            if kept:
                # A list of Python's takes twice the room; of 600,000 samples that is gigabytes.
                self.samples.append(
                    {
                        "id": name,
                        "input_ids": array("i", ids),
                        "labels": array("i", labels),
                        "image": row.get("image"),
                        "place": place,
                    }
                )
            else:
                self.losses.dropped.append(name)
            self.losses.lost += cut or not kept

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        sample = dict(self.samples[index])
        if sample["image"] is not None:
            sample[self.pixels.key] = self.pixels(sample["image"])
        return sample


def _laid_out(
    rows: Sequence[dict], template: str, tokenizer, tokens: _Tokens
) -> Iterator[tuple[dict, list[Segment]]]:
    """Rows with their segments, whose tokens are then known.

    Raises:
        UserError: an image without its mark, or a mark without an image.
    """
    # A tokenizer takes its time to tell the marks, and a template asks for them at every turn.
    marks = SimpleNamespace(bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
    speaks = tokenizer if template == "chat" else marks
    for start in range(0, len(rows), _AT_ONCE):
        several = []
        for row in rows[start : start + _AT_ONCE]:
            name = str(row["id"])
            turns = turns_of(row["conversations"], f"sample {name!r}")
            laid = segments(turns, template, speaks)
            images = sum(segment.is_image for segment in laid)
            if images != ("image" in row) or any(IMAGE in answer for _, answer in turns):
                raise UserError(
                    f"sample {name!r}: an image and its mark {IMAGE} must come together, once, in"
                    " the human's text"
                )
            several.append((row, laid))
        tokens.foresee(laid for _, laid in several)
        yield from several


_AT_ONCE = 1024


def keep_learned(dataset: Conversations, tokens: int, seed: int) -> None:
    """Keeps samples that have exactly so many learned tokens, in the order that subsets have.

    Of the last sample that is taken only the first tokens may be learned. So sources of unlike
    lengths learn from equally many tokens; sources that differ in form learn from the same samples.

    Args:
        dataset: is changed in place; its samples stay in the file's order.
        tokens: learned tokens of an epoch.
        seed: as for `prepare.drawn`.

    Raises:
        UserError: the samples have too few.
    """
    at = {sample["place"]: index for index, sample in enumerate(dataset.samples)}
    kept, left = [], tokens
    for place in drawn(dataset.losses.total, seed):
        if place not in at or not left:
            continue
        labels = dataset.samples[at[place]]["labels"]
        learned = [index for index, label in enumerate(labels) if index and label != IGNORED]
        for index in learned[left:]:
            labels[index] = IGNORED
        left -= min(left, len(learned))
        kept.append(at[place])
    if left:
        raise UserError(
            f"max_learned_tokens: {tokens} asked for, the samples have {tokens - left}; lower it"
            " for all that are to be matched, or add data"
        )
    dataset.samples = [dataset.samples[index] for index in sorted(kept)]


class Pixels:
    """Reads, prepares and keeps the images of one folder.

    Args:
        folder: where the images lie.
        processor: transformers image processor of the vision tower.
        keep: bytes of prepared images to keep in memory, the first that come.
    """

    key = "pixel_values"

    def __init__(self, folder: str | Path, processor, keep: int = 0):
        self.folder, self.processor, self.room = Path(folder), processor, keep
        self.kept: dict[str, torch.Tensor] = {}

    def __call__(self, name: str) -> torch.Tensor:
        """Pixel values (3, H, W) of one image.

        Raises:
            UserError: the file is missing or isn't a readable image.
        """
        if name in self.kept:
            return self.kept[name]
        path = inside(self.folder, name)
        try:
            with opened(path) as image:
                rgb = _rgb(image)
        except FileNotFoundError:
            raise UserError(f"{path}: no such image; fetch it or take its samples out") from None
        except BROKEN as error:
            raise UserError(f"{path}: not a readable image ({error}); fetch it again") from None
        values = self.processor(rgb, return_tensors="pt")["pixel_values"][0]
        if self.room and values.nbytes <= self.room:
            self.room -= values.nbytes
            self.kept[name] = values
        return values


def _rgb(image: Image.Image) -> Image.Image:
    """An image as it is meant to be seen: upright, in RGB, on white where it is transparent."""
    image.load()
    with suppress(*BROKEN):
        image = ImageOps.exif_transpose(image)  # a broken tag is no reason to refuse an image
    if image.mode.startswith("I"):
        # 16 bits; Pillow would make all above 255 white.
        values = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(values.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@dataclass
class Collator:
    """Pads samples on the right into one batch.

    Attributes:
        pad: id of the padding token (masked out, so any id serves).
    """

    pad: int

    def __call__(self, samples: Sequence[dict]) -> dict[str, torch.Tensor]:
        """A batch: input_ids, labels, attention_mask (B, T); what the samples hold of images."""
        length = max(len(sample["input_ids"]) for sample in samples)

        def padded(key: str, value: int) -> torch.Tensor:
            return torch.tensor(
                [[*sample[key], *[value] * (length - len(sample[key]))] for sample in samples]
            )

        lengths = torch.tensor([[len(sample["input_ids"])] for sample in samples])
        batch = {
            "input_ids": padded("input_ids", self.pad),
            "labels": padded("labels", IGNORED),
            "attention_mask": (torch.arange(length)[None] < lengths).long(),
        }
        for key in ("pixel_values", "image_features"):
            images = [sample[key] for sample in samples if key in sample]
            if images:
                batch[key] = torch.stack(images)
        return batch
