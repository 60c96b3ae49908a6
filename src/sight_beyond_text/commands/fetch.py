"""`sight fetch`: brings what a study needs from elsewhere, once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sight_beyond_text.errors import UserError
from sight_beyond_text.session import session

MANIFEST = Path("resources/manifest.json")


def fetch(
    study: Annotated[Path, typer.Argument(help="A study file.")] = Path("config.yaml"),
    only: Annotated[
        list[str] | None, typer.Option(help="A resource or model by name; may be repeated.")
    ] = None,
    spec: Annotated[str | None, typer.Option(help="One resource, as JSON (workflows).")] = None,
    log: Annotated[Path | None, typer.Option(help="Gets all output; errors are shown too.")] = None,
) -> None:
    """Fetches data sets and models: resumed where cut off, checked, recorded in a manifest."""
    from sight_beyond_text import grid
    from sight_beyond_text.resources.fetch import fetch as bring
    from sight_beyond_text.resources.fetch import parse, told
    from sight_beyond_text.study import read

    # The workflow keeps all its jobs off the hub but this one.
    os.environ["HF_HUB_OFFLINE"] = "0"
    with session(log):
        wanted = [parse(spec)] if spec is not None else grid.resource_specs(read(study))
        known = [resource["name"] for resource in wanted]
        for name in only or ():
            if name not in known:
                raise UserError(f"{study}: no resource {name!r}; there are: {', '.join(known)}")
        lines = []
        for resource in wanted:
            if only and resource["name"] not in only:
                continue
            try:
                print(told(bring(resource, resource["record"], MANIFEST)))
            except UserError as error:
                lines.append(f"{resource['name']}: {error}")
        if lines:
            raise UserError("\n".join(lines))
