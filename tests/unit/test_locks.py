"""What several people make in one place: one makes it, others wait and find it made."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import make_world, run_spec

from sight_beyond_text import files, locks
from sight_beyond_text.analysis.tidy import atomic_path
from sight_beyond_text.errors import UserError
from sight_beyond_text.models.checkpoints import completed

HOLD = """
import sys, time
from sight_beyond_text.locks import held
with held(sys.argv[1:]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def start(*command: str, **how) -> subprocess.Popen:
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    return subprocess.Popen([sys.executable, *command], **how)


def tuning(spec: dict, name: str) -> tuple[str, ...]:
    run = Path(spec["checkpoint"]).parent
    log = str(run.parent / f"{name}.log")
    record = str(run.parent / f"{name}.json")
    command = ("-m", "sight_beyond_text.cli", "tune", json.dumps(spec), "--record", record)
    return (*command, "--log", log, "--threads", "1")


def until(true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_of_two_that_make_one_run_the_second_waits_and_takes_over_from_the_killed(world):
    spec = run_spec(world, "lora", save_steps=1)
    run = Path(spec["checkpoint"]).parent
    first = start(*tuning(spec, "first"))
    until(lambda: list(run.glob("checkpoint/resume/checkpoint-*/resume.json")))
    first.send_signal(signal.SIGSTOP)  # it lives, and holds what it holds
    second = start(*tuning(spec, "second"))
    log = run.parent / "second.log"
    until(lambda: log.exists() and "waiting for another process" in log.read_text())
    assert f"process {first.pid} on" in log.read_text()
    assert first.poll() is None and second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert second.wait(300) == 0, second.stderr.read()
    assert "goes on from" in log.read_text()
    assert completed(spec["checkpoint"], spec["recipe"]) is not None


def test_who_comes_second_does_nothing_if_the_first_has_finished(world):
    spec = run_spec(world, "frozen")
    both = [start(*tuning(spec, name)) for name in ("one", "other")]
    assert [process.wait(300) for process in both] == [0, 0]
    runs = Path(spec["checkpoint"]).parents[1]
    logs = [(runs / f"{name}.log").read_text() for name in ("one", "other")]
    assert sorted("is trained already" in log for log in logs) == [False, True]
    assert (runs / "one.json").read_bytes() == (runs / "other.json").read_bytes()


def test_locks_are_taken_in_one_order_and_let_go_by_a_kill(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    holder = start("-c", HOLD, str(two), str(one))
    assert holder.stdout.readline() == "held\n"
    assert locks.is_held(one) and locks.is_held(two)
    waiting = start("-c", HOLD, str(one), str(two))
    assert f"{one}: waiting for another process" in waiting.stderr.readline()
    holder.kill()
    assert waiting.stdout.readline() == "held\n"
    waiting.kill()
    waiting.wait()
    assert not locks.is_held(one)


def test_who_waited_for_a_removed_folder_holds_the_new_one(tmp_path):
    folder = tmp_path / "run"
    with locks.held([folder]):
        waiting = start("-c", HOLD, str(folder))
        waiting.stderr.readline()
        folder.rename(tmp_path / "gone")
    assert waiting.stdout.readline() == "held\n"
    assert locks.is_held(folder)
    waiting.kill()


def test_a_folder_without_rights_is_told_in_one_line(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"docs/cluster\.md"), locks.held([tmp_path / "run"]):
        pass


@pytest.fixture
def umask():
    """The umask of people who share a folder with their group."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_the_groups_too(tmp_path, umask):
    tmp_path.chmod(0o2775)
    files.write_text(tmp_path / "a" / "text.json", "{}")
    with atomic_path(tmp_path / "b" / "table.csv") as path:
        path.write_text("x")
    with files.staged_folder(tmp_path / "c") as folder:
        (folder / "in").mkdir(mode=0o700)
        (folder / "in" / "weights").touch(mode=0o600)
    with locks.held([tmp_path / "d"]):
        pass
    found = {path.relative_to(tmp_path).as_posix(): mode(path) for path in tmp_path.rglob("*")}
    for name, rights in found.items():
        assert rights == (0o2775 if (tmp_path / name).is_dir() else 0o664), name
    assert len(found) == 9


@pytest.mark.parametrize("mode_of", ["lora", "full"])
def test_a_runs_folder_can_be_gone_on_with_by_the_group(world, umask, mode_of):
    from sight_beyond_text.training import resume, train

    spec = run_spec(world, mode_of, save_steps=1, epochs=1, id=f"shared-{mode_of}")
    spec["checkpoint"] = str(world / "runs" / f"shared-{mode_of}" / "checkpoint")
    folder, kept = Path(spec["checkpoint"]), {}
    folder.parent.mkdir(parents=True)
    folder.parent.chmod(0o2775)
    prove = resume.prove

    def seen(point):
        kept.update({path.name: mode(path) for path in [Path(point), *Path(point).iterdir()]})
        prove(point)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "prove", seen)
        patch.setattr("sight_beyond_text.training.learner.prove", seen, raising=False)
        train.train(spec, folder.parent / "train.json")
    for path in [folder, *folder.rglob("*")]:
        assert mode(path) == (0o2775 if path.is_dir() else 0o664), path
    assert kept.pop("learned.safetensors") == 0o664
    assert all(rights in (0o664, 0o2775) for rights in kept.values()), kept


LIVE = """
import sys, time
from sight_beyond_text.locks import join
join(sys.argv[1], clear=len(sys.argv) < 3)
print("lives", flush=True)
time.sleep(60)
"""


def test_locks_of_the_killed_are_removed_and_those_of_the_living_stay(tmp_path):
    state = tmp_path / ".snakemake"
    first, second = start("-c", LIVE, str(state)), start("-c", LIVE, str(state), "on a cluster")
    assert first.stdout.readline() == second.stdout.readline() == "lives\n"
    (state / "locks").mkdir()
    ours = [state / "locks" / f"0.{kind}.lock" for kind in ("input", "output")]
    for path in ours:
        path.write_text("a\n")
    first.kill()
    first.wait()
    code = f"from sight_beyond_text.locks import join; join({str(state)!r})"
    asked = start("-c", code)
    assert asked.communicate() == ("", "") and all(path.exists() for path in ours)
    second.kill()
    second.wait()
    asked = start("-c", code)
    assert "was killed; going on" in asked.communicate()[1]
    assert not any(path.exists() for path in ours)
