"""What tuning costs or brings on everything else: a heat map of changes against the base."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import changes
from sight_beyond_text.figures.selection import HOLM, panel_bases
from sight_beyond_text.figures.style import FigureStyle, new_figure, notice

CAPTION = (
    "Change against the untuned base on the other text benchmarks, in points, on the same items. "
    f"Bold with an asterisk: {HOLM}. With several seeds: their mean. "
    "Items per benchmark in brackets."
)
_FIRST = ("mmlu", "gsm8k", "mathqa", "boolq", "squadv2", *names.ETHICS)
_MEANS = (names.MACRO, *names.MEANS.values())
_CELL = ["base", "tuning", "source", "instruction_kinds"]
_ROW = 0.165
_TALLEST = 9.0


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    if missing := changes.needs(tables):
        return missing
    if _shown(tables).empty:
        return "No text benchmarks beside TruthfulQA in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = _shown(tables)
    benchmarks = names.ordered(effects["benchmark"], _FIRST)
    cells = _cells(effects)
    bases = panel_bases(tables, effects)
    rows = {base: _rows(cells, base) for base in bases}
    heights = [len(own) for own in rows.values()]
    frame = 1.45 + 0.2 * len(bases)
    row = float(np.clip((_TALLEST - frame) / sum(heights), 0.1, _ROW))
    # One scale for all panels, symmetric, so that white is no change.
    bound = max(1.0, float(np.ceil(cells["change"].abs().max())))
    with mpl.rc_context(style.rc()):
        beside = not style.narrow and row * sum(heights) > 2.2
        figure = new_figure(style, frame + row * sum(heights) + (0 if beside else 0.4))
        grid = figure.subplots(
            len(bases), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for ax, (base, label) in zip(grid, bases.items(), strict=True):
            own = cells[cells["base"] == base]
            _panel(ax, own, rows[base], benchmarks, bound, row, style)
            ax.set_title(label, loc="left", fontweight="bold", pad=3)
        grid[-1].set_xticks(
            np.arange(len(benchmarks)) + 0.5,
            [_head(benchmark, effects) for benchmark in benchmarks],
            rotation=60 if style.narrow else 38,
            ha="right",
            rotation_mode="anchor",
        )
        _colour_bar(figure, grid, bound, beside)
    return figure


def signed(value: float, decimals: int = 1) -> str:
    """A difference with its sign; what rounds to zero has none."""
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def _shown(tables: Tables) -> pd.DataFrame:
    effects = changes.against_base(tables)
    effects = effects[(effects["suite"] == "text") & ~effects["benchmark"].isin(_MEANS)]
    effects = effects[~effects["benchmark"].str.startswith("truthfulqa")]
    main = effects.groupby("benchmark")["metric"].transform(names.main_metric)
    return effects[effects["metric"] == main]


def _cells(effects: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and benchmark: change in points, and mark."""
    change = effects["difference"] * effects["metric"].map(names.points)
    return (
        effects.assign(change=change)
        .groupby([*_CELL, "benchmark"], as_index=False)
        .agg(change=("change", "mean"), mark=("solid", "all"))
    )


def _rows(cells: pd.DataFrame, base: str) -> dict[tuple, str]:
    """Cells of a base in reading order, with labels; instruction kinds only where they vary."""
    varied = cells["instruction_kinds"].nunique() > 1
    tunings = names.ordered(cells["tuning"], names.TUNINGS)
    sources = names.ordered(cells["source"], names.SOURCES)
    own = cells.loc[cells["base"] == base, _CELL[1:]].drop_duplicates()
    found = sorted(
        own.itertuples(index=False, name=None),
        key=lambda cell: (tunings.index(cell[0]), sources.index(cell[1]), cell[2]),
    )
    return {
        (tuning, source, kinds): names.run_label(tuning, source, kinds=kinds if varied else "")
        for tuning, source, kinds in found
    }


def _panel(
    ax: Axes,
    cells: pd.DataFrame,
    rows: dict[tuple, str],
    benchmarks: list[str],
    bound: float,
    row: float,
    style: FigureStyle,
) -> None:
    place = pd.MultiIndex.from_tuples(list(rows))
    wide = cells.set_index([*_CELL[1:], "benchmark"])[["change", "mark"]].unstack("benchmark")
    change = wide["change"].reindex(index=place, columns=benchmarks).to_numpy(float)
    mark = (wide["mark"].reindex(index=place, columns=benchmarks) == 1).to_numpy()
    ax.pcolormesh(
        change, vmin=-bound, vmax=bound, cmap=_colours(), linewidth=0.6, edgecolor="white"
    )
    ax.set_ylim(len(rows), 0)
    ax.set_xticks([])
    for side in ax.spines.values():
        side.set_visible(False)
    decimals = 0 if style.narrow else 1
    width = (style.width - (1.0 if style.narrow else 1.5)) / len(benchmarks) * 72
    size = float(np.clip(min(width / (4 + decimals), row * 72 * 0.72), 4.0, style.small))
    for (y, x), value in np.ndenumerate(change):
        known = not np.isnan(value)
        ax.text(
            x + 0.5,
            y + 0.5,
            signed(value, decimals) + ("*" if mark[y, x] else "") if known else "–",
            ha="center",
            va="center_baseline",
            fontsize=size,
            fontweight="bold" if mark[y, x] else "normal",
            color=_ink(value / bound) if known else "#7f7f7f",
        )
    ax.set_yticks(np.arange(len(rows)) + 0.5, list(rows.values()), fontsize=max(size, 5.0))
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="")


def _ink(share: float) -> str:
    """Black or white, whichever is easier to read on the colour of a value in -1..1."""
    red, green, blue, _ = _colours()((share + 1) / 2)
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    # Relative luminance of sRGB; 0.18 is where black and white contrast equally (WCAG 2).
    return "#1a1a1a" if np.dot((0.2126, 0.7152, 0.0722), linear) > 0.18 else "white"


def _head(benchmark: str, effects: pd.DataFrame) -> str:
    n = effects.loc[effects["benchmark"] == benchmark, "n"].max()
    return f"{names.benchmark_label(benchmark)} ({int(n):,})"


def _colour_bar(figure: Figure, axes: np.ndarray, bound: float, beside: bool) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(-bound, bound), _colours()),
        ax=list(axes),
        location="right" if beside else "bottom",
        aspect=30,
        fraction=0.03,
        pad=0.015,
    )
    bar.set_label("Change against the base (points)")
    bar.outline.set_visible(False)


def _colours():
    return mpl.colormaps["RdBu"]
