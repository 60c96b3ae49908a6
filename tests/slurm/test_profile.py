"""The SLURM profile on a pretended cluster: what jobs ask for, and that results come out."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sight_beyond_text import grid
from sight_beyond_text.study import read

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

PROFILE = ("--workflow-profile", "workflow/profiles/slurm")
QUICK = ("--slurm-init-seconds-before-status-checks", "5")
LIMIT = 600
JOBS = {
    "align": {"threads": 1, "mem_mb": 700, "runtime": 9},
    "tune": {"threads": 1, "mem_mb": 800, "runtime": 10},
    "evaluate": {"threads": 2, "mem_mb": 900, "runtime": 11},
    "cache_features": {"threads": 1, "mem_mb": 600, "runtime": 8},
}


def through_slurm(cluster, checkout, *arguments: str, meanwhile=lambda: None) -> str:
    """Runs snakemake under the profile; returns what it printed.

    Args:
        meanwhile: is called again and again while it runs.
    """
    python = os.path.dirname(sys.executable)
    environment = {**cluster.environment, "PYTHONPATH": str(checkout.folder / "src")}
    environment["PATH"] = f"{python}:{environment['PATH']}"
    log = checkout.folder / "snakemake.log"
    with open(log, "w") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *PROFILE, *QUICK, *arguments],
            cwd=checkout.folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    until = time.monotonic() + LIMIT
    while running.poll() is None:
        meanwhile()
        if time.monotonic() > until:
            running.send_signal(signal.SIGINT)  # cancels its jobs
            running.wait(60)
        time.sleep(0.5)
    told = log.read_text()
    assert running.returncode == 0, f"{told[-5000:]}\n{cluster.jobs()}\n{cluster.logs()}"
    return told


def of_rule(cluster, rule: str) -> list[dict[str, str]]:
    return [job for job in cluster.jobs() if job["Comment"].startswith(f"rule_{rule}")]


def asked(job: dict[str, str]) -> tuple[str, int, str, str, int]:
    """GPUs, cores, memory, time limit and nodes of a job."""
    gpus = job.get("TresPerJob", "")
    cores = int(job["NumCPUs"])
    return gpus, cores, job["MinMemoryNode"], job["TimeLimit"], int(job["NumNodes"])


def test_jobs_ask_for_what_the_study_says_and_results_come_out(cluster, fresh):
    study = fresh.study(
        "clustered",
        sources={"visual": {}},
        tunings={"full": {**TRAINING, "processes": 2, "save_steps": 1}},
        evaluation={"text": {"ethics_cm": {"path": "micro:benchmarks/ethics", "limit": 4}}},
        jobs=JOBS,
    )
    # What asks for nothing special is made at once; SLURM takes it as it is.
    known = read(study)
    made = [f"{known.world}/models/{name}.json" for name in ("base", "tower")]
    made.append(f"{grid.instructions_spec(known)['folder']}/instructions.json")
    fresh.snakemake(*made, "--cores", "2", "--configfile", study)

    cancelled = []

    def cancel_the_first_tuning() -> None:
        running = [job for job in of_rule(cluster, "tune") if job["JobState"] == "RUNNING"]
        if running and not cancelled:
            cancelled.append(running[0]["JobId"])
            cluster.ask("scancel", running[0]["JobId"])

    scores = f"{grid.evaluation_specs(known)[0]['folder']}/scores.parquet"
    targets = ("train_all", scores, "--configfile", study)
    told = through_slurm(cluster, fresh, *targets, meanwhile=cancel_the_first_tuning)
    assert asked(of_rule(cluster, "align")[0]) == ("gres:gpu:1", 1, "700M", "00:09:00", 1)
    assert asked(of_rule(cluster, "cache_features")[0]) == ("gres:gpu:1", 1, "600M", "00:08:00", 1)
    assert asked(of_rule(cluster, "evaluate")[0]) == ("gres:gpu:1", 2, "900M", "00:11:00", 1)
    # Two processes; the attempt that was cancelled is followed by one that asks for more.
    first, second = of_rule(cluster, "tune")
    assert first["JobId"] == cancelled[0] and first["JobState"] == "CANCELLED"
    assert asked(first) == ("gres:gpu:2", 2, "1600M", "00:10:00", 1)
    assert asked(second) == ("gres:gpu:2", 2, "3200M", "00:20:00", 1)
    assert second["NodeList"] == "gpus"
    # What says nothing of its own has the profile's defaults.
    assert asked(of_rule(cluster, "check")[0]) == ("", 1, "4000M", "02:00:00", 1)

    record = next((fresh.folder / "results" / "runs").glob("*/train.json"))
    assert json.loads(record.read_text())["processes"] == 2
    assert (fresh.folder / scores).is_file()
    assert "SLURM run ID" in told
    assert fresh.planned(*targets) == {}


TRAINING = {
    "learning_rate": 2e-3,
    "batch_size": 16,
    "max_length": 512,
    "precision": "fp32",
    "gradient_checkpointing": False,
}
