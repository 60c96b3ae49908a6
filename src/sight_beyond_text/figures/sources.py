"""What stood for the image in training: paired differences between sources."""

import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import (
    HOLM,
    SEEDS,
    effects_of,
    headline,
    panel_bases,
    run_dots,
    varied,
)
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Effect of what stood for the image in training: the image itself (visual), its captions "
    "(caption), or nothing (text). Each dot compares two runs that are alike in everything else, "
    "on the same items, in points, with its 95 % interval (paired bootstrap over items); right of "
    "zero the first-named source does better. "
    f"Filled: {HOLM}; hollow: not. {SEEDS}"
)
CONTRASTS = {
    "visual - text": "visual\n− text",
    "visual - caption": "visual\n− caption",
    "caption - text": "caption\n− text",
}


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    if not tables.effects["contrast"].isin(list(CONTRASTS)).any():
        return "No two runs in this study differ in their source alone"
    if _shown(tables).empty:
        return "No TruthfulQA or ETHICS scores in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = _shown(tables)
    dots = run_dots(effects, panel="contrast", group="base", hue="tuning", value="difference")
    columns = [
        panels.Column(
            benchmark,
            names.benchmark_label(benchmark),
            panels.size_note(effects[effects["benchmark"] == benchmark], style),
            "Difference (points)",
        )
        for benchmark in names.ordered(effects["benchmark"], names.HEADLINE)
    ]
    rows = {key: label for key, label in CONTRASTS.items() if key in set(effects["contrast"])}
    groups, hues = panel_bases(tables, effects), varied(effects, "tuning")
    return panels.differences(dots, columns, rows, groups, hues, style)


def _shown(tables: Tables) -> pd.DataFrame:
    return headline(effects_of(tables, CONTRASTS))
