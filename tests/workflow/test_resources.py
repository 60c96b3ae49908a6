"""What jobs get on one machine: GPUs, threads, and that neither runs anything again."""

import re
from collections import Counter

import pytest
import yaml

pytestmark = pytest.mark.workflow

WORKSTATION = ("--workflow-profile", "workflow/profiles/workstation")


def given(checkout, *arguments: str) -> Counter:
    """How many jobs of a dry run call `sight` with which command, threads and GPUs."""
    told = checkout.snakemake("-n", "-p", *arguments).stdout
    calls = re.findall(r"sight (\w+) .* --threads (\d+) --gpus (\d+)", told)
    return Counter((command, int(threads), int(gpus)) for command, threads, gpus in calls)


def test_a_study_of_several_processes_plans_a_gpu_for_each(fresh):
    study = fresh.study("four", tunings__full__processes=4, jobs={"tune": {"threads": 2}})
    planned = given(fresh, "--cores", "16", "--resources", "gpu=8", "--configfile", study)
    assert planned == {
        ("tune", 8, 4): 2,
        ("tune", 2, 1): 2,
        ("align", 4, 1): 1,
        ("features", 4, 1): 2,
        ("evaluate", 4, 1): 10,
    }


def test_the_default_study_asks_for_no_gpu_and_one_core_a_job(fresh):
    planned = given(fresh, "--cores", "2")
    assert {(threads, gpus) for _, threads, gpus in planned} == {(1, 0)}
    # All runs of a base are trained in one job, and scored in one.
    assert sum(planned.values()) == 2 + 2 + 2 + 2


def test_other_resources_run_nothing_again(finished):
    jobs = {"tune": {"threads": 3, "mem_mb": 9000, "runtime": 9}}
    study = finished.study("more", jobs=jobs)
    assert finished.planned("--cores", "4", "--configfile", study) == {}


@pytest.mark.parametrize("arguments", (("--cores", "16"), WORKSTATION))
def test_no_more_gpus_are_used_than_there_are(fresh, monkeypatch, arguments):
    study = fresh.study("four", tunings__full__processes=4, jobs={})
    monkeypatch.setenv("SIGHT_GPUS", "2")
    assert {gpus for _, _, gpus in given(fresh, *arguments, "--configfile", study)} == {1, 2}
    monkeypatch.setenv("SIGHT_GPUS", "0")
    assert {gpus for _, _, gpus in given(fresh, *arguments, "--configfile", study)} == {1, 4}


@pytest.mark.parametrize("name, machine", (("slurm", False), ("workstation", True)))
def test_profiles_keep_what_the_default_one_says(repository, name, machine):
    def read(path):
        return yaml.safe_load((repository / path / "profile.yaml").read_text())

    default = read("profiles/default")
    if not machine:
        # The GPUs of the machine that submits jobs say nothing of the cluster's.
        default = {key: default[key] for key in ("rerun-triggers", "scheduler")}
    assert default.items() <= read(f"workflow/profiles/{name}").items()
