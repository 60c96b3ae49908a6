"""What tuning costs or brings on everything else: a heat map of changes against the base."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures.selection import panel_bases
from sight_beyond_text.figures.style import FigureStyle, new_figure, notice

CAPTION = (
    "Change against the untuned base on the other text benchmarks, in points, on the same items. "
    "Bold with an asterisk: the 95 % interval (paired bootstrap over items) excludes zero, not "
    "corrected for the number of comparisons. With several seeds: their mean, marked where all "
    "their intervals exclude zero on the same side. Items per benchmark in brackets."
)
_FIRST = ("mmlu", "gsm8k", "mathqa", "boolq", "squadv2", *names.ETHICS)
_ROW = 0.165
_TALLEST = 9.0


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    if not (tables.effects["contrast"] == "tuned - base").any():
        return "No run in this study has its untuned base scored beside it"
    if _shown(tables).empty:
        return "No text benchmarks beside TruthfulQA in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = _shown(tables)
    benchmarks = names.ordered(effects["benchmark"], _FIRST)
    bases = panel_bases(tables, effects)
    rows = {base: _rows(tables, effects, base) for base in bases}
    heights = [len(own) for own in rows.values()]
    # One scale for all panels; its ends are symmetric, so that white is no change.
    bound = max(1.0, float(np.ceil((100 * effects["difference"]).abs().max())))
    with mpl.rc_context(style.rc()):
        figure = new_figure(style, 1.35 + _ROW * sum(heights) + 0.2 * len(bases))
        grid = figure.subplots(
            len(bases), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for place, (base, label) in enumerate(bases.items()):
            ax = grid[place]
            _panel(ax, effects[effects["base"] == base], rows[base], benchmarks, bound, style)
            ax.set_title(label, loc="left", fontweight="bold", pad=3)
            last = place == len(bases) - 1
            ax.tick_params(axis="x", labelbottom=last)
            if last:
                ax.set_xticks(
                    np.arange(len(benchmarks)) + 0.5,
                    [_head(benchmark, effects) for benchmark in benchmarks],
                    rotation=40,
                    ha="right",
                    rotation_mode="anchor",
                )
        bar = figure.colorbar(
            ScalarMappable(Normalize(-bound, bound), _colours()),
            ax=list(grid),
            aspect=35,
            fraction=0.03,
            pad=0.015,
        )
        bar.set_label("Change against the base (points)")
        bar.outline.set_visible(False)
    return figure


def _panel(
    ax,
    effects: pd.DataFrame,
    rows: dict[str, str],
    benchmarks: list[str],
    bound: float,
    style: FigureStyle,
) -> None:
    wide = effects.pivot(index="run", columns="benchmark", values="difference")
    wide = 100 * wide.reindex(index=list(rows), columns=benchmarks)
    effects = effects.assign(mark=(effects["low"] > 0) | (effects["high"] < 0))
    marks = effects.pivot(index="run", columns="benchmark", values="mark")
    marks = marks.reindex(index=list(rows), columns=benchmarks) == True  # noqa: E712
    sns.heatmap(
        wide,
        ax=ax,
        vmin=-bound,
        vmax=bound,
        cmap=_colours(),
        cbar=False,
        linewidths=0.6,
        linecolor="white",
        xticklabels=False,
    )
    room = (style.width - 1.6) / len(benchmarks) * 72
    size = float(np.clip(room / 6 / 0.62, 4.0, style.small))
    for y in range(len(rows)):
        for x in range(len(benchmarks)):
            value = wide.iat[y, x]
            if pd.isna(value):
                ax.text(x + 0.5, y + 0.5, "–", ha="center", va="center", color="#7f7f7f")
                continue
            mark = bool(marks.iat[y, x])
            ax.text(
                x + 0.5,
                y + 0.52,
                signed(value) + ("*" if mark else ""),
                ha="center",
                va="center_baseline",
                fontsize=size,
                fontweight="bold" if mark else "normal",
                color="white" if abs(value) > 0.68 * bound else "#1a1a1a",
            )
    ax.set_yticks(np.arange(len(rows)) + 0.5, list(rows.values()), rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="")


def signed(value: float) -> str:
    """A difference at one decimal with its sign; what rounds to zero has none."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def _shown(tables: Tables) -> pd.DataFrame:
    effects = tables.effects[tables.effects["contrast"] == "tuned - base"]
    effects = effects[(effects["suite"] == "text") & (effects["benchmark"] != names.MACRO)]
    effects = effects[~effects["benchmark"].str.startswith("truthfulqa")]
    main = effects.groupby("benchmark")["metric"].transform(names.main_metric)
    return effects[effects["metric"] == main]


def _rows(tables: Tables, effects: pd.DataFrame, base: str) -> dict[str, str]:
    """Runs of a base in reading order, with labels; seeds and kinds only where they vary."""
    runs = tables.runs[tables.runs["run"].isin(effects["run"])]
    seeds = runs["seed"].nunique() > 1
    kinds = runs["instruction_kinds"].nunique() > 1
    own = runs[runs["base"] == base].to_dict("records")

    def place(run: dict[str, object]) -> tuple:
        return (
            names.ordered(runs["tuning"], names.TUNINGS).index(run["tuning"]),
            names.ordered(runs["source"], names.SOURCES).index(run["source"]),
            run["instruction_kinds"],
            -1 if pd.isna(run["seed"]) else run["seed"],
        )

    return {
        run["run"]: names.run_label(
            run["tuning"],
            run["source"],
            run["seed"] if seeds else None,
            run["instruction_kinds"] if kinds else "",
        )
        for run in sorted(own, key=place)
    }


def _head(benchmark: str, effects: pd.DataFrame) -> str:
    n = effects.loc[effects["benchmark"] == benchmark, "n"].max()
    return f"{_HEADS.get(benchmark, names.benchmark_label(benchmark))} ({int(n):,})"


def _colours():
    return sns.color_palette("RdBu", as_cmap=True)
