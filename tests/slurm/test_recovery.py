"""The SLURM profile on a pretended cluster: what jobs ask for, and that every fault is survived.

One small study is run on this machine, undisturbed; then twice under SLURM, where things break.
Each time the same command must finish, with the same tables.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from checkouts import Checkout, copy

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

LIMIT = 900
"""Seconds that anything may take on a machine with much else to do."""
OUTAGE = 30
PROFILE = ("--workflow-profile", "workflow/profiles/slurm")
QUICK = ("--slurm-init-seconds-before-status-checks", "5")
TRAINING = {
    "learning_rate": 2e-3,
    "epochs": 30,
    "batch_size": 8,
    "max_length": 512,
    "precision": "fp32",
    "gradient_checkpointing": False,
    "save_steps": 10,
}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
# The evaluation asks for less memory than it takes, at first.
JOBS = {
    "evaluations_per_job": 20,
    "align": {"threads": 1, "mem_mb": 2000, "runtime": 19},
    "tune": {"threads": 1, "mem_mb": 2100, "runtime": 20},
    "evaluate": {"threads": 1, "mem_mb": 450, "runtime": 21},
    "cache_features": {"threads": 1, "mem_mb": 1900, "runtime": 18},
}
TABLES = "figures/data/tiny"
COMPARED = "results/studies/tiny/compare.json"


def study(checkout: Checkout) -> str:
    return checkout.study(
        "recovering",
        sources={"visual": {}},
        tunings={
            "full": TRAINING,
            "lora": {**TRAINING, "lora": LORA},
            "twofold": {**TRAINING, "mode": "full", "processes": 2},
        },
        jobs=JOBS,
    )


@pytest.fixture(scope="session")
def undisturbed(repository, tmp_path_factory) -> Checkout:
    """A checkout in which the study was run on this machine."""
    checkout = copy(repository, tmp_path_factory.mktemp("undisturbed") / "clone")
    checkout.snakemake(COMPARED, "--cores", "2", "--configfile", study(checkout))
    return checkout


def without(undisturbed: Checkout, folder: Path, *parts: str) -> Checkout:
    """A copy of a checkout in which these parts of the results have to be made anew."""
    shutil.copytree(undisturbed.folder, folder, symlinks=True)
    for part in (TABLES, *parts):
        found = list(folder.glob(part))
        assert found, f"nothing is named {part} in {folder}"
        for path in found:
            shutil.rmtree(path)
    return Checkout(folder)


def tables(checkout: Checkout) -> dict[str, pd.DataFrame]:
    """The study's tables, without what tells of time."""
    found = {}
    for path in sorted((checkout.folder / TABLES).glob("*.*")):
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        found[path.name] = table.drop(columns="train_seconds", errors="ignore")
    assert len(found) > 4
    return found


def assert_same(one: Checkout, other: Checkout) -> None:
    """Tables and weights are equal, to the bit."""
    expected, made = tables(one), tables(other)
    assert made.keys() == expected.keys()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(made[name], table, check_exact=True, obj=name)
    for path in one.folder.glob("results/runs/*/train.json"):
        files = [json.loads((c / path.relative_to(one.folder)).read_text())["files"] for c in (
            one.folder, other.folder
        )]  # fmt: skip
        assert files[0] == files[1], path.parent.name


class Command:
    """A command that was started in a checkout, on the cluster."""

    def __init__(self, cluster, checkout: Checkout, *command: str):
        self.cluster, self.checkout = cluster, checkout
        python = os.path.dirname(sys.executable)
        environment = {**cluster.environment, "PYTHONPATH": str(checkout.folder / "src")}
        environment["PATH"] = f"{python}:{environment['PATH']}"
        self.log = checkout.folder / "command.log"
        with open(self.log, "a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=checkout.folder,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def told(self) -> str:
        return self.log.read_text()

    def wait(self, condition: Callable[[], object], what: str, seconds: float = LIMIT):
        """Waits until something is so, and returns it; the command must not end before."""
        until = time.monotonic() + seconds
        while not (found := condition()):
            if self.process.poll() is not None:
                raise AssertionError(f"the command ended before: {what}\n{self.all()}")
            if time.monotonic() > until:
                raise AssertionError(f"waited {seconds} s in vain for: {what}\n{self.all()}")
            time.sleep(0.3)
        return found

    def finish(self) -> None:
        """Waits for the command's end, which must be a good one."""
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {LIMIT} s\n{self.all()}") from None
        assert self.process.returncode == 0, self.all()

    def all(self) -> str:
        jobs = "\n".join(
            " ".join(job.get(key, "") for key in ("JobId", "JobState", "Reason", "Comment"))
            for job in self.cluster.jobs()
        )
        return f"{self.told()[-5000:]}\n{jobs}\n{self.cluster.logs()}"

    def end(self) -> None:
        """Whatever it is doing, and its jobs."""
        for number in (signal.SIGINT, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(60)
        self.cluster.ask("scancel", "--me")


@pytest.fixture
def start(cluster):
    """Starts a command on the cluster; all that were started are ended after the test."""
    started = []

    def start(checkout: Checkout, *command: str) -> Command:
        started.append(Command(cluster, checkout, *command))
        return started[-1]

    yield start
    for command in started:
        command.end()


def run_of(job: dict[str, str]) -> str:
    """The run that a tuning's job trains."""
    return job["Comment"].removeprefix("rule_tune_wildcards_")


def trainers(checkout: Checkout, run: str = "") -> list[int]:
    """The processes in a checkout that train a run, or any."""
    return [
        process
        for process, command in commands(checkout)
        if "\0tune\0" in command and run in command and "snakemake" not in command
    ]


def commands(checkout: Checkout) -> list[tuple[int, str]]:
    """The processes that work in a checkout, with their arguments as the kernel keeps them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes().decode(errors="replace")
            if (path / "cwd").resolve() == checkout.folder.resolve():
                found.append((int(path.name), command))
    return found


class Jobs:
    """The cluster's jobs that came after a moment."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.before = {job["JobId"] for job in cluster.jobs()}

    def of(self, rule: str, *states: str) -> list[dict[str, str]]:
        found = [job for job in self.cluster.jobs() if job["JobId"] not in self.before]
        found = [job for job in found if job.get("Comment", "").startswith(f"rule_{rule}")]
        return [job for job in found if not states or job["JobState"] in states]

    def one(self, number: str) -> dict[str, str]:
        return next(job for job in self.cluster.jobs() if job["JobId"] == number)


def asked(job: dict[str, str]) -> tuple[str, int, str, str, int]:
    """GPUs, cores, memory, time limit and nodes of a job."""
    gpus = job.get("TresPerJob", "")
    cores = int(job["NumCPUs"])
    return gpus, cores, job["MinMemoryNode"], job["TimeLimit"], int(job["NumNodes"])


def in_training(checkout: Checkout, jobs: Jobs) -> list[dict[str, str]]:
    """Jobs of tunings that run and have written a resume point themselves."""

    def point(job) -> bool:
        folder = checkout.folder / "results" / "runs" / run_of(job) / "checkpoint" / "resume"
        made = [path.stat().st_mtime for path in folder.glob("checkpoint-*/resume.json")]
        return max(made, default=0) > datetime.fromisoformat(job["StartTime"]).timestamp()

    return [job for job in jobs.of("tune", "RUNNING") if point(job)]


def held(running: Command, jobs: Jobs, count: int) -> list[dict[str, str]]:
    """Waits until so many jobs are in the middle of a training, at the same time.

    Those that are there first are stopped until the last one is.
    """
    checkout = running.checkout

    def all_there() -> list:
        found = in_training(checkout, jobs)
        for job in found:
            send(signal.SIGSTOP, trainers(checkout, run_of(job)))
        return found if len(found) == count else []

    found = running.wait(all_there, f"{count} trainings at once")
    send(signal.SIGCONT, trainers(checkout))
    return found


def send(number: int, processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def resumed(checkout: Checkout, run: str) -> list[int]:
    record = checkout.folder / "results" / "runs" / run / "train.json"
    return json.loads(record.read_text())["resumed_after"]


def test_jobs_ask_for_what_the_study_says_and_their_faults_are_survived(
    cluster, undisturbed, start, tmp_path
):
    """Cancelled, preempted, out of time, out of memory; the node drained."""
    parts = ("results/runs", "results/alignments", "results/studies", "resources/features")
    checkout = without(undisturbed, tmp_path / "clone", *parts)
    jobs = Jobs(cluster)
    path = study(checkout)
    running = start(checkout, "snakemake", COMPARED, *PROFILE, *QUICK, "--configfile", path)

    ready = held(running, jobs, 3)
    assert {job["NodeList"] for job in ready} == {"gpus"}
    # All GPUs are taken, so something urgent sends one of the trainings back into the queue.
    urgent = ("sbatch", "--parsable", "-p", "urgent", "--gpus=1", "--mem=10", "-o", "/dev/null")
    assert cluster.ask(*urgent, "--wrap", "sleep 3").strip()
    sent_back = running.wait(
        lambda: [job for job in jobs.of("tune") if job["Restarts"] == "1"], "the preemption", 60
    )
    assert len(sent_back) == 1
    left = [job for job in ready if job["JobId"] != sent_back[0]["JobId"]]
    cancelled, hanging = left
    cluster.ask("scancel", cancelled["JobId"])
    # One hangs; its limit is lowered to a minute so as not to wait for longer.
    send(signal.SIGSTOP, trainers(checkout, run_of(hanging)))
    cluster.ask("scontrol", "update", f"JobId={hanging['JobId']}", "TimeLimit=1")
    cluster.ask("scontrol", "update", "NodeName=gpus", "State=DRAIN", "Reason=test")
    again = running.wait(
        lambda: [job for job in jobs.of("tune", "PENDING") if run_of(job) == run_of(cancelled)],
        "the cancelled training in the queue again",
    )
    assert "drain" in cluster.ask("sinfo", "-h", "-n", "gpus", "-o", "%T")
    assert jobs.one(again[0]["JobId"])["JobState"] == "PENDING"
    running.wait(lambda: jobs.one(hanging["JobId"])["JobState"] == "TIMEOUT", "the time limit")
    cluster.ask("scontrol", "update", "NodeName=gpus", "State=RESUME")
    running.finish()

    def asks(rule: str) -> list[tuple]:
        return [asked(job) for job in jobs.of(rule)]

    assert asks("align") == [("gres:gpu:1", 1, "2000M", "00:19:00", 1)]
    assert set(asks("cache_features")) == {("gres:gpu:1", 1, "1900M", "00:18:00", 1)}
    # What says nothing of its own has the profile's defaults.
    assert asks("compare") == [("", 1, "4000M", "02:00:00", 1)]
    # The one that was sent back needs no other job; each further attempt asks for more.
    several = {run: 1 + (run in map(run_of, left)) for run in map(run_of, ready)}
    for run, count in several.items():
        of_run = [job for job in jobs.of("tune") if run_of(job) == run]
        gpus = 2 if "twofold" in run else 1
        limits = ["00:01:00" if run == run_of(hanging) else "00:20:00", "00:40:00"]
        assert [asked(job) for job in of_run] == [
            (f"gres:gpu:{gpus}", gpus, f"{2100 * gpus * n}M", limits[n - 1], 1)
            for n in range(1, count + 1)
        ]
        assert of_run[-1]["JobState"] == "COMPLETED"
        assert resumed(checkout, run), f"{run} began anew"
    assert jobs.one(cancelled["JobId"])["JobState"] == "CANCELLED"
    assert jobs.one(sent_back[0]["JobId"])["Restarts"] == "1"
    assert "exceeded memory limit" in "".join(
        log.read_text() for log in (checkout.folder / ".snakemake").glob("slurm_logs/**/*.log")
    )
    first, *_, last = jobs.of("evaluate")
    assert asked(first) == ("gres:gpu:1", 1, "450M", "00:21:00", 1)
    assert first["JobState"] in ("FAILED", "OUT_OF_MEMORY")
    assert last["JobState"] == "COMPLETED" and len(jobs.of("evaluate")) < 4

    twofold = next((checkout.folder / "results" / "runs").glob("*twofold*/train.json"))
    assert json.loads(twofold.read_text())["processes"] == 2
    assert_same(undisturbed, checkout)
    assert checkout.planned(COMPARED, "--configfile", path) == {}


def test_what_breaks_around_the_jobs_is_survived(cluster, undisturbed, start, tmp_path):
    """Snakemake killed while its jobs live, a node's daemon killed, the controller away."""
    parts = ("results/studies", "results/runs/*-full-*", "results/runs/*-lora-*")
    checkout = without(undisturbed, tmp_path / "clone", *parts)
    jobs = Jobs(cluster)
    command = ("sight_beyond_text.cli", "slurm", COMPARED, "--patience", "45", *QUICK)
    command += ("--configfile", study(checkout))

    first = start(checkout, *command)
    ready = held(first, jobs, 2)
    # The node's daemon goes and comes; its jobs don't notice.
    cluster.kill("gpus")
    time.sleep(2)
    cluster.start_node("gpus")
    # Who watches is killed, and with it Snakemake. Its jobs live on.
    first.process.kill()
    first.process.wait()
    cluster.wait(lambda: not any("jobname-prefix" in told for _, told in commands(checkout)), 20)
    assert {job["JobId"] for job in jobs.of("tune", "RUNNING")} & {job["JobId"] for job in ready}

    second = start(checkout, *command)
    twins = []

    def trained_again() -> bool:
        living = jobs.of("tune", "RUNNING", "PENDING", "SUSPENDED")
        names = [run_of(job) for job in living]
        twins.extend(name for name in names if names.count(name) > 1)
        new = [job for job in living if job["JobId"] not in {old["JobId"] for old in ready}]
        return len(new) == 2

    second.wait(trained_again, "the jobs of a second Snakemake")
    assert not twins, f"two living jobs of one run\n{second.all()}"
    held(second, jobs, 2)
    # The controller is away while the plugin asks for its jobs, and forgets them.
    cluster.kill("slurmctld")
    went = time.monotonic()
    second.wait(lambda: time.monotonic() > went + OUTAGE, "half a minute")
    second.wait(
        lambda: "Falling back to 'sacct'" in second.told(), "the plugin to lose its jobs", 200
    )
    cluster.start_controller()
    second.finish()
    assert "with nothing in the queue for 45 s; starting Snakemake again" in second.told()

    assert "cancelling the jobs that a killed Snakemake left" in second.told()
    assert all(resumed(checkout, run_of(job)) for job in ready)
    assert_same(undisturbed, checkout)
    assert checkout.planned(COMPARED, "--configfile", study(checkout)) == {}


def test_a_training_is_spread_over_two_nodes(cluster, undisturbed, start, tmp_path):
    """Its processes meet, and learn what those of one machine learn."""
    checkout = without(undisturbed, tmp_path / "clone", "results/runs/*twofold*", "results/studies")
    jobs = Jobs(cluster)
    spread = ("tune:nodes=2", "tune:tasks=2", "tune:mpi='srun'", "tune:gpu=0")
    running = start(
        *(checkout, "snakemake", COMPARED, *PROFILE, *QUICK),
        *("--configfile", study(checkout), "--set-resources", *spread),
    )
    (job,) = running.wait(lambda: jobs.of("tune", "RUNNING"), "the training")
    assert job["NumNodes"] == "2"

    def steps() -> set[str]:
        lines = cluster.ask("squeue", "-s", "-h", "-j", job["JobId"], "-o", "%N").splitlines()
        return set(map(str.strip, lines))

    running.wait(lambda: "cpus,gpus" in steps() or "gpus,cpus" in steps(), "one step on both nodes")
    running.finish()
    assert len(jobs.of("tune")) == 1
    assert_same(undisturbed, checkout)
