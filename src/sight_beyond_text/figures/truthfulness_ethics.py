"""Truthfulness and ethics of every run beside its untuned base."""

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables, scored
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import headline, panel_bases, run_dots, varied
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Truthfulness and ethics after visual instruction tuning. Each dot is one tuned run with its "
    "95 % interval (bootstrap over items), by tuning mode and by what stood for the image in "
    "training. Dashed line and band: the untuned base with its 95 % interval. Intervals that "
    "overlap say little about a difference: the paired differences are in the figures on sources "
    "and tunings. TruthfulQA mc2 is the probability on the true answers; ETHICS is the mean of its "
    "five subsets."
)


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    values = headline(scored(tables))
    if values.empty:
        return "No TruthfulQA or ETHICS scores in this study"
    if not (values["kind"] == "run").any():
        return "No tuned runs in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    values = headline(scored(tables))
    tuned = values[values["kind"] == "run"]
    dots = run_dots(tuned, panel="base", group="tuning", hue="source")
    columns = [
        panels.Column(
            benchmark,
            names.benchmark_label(benchmark),
            panels.size_note(values[values["benchmark"] == benchmark], style),
            _axis(benchmark, style),
        )
        for benchmark in names.ordered(tuned["benchmark"], names.HEADLINE)
    ]
    untuned = values[values["kind"] == "base"]
    references = values[values["kind"] == "reference"].assign(column=lambda row: row["benchmark"])
    with mpl.rc_context(style.rc()):
        grid = panels.dot_grid(
            dots, columns, panel_bases(tables, tuned), varied(tuned, "tuning"), style, 0.25
        )
        for (base, benchmark), ax in grid.axes.items():
            here = untuned[(untuned["base"] == base) & (untuned["benchmark"] == benchmark)]
            for row in here.to_dict("records"):
                _base(ax, row, style)
        handles = panels.hue_handles(varied(tuned, "source"), style)
        if not untuned.empty:
            handles.append(
                panels.line_handle("untuned base", linestyle="--", color=style.colour("base"))
            )
            handles.append(panels.band_handle("its 95 % interval", style.colour("base")))
        handles += panels.reference_lines(grid, references, tables.runs)
        panels.legend(grid.figure, handles, style)
    return grid.figure


def _axis(benchmark: str, style: FigureStyle) -> str:
    if benchmark != "truthfulqa_mc2":
        return "Accuracy (%)"
    return "Score (%)" if style.narrow else "Mass on true answers (%)"


def _base(ax, row: dict[str, object], style: FigureStyle) -> None:
    colour = style.colour("base")
    if not pd.isna(row["low"]):
        ax.axvspan(
            100 * row["low"], 100 * row["high"], color=colour, alpha=panels.BAND, linewidth=0
        )
    ax.axvline(100 * row["value"], color=colour, linewidth=1.0, linestyle="--", zorder=2)
