"""`sight check-data`, `sight card`, `sight leaks`: what is in the data, before any training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sight_beyond_text.errors import UserError
from sight_beyond_text.session import session

Layout = Annotated[
    Literal["llava", "alpaca", "sharegpt"] | None,
    typer.Option(help="Layout of the file; ShareGPT's must be named."),
]
StudyFile = Annotated[Path, typer.Argument(help="A study file.")]


def check_data(
    file: Annotated[Path, typer.Argument(help="Instructions: JSON or JSON lines.")],
    images: Annotated[Path | None, typer.Option(help="Folder of their images.")] = None,
    layout: Layout = None,
    decode: Annotated[bool, typer.Option(help="Read each image to its last pixel.")] = False,
) -> None:
    """Checks instructions and their images: schema, roles, marks, doubles, lengths."""
    from sight_beyond_text.data.checks import check_file

    with session():
        found = check_file(file, images, layout, decode)
        print(*found.told(file, images), sep="\n")
        if found.problems:
            raise UserError("\n".join(found.lines(file)))


def card(
    study: StudyFile = Path("config.yaml"),
    out: Annotated[Path, typer.Option(help="Folder for the cards.")] = Path("results/cards"),
) -> None:
    """Writes a data card of each source: JSON, Markdown, and a page with pictures."""
    from sight_beyond_text import grid
    from sight_beyond_text.data.card import make_card, write_card
    from sight_beyond_text.data.prepare import load_rows
    from sight_beyond_text.study import read

    with session():
        read_study = read(study)
        seen: set[str] = set()
        for cell in read_study.cells()[0]:
            if cell.source in seen:
                continue
            seen.add(cell.source)
            spec = grid.run_spec(read_study, cell)
            data = spec["data"]
            told = {"study": read_study.name, "form": spec["source"]["form"]}
            told |= {"instructions": data["instructions"]}
            if spec["source"]["form"] == "caption":
                told |= {"captions": data["captions"]}
            made = make_card(cell.source, load_rows(spec), told)
            paths = write_card(made, out, data["images"])
            print(f"{cell.source}: {made['samples']:,} samples: {', '.join(map(str, paths))}")


def leaks(
    study: StudyFile = Path("config.yaml"),
    out: Annotated[Path | None, typer.Option(help="JSON file with all that was found.")] = None,
    spec: Annotated[
        str | None, typer.Option(help="What to compare, as JSON; - reads it (workflows).")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Gets all output.")] = None,
) -> None:
    """Looks for photos and questions of the evaluation in what a study learns from."""
    from sight_beyond_text import grid
    from sight_beyond_text.data.leakage import as_table, find_leaks
    from sight_beyond_text.files import write_json
    from sight_beyond_text.study import read

    with session(log):
        if spec == "-":
            spec = sys.stdin.read()
        asked = json.loads(spec) if spec is not None else grid.leaks_spec(read(study))
        found = find_leaks(asked["learned_from"], asked["text"], asked["image"])
        print(as_table(found))
        if out is not None:
            write_json(out, found)
