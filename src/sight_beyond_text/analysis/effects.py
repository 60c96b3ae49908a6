"""Paired effects between runs, and each run's own intervals.

Two runs answer the same questions, so they are compared question by question. Questions that share
an image or a passage are not independent: resampling and permutation both work on clusters.

- Intervals (95 %): bootstrap over clusters of items (`resampling`). They cover which questions
  were asked, not which seed a run was trained with; `seeds` covers both.
- p: exact McNemar test where scores are 0 or 1 and every item is its own cluster; otherwise a
  two-sided paired permutation test that flips the sign of whole clusters (`sign_flips`). Of means
  over benchmarks, Student's t with the variance over clusters.
- p_holm: adjusted within a family (`multiplicity`).
- effect_size: the mean difference in standard deviations of the items' differences (d_z); of a mean
  over benchmarks, in the root of their mean variance. NaN where all differences are the same.
- ETHICS as a whole (benchmark "ethics") is the mean of its five subsets with equal weights, and
  "text_mean" and "image_mean" are those of a suite (`estimates.means`); MMLU's groups are metrics
  of their own (`acc_<group>`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.estimates import (
    Estimates,
    Pair,
    Test,
    means,
    of_pairs,
    of_runs,
    samples,
)
from sight_beyond_text.analysis.multiplicity import adjusted
from sight_beyond_text.analysis.outcomes import Gatherer, Outcomes, gather
from sight_beyond_text.analysis.resampling import DRAWS, bounds, clean
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


def contrasts(runs: pd.DataFrame) -> list[Pair]:
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


@dataclass(frozen=True)
class Measured:
    """What items tell: of single runs, and of pairs of them.

    Attributes:
        runs: By test; means over benchmarks included.
        pairs: The same of differences.
    """

    runs: list[Estimates]
    pairs: list[Estimates]

    def means(self) -> dict[tuple[Test, str], float]:
        """Each run's mean by test."""
        return {
            (found.test, run): float(mean)
            for found in self.runs
            for run, mean in zip(found.keys, found.mean, strict=True)
        }


def measure(
    runs: pd.DataFrame, items: pd.DataFrame | Gatherer, seed: int = 0, draws: int = DRAWS
) -> Measured:
    """Estimates what the tables `effects`, `over_seeds` and `intervals` hold.

    Args:
        runs: Table `runs`.
        items: Table `items`, or what took it in; scores in the metric's own unit.
        seed: Of the resampling. The order of rows does not matter, nor which other runs are there.
        draws: Bootstrap resamples.

    Raises:
        UserError: Both sides of a pair answered a benchmark but not the same items; or items are
            doubled, lack a score, or have different clusters in different runs.
    """
    pairs = contrasts(runs)
    single, paired = [], []
    for outcomes in (items if isinstance(items, Gatherer) else gather(items)).outcomes():
        check_pairs(outcomes, pairs)
        for sample in samples(outcomes, seed, draws):
            single.append(of_runs(sample))
            if (found := of_pairs(sample, pairs)) is not None:
                paired.append(found)
    return Measured([*single, *means(single)], [*paired, *means(paired)])


def paired_effects(
    runs: pd.DataFrame, items: pd.DataFrame, seed: int = 0, draws: int = DRAWS
) -> pd.DataFrame:
    """Differences between runs on the same items.

    Arguments and errors as in `measure`.

    Returns:
        Table `effects`, as `effects_table` makes it.
    """
    return effects_table(runs, measure(runs, items, seed, draws))


def effects_table(runs: pd.DataFrame, measured: Measured) -> pd.DataFrame:
    """Table `effects`, sorted, without the protocol, which items don't tell (`tidy.with_protocol`).

    A benchmark that one side has no answers for at all (a base without images) gives no row.
    Intervals are NaN where there is only one cluster.
    """
    facts = runs.set_index("run")[["base", "source", "tuning", "seed"]].to_dict("index")
    means_ = measured.means()
    rows = []
    for found in measured.pairs:
        p, sizes = found.p(), standardized(found.mean, np.diag(found.covariance))
        for place, (contrast, run, other) in enumerate(found.keys):
            low, high = bounds(found.boot[:, place], found.df[place])
            rows.append(
                {
                    "contrast": contrast,
                    "run": run,
                    "other": other,
                    **facts[run],
                    **dict(zip(_TEST, found.test, strict=True)),
                    "value": means_[found.test, run],
                    "other_value": means_[found.test, other],
                    "difference": clean(found.mean[place]),
                    "low": low,
                    "high": high,
                    "p": float(p[place]),
                    "effect_size": float(sizes[place]),
                    "n": found.n,
                    "n_clusters": len(found.names),
                }
            )
    return adjusted(as_table("effects", rows))


def mean_interval(items: pd.DataFrame, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """Each run's own mean per benchmark and metric with its 95 % interval.

    Arguments and errors as in `measure`.

    Returns:
        Table `intervals`, as `intervals_table` makes it.
    """
    return intervals_table(measure(tidy.empty("runs"), items, seed, draws))


def intervals_table(measured: Measured) -> pd.DataFrame:
    """Table `intervals`, sorted, without the protocol, with rows for means over benchmarks."""
    rows = []
    for found in measured.runs:
        for place, run in enumerate(found.keys):
            low, high = bounds(found.boot[:, place], found.df[place])
            value = {"value": float(found.mean[place]), "low": low, "high": high, "n": found.n}
            rows.append({"run": run, **dict(zip(_TEST, found.test, strict=True)), **value})
    return as_table("intervals", rows)


def standardized(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Means in standard deviations; NaN where there is no deviation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-18, mean / np.sqrt(variance), np.nan).round(12) + 0.0


def as_table(table: str, rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows as a table, sorted, with all its columns but the protocol."""
    made = tidy.empty(table).drop(columns="protocol")
    if not rows:
        return made
    frame = pd.DataFrame(rows, columns=made.columns)
    for name, kind in tidy.SCHEMAS[table].items():
        if kind == "integer":
            frame[name] = frame[name].astype("Int64")
    return frame.sort_values(tidy.KEYS[table], ignore_index=True)


def check_pairs(outcomes: Outcomes, pairs: Iterable[Pair]) -> None:
    """Checks that both sides of each pair were asked the same items, if they were asked at all.

    Raises:
        UserError: They weren't.
    """
    columns = {run: place for place, run in enumerate(outcomes.runs)}
    missing = np.isnan(outcomes.scores)
    if not missing.any():
        return
    for _, run, other in pairs:
        if run not in columns or other not in columns:
            continue
        alone = missing[:, columns[run]] != missing[:, columns[other]]
        if alone.any():
            first = ", ".join(repr(str(item)) for item in outcomes.items[alone][:3])
            raise UserError(
                f"{outcomes.suite}/{outcomes.benchmark}/{outcomes.metric}: {int(alone.sum())} "
                f"item(s) were answered by only one of {run} and {other}, first {first}; evaluate "
                "both with the same items"
            )
