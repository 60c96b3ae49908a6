"""`sight cache`: a study's cached tables as an archive, and whether they are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sight_beyond_text import cache as caches
from sight_beyond_text.session import session

cache = typer.Typer(
    help="Packs, checks and migrates the tables that figures are drawn from.", no_args_is_help=True
)

Tables = Annotated[
    str, typer.Argument(metavar="STUDY|FOLDER", help="A study in figures/data/, or a folder.")
]


@cache.command()
def pack(
    tables: Tables, out: Annotated[Path, typer.Option(help="The archive to write, a .tar.")]
) -> None:
    """Writes an archive of a study's tables; the same tables give the same bytes."""
    with session():
        made = caches.pack(caches.find(tables), out)
        print(f"{out}: {made['study']}, {made['files']} files, {made['bytes']:,} bytes")


@cache.command()
def verify(
    path: Annotated[
        str, typer.Argument(metavar="ARCHIVE|STUDY|FOLDER", help="What to look through.")
    ],
) -> None:
    """Checks hashes, layout, and that the tables agree; tells each problem and ends with 1."""
    with session():
        lines = caches.problems(path)
        print("\n".join(lines) if lines else f"{path}: whole, of layout {caches.LAYOUT}")
    raise typer.Exit(1 if lines else 0)


@cache.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="What `sight cache pack` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; figures/data/<study> by default.")
    ] = None,
) -> None:
    """Unpacks an archive that is whole, so that `from_cache=true` draws from it."""
    with session():
        print(f"{caches.unpack(archive, out)}: unpacked")


@cache.command()
def migrate(
    tables: Tables,
    study: Annotated[
        Path | None, typer.Option(help="The study file, whose claims are judged anew.")
    ] = None,
) -> None:
    """Makes tables of an older layout anew: all that follows from runs, scores and items."""
    with session():
        from sight_beyond_text.analysis.migrate import migrate as make_anew

        folder = caches.find(tables)
        spec = None
        if study is not None:
            from sight_beyond_text import grid
            from sight_beyond_text.study import read

            spec = grid.compare_spec(read(study))
        done = make_anew(folder, spec)
        print(f"{folder}: {'made anew, ' if done else ''}of layout {caches.LAYOUT}")


@cache.command()
def seal(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="The study's, as JSON.")],
    tables: Annotated[Path, typer.Option(help="Folder of the study's tables.")],
    log: Annotated[Path | None, typer.Option(help="Gets all output.")] = None,
) -> None:
    """Writes layout.json for tables that were just made: their hashes, and what made them."""
    with session(log):
        told = json.loads(spec)
        caches.write_layout(tables, told["study"], told)
