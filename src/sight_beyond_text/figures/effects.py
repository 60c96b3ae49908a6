"""All effects on the headline benchmarks: a forest plot."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import HOLM, SEEDS, effects_of, headline, panel_bases
from sight_beyond_text.figures.style import FigureStyle, new_figure, notice

CAPTION = (
    "Every contrast of the study on the headline benchmarks: paired differences in points with "
    "95 % intervals (paired bootstrap over items); right of zero the first-named side does better. "
    f"Filled: {HOLM}; hollow: not. {SEEDS} Diamonds: means over a contrast's pairs; their interval "
    "is the mean of the pairs' own, as if the pairs erred alike, since they share their questions: "
    "it is never too narrow. A study of many pairs is shown by such means per base."
)
MOST = 60
"""Pairs that are shown one by one; a study of more is shown by its means per base."""

_REFERENCE = "tuned - reference"
_ORDER = (
    "tuned - base",
    "visual - text",
    "visual - caption",
    "caption - text",
    "lora - full",
    "qlora - full",
    "frozen - full",
    _REFERENCE,
)
_INK = "#262626"
MEAN = "#0072B2"
"""Colour of means over pairs."""
_CELL = ["contrast", "base", "source", "tuning", "instruction_kinds", "other", "slot"]
_TALLEST = 9.4
_HEAD = 0.2


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    if tables.effects.empty and tables.over_seeds.empty:
        return "No two runs in this study are compared"
    if headline(tables.effects).empty:
        return "No TruthfulQA or ETHICS scores in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = headline(effects_of(tables, set(tables.effects["contrast"]))).copy()
    references = set(effects.loc[effects["contrast"] == _REFERENCE, "other"])
    effects["named"] = (effects["contrast"] == _REFERENCE) & (len(references) > 1)
    rows = _rows(tables, effects)
    contrasts = names.ordered(effects["contrast"], _ORDER)
    benchmarks = names.ordered(effects["benchmark"], names.HEADLINE)
    lines = {contrast: rows.loc[rows["contrast"] == contrast, "label"] for contrast in contrasts}
    lines = {contrast: list(dict.fromkeys(labels)) for contrast, labels in lines.items()}
    heights = [len(labels) + 0.6 for labels in lines.values()]
    frame = 1.15 + _HEAD * len(contrasts)
    row = float(np.clip((_TALLEST - frame) / sum(heights), 0.07, 0.13))
    with mpl.rc_context(style.rc()):
        figure = new_figure(style, frame + row * sum(heights))
        grid = figure.subplots(
            len(contrasts),
            len(benchmarks),
            squeeze=False,
            sharex="col",
            sharey="row",
            gridspec_kw={"height_ratios": heights},
        )
        for y, contrast in enumerate(contrasts):
            for x, benchmark in enumerate(benchmarks):
                ax = grid[y, x]
                here = rows[(rows["contrast"] == contrast) & (rows["benchmark"] == benchmark)]
                _draw_rows(ax, here, lines[contrast], row)
                _dress(ax, lines[contrast], row, style, first=x == 0)
                ax.xaxis.set_major_locator(panels.ticks(style, len(benchmarks)))
                ax.tick_params(axis="x", labelbottom=y == len(contrasts) - 1)
            grid[y, 0].set_title(_title(contrast, references), loc="left", fontweight="bold", pad=2)
        for x, benchmark in enumerate(benchmarks):
            for ax in grid[:, x]:
                panels.zero_line(ax)
            _head(grid[0, x], effects[effects["benchmark"] == benchmark], benchmark, style)
        figure.supxlabel("Difference (points)", fontsize=style.font_size)
        panels.legend(figure, _handles(rows), style)
    return figure


def _rows(tables: Tables, effects: pd.DataFrame) -> pd.DataFrame:
    """Lines of the forest, in points: contrast, benchmark, label, x, low, high, solid, mean."""
    effects = effects.assign(
        x=100 * effects["difference"], low=100 * effects["low"], high=100 * effects["high"]
    )
    bases = panel_bases(tables, effects)
    order = {
        "base": sorted(bases),
        "tuning": names.ordered(effects["tuning"], names.TUNINGS),
        "source": names.ordered(effects["source"], names.SOURCES),
    }
    ranks = effects.assign(
        **{f"{name}_rank": effects[name].map(known.index) for name, known in order.items()}
    )
    effects = ranks.sort_values(
        ["base_rank", "tuning_rank", "source_rank", "slot", "benchmark"], kind="stable"
    )
    pairs = len(effects[_CELL].drop_duplicates())
    parts = []
    for contrast, own in effects.groupby("contrast", sort=True):
        if pairs > MOST:
            parts += [
                _mean(some, contrast, f"{bases[base]}, mean")
                for base, some in own.groupby("base", sort=True)
            ]
        else:
            labels = [_label(pair, bases) for pair in own.to_dict("records")]
            alike = pd.Series(own["slot"].to_numpy()).groupby(labels).transform("nunique") > 1
            labels = [
                f"{label}, seed {seed}" if several else label
                for label, seed, several in zip(labels, own["seed"], alike, strict=True)
            ]
            parts.append(own.assign(label=labels, mean=False))
        if (own.groupby("benchmark").size() > 1).any():
            parts.append(_mean(own, contrast, "mean"))
    columns = ["contrast", "benchmark", "label", "x", "low", "high", "solid", "mean"]
    return pd.concat(parts, ignore_index=True)[columns]


def _label(pair: dict[str, object], bases: dict[str, str]) -> str:
    """What a pair has in common, or whom it is compared with."""
    contrast = pair["contrast"]
    parts = [bases[pair["base"]]]
    if contrast.split(" - ")[0] not in names.TUNINGS:
        parts.append(names.TUNING_LABELS.get(pair["tuning"], pair["tuning"]))
    if contrast.split(" - ")[0] not in names.SOURCES:
        parts.append(pair["source"])
    if pair["named"]:
        parts.append(f"− {pair['other']}")
    return ", ".join(part for part in parts if part)


def _mean(own: pd.DataFrame, contrast: str, label: str) -> pd.DataFrame:
    # Of estimates that may depend on each other in any way, the mean's deviation is at most the
    # mean of theirs.
    means = own.groupby("benchmark", as_index=False)[["x", "low", "high"]].agg(
        lambda column: column.mean(skipna=False)
    )
    return means.assign(contrast=contrast, label=label, solid=True, mean=True)


def _draw_rows(ax: Axes, rows: pd.DataFrame, labels: list[str], row: float) -> None:
    size = min(3.6, row * 72 * 0.5)
    known = rows[rows["low"].notna() & rows["high"].notna()]
    ax.hlines(
        [labels.index(label) for label in known["label"]],
        known["low"],
        known["high"],
        color=[MEAN if mean else _INK for mean in known["mean"]],
        linewidth=0.9,
        zorder=3,
    )
    for line in rows.to_dict("records"):
        y = labels.index(line["label"])
        colour = MEAN if line["mean"] else _INK
        ax.plot(
            [line["x"]],
            [y],
            marker="D" if line["mean"] else "o",
            markersize=size * (1.25 if line["mean"] else 1),
            color=colour,
            markerfacecolor=colour if line["solid"] else "white",
            markeredgewidth=0.8,
            linestyle="none",
            zorder=4,
        )
    if rows.empty:
        ax.text(
            0.5, 0.5, "not scored", transform=ax.transAxes, ha="center", va="center",
            color=panels.GREY,
        )  # fmt: skip


def _dress(ax: Axes, labels: list[str], row: float, style: FigureStyle, first: bool) -> None:
    ax.set_ylim(len(labels) - 0.2, -0.8)
    ax.set_yticks(range(len(labels)), labels, fontsize=min(style.small, row * 72 * 0.8))
    ax.tick_params(axis="y", length=0, pad=3, labelleft=first)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.5, zorder=0)
    ax.margins(x=0.07)


def _title(contrast: str, references: set[str]) -> str:
    if contrast == _REFERENCE and len(references) == 1:
        return f"tuned − {min(references)}"
    return " − ".join(names.TUNING_LABELS.get(side, side) for side in contrast.split(" - "))


def _head(ax: Axes, effects: pd.DataFrame, benchmark: str, style: FigureStyle) -> None:
    """The benchmark's name and size, above the first contrast's name."""
    title = panels.broken(names.benchmark_label(benchmark), " ", style.narrow)
    ax.annotate(
        f"{title}\n{panels.size_note(effects, style)}",
        (0.5, 1),
        (0, style.font_size * 1.6),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=style.small if style.narrow else style.font_size,
        fontweight="bold",
    )


def _handles(rows: pd.DataFrame) -> list[Line2D]:
    pair = panels.line_handle("p < 0.05 (Holm)", color=_INK, marker="o", markersize=4)
    mean = panels.line_handle("mean of pairs", color=MEAN, marker="D", markersize=4)
    pairs = [] if rows["mean"].all() else [pair, panels.hollow_handle()]
    return pairs + ([mean] if rows["mean"].any() else [])
