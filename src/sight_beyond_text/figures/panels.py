"""Grids of panels with one dot and interval per run: the layout that most figures share."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sight_beyond_text.analysis import names
from sight_beyond_text.figures.style import FigureStyle, new_figure

GREY = "#595959"
BAND = 0.13
"""Opacity of shaded intervals."""

_REFERENCES = ((0, (1, 1.5)), (0, (3, 1.5, 1, 1.5)), (0, (6, 2)))
_UNIT = 0.112
_LEAST = 0.05
_GAP = 0.9
_TALLEST = 8.6


@dataclass(frozen=True)
class Column:
    """One column of panels: its key in the data, its two title lines, its axis' name."""

    key: str
    title: str
    subtitle: str
    xlabel: str


@dataclass(frozen=True)
class Grid:
    """A drawn grid; `axes` by (panel, column)."""

    figure: Figure
    axes: dict[tuple[str, str], Axes]


def dot_grid(
    data: pd.DataFrame,
    columns: Sequence[Column],
    panels: Mapping[str, str],
    groups: Mapping[str, str],
    style: FigureStyle,
    extra_height: float = 0.0,
) -> Grid:
    """Draws dots with intervals: rows of panels, within each panel groups, within each group hues.

    Args:
        data: One row a dot: panel, column, group, hue (its colour and marker), slot (what tells
            dots of one group and hue apart: sorted, any type), x, low, high, and optionally solid
            (False draws a hollow dot).
        columns: The columns, each with an x axis of its own that all its panels share.
        panels: Rows of the grid, key to label, from the top.
        groups: Lines of a panel, key to label, from the top.
        style: The look.
        extra_height: Inches to add for what the caller draws around the grid.
    """
    layouts = {panel: _places(data[data["panel"] == panel], list(groups)) for panel in panels}
    heights = [layout.height for layout in layouts.values()]
    frame = 0.85 + extra_height + (0.15 if style.narrow else 0)
    unit = float(np.clip((_TALLEST - frame) / sum(heights), _LEAST, _UNIT))
    figure = new_figure(style, max(1.5, frame + unit * sum(heights) + 0.08 * len(panels)))
    grid = figure.subplots(
        len(panels),
        len(columns),
        squeeze=False,
        sharex="col",
        sharey="row",
        gridspec_kw={"height_ratios": heights},
    )
    tight = style.narrow and len(columns) > 2
    same = len({column.xlabel for column in columns}) == 1
    if same:
        figure.supxlabel(columns[0].xlabel, fontsize=style.font_size)
    axes = {}
    for row, (panel, label) in enumerate(panels.items()):
        for place, column in enumerate(columns):
            ax = axes[panel, column.key] = grid[row, place]
            here = data[(data["panel"] == panel) & (data["column"] == column.key)]
            _draw_dots(ax, here, layouts[panel], style, unit)
            _dress(ax, layouts[panel], groups)
            ax.xaxis.set_major_locator(ticks(style, len(columns)))
            if row == 0:
                _title(ax, column, tight, style)
            last = row == len(panels) - 1
            ax.tick_params(axis="x", labelbottom=last)
            if last and not same:
                ax.set_xlabel(broken(column.xlabel, " (", tight))
            if place:
                ax.tick_params(axis="y", labelleft=False)
            else:
                ax.set_ylabel(wrap(label, unit * heights[row], style), fontweight="bold")
    figure.align_ylabels(list(grid[:, 0]))
    return Grid(figure, axes)


def differences(
    data: pd.DataFrame,
    columns: Sequence[Column],
    panels: Mapping[str, str],
    groups: Mapping[str, str],
    hues: Mapping[str, str],
    style: FigureStyle,
) -> Figure:
    """A figure of differences about zero, where hollow dots are those that may be none.

    Args:
        data: As for `dot_grid`.
        columns: As for `dot_grid`.
        panels: As for `dot_grid`.
        groups: As for `dot_grid`.
        hues: What the legend tells of hues, key to label.
        style: The look.
    """
    with mpl.rc_context(style.rc()):
        grid = dot_grid(data, columns, panels, groups, style, 0.25)
        for ax in grid.axes.values():
            zero_line(ax)
        legend(grid.figure, [*hue_handles(hues, style), hollow_handle()], style)
    return grid.figure


def legend(figure: Figure, handles: Sequence[object], style: FigureStyle) -> None:
    """Puts the handles above the panels, in as many columns as the width takes."""
    letter = style.small / 72
    widths = [(len(handle.get_label()) * 0.6 + 4.2) * letter for handle in handles]
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=_legend_columns(widths, style.width),
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0.1,
    )


def _legend_columns(widths: list[float], room: float) -> int:
    """Columns of a legend: as few rows as fit, then as even as they come."""
    for rows in range(1, len(widths)):
        columns = -(-len(widths) // rows)
        if sum(max(own) for own in np.array_split(widths, columns)) <= room:
            return columns
    return 1


def hue_handles(hues: Mapping[str, str], style: FigureStyle) -> list[Line2D]:
    """Legend entries of dots, key to label."""
    return [
        Line2D(
            [],
            [],
            color=style.colour(key),
            marker=style.marker(key),
            markersize=4,
            linewidth=1.1,
            label=label,
        )
        for key, label in hues.items()
    ]


def line_handle(label: str, **look: object) -> Line2D:
    """Legend entry of a line."""
    return Line2D([], [], label=label, **{"linewidth": 1.0, "color": GREY, **look})


def band_handle(label: str, colour: str) -> Patch:
    """Legend entry of a shaded band."""
    return Patch(facecolor=colour, alpha=BAND, linewidth=0, label=label)


def hollow_handle() -> Line2D:
    """Legend entry that says what a hollow dot means."""
    return Line2D(
        [],
        [],
        color=GREY,
        marker="o",
        markersize=4,
        markerfacecolor="white",
        markeredgewidth=0.9,
        linewidth=1.1,
        label="p ≥ 0.05 (Holm)",
    )


def reference_lines(grid: Grid, values: pd.DataFrame, runs: pd.DataFrame) -> list[Line2D]:
    """Draws references (rows with run, metric, value, column) as lines across all panels.

    Returns:
        Their legend entries. Only the first three are drawn: more lines would say less.
    """
    labels = runs.set_index("run")["label"]
    handles = []
    for run, look in zip(sorted(set(values["run"])), _REFERENCES, strict=False):
        line = {"color": "black", "linewidth": 0.8, "linestyle": look}
        own = values[values["run"] == run]
        for (_, column), ax in grid.axes.items():
            for row in own[own["column"] == column].to_dict("records"):
                ax.axvline(names.points(row["metric"]) * row["value"], zorder=2, **line)
        handles.append(line_handle(labels[run] or run, **line))
    return handles


def zero_line(ax: Axes) -> None:
    """Marks no difference, and keeps it inside the axis."""
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    low, high = ax.get_xlim()
    room = 0.05 * (high - low)
    ax.set_xlim(min(low, -room), max(high, room))


def size_note(frame: pd.DataFrame, style: FigureStyle) -> str:
    """Number of items behind a column's rows (columns benchmark and n), a range if runs differ."""
    counts = frame["n"].dropna()
    if counts.empty:
        return ""
    low, high = int(counts.min()), int(counts.max())
    size = f"n = {low:,}" if low == high else f"n = {low:,}–{high:,}"
    macro = (frame["benchmark"] == names.MACRO).all()
    return f"mean of 5, {size}" if macro and not style.narrow else size


@dataclass(frozen=True)
class _Places:
    """Where dots go: y by (group, hue, slot), y of group labels, borders, height in units."""

    dots: dict[tuple, float]
    labels: dict[str, float]
    borders: list[float]
    height: float


def _places(data: pd.DataFrame, groups: list[str]) -> _Places:
    dots, labels, borders = {}, {}, []
    y = 0.0
    for group in groups:
        own = data[data["group"] == group]
        if own.empty:
            continue
        if labels:
            borders.append(y)
        y += _GAP / 2
        keys = sorted(set(zip(own["rank"], own["hue"], own["slot"], strict=True)))
        for offset, (_, hue, slot) in enumerate(keys):
            dots[group, hue, slot] = y + offset + 0.5
        labels[group] = y + len(keys) / 2
        y += len(keys) + _GAP / 2
    return _Places(dots, labels, borders, max(y, 2.0))


def _draw_dots(
    ax: Axes, data: pd.DataFrame, places: _Places, style: FigureStyle, unit: float
) -> None:
    size = min(4.0, unit * 72 * 0.62)
    known = data[data["low"].notna() & data["high"].notna()]
    ax.hlines(
        [places.dots[key] for key in zip(known["group"], known["hue"], known["slot"], strict=True)],
        known["low"],
        known["high"],
        color=[style.colour(hue) for hue in known["hue"]],
        linewidth=1.1,
        zorder=3,
    )
    for dot in data.to_dict("records"):
        y = places.dots[dot["group"], dot["hue"], dot["slot"]]
        colour = style.colour(dot["hue"])
        ax.plot(
            [dot["x"]],
            [y],
            marker=style.marker(dot["hue"]),
            markersize=size,
            color=colour,
            markerfacecolor=colour if dot.get("solid", True) else "white",
            markeredgewidth=0.9,
            linestyle="none",
            zorder=4,
        )
    if data.empty:
        ax.text(
            0.5, 0.5, "not scored", transform=ax.transAxes, ha="center", va="center", color=GREY
        )


def _dress(ax: Axes, places: _Places, groups: Mapping[str, str]) -> None:
    ax.set_ylim(places.height, 0)
    ax.set_yticks(
        list(places.labels.values()), [groups[group] for group in places.labels], minor=False
    )
    ax.tick_params(axis="y", length=0, pad=4)
    for border in places.borders:
        ax.axhline(border, color="#d9d9d9", linewidth=0.5, zorder=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.5, zorder=0)
    ax.set_axisbelow(True)
    ax.margins(x=0.07)


def _title(ax: Axes, column: Column, tight: bool, style: FigureStyle) -> None:
    ax.set_title(column.subtitle, fontsize=style.small, color=GREY, pad=3)
    ax.annotate(
        broken(column.title, " ", tight),
        (0.5, 1),
        (0, 3 + style.small * 1.25),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=style.font_size,
        fontweight="bold",
    )


def broken(text: str, at: str, tight: bool) -> str:
    """A text on two lines where columns are tight, broken before `at`."""
    return text.replace(at, "\n" + at.strip(), 1) if tight else text


def ticks(style: FigureStyle, columns: int) -> MaxNLocator:
    """As many round ticks as an axis has room for beside others."""
    room = (style.width - 0.9) / columns / (style.small / 72 * 4.2)
    return MaxNLocator(int(np.clip(room, 1, 6)), steps=[1, 2, 2.5, 5, 10], min_n_ticks=2)


def wrap(label: str, height: float, style: FigureStyle) -> str:
    """Breaks a label that stands upright beside a panel of this height in inches."""
    letters = max(6, int(height * 72 / (style.font_size * 0.68)))
    return "\n".join(textwrap.fill(line, letters) for line in label.split("\n"))
