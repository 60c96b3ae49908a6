"""What is cut from the left of requests that are too long for a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lm_eval.models.utils import normalize_gen_kwargs

Tokenized = tuple[tuple[str, str] | None, Sequence[int], Sequence[int]]
"""A request as lm-eval hands it on: its arguments, the context's tokens, the continuation's."""


def cut_of_choices(requests: Iterable[Tokenized], room: int) -> dict[tuple, int]:
    """Tokens that are cut, by the arguments of the requests where something is.

    Args:
        requests: of log-likelihoods.
        room: tokens that context and continuation may have together.
    """
    return {
        arguments: len(context) + len(continuation) - room
        for arguments, context, continuation in requests
        if arguments is not None and len(context) + len(continuation) > room
    }


def cut_of_prompts(
    prompts: Iterable[tuple[str, dict]],
    encode: Callable[[str], Sequence[int]],
    positions: int,
    limit: int,
) -> dict[tuple, int]:
    """Tokens that are cut, by the prompts where something is.

    Args:
        prompts: arguments of requests for texts.
        encode: gives a prompt's tokens.
        positions: of the model.
        limit: new tokens where a request doesn't say.
    """
    cut = {}
    for prompt, settings in prompts:
        room = positions - normalize_gen_kwargs(settings, limit)["max_gen_toks"]
        if (more := len(encode(prompt)) - room) > 0:
            cut[(prompt,)] = more
    return cut
