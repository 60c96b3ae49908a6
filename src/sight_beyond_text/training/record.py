"""What a completion record says of the machine and the software."""

from __future__ import annotations

import math
import os
import platform
import resource
from importlib.metadata import version

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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def parameters(model: torch.nn.Module) -> int:
    """Parameters of a model; those packed in 4 bits are counted as they were."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += math.prod(state.shape) if state is not None else parameter.numel()
    return total
