"""`sight chat`: a conversation with a run in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def chat(
    run: Annotated[
        str, typer.Option(help="A run's id or folder, or a base or reference of the study.")
    ],
    study: Annotated[
        Path | None, typer.Option(help="The study; config.yaml where it is there.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="An image to talk about.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Answer this once, and leave.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Limit of an answer.")] = 256,
    threads: Annotated[int | None, typer.Option(help="Threads of numerical libraries.")] = None,
) -> None:
    """Talks with a run; its prompts and answers are made as in the evaluation."""
    from sight_beyond_text.session import importing, prepare_torch, session

    with session(threads=threads):
        from sight_beyond_text import runs

        if study is None and Path("config.yaml").is_file():
            study = Path("config.yaml")
        subject = runs.find(run, study)
        with importing():
            prepare_torch(threads)
            from transformers.utils import logging

            from sight_beyond_text.chat import Conversation, converse

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        conversation = Conversation(subject, image, max_new_tokens)
        if prompt is not None:
            print(conversation.answer(prompt))
        else:
            converse(conversation)
