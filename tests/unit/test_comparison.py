"""Comparing run by run gives what comparing whole tables gives; and its benchmark measures it."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.compare import compare
from sight_beyond_text.errors import UserError

from .synthetic_tables import make_tables


def evaluated(tables: tidy.Tables, folder) -> dict:
    """Writes what evaluations leave; the study, as `compare` takes it."""
    subjects = []
    for run in tables.runs.to_dict("records"):
        evaluations = []
        for suite in ("text", "image"):
            own = folder / "runs" / run["run"] / suite
            for table in ("scores", "items"):
                frame = getattr(tables, table)
                frame = frame[(frame["run"] == run["run"]) & (frame["suite"] == suite)]
                tidy.write_parquet(frame, own / f"{table}.parquet")
            evaluations.append(str(own))
        known = ("label", "kind", "source", "tuning", "instruction_kinds")
        seed = None if pd.isna(run["seed"]) else run["seed"]
        subject = {"id": run["run"], "base_name": run["base"], "seed": seed, "record": None}
        subject |= {name: run[name] for name in known}
        subjects.append(subject | {"alignment_record": None, "evaluations": evaluations})
    return {"study": "made", "subjects": subjects[::-1]}


def test_run_by_run_is_as_all_at_once(tmp_path):
    made = make_tables(
        bases=("b",), tunings=("full",), seeds=(0, 1), reference=True, scale=0.2, draws=2000
    )
    compare(evaluated(made, tmp_path), tmp_path / "tables", tmp_path / "record.json")
    for table in ("effects", "over_seeds", "intervals"):
        tidy.write_csv(getattr(made, table), tmp_path / "whole" / tidy.FILES[table])
        found = (tmp_path / "tables" / tidy.FILES[table]).read_bytes()
        assert found == (tmp_path / "whole" / tidy.FILES[table]).read_bytes(), table
    tidy.write_parquet(made.items, tmp_path / "whole" / "items.parquet")
    items, whole = (
        pd.read_parquet(tmp_path / place / "items.parquet") for place in ("tables", "whole")
    )
    pd.testing.assert_frame_equal(items, whole)


@pytest.mark.parametrize("wrong", ["column", "bytes", "gone"])
def test_broken_items_are_refused_by_name(tmp_path, wrong):
    made = make_tables(bases=("b",), sources=("text",), tunings=("full",), scale=0.05, draws=10)
    spec = evaluated(made, tmp_path)
    path = tmp_path / "runs" / "b-untuned" / "text" / "items.parquet"
    if wrong == "column":
        pd.read_parquet(path).drop(columns="cluster").to_parquet(path)
    elif wrong == "bytes":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
    with pytest.raises(UserError) as error:
        compare(spec, tmp_path / "tables", tmp_path / "record.json")
    assert str(error.value).startswith(f"{path}: ")
    expected = {"column": "lacks the column(s) cluster", "bytes": "not readable", "gone": "no such"}
    assert expected[wrong] in str(error.value)
    # What was begun is not taken for a table.
    assert not (tmp_path / "tables" / "items.parquet").exists()
    assert not (tmp_path / "record.json").exists()


@pytest.mark.slow
def test_the_benchmark_tells_what_it_measured(repository, tmp_path):
    out = tmp_path / "told.json"
    script = repository / "benchmarks" / "comparison.py"
    done = subprocess.run(
        [sys.executable, str(script), "--share", "0.005", "--work", str(tmp_path)]
        + ["--out", str(out)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["runs"] == 50
    assert report["compare"]["seconds"] > 0 and report["effects"] > 1000
    assert "| `sight compare` |" in out.with_suffix(".md").read_text()
