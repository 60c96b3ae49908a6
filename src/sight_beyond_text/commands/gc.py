"""`sight gc`: lists, and removes, what no study refers to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sight_beyond_text.errors import UserError
from sight_beyond_text.session import session


def gc(
    study: Annotated[
        list[Path] | None,
        typer.Option(
            help="A study whose runs and caches are kept; may be repeated.",
            show_default="config.yaml",
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    resources: Annotated[Path, typer.Option(help="Folder of resources.")] = Path("resources"),
    downloads: Annotated[
        bool, typer.Option("--downloads", help="What was fetched too, not only what was made.")
    ] = False,
    days: Annotated[
        float, typer.Option(min=0, help="Only what didn't change for so many days.")
    ] = 0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what is listed; without it nothing changes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists what lies in results/ and resources/ and is no study's; removes it with --delete."""
    import datetime

    from sight_beyond_text.garbage import find, remove
    from sight_beyond_text.study import read

    with session():
        if delete and not study:
            raise UserError("--delete: needs --study for every study whose runs are to be kept")
        files = study or [Path("config.yaml")]
        found = find({str(file): read(file) for file in files}, results, resources)
        before = datetime.datetime.now() - datetime.timedelta(days=days)
        found = [
            row
            for row in found
            if (downloads or row["kind"] != "download")
            and datetime.datetime.fromisoformat(row["changed"]) <= before
        ]
        if delete:
            found = remove(found)
        if as_json:
            kept = list(map(str, files))
            print(json.dumps({"studies": kept, "deleted": delete, "found": found}, indent=1))
        else:
            print(as_table(found, [str(file) for file in files], delete))
        failed = [row for row in found if delete and not row["removed"] and not row["locked"]]
        if failed:
            raise UserError("\n".join(f"{row['path']}: {row['why']}" for row in failed))


def as_table(found: list[dict], files: list[str], delete: bool) -> str:
    """What was found, for a terminal."""
    lines = []
    for row in found:
        state = "in use" if row["locked"] else ""
        if delete and not state:
            state = "removed" if row["removed"] else "kept"
        size = f"{row['bytes'] / 2**20:,.1f} MiB"
        lines.append(
            f"{row['kind']:12}  {row['changed']}  {size:>14}  {state:7}  {row['path']}".rstrip()
        )
    gone = [row for row in found if (row.get("removed") if delete else not row["locked"])]
    whole = f"{sum(row['bytes'] for row in gone) / 2**20:,.1f} MiB in {len(gone)} folders"
    named = ", ".join(files)
    if not found:
        lines.append(f"Nothing is there that {named} doesn't refer to")
    elif delete:
        lines.append(f"Removed: {whole}; kept is what {named} refers to")
    else:
        lines.append(f"No part of {named}: {whole}; --delete removes them, nothing was changed")
    return "\n".join(lines)
