"""Paired effects between runs, and each run's own intervals.

Two runs answer the same questions, so they are compared question by question. Questions that share
an image or a passage are not independent: resampling and permutation both work on clusters.

- Intervals: percentile bootstrap (95 %) of the mean over items, clusters drawn with replacement
  (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13). They cover
  which questions were asked, not which seed a run was trained with.
- p: exact McNemar test where scores are 0 or 1 and every item is its own cluster; otherwise a
  two-sided paired permutation test that flips the sign of whole clusters. Not corrected for the
  number of comparisons.
- ETHICS as a whole (benchmark "ethics") is the mean of its five subsets with equal weights,
  resampled within each subset; it exists where all five were answered.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.analysis.multiplicity import adjusted
from sight_beyond_text.errors import UserError

PAIRS = (
    ("source", "visual", "text"),
    ("source", "visual", "caption"),
    ("source", "caption", "text"),
    ("tuning", "lora", "full"),
    ("tuning", "qlora", "full"),
    ("tuning", "frozen", "full"),
)
"""What is contrasted between runs that are alike in all else: field, value, other value."""

_AXES = ("base", "source", "tuning", "seed", "instruction_kinds")
_TEST = ["suite", "benchmark", "metric"]
_BLOCK = 4_000_000


@dataclass(frozen=True)
class _Answers:
    """One metric of one benchmark: scores (items, runs), NaN where a run was not asked."""

    suite: str
    benchmark: str
    metric: str
    items: pd.Index
    clusters: np.ndarray
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Estimate:
    """A mean over items, with its bootstrap and sign-flip draws (each of length `draws`)."""

    mean: float
    boot: np.ndarray
    flips: np.ndarray
    n: int
    n_clusters: int
    variance: float


def contrasts(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Which runs are compared: (name of the contrast, run, other run), sorted.

    Raises:
        UserError: Two runs are alike in base, source, tuning, seed and instruction kinds, so that
            their partners would be ambiguous.
    """
    cells: dict[tuple, str] = {}
    for row in runs[runs["kind"] == "run"].sort_values("run").to_dict("records"):
        # A missing seed does not equal itself, so it can't be part of a key.
        cell = tuple("" if pd.isna(row[axis]) else row[axis] for axis in _AXES)
        if cell in cells:
            raise UserError(
                f"runs {cells[cell]} and {row['run']} have the same base, source, tuning, seed and "
                "instruction kinds; compare studies that differ in another setting separately"
            )
        cells[cell] = row["run"]
    untuned = runs[runs["kind"] == "base"]
    if untuned["base"].duplicated().any():
        base = untuned.loc[untuned["base"].duplicated(), "base"].iloc[0]
        raise UserError(f"base {base!r} was scored untuned twice; keep one row of it in runs.csv")
    known = {cell[0] for cell in cells}
    bases = dict(zip(untuned["base"], untuned["run"], strict=True))
    found = [
        ("tuned - base", run, bases[cell[0]]) for cell, run in cells.items() if cell[0] in bases
    ]
    found += [
        ("tuned - reference", run, reference["run"])
        for reference in runs[runs["kind"] == "reference"].to_dict("records")
        for cell, run in cells.items()
        # A reference that is made of no base of the study is one for all of them.
        if reference["base"] == cell[0] or reference["base"] not in known
    ]
    for field, value, other in PAIRS:
        place = _AXES.index(field)
        for cell, run in cells.items():
            partner = cells.get((*cell[:place], other, *cell[place + 1 :]))
            if cell[place] == value and partner:
                found.append((f"{value} - {other}", run, partner))
    return sorted(found)


def paired_effects(
    runs: pd.DataFrame, items: pd.DataFrame, seed: int = 0, draws: int = 2000
) -> pd.DataFrame:
    """Differences between runs on the same items.

    Args:
        runs: Table `runs`.
        items: Table `items`; scores in the metric's own unit.
        seed: Of the resampling. The order of rows does not matter, nor which other runs are there.
        draws: Bootstrap resamples, and sign flips.

    Returns:
        Table `effects`, sorted, without the protocol, which items don't tell
        (`tidy.with_protocol`). A benchmark that one side has no answers for at all (a base without
        images) gives no row. Intervals are NaN where there is only one cluster.

    Raises:
        UserError: Both sides answered a benchmark but not the same items; or items are doubled,
            lack a score, or have different clusters in different runs.
    """
    pairs = contrasts(runs)
    facts = runs.set_index("run")
    rows = []
    macros = _Macro()
    for answers in _benchmarks(items):
        shared = _shared(pairs, answers)
        columns = {pair: answers.scores[pair[1]] - answers.scores[pair[2]] for pair in shared}
        for pair, effect in _estimates(answers, columns, seed, draws).items():
            sides = (answers.scores[pair[1]], answers.scores[pair[2]])
            means = tuple(float(np.nanmean(side)) for side in sides)
            macros.add(answers, pair, effect, means)
            p = _mcnemar(*sides) if _binary(effect, *sides) else _flip_p(effect)
            rows.append(_effect_row(pair, facts, answers, means, effect, p))
    for suite, metric, pair, effect, means in macros.complete():
        macro = _Answers(suite, names.MACRO, metric, pd.Index([]), np.empty(0), {})
        rows.append(_effect_row(pair, facts, macro, means, effect, _flip_p(effect)))
    return adjusted(_table("effects", rows))


def mean_interval(items: pd.DataFrame, seed: int = 0, draws: int = 2000) -> pd.DataFrame:
    """Each run's own mean per benchmark and metric with its 95 % interval.

    Arguments and errors as in `paired_effects`.

    Returns:
        Table `intervals`, sorted, without the protocol, with rows for ETHICS as a whole.
    """
    rows = []
    macros = _Macro()
    for answers in _benchmarks(items):
        for run, estimate in _estimates(answers, answers.scores, seed, draws).items():
            macros.add(answers, run, estimate, (estimate.mean,))
            rows.append(
                {"run": run, **{name: getattr(answers, name) for name in _TEST}} | _own(estimate)
            )
    for suite, metric, run, estimate, _ in macros.complete():
        test = {"suite": suite, "benchmark": names.MACRO, "metric": metric}
        rows.append({"run": run, **test} | _own(estimate))
    return _table("intervals", rows)


class _Macro:
    """Collects the ETHICS subsets' estimates, and averages those of whoever has all five."""

    def __init__(self) -> None:
        self._parts: dict[tuple, dict[str, tuple[_Estimate, tuple[float, ...]]]] = {}

    def add(
        self, answers: _Answers, key: object, estimate: _Estimate, means: tuple[float, ...]
    ) -> None:
        if answers.benchmark in names.ETHICS and answers.metric == "acc":
            parts = self._parts.setdefault((answers.suite, answers.metric, key), {})
            parts[answers.benchmark] = (estimate, means)

    def complete(self) -> Iterable[tuple]:
        for (suite, metric, key), parts in self._parts.items():
            if len(parts) == len(names.ETHICS):
                estimates = [estimate for estimate, _ in parts.values()]
                means = np.mean([means for _, means in parts.values()], axis=0)
                yield suite, metric, key, _average(estimates), tuple(map(float, means))


def _average(parts: list[_Estimate]) -> _Estimate:
    return _Estimate(
        mean=float(np.mean([part.mean for part in parts])),
        boot=np.mean([part.boot for part in parts], axis=0),
        flips=np.mean([part.flips for part in parts], axis=0),
        n=sum(part.n for part in parts),
        n_clusters=sum(part.n_clusters for part in parts),
        variance=float(np.mean([part.variance for part in parts])),
    )


def _benchmarks(items: pd.DataFrame) -> Iterable[_Answers]:
    _check_items(items)
    for (suite, benchmark, metric), group in items.groupby(_TEST, sort=True):
        stated = group["cluster"].fillna("")
        own = stated.where(stated != "", group["item"])
        clusters = own.groupby(group["item"], sort=True)
        if (clusters.nunique() > 1).any():
            counts = clusters.nunique()
            raise UserError(
                f"{suite}/{benchmark}/{metric}: item {counts[counts > 1].index[0]!r} has different "
                "clusters in different runs; evaluate those runs again with one version of the data"
            )
        wide = group.pivot(index="item", columns="run", values="score").sort_index()
        codes = pd.factorize(clusters.first().loc[wide.index], sort=True)[0]
        scores = {str(run): wide[run].to_numpy(float) for run in sorted(wide.columns)}
        yield _Answers(str(suite), str(benchmark), str(metric), wide.index, codes, scores)


def _check_items(items: pd.DataFrame) -> None:
    keys = tidy.KEYS["items"]
    for wrong, what in (
        (items.duplicated(keys), "occur twice"),
        (items["score"].isna(), "have no score"),
    ):
        if wrong.any():
            first = "/".join(str(value) for value in items.loc[wrong, keys].iloc[0])
            raise UserError(
                f"{int(wrong.sum())} item row(s) {what}, first {first}; evaluate that run again"
            )


def _shared(pairs: Iterable[tuple[str, str, str]], answers: _Answers) -> list[tuple[str, str, str]]:
    """The contrasts both of whose sides answered this benchmark, after checking that they match."""
    kept = []
    for contrast, run, other in pairs:
        if run not in answers.scores or other not in answers.scores:
            continue
        alone = np.isnan(answers.scores[run]) != np.isnan(answers.scores[other])
        if alone.any():
            first = ", ".join(repr(item) for item in answers.items[alone][:3])
            raise UserError(
                f"{answers.suite}/{answers.benchmark}/{answers.metric}: {int(alone.sum())} item(s) "
                f"were answered by only one of {run} and {other}, first {first}; evaluate both "
                "with the same items"
            )
        kept.append((contrast, run, other))
    return kept


def _estimates(
    answers: _Answers, columns: Mapping[object, np.ndarray], seed: int, draws: int
) -> dict[object, _Estimate]:
    """Means of columns (each over the items) and their draws; NaN marks what was not asked.

    Columns over the same items share their resamples: one matrix product serves them all.
    """
    groups: dict[bytes, list[object]] = {}
    for key, column in columns.items():
        groups.setdefault(np.isnan(column).tobytes(), []).append(key)
    found: dict[object, _Estimate] = {}
    for keys in groups.values():
        asked = ~np.isnan(columns[keys[0]])
        values = np.stack([columns[key][asked] for key in keys], axis=1)
        codes = np.unique(answers.clusters[asked], return_inverse=True)[1]
        counts = np.bincount(codes).astype(float)
        sums = np.zeros((len(counts), len(keys)))
        np.add.at(sums, codes, values)
        boot = _bootstrap(sums, counts, _stream(seed, answers, "bootstrap"), draws)
        if len(counts) < 2:
            # Resampling one cluster always gives the same mean: that is no certainty.
            boot[:] = np.nan
        flips = _sign_flips(sums, counts, _stream(seed, answers, "flips"), draws)
        for place, key in enumerate(keys):
            found[key] = _Estimate(
                mean=float(values[:, place].mean()),
                boot=boot[:, place],
                flips=flips[:, place],
                n=len(values),
                n_clusters=len(counts),
                variance=float(values[:, place].var(ddof=1)) if len(values) > 1 else np.nan,
            )
    return {key: found[key] for key in columns}


def _stream(seed: int, answers: _Answers, purpose: str) -> np.random.Generator:
    # Every benchmark has its own stream, so that adding one leaves the others' intervals alone.
    name = "/".join((str(seed), answers.suite, answers.benchmark, answers.metric, purpose))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16]))


def _bootstrap(
    sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """Means over items of resampled clusters: (draws, columns) from (clusters, columns)."""
    clusters = len(counts)
    result = np.empty((draws, sums.shape[1]))
    for start, size in _blocks(draws, clusters):
        picks = rng.integers(0, clusters, size=(size, clusters))
        picks += clusters * np.arange(size)[:, None]
        weights = np.bincount(picks.ravel(), minlength=size * clusters).astype(float)
        weights = weights.reshape(size, clusters)
        result[start : start + size] = weights @ sums / (weights @ counts)[:, None]
    return result


def _sign_flips(
    sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """Means over items after flipping the sign of clusters at random: (draws, columns)."""
    clusters = len(counts)
    result = np.empty((draws, sums.shape[1]))
    for start, size in _blocks(draws, clusters):
        signs = rng.integers(0, 2, size=(size, clusters)) * 2.0 - 1.0
        result[start : start + size] = signs @ sums / counts.sum()
    return result


def _blocks(draws: int, clusters: int) -> Iterable[tuple[int, int]]:
    step = max(1, _BLOCK // clusters)
    for start in range(0, draws, step):
        yield start, min(step, draws - start)


def _bounds(estimate: _Estimate) -> tuple[float, float]:
    low, high = np.percentile(estimate.boot, [2.5, 97.5])
    return _clean(low), _clean(high)


def _clean(value: float) -> float:
    # Sums of fractions leave 1e-17 where the answer is zero; it would decide on which side of
    # zero a bound lies.
    return round(float(value), 12) + 0.0


def _flip_p(effect: _Estimate) -> float:
    hits = np.count_nonzero(np.abs(effect.flips) >= abs(effect.mean) - 1e-12)
    return (1 + hits) / (1 + len(effect.flips))


def _binary(effect: _Estimate, *sides: np.ndarray) -> bool:
    whole = all(np.isin(side[~np.isnan(side)], (0.0, 1.0)).all() for side in sides)
    return whole and effect.n_clusters == effect.n


def _mcnemar(run: np.ndarray, other: np.ndarray) -> float:
    table = [
        [int(np.sum((run == mine) & (other == theirs))) for theirs in (1, 0)] for mine in (1, 0)
    ]
    return float(mcnemar(table, exact=True).pvalue)


def _effect_row(
    pair: tuple[str, str, str],
    facts: pd.DataFrame,
    answers: _Answers,
    means: tuple[float, ...],
    effect: _Estimate,
    p: float,
) -> dict[str, object]:
    contrast, run, other = pair
    low, high = _bounds(effect)
    return {
        "contrast": contrast,
        "run": run,
        "other": other,
        **{name: facts.at[run, name] for name in ("base", "source", "tuning", "seed")},
        **{name: getattr(answers, name) for name in _TEST},
        "value": means[0],
        "other_value": means[1],
        "difference": _clean(effect.mean),
        "low": low,
        "high": high,
        "p": p,
        "effect_size": _standardized(effect),
        "n": effect.n,
        "n_clusters": effect.n_clusters,
    }


def _standardized(effect: _Estimate) -> float:
    spread = np.sqrt(effect.variance)
    return _clean(effect.mean / spread) if spread > 1e-12 else np.nan


def _own(estimate: _Estimate) -> dict[str, object]:
    low, high = _bounds(estimate)
    return {"value": estimate.mean, "low": low, "high": high, "n": estimate.n}


def _table(table: str, rows: list[dict[str, object]]) -> pd.DataFrame:
    made = tidy.empty(table).drop(columns="protocol")
    if not rows:
        return made
    frame = pd.DataFrame(rows, columns=made.columns)
    for name, kind in tidy.SCHEMAS[table].items():
        if kind == "integer":
            frame[name] = frame[name].astype("Int64")
    return frame.sort_values(tidy.KEYS[table], ignore_index=True)
