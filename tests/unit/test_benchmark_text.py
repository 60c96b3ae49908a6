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
