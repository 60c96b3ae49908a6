"""The smallest difference between two runs that a benchmark can detect, before anything is run.

Runs answer the same questions, so what counts is how many of them change sides. With n questions,
of which a share d has another outcome, the mean difference has the variance (d - D^2) / n where D
is the true one. Detected means: a two-sided test at 5 % finds it with a probability of 80 %
(Connor, Sample size for testing differences in proportions for the paired-sample design,
Biometrics 43, 1987). Where the study's tables are there, the width of the intervals in them takes
the place of these assumptions (`analysis.effects`: a bootstrap over items, paired and clustered).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from sight_beyond_text import grid
from sight_beyond_text.benchmark_sizes import Size, image_size, text_size
from sight_beyond_text.study import Study

LEVEL, POWER = 0.05, 0.8

DISCORDANCE = 0.3
"""Share of questions whose outcome differs between two runs: a cautious guess. In the default
study the benchmarks' medians lie between 0.15 and 0.47, most of them near 0.2; two runs that guess
at even odds have 0.5."""

SPREAD = 0.6
"""Standard deviation of the difference of two captions' CIDEr, a cautious guess too: two published
captioners on Flickr30k's test split differ by 0.45."""

CORRELATION = 0.1
"""Of the differences at two questions that share a photo, a passage or a scene."""

LASTING = 0.5
"""Share of a question's difference that stays when the seed changes."""

ETHICS = (
    "ethics_cm",
    "ethics_justice",
    "ethics_deontology",
    "ethics_virtue",
    "ethics_utilitarianism",
)
"""What the mean of ETHICS is of (as `analysis.names.ETHICS`, which needs pandas)."""

_Z_LEVEL, _Z_POWER = NormalDist().inv_cdf(1 - LEVEL / 2), NormalDist().inv_cdf(POWER)


def smallest_difference(items: float, discordance: float) -> float | None:
    """The smallest detectable difference of paired scores between 0 and 1.

    Args:
        items: independent questions.
        discordance: share of them whose outcome differs.

    Returns:
        As a share (0.05 is five points); None where even the largest that this discordance allows
        goes undetected.
    """
    if items <= 0 or discordance <= 0:
        return None
    # z_level * sqrt(d) + z_power * sqrt(d - D^2) = D * sqrt(n), solved for D.
    sure = _Z_LEVEL * math.sqrt(discordance)
    whole = items + _Z_POWER**2
    under = sure**2 * items - whole * (sure**2 - _Z_POWER**2 * discordance)
    found = (sure * math.sqrt(items) + math.sqrt(max(0.0, under))) / whole
    return found if found <= discordance else None


def independent(size: Size, seeds: int = 1) -> float:
    """As how many independent questions a benchmark counts.

    Args:
        size: its size.
        seeds: over which differences are averaged.
    """
    shared = 1 + (size.together - 1) * CORRELATION
    return size.items / shared / (LASTING + (1 - LASTING) / seeds)


def over_seeds(difference: float, seeds: int) -> float:
    """The smallest detectable difference of means over seeds, of that of one run and another.

    Seeds are taken to differ by no more than `LASTING` says. They are few, so an interval must
    allow for their differing by more (`analysis.seeds`): it is wider by a multiple of what they
    happen to differ by beyond chance, which costs part of what averaging gains.

    Args:
        difference: the smallest that one seed detects.
        seeds: over which differences are averaged, two or more.
    """
    from scipy import optimize, special

    variance = LASTING + (1 - LASTING) / seeds
    own = (1 - LASTING) / seeds / variance
    # What they differ by varies as a chi-square over its degrees of freedom.
    places = [(place + 0.5) / 2000 for place in range(2000)]
    beyond = special.chdtri(seeds - 1, places) / (seeds - 1) - 1
    quantile = special.stdtrit(seeds - 1, 1 - LEVEL / 2)
    reach = (_Z_LEVEL**2 + quantile**2 * own * beyond.clip(min=0)) ** 0.5
    errors = optimize.brentq(lambda at: special.ndtr(at - reach).mean() - POWER, 0, 1000)
    return difference * math.sqrt(variance) * errors / (_Z_LEVEL + _Z_POWER)


def smallest_effects(
    study: Study,
    discordance: float = DISCORDANCE,
    figures: str | Path = "figures/data",
) -> list[dict[str, Any]]:
    """The smallest effect that each benchmark of a study can detect.

    Args:
        study: the study.
        discordance: assumed where nothing is measured.
        figures: where the studies' tables lie.

    Returns:
        A row a benchmark (and metric, where measured, or where it is no share of right answers):
        `suite`, `benchmark`, `metric`, `items`, `together`, `pair` (of one run and another),
        `seeds` (of means over the study's seeds; None for one), and `from`: "measured", "assumed"
        or None. In the metric's own unit.
    """
    measured = _measured(Path(figures) / study.name / "effects.csv")
    seeds, rows = len(study.seeds), []
    errors: dict[str, float | None] = {}
    for suite in ("text", "image"):
        for name, entry in grid.benchmarks(study, suite).items():
            if "corruption" in entry:
                continue  # as the one that is corrupted
            sized = text_size(name, entry) if suite == "text" else image_size(entry, 0)
            known = measured.get((suite, name), {})
            for metric, (items, error) in known.items():
                # The study may ask more or fewer questions than it did when it was measured.
                now = error * math.sqrt(items / sized.items) if sized else error
                errors[name] = now
                row = _row(suite, name, sized and sized.items or items, sized, now, seeds)
                rows.append({**row, "metric": metric, "from": "measured"})
            if known:
                continue
            error, captions = None, entry.get("type") == "captions"
            if sized is not None and captions:
                error = SPREAD / math.sqrt(independent(sized))
            elif sized is not None:
                found = smallest_difference(independent(sized), discordance)
                error = None if found is None else found / (_Z_LEVEL + _Z_POWER)
            errors[name] = error
            row = _row(suite, name, sized and sized.items, sized, error, seeds)
            metric, source = "CIDEr" if captions else None, "assumed" if error else None
            rows.append({**row, "metric": metric, "from": source})
    parts = [errors.get(name) for name in ETHICS]
    if all(parts):
        mean = math.sqrt(sum(part**2 for part in parts)) / len(parts)
        of = [row for row in rows if row["benchmark"] in ETHICS]
        row = _row("text", "ethics", sum(row["items"] for row in of), None, mean, seeds)
        told = {row["from"] for row in of}
        source = told.pop() if len(told) == 1 else "assumed"
        rows.append({**row, "metric": of[0]["metric"], "from": source})
    return rows


def _row(
    suite: str, name: str, items: int | None, size: Size | None, error: float | None, seeds: int
) -> dict[str, Any]:
    pair = None if error is None else (_Z_LEVEL + _Z_POWER) * error
    return {
        "suite": suite,
        "benchmark": name,
        "items": items,
        "together": size.together if size else None,
        "pair": pair,
        "seeds": over_seeds(pair, seeds) if pair is not None and seeds > 1 else None,
    }


def _measured(path: Path) -> dict[tuple[str, str], dict[str, tuple[int, float]]]:
    """Of a table of effects: by suite and benchmark, each metric's questions and standard error.

    The error is that of the median comparison. Where that is zero (two runs that say the same),
    nothing is measured.
    """
    widths: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                key = (row["suite"], row["benchmark"], row["metric"])
                error = (float(row["high"]) - float(row["low"])) / (2 * _Z_LEVEL)
                widths.setdefault(key, []).append((int(row["n"]), error))
    except (OSError, KeyError, ValueError, TypeError):
        return {}
    out: dict[tuple[str, str], dict[str, tuple[int, float]]] = {}
    for (suite, benchmark, metric), found in widths.items():
        error = median(_finite([error for _, error in found]) or [0.0])
        if error > 0:
            out.setdefault((suite, benchmark), {})[metric] = (found[0][0], error)
    # Metrics of a part of the questions (MMLU's groups) tell nothing of the whole.
    return {
        test: {metric: own for metric, own in found.items() if own[0] == max(found.values())[0]}
        for test, found in out.items()
    }


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
