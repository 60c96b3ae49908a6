"""Pixel values of corrupted images, made as they are asked for or kept in a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from PIL import Image

from sight_beyond_text.analysis.tidy import atomic_path
from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.evaluation.corruptions import VERSION, corrupt


class CorruptedPixels:
    """Reads, corrupts and prepares the images of one folder; what is random hangs on the name.

    Args:
        folder: where the images lie.
        processor: transformers image processor of the vision tower.
        kind: one of `corruptions.KINDS`.
        severity: 1 to 5.
        cache: folder that keeps corrupted images as PNG, under the name and content of the clean
            one; None keeps none.
    """

    key = Pixels.key

    def __init__(
        self, folder: str | Path, processor, kind: str, severity: int, cache: str | Path | None
    ):
        self.clean = Pixels(folder, self._prepared, keep=0)
        self.processor, self.kind, self.severity = processor, kind, severity
        self.cache = None if cache is None else Path(cache)
        self.name = ""

    def known_as(self, name: str) -> str:
        """What an image is called among others, clean ones too."""
        return f"{self.clean.folder / name}#{self.kind}-{self.severity}"

    def __call__(self, name: str) -> torch.Tensor:
        """Pixel values (3, H, W) of one image.

        Raises:
            UserError: the file is missing or isn't a readable image.
        """
        self.name = name
        return self.clean(name)

    def _prepared(self, image: Image.Image, **options):
        return self.processor(self._corrupted(image), **options)

    def _corrupted(self, image: Image.Image) -> Image.Image:
        if self.cache is None:
            return corrupt(image, self.kind, self.severity, self.name)
        content = hashlib.sha256(f"{VERSION} {image.size}".encode() + image.tobytes()).hexdigest()
        name = Path(self.name).with_suffix("")
        path = self.cache / self.kind / str(self.severity) / f"{name}-{content[:8]}.png"
        if path.is_file():
            with Image.open(path) as kept:
                return kept.convert("RGB")
        made = corrupt(image, self.kind, self.severity, self.name)
        with atomic_path(path) as temporary:
            made.save(temporary, "PNG", compress_level=1)
        return made
