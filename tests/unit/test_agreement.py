"""The statistics agree with code that others wrote."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from sight_beyond_text.analysis.effects import mean_interval, paired_effects
from sight_beyond_text.analysis.multiplicity import adjusted
from sight_beyond_text.analysis.sign_flips import sign_flip_p

from .test_effects import PAIR, items_table


def effect_of(tuned, base, **kwargs) -> pd.Series:
    items = pd.concat([items_table("tuned", tuned, **kwargs), items_table("base", base, **kwargs)])
    (effect,) = paired_effects(PAIR, items).to_dict("records")
    return effect


@pytest.mark.parametrize("seed", range(4))
def test_p_of_right_and_wrong_is_statsmodels_exact_mcnemar(seed):
    tuned, base = np.random.default_rng(seed).random((2, 90)) < [[0.6], [0.45]]
    table = [[np.sum(tuned & base), np.sum(tuned & ~base)]]
    table += [[np.sum(~tuned & base), np.sum(~tuned & ~base)]]
    expected = mcnemar(np.array(table), exact=True).pvalue
    assert effect_of(tuned, base)["p"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [20, 41, 300])
@pytest.mark.parametrize("share", [0.5, 0.55, 0.7, 0.9])
def test_the_distribution_of_equal_signs_is_the_binomial(n, share):
    up = round(n * share)
    signs = np.repeat([1.0, -1.0], [up, n - up])
    expected = stats.binomtest(up, n).pvalue
    assert sign_flip_p(signs[:, None]) == pytest.approx([expected], rel=0.01)


@pytest.mark.parametrize("size", [2, 7, 12, 13, 15])
@pytest.mark.parametrize("kind", ["whole", "steps", "any"])
def test_sign_flips_are_scipys_permutations(size, kind):
    rng = np.random.default_rng(size)
    draw = {
        "whole": lambda: rng.integers(-3, 6, size).astype(float),
        "steps": lambda: np.round(rng.integers(-3, 5, size) * 0.3, 1),
        "any": lambda: rng.normal(0.5, 1, size),
    }[kind]
    for sums in (draw() for _ in range(4)):
        expected = stats.permutation_test(
            (sums,), np.sum, permutation_type="samples", n_resamples=np.inf
        ).pvalue
        # Up to twelve clusters every pattern is tried; beyond, it is approximated.
        near = {"rel": 1e-9} if size <= 12 else {"rel": 0.03, "abs": 0.005}
        assert sign_flip_p(sums[:, None]) == pytest.approx([expected], **near)


def test_one_sided_sign_flips_are_scipys():
    sums = np.random.default_rng(3).normal(0.4, 1, 11)
    for alternative in ("greater", "less"):
        expected = stats.permutation_test(
            (sums,),
            np.sum,
            permutation_type="samples",
            n_resamples=np.inf,
            alternative=alternative,
        ).pvalue
        assert sign_flip_p(sums[:, None], alternative) == pytest.approx([expected], abs=0.001)


def test_p_of_clustered_scores_is_scipys_permutation_of_cluster_sums():
    rng = np.random.default_rng(8)
    difference = rng.normal(0.15, 0.4, 60)
    clusters = [f"c{place // 3}" for place in range(60)]
    effect = effect_of(difference, np.zeros(60), clusters=clusters)
    sums = difference.reshape(20, 3).sum(axis=1)
    expected = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=200_000, rng=rng
    ).pvalue
    assert effect["p"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kind", ["binary", "skewed"])
def test_intervals_are_scipys_bootstrap(kind):
    rng = np.random.default_rng(4)
    difference = {
        "binary": rng.choice([1.0, -1.0, 0.0], 500, p=[0.2, 0.1, 0.7]),
        "skewed": rng.gamma(1.5, 0.3, 500) - 0.3,
    }[kind]
    effect = effect_of(difference, np.zeros(500))
    expected = stats.bootstrap(
        (difference,), np.mean, n_resamples=20_000, method="percentile", rng=rng
    ).confidence_interval
    width = expected.high - expected.low
    assert effect["low"] == pytest.approx(expected.low, abs=0.04 * width)
    assert effect["high"] == pytest.approx(expected.high, abs=0.04 * width)


def test_with_few_items_intervals_are_about_students():
    """Where scipy's percentile interval, and anybody's, is too short."""
    rng = np.random.default_rng(6)
    difference = rng.normal(0.2, 1, 10)
    effect = effect_of(difference, np.zeros(10))
    expected = stats.ttest_1samp(difference, 0).confidence_interval()
    plain = stats.bootstrap((difference,), np.mean, method="percentile", rng=rng)
    width = effect["high"] - effect["low"]
    assert width == pytest.approx(expected.high - expected.low, rel=0.15)
    assert width > 1.1 * (plain.confidence_interval.high - plain.confidence_interval.low)


def test_adjusted_p_is_statsmodels_holm():
    rng = np.random.default_rng(2)
    p = np.round(rng.random(40) ** 4, 3)
    effects = pd.DataFrame({"contrast": "a", "suite": "text", "metric": "acc", "p": p})
    effects["benchmark"] = [f"b{place}" for place in range(40)]
    expected = multipletests(p, method="holm")[1]
    assert adjusted(effects)["p_holm"].to_numpy() == pytest.approx(expected, rel=1e-12)


def test_standard_errors_are_lm_evals():
    """Those of the scores, and half of an interval of independent items at 1.96 of them."""
    metrics = pytest.importorskip("lm_eval.api.metrics")
    from sight_beyond_text.evaluation.text_tables import _score

    scores = (np.random.default_rng(1).random(400) < 0.37).astype(float)
    expected = metrics.mean_stderr(scores.tolist())
    assert _score("x", "acc", scores.tolist(), True)["stderr"] == pytest.approx(expected, rel=1e-9)
    (interval,) = mean_interval(items_table("tuned", scores)).to_dict("records")
    half = (interval["high"] - interval["low"]) / 2
    assert half == pytest.approx(1.96 * expected, rel=0.06)
