"""GPUs are shared by locks: real processes and real locks, on pretended GPUs."""

import json
import os
import select
import subprocess
import sys

import pytest

from sight_beyond_text.errors import UserError
from sight_beyond_text.leases import devices, leased

HOLD = """
import os, sys
from sight_beyond_text.leases import leased
with leased(int(sys.argv[1])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""
SOON = 20
NOT_YET = 1.5


@pytest.fixture
def machine(monkeypatch, tmp_path, repository):
    """A machine with two pretended GPUs; gives a function that starts a step on it."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SIGHT_GPUS", "2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(repository / "src"))
    started = []

    def start(count: int = 1, **variables: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        step = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(count)],
            env={**os.environ, **variables},
            **{"stdin": pipe, "stdout": pipe, "stderr": pipe, "text": True},
        )
        started.append(step)
        return step

    yield start
    for step in started:
        step.kill()
        step.wait()


def got(step: subprocess.Popen, within: float = SOON) -> str | None:
    """The GPUs that a step got; None if it has none yet."""
    ready, _, _ = select.select([step.stdout], [], [], within)
    return step.stdout.readline().strip() if ready else None


def told(step: subprocess.Popen) -> str:
    """What a step says first of its waiting."""
    ready, _, _ = select.select([step.stderr], [], [], SOON)
    return step.stderr.readline() if ready else ""


def test_steps_get_gpus_of_their_own_and_wait_for_them(machine):
    one, two = machine(), machine()
    assert sorted([got(one), got(two)]) == ["0", "1"]
    third = machine()
    assert told(third) == "waiting for 1 of this machine's GPUs (0, 1)\n"
    assert got(third, NOT_YET) is None
    two.stdin.close()
    assert got(third) in ("0", "1")


def test_who_needs_several_holds_none_meanwhile_and_is_not_passed(machine):
    one = machine()
    assert got(one) == "0"
    both = machine(2)
    assert "waiting for 2" in told(both)
    # Another choice of GPUs is another row: GPU 1 is free.
    other = machine(CUDA_VISIBLE_DEVICES="1")
    assert got(other) == "1"
    late = machine()
    assert "waiting for 1" in told(late)
    other.stdin.close()
    assert got(both, NOT_YET) is None and got(late, 0) is None
    one.stdin.close()
    assert got(both) == "0,1"
    assert got(late, NOT_YET) is None
    both.stdin.close()
    assert got(late) == "0"


def test_a_killed_step_lets_go(machine):
    both = machine(2)
    assert got(both) == "0,1"
    waiting = machine(2)
    assert told(waiting)
    both.kill()
    assert got(waiting) == "0,1"


def test_a_step_that_is_killed_while_it_waits_stops_nobody(machine):
    one = machine()
    assert got(one) == "0"
    both = machine(2)
    assert told(both)
    both.kill()
    assert got(machine()) == "1"


@pytest.mark.parametrize(
    "visible, expected",
    (
        (None, ["0", "1"]),
        ("1", ["1"]),
        ("1, 0", ["1", "0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("5", []),
        ("GPU-8f3a,MIG-1", ["GPU-8f3a", "MIG-1"]),
    ),
)
def test_what_cuda_would_see_is_shared(machine, monkeypatch, visible, expected):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices() == expected


@pytest.mark.parametrize("variable", ("SLURM_JOB_ID", "RANK"))
def test_who_was_given_gpus_leases_none(machine, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with leased(1):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_without_gpus_or_for_none_nothing_changes(machine, monkeypatch, tmp_path):
    with leased(0):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("SIGHT_GPUS", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with leased(4, processes=4):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count, processes", ((3, 3), (3, 1), (1, 2)))
def test_more_than_there_are_is_refused(machine, count, processes):
    with pytest.raises(UserError, match="are needed at once"), leased(count, processes):
        pass


def test_a_wrong_number_of_gpus_is_told(machine, monkeypatch):
    monkeypatch.setenv("SIGHT_GPUS", "two")
    with pytest.raises(UserError, match="SIGHT_GPUS: found 'two'"):
        devices()


WATCHED = """
import os, sys
from sight_beyond_text import cli
from sight_beyond_text.training import launch
def stop(*_):
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), "torch" in sys.modules)
    raise SystemExit
cli.prepare_torch = launch.launch = stop
cli.main()
"""
TRAINED = {"checkpoint": "run/checkpoint", "training": {"processes": 1}}
SCORED = {"subject": {}, "suite": "text", "folder": "", "benchmarks": {}}


@pytest.mark.parametrize(
    "command, spec, options, expected",
    (
        ("align", TRAINED, ["--record", "r"], "1"),
        ("tune", TRAINED, ["--record", "r"], "1"),
        ("tune", TRAINED, ["--record", "r", "--gpus", "0"], "None"),
        ("evaluate", SCORED, [], "1"),
        ("features", {"folder": "features"}, [], "1"),
    ),
)
def test_a_step_knows_its_gpus_before_torch_is_there(
    machine, tmp_path, command, spec, options, expected
):
    assert got(machine()) == "0"
    arguments = [sys.executable, "-c", WATCHED, command, json.dumps(spec), *options]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{expected} False\n", done.stderr


def test_several_processes_lease_a_gpu_each(machine, tmp_path):
    spec = json.dumps({**TRAINED, "training": {"processes": 2}})
    arguments = [sys.executable, "-c", WATCHED, "tune", spec, "--record", "r"]
    told = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(arguments, **told)
    assert done.stdout == "0,1 False\n", done.stderr
    refused = subprocess.run([*arguments, "--gpus", "1"], **told)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: GPUs: 2 are needed at once, one a process, and there")
