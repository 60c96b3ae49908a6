"""Whatever breaks under a study: one clear line, and after mending the same command finishes.

Each test breaks one thing under a study of one run, sees what the user is told, mends it as he is
told, and finds the tables of a study under which nothing broke.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkouts import Checkout, copy
from faults.campaign import TRAINING, Workflow, differences, drawn, errors, kill, same
from killable import CONTEXT

from sight_beyond_text import cache, grid, study

pytestmark = pytest.mark.slow

COMMAND = ("--cores", "2", "evaluate_all", "--configfile")
CHANGES = {
    "sources": {"visual": {}},
    "alignment": TRAINING,
    "tunings": {"full": {**TRAINING, "learning_rate": 2e-3}},
}


@pytest.fixture(scope="module")
def finished(repository, tmp_path_factory) -> Checkout:
    """A checkout with the study's tables; tests only copy it."""
    checkout = copy(repository, tmp_path_factory.mktemp("finished") / "clone")
    checkout.snakemake(*COMMAND, checkout.study("tiny", **CHANGES))
    return checkout


@pytest.fixture
def copied(finished, tmp_path) -> Checkout:
    """A copy of it, to be broken."""
    shutil.copytree(finished.folder, tmp_path / "clone", symlinks=True)
    return Checkout(tmp_path / "clone")


def study_of(checkout: Checkout) -> str:
    return str(checkout.folder / "tiny.yaml")


def run(checkout: Checkout, *more: str, env: dict | None = None) -> tuple[int, str]:
    """The command of all tests; Snakemake's status and what it printed, without a traceback."""
    workflow = Workflow(checkout, study_of(checkout), "evaluate_all", *more, env=env)
    status, output = workflow.ended()
    assert "Traceback" not in output, output[-6000:]
    return status, output


def finishes(checkout: Checkout, expected: Checkout) -> str:
    """Runs the command to its end, and finds nothing wrong and nothing left to do."""
    status, output = run(checkout)
    assert status == 0, output[-6000:]
    assert differences(checkout, expected) == []
    assert checkout.planned("evaluate_all", "--configfile", study_of(checkout)) == {}
    return output


def run_of(checkout: Checkout) -> Path:
    """The folder of the only run."""
    (record,) = (checkout.folder / "results" / "runs").glob("*/train.json")
    return record.parent


def forget(checkout: Checkout, *paths: Path) -> None:
    """Removes files or folders."""
    for path in paths:
        assert path.exists()
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def disk(folder: Path, options: str = "size=64m") -> Iterator[Path]:
    """A disk of its own at a folder, with the folder's content."""
    if os.geteuid():
        pytest.skip("only root can mount a disk")
    kept = folder.with_name(f"{folder.name}.kept")
    folder.rename(kept)
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def size_of(folder: Path) -> int:
    """Bytes that a folder takes on a disk of 4 KiB pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def test_a_disk_that_is_full_is_named_and_once_there_is_room_all_goes_on(copied, finished):
    run_folder, whole = run_of(copied), size_of(copied.folder / "results")
    forget(copied, run_folder)
    weights = size_of(run_of(finished))
    with disk(copied.folder / "results", f"size={whole - weights // 2}") as results:
        status, output = run(copied)
        assert status == 1
        told = errors(output)
        assert told and all("No space left on device" in line for line in told), output[-3000:]
        # More room for the same disk.
        subprocess.run(["mount", "-o", "remount,size=256m", str(results)], check=True)
        finishes(copied, finished)


def test_a_disk_that_is_full_under_the_logs_too(copied, finished):
    """Then a step can't even write down what went wrong."""
    forget(copied, run_of(copied), copied.folder / "logs")
    (copied.folder / "results" / "logs").mkdir()
    (copied.folder / "logs").symlink_to("results/logs")
    with disk(copied.folder / "results", "size=256m") as results:
        room = results / "filler"
        free = os.statvfs(results).f_bavail * 4096
        room.write_bytes(bytes(free - 64 * 1024))
        status, output = run(copied)
        assert status == 1 and "No space left on device" in output, output[-3000:]
        room.unlink()
        finishes(copied, finished)


def test_a_limit_on_the_size_of_files_is_named(copied, finished):
    command = ["prlimit", "--fsize=65536", *by_hand(copied, "tune")[0]]
    forget(copied, run_of(copied))
    done = subprocess.run(command, **called_in(copied))
    assert done.returncode and "Traceback" not in done.stdout
    assert "File too large" in done.stdout.splitlines()[-1]
    finishes(copied, finished)


def called_in(checkout: Checkout) -> dict:
    path = {"PYTHONPATH": str(checkout.folder / "src")}
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return {"cwd": checkout.folder, "env": {**os.environ, **path}, **told}


def test_a_disk_that_is_read_only_is_named(copied, finished):
    record = copied.folder / "results" / "studies" / "tiny" / "compare.json"
    arguments = by_hand(copied, "evaluate text")[0]
    forget(copied, *run_of(copied).glob("text-*"))
    with disk(copied.folder / "results", "size=256m") as results:
        remount = ["mount", "-o", "remount,ro", str(results)]
        subprocess.run(remount, check=True)
        # What is there, Snakemake itself finds to be write-protected.
        status, output = run(copied)
        assert status == 1 and "Write-protected output files" in output, output[-3000:]
        assert str(record.relative_to(copied.folder)) in output
        done = subprocess.run(arguments, **called_in(copied))
        assert done.returncode == 2 and "Traceback" not in done.stdout
        assert "Read-only file system; make the disk writable" in done.stdout.splitlines()[-1]
        subprocess.run([*remount[:2], "remount,rw", str(results)], check=True)
        forget(copied, record)
        subprocess.run(remount, check=True)
        status, output = run(copied)
        assert status == 1 and "Read-only file system" in output, output[-3000:]
        subprocess.run([*remount[:2], "remount,rw", str(results)], check=True)
        finishes(copied, finished)


def test_a_flipped_bit_in_a_checkpoint_is_found_before_it_is_scored(copied, finished):
    folder = run_of(copied)
    path = folder / "checkpoint" / "llm" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    forget(copied, *folder.glob("text-*"))
    status, output = run(copied)
    (line,) = errors(output)
    told = f"{path.relative_to(copied.folder)}: not as training wrote it; remove"
    assert status == 1 and told in line
    forget(copied, copied.folder / line.split("remove ")[1].split(" and ")[0])
    finishes(copied, finished)


def test_a_table_that_was_cut_off_is_named(copied, finished):
    (path,) = run_of(copied).glob("image-*/items.parquet")
    path.write_bytes(path.read_bytes()[:1000])
    status, output = run(copied)
    (line,) = errors(output)
    folder = path.parent.relative_to(copied.folder)
    assert status == 1 and f"{folder}/items.parquet: not readable as Parquet" in line
    assert line.endswith(f"remove {folder}/items.parquet and evaluate again")
    forget(copied, path)
    finishes(copied, finished)


YEAR = 365 * 24 * 3600
# As docs/cluster.md tells it.
BACK = "find results resources figures -newermt now -exec touch -r Snakefile {} +".split()


def dated(folder: Path, when: float) -> None:
    """Gives all files in a folder one date."""
    for path in folder.rglob("*"):
        os.utime(path, (when, when))


def test_a_clock_that_was_set_back_makes_nothing_run_for_ever(copied, finished):
    """All was made when the clock was a year ahead; then a run is needed once more."""
    for part in ("resources", "results", *drawn("tiny")):
        dated(copied.folder / part, time.time() + YEAR)
    assert copied.planned("evaluate_all", "--configfile", study_of(copied)) == {}
    forget(copied, run_of(copied))
    status, output = run(copied)
    assert status == 1 and "older modification time" in output and "clock" in output
    subprocess.run(BACK, cwd=copied.folder, check=True)
    finishes(copied, finished)


def test_two_on_one_directory_the_second_is_refused(copied, finished):
    forget(copied, run_of(copied))
    first = Workflow(copied, study_of(copied), "evaluate_all")
    while not first.steps():
        assert first.process.poll() is None, first.ended()
        time.sleep(0.05)
    status, output = run(copied)
    assert status == 1 and "cannot be locked" in output
    status, output = first.ended()
    assert status == 0, output[-3000:]
    finishes(copied, finished)


def test_a_step_that_outlives_its_snakemake_is_waited_for(copied, finished):
    forget(copied, run_of(copied))
    first = Workflow(copied, study_of(copied), "evaluate_all")
    while "tune" not in first.steps().values():
        assert first.process.poll() is None, first.ended()
        time.sleep(0.05)
    kill(first.process.pid)
    first.ended()
    assert "tune" in first.steps().values()
    finishes(copied, finished)


def _called(arguments: list[str], folder: str, fatal: int, told: str) -> None:
    """Calls `sight`; the process is killed as it is about to rename for the `fatal`-th time."""
    from sight_beyond_text.cli import main

    renames, replace = 0, os.replace

    def counted(*names, **more):
        nonlocal renames
        renames += 1
        Path(told).write_text(str(renames))
        if renames == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names, **more)

    os.chdir(folder)
    os.replace = counted
    sys.argv = arguments
    main()


def call(checkout: Checkout, arguments: list[str], fatal: int = 0) -> tuple[int, int]:
    """Calls `sight` in a child; its exit status (-9: killed), and how often it renamed."""
    told = checkout.folder / "renames"
    told.write_text("0")
    more = (arguments, str(checkout.folder), fatal, str(told))
    child = CONTEXT.Process(target=_called, args=more)
    child.start()
    child.join()
    return child.exitcode, int(told.read_text())


def unlike(found: Path, expected: Path) -> list[str]:
    """Files that aren't the same in two folders; records (JSON) tell times, and need only be."""
    names = [
        {
            path.relative_to(folder)
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        for folder in (found, expected)
    ]
    different = names[0] ^ names[1]
    for name in names[0] & names[1]:
        one, two = found / name, expected / name
        if name.suffix == ".parquet":
            alike = same(one, two)
        elif name.name == "answers.jsonl":
            alike = len(one.read_bytes().splitlines()) == len(two.read_bytes().splitlines())
        else:
            alike = name.suffix == ".json" or one.read_bytes() == two.read_bytes()
        if not alike:
            different.add(name)
    return sorted(map(str, different))


STEPS = ("tune", "evaluate text", "evaluate image", "compare", "draw")
# Steps fork from a server that has their libraries, so that each costs little more than its work.
LIBRARIES = "training.train evaluation.text evaluation.image analysis.compare figures.draw".split()
CONTEXT.set_forkserver_preload([f"sight_beyond_text.{name}" for name in LIBRARIES])


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_between_any_two_renames(copied, step):
    arguments, folder = by_hand(copied, step)
    expected = copied.folder / "expected"
    shutil.move(folder, expected)
    status, renames = call(copied, arguments)
    assert status == 0 and renames and unlike(folder, expected) == []
    for fatal in range(1, renames + 1):
        shutil.rmtree(folder)
        assert call(copied, arguments, fatal)[0] == -9
        assert call(copied, arguments)[0] == 0
        found = unlike(folder, expected)
        assert found == [], f"{step}: killed before rename {fatal} of {renames}"


def by_hand(checkout: Checkout, step: str) -> tuple[list[str], Path]:
    """The command of a step, as the workflow calls it, and the folder that it makes."""
    read = study.read(Path(study_of(checkout)))
    (run,) = grid.run_specs(read)
    log = ["--log", "logs/by_hand.log"]
    tables, figures = (checkout.folder / part for part in drawn("tiny"))
    name, _, suite = step.partition(" ")
    if name == "tune":
        folder = Path(run["checkpoint"]).parent
        # What evaluations made there isn't made again.
        forget(checkout, *(checkout.folder / folder).glob("text-*"))
        forget(checkout, *(checkout.folder / folder).glob("image-*"))
        made = [str(run), "--record", str(folder / "train.json"), "--threads", "1"]
    elif name == "evaluate":
        (spec,) = (
            spec
            for spec in grid.evaluation_specs(read)
            if spec["suite"] == suite and spec["subject"]["id"] == run["id"]
        )
        folder, made = spec["folder"], [str(spec), "--threads", "1"]
    elif name == "compare":
        record = "results/studies/tiny/compare.json"
        made = [str(grid.compare_spec(read)), "--tables", str(tables), "--record", record]
        folder = tables
    else:
        cache.write_layout(tables, "tiny")
        style = json.dumps({"formats": ["svg", "png", "pdf"]})
        made = ["effects", "--tables", str(tables), "--out", str(figures / "effects")]
        made += ["--record", str(figures / "effects.json"), "--style", style]
        folder = figures
        assert call(checkout, ["sight", name, *made, *log])[0] == 0
    return ["sight", name, *made, *log], checkout.folder / folder
