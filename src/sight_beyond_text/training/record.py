"""What a completion record says of the machine and the software."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import resource
import sys
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "sight-beyond-text")


def versions() -> dict[str, str]:
    """Versions of the packages that weights hang on."""
    return {name: version(name) for name in _PACKAGES}


def hardware() -> dict:
    """Machine, cores, threads, GPU."""
    found = {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def peak_memory() -> int:
    """Peak memory of this process, in MiB: the GPU's where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    return peak_resident() // 2**20


def peak_resident() -> int:
    """Peak of this process' resident memory, in bytes."""
    # Linux's ru_maxrss also counts the process that started this one, up to the moment it did.
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def parameters(model: torch.nn.Module) -> int:
    """Parameters of a model; those packed in 4 bits are counted as they were."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += math.prod(state.shape) if state is not None else parameter.numel()
    return total
