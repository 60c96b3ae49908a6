"""Runs `sight`, and counts how long its process really computes.

    COMPUTE_COUNTS=FOLDER python benchmarks/compute_counter.py tune ...

What counts is forward passes of modules, backward passes and steps of optimizers, in CPU seconds of
all threads. A file in FOLDER tells of each process: `{command, useful, cpu, seconds}`.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Counter:
    """Adds up the CPU time of what it wraps; what is called within that isn't counted twice.

    Attributes:
        seconds: so far.
    """

    def __init__(self):
        self.seconds, self._depth, self._begun = 0.0, 0, 0.0

    def wrapped(self, function: Callable) -> Callable:
        """The function, counted."""

        @functools.wraps(function)
        def counted(*args, **kwargs):
            if self._depth:
                return function(*args, **kwargs)
            self.begin()
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return counted

    def begin(self, *_) -> None:
        """Something that counts begins."""
        if not self._depth:
            self._begun = time.process_time()
        self._depth += 1

    def end(self, *_) -> None:
        """It ends."""
        self._depth -= 1
        if not self._depth:
            self.seconds += time.process_time() - self._begun


def count_in(torch, counter: Counter) -> None:
    """Makes a torch that was just imported count."""
    torch.nn.Module.__call__ = counter.wrapped(torch.nn.Module.__call__)
    torch.autograd.backward = counter.wrapped(torch.autograd.backward)
    torch.Tensor.backward = counter.wrapped(torch.Tensor.backward)
    optimizer = importlib.import_module("torch.optim.optimizer")
    optimizer.register_optimizer_step_pre_hook(counter.begin)
    optimizer.register_optimizer_step_post_hook(counter.end)


class AfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Calls a function with torch once it is imported, if it ever is: that takes seconds."""

    def __init__(self, then: Callable):
        self.then = then

    def find_spec(self, name, path=None, target=None):
        """That of torch, with this as its loader."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        """As torch's own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module) -> None:
        """As torch's own loader does, and then calls the function."""
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.then(module)


def main() -> None:
    """Runs `sight` with the arguments that were given."""
    counter, begun = Counter(), time.perf_counter()
    command = sys.argv[1:3] if sys.argv[1] in ("micro", "cache") else sys.argv[1:2]

    def tell() -> None:
        told = {
            "command": " ".join(command),
            "useful": counter.seconds,
            "cpu": sum(os.times()[:4]),
            "seconds": time.perf_counter() - begun,
        }
        path = Path(os.environ["COMPUTE_COUNTS"]) / f"{os.getpid()}-{time.time_ns()}.json"
        path.write_text(json.dumps(told))

    atexit.register(tell)
    sys.meta_path.insert(0, AfterImport(lambda torch: count_in(torch, counter)))
    from sight_beyond_text.cli import main as sight

    sys.argv[0] = "sight"
    sight()


if __name__ == "__main__":
    main()
