"""Sharing a machine's GPUs among steps that know nothing of each other.

A step holds a lock on a file for each GPU that it computes on, as long as it runs. The kernel lets
go of the locks of a process that ends, however it ends. Light: no torch here, for a process must
know its GPUs before torch is imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import digest

VISIBLE = "CUDA_VISIBLE_DEVICES"
COUNT = "SIGHT_GPUS"
"""Variable with the number of this machine's GPUs, where they can't be counted in /dev."""
_PAUSE = 0.5
"""Seconds from one look at GPUs that are in use to the next."""


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        UserError: SIGHT_GPUS isn't a number.
    """
    count = _count()
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return [str(number) for number in range(count)]
    out: list[str] = []
    for name in map(str.strip, visible.split(",")) if count else ():
        # As CUDA does it: what comes after a name that is none isn't visible.
        if not name or name.startswith("-") or (name.isdecimal() and int(name) >= count):
            break
        out.append(name)
    return list(dict.fromkeys(out))


def _count() -> int:
    told = os.environ.get(COUNT)
    if told is None:
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    if not told.isdecimal():
        raise UserError(f"{COUNT}: found {told!r}; give the number of this machine's GPUs")
    return int(told)


@contextlib.contextmanager
def leased(count: int, processes: int = 1) -> Iterator[None]:
    """Waits until `count` GPUs are free, and makes them the only visible ones.

    Whoever came first gets GPUs first, and nobody holds some while waiting for more. Nothing is
    leased on a machine without GPUs, inside a SLURM job (its GPUs are its own), and in a process
    that a launcher started (the launcher saw to it).

    Args:
        count: GPUs to compute on; 0 leaves everything as it is.
        processes: of the step, which need a GPU each.

    Raises:
        UserError: there aren't so many.
    """
    found = devices() if count and not {"SLURM_JOB_ID", "RANK"} & os.environ.keys() else []
    if not found:
        yield
        return
    if max(count, processes) > min(count, len(found)):
        raise UserError(
            f"GPUs: {max(count, processes)} are needed at once, one a process, and there are"
            f" {min(count, len(found))} to use ({VISIBLE} may hide some, and Snakemake's total of"
            " `gpu` too); lower `processes` in the study, or use a larger machine"
        )
    before = os.environ.get(VISIBLE)
    with contextlib.ExitStack() as held:
        os.environ[VISIBLE] = ",".join(_take(found, count, held))
        try:
            yield
        finally:
            os.environ.pop(VISIBLE)
            if before is not None:
                os.environ[VISIBLE] = before


def _take(found: list[str], count: int, held: contextlib.ExitStack) -> list[str]:
    """Locks `count` of the GPUs, all or none, until `held` is closed; returns their names."""
    folder = _folder()
    waiting = f"waiting for {count} of this machine's GPUs ({', '.join(found)})"
    # Those who choose among the same GPUs wait in a row, so that who needs several isn't passed by
    # all who need one.
    turn = _lock(folder / f"turn-{digest(found)}")
    if turn is None:
        print(waiting, file=sys.stderr, flush=True)
        turn = _lock(folder / f"turn-{digest(found)}", wait=True)
        waiting = ""
    try:
        while True:
            with contextlib.ExitStack() as taken:
                mine = []
                for name in found:
                    handle = _lock(folder / f"gpu-{name.replace('/', '_')}")
                    if handle is not None:
                        taken.callback(os.close, handle)
                        mine.append(name)
                    if len(mine) == count:
                        held.push(taken.pop_all())
                        return mine
            if waiting:
                print(waiting, file=sys.stderr, flush=True)
                waiting = ""
            time.sleep(_PAUSE)
    finally:
        os.close(turn)


def _folder() -> Path:
    """The folder of the locks, on this machine's own disk and open to all of its users."""
    folder = Path(tempfile.gettempdir()) / "sight-gpus"
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)
    return folder


def _lock(path: Path, wait: bool = False) -> int | None:
    """A handle that holds the lock until it is closed; None if another process has it."""
    # Without O_CREAT first: Linux refuses it for another user's file in a folder open to all.
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
