"""Two Snakemakes share four pretended GPUs over 40 jobs while one of them is killed, twice."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sight_beyond_text.leases import leased

pytestmark = pytest.mark.slow

GPUS = 4
RUNS = {"first": 15, "second": 25}
WITHIN = 240
# Every third run needs two GPUs. Jobs do nothing but hold them, as `sight`'s steps do.
SNAKEFILE = """
import sys

rule all:
    input: expand("done/{number}", number=range(RUNS))

rule run:
    output: "done/{number}"
    resources: gpu=lambda wildcards: 2 if int(wildcards.number) % 3 == 0 else 1
    params: python=sys.executable
    shell: "{params.python:q} hold.py {resources.gpu} && touch {output}"
"""
# Who holds a GPU says so in a file of its name. A file that is there already tells of two holders,
# unless who made it was killed.
HOLD = """
import os, sys, time
from pathlib import Path
from sight_beyond_text.leases import VISIBLE, leased

held = Path(os.environ["HELD"])

def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False

with leased(int(sys.argv[1])):
    mine = [held / f"gpu-{name}" for name in os.environ[VISIBLE].split(",")]
    assert len(mine) == int(sys.argv[1])
    for path in mine:
        try:
            other = path.read_text()
        except FileNotFoundError:
            other = ""
        if other and alive(other):
            (held / f"twice-{path.name}-{os.getpid()}").write_text(other)
        path.write_text(str(os.getpid()))
    with open(held / "times", "a") as told:
        told.write(f"{len(mine)} {time.monotonic()}\\n")
    time.sleep(0.4)
    for path in mine:
        path.unlink(missing_ok=True)
"""


class Workflow:
    """One Snakemake in a folder of its own."""

    def __init__(self, folder: Path, environment: dict):
        self.folder, self.environment = folder, environment
        self.runs = RUNS[folder.name]
        folder.mkdir()
        (folder / "Snakefile").write_text(f"RUNS = {self.runs}\n{SNAKEFILE}")
        (folder / "hold.py").write_text(HOLD)

    def start(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--cores", "8", "--resources", f"gpu={GPUS}"]
        with open(self.folder / "log", "a") as log:
            return subprocess.Popen(
                [*command, "--rerun-incomplete", "--scheduler", "greedy", *options],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def done(self) -> int:
        return len(list((self.folder / "done").glob("*")))

    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]


@pytest.fixture
def environment(monkeypatch, tmp_path, repository) -> dict:
    """That of steps on a machine with four pretended GPUs, whose locks are the test's own."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "held").mkdir()
    monkeypatch.setenv("SIGHT_GPUS", str(GPUS))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return {
        **os.environ,
        "PYTHONPATH": str(repository / "src"),
        "HELD": str(tmp_path / "held"),
    }


def wait(condition, what: str, logs, running=None) -> None:
    """Waits until something is so; what runs must not end before."""
    until = time.monotonic() + WITHIN
    while not condition():
        assert running is None or running.poll() is None, f"the end before {what}\n{logs()}"
        assert time.monotonic() < until, f"{what} takes longer than {WITHIN} s\n{logs()}"
        time.sleep(0.02)


def test_no_gpu_is_held_twice_and_none_is_leaked(environment, tmp_path):
    first = Workflow(tmp_path / "first", environment)
    second = Workflow(tmp_path / "second", environment)
    running = {first: first.start(), second: second.start()}
    held = tmp_path / "held"

    def logs() -> str:
        return f"{first.log()}\n{second.log()}\nheld: {sorted(p.name for p in held.iterdir())}"

    try:
        wait(lambda: first.done() >= 3, "the first Snakemake's third run", logs, running[first])
        # As by the kernel when memory runs out: its jobs live on, and hold what they hold.
        running[first].kill()
        running[first].wait()
        first.start("--unlock").wait(60)
        running[first] = first.start()
        before = first.done()
        wait(lambda: first.done() >= before + 3, "three more runs", logs, running[first])
        # As by a power cut: all of its jobs end with it, in the middle.
        group = running[first].pid
        wait(lambda: any(_of(path, group) for path in _holders(held)), "a job", logs)
        os.killpg(group, signal.SIGKILL)
        running[first].wait()
        assert first.done() < first.runs
        first.start("--unlock").wait(60)
        running[first] = first.start()
        for workflow in (first, second):
            wait(lambda w=workflow: running[w].poll() is not None, "the end", logs)
            assert running[workflow].returncode == 0, logs()
            assert workflow.done() == workflow.runs
    finally:
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    assert not list(held.glob("twice-*")), logs()
    wait(lambda: not list(_living(held)), "the end of what a killed Snakemake left", logs)
    # All are free at once, for whoever needs all of them.
    locks = list((tmp_path / "sight-gpus").glob("gpu-*"))
    assert len(locks) == GPUS
    for path in locks:
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with leased(GPUS):
        assert len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")) == GPUS
    started = [int(line.split()[0]) for line in (held / "times").read_text().splitlines()]
    assert len(started) > sum(RUNS.values()) and set(started) == {1, 2}


def _holders(held: Path) -> list[Path]:
    return list(held.glob("gpu-*"))


def _of(path: Path, group: int) -> bool:
    """Whether a living job of this process group holds a GPU."""
    try:
        return os.getpgid(int(path.read_text())) == group
    except (OSError, ValueError):
        return False


def _living(held: Path):
    for path in _holders(held):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(path.read_text()), 0)
            yield path
