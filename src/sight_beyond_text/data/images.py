"""Opening images that strangers made."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path, PurePath

from PIL import Image

from sight_beyond_text.errors import UserError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is read. Of Pillow's further formats some hand the file to other programs (EPS)."""

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    MemoryError,
    Image.DecompressionBombError,
)
"""What Pillow raises at files that are broken, or larger than any photo (179 million pixels)."""


def inside(folder: str | Path, name: str) -> Path:
    """Where an image lies that data name.

    Raises:
        UserError: the name leads out of the folder.
    """
    inner = PurePath(name)
    if inner.is_absolute() or ".." in inner.parts or "\0" in name:
        raise UserError(f"{folder}: the image {name!r} leads out of the folder; refused")
    return Path(folder) / inner


def opened(path: str | Path) -> Image.Image:
    """An image of one of `FORMATS`; its pixels aren't read yet, and its size is bounded."""
    return Image.open(path, formats=_readable())


@cache
def _readable() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
