"""Means over items and what is known of their uncertainty: of runs, and of differences between two.

Means over benchmarks are made of the same parts: every cluster's pull on the mean, and the mean in
every resample. Clusters that two benchmarks share pull on both.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from statsmodels.stats.contingency_tables import mcnemar

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.outcomes import Outcomes
from sight_beyond_text.analysis.resampling import bootstrap_means, cluster_sums
from sight_beyond_text.analysis.sign_flips import sign_flip_p

Pair = tuple[str, str, str]
"""Name of a contrast, run, other run."""

Test = tuple[str, str, str]
"""Suite, benchmark, metric."""


@dataclass(frozen=True)
class Sample:
    """Runs that were asked the same items of one benchmark.

    Attributes:
        test: Suite, benchmark, metric.
        runs: Their columns.
        scores: (items, runs).
        names: Of the clusters, (clusters,).
        codes: Each item's cluster, (items,).
        boot: Means of resamples, (draws, runs).
    """

    test: Test
    runs: Mapping[str, int]
    scores: np.ndarray
    names: np.ndarray
    codes: np.ndarray
    boot: np.ndarray


@dataclass(frozen=True)
class Estimates:
    """Means (of runs, or of differences between two) over the same items of one test.

    Attributes:
        test: Suite, benchmark, metric.
        keys: What each column is of.
        mean: (columns,).
        boot: Means of resamples, (draws, columns).
        names: Of the clusters, (clusters,).
        pulls: What each cluster adds to the mean, (clusters, columns).
        residuals: The same less what it would add if it were as the mean, scaled so that their
            squares sum to the mean's variance over clusters, (clusters, columns). NaN where there
            is only one cluster.
        covariance: Of the items, (columns, columns); NaN where there is only one item.
        df: Degrees of freedom of that variance, (columns,).
        n: Items.
        p_known: By another test than sign flips: McNemar's exact one where it applies, Student's t
            of means over benchmarks; else NaN, (columns,).
    """

    test: Test
    keys: tuple
    mean: np.ndarray
    boot: np.ndarray
    names: np.ndarray
    pulls: np.ndarray
    residuals: np.ndarray
    covariance: np.ndarray
    df: np.ndarray
    n: int
    p_known: np.ndarray

    def p(self) -> np.ndarray:
        """Two-sided p of no difference, (columns,)."""
        p = self.p_known.copy()
        rest = np.isnan(p)
        p[rest] = sign_flip_p(self.pulls[:, rest])
        return p


def samples(outcomes: Outcomes, seed: int, draws: int) -> list[Sample]:
    """Splits the runs of a benchmark by which items they were asked, and resamples each part."""
    groups: dict[bytes, list[int]] = {}
    missing = np.isnan(outcomes.scores)
    for column in range(len(outcomes.runs)):
        groups.setdefault(missing[:, column].tobytes(), []).append(column)
    found = []
    for columns in groups.values():
        asked = ~missing[:, columns[0]]
        scores = outcomes.scores[np.ix_(asked, columns)]
        clusters, codes = np.unique(outcomes.clusters[asked].astype(str), return_inverse=True)
        boot = bootstrap_means(
            clusters,
            cluster_sums(codes, scores, len(clusters)),
            np.bincount(codes),
            f"{seed}/{outcomes.suite}",
            draws,
        )
        runs = {outcomes.runs[column]: place for place, column in enumerate(columns)}
        test = (outcomes.suite, outcomes.benchmark, outcomes.metric)
        found.append(Sample(test, runs, scores, clusters, codes, boot))
    return found


def of_runs(sample: Sample) -> Estimates:
    """Each run's own mean."""
    return _estimates(sample, tuple(sample.runs), sample.scores, sample.boot)


def of_pairs(sample: Sample, pairs: Iterable[Pair]) -> Estimates | None:
    """Differences of those pairs of runs that are both in the sample; None where there are none."""
    kept = tuple(pair for pair in pairs if pair[1] in sample.runs and pair[2] in sample.runs)
    if not kept:
        return None
    mine = [sample.runs[run] for _, run, _ in kept]
    theirs = [sample.runs[other] for _, _, other in kept]
    differences = sample.scores[:, mine] - sample.scores[:, theirs]
    # A mean is linear in the scores: the difference of two runs' resamples is that of their
    # difference, as both are resampled alike.
    boot = sample.boot[:, mine] - sample.boot[:, theirs]
    p = np.full(len(kept), np.nan)
    if len(sample.names) == len(sample.codes):
        right = np.isin(sample.scores, (0.0, 1.0)).all(axis=0)
        for column in np.flatnonzero(right[mine] & right[theirs]):
            gained, lost = (int(np.sum(differences[:, column] == sign)) for sign in (1, -1))
            p[column] = mcnemar([[0, gained], [lost, 0]], exact=True).pvalue
    return _estimates(sample, kept, differences, boot, p)


def of_columns(
    outcomes: Outcomes, columns: Mapping[object, np.ndarray], seed: int, draws: int
) -> list[Estimates]:
    """Means of any columns (items,) over a benchmark's items, such as differences less a threshold.

    NaN marks what was not asked; columns over the same items come together.
    """
    own = Outcomes(
        outcomes.suite,
        outcomes.benchmark,
        outcomes.metric,
        outcomes.items,
        outcomes.clusters,
        tuple(columns),
        np.stack(list(columns.values()), axis=1),
    )
    return [of_runs(sample) for sample in samples(own, seed, draws)]


def _estimates(
    sample: Sample,
    keys: tuple,
    values: np.ndarray,
    boot: np.ndarray,
    p_known: np.ndarray | None = None,
) -> Estimates:
    n, clusters = len(values), len(sample.names)
    mean = values.mean(axis=0)
    centred = values - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(clusters / np.float64(clusters - 1)) if clusters > 1 else np.nan
        covariance = centred.T @ centred / np.float64(n - 1)
    return Estimates(
        test=sample.test,
        keys=keys,
        mean=mean,
        boot=boot,
        names=sample.names,
        pulls=cluster_sums(sample.codes, values, clusters) / n,
        residuals=cluster_sums(sample.codes, centred, clusters) / n * scale,
        covariance=covariance,
        df=np.full(len(keys), clusters - 1.0),
        n=n,
        p_known=np.full(len(keys), np.nan) if p_known is None else p_known,
    )


def means(found: Sequence[Estimates]) -> Iterator[Estimates]:
    """Means over benchmarks, of whoever has all of them.

    ETHICS as a whole is that of its five subsets. A suite's is that of the main metrics of its
    benchmarks as far as they are fractions, ETHICS and MMLU counted once each; there is none of
    less than two benchmarks.

    Args:
        found: Estimates of single benchmarks, of all runs or pairs of a study.
    """
    tests = sorted({one.test for one in found})
    for suite in sorted({suite for suite, _, _ in tests}):
        own = [(benchmark, metric) for place, benchmark, metric in tests if place == suite]
        subsets = [(name, "acc") for name in names.ETHICS]
        if all(subset in own for subset in subsets):
            weights = {(suite, *subset): 1 / len(subsets) for subset in subsets}
            yield from _mean((suite, names.MACRO, "acc"), weights, found)
        if suite in names.MEANS:
            weights = _shares(suite, own)
            if weights:
                test = (suite, names.MEANS[suite], names.MEAN_METRIC)
                yield from _mean(test, weights, found)


def _shares(suite: str, tests: Sequence[tuple[str, str]]) -> dict[Test, float]:
    """The weight of each benchmark's main metric in the suite's mean; empty where there is none."""
    parts: dict[str, list[Test]] = {}
    for benchmark in sorted({benchmark for benchmark, _ in tests}):
        metric = names.main_metric(metric for name, metric in tests if name == benchmark)
        if names.is_fraction(metric):
            whole = names.MACRO if benchmark in names.ETHICS else benchmark
            parts.setdefault(whole, []).append((suite, benchmark, metric))
    if len(parts) < 2:
        return {}
    return {test: 1 / len(parts) / len(own) for own in parts.values() for test in own}


def _mean(
    test: Test, weights: Mapping[Test, float], found: Sequence[Estimates]
) -> Iterator[Estimates]:
    by_part = [[one for one in found if one.test == part] for part in weights]
    for parts in itertools.product(*by_part):
        keys = [key for key in parts[0].keys if all(key in set(one.keys) for one in parts[1:])]
        if keys:
            yield combine(test, keys, parts, list(weights.values()))


def combine(
    test: Test, keys: Sequence, parts: Sequence[Estimates], weights: Sequence[float]
) -> Estimates:
    """The weighted mean of benchmarks.

    Args:
        test: What it is called.
        keys: Columns that all parts have.
        parts: The benchmarks' estimates.
        weights: Their weights, summing to 1.
    """
    places = [[one.keys.index(key) for key in keys] for one in parts]

    def total(of: Callable[[Estimates, list[int]], np.ndarray]) -> np.ndarray:
        return sum(
            weight * of(one, place)
            for one, place, weight in zip(parts, places, weights, strict=True)
        )

    clusters, codes = np.unique(np.concatenate([one.names for one in parts]), return_inverse=True)

    def joined(of: Callable[[Estimates], np.ndarray]) -> np.ndarray:
        stacked = [
            weight * of(one)[:, place]
            for one, place, weight in zip(parts, places, weights, strict=True)
        ]
        return cluster_sums(codes, np.concatenate(stacked), len(clusters))

    variances = np.stack(
        [
            weight**2 * np.sum(one.residuals[:, place] ** 2, axis=0)
            for one, place, weight in zip(parts, places, weights, strict=True)
        ]
    )
    own = np.stack([one.df[place] for one, place in zip(parts, places, strict=True)])
    mean = total(lambda one, place: one.mean[place])
    residuals = joined(lambda one: one.residuals)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Satterthwaite's, of a sum of variances.
        df = variances.sum(axis=0) ** 2 / np.sum(variances**2 / own, axis=0)
        # Where nothing differs anywhere there is no variance to weigh by.
        df = np.where(variances.sum(axis=0) > 0, df, own.min(axis=0))
        # Flipped signs would test whether nothing differs in any benchmark, which is not whether
        # the mean does: a gain here and a loss there weigh against it.
        p = 2 * special.stdtr(df, -np.abs(mean) / np.sqrt(np.sum(residuals**2, axis=0)))
        p = np.where(np.abs(mean) < 1e-12, 1.0, p)
    return Estimates(
        test=test,
        keys=tuple(keys),
        mean=mean,
        boot=total(lambda one, place: one.boot[:, place]),
        names=clusters,
        pulls=joined(lambda one: one.pulls),
        residuals=residuals,
        covariance=total(lambda one, place: one.covariance[np.ix_(place, place)]),
        df=df,
        n=sum(one.n for one in parts),
        p_known=p,
    )
