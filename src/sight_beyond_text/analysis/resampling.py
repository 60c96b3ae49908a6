"""Bootstrap over clusters of items, for all runs of a study at once.

Each cluster is drawn a Poisson(1) number of times, by a stream of random numbers that belongs to
its name (the Poisson bootstrap: Hanley and MacGibbon, Creating non-parametric bootstrap samples
using Poisson frequencies, Computer Methods and Programs in Biomedicine 83, 2006). So all runs are
resampled alike, which makes differences paired; benchmarks that share pictures or questions are
resampled together, which means over benchmarks need; and no interval depends on which other items,
benchmarks or runs a study holds.
"""

import hashlib

import numpy as np
from scipy import special, stats

LEVEL = 0.95
DRAWS = 2000

_BLOCK = 2048
# Poisson(1) by inversion, from 16 bits.
_FREQUENCIES = stats.poisson.ppf((np.arange(2**16) + 0.5) / 2**16, 1.0)


def cluster_sums(codes: np.ndarray, values: np.ndarray, clusters: int) -> np.ndarray:
    """Sums by cluster: (clusters, columns) of values (items, columns) and codes (items,)."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(clusters))
    return np.add.reduceat(values[order], starts, axis=0)


def bootstrap_means(
    names: np.ndarray, sums: np.ndarray, counts: np.ndarray, stream: str, draws: int
) -> np.ndarray:
    """Means over items of resampled clusters.

    Args:
        names: Of the clusters, (clusters,).
        sums: Of the scores in each, (clusters, columns).
        counts: Items in each, (clusters,).
        stream: With a cluster's name, what its random numbers depend on.
        draws: Resamples.

    Returns:
        (draws, columns). NaN in draws without any cluster, which few clusters have, and in all
        where there is only one cluster: that it gives the same mean again is no certainty.
    """
    whole = np.column_stack([sums, counts])
    totals = np.zeros((draws, whole.shape[1]))
    for start in range(0, len(names), _BLOCK):
        block = names[start : start + _BLOCK]
        totals += _weights(block, stream, draws).T @ whole[start : start + _BLOCK]
    drawn = totals[:, -1:]
    if len(names) < 2:
        drawn = np.zeros_like(drawn)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(drawn > 0, totals[:, :-1] / drawn, np.nan)


def _weights(names: np.ndarray, stream: str, draws: int) -> np.ndarray:
    """How often each cluster is drawn: (clusters, draws)."""
    # A hash of any length gives each name its own random bits, sooner than a generator is set up.
    bits = b"".join(
        hashlib.shake_128(f"{stream}/{name}".encode()).digest(2 * draws) for name in names
    )
    return _FREQUENCIES[np.frombuffer(bits, "<u2").reshape(len(names), draws)]


def bounds(boot: np.ndarray, df: float, level: float = LEVEL) -> tuple[float, float]:
    """95 % interval (or of another level): percentiles, further out where clusters are few.

    With few clusters a percentile interval is too short, as a normal one is: it takes the spread
    for known. Moving the percentiles to where Student's t has its own mends that, and does nothing
    where clusters are many (the expanded percentile interval: Hesterberg, What teachers should
    know about the bootstrap, The American Statistician 69, 2015).

    Args:
        boot: Draws of one mean; NaN is left out.
        df: Degrees of freedom, clusters less one.
        level: What it covers.

    Returns:
        NaN where there are no draws or no degrees of freedom.
    """
    boot = boot[~np.isnan(boot)]
    if not len(boot) or not df >= 1:
        return np.nan, np.nan
    tail = (1 - level) / 2
    outer = special.ndtr(special.stdtrit(df, tail) * np.sqrt((df + 1) / df))
    low, high = np.quantile(boot, [outer, 1 - outer])
    return clean(low), clean(high)


def clean(value: float) -> float:
    """Without the 1e-17 that sums of fractions leave where the answer is zero: it would decide on
    which side of zero a bound lies."""
    return round(float(value), 12) + 0.0
