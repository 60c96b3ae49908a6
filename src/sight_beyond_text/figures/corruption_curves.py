"""How scores fall with the severity of corruption, averaged over its kinds."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import panels, robustness
from sight_beyond_text.figures.selection import panel_bases
from sight_beyond_text.figures.style import FigureStyle, new_figure, notice

CAPTION = (
    "Scores on corrupted images by severity, mean over the kinds of corruption; severity 0 is the "
    "clean image. Lines: means over the runs of a source (tunings, seeds); bands: their range. "
    "Units and items (questions, or images for captions; the same at each severity) stand above "
    "the panels. POPE's accuracy can hardly fall below that of guessing (50 %)."
)
_TEST = ["benchmark", "metric"]
_EACH = 1.25
_TALLEST = 9.0


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    return robustness.needs(tables)


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    shown = _shown(tables)
    columns = list(dict.fromkeys(zip(shown["benchmark"], shown["metric"], strict=True)))
    order = names.ordered(shown["who"], (*names.SOURCES, "base"))
    bases = panel_bases(tables, shown)
    with mpl.rc_context(style.rc()):
        each = float(np.clip((_TALLEST - 1.2) / len(bases), 0.9, _EACH))
        figure = new_figure(style, 1.2 + each * len(bases))
        grid = figure.subplots(len(bases), len(columns), squeeze=False, sharex=True, sharey="col")
        for row, (base, label) in enumerate(bases.items()):
            for place, (benchmark, metric) in enumerate(columns):
                ax = grid[row, place]
                here = (shown["benchmark"] == benchmark) & (shown["metric"] == metric)
                _lines(ax, shown[here & (shown["base"] == base)], order, style)
                _dress(ax, sorted(set(shown["severity"])), style)
                if row == 0:
                    ax.set_title(
                        _title(shown[here], benchmark, metric, style), fontweight="bold", pad=3
                    )
            grid[row, 0].set_ylabel(panels.wrap(label, each, style), fontweight="bold")
        figure.supxlabel("Severity of corruption (0: clean)", fontsize=style.font_size)
        figure.align_ylabels(list(grid[:, 0]))
        labels = {who: "untuned" if who == "base" else who for who in order}
        panels.legend(figure, panels.hue_handles(labels, style), style)
    return figure


def _shown(tables: Tables) -> pd.DataFrame:
    """One row per run, benchmark, metric and severity: base, who (a source or "base"), value, n."""
    rows = tables.scores[tables.scores["suite"] == "corrupted"]
    parts = rows["benchmark"].str.rsplit("-", n=2, expand=True)
    rows = rows.assign(benchmark=parts[0], severity=parts[2].astype(int))
    twins = pd.MultiIndex.from_frame(rows[["run", *_TEST]])
    clean = tables.scores[tables.scores["suite"] == "image"]
    clean = clean[pd.MultiIndex.from_frame(clean[["run", *_TEST]]).isin(twins)]
    rows = pd.concat([rows, clean.assign(severity=0)], ignore_index=True)
    means = rows.groupby(["run", *_TEST, "severity"], as_index=False).agg(
        value=("value", "mean"), n=("n", "max")
    )
    runs = tables.runs.set_index("run")
    kind = means["run"].map(runs["kind"])
    means = means.assign(
        base=means["run"].map(runs["base"]),
        who=means["run"].map(runs["source"]).where(kind == "run", "base"),
        value=means["value"] * means["metric"].map(names.points),
    )[kind.isin(["run", "base"])]
    chosen = []
    for benchmark in names.ordered(means["benchmark"], robustness.FIRST):
        own = means[means["benchmark"] == benchmark]
        for metric in names.table_metrics(own["metric"]):
            chosen.append(own[own["metric"] == metric])
    return pd.concat(chosen[: robustness.MOST], ignore_index=True)


def _lines(ax, rows: pd.DataFrame, order: list[str], style: FigureStyle) -> None:
    for who in order:
        own = rows[rows["who"] == who].groupby("severity")["value"].agg(["mean", "min", "max"])
        if own.empty:
            continue
        colour = style.colour(who)
        ax.fill_between(
            own.index, own["min"], own["max"], color=colour, alpha=panels.BAND, linewidth=0
        )
        ax.plot(
            own.index,
            own["mean"],
            color=colour,
            marker=style.marker(who),
            markersize=3,
            linewidth=1.1,
            linestyle="--" if who == "base" else "-",
        )
    if rows.empty:
        ax.text(
            0.5, 0.5, "not scored", transform=ax.transAxes, ha="center", va="center",
            color=panels.GREY,
        )  # fmt: skip


def _dress(ax, severities: list[int], style: FigureStyle) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    ax.xaxis.set_major_locator(FixedLocator(severities))
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.margins(x=0.08)


def _title(rows: pd.DataFrame, benchmark: str, metric: str, style: FigureStyle) -> str:
    unit = " (%)" if names.points(metric) == 100 and metric != "CIDEr" else ""
    unit = " × 100" if metric == "CIDEr" else unit
    lines = (
        names.benchmark_label(benchmark),
        f"{names.metric_label(metric)}{unit}",
        panels.size_note(rows, style),
    )
    return "\n".join(lines)
