"""`sight import`: a published LLaVA-style checkpoint in this project's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sight_beyond_text.errors import UserError


def import_checkpoint(
    source: Annotated[
        str | None, typer.Argument(help="A folder, a mm_projector.bin, or a hub id.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make.")] = None,
    base: Annotated[
        str | None, typer.Option(help="The base it was trained from: hub id or folder.")
    ] = None,
    tower: Annotated[
        str | None, typer.Option(help="Its vision tower; what its config.json names by default.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the source, on the hub.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="Of the base, on the hub.")] = None,
    template: Annotated[
        str | None, typer.Option(help="The prompt template it was trained with: v0, v1, ...")
    ] = None,
    spec: Annotated[
        str | None, typer.Option(help="All of that of a reference, as JSON (workflows).")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Completion record, written last (workflows).")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Gets all output; errors are shown too.")] = None,
) -> None:
    """Turns a LLaVA-style checkpoint into one that a study's reference can name."""
    from sight_beyond_text.data.templates import TEMPLATES
    from sight_beyond_text.session import prepare_torch, session

    with session(log):
        if template is not None and template not in TEMPLATES:
            raise UserError(f"--template: no {template!r}; there are: {', '.join(TEMPLATES)}")
        if spec is None:
            given = {"SOURCE": source, "--out": out, "--base": base}
            missing = [name for name, value in given.items() if value is None]
            if missing:
                raise UserError(f"{missing[0]}: needed to import a checkpoint; see --help")
        elif record is None:
            raise UserError("--record: needed with --spec")
        prepare_torch()
        if spec is not None:
            from sight_beyond_text.models.released import import_released

            asked = json.loads(spec)
            made = import_released(asked, record)
            out, source = asked["folder"], asked["source"]
        else:
            from sight_beyond_text.models import published

            on = {"model": base, "revision": base_revision, "remote_code": False}
            made = published.import_checkpoint(source, out, on, tower, revision, template)
        recipe = made["recipe"]
        print(f"{out}: {recipe['mode']} (projector {recipe['tower']['projector']}), from {source}")
        for note in made["imported"]["notes"]:
            print(f"note: {note}")
        if spec is None:
            print(f"name it in a study: references: {{...: {{model: {base}, checkpoint: {out}}}}}")
