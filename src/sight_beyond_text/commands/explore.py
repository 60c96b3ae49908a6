"""`sight explore` and `sight pictures`: the page of runs and items, and what it shows of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sight_beyond_text.errors import UserError
from sight_beyond_text.session import session

Tables = Annotated[Path, typer.Option(help="Folder of the study's tables.")]
Log = Annotated[Path | None, typer.Option(help="Gets all output; errors are shown too.")]


def explore(
    tables: Tables,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    name: Annotated[
        str | None, typer.Option(help="The study's name; the folder's by default.")
    ] = None,
    inside: Annotated[
        float | None,
        typer.Option(min=0, help="MiB that the page may weigh before its data go beside it."),
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Completion record, written last.")] = None,
    log: Log = None,
) -> None:
    """Writes the explorer: a page of runs and items that needs no server and no network."""
    with session(log):
        from sight_beyond_text.explorer.build import INSIDE, build
        from sight_beyond_text.files import write_json

        made = build(tables, out, name, INSIDE if inside is None else inside)
        beside = f", its data in {made['beside']}/" if made["beside"] else ""
        print(f"{out}: {made['runs']} runs, {made['items']} items{beside}")
        if record is not None:
            write_json(record, made)


def pictures(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="Folders and room, as JSON.")],
    tables: Tables,
    log: Log = None,
) -> None:
    """Keeps small copies of the image benchmarks' images among a study's tables."""
    with session(log):
        from sight_beyond_text.explorer.pictures import gather_pictures

        try:
            read = json.loads(spec)
            folders, pixels, mib = dict(read["folders"]), int(read["pixels"]), float(read["mib"])
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"no spec of pictures: {spec[:40]!r}; it is {{folders, pixels, mib}}"
            ) from None
        gather_pictures({"folders": folders, "pixels": pixels, "mib": mib}, tables)
