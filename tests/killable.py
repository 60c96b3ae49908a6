"""Trainings in processes of their own, so that they can be killed."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

# Children fork from a server that has the libraries, so that each costs little more than its steps.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sight_beyond_text.training.train"])


def _train(spec: dict, record: str, before: str | None) -> None:
    import torch

    from sight_beyond_text.training import train as training

    torch.set_num_threads(1)
    if before is not None:
        setattr(training, before, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    training.train(spec, record)


def run(
    spec: dict,
    record: Path,
    stop: Callable[[float], bool] | None = None,
    before: str | None = None,
) -> int:
    """Trains in a child; kills it with SIGKILL as soon as `stop(seconds)` is true.

    Args:
        before: a function of `training.train`; the child kills itself where it would be called.

    Returns:
        The child's exit status; -9 if it was killed.
    """
    child = CONTEXT.Process(target=_train, args=(spec, str(record), before))
    child.start()
    started = time.monotonic()
    while child.is_alive():
        if stop is not None and stop(time.monotonic() - started):
            child.kill()
        time.sleep(0.002)
    child.join()
    return child.exitcode


def at_step(folder: Path, step: int) -> Callable[[float], bool]:
    """Stop once a resume point of this step or a later one is there, or is being written."""

    def stop(_: float) -> bool:
        return any(int(path.name.split("-")[1]) >= step for path in folder.glob("checkpoint-*"))

    return stop


def while_saving(folder: Path, seed: int) -> Callable[[float], bool]:
    """Stop while a resume point is being written: some files are there, its record isn't."""
    wanted = random.Random(seed).randint(2, 4)
    seen: set[Path] = set()

    def stop(_: float) -> bool:
        for point in folder.glob("checkpoint-*"):
            if not (point / "resume.json").exists():
                seen.add(point)
                return len(seen) >= wanted
        return False

    return stop
