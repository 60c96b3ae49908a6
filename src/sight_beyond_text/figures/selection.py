"""Which rows of the tables a figure shows, in the shape that panels take."""

import pandas as pd

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables

_FIRST = {"source": names.SOURCES, "tuning": names.TUNINGS}
_LABELS = {"tuning": names.TUNING_LABELS}


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows on TruthfulQA's and ETHICS' accuracy, of scores or of effects."""
    return frame[frame["benchmark"].isin(names.HEADLINE) & (frame["metric"] == "acc")]


def varied(frame: pd.DataFrame, field: str) -> dict[str, str]:
    """The sources or tunings that occur, in their fixed order, with their labels."""
    labels = _LABELS.get(field, {})
    return {key: labels.get(key, key) for key in names.ordered(frame[field], _FIRST[field])}


def panel_bases(tables: Tables, frame: pd.DataFrame) -> dict[str, str]:
    """The bases that occur, with their labels."""
    labels = names.base_labels(tables.runs)
    return {base: labels.get(base, base) for base in sorted(set(frame["base"]))}


def run_dots(
    frame: pd.DataFrame, panel: str, group: str, hue: str, value: str = "value"
) -> pd.DataFrame:
    """One dot a row of `frame`, in points, for `panels.dot_grid`; columns are benchmarks.

    Args:
        frame: Rows with run, benchmark, metric, low, high and the fields named here.
        panel: Field that splits the rows of panels.
        group: Field that splits the lines of a panel.
        hue: Field that colours the dots.
        value: Field that is drawn.
    """
    factor = frame["metric"].map(names.points)
    order = names.ordered(frame[hue], _FIRST.get(hue, ()))
    return pd.DataFrame(
        {
            "panel": frame[panel],
            "column": frame["benchmark"],
            "group": frame[group],
            "hue": frame[hue],
            "rank": frame[hue].map({key: place for place, key in enumerate(order)}),
            "slot": frame["run"],
            "x": frame[value] * factor,
            "low": frame["low"] * factor,
            "high": frame["high"] * factor,
        }
    )
