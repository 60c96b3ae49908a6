"""What the default study shows: on the tables in the repository, and on a study run anew."""

import json
import time

import pandas as pd
import pytest
from checkouts import copy

from sight_beyond_text.analysis.tidy import read_tables

pytestmark = pytest.mark.end_to_end

MARGIN = 0.20
"""How much better images make the answers to the micro image questions, at the least."""

MINUTES = 20


def check_learning(tables) -> None:
    """Images teach: every unfrozen visual run against its twin that had text alone."""
    effects = tables.effects
    visual = effects[(effects["contrast"] == "visual - text") & (effects["benchmark"] == "vqa")]
    visual = visual[visual["metric"] == "accuracy"]
    assert sorted(zip(visual["base"], visual["tuning"], strict=True)) == sorted(
        (base, tuning)
        for base in ("micro-base", "micro-chat")
        for tuning in ("full", "lora", "qlora")
    )
    for row in visual.itertuples():
        assert row.difference >= MARGIN, row
        assert row.low > 0, row


def check_losses(tables) -> None:
    for (run, stage), curve in tables.curves.groupby(["run", "stage"]):
        losses = curve.sort_values("step")["loss"].to_numpy()
        tenth = max(1, len(losses) // 10)
        assert losses[-tenth:].mean() < losses[:tenth].mean(), (run, stage)


def check_grid(tables) -> None:
    runs = tables.runs
    assert len(runs[runs["kind"] == "run"]) == 20
    assert len(runs[runs["kind"] == "base"]) == 2
    frozen = runs[runs["tuning"] == "frozen"]
    assert set(frozen["source"]) == {"visual"}
    # A frozen LLM answers texts as its base does, item by item.
    text = tables.items[tables.items["suite"] == "text"].set_index(["run", "benchmark", "item"])
    for row in frozen.itertuples():
        base = runs[(runs["kind"] == "base") & (runs["base"] == row.base)]["run"].iloc[0]
        pd.testing.assert_series_equal(text.loc[row.run, "score"], text.loc[base, "score"])


def test_the_tables_in_the_repository(repository):
    tables = read_tables(repository / "figures" / "data" / "micro")
    check_grid(tables)
    check_losses(tables)
    check_learning(tables)


@pytest.mark.slow
@pytest.mark.timed
def test_a_study_run_anew(repository, tmp_path):
    checkout = copy(repository, tmp_path / "clone")
    started = time.monotonic()
    checkout.snakemake("--cores", "2")
    minutes = (time.monotonic() - started) / 60
    tables = read_tables(checkout.folder / "figures" / "data" / "micro")
    check_grid(tables)
    check_losses(tables)
    check_learning(tables)
    assert checkout.planned() == {}
    for path in checkout.folder.glob("results/runs/*/train.json"):
        record = json.loads(path.read_text())
        learned = set(record["learned_tensors"])
        assert not any("vision_tower" in name for name in learned)
    print(f"the default study took {minutes:.1f} minutes")
    assert minutes < MINUTES
