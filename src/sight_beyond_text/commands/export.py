"""`sight export`: a run as a folder that plain transformers or peft opens."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Part(StrEnum):
    """What of a run to export."""

    whole = "whole"
    language = "language"


class Adapter(StrEnum):
    """What becomes of an adapter."""

    merged = "merged"
    kept = "kept"


class Precision(StrEnum):
    """Precision of the weights."""

    fp32 = "fp32"
    bf16 = "bf16"


def export(
    run: Annotated[str, typer.Argument(metavar="RUN_FOLDER", help="A run's folder, or its id.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    part: Annotated[
        Part, typer.Option(help="The whole model, or its language model alone.")
    ] = Part.whole,
    adapter: Annotated[
        Adapter | None, typer.Option(help="Merge the adapter (the default), or keep it apart.")
    ] = None,
    dtype: Annotated[
        Precision | None, typer.Option(help="Precision of the weights; the run's by default.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="A study that says where the base and the tower lie.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to the hub, in private.")
    ] = None,
) -> None:
    """Writes a run as a folder for plain transformers or peft, with a model card."""
    from sight_beyond_text.session import importing, prepare_torch, session

    with session():
        from sight_beyond_text import runs

        subject = runs.find(run, study)
        with importing():
            prepare_torch()
            from sight_beyond_text.models import export as exporting

        made = exporting.export(
            subject,
            out,
            part.value,
            adapter.value if adapter else None,
            dtype.value if dtype else None,
        )
        told = ", ".join(filter(None, (made["part"], made["adapter"], made["precision"])))
        print(f"{out}: {subject['id']} ({told}); README.md says how to open it")
        if made["difference"] is not None:
            print(f"against the adapter, {made['difference']}")
        if made["cap"] is not None:
            print(f"its logits aren't capped at {made['cap']} as the base's are; see README.md")
        if push is not None:
            print(f"uploaded to {exporting.push(out, push)}")
