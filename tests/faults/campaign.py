"""Kills a small study again and again, and compares its tables with those of an undisturbed one.

    python tests/faults/campaign.py --kills 100 --out benchmarks/results/faults.json

Interrupted, it goes on when it is called again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "src")]

from checkouts import Checkout, copy  # noqa: E402

from sight_beyond_text.analysis import tidy  # noqa: E402
from sight_beyond_text.files import write_json  # noqa: E402

NAME = "tiny"
TRAINING = {
    "learning_rate": 1e-2,
    "batch_size": 16,
    "max_length": 512,
    "precision": "fp32",
    "gradient_checkpointing": False,
    "save_steps": 1,
}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.1}
CHANGES = {
    "sources": {"visual": {}, "caption": {}},
    "alignment": TRAINING,
    "tunings": {
        "full": {**TRAINING, "learning_rate": 2e-3},
        "qlora": {**TRAINING, "lora": LORA},
    },
}
"""What the tiny study has otherwise: two forms of data, 4 bits and dropout, resume points."""

STEPS = {
    "micro world",
    "micro tower",
    "micro base",
    "instructions",
    "features",
    "check",
    "align",
    "tune",
    "evaluate",
    "compare",
    "pictures",
    "cache seal",
    "draw",
    "explore",
}
"""The stages of that study, as `sight` names them."""

ROUNDING = 1e-5
"""What numbers may differ by, relatively."""

PLANNING = "planning"
"""Snakemake alone, before its first step."""


class Workflow:
    """A `snakemake` of a checkout in a session of its own, so that all of it can be killed at once.

    Attributes:
        process: Snakemake itself.
    """

    def __init__(self, checkout: Checkout, study: str, *more: str, env: dict | None = None):
        self.output = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *more, "--configfile", study]
        self.process = subprocess.Popen(
            command,
            cwd=checkout.folder,
            env={**environment(checkout), **(env or {})},
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def steps(self) -> dict[int, str]:
        """The steps under way: their processes, and their stages."""
        found = {pid: stage_of(command) for pid, command in members(self.process.pid).items()}
        return {pid: stage for pid, stage in found.items() if stage is not None}

    def kill(self) -> None:
        """Ends every process of it at once, as a power cut does."""
        while there := members(self.process.pid):
            for pid in there:
                kill(pid)
            self.process.poll()
        self.process.wait()

    def ended(self, timeout: float = 1800) -> tuple[int, str]:
        """Waits for the end; Snakemake's status and all that it printed."""
        self.process.wait(timeout)
        self.output.seek(0)
        return self.process.returncode, self.output.read()


def environment(checkout: Checkout) -> dict[str, str]:
    """As a user's who works in the checkout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(checkout.folder / "src")}


def members(session: int) -> dict[int, list[str]]:
    """The living processes of a session: their commands by number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(told[3]) == session and told[0] not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_text().split("\0")[:-1]
        except (OSError, IndexError):
            continue  # it has just ended
    return found


def working_in(folder: Path) -> list[int]:
    """The living processes whose working directory a folder is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.path.samefile(process / "cwd", folder):
                found.append(int(process.name))
        except OSError:
            continue  # it has just ended, or is another user's
    return found


def stage_of(command: list[str]) -> str | None:
    """The stage that a process works on, if it is one of `sight`."""
    if len(command) < 3 or Path(command[1]).name != "sight" or "python" not in command[0]:
        return None
    name = " ".join(command[2:4]) if command[2] in ("micro", "cache") else command[2]
    return name if name in STEPS else None


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def lasting(checkout: Checkout) -> dict[str, float]:
    """How long each stage takes, in seconds: the mean of its steps, as Snakemake measured them."""
    rules = {
        r"/world\.": "micro world",
        r"/tower\.": "micro tower",
        r"/base\.": "micro base",
        r"/instructions/": "instructions",
        r"/features/": "features",
        r"/check_inputs\.": "check",
        r"/align\.": "align",
        r"/tune\.": "tune",
        r"/(text|image)-": "evaluate",
        r"/compare\.": "compare",
        r"/gather_pictures\.": "pictures",
        r"/seal_tables\.": "cache seal",
        r"/explorer\.": "explore",
        r"/studies/": "draw",
    }
    seconds: dict[str, list[float]] = {}
    for path in (checkout.folder / "logs").rglob("*.benchmark.tsv"):
        name = next(stage for part, stage in rules.items() if re.search(part, str(path)))
        seconds.setdefault(name, []).append(float(pd.read_csv(path, sep="\t")["s"].iloc[0]))
    assert seconds.keys() == STEPS, "a stage of the study that isn't known here"
    return {name: sum(all_) / len(all_) for name, all_ in seconds.items()}


def disturbed(
    checkout: Checkout, study: str, rng: random.Random, seconds: dict[str, float], hits: Counter
) -> dict | None:
    """Runs the study until something of it is killed, or to its end.

    Each step that starts is doomed by chance, one of a stage that was hit least in any case, to
    die at a random moment of the time that its stage takes.

    Args:
        seconds: of each stage.
        hits: kills so far, by stage.

    Returns:
        `{killed, stages, after, lines}`: "all" (all processes at once) or "step", the stages that
        were under way, seconds since the start, and the lines of errors that Snakemake showed; None
        where the study finished.
    """
    workflow = Workflow(checkout, study)
    started = time.monotonic()
    least = min(hits[name] for name in STEPS)
    doomed: dict[int, float] = {}
    # Also Snakemake itself, before there are any steps.
    early = 3 * rng.random() if rng.random() < 0.08 else None
    while workflow.process.poll() is None:
        now, there = time.monotonic(), workflow.steps()
        for pid, stage in there.items():
            if pid not in doomed:
                dies = hits[stage] == least or rng.random() < 0.4
                doomed[pid] = now + rng.random() * seconds[stage] if dies else float("inf")
        due = [pid for pid in there if now >= doomed[pid]]
        is_early = early is not None and not doomed and now - started >= early
        if due or is_early:
            told = {"after": round(now - started, 2)}
            if is_early or rng.random() < 0.5:
                workflow.kill()
                stages = sorted(there.values()) or [PLANNING]
                return {"killed": "all", "stages": stages, **told, "lines": []}
            kill(due[0])
            status, output = workflow.ended()
            assert status == 1, output[-3000:]
            assert "Traceback" not in output, output[-3000:]
            return {"killed": "step", "stages": [there[due[0]]], **told, "lines": errors(output)}
        time.sleep(0.02)
    status, output = workflow.ended()
    assert status == 0, output[-6000:]
    return None


def errors(output: str) -> list[str]:
    """The lines that steps print of what went wrong."""
    return [line.strip() for line in output.splitlines() if line.startswith("error: ")]


def wipe(checkout: Checkout) -> None:
    """Takes a checkout back to where nothing was run."""
    for part in ("results", "resources", "logs", ".snakemake", *map(str, drawn(NAME))):
        shutil.rmtree(checkout.folder / part, ignore_errors=True)


def drawn(name: str) -> tuple[Path, Path]:
    """A study's folders of tables and of figures."""
    return Path("figures/data") / name, Path("figures") / name


def differences(
    found: Checkout, expected: Checkout, name: str = NAME, rounding: float = ROUNDING
) -> list[str]:
    """Tables of a study that aren't the same in two checkouts, but for the time trainings took.

    Args:
        rounding: numbers may differ by so much, relatively: a question that is asked again stands
            in a batch of another size. 0 for the same bytes.
    """
    folder = drawn(name)[0]
    sides = [checkout.folder / folder for checkout in (found, expected)]
    tables = sorted(path.name for path in sides[1].iterdir() if path.suffix in (".csv", ".parquet"))
    different = [table for table in tables if not same(*(side / table for side in sides), rounding)]
    # Names with a dot are what a killed step was writing.
    extra = {path.name for path in sides[0].iterdir() if not path.name.startswith(".")}
    extra -= {path.name for path in sides[1].iterdir()}
    assert {*tidy.FILES.values()} <= {*tables}
    return different + sorted(extra)


def same(found: Path, expected: Path, rounding: float = ROUNDING) -> bool:
    """Whether two tables are the same, but for rounding and the time that trainings took."""
    if not found.is_file():
        return False
    if found.read_bytes() == expected.read_bytes():
        return True
    is_runs = expected.name == tidy.FILES["runs"]
    if not is_runs and not rounding:
        return False
    read = pd.read_csv if expected.suffix == ".csv" else pd.read_parquet
    one, two = (read(path) for path in (found, expected))
    if is_runs:
        one, two = (frame.drop(columns="train_seconds") for frame in (one, two))
    if "details" in two:
        pairs = zip(one.pop("details"), two.pop("details"), strict=True)
        if not all(a == b or _close(json.loads(a), json.loads(b), rounding) for a, b in pairs):
            return False
    try:
        pd.testing.assert_frame_equal(one, two, rtol=rounding, atol=rounding / 10)
    except AssertionError:
        return False
    return True


def _close(one: dict, two: dict, rounding: float) -> bool:
    pairs = zip(one.pop("loglikelihoods"), two.pop("loglikelihoods"), strict=True)
    return one == two and all(abs(a - b) <= rounding * max(1, abs(b)) for a, b in pairs)


class Campaign:
    """Kills until there are enough; what it found is in `told`, and in a file after each kill.

    Attributes:
        told: `{kills, finished}`, a row a kill, and one for each study that finished, with the
            tables that differed, those whose bytes did, and the jobs that were left to do; the
            machine, and seconds of the undisturbed study.
    """

    def __init__(
        self,
        folder: Path,
        save: Callable[[dict], None],
        told: dict | None = None,
        changes: dict = CHANGES,
    ):
        self.expected = Checkout(folder / "undisturbed")
        self.killed = Checkout(folder / "killed")
        self.save = save
        self.changes = changes
        self.told = told or {"kills": [], "finished": []}

    def prepare(self) -> None:
        """Runs the study undisturbed, where that isn't done yet."""
        done = self.expected.folder / "results" / "studies" / NAME / "undisturbed"
        if not done.exists():
            shutil.rmtree(self.expected.folder, ignore_errors=True)
            copy(REPOSITORY, self.expected.folder)
            path = self.expected.study(NAME, **self.changes)
            started = time.monotonic()
            self.expected.snakemake("--cores", "2", "--configfile", path)
            done.write_text(f"{time.monotonic() - started:.1f}")
        if not self.killed.folder.exists():
            copy(REPOSITORY, self.killed.folder)
        self.study = self.killed.study(NAME, **self.changes)
        self.seconds = lasting(self.expected)
        self.told["undisturbed_seconds"] = float(done.read_text())
        self.told["machine"] = {"cpus": os.cpu_count(), "machine": platform.machine()}

    def hits(self) -> Counter:
        """Kills by stage."""
        return Counter(stage for row in self.told["kills"] for stage in row["stages"])

    def run(self, kills: int, seed: int = 0) -> None:
        """Goes on until the study was killed so many times, and lets the last one finish."""
        # What a campaign that was interrupted left: a workflow that lives on.
        while there := working_in(self.killed.folder):
            for pid in there:
                kill(pid)
        while len(self.told["kills"]) < kills:
            number = len(self.told["kills"])
            rng = random.Random(f"{seed} {number} {len(self.told['finished'])}")
            row = disturbed(self.killed, self.study, rng, self.seconds, self.hits())
            if row is None:
                self._finish()
                continue
            self.told["kills"].append(row)
            self.save(self.told)
        if self._since():
            status, output = Workflow(self.killed, self.study).ended()
            assert status == 0, output[-6000:]
            self._finish()

    def _since(self) -> int:
        """Kills of the study that is under way."""
        return len(self.told["kills"]) - sum(row["kills"] for row in self.told["finished"])

    def _finish(self) -> None:
        different = differences(self.killed, self.expected)
        left = self.killed.planned("--configfile", self.study)
        row = {"kills": self._since(), "different": different, "left": left}
        row["rounded"] = differences(self.killed, self.expected, rounding=0)
        self.told["finished"].append(row)
        self.save(self.told)
        assert not different and not left, row
        wipe(self.killed)


def summary(told: dict) -> dict:
    """What a campaign showed, in a few numbers."""
    kinds = Counter(row["killed"] for row in told["kills"])
    hits = Counter(stage for row in told["kills"] for stage in row["stages"])
    different = [name for row in told["finished"] for name in row["different"]]
    return {
        "kills": len(told["kills"]),
        "of_all_processes": kinds["all"],
        "of_one_step": kinds["step"],
        "studies_finished": len(told["finished"]),
        "tables_that_differed": len(different),
        "tables_that_differed_by_rounding": sum(len(row["rounded"]) for row in told["finished"]),
        "stages_never_hit": sorted(STEPS - hits.keys()),
        "hits": dict(sorted(hits.items())),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON; goes on with what it tells")
    parser.add_argument(
        "--folder",
        type=Path,
        default=REPOSITORY / "results" / "faults",
        help="where the study is run; remove it for another campaign",
    )
    given = parser.parse_args()
    told = None
    if given.out.exists() and given.folder.exists():
        told = json.loads(given.out.read_text())
        del told["summary"]

    def save(told: dict) -> None:
        write_json(given.out, {"summary": summary(told), **told})
        if told["kills"]:
            last = told["kills"][-1]
            what = f"{last['killed']} ({', '.join(last['stages'])})"
            print(
                f"{len(told['kills'])} kills, {len(told['finished'])} studies; {what}", flush=True
            )

    campaign = Campaign(given.folder, save, told)
    campaign.prepare()
    campaign.run(given.kills, given.seed)
    print(json.dumps(summary(campaign.told), indent=1))


if __name__ == "__main__":
    main()
