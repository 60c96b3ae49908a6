"""What each tuning mode changes against the untuned base."""

import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import changes
from sight_beyond_text.figures.selection import HOLM, SEEDS, headline
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Change against the untuned base by tuning mode: full (the whole language model learns), LoRA, "
    "QLoRA (LoRA on 4-bit weights), frozen (only the projector learns). Differences on the same "
    f"items in points, with 95 % intervals (paired bootstrap over items). Filled: {HOLM}; hollow: "
    f"not. {SEEDS}"
)
SHOWN = ("truthfulqa_mc2", names.MACRO)


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    if missing := changes.needs(tables):
        return missing
    if _shown(tables).empty:
        return "No TruthfulQA mc2 or ETHICS scores in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = _shown(tables)
    titles = {
        benchmark: names.benchmark_label(benchmark)
        for benchmark in names.ordered(effects["benchmark"], SHOWN)
    }
    return changes.draw(tables, effects, "benchmark", titles, style)


def _shown(tables: Tables) -> pd.DataFrame:
    effects = headline(changes.against_base(tables))
    return effects[effects["benchmark"].isin(SHOWN)]
