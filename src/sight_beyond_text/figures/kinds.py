"""Which kinds of instruction the runs learned from: conversation, detail, reasoning."""

import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import changes, panels
from sight_beyond_text.figures.selection import (
    HOLM,
    SEEDS,
    headline,
    panel_bases,
    run_dots,
    varied,
)
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Change against the untuned base by the kinds of instruction that a run learned from, in "
    "points on the same items, with 95 % intervals (paired bootstrap over items). Runs of fewer "
    "kinds saw fewer samples. Sources that were tuned on all kinds are shown for comparison. "
    f"Filled: {HOLM}; hollow: not. {SEEDS}"
)
KINDS = ("all", "conversation", "detail", "reasoning")


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    runs = tables.runs[tables.runs["kind"] == "run"]
    if runs["instruction_kinds"].nunique() < 2:
        return "All runs of this study learned from the same kinds of instruction"
    if missing := changes.needs(tables):
        return missing
    return "" if len(_shown(tables)) else "No TruthfulQA or ETHICS scores in this study"


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = _shown(tables)
    dots = run_dots(effects, panel="base", group="group", hue="tuning", value="difference")
    columns = [
        panels.Column(
            benchmark,
            names.benchmark_label(benchmark),
            panels.size_note(effects[effects["benchmark"] == benchmark], style),
            "Change (points)" if style.narrow else "Change against the base (points)",
        )
        for benchmark in names.ordered(effects["benchmark"], names.HEADLINE)
    ]
    rows, hues = panel_bases(tables, effects), varied(effects, "tuning")
    return panels.differences(dots, columns, rows, _groups(effects), hues, style)


def _shown(tables: Tables) -> pd.DataFrame:
    effects = headline(changes.against_base(tables))
    group = effects["instruction_kinds"] + "|" + effects["source"]
    return effects.assign(group=group)


def _groups(effects: pd.DataFrame) -> dict[str, str]:
    """Lines of a panel: kinds, and the source beside them where several have those kinds."""
    cells = effects[["instruction_kinds", "source", "group"]].drop_duplicates()
    sharing = cells.groupby("instruction_kinds")["source"].nunique()
    kinds = names.ordered(cells["instruction_kinds"], KINDS)
    sources = names.ordered(cells["source"], names.SOURCES)
    cells = sorted(
        cells.itertuples(index=False, name=None),
        key=lambda cell: (kinds.index(cell[0]), sources.index(cell[1])),
    )
    return {
        group: f"{kind.replace('+', ' + ')}, {source}" if sharing[kind] > 1 else kind
        for kind, source, group in cells
    }
