"""What tuning changes in the five subsets of ETHICS."""

import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import changes
from sight_beyond_text.figures.selection import HOLM, SEEDS
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Change against the untuned base in the subsets of ETHICS, in points of accuracy on the same "
    "items, with 95 % intervals (paired bootstrap over items, clustered where items share a "
    "scenario), by tuning mode and by what stood for the image in training. "
    f"Filled: {HOLM}; hollow: not. {SEEDS}"
)
_TITLES = {
    "ethics_cm": ("Commonsense", "Common-\nsense"),
    "ethics_justice": ("Justice", "Justice"),
    "ethics_deontology": ("Deontology", "Deon-\ntology"),
    "ethics_virtue": ("Virtue", "Virtue"),
    "ethics_utilitarianism": ("Utilitarianism", "Utilita-\nrianism"),
}
"""Names of the subsets, and how they break in narrow columns."""


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    if missing := changes.needs(tables):
        return missing
    return "" if len(_shown(tables)) else "No subsets of ETHICS in this study"


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    effects = _shown(tables)
    present = names.ordered(effects["benchmark"], names.ETHICS)
    titles = {benchmark: _TITLES[benchmark][style.narrow] for benchmark in present}
    return changes.draw(tables, effects, "benchmark", titles, style)


def _shown(tables: Tables) -> pd.DataFrame:
    effects = changes.against_base(tables)
    return effects[effects["benchmark"].isin(names.ETHICS) & (effects["metric"] == "acc")]
