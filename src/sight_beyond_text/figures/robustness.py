"""What is left of the scores when images are corrupted, by kind of corruption."""

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.robustness import relative_robustness
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.style import FigureStyle, new_figure, notice

CAPTION = (
    "Relative robustness: the mean score on corrupted images over the severities, in per cent of "
    "the score on clean ones. Dots: means over the runs of a source (bases, tunings, seeds); "
    "lines: their range. Kinds of ImageNet-C, the most harmful last; above them the mean over "
    "kinds. POPE's accuracy can hardly fall below that of guessing."
)
MOST = 4
"""Benchmarks that are shown."""

FIRST = ("vqa", "pope", "captions")
_MEAN = "mean of kinds"
_ROW = 0.22
_DODGE = 0.55


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    corrupted = tables.scores[tables.scores["suite"] == "corrupted"]
    if corrupted.empty:
        return "No corrupted images in this study"
    kinds = tables.runs.set_index("run")["kind"]
    if not corrupted["run"].map(kinds).isin(["run", "base"]).any():
        return "No runs with corrupted images in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    # Imported only here: it takes longer than most figures do.
    import seaborn as sns

    if missing := needs(tables):
        return notice(style, missing)
    shown = _shown(tables)
    columns = list(dict.fromkeys(zip(shown["benchmark"], shown["metric"], strict=True)))
    order = names.ordered(shown["who"], (*names.SOURCES, "base"))
    kinds = shown[shown["row"] != _MEAN].groupby("row")["relative"].mean()
    rows = [_MEAN, *kinds.sort_values(ascending=False, kind="stable").index]
    labels = {who: "untuned" if who == "base" else who for who in order}
    with mpl.rc_context(style.rc()):
        figure = new_figure(style, 1.0 + _ROW * len(rows))
        axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
        for ax, (benchmark, metric) in zip(axes, columns, strict=True):
            here = (shown["benchmark"] == benchmark) & (shown["metric"] == metric)
            sns.pointplot(
                shown[here],
                x="relative",
                y="row",
                hue="who",
                order=rows,
                hue_order=order,
                palette={who: style.colour(who) for who in order},
                markers=[style.marker(who) for who in order],
                errorbar=("pi", 100),
                dodge=_DODGE if len(order) > 1 else False,
                linestyle="none",
                markersize=3,
                err_kws={"linewidth": 0.9},
                legend=False,
                ax=ax,
            )
            _dress(ax, rows, f"{names.benchmark_label(benchmark)}\n{names.metric_label(metric)}")
        figure.supxlabel("Relative to clean images (%)", fontsize=style.font_size)
        handles = panels.hue_handles(labels, style)
        panels.legend(figure, [*handles, panels.line_handle("clean", linestyle="--")], style)
    return figure


def _shown(tables: Tables) -> pd.DataFrame:
    """What is drawn: benchmark, metric, row (a kind), who (a source or "base"), relative (%)."""
    left = relative_robustness(tables.scores)
    runs = tables.runs.set_index("run")
    kind = left["run"].map(runs["kind"])
    left["who"] = left["run"].map(runs["source"]).where(kind == "run", "base")
    left["row"] = left["kind"].str.replace("_", " ").where(left["kind"] != "mean", _MEAN)
    left["relative"] = 100 * left["relative"]
    left = left[kind.isin(["run", "base"]) & left["relative"].notna()]
    chosen = []
    for benchmark in names.ordered(left["benchmark"], FIRST):
        own = left[left["benchmark"] == benchmark]
        for metric in names.table_metrics(own["metric"]):
            chosen.append(own[own["metric"] == metric])
    return pd.concat(chosen[:MOST], ignore_index=True)


def _dress(ax, rows: list[str], title: str) -> None:
    ax.set_title(title, fontweight="bold", pad=3)
    ax.set(xlabel="", ylabel="")
    ax.axvline(100, color=panels.GREY, linewidth=0.8, linestyle="--", zorder=1)
    ax.axhline(0.5, color="#d9d9d9", linewidth=0.5, zorder=0)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, pad=4)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.5, zorder=0)
    ax.set_axisbelow(True)
    ax.margins(x=0.07)
