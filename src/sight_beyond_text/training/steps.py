"""Which samples each optimizer step learns from, and how a step is split into passes.

A step's samples are the recipe's; how they are split changes only the order of sums. So the same
run may be computed in one pass a step or in many, by one process or by several.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

_MEGABATCH = 50


def plan_steps(
    lengths: Sequence[int], batch_size: int, epochs: float, seed: int, by_length: bool = False
) -> list[list[int]]:
    """Samples of every optimizer step of a training, in order.

    Args:
        lengths: positions of each sample.
        batch_size: samples a step; the last step of an epoch may have fewer.
        epochs: passes over the data; a fraction cuts the last one short.
        seed: of the order; each epoch has its own.
        by_length: whether steps gather samples of like length, as LLaVA's sampler does: within
            stretches of 50 steps samples are sorted by length, and the steps are then shuffled.

    Returns:
        Indices into `lengths`, a list a step.
    """
    an_epoch = math.ceil(len(lengths) / batch_size)
    steps: list[list[int]] = []
    for epoch in range(math.ceil(epochs)):
        chance = random.Random(f"{seed} order {epoch}")
        order = list(range(len(lengths)))
        chance.shuffle(order)
        if by_length:
            stretch = _MEGABATCH * batch_size
            order = [
                index
                for start in range(0, len(order), stretch)
                for index in sorted(order[start : start + stretch], key=lambda i: -lengths[i])
            ]
        cut = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if by_length:
            chance.shuffle(cut)
        steps += cut
    return steps[: math.ceil(an_epoch * epochs)]


def split_step(
    step: Sequence[int], lengths: Sequence[int], positions: int | None, processes: int = 1
) -> list[list[list[int]]]:
    """Splits a step's samples over processes, and each share into forward passes.

    Samples of like length go together, the longest first, so that little is padded and memory runs
    out, if at all, at once.

    Args:
        step: indices into `lengths`.
        lengths: positions of each sample.
        positions: limit of a pass, padding included; a longer sample gets a pass of its own. None:
            one pass.
        processes: how many share the step.

    Returns:
        For each process its passes, equally many for all; a pass may be empty.
    """
    ordered = sorted(step, key=lambda index: (-lengths[index], index))
    shares = [
        _passes(ordered[process::processes], lengths, positions) for process in range(processes)
    ]
    most = max(1, *(len(share) for share in shares))
    for share in shares:
        share += [[] for _ in range(most - len(share))]
    return shares


def _passes(
    ordered: Sequence[int], lengths: Sequence[int], positions: int | None
) -> list[list[int]]:
    passes: list[list[int]] = []
    for index in ordered:
        # The first of a pass is its longest, so it alone tells how wide the pass is.
        wide = lengths[passes[-1][0]] if passes else 0
        if passes and (positions is None or wide * (len(passes[-1]) + 1) <= positions):
            passes[-1].append(index)
        else:
            passes.append([index])
    return passes
