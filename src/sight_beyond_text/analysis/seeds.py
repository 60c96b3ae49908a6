"""Differences between runs over several training seeds.

Another seed would give another run, as other questions would give other answers. The mean over
seeds and items varies with both: its variance is that over items, plus that over seeds, less what
both share (two-way clustering: Cameron, Gelbach and Miller, Robust inference with multiway
clustering, Journal of Business & Economic Statistics 29, 2011; with as many items under each seed,
the crossed random-effects estimate).

Three seeds tell little of how much seeds differ. One t quantile for the whole, with Satterthwaite's
degrees of freedom, covers too little just when seeds matter: where they happen to lie close
together, the variance comes out small and the degrees of freedom large. So each part has its own
quantile, and the squares of the two half widths add up (Howe, Approximate confidence limits on the
mean of X + Y, Journal of the American Statistical Association 69, 1974).
"""

from collections import defaultdict

import numpy as np
import pandas as pd
from scipy import optimize, special

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.effects import (
    Measured,
    Pair,
    as_table,
    measure,
    standardized,
)
from sight_beyond_text.analysis.multiplicity import adjusted
from sight_beyond_text.analysis.resampling import DRAWS, LEVEL, clean
from sight_beyond_text.errors import UserError

_LEAST = 1e-30
_CELL = ["base", "source", "tuning", "instruction_kinds"]


def over_seeds(
    runs: pd.DataFrame, items: pd.DataFrame, seed: int = 0, draws: int = DRAWS
) -> pd.DataFrame:
    """Table `over_seeds`, as `seeds_table` makes it.

    Arguments and errors as in `effects.measure`.
    """
    return seeds_table(runs, measure(runs, items, seed, draws))


def seeds_table(runs: pd.DataFrame, measured: Measured) -> pd.DataFrame:
    """Table `over_seeds`, sorted, without the protocol: differences averaged over seeds.

    Both sides of a difference have the same seed, or the other side none (an untuned base). A seed
    that lacks a benchmark is left out of its mean; `seeds` says how many are in. Empty where no
    pair of runs has two seeds, which say nothing of how much seeds differ.

    Raises:
        UserError: The seeds of one pair were asked different items.
    """
    facts = runs.set_index("run")
    labels = _labels(runs)
    groups: dict[tuple, list[tuple[int, Pair]]] = defaultdict(list)
    for pair in sorted({pair for found in measured.pairs for pair in found.keys}):
        contrast, run, other = pair
        if not pd.isna(facts.at[run, "seed"]):
            cell = (contrast, *facts.loc[run, _CELL], labels[other])
            groups[cell].append((int(facts.at[run, "seed"]), pair))
    means = measured.means()
    # A pair's estimates by test, found once.
    columns = {
        (found.test, pair): (found, place)
        for found in measured.pairs
        for place, pair in enumerate(found.keys)
    }
    tests = sorted({found.test for found in measured.pairs})
    rows = []
    for cell, members in groups.items():
        for test in tests:
            pairs = [pair for _, pair in sorted(members) if (test, pair) in columns]
            if len(pairs) < 2:
                continue
            found, _ = columns[test, pairs[0]]
            if any(columns[test, pair][0] is not found for pair in pairs):
                cells = ", ".join(filter(None, cell[1:4]))
                raise UserError(
                    f"{'/'.join(test)}: the seeds of {cell[0]} ({cells}) were asked different "
                    "items; evaluate them with the same ones"
                )
            places = [columns[test, pair][1] for pair in pairs]
            low, high, p = t_interval(
                found.mean[places], found.residuals[:, places], found.df[places].mean()
            )
            mean = found.mean[places].mean()
            variance = found.covariance[np.ix_(places, places)].mean()
            rows.append(
                {
                    **dict(zip(["contrast", *_CELL, "other"], cell, strict=True)),
                    "seeds": len(pairs),
                    **dict(zip(["suite", "benchmark", "metric"], test, strict=True)),
                    "value": np.mean([means[test, run] for _, run, _ in pairs]),
                    "other_value": np.mean([means[test, other] for _, _, other in pairs]),
                    "difference": clean(mean),
                    "low": low,
                    "high": high,
                    "p": p,
                    "effect_size": float(standardized(mean, variance)),
                    "n": found.n,
                    "n_clusters": len(found.names),
                }
            )
    return adjusted(as_table("over_seeds", rows))


def t_interval(
    by_seed: np.ndarray, residuals: np.ndarray, df: float, level: float = LEVEL
) -> tuple[float, float, float]:
    """95 % interval of a mean over seeds, or one of another level, and p of its being zero.

    Args:
        by_seed: Each seed's mean, (seeds,), at least two.
        residuals: What clusters of items add to each seed's mean beyond their share, squares
            summing to its variance (`estimates.Estimates.residuals`), (clusters, seeds).
        df: Degrees of freedom over clusters.
        level: What the interval covers.

    Returns:
        (low, high, p); NaN where there is only one cluster.
    """
    seeds = len(by_seed)
    mean = float(by_seed.mean())
    items, between, _ = variances(by_seed, residuals)
    if not (df >= 1 and np.isfinite(items)):
        return np.nan, np.nan, np.nan

    def half_width(tail: float) -> float:
        return float(np.sqrt(special.stdtrit([df, seeds - 1], tail) ** 2 @ [items, between]))

    half = half_width((1 - level) / 2)
    if abs(mean) < 1e-12:
        p = 1.0
    elif items + between < 1e-24:
        p = np.nan
    elif half_width(_LEAST) <= abs(mean):
        p = 2 * _LEAST
    else:
        # The level at which the interval just reaches zero.
        log = optimize.brentq(
            lambda log: half_width(np.exp(log)) - abs(mean), np.log(_LEAST), np.log(0.5)
        )
        p = 2 * float(np.exp(log))
    return clean(mean - half), clean(mean + half), p


def variances(by_seed: np.ndarray, residuals: np.ndarray) -> tuple[float, float, float]:
    """Of a mean over seeds: its variance over items, that between seeds beyond it, and the part of
    the first that is of single seeds and items, so that more seeds lessen it as well.

    Arguments as in `t_interval`.
    """
    seeds = len(by_seed)
    own = residuals.mean(axis=1)
    shared = float(np.sum((residuals - own[:, None]) ** 2)) / (seeds * (seeds - 1))
    # Seeds can't differ less than not at all.
    between = max(0.0, float(by_seed.var(ddof=1)) / seeds - shared)
    return float(np.sum(own**2)), between, shared


def _labels(runs: pd.DataFrame) -> dict[str, str]:
    """What each run is called as the other side, whatever its seed."""
    shown = runs["label"].where(runs["label"] != "", runs["run"])
    same = runs.assign(shown=shown)[runs["kind"] != "run"].duplicated("shown", keep=False)
    labels = {}
    for row, label in zip(runs.to_dict("records"), shown, strict=True):
        if row["kind"] == "run":
            kinds = row["instruction_kinds"]
            kinds = "" if kinds == "all" else kinds
            label = names.run_label(row["tuning"], row["source"], kinds=kinds)
        labels[row["run"]] = label
    doubled = runs.loc[same[same].index, "run"]
    return labels | dict(zip(doubled, doubled, strict=True))
