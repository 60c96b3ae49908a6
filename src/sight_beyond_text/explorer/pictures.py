"""The table of pictures: what the image benchmarks' items are about, made small.

Photos of a benchmark then lie in `figures/data/`, so a study takes them in only where it says so
(`explorer.images`), or where the images are the micro world's own.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from sight_beyond_text.analysis import tidy
from sight_beyond_text.data import images
from sight_beyond_text.errors import UserError

FILE = "images.parquet"
COLUMNS = {"benchmark": pa.string(), "image": pa.string(), "data": pa.binary()}
"""Of the table: an image benchmark, the image's name in its items, and the image as WebP."""

PIXELS = 50_000_000
"""Larger images aren't decoded: they would fill the memory."""

log = logging.getLogger(__name__)


def gather_pictures(spec: Mapping, tables: str | Path) -> None:
    """Writes `images.parquet` into a study's folder of tables.

    The first images of each benchmark come first, until `mib` is full. Images that can't be read,
    and names that lead out of the folder, are left out with a notice in the log.

    Args:
        spec: `grid.pictures_spec`: `{folders: {benchmark: folder of its images}, pixels, mib}`;
            no folders where no pictures are wanted.
        tables: the folder that holds `items.parquet`.

    Raises:
        UserError: the table of items is missing or broken.
    """
    tables = Path(tables)
    rows: list[dict] = []
    known: dict[tuple[str, str], bytes | None] = {}
    room = spec["mib"] * 2**20
    for benchmark, name in _wanted(spec, tables) if spec["folders"] else ():
        folder = spec["folders"][benchmark]
        key = (folder, name)
        if key not in known:
            known[key] = _small(Path(folder), name, spec["pixels"])
            room -= len(known[key] or b"")
            if room < 0:
                log.warning("explorer: %s MiB of images are full; the others stay out", spec["mib"])
                break
        if known[key] is not None:
            rows.append({"benchmark": benchmark, "image": name, "data": known[key]})
    rows.sort(key=lambda row: (row["benchmark"], row["image"]))
    table = pa.Table.from_pylist(rows, schema=pa.schema(COLUMNS))
    with tidy.atomic_path(tables / FILE) as temporary:
        # Benchmarks that share a folder share its images: as a dictionary each lies there once.
        pq.write_table(
            table, temporary, compression="zstd", dictionary_pagesize_limit=2**30, version="2.6"
        )


def read_pictures(tables: str | Path) -> dict[tuple[str, str], bytes]:
    """The pictures by benchmark and name; none where there is no such table.

    Raises:
        UserError: the table is broken, or holds what is no WebP image.
    """
    path = Path(tables) / FILE
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        told = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not readable as Parquet ({told}); make it again") from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: lacks the column(s) {', '.join(missing)}; make it again")
    found = {}
    for row in table.to_pylist():
        data = row["data"]
        if not (isinstance(data, bytes) and data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
            raise UserError(f"{path}: {row['image']!r} is no WebP image; make the table again")
        found[row["benchmark"], row["image"]] = data
    return found


def _wanted(spec: Mapping, tables: Path) -> Iterator[tuple[str, str]]:
    """(benchmark, image), the first of each benchmark, then the second of each, and so on."""
    path = tables / tidy.FILES["items"]
    if not path.is_file():
        raise UserError(f"{path}: no such file; make the tables again with `sight compare`")
    filters = [("benchmark", "in", list(spec["folders"]))]
    items = pd.read_parquet(path, columns=["benchmark", "item", "details"], filters=filters)
    items = items.drop_duplicates(["benchmark", "item"])
    named = [json.loads(details).get("image") for details in items["details"]]
    items = items.assign(image=named).dropna(subset="image")
    items = items.drop_duplicates(["benchmark", "image"]).sort_values(["benchmark", "image"])
    items["rank"] = items.groupby("benchmark").cumcount()
    for row in items.sort_values(["rank", "benchmark"]).itertuples():
        yield row.benchmark, row.image


def _small(folder: Path, name: str, pixels: int) -> bytes | None:
    """An image as WebP with at most `pixels` a side, the smaller of lossy and lossless."""
    try:
        with images.opened(images.inside(folder, name)) as opened:
            if opened.width * opened.height > PIXELS:
                log.warning("explorer: %s has more than %d pixels; left out", name, PIXELS)
                return None
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
    except UserError as error:
        log.warning("explorer: %s; left out", error)
        return None
    except images.BROKEN as error:
        log.warning("explorer: %s can't be read (%s); left out", name, error)
        return None
    image.thumbnail((pixels, pixels))
    made = []
    for options in ({"quality": 80}, {"lossless": True}):
        stream = io.BytesIO()
        image.save(stream, "WEBP", method=4, **options)
        made.append(stream.getvalue())
    return min(made, key=len)
