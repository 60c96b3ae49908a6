"""What every step shares at the terminal: its log, its threads, errors in one line."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from sight_beyond_text.errors import UserError

LAUNCHER = "SIGHT_LAUNCHER"
"""Variable with the process that started the several processes of a step."""
TOLD = "SIGHT_TOLD"
"""Variable with the path of a file that the first of several processes to fail creates."""


@contextlib.contextmanager
def session(log: str | Path | None = None, threads: int | None = None) -> Iterator[None]:
    """Runs a step; all it prints goes to `log`, and errors to the terminal as well.

    Args:
        log: gets standard output and error, those of libraries in C too; None leaves them.
        threads: of numerical libraries.

    Raises:
        SystemExit: status 2 after a `UserError` (its message alone is shown), 1 after any other
            error (its kind and where its traceback lies).
    """
    if threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
            os.environ[name] = str(threads)
    terminal = _redirect(Path(log)) if log else None
    try:
        yield
    except UserError as error:
        _tell(f"{error}\n", terminal)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does; nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        if log:
            _print_traceback()
        what = error.strerror or error
        _tell(f"{error.filename or 'a file'}: {what}{_STORAGE.get(error.errno, '')}\n", terminal)
        raise SystemExit(2) from None
    except Exception as error:
        _print_traceback()
        where = f"; the traceback is in {log}" if log else ""
        disk = _of_the_disk(error)
        told = disk or f"unexpected {type(error).__name__}: {_first_line(error)}"
        _tell(f"{told}{where}\n", terminal)
        raise SystemExit(2 if disk else 1) from None


def from_source(folder: str | Path) -> str:
    """A prefix for shell commands that makes `sight` this source with the Python on PATH.

    Args:
        folder: the `src` folder.

    Returns:
        A bash text for Snakemake's `shell.prefix`, which takes doubled braces for single ones.
    """
    return (
        f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(folder))}; "
        'sight() {{ python -m sight_beyond_text.cli "$@"; }}; '
    )


def end_with(launcher: int) -> None:
    """Makes the kernel kill this process as soon as its launcher ends, however it ends (Linux).

    The processes of a step would otherwise compute on, unseen, beside those that go on with it.

    Args:
        launcher: the process that started this one.

    Raises:
        SystemExit: the launcher has ended already.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != launcher:
            raise SystemExit(1)


_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Looks for no garbage while libraries are imported, nor among what they made later.

    Imports make objects by the million, and they stay: it would take a sixth of a step's start, and
    a third of a second whenever memory is to be freed.
    """
    import gc

    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        gc.enable()


def prepare_torch(threads: int | None = None) -> None:
    """Sets torch's threads before it computes; makes imports quieter."""
    import logging
    import warnings

    if threads in (None, 1):
        # Else tokenizers share the work over the step's threads (RAYON_NUM_THREADS).
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", message=".*kernels.*")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import torch

    if threads:
        torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        # bitsandbytes loads a compiler as it is imported, which nothing uses on a CPU.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def _redirect(log: Path) -> int:
    """Sends descriptors 1 and 2 to the log; returns the terminal's standard error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(2)
    # Several processes of one step share its log; the first begins it.
    fresh = 0 if int(os.environ.get("RANK", 0)) else os.O_TRUNC
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | fresh, 0o666)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    return terminal


def _tell(text: str, terminal: int | None) -> None:
    if os.environ.get(TOLD):
        try:
            open(os.environ[TOLD], "x").close()
        except OSError:
            return
    lines = "".join(f"error: {line}\n" for line in text.splitlines() if line.strip())
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with contextlib.suppress(OSError):
        if bars is not None:
            bars.write(lines, file=sys.stderr, end="")  # on a line of its own, not after a bar
        else:
            sys.stderr.write(lines)
        sys.stderr.flush()
    if terminal is not None:
        os.write(terminal, lines.encode())


_AGAIN = "and type the same again"
_STORAGE = {
    errno.ENOSPC: f"; make room {_AGAIN}",
    errno.EDQUOT: f"; make room {_AGAIN}",
    errno.EFBIG: f"; raise the limit on the size of files (ulimit -f) {_AGAIN}",
    errno.EROFS: f"; make the disk writable {_AGAIN}",
    errno.EIO: f"; see to the disk {_AGAIN}",
}
"""What to do where a disk takes no more."""


def _of_the_disk(error: BaseException) -> str:
    """What to tell of an error with a disk behind it; empty for others.

    What writes in C++ or Rust (torch, safetensors) knows no errno: some tell the disk's error in
    words, some that their position in a file isn't what it should be.
    """
    seen: BaseException | None = error
    while seen is not None:
        for number, remedy in _STORAGE.items():
            if getattr(seen, "errno", None) == number or os.strerror(number) in str(seen):
                return f"a file can't be written: {os.strerror(number)}{remedy}"
        if "inline_container" in str(seen) and "unexpected pos" in str(seen):
            return (
                f"a file can't be written whole: full disk or limit (ulimit -f); mend it {_AGAIN}"
            )
        seen = seen.__cause__ or seen.__context__
    return ""


def _print_traceback() -> None:
    """Where the log's disk is full as well, the terminal's line has to do."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else ""
