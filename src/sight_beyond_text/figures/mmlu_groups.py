"""What tuning changes in the four groups of MMLU's subjects."""

import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import changes
from sight_beyond_text.figures.selection import SEEDS
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Change against the untuned base in MMLU by group of subjects, in points of accuracy on the "
    "same questions, with 95 % intervals (paired bootstrap over items), by tuning mode and by what "
    "stood for the image in training. Filled: p < 0.05 after Holm's correction, within the study's "
    f"changes in that group; hollow: not. {SEEDS}"
)
GROUPS = {
    "acc_humanities": "Humanities",
    "acc_social_sciences": "Social sciences",
    "acc_stem": "STEM",
    "acc_other": "Other",
}
"""The groups of MMLU's authors, by metric."""


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    if missing := changes.needs(tables):
        return missing
    return "" if len(_shown(tables)) else "No MMLU scores by group in this study"


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = _shown(tables)
    titles = {metric: GROUPS[metric] for metric in names.ordered(effects["metric"], GROUPS)}
    return changes.draw(tables, effects, "metric", titles, style)


def _shown(tables: Tables) -> pd.DataFrame:
    effects = changes.against_base(tables)
    effects = effects[(effects["suite"] == "text") & effects["metric"].isin(list(GROUPS))]
    # A study may hold MMLU twice, with other shots: the first by name is shown.
    return effects[effects["benchmark"] == effects["benchmark"].min()]
