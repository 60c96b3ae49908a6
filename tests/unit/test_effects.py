"""Paired effects: known answers, calibration of the intervals, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.analysis.effects import contrasts, mean_interval, paired_effects
from sight_beyond_text.errors import UserError

from .synthetic_tables import make_tables


def runs_table(*rows: tuple) -> pd.DataFrame:
    """Runs from (run, kind, base, source, tuning[, seed])."""
    table = tidy.empty("runs")
    for row in rows:
        run, kind, base, source, tuning, *seed = row
        table.loc[len(table), ["run", "kind", "base", "source", "tuning", "seed"]] = [
            *(run, kind, base, source, tuning),
            seed[0] if seed else 0,
        ]
    table["instruction_kinds"] = "all"
    return table


def items_table(run: str, scores, benchmark="mmlu", clusters=None, metric="acc") -> pd.DataFrame:
    """Items `q0`, `q1`, ... of one run."""
    names_ = [f"q{place}" for place in range(len(scores))]
    return pd.DataFrame(
        {
            "run": run,
            "suite": "text",
            "benchmark": benchmark,
            "metric": metric,
            "item": names_,
            "cluster": names_ if clusters is None else clusters,
            "prediction": "",
            "reference": "",
            "score": np.asarray(scores, float),
            "details": "{}",
        }
    )


PAIR = runs_table(("tuned", "run", "b", "visual", "full"), ("base", "base", "b", "", ""))


def effect_of(tuned, base, **kwargs) -> pd.Series:
    items = pd.concat([items_table("tuned", tuned, **kwargs), items_table("base", base, **kwargs)])
    effects = paired_effects(PAIR, items)
    assert len(effects) == 1
    return effects.iloc[0]


def test_means_and_their_difference_are_those_computed_by_hand():
    effect = effect_of([1, 0.5, 0.25, 1], [0.5, 0.5, 0, 0])
    assert effect["contrast"] == "tuned - base"
    assert (effect["run"], effect["other"]) == ("tuned", "base")
    assert effect["value"] == pytest.approx(2.75 / 4)
    assert effect["other_value"] == pytest.approx(0.25)
    assert effect["difference"] == pytest.approx(1.75 / 4)
    assert (effect["n"], effect["n_clusters"]) == (4, 4)
    # Resampled means lie between the smallest and the largest difference.
    assert 0 <= effect["low"] < effect["difference"] < effect["high"] <= 1


def test_items_of_large_clusters_keep_their_weight():
    effect = effect_of([1, 1, 1, 0], [0, 0, 0, 0.5], clusters=["a", "a", "a", "b"])
    assert effect["difference"] == pytest.approx(2.5 / 4)
    assert effect["n_clusters"] == 2


def test_p_of_right_and_wrong_answers_is_mcnemars():
    # Five items gained, one lost: twice the chance of at most one head in six throws.
    effect = effect_of([1, 1, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 1, 0])
    assert effect["p"] == pytest.approx(2 * 7 / 64)


def test_p_flips_whole_clusters():
    # Three clusters all in favour: only all signs alike are as extreme, 2 of 8.
    clusters = ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    effect = effect_of([1] * 15, [0] * 15, clusters=clusters)
    assert effect["p"] == pytest.approx(0.25, abs=0.04)


def test_no_difference_is_shown_as_none():
    effect = effect_of([1, 0, 0.3], [1, 0, 0.3])
    assert (effect["difference"], effect["low"], effect["high"], effect["p"]) == (0, 0, 0, 1)


def test_one_cluster_gives_no_interval():
    effect = effect_of([1, 1, 0], [0, 0, 0], clusters=["a", "a", "a"])
    assert np.isnan(effect["low"]) and np.isnan(effect["high"])


def test_every_run_meets_its_base_and_its_neighbours():
    found = contrasts(make_tables(image=False, scale=0.05, draws=10).runs)
    counts = pd.Series([contrast for contrast, _, _ in found]).value_counts().to_dict()
    assert counts == {
        "tuned - base": 20,
        "visual - text": 6,
        "visual - caption": 6,
        "caption - text": 6,
        "lora - full": 6,
        "qlora - full": 6,
        "frozen - full": 2,
    }


def test_seeds_are_compared_with_the_same_seed():
    runs = runs_table(
        ("v0", "run", "b", "visual", "full", 0),
        ("v1", "run", "b", "visual", "full", 1),
        ("t1", "run", "b", "text", "full", 1),
    )
    assert contrasts(runs) == [("visual - text", "v1", "t1")]


def test_runs_without_a_seed_still_find_each_other():
    runs = runs_table(("v", "run", "b", "visual", "full"), ("t", "run", "b", "text", "full"))
    runs["seed"] = pd.array([None, None], dtype="Int64")
    assert contrasts(runs) == [("visual - text", "v", "t")]


def test_ethics_is_the_mean_of_its_subsets_whatever_their_size():
    items = []
    for place, subset in enumerate(names.ETHICS):
        n = 10 * (place + 1)
        items.append(items_table("tuned", [1.0] * n, benchmark=subset))
        items.append(items_table("base", [1.0] * (n - place) + [0.0] * place, benchmark=subset))
    items = pd.concat(items)
    effects = paired_effects(PAIR, items).set_index("benchmark")
    lost = [place / (10 * (place + 1)) for place in range(5)]
    assert effects.at["ethics", "difference"] == pytest.approx(np.mean(lost))
    assert effects.at["ethics", "other_value"] == pytest.approx(1 - np.mean(lost))
    assert effects.at["ethics", "n"] == 150
    assert 0 < effects.at["ethics", "low"] < np.mean(lost) < effects.at["ethics", "high"]
    intervals = mean_interval(items).set_index(["run", "benchmark"])
    assert intervals.at[("base", "ethics"), "value"] == pytest.approx(1 - np.mean(lost))
    assert intervals.at[("tuned", "ethics"), "low"] == 1


def test_ethics_needs_all_five_subsets():
    items = pd.concat(
        items_table(run, [0, 1, 1], benchmark=subset)
        for run in ("tuned", "base")
        for subset in names.ETHICS[:4]
    )
    assert "ethics" not in set(paired_effects(PAIR, items)["benchmark"])
    assert "ethics" not in set(mean_interval(items)["benchmark"])


def test_a_benchmark_that_one_side_lacks_gives_no_row():
    items = pd.concat([items_table("tuned", [1, 0]), items_table("base", [0, 0], "boolq")])
    assert paired_effects(PAIR, items).empty


def test_order_of_rows_and_other_runs_change_nothing():
    tables = make_tables(bases=("a", "b"), image=True, scale=0.2, draws=200)
    shuffled = tables.items.sample(frac=1, random_state=3)
    again = paired_effects(tables.runs.sample(frac=1, random_state=4), shuffled, draws=200)
    effects, intervals = (
        table.drop(columns="protocol") for table in (tables.effects, tables.intervals)
    )
    pd.testing.assert_frame_equal(again, effects, check_exact=True)
    pd.testing.assert_frame_equal(mean_interval(shuffled, draws=200), intervals, check_exact=True)
    only = tables.runs[tables.runs["base"] == "a"]
    alone = paired_effects(only, tables.items[tables.items["run"].isin(only["run"])], draws=200)
    expected = effects[effects["base"] == "a"].reset_index(drop=True)
    # Fewer comparisons make a smaller family, and nothing else.
    assert (alone.pop("p_holm") <= expected.pop("p_holm")).all()
    pd.testing.assert_frame_equal(alone, expected, rtol=1e-12)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """300 studies of 50 clusters; items of a cluster share most of their luck."""
    rng = np.random.default_rng(11)
    repeats, clusters, size, truth = 300, 50, 4, 0.03
    names_ = np.repeat([f"c{place}" for place in range(clusters)], size)
    items = []
    for repeat in range(repeats):
        shared = np.repeat(rng.normal(truth, 0.2, clusters), size)
        tuned = 0.5 + shared + rng.normal(0, 0.1, clusters * size)
        items.append(items_table("tuned", tuned, f"r{repeat:03d}", names_))
        items.append(items_table("base", np.full(clusters * size, 0.5), f"r{repeat:03d}", names_))
    items = pd.concat(items)

    def coverage(frame: pd.DataFrame) -> float:
        effects = paired_effects(PAIR, frame, draws=400)
        return ((effects["low"] <= truth) & (truth <= effects["high"])).mean()

    assert 0.90 <= coverage(items) <= 0.98
    # Items that are taken for independent promise far more than they hold.
    assert coverage(items.assign(cluster=items["item"])) < 0.80


def test_p_is_small_as_often_as_it_may_be_without_an_effect():
    rng = np.random.default_rng(5)
    items = []
    for repeat in range(300):
        items.append(items_table("tuned", rng.normal(0, 1, 30), f"r{repeat:03d}"))
        items.append(items_table("base", rng.normal(0, 1, 30), f"r{repeat:03d}"))
    p = paired_effects(PAIR, pd.concat(items), draws=400)["p"]
    assert 0.02 <= (p <= 0.05).mean() <= 0.09


def refused(items: pd.DataFrame, runs: pd.DataFrame = PAIR) -> str:
    with pytest.raises(UserError) as error:
        paired_effects(runs, items)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_items_of_one_side_only_are_refused():
    message = refused(pd.concat([items_table("tuned", [1, 0, 1]), items_table("base", [1])]))
    assert "2 item(s)" in message and "'q1', 'q2'" in message and "mmlu" in message


def test_doubled_items_are_refused():
    twice = pd.concat([items_table("tuned", [1]), items_table("tuned", [0])])
    assert "occur twice, first tuned/text/mmlu/acc/q0" in refused(twice)


def test_items_without_a_score_are_refused():
    assert "have no score" in refused(items_table("tuned", [1, np.nan]))


def test_items_whose_cluster_differs_between_runs_are_refused():
    items = pd.concat(
        [items_table("tuned", [1, 0], clusters=["a", "a"]), items_table("base", [1, 0])]
    )
    assert "different clusters" in refused(items)


def test_two_runs_of_one_cell_are_refused():
    runs = runs_table(("x", "run", "b", "visual", "full"), ("y", "run", "b", "visual", "full"))
    assert "runs x and y" in refused(items_table("x", [1]), runs)


def test_nothing_scored_gives_empty_tables():
    items, scores = tidy.empty("items"), tidy.empty("scores")
    effects = tidy.with_protocol(paired_effects(PAIR, items), scores)
    intervals = tidy.with_protocol(mean_interval(items), scores)
    assert effects.empty and list(effects.columns) == list(tidy.EFFECTS)
    assert intervals.empty and list(intervals.columns) == list(tidy.INTERVALS)


def test_references_meet_the_runs_of_their_base_or_all_runs():
    kwargs = {"bases": ("a", "b"), "image": False, "scale": 0.05, "draws": 10, "reference": True}

    def met(**more) -> set[str]:
        found = contrasts(make_tables(**kwargs, **more).runs)
        pairs = [(run, other) for contrast, run, other in found if contrast == "tuned - reference"]
        assert {other for _, other in pairs} == {"published-7b"}
        return {run[0] for run, _ in pairs}

    assert met() == {"a", "b"}
    assert met(reference_base="b") == {"b"}
    assert met(reference_base="elsewhere") == {"a", "b"}


def test_the_groups_of_mmlu_are_compared_in_pairs():
    items = pd.concat([items_table("tuned", [1, 1, 0, 1]), items_table("base", [0, 1, 1, 0])])
    groups = ["stem", "stem", "other", "other"] * 2
    items["details"] = [f'{{"question": "\\"group\\": \\"x\\"", "group": "{g}"}}' for g in groups]
    effects = paired_effects(PAIR, items).set_index("metric")
    assert effects["difference"].to_dict() == {"acc": 0.25, "acc_other": 0, "acc_stem": 0.5}
    assert effects.at["acc_stem", "n"] == 2
    assert effects.at["acc", "family"] == "tuned - base, text"
    assert effects.at["acc_stem", "family"] == "tuned - base, text, acc_stem"
    assert set(mean_interval(items)["metric"]) == {"acc", "acc_other", "acc_stem"}


def suite_items(**scores: dict[str, list]) -> pd.DataFrame:
    """Items of both runs of `PAIR`: lists by run and benchmark."""
    return pd.concat(
        items_table(run, own, benchmark)
        for run, benchmarks in scores.items()
        for benchmark, own in benchmarks.items()
    )


def test_the_mean_of_a_suite_counts_ethics_once():
    subsets = {name: [1, 0, 0, 0] for name in names.ETHICS}
    nothing = {name: [0, 0, 0, 0] for name in names.ETHICS}
    items = suite_items(
        tuned={"boolq": [1, 1, 1, 0], **subsets}, base={"boolq": [0, 0, 0, 0], **nothing}
    )
    effects = paired_effects(PAIR, items).set_index(["benchmark", "metric"])
    assert effects.at[("text_mean", "mean"), "difference"] == pytest.approx((0.75 + 0.25) / 2)
    assert effects.at[("text_mean", "mean"), "n"] == 24
    assert ("image_mean", "mean") not in effects.index


def test_what_is_no_fraction_is_left_out_of_the_mean_of_a_suite():
    items = suite_items(
        tuned={"pope": [1, 1], "vqa": [1, 0], "captions": [3, 4]},
        base={"pope": [0, 0], "vqa": [0, 0], "captions": [0, 0]},
    ).assign(suite="image")
    items.loc[items["benchmark"] == "captions", "metric"] = "CIDEr"
    effects = paired_effects(PAIR, items).set_index("benchmark")
    assert effects.at["image_mean", "difference"] == pytest.approx(0.75)
    alone = items[items["benchmark"] != "vqa"]
    assert "image_mean" not in set(paired_effects(PAIR, alone)["benchmark"])


def test_benchmarks_that_share_pictures_are_resampled_together():
    """What is gained on a picture in both has twice the variance of what is gained apart."""
    rng = np.random.default_rng(0)
    gain = rng.choice([0.0, 1.0], 400)
    pictures = [f"{place}.png" for place in range(400)]

    def width(clusters: list[str] | None, other: np.ndarray) -> float:
        items = pd.concat(
            items_table(run, own, benchmark, clusters)
            for run, scores in (("tuned", (gain, other)), ("base", (0 * gain, 0 * gain)))
            for benchmark, own in zip(("pope", "vqa"), scores, strict=True)
        ).assign(suite="image")
        effects = paired_effects(PAIR, items).set_index("benchmark")
        row = effects.loc["image_mean"]
        assert row["n_clusters"] == (800 if clusters is None else 400)
        return row["high"] - row["low"]

    assert width(pictures, gain) / width(None, gain) == pytest.approx(np.sqrt(2), rel=0.06)


def test_questions_of_both_parts_of_truthfulqa_are_the_same():
    rows = [
        items_table(run, scores, benchmark).assign(
            item=lambda frame, name=benchmark: name + "/" + frame["item"],
            cluster=lambda frame: frame["item"],
        )
        for run, scores in (("tuned", [1, 0, 1]), ("base", [0, 0, 1]))
        for benchmark in ("truthfulqa_mc1", "truthfulqa_mc2")
    ]
    effects = paired_effects(PAIR, pd.concat(rows)).set_index("benchmark")
    assert effects.at["text_mean", "n"] == 6
    assert effects.at["text_mean", "n_clusters"] == 3


def test_p_of_a_mean_is_about_the_mean_and_not_about_its_parts():
    """A gain here and a loss there, both sure, leave a mean of which nothing is sure."""
    up, none = [1.0] * 50, [0.0] * 50
    effects = paired_effects(
        PAIR, suite_items(tuned={"boolq": up, "mmlu": none}, base={"boolq": none, "mmlu": up})
    ).set_index("benchmark")
    assert effects.at["boolq", "p"] < 1e-10 and effects.at["mmlu", "p"] < 1e-10
    assert effects.at["text_mean", "p"] == 1


def test_effect_sizes_are_in_standard_deviations_of_the_differences():
    tuned, base = np.array([1, 0.5, 0.25, 1]), np.array([0.5, 0.5, 0, 0])
    difference = tuned - base
    expected = difference.mean() / difference.std(ddof=1)
    assert effect_of(tuned, base)["effect_size"] == pytest.approx(expected)


def test_what_is_tied_throughout_has_no_effect_size():
    effects = paired_effects(PAIR, suite_items(tuned={"a": [1, 0]}, base={"a": [1, 0]}))
    assert effects["p_holm"].tolist() == [1]
    assert effects["effect_size"].isna().all()


def test_one_cluster_or_one_item_still_gives_the_difference():
    for scores in ([1, 1], [1]):
        effect = effect_of(scores, [0] * len(scores), clusters=["a"] * len(scores))
        assert (effect["difference"], effect["n_clusters"], effect["p"]) == (1, 1, 1)
        assert np.isnan(effect["low"]) and np.isnan(effect["effect_size"])
    items = suite_items(tuned={"a": [1], "b": [1]}, base={"a": [0], "b": [0]})
    effects = paired_effects(PAIR, items).set_index("benchmark")
    assert effects.at["text_mean", "difference"] == 1
    assert np.isnan(effects.at["text_mean", "low"]) and np.isnan(effects.at["text_mean", "high"])
    # Two signs alike of two: without a variance there is no t.
    assert effects.at["text_mean", "p"] == 0.5


def test_a_run_that_is_missing_leaves_the_comparisons_of_the_others():
    tables = make_tables(bases=("a",), image=False, scale=0.1, draws=20)
    there = tables.items[tables.items["run"] != "a-visual-full-0"]
    effects = paired_effects(tables.runs, there, draws=20)
    gone = tables.effects[["run", "other"]].eq("a-visual-full-0").any(axis=1)
    assert gone.any()
    assert len(effects) == (~gone).sum()


def test_a_benchmark_that_failed_in_one_run_leaves_its_others_and_no_mean():
    tables = make_tables(bases=("a",), image=False, scale=0.1, draws=20)
    failed = (tables.items["run"] == "a-visual-full-0") & (tables.items["benchmark"] == "boolq")
    effects = paired_effects(tables.runs, tables.items[~failed], draws=20)
    own = effects[(effects["run"] == "a-visual-full-0") & (effects["contrast"] == "tuned - base")]
    assert "mmlu" in set(own["benchmark"])
    assert not {"boolq", "text_mean"} & set(own["benchmark"])
    rest = effects[effects["run"] == "a-visual-lora-0"]
    assert {"boolq", "text_mean"} <= set(rest["benchmark"])
