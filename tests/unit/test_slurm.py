"""`sight slurm` with real Snakemakes, and a pretended squeue; tests/slurm has a real cluster."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sight_beyond_text.files import digest
from sight_beyond_text.slurm import live_jobs

SQUEUE = """#!/bin/sh
[ ! -e away ] || exit 1
cat queue 2>/dev/null
exit 0
"""
SCANCEL = """#!/bin/sh
echo "$@" >> cancelled
rm -f queue
"""
SNAKEFILE = """
rule all:
    output: "done"
    shell: "echo $$ >> started; while [ ! -e go ]; do sleep 0.1; done; touch {output}"
"""
WITHIN = 60


@pytest.fixture
def folder(tmp_path, monkeypatch, repository):
    """A folder with a workflow whose only job ends once there is a file `go`."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "bin").mkdir()
    for name, text in {"squeue": SQUEUE, "scancel": SCANCEL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(repository / "src"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(folder):
    """Starts `sight slurm` there, without the profile; ended after the test."""
    started = []

    def start(*options: str, **settings) -> subprocess.Popen:
        command = [sys.executable, "-m", "sight_beyond_text.cli", "slurm", "--cores", "1"]
        command += ["--workflow-profile", "none", "--rerun-incomplete", *options]
        with open(folder / "told", "a") as told:
            made = subprocess.Popen(
                command, cwd=folder, stdout=told, stderr=subprocess.STDOUT, start_new_session=True,
                **settings,
            )  # fmt: skip
        started.append(made)
        return made

    yield start
    (folder / "go").touch()
    for process in started:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def wait(condition, folder) -> None:
    until = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < until, (folder / "told").read_text()[-3000:]
        time.sleep(0.1)


def starts(folder) -> int:
    path = folder / "started"
    return len(path.read_text().split()) if path.exists() else 0


def told(folder) -> list[str]:
    lines = (folder / "told").read_text().splitlines()
    return [line.split(": ", 1)[1] for line in lines if line.startswith("sight slurm: ")]


def children(process: subprocess.Popen) -> list[int]:
    path = f"/proc/{process.pid}/task/{process.pid}/children"
    return [int(number) for number in open(path).read().split()]


def test_what_ends_well_is_run_once(start, folder):
    (folder / "go").touch()
    assert start().wait(WITHIN) == 0
    assert (folder / "done").exists() and told(folder) == [] and starts(folder) == 1


def test_an_error_is_handed_on(start, folder):
    assert start("nothing_of_this_name").wait(WITHIN) == 1
    assert told(folder) == []


def test_the_user_ends_it(start, folder):
    process = start()
    wait(lambda: starts(folder), folder)
    process.send_signal(signal.SIGINT)
    assert process.wait(WITHIN) != 0
    assert told(folder) == []


def test_one_that_waits_with_nothing_in_the_queue_is_started_again(start, folder):
    own = f"1|RUNNING|sight-{digest(str(folder))}_1\n"
    (folder / "queue").write_text(own)
    # As a script starts it in the background.
    process = start("--patience", "3", preexec_fn=ignore_interrupts)
    wait(lambda: starts(folder), folder)
    (folder / "queue").write_text("2|RUNNING|somebody-else\n")
    wait(lambda: told(folder), folder)
    (folder / "queue").write_text(own)
    wait(lambda: starts(folder) == 2, folder)
    (folder / "go").touch()
    assert process.wait(WITHIN) == 0
    assert told(folder)[0] == (
        "Snakemake waited with nothing in the queue for 3 s; starting Snakemake again"
    )


@pytest.mark.slow
def test_starts_that_bring_nothing_into_the_queue_come_to_an_end(start, folder):
    assert start("--patience", "1").wait(2 * WITHIN) == 1
    assert told(folder)[-1] == "3 starts brought no job into the queue; giving up"
    assert sum("starting Snakemake again" in line for line in told(folder)) == 2


def test_a_killed_one_is_started_again_and_its_jobs_are_cancelled(start, folder):
    process = start()
    wait(lambda: starts(folder), folder)
    (snakemake,) = children(process)
    prefix = f"sight-{digest(str(folder))}"
    (folder / "queue").write_text(f"7|RUNNING|{prefix}_1\n8|PENDING|{prefix}_1\n9|RUNNING|own\n")
    os.kill(snakemake, signal.SIGKILL)
    wait(lambda: starts(folder) == 2, folder)
    (folder / "go").touch()
    assert process.wait(WITHIN) == 0
    assert (folder / "cancelled").read_text() == "7 8\n"
    assert told(folder) == [
        "Snakemake was ended by SIGKILL; starting Snakemake again",
        "cancelling the jobs that a killed Snakemake left: 7, 8",
        "unlocking the folder after a Snakemake that was killed",
    ]


def test_killed_itself_it_takes_snakemake_along_and_goes_on_when_started_again(start, folder):
    process = start()
    wait(lambda: starts(folder), folder)
    (snakemake,) = children(process)
    process.kill()
    process.wait()
    wait(lambda: not os.path.exists(f"/proc/{snakemake}"), folder)
    (folder / "go").touch()
    assert start().wait(WITHIN) == 0
    assert "unlocking the folder" in told(folder)[-1]


def test_two_of_them_in_one_folder_are_refused(start, folder):
    start()
    wait(lambda: starts(folder), folder)
    assert start().wait(WITHIN) == 2
    assert (
        "error: .snakemake/sight-slurm: another `sight slurm` is at work"
        in (folder / "told").read_text()
    )


def test_jobs_that_live_are_told_from_others(folder):
    (folder / "queue").write_text(
        "1|RUNNING|mine_a\n2|PENDING|mine_b\n3|COMPLETING|mine_c\n4|RUNNING|x\n"
    )
    assert live_jobs("mine") == ["1", "2"]
    (folder / "away").touch()
    assert live_jobs("mine") is None


def test_where_there_is_no_slurm_it_says_so(start, folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert start().wait(WITHIN) == 2
    assert "error: squeue: no such program" in (folder / "told").read_text()
    assert not starts(folder)
