"""A study that is killed at random moments has the tables of an undisturbed one.

Ten times here; `campaign.py` does it a hundred times (benchmarks/results/faults.json).
"""

import json

import pytest
from faults.campaign import CHANGES, PLANNING, STEPS, Campaign, summary

SMALL = {**CHANGES, "sources": {"visual": {}}, "tunings": {"qlora": CHANGES["tunings"]["qlora"]}}


@pytest.mark.slow
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
