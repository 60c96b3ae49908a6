"""`sight lm-eval`: lm-eval's own command line, with our model `sight` among its models."""

from __future__ import annotations

import sys

import typer

from sight_beyond_text.session import importing, prepare_torch, session

HANDED_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    # Its own help is wanted, not ours.
    "help_option_names": [],
}


def lm_eval(context: typer.Context) -> None:
    """Hands all arguments on to lm-eval, whose `--model sight` shares what requests begin with."""
    with session():
        with importing():
            prepare_torch()
            from lm_eval.__main__ import cli_evaluate

            from sight_beyond_text.evaluation import engine  # noqa: F401 (registers the model)
        from sight_beyond_text.evaluation.text_tasks import offline_metrics

        sys.argv = ["sight lm-eval", *context.args]
        with offline_metrics():
            cli_evaluate()
