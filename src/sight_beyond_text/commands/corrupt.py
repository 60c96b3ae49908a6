"""`sight corrupt`: a contact sheet of all corruptions of one image, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sight_beyond_text.errors import UserError
from sight_beyond_text.session import session

_TILE = 224
_LINE = 18
_COLUMNS = 2


def corrupt(
    image: Annotated[Path, typer.Option(help="The image to corrupt.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    severities: Annotated[str, typer.Option(help="Severities, 1 to 5, with commas.")] = "1,3,5",
) -> None:
    """Draws an image under the 19 kinds of corruption, at some severities."""
    with session():
        try:
            chosen = [int(part) for part in severities.split(",")]
        except ValueError:
            raise UserError(
                f"--severities: found {severities!r}; give numbers, as in 1,3,5"
            ) from None
        sheet = contact_sheet(image, chosen)
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out, "PNG")
        print(f"{out}: severities {severities} from left to right")


def contact_sheet(path: str | Path, severities: list[int]):
    """All kinds of corruption of one image, as 224 pixels of its middle show them.

    Args:
        path: an image file.
        severities: one tile each, from left to right.

    Returns:
        An RGB image: the untouched middle, then the kinds, each with its name above its tiles.

    Raises:
        UserError: the file isn't a readable image, or there is no such severity.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    from sight_beyond_text.data.samples import Pixels
    from sight_beyond_text.evaluation.corruptions import KINDS
    from sight_beyond_text.evaluation.corruptions import corrupt as corrupted

    # Read as for a model, but for the model's own preparation.
    image = Pixels(Path(path).parent, lambda rgb, **_: {"pixel_values": [rgb]})(Path(path).name)
    middle = ImageOps.fit(image, (_TILE, _TILE))
    blocks = [("", [middle])]
    for kind in KINDS:
        made = [corrupted(middle, kind, severity, Path(path).name) for severity in severities]
        blocks.append((kind.replace("_", " "), made))
    rows = -(-len(blocks) // _COLUMNS)
    width, height = _TILE * len(severities) + 4, _TILE + _LINE + 4
    sheet = Image.new("RGB", (_COLUMNS * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for index, (title, tiles) in enumerate(blocks):
        left, top = index // rows * width, index % rows * height
        draw.text((left + 3, top), title, "black", font)
        for at, tile in enumerate(tiles):
            sheet.paste(tile, (left + at * _TILE, top + _LINE))
    return sheet
