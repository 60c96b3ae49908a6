"""Judges a study's claims from the items: supported, refuted, undecided or untestable.

A claim is about pairs of subjects that answered the same questions. Its estimate is the mean over
the pairs of each question's difference, so that questions which all pairs share are drawn together.
It is linear in the runs' scores, and so is all that `effects.measure` keeps of them.

- Superiority (at least t) and inferiority (at most t): supported where the whole 95 % interval lies
  on the claimed side of t, refuted where it lies on the other.
- Equivalence (within m): two one-sided tests at 5 % (Schuirmann, A comparison of the two one-sided
  tests procedure and the power approach, Journal of Pharmacokinetics and Biopharmaceutics 15,
  1987), which is that the 90 % interval lies inside the margins; refuted where it lies outside.
- Intervals are those of `effects`, over several seeds those of `seeds`.
- p: of the difference against the threshold, by Student's t; for equivalence the larger of the two
  one-sided ones. Adjusted by Holm's method over the claims of the study.
- Undecided claims tell how many items, or seeds, would decide at the estimated difference with a
  power of 80 %.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtr, stdtrit
from statsmodels.stats.multitest import multipletests

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.analysis.effects import Measured
from sight_beyond_text.analysis.estimates import Estimates, Test, means
from sight_beyond_text.analysis.resampling import bounds, clean
from sight_beyond_text.analysis.seeds import t_interval, variances
from sight_beyond_text.errors import UserError

SUPPORTED, REFUTED = "supported", "refuted"
UNDECIDED, UNTESTABLE = "undecided", "untestable"
LEVEL, POWER = 0.05, 0.8

_MOST = 1e4
"""Beyond so many times the items, or the seeds, more of them are no remedy."""
_FEW = 3
"""Names told of those that lack scores."""
_POOLED = "pooled"


@dataclass(frozen=True)
class _Statement:
    """What a claim says, in its metric's own unit."""

    kind: str
    threshold: float

    @property
    def level(self) -> float:
        """What the interval covers that is judged by."""
        return 1 - 2 * LEVEL if self.kind == "equivalence" else 1 - LEVEL

    def verdict(self, low: float, high: float) -> str:
        """By the interval alone."""
        at = self.threshold
        inside = {
            "superiority": low > at,
            "inferiority": high < at,
            "equivalence": -at < low and high < at,
        }[self.kind]
        outside = {
            "superiority": high < at,
            "inferiority": low > at,
            "equivalence": high < -at or low > at,
        }[self.kind]
        return SUPPORTED if inside else REFUTED if outside else UNDECIDED

    def shifts(self) -> list[float]:
        """The differences that it is tested against."""
        both = self.kind == "equivalence"
        return [-self.threshold, self.threshold] if both else [self.threshold]

    def p(self, two_sided: Sequence[float], away: Sequence[float]) -> float:
        """p of the claim, from that of each threshold and how far above it the estimate lies."""
        if self.kind != "equivalence":
            return two_sided[0]
        signs = zip(two_sided, (away[0], -away[1]), strict=True)
        return max(p / 2 if beyond > 0 else 1 - p / 2 for p, beyond in signs)

    def power(self, difference: float, half_width: float, error: float) -> float:
        """Probability of a verdict at a true difference.

        Args:
            difference: the true one.
            half_width: of the interval.
            error: of the estimate.
        """
        away = np.array([difference - at for at in self.shifts()])
        if error <= 0:
            return float(np.all(away != 0))
        if self.kind != "equivalence":
            return float(ndtr((abs(away[0]) - half_width) / error))
        low, high = (away[0] - half_width) / error, (away[1] + half_width) / error
        inside = ndtr(low) + ndtr(-high) - 1
        outside = ndtr(-(away[0] + half_width) / error) + ndtr((away[1] - half_width) / error)
        return float(max(0.0, inside, outside))


@dataclass(frozen=True)
class _Spread:
    """Where an estimate's variance comes from.

    Attributes:
        items: over questions, of the mean over seeds.
        seeds: between seeds beyond that; 0 with one.
        both: that part of `items` which more seeds lessen as well.
        df: degrees of freedom over clusters.
        n_seeds: seeds.
    """

    items: float
    seeds: float
    both: float
    df: float
    n_seeds: int

    def width(self, level: float, items: float = 1.0, seeds: float = 1.0) -> tuple[float, float]:
        """Half width of the interval, and standard error, with so many times the items, seeds."""
        over_items = (max(0.0, self.items - self.both) + self.both / seeds) / items
        over_seeds = self.seeds / seeds
        tail = (1 + level) / 2
        half = stdtrit(max(1.0, (self.df + 1) * items - 1), tail) ** 2 * over_items
        if self.n_seeds > 1:
            half += stdtrit(max(1.0, self.n_seeds * seeds - 1), tail) ** 2 * over_seeds
        return math.sqrt(half), math.sqrt(over_items + over_seeds)


@dataclass(frozen=True)
class _Case:
    """A claim with what there is to judge it by.

    Attributes:
        claim: as `grid.compare_spec` gives it.
        statement: what it says.
        test: what it is about.
        pairs: those whose both sides were scored, by seed.
        missing: subjects that lack scores.
        notes: what else a reader must know.
    """

    claim: dict
    statement: _Statement
    test: Test
    pairs: dict[int, list[tuple[str, str]]]
    missing: list[str]
    notes: list[str]

    @property
    def every(self) -> list[tuple[str, str]]:
        """All pairs that are judged."""
        return [pair for own in self.pairs.values() for pair in own]


def judged(
    claims: Sequence[dict], runs: pd.DataFrame, measured: Measured, scores: pd.DataFrame
) -> pd.DataFrame:
    """Table `claims`: the verdicts, each with its numbers.

    Args:
        claims: `claims` of `grid.compare_spec`: pairs of runs, thresholds in points.
        runs: Table `runs`.
        measured: What the items tell (`effects.measure`).
        scores: Table `scores`, which tells the protocols.

    Returns:
        Differences and thresholds in the metric's own unit. `low` and `high` bound 95 %, of claims
        of equivalence 90 %. `pairs_alone`: how many pairs would support the claim by themselves.
        `needed_items`, `needed_seeds` (in all) are of undecided claims; missing where more of them
        can't decide, which `reason` tells. Of untestable claims it tells what is missing.

    Raises:
        UserError: The two sides of a pair, or two pairs, answered a benchmark, but not the same
            items.
    """
    if not claims:
        return tidy.empty("claims")
    facts = {row["run"]: row for row in runs.to_dict("records")}
    known: dict[Test, list[Estimates]] = {}
    for found in measured.runs:
        known.setdefault(found.test, []).append(found)
    return _table([_row(_case(claim, facts, known), known) for claim in claims], scores)


_Known = Mapping[Test, list[Estimates]]
"""Of each test, the estimates of all runs: several where they were asked different items."""


def _case(claim: dict, facts: Mapping[str, dict], known: _Known) -> _Case:
    about = [test for test in known if test[1] == claim["benchmark"]]
    metrics = [metric for _, _, metric in about]
    metric = claim["metric"] or (names.main_metric(metrics) if metrics else "")
    test = next((test for test in about if test[2] == metric), ("", claim["benchmark"], metric))
    scored = {run for found in known.get(test, []) for run in found.keys}
    stated = [(run, other) for run, other in claim["pairs"]]
    there = [pair for pair in stated if scored.issuperset(pair)]
    missing = sorted({side for pair in stated for side in pair} - scored)
    pairs, notes = _by_seed(there, facts)
    if missing and there:
        notes.append(f"{len(there)} of {len(stated)} pairs: no scores of {_first(missing)}")
    threshold = claim["threshold"] / names.points(metric or "acc")
    return _Case(claim, _Statement(claim["kind"], threshold), test, pairs, missing, notes)


def _by_seed(
    pairs: Sequence[tuple[str, str]], facts: Mapping[str, dict]
) -> tuple[dict[int, list[tuple[str, str]]], list[str]]:
    """The pairs by seed, so that each seed has the same cells; all in one where seeds can't be."""
    axes = ("kind", "base", "source", "tuning", "instruction_kinds")
    cells: dict[tuple, dict[int, tuple[str, str]]] = {}
    for pair in pairs:
        cell = tuple(facts[side][axis] for side in pair for axis in axes)
        told = facts[pair[0]]["seed"]
        cells.setdefault(cell, {})[0 if pd.isna(told) else int(told)] = pair
    if not cells:
        return {}, []
    shared = set.intersection(*(set(own) for own in cells.values()))
    everywhere = all(set(own) == shared for own in cells.values())
    if everywhere or len(shared) > 1:
        notes = (
            [] if everywhere else [f"only seeds {_first(sorted(map(str, shared)))}, in all runs"]
        )
        return {key: [own[key] for own in cells.values()] for key in sorted(shared)}, notes
    return {0: list(pairs)}, ["its runs have other seeds, so the interval covers questions alone"]


def _estimates(case: _Case, known: _Known) -> Estimates:
    """The means of all pairs, of each pair, and of each seed's pairs."""
    wanted = {(_POOLED,): case.every}
    wanted |= {("pair", *pair): [pair] for pair in case.every}
    wanted |= {("seed", seed): pairs for seed, pairs in case.pairs.items()}
    suite, benchmark, _ = case.test
    if benchmark != names.MACRO and benchmark not in names.MEANS.values():
        found = [_combined(one, wanted) for one in known[case.test]]
    else:
        # Of single benchmarks first: each is known as well as its own clusters tell.
        single = [
            _combined(one, wanted)
            for test, own in known.items()
            if test[0] == suite and test[1] not in (names.MACRO, *names.MEANS.values())
            for one in own
        ]
        found = list(means([one for one in single if one.keys]))
    whole = [one for one in found if one.test == case.test and (_POOLED,) in one.keys]
    if not whole:
        raise UserError(
            f"claim {case.claim['claim']}: its runs, or those that they are compared with, were "
            f"asked different items of {benchmark}; evaluate them with the same ones"
        )
    return whole[0]


def _combined(one: Estimates, wanted: Mapping[tuple, Sequence[tuple[str, str]]]) -> Estimates:
    """Means of differences, as far as their runs are there."""
    place = {run: column for column, run in enumerate(one.keys)}
    kept = {
        key: pairs
        for key, pairs in wanted.items()
        if all(side in place for pair in pairs for side in pair)
    }
    weights = np.zeros((len(place), len(kept)))
    for column, pairs in enumerate(kept.values()):
        for run, other in pairs:
            weights[place[run], column] += 1 / len(pairs)
            weights[place[other], column] -= 1 / len(pairs)
    return Estimates(
        test=one.test,
        keys=tuple(kept),
        mean=one.mean @ weights,
        boot=one.boot @ weights,
        names=one.names,
        pulls=one.pulls @ weights,
        residuals=one.residuals @ weights,
        covariance=weights.T @ one.covariance @ weights,
        df=np.full(len(kept), one.df[0]),
        n=one.n,
        p_known=np.full(len(kept), np.nan),
    )


def _row(case: _Case, known: _Known) -> dict[str, object]:
    claim, statement = case.claim, case.statement
    row: dict[str, object] = {
        **{key: claim[key] for key in ("claim", "text", "kind", "benchmark")},
        "threshold": statement.threshold,
        "metric": case.test[2],
        "verdict": UNTESTABLE,
        "pairs": len(case.every),
        "reason": _untestable(case),
    }
    if not case.pairs:
        return row
    found = _estimates(case, known)
    at = {key: column for column, key in enumerate(found.keys)}
    pooled = at[(_POOLED,)]
    mean, df = clean(found.mean[pooled]), float(found.df[pooled])
    seeds = [at["seed", seed] for seed in case.pairs]
    if len(seeds) > 1:
        by_seed, residuals = found.mean[seeds], found.residuals[:, seeds]
        low, high, _ = t_interval(by_seed, residuals, df, statement.level)
        p = [t_interval(by_seed - shift, residuals, df)[2] for shift in statement.shifts()]
        spread = _Spread(*variances(by_seed, residuals), df, len(seeds))
    else:
        low, high = bounds(found.boot[:, pooled], df, statement.level)
        variance = float(np.sum(found.residuals[:, pooled] ** 2))
        spread = _Spread(variance, 0.0, 0.0, df, 1)
        p = [_t_p(mean - shift, variance, df) for shift in statement.shifts()]
    verdict, needed, told = _verdict(mean, (low, high), spread, statement, found)
    return row | {
        "verdict": verdict,
        "difference": mean,
        "low": low,
        "high": high,
        "p": statement.p(p, [mean - shift for shift in statement.shifts()]),
        "pairs_alone": _alone(case, found, verdict),
        "seeds": len(seeds),
        "n": found.n,
        "n_clusters": len(found.names),
        **needed,
        "reason": "; ".join([*case.notes, *told]),
    }


def _untestable(case: _Case) -> str:
    about = " ".join(filter(None, (case.claim["benchmark"], case.claim["metric"])))
    if not case.test[0]:
        return f"no items of {about}: it was not scored, or is no mean over items"
    return f"no pair has scores of {about} on both sides; missing: {_first(case.missing)}"


def _first(found: Sequence[str]) -> str:
    more = len(found) - _FEW
    return ", ".join(found[:_FEW]) + (f" and {more} more" if more > 0 else "")


def _t_p(away: float, variance: float, df: float) -> float:
    if not (variance > 0 and df >= 1):
        return math.nan
    return float(2 * stdtr(df, -abs(away) / math.sqrt(variance)))


def _verdict(
    mean: float,
    interval: tuple[float, float],
    spread: _Spread,
    statement: _Statement,
    found: Estimates,
) -> tuple[str, dict[str, float], list[str]]:
    """Verdict, what would decide, and what to say of it."""
    if math.isnan(interval[0]):
        return UNDECIDED, {}, ["all questions share one cluster, so there is no interval"]
    if spread.items + spread.seeds < 1e-24:
        return _all_tied(mean, found, statement)
    verdict = statement.verdict(*interval)
    if verdict != UNDECIDED:
        return verdict, {}, []
    needed = _needed(mean, spread, statement, found.n)
    if needed:
        return verdict, needed, []
    return verdict, {}, ["the estimate lies too near to the threshold for more of them to decide"]


def _alone(case: _Case, found: Estimates, verdict: str) -> int:
    """How many pairs would support the claim by their own intervals over items."""
    if len(case.every) == 1:
        return int(verdict == SUPPORTED)
    columns = [found.keys.index(("pair", *pair)) for pair in case.every]
    level = case.statement.level
    return sum(
        case.statement.verdict(*bounds(found.boot[:, place], found.df[place], level)) == SUPPORTED
        for place in columns
    )


def _all_tied(
    mean: float, found: Estimates, statement: _Statement
) -> tuple[str, dict[str, float], list[str]]:
    """The verdict where every question has the same difference, so that nothing varies.

    None of n that are alike still leaves room for a share of others: at most 1 - 0.05 ** (1 / n).
    """
    room = min(abs(mean - at) for at in statement.shifts())
    if room == 0:
        return UNDECIDED, {}, ["every question has the difference that is the threshold"]
    clusters = len(found.names)
    least = 0 if room >= 1 else math.ceil(math.log(LEVEL) / math.log1p(-room))
    if clusters >= least:
        return statement.verdict(mean, mean), {}, []
    needed = {"needed_items": math.ceil(least * found.n / clusters)}
    return UNDECIDED, needed, ["every question has the same difference"]


def _needed(mean: float, spread: _Spread, statement: _Statement, n: int) -> dict[str, float]:
    """The items, and with several seeds the seeds, that would decide, where they can."""

    def with_items(times: float) -> bool:
        width = spread.width(statement.level, items=times)
        return statement.power(mean, *width) >= POWER

    def with_seeds(times: float) -> bool:
        width = spread.width(statement.level, seeds=times)
        return statement.power(mean, *width) >= POWER

    needed = {}
    if (times := _smallest(with_items)) is not None:
        needed["needed_items"] = math.ceil(n * times)
    if spread.n_seeds > 1 and (times := _smallest(with_seeds)) is not None:
        needed["needed_seeds"] = math.ceil(spread.n_seeds * times)
    return needed


def _smallest(enough: Callable[[float], bool]) -> float | None:
    """The smallest factor that is enough, to a hundredth; None where the largest isn't."""
    low, high = 1.0, 2.0
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _table(rows: list[dict[str, object]], scores: pd.DataFrame) -> pd.DataFrame:
    told = scores[["suite", "benchmark", "protocol"]].drop_duplicates()
    frame = pd.DataFrame([{**row, **_told(row["benchmark"], told)} for row in rows])
    frame = frame.reindex(columns=list(tidy.CLAIMS))
    tested = frame["p"].notna()
    if tested.any():
        p = frame.loc[tested, "p"].to_numpy(float)
        frame.loc[tested, "p_holm"] = multipletests(p, method="holm")[1]
    for name, kind in tidy.CLAIMS.items():
        if kind == "integer":
            frame[name] = frame[name].astype("Float64").astype("Int64")
        elif kind == "float":
            frame[name] = frame[name].astype(float)
    return frame.sort_values("claim", ignore_index=True)


def _told(benchmark: object, scores: pd.DataFrame) -> dict[str, str]:
    """Suite and protocols of what a claim is about."""
    of_suite = {mean: suite for suite, mean in names.MEANS.items()}
    if benchmark in of_suite:
        here = scores[scores["suite"] == of_suite[benchmark]]
    else:
        parts = names.ETHICS if benchmark == names.MACRO else (benchmark,)
        here = scores[scores["benchmark"].isin(parts)]
    return {name: ", ".join(sorted(set(here[name]))) for name in ("suite", "protocol")}
