"""How much memory a training can have on this machine, and what is expected to fit in it."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sight_beyond_text.errors import UserError
from sight_beyond_text.memory import job_of, positions_that_fit
from sight_beyond_text.shapes import model_shape, tower_shape


def memory_at_hand(model: nn.Module) -> int | None:
    """Bytes that a training can have: what is free, and what its model holds already.

    On a GPU, of the device; else of the main memory, within the limit that was set on the process'
    addresses (`ulimit -v`). None where the system doesn't tell.
    """
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        free = 1024 * int(re.search(r"^MemAvailable:\s+(\d+) kB", told, re.MULTILINE)[1])
    except (OSError, TypeError):
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, max(0, limit - taken * resource.getpagesize()))
    return free + sum(p.numel() * p.element_size() for p in model.parameters())


def expected_to_fit(
    room: int | None, model, spec: dict, longest: int, with_images: bool
) -> str | None:
    """What `sight plan` expects to fit in some room, in words; None where that can't be foretold.

    Args:
        room: bytes that a training can have (`memory_at_hand`).
        model: the assembled `LlavaForConditionalGeneration`.
        spec: of the alignment or run.
        longest: positions of the longest sample.
        with_images: whether the run has images.
    """
    try:
        shape = model_shape(model.config.text_config.to_dict())
        tower = tower_shape(model.config.vision_config.to_dict())
    except UserError:
        return None
    if room is None:
        return None
    job = replace(job_of(spec, gpu=torch.cuda.is_available()), with_images=with_images)
    positions = positions_that_fit(room, shape, tower, job, True, longest)
    most = f"at most {positions:,} positions" if positions else "not even one position"
    verb = "are" if positions else "is"
    gib = room / 2**30
    digits = 1 if gib >= 1 else 2
    return (
        f"{most} a pass {verb} expected to fit in {gib:.{digits}f} GiB with gradient"
        " checkpointing (`sight plan`)"
    )
