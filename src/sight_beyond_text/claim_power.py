"""Whether a study can decide its claims, told before anything is run. Light, no pandas.

A claim is decided where its interval lies on one side of the threshold. By the standard error that
is to be expected, told is how far from the threshold a true difference must lie for that to happen
with a probability of 80 %; and of a claim of equivalence the smallest margin that a study without
any difference would support so often. The error is that of one pair (`power.smallest_effects`), as
if the pairs that a claim pools said the same, or where the claim was judged before, that of then.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from sight_beyond_text.analysis import names
from sight_beyond_text.power import LEVEL, POWER
from sight_beyond_text.study import Study
from sight_beyond_text.study_claims import Claim, pairs, suites

_Z = NormalDist().inv_cdf
_EITHER_SIDE = {
    "superiority": 1 - LEVEL / 2,
    "inferiority": 1 - LEVEL / 2,
    "equivalence": 1 - LEVEL,
}
"""Quantile that bounds the interval by which a claim is judged."""


def decidable(
    study: Study, effects: Sequence[dict[str, Any]], figures: str | Path = "figures/data"
) -> list[dict[str, Any]]:
    """What each claim of a study takes to be decided.

    Args:
        study: the study.
        effects: `power.smallest_effects` of it.
        figures: where the studies' tables lie.

    Returns:
        A row a claim, in points: `claim`, `benchmark`, `kind`, `threshold`, `pairs`; `distance`
        from the threshold that is decided (of equivalence the smallest margin that can be
        supported), `from` ("measured", "assumed"), both None where nothing is known; `decides`:
        of equivalence whether the margin is as large as that, else None, as nobody knows the true
        difference.
    """
    judged = _judged(Path(figures) / study.name / "claims.csv")
    rows = []
    for name, claim in study.claims.items():
        kind, threshold = claim.threshold
        error, source = judged.get((name, claim.benchmark, kind)), "measured"
        if error is None:
            error, source = _expected(study, claim, effects)
        row: dict[str, Any] = {"claim": name, "benchmark": claim.benchmark, "kind": kind}
        row |= {"threshold": threshold, "pairs": len(pairs(study, claim))}
        distance = None if error is None else error * _factor(kind)
        decides = None
        if kind == "equivalence" and distance is not None:
            decides = threshold >= distance
        rows.append(row | {"distance": distance, "from": source, "decides": decides})
    return rows


def _factor(kind: str) -> float:
    """Standard errors from threshold, or margin, to what is decided."""
    # Without any difference, both one-sided tests must hold.
    power = (1 + POWER) / 2 if kind == "equivalence" else POWER
    return _Z(_EITHER_SIDE[kind]) + _Z(power)


def _expected(
    study: Study, claim: Claim, effects: Sequence[dict[str, Any]]
) -> tuple[float | None, str | None]:
    """The standard error of one pair's difference in points, and where it is known from."""
    known = {}
    for row in effects:
        value = row["pair"] if row["seeds"] is None else row["seeds"]
        if value is not None and claim.metric in (None, row["metric"]):
            points = names.points(row["metric"] or "acc")
            error = points * value / (_Z(1 - LEVEL / 2) + _Z(POWER))
            known.setdefault(row["benchmark"], (error, row))
    if claim.benchmark in known:
        error, row = known[claim.benchmark]
        return error, row["from"]
    parts = suites(study)[claim.benchmark]
    if len(parts) > 1 and set(names.ETHICS) <= set(parts):
        parts = [names.MACRO, *(part for part in parts if part not in names.ETHICS)]
    if not set(parts) <= set(known):
        return None, None
    of = [known[part] for part in parts]
    of = [(error, row) for error, row in of if names.is_fraction(row["metric"] or "acc")]
    if not of:
        return None, None
    told = {row["from"] for _, row in of}
    mean = math.sqrt(sum(error**2 for error, _ in of)) / len(of)
    return mean, told.pop() if len(told) == 1 else "assumed"


def _judged(path: Path) -> dict[tuple[str, str, str], float]:
    """Of claims that were judged before: standard errors in points."""
    found = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["verdict"] == "untestable":
                    continue
                width = (float(row["high"]) - float(row["low"])) * names.points(row["metric"])
                error = width / (2 * _Z(_EITHER_SIDE[row["kind"]]))
                if error > 0 and math.isfinite(error):
                    found[row["claim"], row["benchmark"], row["kind"]] = error
    except (OSError, KeyError, ValueError, TypeError):
        return {}
    return found
