"""`sight slurm`: snakemake under the SLURM profile, with somebody who watches it."""

from __future__ import annotations

from typing import Annotated

import typer

from sight_beyond_text.session import session
from sight_beyond_text.slurm import PATIENCE, keep_going

HANDED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def slurm(
    context: typer.Context,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds with nothing in the queue until it starts anew.")
    ] = PATIENCE,
) -> None:
    """Runs snakemake under the SLURM profile, with all other arguments, and watches it.

    It is started again when it was killed or waits in vain, as after the controller was away for
    too long; jobs that a killed one left in the queue are cancelled first.
    """
    with session():
        raise SystemExit(keep_going(context.args, patience))
