"""What jobs ask of Snakemake and SLURM."""

import subprocess
import sys

import pytest
import yaml

from sight_beyond_text import grid, study
from sight_beyond_text.errors import UserError
from sight_beyond_text.jobs import asked


@pytest.fixture
def tiny(repository):
    """The tiny study; gives a function that reads it with other `jobs` and `processes`."""
    values = yaml.safe_load((repository / "tests" / "workflow" / "tiny.yaml").read_text())

    def of(processes: int = 1, **jobs) -> study.Study:
        full = {**values["tunings"]["full"], "processes": processes}
        tunings = {**values["tunings"], "full": full}
        return study.load({**values, "tunings": tunings, "jobs": jobs})

    return of


def tuned(read: study.Study) -> grid.Spec:
    return next(spec for spec in grid.run_specs(read) if spec["mode"] == "full")


def test_each_process_has_a_gpu_and_its_share(tiny):
    read = tiny(processes=4)
    expected = {"gpu": 4, "threads": 16, "mem_mb": 128_000, "runtime": 480}
    assert asked(read, "tune", tuned(read)) == expected
    evaluation = grid.evaluation_specs(read)[0]
    assert asked(read, "evaluate", evaluation)["gpu"] == 1
    assert asked(read, "cache_features", grid.features_specs(read)[0])["threads"] == 4


def test_a_study_of_cpus_asks_for_no_gpu_and_one_core_a_process(tiny):
    read = tiny(processes=2, gpu=False)
    expected = {"gpu": 0, "threads": 2, "mem_mb": 8000, "runtime": 120}
    assert asked(read, "tune", tuned(read)) == expected


def test_a_study_says_what_a_kind_of_job_needs(tiny):
    read = tiny(processes=2, tune={"threads": 8, "mem_mb": 64_000, "runtime": 1440})
    expected = {"gpu": 2, "threads": 16, "mem_mb": 128_000, "runtime": 1440}
    assert asked(read, "tune", tuned(read)) == expected
    assert asked(read, "align", grid.align_specs(read)[0])["runtime"] == 480


def test_each_attempt_asks_for_more_memory_and_time(tiny):
    read = tiny(gpu=False)
    first, third = (asked(read, "tune", tuned(read), attempt) for attempt in (1, 3))
    assert third == {**first, "mem_mb": 3 * first["mem_mb"], "runtime": 3 * first["runtime"]}


def test_what_jobs_ask_for_is_no_part_of_any_spec(tiny):
    one = tiny()
    other = tiny(processes=1, gpu=False, tune={"threads": 2, "mem_mb": 1, "runtime": 1})
    for specs in (grid.run_specs, grid.align_specs, grid.evaluation_specs, grid.features_specs):
        assert specs(one) == specs(other)


def test_evaluations_of_one_base_share_a_job(tiny, repository):
    read = study.read(repository / "config.yaml")
    alone = grid.evaluation_specs(read)
    assert [len(group) for group in grid.evaluations_together(tiny())] == [1] * 10
    for size, expected in ((22, [22, 22]), (15, [7, 7, 15, 15]), (100, [22, 22])):
        jobs = read.jobs.model_copy(update={"evaluations_per_job": size})
        groups = grid.evaluations_together(read.model_copy(update={"jobs": jobs}))
        assert sorted(map(len, groups)) == expected
        folders = sorted(spec["folder"] for group in groups for spec in group)
        assert folders == sorted(spec["folder"] for spec in alone)
        for group in groups:
            assert len({spec["subject"]["base"]["model"] for spec in group}) == 1


def test_runs_of_one_base_share_a_job_unless_they_take_several_processes(tiny, repository):
    read = study.read(repository / "config.yaml")
    alone = sorted(spec["id"] for spec in grid.run_specs(read))
    for size, expected in ((5, [5, 5, 5, 5]), (100, [10, 10]), (1, [1] * 20)):
        jobs = read.jobs.model_copy(update={"trainings_per_job": size})
        groups = grid.trainings_together(read.model_copy(update={"jobs": jobs}))
        assert sorted(map(len, groups)) == expected
        assert sorted(spec["id"] for group in groups for spec in group) == alone
        for group in groups:
            assert len({spec["projector"] for spec in group}) == 1
    several = tiny(processes=2, trainings_per_job=100)
    groups = grid.trainings_together(several)
    modes = sorted([spec["mode"] for spec in group] for group in groups)
    assert modes == [["full"], ["full"], ["lora", "lora"]]


def test_no_job_has_more_than_fits_into_a_command(repository):
    read = study.read(repository / "workflow" / "studies" / "paper.yaml")
    jobs = read.jobs.model_copy(update={"evaluations_per_job": 100})
    groups = grid.evaluations_together(read.model_copy(update={"jobs": jobs}))
    assert sum(map(len, groups)) == len(grid.evaluation_specs(read))
    lengths = [sum(len(str(spec)) for spec in group) for group in groups]
    assert max(lengths) <= 1_000_000 and max(map(len, groups)) > 10


def test_a_mistake_is_told(tiny):
    with pytest.raises(UserError, match=r"jobs\.tune\.memory: unknown key"):
        tiny(tune={"memory": 1})


def test_torch_is_not_imported(repository):
    code = (
        "import sys, sight_beyond_text.jobs, sight_beyond_text.leases\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    source = {"PYTHONPATH": str(repository / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=source).returncode == 0


def test_a_plan_tells_the_processes_where_a_run_has_several(tiny):
    from sight_beyond_text.plan import as_table, plan

    several = as_table(plan(tiny(processes=4))).splitlines()
    assert several[1].split()[-1] == "processes"
    assert {line.split()[-1] for line in several if "-full-" in line} == {"4"}
    assert "processes" not in as_table(plan(tiny())).splitlines()[1]
