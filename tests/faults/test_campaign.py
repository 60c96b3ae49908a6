"""A study that is killed at random moments has the tables of an undisturbed one.

Ten times here; `campaign.py` does it as often as it is asked to.
"""

import json
from pathlib import Path

import pandas as pd
import pytest
from faults.campaign import CHANGES, PLANNING, STEPS, Campaign, same, summary

SMALL = {**CHANGES, "sources": {"visual": {}}, "tunings": {"qlora": CHANGES["tunings"]["qlora"]}}


@pytest.mark.slow
@pytest.mark.campaign
def test_killed_ten_times_and_every_table_is_the_same(tmp_path):
    kept: list[str] = []

    def save(told: dict) -> None:
        kept.append(json.dumps(told))

    campaign = Campaign(tmp_path, save, changes=SMALL)
    campaign.prepare()
    campaign.run(5, seed=1)
    # As when the campaign itself was interrupted.
    again = Campaign(tmp_path, save, json.loads(kept[-1]), SMALL)
    again.prepare()
    again.run(10, seed=1)
    told = summary(again.told)
    assert told["kills"] == 10 and told["tables_that_differed"] == 0
    assert told["hits"].keys() <= STEPS | {PLANNING}
    assert told["of_all_processes"] and told["of_one_step"] and told["studies_finished"]
    for row in again.told["kills"]:
        # Snakemake tells which step failed; what was killed can tell nothing.
        assert row["lines"] == []


def test_tables_are_told_apart(tmp_path):
    """But for rounding, and for the time that trainings took."""

    def written(name: str, **columns) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        frame = pd.DataFrame(columns)
        frame.to_csv(path) if path.suffix == ".csv" else frame.to_parquet(path)
        return path

    one, two, three = (
        written(f"{folder}/scores.csv", run=["a"], value=[value])
        for folder, value in (("one", 0.5), ("two", 0.5000001), ("three", 0.501))
    )
    assert same(one, two) and not same(one, two, 0) and not same(one, three)
    one, two = (
        written(f"{folder}/runs.csv", samples=[3], train_seconds=[seconds])
        for folder, seconds in (("one", 1.0), ("two", 9.0))
    )
    assert same(one, two, 0)
    details = [json.dumps({"prompt": prompt, "loglikelihoods": [-9.0]}) for prompt in "xy"]
    one, two = (
        written(f"{folder}/items.parquet", score=[1.0], details=[told])
        for folder, told in zip(("one", "two"), details, strict=True)
    )
    assert same(one, one) and not same(one, two)
    assert not same(tmp_path / "none.csv", one)
