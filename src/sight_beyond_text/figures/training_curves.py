"""Training losses of both stages."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import panel_bases, varied
from sight_beyond_text.figures.style import LINES, FigureStyle, new_figure, notice

CAPTION = (
    "Training loss (cross-entropy per answer token, in nats) by optimizer step: alignment of the "
    "projector (left), instruction tuning (right). Lines are means over a window of 10 % of the "
    "steps; the alignment, which all runs of a base continue from, is grey. Losses of different "
    "sources are not comparable in level, since their prompts hold different information."
)
STAGES = {"align": "Alignment", "tune": "Instruction tuning"}


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    return "" if len(_shown(tables)) else "No training curves in this study"


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    curves = _shown(tables)
    bases = panel_bases(tables, curves)
    stages = [stage for stage in STAGES if stage in set(curves["stage"])]
    with mpl.rc_context(style.rc()):
        each = float(np.clip(6.6 / len(bases), 1.1, 1.7))
        figure = new_figure(style, 0.9 + each * len(bases))
        grid = figure.subplots(len(bases), len(stages), squeeze=False, sharex="col", sharey="col")
        for row, (base, label) in enumerate(bases.items()):
            for place, stage in enumerate(stages):
                ax = grid[row, place]
                own = curves[(curves["base"] == base) & (curves["stage"] == stage)]
                _lines(ax, own, style)
                _dress(ax, style)
                if row == 0:
                    ax.set_title(STAGES[stage], fontweight="bold", pad=4)
                if row == len(bases) - 1:
                    ax.set_xlabel("Optimizer step")
                if place == 0:
                    ax.set_ylabel(panels.wrap(label, each, style), fontweight="bold")
        for place, stage in enumerate(stages):
            _scale(grid[:, place], curves.loc[curves["stage"] == stage, "loss"])
        figure.supylabel("Loss (nats per token)", fontsize=style.font_size)
        figure.align_ylabels(list(grid[:, 0]))
        panels.legend(figure, _handles(curves, style), style)
    return figure


def smoothed(loss: np.ndarray) -> np.ndarray:
    """Running mean of a curve over 10 % of its length, at its ends over what is there."""
    window = max(1, round(0.1 * len(loss)))
    return pd.Series(loss).rolling(window, center=True, min_periods=1).mean().to_numpy()


def _shown(tables: Tables) -> pd.DataFrame:
    runs = tables.runs[["run", "base", "source", "tuning", "kind"]]
    curves = tables.curves.merge(runs, on="run").sort_values(["run", "stage", "step"])
    # An alignment stands with the untuned base whose runs continue from it.
    aligned = (curves["stage"] == "align") & (curves["kind"] == "base")
    return curves[curves["loss"].notna() & ((curves["kind"] == "run") | aligned)]


def _lines(ax, curves: pd.DataFrame, style: FigureStyle) -> None:
    for _, own in curves.groupby("run", sort=True):
        source, tuning, step = own["source"].iloc[0], own["tuning"].iloc[0], own["step"]
        ax.plot(
            step.to_numpy(float),
            smoothed(own["loss"].to_numpy(float)),
            color=style.colour(source) if source else panels.GREY,
            linestyle=LINES.get(tuning, "-"),
            linewidth=1.0,
            marker="o" if len(step) == 1 else None,
            markersize=3,
        )
    if curves.empty:
        ax.text(0.5, 0.5, "no such stage", transform=ax.transAxes, ha="center", color=panels.GREY)


def _dress(ax, style: FigureStyle) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(
        MaxNLocator(3 if style.narrow else 5, steps=[1, 2, 5, 10], integer=True)
    )


def _scale(axes, loss: pd.Series) -> None:
    """A logarithmic axis where losses span more than a factor of ten."""
    if loss.min() > 0 and loss.max() / loss.min() > 10:
        for ax in axes:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())


def _handles(curves: pd.DataFrame, style: FigureStyle) -> list:
    tuned = curves[curves["kind"] == "run"]
    sources, tunings = varied(tuned, "source"), varied(tuned, "tuning")
    handles = [
        panels.line_handle(label, color=style.colour(source), linewidth=2.0)
        for source, label in sources.items()
    ]
    handles += [
        panels.line_handle(label, linestyle=LINES.get(tuning, "-"))
        for tuning, label in tunings.items()
    ]
    return handles
