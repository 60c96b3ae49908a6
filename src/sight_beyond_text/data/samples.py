"""From conversations to tokens and labels, and from samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from sight_beyond_text.data.templates import IMAGE, Segment, segments, turns_of
from sight_beyond_text.errors import UserError

IGNORED = -100
"""The label of a token that isn't learned (the loss functions' convention)."""


@dataclass
class Losses:
    """Samples that couldn't be used as they are.

    Attributes:
        total: samples seen.
        cut: ids of samples cut at the length limit.
        dropped: ids of samples with nothing left to learn.
    """

    total: int = 0
    cut: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Cut and dropped samples among all."""
        return (len(self.cut) + len(self.dropped)) / max(1, self.total)


def encode(
    laid: Sequence[Segment], tokenizer, image_token: int, patches: int
) -> tuple[list[int], list[int]]:
    """Tokens and labels of one laid-out conversation.

    Args:
        laid: segments; neighbours that are both learned or both not are tokenized as one text.
        tokenizer: its BOS opens the sequence, where it has one.
        image_token: id that stands for one position of an image.
        patches: positions an image.

    Returns:
        ids and labels of the same length; labels are `IGNORED` where nothing is learned.
    """
    ids, labels = [], []
    if tokenizer.bos_token_id is not None:
        ids, labels = [tokenizer.bos_token_id], [IGNORED]
    run: list[Segment] = []

    def flush() -> None:
        if run:
            text = "".join(segment.text for segment in run)
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids.extend(tokens)
            labels.extend(tokens if run[0].learn else [IGNORED] * len(tokens))
            run.clear()

    for segment in laid:
        if segment.text == IMAGE:
            flush()
            ids.extend([image_token] * patches)
            labels.extend([IGNORED] * patches)
            continue
        if run and run[0].learn != segment.learn:
            flush()
        run.append(segment)
    flush()
    return ids, labels


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
        for row in rows:
            name = str(row["id"])
            turns = turns_of(row["conversations"], f"sample {name!r}")
            laid = segments(turns, template, tokenizer)
            marks = sum(segment.text == IMAGE for segment in laid)
            if marks != ("image" in row) or any(IMAGE in answer for _, answer in turns):
                raise UserError(
                    f"sample {name!r}: an image and its mark {IMAGE} must come together, once, in"
                    " the human's text"
                )
            ids, labels = encode(laid, tokenizer, image_token, patches)
            if len(ids) > max_length:
                self.losses.cut.append(name)
                ids, labels = ids[:max_length], labels[:max_length]
            if all(label == IGNORED for label in labels):
                self.losses.dropped.append(name)
                continue
            self.samples.append(
                {"id": name, "input_ids": ids, "labels": labels, "image": row.get("image")}
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        sample = dict(self.samples[index])
        if sample["image"] is not None:
            sample["pixel_values"] = self.pixels(sample["image"])
        return sample


class Pixels:
    """Reads, prepares and keeps the images of one folder.

    Args:
        folder: where the images lie.
        processor: transformers image processor of the vision tower.
        keep: how many prepared images to keep in memory.
    """

    def __init__(self, folder: str | Path, processor, keep: int = 4096):
        self.folder, self.processor, self.keep = Path(folder), processor, keep
        self.kept: dict[str, torch.Tensor] = {}

    def __call__(self, name: str) -> torch.Tensor:
        """Pixel values (3, H, W) of one image.

        Raises:
            UserError: the file is missing or isn't a readable image.
        """
        if name in self.kept:
            return self.kept[name]
        path = self.folder / name
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except FileNotFoundError:
            raise UserError(f"{path}: no such image; fetch it or take its samples out") from None
        except (OSError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: not a readable image ({error}); fetch it again") from None
        values = self.processor(rgb, return_tensors="pt")["pixel_values"][0]
        if len(self.kept) < self.keep:
            self.kept[name] = values
        return values


@dataclass
class Collator:
    """Pads samples on the right into one batch.

    Attributes:
        pad: id of the padding token (masked out, so any id serves).
    """

    pad: int

    def __call__(self, samples: Sequence[dict]) -> dict[str, torch.Tensor]:
        """A batch: input_ids, labels, attention_mask (B, T); pixel_values (images, 3, H, W)."""
        length = max(len(sample["input_ids"]) for sample in samples)

        def padded(key: str, value: int) -> torch.Tensor:
            return torch.tensor(
                [sample[key] + [value] * (length - len(sample[key])) for sample in samples]
            )

        lengths = torch.tensor([[len(sample["input_ids"])] for sample in samples])
        batch = {
            "input_ids": padded("input_ids", self.pad),
            "labels": padded("labels", IGNORED),
            "attention_mask": (torch.arange(length)[None] < lengths).long(),
        }
        images = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        if images:
            batch["pixel_values"] = torch.stack(images)
        return batch
