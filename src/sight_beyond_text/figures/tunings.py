"""What each tuning mode changes against the untuned base."""

import matplotlib as mpl
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import headline, panel_bases, run_dots, varied
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Change against the untuned base by tuning mode: full (the whole language model learns), LoRA, "
    "QLoRA (LoRA on 4-bit weights), frozen (only the projector learns). Differences on the same "
    "items in points, with 95 % intervals (paired bootstrap over items). Filled: the interval "
    "excludes zero; hollow: it does not. Not corrected for the number of comparisons."
)
SHOWN = ("truthfulqa_mc2", names.MACRO)


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    if not (tables.effects["contrast"] == "tuned - base").any():
        return "No run in this study has its untuned base scored beside it"
    if _shown(tables).empty:
        return "No TruthfulQA mc2 or ETHICS scores in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = _shown(tables)
    dots = run_dots(effects, panel="base", group="tuning", hue="source", value="difference")
    dots["solid"] = (effects["low"] > 0) | (effects["high"] < 0)
    columns = [
        panels.Column(
            benchmark,
            names.benchmark_label(benchmark),
            panels.size_note(effects[effects["benchmark"] == benchmark], style),
            "Change against the base (points)" if not style.narrow else "Change (points)",
        )
        for benchmark in names.ordered(effects["benchmark"], SHOWN)
    ]
    with mpl.rc_context(style.rc()):
        grid = panels.dot_grid(
            dots, columns, panel_bases(tables, effects), varied(effects, "tuning"), style, 0.25
        )
        for ax in grid.axes.values():
            panels.zero_line(ax)
        handles = panels.hue_handles(varied(effects, "source"), style)
        panels.legend(grid.figure, [*handles, panels.hollow_handle()], style)
    return grid.figure


def _shown(tables: Tables):
    effects = headline(tables.effects[tables.effects["contrast"] == "tuned - base"])
    return effects[effects["benchmark"].isin(SHOWN)]
