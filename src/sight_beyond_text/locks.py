"""Locks on what several people make in one place: one process a folder, and others wait.

The kernel lets go of the lock of a process that ends, however it ends. Light: no torch here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sight_beyond_text.errors import UserError

NAME = ".lock"
"""The file in a folder that its lock is held on; it stays there."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""No matter of rights: whoever calls tells of these."""


@contextlib.contextmanager
def held(folders: Iterable[str | Path]) -> Iterator[None]:
    """Waits until no other process holds any of the folders, and holds them meanwhile.

    All processes take them in the same order, so that none waits for one that waits for it. On a
    file system without locks a line says so, and nothing is held.

    Args:
        folders: they are made where they aren't there.

    Raises:
        UserError: a folder or its lock can't be opened for writing.
        OSError: the disk is full or read-only.
    """
    with contextlib.ExitStack() as opened:
        for folder in sorted({Path(folder) for folder in folders}):
            handle = _take(folder / NAME)
            if handle is not None:
                opened.callback(os.close, handle)
        yield


def is_held(folder: str | Path) -> bool:
    """Whether a living process holds the folder, or it can't be told."""
    with try_held(folder) as mine:
        return not mine


@contextlib.contextmanager
def try_held(folder: str | Path, create: bool = False) -> Iterator[bool]:
    """Holds a folder if nobody else does; says whether it is held.

    Args:
        folder: it is there.
        create: make the lock's file where there is none; else such a folder counts as held.
    """
    path = Path(folder) / NAME
    try:
        handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
    except FileNotFoundError:
        yield True
        return
    except OSError:
        yield False
        return
    try:
        yield _locked(handle, path, wait=False) is True
    finally:
        os.close(handle)


def join(folder: str | Path, clear: bool = True) -> None:
    """Counts this process among the living Snakemakes of a directory, until it ends.

    Snakemake's own locks are files, which outlive it. The kernel's, which all of them share, tells
    whether one is alive; where none is, what the dead left is removed.

    Args:
        folder: where Snakemake keeps its state, `.snakemake`.
        clear: whether to remove locks of the dead.
    """
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
        # Stays open, and with it the lock, for as long as this process lives.
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        if clear and _locked(handle, folder / NAME, wait=False):
            stale = list((folder / "locks").glob("*.lock"))
            for path in stale:
                path.unlink(missing_ok=True)
            if stale:
                print("A Snakemake that worked here was killed; going on in its place.",
                      file=sys.stderr)  # fmt: skip
        fcntl.flock(handle, fcntl.LOCK_SH)
    except (OSError, UserError):
        # Without rights to write or without locks, Snakemake's own do what they can.
        return


def _take(path: Path) -> int | None:
    """A handle that holds a lock until it is closed; None where the file system has none."""
    waiting = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the folder was removed in between
        except OSError as error:
            if error.errno in _DISK:
                raise
            raise UserError(
                f"{path}: {error.strerror}; several people need the rights to write there: see"
                " 'One place for several people' in docs/cluster.md"
            ) from None
        taken = _locked(handle, path, wait=waiting)
        if taken is None:
            print(f"{path}: this file system has no locks; nothing else may write there now",
                  file=sys.stderr, flush=True)  # fmt: skip
            os.close(handle)
            return None
        # Whoever removes a folder does it under its lock; who waited for that holds nothing.
        if taken and _is_still(handle, path):
            _say_who(handle)
            return handle
        if not taken:
            who = os.pread(handle, 200, 0).decode(errors="replace").strip()
            told = f" ({who})" if who else ""
            print(f"{path.parent}: waiting for another process that makes it{told}",
                  file=sys.stderr, flush=True)  # fmt: skip
            waiting = True
        os.close(handle)


def _locked(handle: int, path: Path, wait: bool) -> bool | None:
    """Whether the lock is ours now; None where there are none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise UserError(f"{path}: can't be locked: {error.strerror}") from None
    return True


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _say_who(handle: int) -> None:
    """Notes the holder, for the message of those who wait."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{user}, process {os.getpid()} on {platform.node()}\n".encode(), 0)
