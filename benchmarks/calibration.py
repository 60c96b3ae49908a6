"""Simulates studies with planted effects, and looks whether the statistics tell them as they say.

    python benchmarks/calibration.py

Each study is made up as tables, and goes through the code that compares real ones. Told are how
often 95 % intervals hold the truth, how often Holm's adjusted p values find what isn't there, and
how often a difference is found that `sight plan` says is found in four of five studies.
"""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sight_beyond_text import power
from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.effects import effects_table, measure
from sight_beyond_text.analysis.multiplicity import adjusted
from sight_beyond_text.analysis.seeds import seeds_table
from sight_beyond_text.benchmark_sizes import Size
from sight_beyond_text.files import write_json, write_text
from sight_beyond_text.session import session

COVERED, FAMILY, NEAR = (0.93, 0.97), 0.06, 0.05
"""Bounds: of coverage, of the family-wise error, and of power against what was foretold."""

CHANGED = power.DISCORDANCE
_BLOCK = 50


@dataclass(frozen=True)
class Case:
    """A kind of benchmark.

    Attributes:
        name: What it is called.
        items: How many.
        together: How many of them share a cluster.
        scores: "binary" (right or wrong), "graded" (VQA's steps of 0.3, up to 1) or "continuous".
        seeds: Runs of each cell.
        between: Standard deviation of what a seed does to all items, in standard errors of the mean
            over the items of one run.
    """

    name: str
    items: int
    together: int = 1
    scores: str = "binary"
    seeds: int = 1
    between: float = 0.0


CASES = (
    Case("right or wrong, 40 items", 40),
    Case("right or wrong, 100 items", 100),
    Case("right or wrong, 817 items", 817),
    Case("right or wrong, 20 clusters of 5", 100, 5),
    Case("right or wrong, 200 clusters of 2", 400, 2),
    Case("graded, 400 items", 400, 1, "graded"),
    Case("graded, 100 clusters of 3", 300, 3, "graded"),
    Case("continuous, 108 items", 108, 1, "continuous"),
    Case("3 seeds that differ by chance alone", 200, 2, "binary", 3),
    Case("3 seeds that differ as items do", 200, 2, "binary", 3, 1.0),
    Case("3 seeds that differ more than items", 200, 2, "binary", 3, 3.0),
    Case("5 seeds that differ as items do", 200, 2, "binary", 5, 1.0),
    Case("2 seeds that differ as items do", 200, 2, "binary", 2, 1.0),
)
POWERED = (
    Case("100 items", 100),
    Case("400 items", 400),
    Case("817 items", 817),
    Case("200 clusters of 3", 600, 3),
    Case("600 items, 3 seeds", 600, seeds=3),
)
TRUTH, PLANTED = 0.04, 0.15


def main() -> None:
    """Simulates, draws, writes JSON and Markdown."""
    args = _parsed()
    start = time.perf_counter()
    report = {
        "command": shlex.join(["python", "benchmarks/calibration.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        **simulated(args.studies),
    }
    report["seconds"] = time.perf_counter() - start
    write_json(args.out, report)
    write_text(args.out.with_suffix(".md"), markdown(report))
    draw(report, args.figure)
    print(markdown(report))
    if missed := misses(report):
        sys.exit(f"out of bounds: {', '.join(missed)}")


def simulated(studies: int) -> dict:
    """All results: `studies`, and rows of `coverage`, `family` and `power`."""
    return {
        "studies": studies,
        "coverage": [coverage(case, studies, number) for number, case in enumerate(CASES)],
        "family": [family_wise(studies, share) for share in (0.0, 0.5)],
        "power": [powered(case, studies, number) for number, case in enumerate(POWERED)],
    }


def misses(report: dict, slack: float = 0.0) -> list[str]:
    """What is out of bounds, which are wider by `slack`. Two seeds promise less (see `seeds`)."""
    low, high = COVERED
    out = [
        row["case"]
        for row in report["coverage"]
        if row["seeds"] != 2 and not low - slack <= row["covered"] <= high + slack
    ]
    out += [row["case"] for row in report["family"] if row["error"] >= FAMILY + slack]
    out += [
        row["case"] for row in report["power"] if abs(row["found"] - row["foretold"]) > NEAR + slack
    ]
    return out


def coverage(case: Case, studies: int, stream: int) -> dict:
    """How often intervals hold the planted difference."""
    held, widths = [], []
    for effects in _blocks(case, TRUTH, studies, stream):
        held += ((effects["low"] <= TRUTH) & (TRUTH <= effects["high"])).tolist()
        widths += (effects["high"] - effects["low"]).tolist()
    return {
        "case": case.name,
        "seeds": case.seeds,
        "covered": float(np.mean(held)),
        "width": float(np.mean(widths)),
    }


def powered(case: Case, studies: int, stream: int) -> dict:
    """How often a difference is found that `sight plan` says is found with a power of 80 %."""
    size = Size(case.items, case.together)
    difference = power.smallest_difference(power.independent(size), CHANGED)
    if case.seeds > 1:
        difference = power.over_seeds(difference, case.seeds)
    p = pd.concat(effects["p"] for effects in _blocks(case, difference, studies, 100 + stream))
    found = float((p <= power.LEVEL).mean())
    return {"case": case.name, "difference": difference, "foretold": power.POWER, "found": found}


def family_wise(studies: int, planted: float) -> dict:
    """How often any of a study's comparisons is called different that isn't.

    A study has one base and six cells, on three benchmarks (right or wrong, clustered, graded):
    eighteen comparisons in one family, all with the same base.

    Args:
        studies: how many.
        planted: share of the cells that do have an effect.
    """
    cells, wrong = 6, 0
    benchmarks = (Case("a", 100), Case("b", 90, 3), Case("c", 100, 1, "graded"))
    rng = np.random.default_rng(round(7 + 10 * planted))
    real = int(planted * cells)
    for begin in range(0, studies, _BLOCK):
        block = range(begin, min(begin + _BLOCK, studies))
        names = [f"cell{place}" for place in range(cells)]
        runs = _runs([(f"s{study}", name, 0) for study in block for name in names])
        items = []
        for case in benchmarks:
            scores = {}
            for study in block:
                base = _Base.drawn(rng, case)
                scores[f"s{study}"] = base.right
                for place, name in enumerate(names):
                    difference = PLANTED if place < real else 0.0
                    tuned = base.tuned(rng, base.luck(rng), difference)
                    scores[f"s{study}-{name}-0"] = tuned
            items.append(_items(case, scores))
        measured = measure(runs, pd.concat(items, ignore_index=True), seed=begin)
        effects = effects_table(runs, measured)
        effects = effects[effects["benchmark"].isin([case.name for case in benchmarks])]
        null = effects["source"].isin(names[real:])
        for _, own in effects.groupby("base"):
            found = adjusted(own)["p_holm"] <= power.LEVEL
            wrong += bool((found & null[own.index]).any())
    true = cells - real
    return {
        "case": f"{true} of {cells} cells without an effect, {len(benchmarks)} benchmarks",
        "comparisons": cells * len(benchmarks),
        "error": wrong / studies,
    }


def _blocks(case: Case, difference: float, studies: int, stream: int) -> Iterator[pd.DataFrame]:
    """Effects of studies of one cell each, several studies at a time."""
    rng = np.random.default_rng(stream)
    for begin in range(0, studies, _BLOCK):
        block = range(begin, min(begin + _BLOCK, studies))
        runs = _runs([(f"s{n}", "cell", seed) for n in block for seed in range(case.seeds)])
        scores = {}
        for study in block:
            base = _Base.drawn(rng, case)
            scores[f"s{study}"] = base.right
            for seed, tuned in enumerate(_seeds(rng, base, difference)):
                scores[f"s{study}-cell-{seed}"] = tuned
        measured = measure(runs, _items(case, scores), seed=begin)
        table = effects_table if case.seeds == 1 else seeds_table
        yield table(runs, measured)


@dataclass(frozen=True)
class _Base:
    """An untuned base's answers.

    Attributes:
        case: The benchmark.
        right: 1 where it is right, else 0, (items,).
        follows: Which items do as the rest of their cluster does, (items,).
    """

    case: Case
    right: np.ndarray
    follows: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, case: Case) -> _Base:
        """Right at even odds; two items of a cluster are alike with `power.CORRELATION`."""
        follows = rng.random(case.items) < math.sqrt(power.CORRELATION) * (case.together > 1)
        own = rng.random(case.items) < 0.5
        return cls(case, np.where(follows, _shared(rng, case) < 0.5, own).astype(float), follows)

    def luck(self, rng: np.random.Generator) -> np.ndarray:
        """What decides which items tuning changes, uniform, (items,)."""
        return np.where(self.follows, _shared(rng, self.case), rng.random(self.case.items))

    def tuned(self, rng: np.random.Generator, luck: np.ndarray, difference: float) -> np.ndarray:
        """Scores after tuning: a share `CHANGED` has changed, more of it to the better."""
        up = 1 - 2 * self.right
        changed = luck < CHANGED + np.clip(difference, -CHANGED, CHANGED) * up
        if self.case.scores == "continuous":
            # Skewed: many losses, few larger gains.
            noise = rng.gamma(2.0, 1.0, self.case.items) - 2.0
            return self.right + difference + math.sqrt(CHANGED / 2) * noise
        if self.case.scores == "graded":
            size = rng.choice((0.3, 0.6, 0.9, 1.0), size=self.case.items)
            return self.right + changed * up * size / 0.7
        return self.right + changed * up


def _shared(rng: np.random.Generator, case: Case) -> np.ndarray:
    return rng.random(math.ceil(case.items / case.together)).repeat(case.together)[: case.items]


def _seeds(rng: np.random.Generator, base: _Base, difference: float) -> list[np.ndarray]:
    """Scores under each seed: of what an item changes by, `power.LASTING` is alike in all."""
    case = base.case
    error = math.sqrt(CHANGED / case.items)
    lasting, found = base.luck(rng), []
    for _ in range(case.seeds):
        stays = rng.random(case.items) < math.sqrt(power.LASTING)
        luck = np.where(stays, lasting, base.luck(rng)) if case.seeds > 1 else lasting
        own = difference + rng.normal(0, error) * case.between
        found.append(base.tuned(rng, luck, own))
    return found


def _items(case: Case, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """Table `items` of scores by run."""
    number = np.arange(case.items)
    return pd.DataFrame(
        {
            "run": np.repeat(np.array(list(scores), object), case.items),
            "suite": "simulated",
            "benchmark": case.name,
            "metric": "acc",
            "item": np.tile(_texts("q", number), len(scores)),
            "cluster": np.tile(_texts("c", number // case.together), len(scores)),
            "score": np.concatenate(list(scores.values())),
        }
    )


def _texts(letter: str, numbers: np.ndarray) -> np.ndarray:
    return np.array([f"{letter}{number}" for number in numbers], object)


def _runs(cells: list[tuple[str, str, int]]) -> pd.DataFrame:
    """Tuned runs by base, source and seed, and their bases untuned."""
    rows = [
        {"run": f"{base}-{source}-{seed}", "kind": "run", "source": source, "seed": seed}
        | {"base": base, "tuning": "full"}
        for base, source, seed in cells
    ]
    rows += [
        {"run": base, "kind": "base", "source": "", "seed": None, "base": base, "tuning": ""}
        for base in dict.fromkeys(base for base, _, _ in cells)
    ]
    runs = pd.DataFrame(rows, columns=list(tidy.RUNS)).astype({"seed": "Int64"})
    return runs.assign(label=runs["run"], instruction_kinds="all")


def markdown(report: dict) -> str:
    """The report as a page."""
    covered = "\n".join(
        f"| {row['case']} | {100 * row['covered']:.1f} | {100 * row['width'] / 2:.1f} |"
        for row in report["coverage"]
    )
    family = "\n".join(
        f"| {row['case']} | {row['comparisons']} | {100 * row['error']:.1f} |"
        for row in report["family"]
    )
    found = "\n".join(
        f"| {row['case']} | {100 * row['difference']:.1f} | {100 * row['foretold']:.0f} "
        f"| {100 * row['found']:.1f} |"
        for row in report["power"]
    )
    return f"""# How well the statistics hold what they say

{report["studies"]:,} simulated studies a row, each through the code that compares real ones.
Made on {report["date"]} with Python {report["python"]} in {report["seconds"]:.0f} s by
`{report["command"]}`.

95 % intervals hold the truth (asked: 93 to 97 % of studies; two seeds are told, and not bound):

| | held, % | half width, points |
|---|---:|---:|
{covered}

Any false finding in a study after Holm's adjustment (asked: under 6 % of studies):

| | comparisons | studies, % |
|---|---:|---:|
{family}

The smallest difference that `sight plan` says is found (asked: within 5 points of what it says):

| | difference, points | foretold, % | found, % |
|---|---:|---:|---:|
{found}
"""


def draw(report: dict, path: Path) -> None:
    """Draws the figure of the documentation."""
    import matplotlib as mpl

    from sight_beyond_text.figures.style import FigureStyle, new_figure, save

    style = FigureStyle()
    panels = (
        ("95 % intervals hold the truth", report["coverage"], "covered", COVERED, (84, 100)),
        ("False finding in a family", report["family"], "error", (0.0, FAMILY), (0, 10)),
        ("Foretold at 80 %, found", report["power"], "found",
         (power.POWER - NEAR, power.POWER + NEAR), (70, 90)),
    )  # fmt: skip
    studies = report["studies"]
    with mpl.rc_context(style.rc()):
        figure = new_figure(style, 4.6)
        axes = figure.subplots(
            len(panels), 1, gridspec_kw={"height_ratios": [len(rows) for _, rows, *_ in panels]}
        )
        for ax, (title, rows, key, (low, high), limits) in zip(axes, panels, strict=True):
            values = np.array([100 * row[key] for row in rows])
            error = 1.96 * np.sqrt(values * (100 - values) / studies)
            place = np.arange(len(rows))
            ax.axvspan(100 * low, 100 * high, color="0.9", zorder=0)
            ax.errorbar(values, place, xerr=error, fmt="o", markersize=4, linewidth=1)
            ax.set_yticks(place, [row["case"] for row in rows])
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.set_xlim(*limits)
            ax.set_title(title, loc="left")
        axes[-1].set_xlabel(f"% of {studies:,} simulated studies (95 % interval); grey: asked")
    save(figure, path, style)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = Path(__file__).parent
    add = parser.add_argument
    add("--studies", type=int, default=1000, help="simulated, of each kind")
    out, figure = (
        folder / "results" / "calibration.json",
        folder.parent / "docs" / "calibration.svg",
    )
    add("--out", type=Path, default=out, help="JSON file; a page of the same name beside it")
    add("--figure", type=Path, default=figure, help="SVG, PNG or PDF")
    return parser.parse_args()


if __name__ == "__main__":
    with session():
        main()
