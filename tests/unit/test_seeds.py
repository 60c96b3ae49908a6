"""Differences over several seeds: what they are, what they cover, and what is missing."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.seeds import over_seeds, t_interval
from sight_beyond_text.errors import UserError

from .synthetic_tables import make_tables
from .test_effects import items_table, runs_table

RUNS = runs_table(
    ("v0", "run", "b", "visual", "full", 0),
    ("v1", "run", "b", "visual", "full", 1),
    ("v2", "run", "b", "visual", "full", 2),
    ("base", "base", "b", "", ""),
)


def seeds_of(scores: dict[str, list], **kwargs) -> pd.DataFrame:
    items = pd.concat([items_table(run, own, **kwargs) for run, own in scores.items()])
    return over_seeds(RUNS, items)


def test_the_mean_over_seeds_is_that_of_their_differences():
    rng = np.random.default_rng(0)
    scores = {run: rng.integers(0, 2, 60) for run in ("v0", "v1", "v2", "base")}
    (row,) = seeds_of(scores).to_dict("records")
    tuned = np.mean([scores[f"v{seed}"] for seed in range(3)], axis=0)
    assert (row["contrast"], row["seeds"], row["n"]) == ("tuned - base", 3, 60)
    assert row["value"] == pytest.approx(tuned.mean())
    assert row["difference"] == pytest.approx((tuned - scores["base"]).mean())
    each = tuned - scores["base"]
    assert row["effect_size"] == pytest.approx(each.mean() / each.std(ddof=1))
    assert row["low"] < row["difference"] < row["high"]


def test_the_variance_is_that_of_items_and_of_seeds_less_what_both_share():
    """Against the mean squares of a crossed table, in closed form."""
    rng = np.random.default_rng(1)
    items, seeds = 50, 3
    table = rng.normal(0, 1, (items, 1)) + rng.normal(0, 0.4, seeds) + rng.normal(0, 1, (50, 3))
    residuals = (table - table.mean(axis=0)) / items * np.sqrt(items / (items - 1))
    low, high, _ = t_interval(table.mean(axis=0), residuals, items - 1)
    of_items = table.mean(axis=1).var(ddof=1) / items
    of_seeds = table.mean(axis=0).var(ddof=1) / seeds
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    both = np.sum(rest**2) / (items - 1) / (seeds - 1) / items / seeds
    half = np.sqrt(
        stats.t.ppf(0.975, items - 1) ** 2 * of_items
        + stats.t.ppf(0.975, seeds - 1) ** 2 * max(0, of_seeds - both)
    )
    assert of_seeds > both
    assert (low, high) == pytest.approx((table.mean() - half, table.mean() + half))


def test_seeds_that_say_the_same_leave_the_interval_of_the_items():
    difference = np.random.default_rng(2).normal(0.1, 1, 80)
    residuals = (difference - difference.mean()) / 80 * np.sqrt(80 / 79)
    low, high, p = t_interval(
        np.repeat(difference.mean(), 3), np.repeat(residuals[:, None], 3, axis=1), 79
    )
    expected = stats.ttest_1samp(difference, 0)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()))
    assert p == pytest.approx(expected.pvalue)


def test_p_is_where_the_interval_reaches_zero():
    rng = np.random.default_rng(5)
    table = rng.normal(0.3, 1, (40, 1)) + rng.normal(0, 0.2, 3) + rng.normal(0, 0.5, (40, 3))
    residuals = (table - table.mean(axis=0)) / 40 * np.sqrt(40 / 39)
    by_seed = table.mean(axis=0)
    low, high, _ = t_interval(by_seed, residuals, 39)
    assert t_interval(by_seed - low, residuals, 39)[2] == pytest.approx(0.05, rel=1e-6)
    assert t_interval(by_seed - high, residuals, 39)[2] == pytest.approx(0.05, rel=1e-6)


def test_one_seed_gives_no_rows():
    table = seeds_of({"v0": [1, 0, 1], "base": [0, 0, 1]})
    assert table.empty
    assert list(table.columns) == [name for name in tidy.OVER_SEEDS if name != "protocol"]


def test_a_benchmark_that_failed_under_one_seed_leaves_the_others():
    scores = {run: [1, 0, 1, 0, 1, 1] for run in ("v0", "v2")} | {"base": [0, 0, 1, 1, 0, 1]}
    (row,) = seeds_of(scores).to_dict("records")
    assert row["seeds"] == 2


def test_seeds_that_were_asked_different_items_are_refused():
    short = runs_table(
        *(("v0", "run", "b", "visual", "full", 0), ("v1", "run", "b", "visual", "full", 1)),
        *(("t0", "run", "b", "text", "full", 0), ("t1", "run", "b", "text", "full", 1)),
    )
    items = pd.concat(
        [items_table(run, [1, 0, 1]) for run in ("v0", "t0")]
        + [items_table(run, [1, 0]) for run in ("v1", "t1")]
    )
    with pytest.raises(UserError, match="seeds of visual - text .* asked different items"):
        over_seeds(short, items)


def test_all_items_tied_under_all_seeds_says_none():
    (row,) = seeds_of({run: [1, 0, 1] for run in ("v0", "v1", "v2", "base")}).to_dict("records")
    assert (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)
    assert np.isnan(row["effect_size"])


def test_one_cluster_gives_no_interval_over_seeds():
    scores = {"v0": [1, 1, 0], "v1": [1, 0, 0], "base": [0, 0, 0]}
    (row,) = seeds_of(scores, clusters=["a", "a", "a"]).to_dict("records")
    assert row["difference"] == pytest.approx(0.5)
    assert all(np.isnan(row[name]) for name in ("low", "high", "p", "p_holm"))


def test_a_study_of_three_seeds_has_every_contrast_over_them():
    tables = make_tables(
        bases=("a",), tunings=("full", "lora"), seeds=(0, 1, 2), scale=0.2, draws=20, reference=True
    )
    found = tables.over_seeds
    assert set(found["seeds"]) == {3}
    cells = (
        found[(found["benchmark"] == "mmlu") & (found["metric"] == "acc")]
        .groupby("contrast")
        .size()
        .to_dict()
    )
    assert cells == {
        "caption - text": 2,
        "lora - full": 3,
        "tuned - base": 6,
        "tuned - reference": 6,
        "visual - caption": 2,
        "visual - text": 2,
    }
    assert set(found.loc[found["contrast"] == "visual - text", "other"]) == {
        "full, text",
        "LoRA, text",
    }
    assert set(found.loc[found["contrast"] == "tuned - reference", "other"]) == {"Published 7B"}
    assert {"ethics", "text_mean", "image_mean"} <= set(found["benchmark"])
