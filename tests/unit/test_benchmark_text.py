"""The comparison of text evaluations can be measured in parts, and tells no paths."""

import json
import sys

import pytest

SETTINGS = {
    "hardware": {"cpu": "A", "cpus": 2, "memory_gib": 4.0},
    "versions": {"torch": "2"},
    "shape": "134m",
    "parameters": 134_000_000,
    "precision": "fp32",
    "threads": 2,
    "batch_size": 8,
    "tokens_of_an_answer": 128,
}


@pytest.fixture
def benchmark(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import text_evaluation

    return text_evaluation


def row(task, seconds=1.0):
    return {
        "task": task,
        "items": 8,
        "hf": {"seconds": 2.0, "peak_mib": 10.0},
        "sight": {"seconds": seconds, "peak_mib": 5.0},
        "times_faster": 2.0 / seconds,
        "target": 1,
        "difference": 1e-6,
        "same_texts": None,
    }


def test_parts_are_put_together(benchmark, tmp_path):
    out = tmp_path / "text.json"
    for made in (row("gsm8k"), row("truthfulqa_mc1"), row("gsm8k", 0.5)):
        report = benchmark.begun(out, SETTINGS)
        report["tasks"] = benchmark.merged(report["tasks"], made)
        benchmark.keep(report, out)
    report = json.loads(out.read_text())
    assert [made["task"] for made in report["tasks"]] == ["truthfulqa_mc1", "gsm8k"]
    assert report["tasks"][1]["times_faster"] == 4
    table = out.with_suffix(".md").read_text()
    assert "| gsm8k | 8 | 2.0 | 0.5 | 4.0 | 1 | 10 | 5 | within 1e-06 |" in table


def test_what_was_measured_otherwise_is_not_mixed(benchmark, tmp_path):
    out = tmp_path / "text.json"
    benchmark.keep(benchmark.begun(out, SETTINGS), out)
    with pytest.raises(SystemExit, match="measured otherwise"):
        benchmark.begun(out, {**SETTINGS, "threads": 1})


def test_the_command_tells_no_paths(benchmark, monkeypatch):
    given = [
        "x",
        "/a/data",
        "--items",
        "2",
        "--tasks",
        "gsm8k",
        "boolq",
        "--out",
        "/b",
        "--threads",
    ]
    monkeypatch.setattr(sys, "argv", [*given, "1", "--no-adapters", "--work", "/c"])
    assert benchmark.command() == (
        "python benchmarks/text_evaluation.py DATA --items 2 --threads 1"
    )


def test_the_committed_measurement_meets_its_targets(benchmark, repository):
    report = json.loads((repository / "benchmarks/results/text_evaluation.json").read_text())
    rows = {row["task"]: row for row in report["tasks"]}
    assert report["parameters"] >= 100_000_000
    assert set(rows) == set(benchmark.ITEMS)
    wanted = {"truthfulqa_mc1": 5, "truthfulqa_mc2": 5, "mmlu": 3, "gsm8k": 1.3}
    wanted |= {"ethics_virtue": 2, "ethics_deontology": 2}
    for task, row in rows.items():
        assert row["target"] == wanted.get(task, 1), task
        times = row["hf"]["seconds"] / row["sight"]["seconds"]
        assert row["times_faster"] == pytest.approx(times)
        assert times >= row["target"], task
        assert row["sight"]["peak_mib"] <= row["hf"]["peak_mib"], task
        assert (row["difference"] or 0) < 1e-4, task
        assert row["same_texts"] in (None, 1.0), task
    adapters = report["adapters"]
    assert adapters["adapters"] == 10 and adapters["loads"] == 1
    single, load = adapters["seconds_of_one"], adapters["seconds_of_a_load"]
    assert adapters["seconds_of_all"] < 10 * single - 9 * load
