"""`sight import`: a published LLaVA-style checkpoint in this project's form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_checkpoint(
    source: Annotated[str, typer.Argument(help="A folder, a mm_projector.bin, or a hub id.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    base: Annotated[str, typer.Option(help="The base it was trained from: hub id or folder.")],
    tower: Annotated[
        str | None, typer.Option(help="Its vision tower; what its config.json names by default.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the source, on the hub.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="Of the base, on the hub.")] = None,
    template: Annotated[
        str | None, typer.Option(help="The prompt template it was trained with: v0, v1, ...")
    ] = None,
) -> None:
    """Turns a LLaVA-style checkpoint into one that a study's reference can name."""
    from sight_beyond_text.data.templates import TEMPLATES
    from sight_beyond_text.errors import UserError
    from sight_beyond_text.session import prepare_torch, session

    with session():
        if template is not None and template not in TEMPLATES:
            raise UserError(f"--template: no {template!r}; there are: {', '.join(TEMPLATES)}")
        prepare_torch()
        from sight_beyond_text.models import published

        record = published.import_checkpoint(
            source,
            out,
            {"model": base, "revision": base_revision, "remote_code": False},
            tower,
            revision,
            template,
        )
        recipe = record["recipe"]
        print(f"{out}: {recipe['mode']} (projector {recipe['tower']['projector']}), from {source}")
        for note in record["imported"]["notes"]:
            print(f"note: {note}")
        print(f"name it in a study: references: {{...: {{model: {base}, checkpoint: {out}}}}}")
