"""The smallest effect that is foretold is found as often as it is said: simulated, and measured."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from sight_beyond_text import power, study
from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.effects import paired_effects
from sight_beyond_text.benchmark_sizes import TEXT, Size, image_size, text_size

RUNS = pd.DataFrame(
    [
        {"run": name, "kind": kind, "base": "b", "source": source, "tuning": tuning, "seed": 0}
        for name, kind, source, tuning in (
            ("base", "base", None, None),
            ("run", "run", "visual", "full"),
        )
    ]
).assign(instruction_kinds="all")


def answers(items: int, together: int, difference: float, discordance: float, seed: int):
    """Scores of two runs: a share of items changes sides, one way more often than the other.

    Items of a cluster change in the same way with the probability of `power.CORRELATION`.
    """
    chance = np.random.default_rng(seed)
    ups = (discordance + difference) / 2
    shares = (ups, discordance - ups, 1 - discordance)
    clusters = np.repeat(np.arange(math.ceil(items / together)), together)[:items]
    own = chance.choice((1, -1, 0), size=items, p=shares)
    of_cluster = chance.choice((1, -1, 0), size=clusters[-1] + 1, p=shares)[clusters]
    # Two of a cluster agree if both follow it, so with the square of this probability.
    follows = (chance.random(items) < math.sqrt(power.CORRELATION)) & (together > 1)
    change = np.where(follows, of_cluster, own)
    before = np.where(change == 0, chance.integers(0, 2, items), change < 0).astype(float)
    return before, before + change, clusters


@pytest.mark.parametrize(("items", "discordance"), [(200, 0.3), (817, 0.3), (3000, 0.1)])
def test_mcnemar_finds_it_in_four_of_five_simulated_studies(items, discordance) -> None:
    difference = power.smallest_difference(items, discordance)
    found = 0
    for seed in range(400):
        before, after, _ = answers(items, 1, difference, discordance, seed)
        up, down = int(((after - before) > 0).sum()), int(((after - before) < 0).sum())
        found += mcnemar([[0, up], [down, 0]], exact=False, correction=False).pvalue < power.LEVEL
    assert found / 400 == pytest.approx(power.POWER, abs=0.06)


@pytest.mark.parametrize("together", [1, 5])
def test_the_paired_bootstrap_finds_it_as_often(together) -> None:
    """`analysis.effects`: the interval leaves out zero."""
    size = Size(600, together)
    difference = power.smallest_difference(power.independent(size), power.DISCORDANCE)
    found, studies = 0, 120
    for seed in range(studies):
        before, after, clusters = answers(600, together, difference, power.DISCORDANCE, seed)
        rows = [
            {"run": run, "suite": "text", "benchmark": "x", "metric": "acc", "item": f"{number}",
             "cluster": f"c{clusters[number]}", "score": score}
            for run, scores in (("base", before), ("run", after))
            for number, score in enumerate(scores)
        ]  # fmt: skip
        (effect,) = paired_effects(RUNS, pd.DataFrame(rows), seed, draws=400).to_dict("records")
        found += effect["low"] > 0
    assert found / studies == pytest.approx(power.POWER, abs=0.1)


def test_means_over_seeds_find_smaller_differences_as_often() -> None:
    """Of what a question differs by, a part is drawn once and the rest anew by each seed."""
    items, seeds, studies = 600, 3, 300
    single = power.smallest_difference(power.independent(Size(items)), power.DISCORDANCE)
    difference = power.smallest_difference(power.independent(Size(items), seeds), power.DISCORDANCE)
    assert difference < single
    ups = (power.DISCORDANCE + difference) / 2
    shares, chance = (ups, power.DISCORDANCE - ups, 1 - power.DISCORDANCE), np.random.default_rng(0)
    found = 0
    for _ in range(studies):
        lasting = chance.choice((1, -1, 0), size=(1, items), p=shares)
        own = chance.choice((1, -1, 0), size=(seeds, items), p=shares)
        # Two seeds agree where both follow what lasts, so with the square of this probability.
        follows = chance.random((seeds, items)) < math.sqrt(power.LASTING)
        means = np.where(follows, lasting, own).mean(axis=0)
        found += means.mean() > 1.96 * means.std(ddof=1) / math.sqrt(items)
    assert found / studies == pytest.approx(power.POWER, abs=0.07)


def test_intervals_that_allow_for_seeds_cost_part_of_what_averaging_gains() -> None:
    plain = {seeds: math.sqrt(power.LASTING + (1 - power.LASTING) / seeds) for seeds in (2, 3, 9)}
    found = {seeds: power.over_seeds(1.0, seeds) for seeds in plain}
    # Two seeds tell so little of what seeds differ by that one run alone shows more of the items.
    assert found[2] > 1 > found[3] > found[9] > plain[9]
    assert found[9] == pytest.approx(plain[9], rel=0.02)
    assert power.over_seeds(0.1, 3) == pytest.approx(found[3] / 10)


def test_groups_of_a_benchmark_are_not_measured_for_the_whole(tmp_path) -> None:
    table = tmp_path / "effects.csv"
    rows = ["text,mmlu,acc,-0.1,0.1,80", "text,mmlu,acc_stem,-0.2,0.2,20"]
    table.write_text("\n".join(["suite,benchmark,metric,low,high,n", *rows]) + "\n")
    ((test, found),) = power._measured(table).items()
    assert (test, list(found)) == (("text", "mmlu"), ["acc"])


def test_what_no_number_of_changes_could_show_is_not_promised() -> None:
    assert power.smallest_difference(10, 0.1) is None
    assert power.smallest_difference(0, 0.3) is None
    assert power.smallest_difference(817, 0.3) == pytest.approx(0.0535, abs=0.001)


def test_more_questions_apart_and_more_seeds_detect_less() -> None:
    assert power.independent(Size(100, 6)) < power.independent(Size(100)) == 100
    assert 100 < power.independent(Size(100), 3) < 200


def of(tmp_path, name="paper", **further) -> study.Study:
    values = {
        "name": name,
        "data": {"images": "i", "instructions": "a", "alignment": "b"},
        "tower": {"preset": "published"},
        "bases": {"seven": {"model": "meta-llama/Llama-2-7b-hf"}},
        "sources": {"visual": {}},
        "alignment": {"preset": "published"},
        "tunings": {"full": {"preset": "published"}},
        "evaluation": {
            "text": {"truthfulqa_mc1": {}, **{task: {} for task in names.ETHICS}},
            "image": {
                "pope": {"type": "pope", "images": "i", "questions": "q"},
                "coco": {"type": "captions", "images": "i", "annotations": "dataset_coco.json"},
            },
        },
    }
    return study.load({**values, **further})


def test_a_study_without_tables_is_told_by_sizes_and_assumptions(tmp_path) -> None:
    rows = {row["benchmark"]: row for row in power.smallest_effects(of(tmp_path), figures=tmp_path)}
    assert rows["truthfulqa_mc1"]["items"] == 817
    assert rows["truthfulqa_mc1"]["pair"] == pytest.approx(0.0535, abs=0.001)
    assert rows["truthfulqa_mc1"]["from"] == "assumed" and rows["truthfulqa_mc1"]["seeds"] is None
    assert rows["pope"]["items"] == 3000 and rows["pope"]["together"] == 6
    # The mean of five is known better than any of them.
    assert rows["ethics"]["pair"] < min(rows[task]["pair"] for task in names.ETHICS)
    assert (rows["coco"]["metric"], rows["coco"]["from"]) == ("CIDEr", "assumed")
    assert rows["coco"]["pair"] == pytest.approx(2.80 * power.SPREAD / math.sqrt(5000), rel=0.01)
    more = power.smallest_effects(of(tmp_path, seeds=[0, 1, 2]), figures=tmp_path)
    assert more[0]["seeds"] < more[0]["pair"]
    surer = power.smallest_effects(of(tmp_path), discordance=0.1, figures=tmp_path)
    assert surer[0]["pair"] < rows["truthfulqa_mc1"]["pair"]


def test_measured_tables_take_the_place_of_assumptions(tmp_path) -> None:
    before, after, _ = answers(400, 1, 0.05, 0.12, 0)
    rows = [
        {"run": run, "suite": "text", "benchmark": "truthfulqa_mc1", "metric": "acc",
         "item": f"{number}", "cluster": "", "score": score}
        for run, scores in (("base", before), ("run", after))
        for number, score in enumerate(scores)
    ]  # fmt: skip
    effects = paired_effects(RUNS, pd.DataFrame(rows))
    (tmp_path / "paper").mkdir()
    effects.to_csv(tmp_path / "paper" / "effects.csv", index=False)
    (row,) = [
        row
        for row in power.smallest_effects(of(tmp_path), figures=tmp_path)
        if row["benchmark"] == "truthfulqa_mc1"
    ]
    assert (row["from"], row["metric"], row["items"]) == ("measured", "acc", 817)
    assert row["pair"] == pytest.approx(2.80 * math.sqrt(0.12 / 817), rel=0.1)


def test_names_and_sizes_agree_with_the_analysis_and_the_files(shared_data) -> None:
    assert power.ETHICS == names.ETHICS
    folder = str(shared_data / "ethics")
    for task in names.ETHICS:
        assert text_size(task, {"path": folder, "task": None, "limit": None}) == TEXT[task]
    hard = {"task": "ethics_virtue", "limit": None}
    file = f"{folder}/virtue/virtue_test_hard.csv"
    nowhere = {**hard, "path": "nowhere/virtue_test_hard.csv"}
    assert text_size("x", {**hard, "path": file}) == text_size("x", nowhere)
    mmlu = {"path": str(shared_data / "mmlu"), "task": None, "limit": None}
    assert text_size("mmlu", mmlu).items == TEXT["mmlu"].items == 14_042
    assert text_size("ethics_cm", {"path": folder, "task": None, "limit": 100}).items == 100


def test_published_captioners_differ_by_no_more_than_is_assumed(shared_data) -> None:
    from sight_beyond_text.evaluation.scorers import captions

    folder = shared_data / "captions" / "flickr30k_karpathy_test"
    references = json.loads((folder / "references.json").read_text())
    scores = []
    for name in ("coco_train_1", "flicker30K_1"):
        rows = json.loads((folder / f"predictions_{name}.json").read_text())
        said = {row["image_id"]: row["caption"] for row in rows}
        scores.append(captions.score(said, references)[1]["score"])
    spread = (scores[0] - scores[1]).std()
    assert power.SPREAD / 2 < spread < power.SPREAD


def test_questions_are_counted_where_they_can_be(tmp_path) -> None:
    (tmp_path / "pope.jsonl").write_text('{"question_id": 1}\n{"question_id": 2}\n')
    with gzip.open(tmp_path / "pope.jsonl.gz", "wt") as stream:
        stream.write('{"question_id": 1}\n')
    entry = {"type": "pope", "images": "coco/val2017", "max_new_tokens": 10, "limit": None}

    def items(**further) -> int:
        return image_size({**entry, **further}, 256).items

    assert items(questions=str(tmp_path / "pope.jsonl")) == 2
    for elsewhere in ("nowhere", str(tmp_path / "pope.jsonl.gz")):
        assert items(questions=elsewhere) == 3000
    assert items(questions="nowhere", only_present=True) == 375
    assert items(questions="nowhere", only_present=True, images="coco/val2014") == 3000
    assert items(questions="nowhere", limit=50) == 50
    unknown = {**entry, "type": "vqa", "subset": None, "questions": "my_own.json"}
    assert image_size(unknown, 256) is None
