"""Keeping a workflow going under SLURM, whatever happens to it, its jobs or the controller.

Snakemake's SLURM plugin (2.8) forgets its jobs when the controller is away for too long and waits
for ever, and a Snakemake that was killed leaves jobs that nobody waits for. So somebody watches:
starts Snakemake, looks at the queue beside it, and starts it again where it can't go on. Light: no
torch and no Snakemake here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import digest
from sight_beyond_text.session import end_with

PROFILE = "workflow/profiles/slurm"
PATIENCE = 600
"""Seconds without a job in the queue. The plugin looks at its jobs every three minutes at the
latest, and waits for files to show themselves after that."""
_PAUSE = 5
"""Seconds from one look at the queue to the next."""
_LEAVE = 60
"""Seconds that Snakemake has to end by itself once it is interrupted."""
_FRUITLESS = 3
"""Starts in a row that bring no job into the queue, after which it is given up."""
_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MARK = Path(".snakemake") / "sight-slurm"
"""Locked while somebody watches; not empty while Snakemake runs."""


@dataclass
class Ending:
    """How one Snakemake ended: its status, and what was seen meanwhile."""

    status: int
    stalled: bool = False
    """It was interrupted, for it waited with nothing in the queue."""
    asked: bool = False
    """The user ended it."""
    away: bool = False
    """The controller didn't answer for a while."""
    fruitful: bool = False
    """Jobs of it were in the queue."""


def keep_going(arguments: Sequence[str], patience: float = PATIENCE) -> int:
    """Runs snakemake in this folder under the SLURM profile, again and again where it must be.

    It is started again when it was killed, when it waits with nothing in the queue, and when it
    ended with an error while the controller was away. Jobs that a killed one left are cancelled
    first, so that none has a twin; a training goes on from its last resume point.

    Args:
        arguments: for snakemake; `--workflow-profile` replaces the repository's own profile.
        patience: seconds without a job in the queue until Snakemake is taken to wait in vain.

    Returns:
        Snakemake's status.

    Raises:
        UserError: somebody else does so in this folder, or there is no SLURM here.
    """
    if shutil.which("squeue") is None:
        raise UserError("squeue: no such program; run this where SLURM's are")
    prefix = f"sight-{digest(str(Path.cwd()))}"
    command = [sys.executable, "-m", "snakemake", *arguments]
    if not any(word.split("=")[0] == "--workflow-profile" for word in arguments):
        command += ["--workflow-profile", PROFILE]
    command += ["--slurm-jobname-prefix", prefix]
    fruitless = 0
    with _alone() as mark:
        while True:
            if os.fstat(mark).st_size:
                _cancel(prefix, patience)
                _tell("unlocking the folder after a Snakemake that was killed")
                subprocess.run([*command, "--unlock"], check=False)
            os.pwrite(mark, b"running\n", 0)
            end = _watched(command, prefix, patience, mark)
            if end.status >= 0:
                os.ftruncate(mark, 0)
            if end.asked or end.status == 0 and not end.stalled:
                return end.status
            if not (end.stalled or end.away or end.status < 0):
                return end.status
            fruitless = 0 if end.fruitful else fruitless + 1
            if fruitless == _FRUITLESS:
                _tell(f"{fruitless} starts brought no job into the queue; giving up")
                return max(end.status, 1)
            _tell(f"{_reason(end, patience)}; starting Snakemake again")


def _reason(end: Ending, patience: float) -> str:
    if end.stalled:
        return f"Snakemake waited with nothing in the queue for {patience:g} s"
    if end.status < 0:
        return f"Snakemake was ended by {signal.Signals(-end.status).name}"
    return "Snakemake ended with an error while the controller was away"


def _watched(command: list[str], prefix: str, patience: float, mark: int) -> Ending:
    """Runs one Snakemake to its end, or until it waits with nothing in the queue."""
    me = os.getpid()
    # A process group of its own: Ctrl-C reaches it through us alone, and once. It has the lock as
    # well, and ends with us.
    running = subprocess.Popen(
        command, process_group=0, pass_fds=(mark,), preexec_fn=lambda: _begin(me)
    )
    end = Ending(0)

    def hand_on(number: int, _) -> None:
        end.asked = True
        _signal(running, number)

    before = {number: signal.signal(number, hand_on) for number in _HANDED_ON}
    try:
        seen = time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                end.status = running.wait(_PAUSE)
                return end
            jobs = live_jobs(prefix)
            end.away |= jobs is None
            end.fruitful |= bool(jobs)
            if jobs is None or jobs:
                seen = time.monotonic()
            elif time.monotonic() - seen > patience and not end.asked:
                end.stalled = True
                end.status = _end(running)
                return end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if running.poll() is None:
            _end(running)


def _begin(parent: int) -> None:
    """Between fork and exec: Snakemake ends with us, and can be interrupted."""
    end_with(parent)
    # Where a script started us in the background, the signal is ignored, and so it would be there.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _signal(running: subprocess.Popen, number: int) -> None:
    """As a terminal does it, Ctrl-C goes to what Snakemake started, too."""
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGINT:
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)


def _end(running: subprocess.Popen) -> int:
    _signal(running, signal.SIGINT)
    try:
        return running.wait(_LEAVE)
    except subprocess.TimeoutExpired:
        running.kill()
        return running.wait()


def live_jobs(prefix: str) -> list[str] | None:
    """Ids of this user's jobs that wait or run and whose names begin so; None without an answer."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return None
    rows = [line.strip().split("|", 2) for line in done.stdout.splitlines() if line.strip()]
    # A job that is completing on a lost node may do so for hours.
    return [job for job, state, name in rows if name.startswith(prefix) and state != "COMPLETING"]


def _cancel(prefix: str, patience: float) -> None:
    """Cancels what a killed Snakemake left in the queue, and waits until it is gone."""
    until = None
    told = set()
    while True:
        jobs = live_jobs(prefix)
        if jobs == []:
            return
        if jobs is None:
            line = "waiting for SLURM's controller"
        else:
            line = "cancelling the jobs that a killed Snakemake left: " + ", ".join(jobs)
            until = until or time.monotonic() + patience
            if time.monotonic() > until:
                raise UserError(f"SLURM doesn't end these jobs: {', '.join(jobs)}; cancel them")
            subprocess.run(["scancel", *jobs], capture_output=True)
        if line not in told:
            _tell(line)
            told.add(line)
        time.sleep(1)


@contextlib.contextmanager
def _alone() -> Iterator[int]:
    """The mark's descriptor, locked until this process and its Snakemake have ended."""
    _MARK.parent.mkdir(exist_ok=True)
    mark = os.open(_MARK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{_MARK}: another `sight slurm` is at work in this folder; wait for it or end it"
            ) from None
        except OSError as error:
            # Some shared file systems have no locks; Snakemake's own is left then.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
        yield mark
    finally:
        os.close(mark)


def _tell(text: str) -> None:
    print(f"sight slurm: {text}", file=sys.stderr, flush=True)
