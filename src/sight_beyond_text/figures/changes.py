"""Changes against the untuned base, by base, tuning and source: a layout that figures share."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import effects_of, panel_bases, run_dots, varied
from sight_beyond_text.figures.style import FigureStyle

CONTRAST = "tuned - base"


def needs(tables: Tables) -> str:
    """What is missing for any change against a base; empty when nothing is."""
    if not (tables.effects["contrast"] == CONTRAST).any():
        return "No run in this study has its untuned base scored beside it"
    return ""


def against_base(tables: Tables) -> pd.DataFrame:
    """Changes of every tuned cell against its untuned base (`selection.effects_of`)."""
    return effects_of(tables, [CONTRAST])


def draw(
    tables: Tables,
    effects: pd.DataFrame,
    column: str,
    titles: Mapping[str, str],
    style: FigureStyle,
) -> Figure:
    """Draws one column of panels for each title, one panel a base.

    Args:
        tables: All of the study.
        effects: Rows of `against_base`.
        column: Field of `effects` that splits the columns.
        titles: Its values in order, with what stands above them.
        style: The look.
    """
    dots = run_dots(
        effects, panel="base", group="tuning", hue="source", value="difference", column=column
    )
    columns = [
        panels.Column(
            key,
            title,
            panels.size_note(effects[effects[column] == key], style),
            "Change (points)" if style.narrow else "Change against the base (points)",
        )
        for key, title in titles.items()
    ]
    groups, hues = varied(effects, "tuning"), varied(effects, "source")
    return panels.differences(dots, columns, panel_bases(tables, effects), groups, hues, style)
