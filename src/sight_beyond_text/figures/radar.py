"""The image benchmarks of each cell at a glance: a radar a base."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables, scored
from sight_beyond_text.figure_names import RADAR_AXES
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import panel_bases, varied
from sight_beyond_text.figures.style import LINES, FigureStyle, new_figure, notice

CAPTION = (
    "Image benchmarks of every tuned cell, mean over seeds. Each axis has a scale of its own, the "
    "same in all panels, from the inner ring to the outer; ranges and numbers of items stand below "
    "(accuracy in per cent, CIDEr times 100, MME's sums as they are). Areas mean nothing; "
    "intervals are in the figure on image benchmarks."
)
MOST = 10
"""Axes that are shown."""

_FIRST = ("vqa", "pope", "captions")
_CELL = ["base", "source", "tuning", "instruction_kinds", "kind"]
_UNTUNED = {"color": "black", "linewidth": 0.8, "linestyle": "-", "marker": "x", "markersize": 4}
_HOLE = 0.2
_ROOM = 0.42
_SIDE = 2.9
_PANEL = 1.6
_TALLEST = 10.0


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    values = _shown(tables)
    if not (values["kind"] == "run").any():
        return "No tuned runs with image benchmarks in this study"
    count = len(_axes(values))
    if count < RADAR_AXES:
        return f"A radar takes at least {RADAR_AXES} image scores; this study has {count}"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    values = _shown(tables)
    axes = _axes(values)
    spans = {axis: _span(values.loc[values["axis"] == axis, "points"]) for axis in axes}
    cells = values.groupby([*_CELL, "axis"], as_index=False)["points"].mean()
    tuned = cells[cells["kind"] == "run"]
    bases = panel_bases(tables, tuned)
    few = style.narrow and len(bases) <= 3
    columns = 1 if few else int(np.clip(style.width / _PANEL, 1, min(len(bases), 3)))
    rows = -(-len(bases) // columns)
    across = style.width / columns
    each = min(across / _SIDE * _height(len(axes)), (_TALLEST - 0.9) / rows, 2.4) + 0.2
    labels = [_label(axis) for axis in axes]
    key = _key(values, spans, style)
    with mpl.rc_context(style.rc()):
        figure = new_figure(style, 0.5 + 0.15 * (1 + key.count("\n")) + each * rows)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (base, label) in zip(grid, bases.items(), strict=False):
            _frame(ax, labels, style)
            own = cells[cells["base"] == base]
            for names_of, cell in own.groupby(_CELL, sort=True):
                look = _look(dict(zip(_CELL, names_of, strict=True)), style)
                _line(ax, cell.set_index("axis")["points"], axes, spans, look)
            ax.set_title(label, fontweight="bold", pad=2)
        for ax in grid[len(bases) :]:
            ax.set_axis_off()
        figure.supxlabel(key, fontsize=style.small, color=panels.GREY)
        untuned = cells.loc[cells["kind"] == "base", "base"].isin(list(bases)).any()
        panels.legend(figure, _handles(tuned, untuned, style), style)
    return figure


def _shown(tables: Tables) -> pd.DataFrame:
    values = scored(tables)
    values = values[(values["suite"] == "image") & values["kind"].isin(["run", "base"])]
    values = values[~values["benchmark"].isin(names.MEANS.values())]
    return values.assign(
        axis=values["benchmark"] + "/" + values["metric"],
        points=values["value"] * values["metric"].map(names.points).astype(float),
    )


def _axes(values: pd.DataFrame) -> list[str]:
    tuned = values[(values["kind"] == "run") & values["value"].notna()]
    found = []
    for benchmark in names.ordered(tuned["benchmark"], _FIRST):
        metrics = tuned.loc[tuned["benchmark"] == benchmark, "metric"]
        found += [f"{benchmark}/{metric}" for metric in names.table_metrics(metrics)]
    return found[:MOST]


def _span(points: pd.Series) -> tuple[float, float]:
    """Ends of an axis: round numbers around all that it shows."""
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(points.min(), points.max())
    low = max(ticks[0], 0.0) if points.min() >= 0 else ticks[0]
    return float(low), float(ticks[-1])


def _label(axis: str) -> str:
    benchmark, metric = axis.split("/")
    title = names.benchmark_label(benchmark)
    return title if metric in ("acc", "accuracy") else f"{title}\n{names.metric_label(metric)}"


def _key(values: pd.DataFrame, spans: dict[str, tuple[float, float]], style: FigureStyle) -> str:
    """Range and number of items of each axis, in lines that fit the width."""
    parts = []
    for axis, (low, high) in spans.items():
        metric = axis.split("/")[1]
        unit = " %" if names.points(metric) == 100 and metric != "CIDEr" else ""
        n = int(values.loc[values["axis"] == axis, "n"].max())
        # Unbreakable within, so that a line ends between two axes.
        part = f"{_label(axis)} {low:g}–{high:g}{unit} (n = {n:,})".replace("\n", " ")
        parts.append(part.replace(" ", "\u00a0"))
    return textwrap.fill("; ".join(parts), int(style.width * 72 / style.small / 0.58))


def _frame(ax: Axes, labels: list[str], style: FigureStyle) -> None:
    """Rings, spokes and the axes' names."""
    ax.set_aspect("equal")
    ax.set_axis_off()
    angles = _angles(len(labels))
    tops = np.sin(angles)
    ax.set(xlim=(-_SIDE / 2, _SIDE / 2), ylim=(tops.min() - _ROOM, tops.max() + _ROOM))
    for radius in (_HOLE, (1 + _HOLE) / 2, 1.0):
        ax.plot(*_closed(angles, np.full(len(labels), radius)), color="#bfbfbf", linewidth=0.5)
    for angle, label in zip(angles, labels, strict=True):
        x, y = np.cos(angle), np.sin(angle)
        ax.plot([_HOLE * x, x], [_HOLE * y, y], color="#bfbfbf", linewidth=0.5)
        side = "center" if abs(x) < 0.95 else ("left" if x > 0 else "right")
        height = "center" if abs(y) < 0.2 else ("bottom" if y > 0 else "top")
        name = ax.text(
            1.06 * x, 1.06 * y, label, ha=side, va=height, fontsize=style.small, linespacing=1.0
        )
        # The limits leave room for names; the layout would make it twice.
        name.set_in_layout(False)


def _height(count: int) -> float:
    return float(np.ptp(np.sin(_angles(count)))) + 2 * _ROOM


def _line(ax: Axes, points: pd.Series, axes: list[str], spans: dict, look: dict) -> None:
    """A closed line; where a score is missing, it is open and only joins what is there."""
    low, high = np.array([spans[axis] for axis in axes]).T
    share = (points.reindex(axes).to_numpy(float) - low) / (high - low)
    ax.plot(*_closed(_angles(len(axes)), _HOLE + (1 - _HOLE) * share), **look)


def _angles(count: int) -> np.ndarray:
    return np.pi / 2 - 2 * np.pi * np.arange(count) / count


def _closed(angles: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = radius * np.cos(angles), radius * np.sin(angles)
    return np.append(x, x[0]), np.append(y, y[0])


def _look(cell: dict[str, str], style: FigureStyle) -> dict[str, object]:
    if cell["kind"] == "base":
        return _UNTUNED
    return {
        "color": style.colour(cell["source"]),
        "linestyle": LINES.get(cell["tuning"], "-"),
        "linewidth": 1.0,
        "marker": style.marker(cell["source"]),
        "markersize": 2.5,
    }


def _handles(tuned: pd.DataFrame, untuned: bool, style: FigureStyle) -> list[Line2D]:
    handles = panels.hue_handles(varied(tuned, "source"), style)
    handles += [
        panels.line_handle(label, linestyle=LINES.get(tuning, "-"))
        for tuning, label in varied(tuned, "tuning").items()
    ]
    if untuned:
        handles.append(panels.line_handle("untuned", **_UNTUNED))
    return handles
