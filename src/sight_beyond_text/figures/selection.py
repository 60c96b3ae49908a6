"""Which rows of the tables a figure shows, in the shape that panels take."""

from collections.abc import Iterable

import pandas as pd

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tables import ALPHA
from sight_beyond_text.analysis.tidy import Tables

HOLM = (
    "p < 0.05 after Holm's correction, within the study's pairs of that contrast on the main "
    "metrics of a suite's benchmarks"
)
"""What a mark means, for captions."""

SEEDS = "With several seeds: the mean over seeds, with an interval that covers items and seeds."
"""What figures of effects do with seeds, for captions."""

_CELL = ("contrast", "base", "source", "tuning", "instruction_kinds", "other")
_TEST = ("suite", "benchmark", "metric")
_FIRST = {"source": names.SOURCES, "tuning": names.TUNINGS}
_LABELS = {"tuning": names.TUNING_LABELS}


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows on TruthfulQA's and ETHICS' accuracy, of scores or of effects."""
    return frame[frame["benchmark"].isin(names.HEADLINE) & (frame["metric"] == "acc")]


def effects_of(tables: Tables, contrasts: Iterable[str]) -> pd.DataFrame:
    """Paired effects of some contrasts, one row a cell and metric.

    Where a cell was trained with several seeds, the row is that over its seeds.

    Returns:
        The columns of both tables of effects, `other` as a label; seeds (1 where the cell has
        one), solid (whether Holm's p is below `ALPHA`) and slot, which tells rows apart that are
        alike in base, source and tuning.
    """
    contrasts = list(contrasts)
    runs = tables.runs.set_index("run")
    single = tables.effects[tables.effects["contrast"].isin(contrasts)]
    labels = single["other"].map(runs["label"]).where(lambda label: label != "")
    single = single.assign(
        instruction_kinds=single["run"].map(runs["instruction_kinds"]),
        other=labels.fillna(single["other"]),
        seeds=1,
    )
    single = single.assign(slot=single["run"])
    several = tables.over_seeds[tables.over_seeds["contrast"].isin(contrasts)]
    if len(several):
        # The other side's label may name its seed, so cells are known by the rest.
        cell = [name for name in (*_CELL, *_TEST) if name != "other"]
        averaged = pd.MultiIndex.from_frame(several[cell])
        single = single[~pd.MultiIndex.from_frame(single[cell]).isin(averaged)]
        slot = several["instruction_kinds"] + "|" + several["other"]
        single = pd.concat([several.assign(slot=slot), single], ignore_index=True)
    return single.assign(solid=single["p_holm"] < ALPHA)


def varied(frame: pd.DataFrame, field: str) -> dict[str, str]:
    """The sources or tunings that occur, in their fixed order, with their labels."""
    labels = _LABELS.get(field, {})
    return {key: labels.get(key, key) for key in names.ordered(frame[field], _FIRST[field])}


def panel_bases(tables: Tables, frame: pd.DataFrame) -> dict[str, str]:
    """The bases that occur, with their labels."""
    labels = names.base_labels(tables.runs)
    return {base: labels.get(base, base) for base in sorted(set(frame["base"]))}


def run_dots(
    frame: pd.DataFrame,
    panel: str,
    group: str,
    hue: str,
    value: str = "value",
    column: str = "benchmark",
) -> pd.DataFrame:
    """One dot a row of `frame`, in points, for `panels.dot_grid`.

    Args:
        frame: Rows with metric, low, high, run or slot (tells dots of one group and hue apart),
            and the fields named here; with solid, what is not solid is drawn hollow.
        panel: Field that splits the rows of panels.
        group: Field that splits the lines of a panel.
        hue: Field that colours the dots.
        value: Field that is drawn.
        column: Field that splits the columns of panels.
    """
    factor = frame["metric"].map(names.points)
    order = names.ordered(frame[hue], _FIRST.get(hue, ()))
    dots = pd.DataFrame(
        {
            "panel": frame[panel],
            "column": frame[column],
            "group": frame[group],
            "hue": frame[hue],
            "rank": frame[hue].map({key: place for place, key in enumerate(order)}),
            "slot": frame["slot" if "slot" in frame else "run"],
            "x": frame[value] * factor,
            "low": frame["low"] * factor,
            "high": frame["high"] * factor,
        }
    )
    return dots.assign(solid=frame["solid"]) if "solid" in frame else dots
