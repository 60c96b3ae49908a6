"""What a change of the study re-runs, counted in planned jobs of a study that is finished."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from checkouts import Checkout

pytestmark = pytest.mark.workflow

FIGURES = 7
DEFAULT_FIGURES, DEFAULT_TABLES = 11, 2


def test_a_second_run_has_nothing_to_do(finished):
    assert finished.planned("--configfile", finished.study("tiny")) == {}


CONDA = """#!/bin/sh
case "$*" in
    "info --json") echo '{"conda_prefix": "/nowhere", "platform": "linux-64"}' ;;
    "config --get channel_priority --json") echo '{"get": {"channel_priority": "strict"}}' ;;
    --version) echo "conda 25.9.1" ;;
    *) exit 1 ;;
esac
"""
"""A stand-in: a dry run asks conda for no more than this, and makes no environment."""


def test_switching_conda_on_plans_nothing(finished, tmp_path, monkeypatch):
    if shutil.which("conda") is None:
        conda = tmp_path / "bin" / "conda"
        conda.parent.mkdir()
        conda.write_text(CONDA)
        conda.chmod(0o755)
        monkeypatch.setenv("PATH", f"{conda.parent}:{os.environ['PATH']}")
    study = ("--configfile", finished.study("tiny"))
    told = finished.snakemake("-n", "--sdm", "conda", *study).stdout
    assert "Nothing to be done" in told
    rate = ("--configfile", finished.study("rate", tunings__lora__learning_rate=1e-3))
    assert finished.planned("--sdm", "conda", *rate) == finished.planned(*rate) != {}


def test_the_prefix_for_conda_calls_this_source(finished, monkeypatch):
    from snakemake.shell import shell

    from sight_beyond_text.session import from_source

    monkeypatch.setattr(shell, "_process_prefix", "")
    shell.prefix(from_source(finished.folder / "src"))
    command = f"{shell._process_prefix} sight schema | head -c 1; command -v sight"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    told = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert told.stdout == "{sight\n", told.stderr


def test_a_figure_colour_plans_only_drawing(finished):
    changed = finished.study("colour", figures__palette={"visual": "#aa3377"})
    assert finished.planned("--configfile", changed) == {"all": 1, "draw_figure": FIGURES}


def test_a_claim_plans_only_comparing_and_drawing(finished):
    claim = {
        "text": "Images raise VQA",
        "benchmark": "vqa",
        "runs": {"source": "visual"},
        "over": {"source": "text"},
    }
    planned = finished.planned("--configfile", finished.study("claim", claims={"images": claim}))
    assert planned["compare"] == planned["seal_tables"] == 1
    assert set(planned) <= {
        *("all", "compare", "seal_tables", "gather_pictures", "draw_figure", "draw_table"),
        "explore",
    }


def test_the_layout_of_the_tables_is_made_and_waited_for(finished):
    layout = "figures/data/tiny/layout.json"
    assert (finished.folder / layout).is_file()
    study = ("--configfile", finished.study("tiny"))
    asked = finished.planned(layout, *study, "--forcerun", "seal_tables")
    assert asked == {"seal_tables": 1}
    # Drawing again costs less than a figure of tables that are not whole.
    asked = finished.planned("figures", *study, "--forcerun", "seal_tables")
    assert asked["draw_figure"] > 1 and "compare" not in asked


def test_a_learning_rate_plans_only_its_tuning_and_what_follows(finished):
    changed = finished.study("rate", tunings__lora__learning_rate=1e-3)
    planned = finished.planned("--configfile", changed)
    planned.pop("all")
    assert planned == {
        "tune": 2,  # lora with each of the two sources
        "evaluate": 4,  # each on both suites
        "compare": 1,
        "gather_pictures": 1,
        "seal_tables": 1,
        "draw_figure": FIGURES,
        "draw_table": 1,
        "explore": 1,
    }


def test_evaluations_share_a_job_and_ask_nothing_twice(finished, tmp_path):
    checkout = Checkout(shutil.copytree(finished.folder, tmp_path / "copy"))
    pattern = "results/runs/*/*/scores.parquet"
    tables = sorted(checkout.folder.glob(pattern))
    before = [pd.read_parquet(table) for table in tables]
    answers = {path: path.stat() for path in checkout.folder.glob("results/runs/*/*/answers.jsonl")}
    assert len(tables) == len(answers) == 10
    shutil.rmtree(tables[0].parent)

    together = ("--configfile", checkout.study("together", jobs__evaluations_per_job=20))
    planned = checkout.planned("evaluate_all", *together)
    assert planned.pop("evaluate_1") == 1 and "evaluate" not in planned
    checkout.snakemake("evaluate_all", "--cores", "1", *together)
    assert sorted(checkout.folder.glob(pattern)) == tables
    for table, frame in zip(tables, before, strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(table), frame)
    del answers[tables[0].parent / "answers.jsonl"]
    for path, known in answers.items():
        assert (path.stat().st_size, path.stat().st_mtime) == (known.st_size, known.st_mtime)
    assert checkout.planned("evaluate_all", *together) == {}


def test_runs_share_a_job_and_none_is_trained_twice(finished, tmp_path):
    checkout = Checkout(shutil.copytree(finished.folder, tmp_path / "copy"))
    records = sorted(checkout.folder.glob("results/runs/*/train.json"))
    weights = {
        path: path.read_bytes() for path in checkout.folder.rglob("checkpoint/**/*.safetensors")
    }
    assert len(records) == 4 and weights
    before = {record: json.loads(record.read_text()) for record in records}
    shutil.rmtree(records[0].parent / "checkpoint")
    records[0].unlink()
    together = ("--configfile", checkout.study("together", jobs__trainings_per_job=3))
    planned = checkout.planned("train_all", *together)
    assert "tune" not in planned and planned["tune_1"] == 1
    checkout.snakemake("train_all", "--cores", "1", *together)
    assert {path: path.read_bytes() for path in weights} == weights
    assert json.loads(records[0].read_text())["curve"] == before.pop(records[0])["curve"]
    for record, known in before.items():
        assert json.loads(record.read_text()) == known  # the seconds of its training included
    assert checkout.planned("train_all", *together) == {}


def test_a_benchmark_plans_no_training(finished):
    changed = finished.study("limit", evaluation__text__ethics_cm__limit=5)
    planned = finished.planned("--configfile", changed)
    assert not {"tune", "align", "micro_base", "micro_world"} & set(planned)
    assert planned["evaluate"] == 5  # text suite of the base and the four runs


def test_another_study_shares_the_runs_of_the_first(finished):
    planned = finished.planned("--configfile", finished.study("shared", name="other"))
    made = {"gather_pictures", "seal_tables"}
    drawing = {"draw_figure", "draw_table", "explore"}
    assert set(planned) == {"all", "check_inputs", "compare", *made, *drawing}


def test_a_from_cache_that_is_no_boolean(finished):
    done = finished.snakemake("-n", "--config", "from_cache=ture", check=False)
    assert done.returncode != 0 and "from_cache: found 'ture'" in done.stdout


def test_a_second_seed_trains_only_that_seed(finished):
    planned = finished.planned("--configfile", finished.study("seeds", seeds=[0, 1]))
    assert planned["tune"] == 4
    assert planned["align"] == 1
    assert "micro_base" not in planned


def test_robustness_is_drawn_where_images_are_corrupted(fresh):
    foggy = {"kinds": ["fog"], "severities": [1]}
    changed = fresh.study("foggy", evaluation__image__vqa__corruptions=foggy)
    assert fresh.planned("--configfile", changed)["draw_figure"] == FIGURES + 2


def test_targets(finished, fresh):
    study = fresh.study("tiny")
    trained = fresh.planned("train_all", "--configfile", study)
    assert trained["tune"] == 4 and "evaluate" not in trained and "draw_figure" not in trained
    evaluated = fresh.planned("evaluate_all", "--configfile", study)
    assert evaluated["evaluate"] == 10 and "draw_figure" not in evaluated
    everything = fresh.planned("--configfile", study)
    assert everything["draw_figure"] == FIGURES and everything["tune"] == 4


def test_weights_are_not_declared_and_records_tell_what_was_trained(finished):
    records = sorted((finished.folder / "results" / "runs").glob("*/train.json"))
    assert len(records) == 4
    for path in records:
        record = json.loads(path.read_text())
        assert record["files"], "hashes of the weights"
        assert (path.parent / "checkpoint" / "projector.safetensors").is_file()
        losses = [point["loss"] for point in record["curve"]]
        assert losses[-1] < losses[0]


def test_logs_and_benchmark_files_mirror_the_results(finished):
    for path in (finished.folder / "results" / "runs").glob("*/train.json"):
        mirrored = finished.folder / "logs" / "runs" / path.parent.name
        assert (mirrored / "tune.log").is_file()
        assert (mirrored / "tune.benchmark.tsv").is_file()


def test_a_deleted_record_costs_no_second_training(finished, tmp_path):
    """Snakemake deletes declared outputs; the weights and their own record stay."""
    checkout = Checkout(shutil.copytree(finished.folder, tmp_path / "copy"))
    path = next((checkout.folder / "results" / "runs").glob("*visual-lora*/train.json"))
    weights = path.parent / "checkpoint" / "adapter" / "adapter_model.safetensors"
    before = weights.stat().st_mtime_ns
    kept = path.read_text()
    path.unlink()
    target = str(path.relative_to(checkout.folder))
    checkout.snakemake(target, "--cores", "1", "--configfile", checkout.study("tiny"))
    assert weights.stat().st_mtime_ns == before
    assert path.read_text() == kept


def test_a_fresh_clone_runs_everything_in_whatever_order_its_files_were_written(fresh):
    """Git writes them within a few milliseconds, and their dates mean nothing."""
    folder = fresh.folder / "figures"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    planned = []
    for late in ("layout.json", "scores.csv", "images.parquet", "items.parquet", "main_table.md"):
        (last,) = [path for path in files if path.name == late and "micro" in path.parts]
        for path in files:
            os.utime(path, (1.7e9, 1.7e9 + (path == last)))
        planned.append(fresh.planned())
    assert planned[0]["compare"] == planned[0]["tune_1"] == 1
    assert all(other == planned[0] for other in planned[1:])


def test_cached_tables_redraw_everything_and_can_train_nothing(fresh):
    planned = fresh.planned("figures", "--config", "from_cache=true")
    drawn = {"draw_figure": DEFAULT_FIGURES, "draw_table": DEFAULT_TABLES, "explore": 1}
    assert planned == {"figures": 1, **drawn}
    rules = fresh.snakemake("--list-rules", "--config", "from_cache=true").stdout
    assert "tune" not in rules and "align" not in rules and "evaluate" not in rules


def test_cached_tables_give_the_same_figures(fresh):
    committed = {
        path.name: path.read_bytes()
        for path in (fresh.folder / "figures" / "micro").iterdir()
        if path.suffix in (".svg", ".csv")
    }
    fresh.snakemake("figures", "--config", "from_cache=true", "--cores", "2")
    for name, content in committed.items():
        assert (fresh.folder / "figures" / "micro" / name).read_bytes() == content, name
