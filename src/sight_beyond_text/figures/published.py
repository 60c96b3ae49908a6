"""What others published beside what the study found."""

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables, scored
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import run_dots
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Published against reproduced: scores that others reported (diamonds, without intervals) and "
    "those found here (dots, with 95 % intervals, bootstrap over items) of the same model or "
    "recipe, references included. Where settings differ (protocol, items, shots), so may scores."
)
MOST = 6
"""Benchmarks that are shown."""

_FIRST = (*names.HEADLINE, "mmlu", "vqa", "pope", "captions")
_WHOSE = {"published": "published", "reproduced": "reproduced"}


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    return "" if len(tables.published) else "No published values are given in this study"


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    values = _values(tables)
    values["column"] = values["benchmark"] + "/" + values["metric"]
    columns = _columns(values, style)
    values = values[values["column"].isin([column.key for column in columns])]
    dots = run_dots(values, panel="panel", group="run", hue="whose", column="column")
    dots["rank"] = dots["hue"].map(list(_WHOSE).index)
    labels = names.base_labels(tables.runs)
    panel_labels = {
        key: labels.get(key, key) or "references"
        for key in sorted(set(values["panel"]), key=lambda key: (key == "", key))
    }
    rows = dict(zip(values["run"], _row_labels(values), strict=True))
    with mpl.rc_context(style.rc()):
        grid = panels.dot_grid(dots, columns, panel_labels, rows, style, 0.25)
        panels.legend(grid.figure, panels.hue_handles(_WHOSE, style), style)
    return grid.figure


def _values(tables: Tables) -> pd.DataFrame:
    """Published values and our own of the same runs and metrics, one row each."""
    keys = ["run", "benchmark", "metric"]
    told = tables.published
    runs = tables.runs.set_index("run")
    known = told[told["run"].isin(runs.index)]
    own = scored(tables)
    own = own[pd.MultiIndex.from_frame(own[keys]).isin(pd.MultiIndex.from_frame(known[keys]))]
    # Without this a benchmark's corrupted twins or a second suite would stand beside it.
    own = own.drop_duplicates(keys)
    facts = ["kind", "label", "base", "source", "tuning", "seed"]
    published = known[[*keys, "value", "source"]].rename(columns={"source": "slot"})
    published = published.join(runs[facts], on="run").assign(whose="published")
    ours = own[[*keys, *facts, "value", "low", "high", "n"]].assign(whose="reproduced", slot="")
    values = pd.concat([published, ours], ignore_index=True)
    for name in ("low", "high", "n"):
        values[name] = values[name].astype("Float64").astype(float)
    return values.assign(panel=values["base"])


def _columns(values: pd.DataFrame, style: FigureStyle) -> list[panels.Column]:
    columns = []
    for benchmark in names.ordered(values["benchmark"], _FIRST):
        own = values[values["benchmark"] == benchmark]
        for metric in sorted(set(own["metric"])):
            here = own[own["metric"] == metric]
            unit = "%" if names.points(metric) == 100 and metric != "CIDEr" else "× 100"
            unit = unit if names.points(metric) == 100 else "sum"
            columns.append(
                panels.Column(
                    f"{benchmark}/{metric}",
                    names.benchmark_label(benchmark),
                    panels.size_note(here, style),
                    f"{names.metric_label(metric)} ({unit})",
                )
            )
    return columns[:MOST]


def _row_labels(values: pd.DataFrame) -> list[str]:
    seeds = values.loc[values["kind"] == "run", "seed"].nunique() > 1
    labels = []
    for row in values.to_dict("records"):
        if row["kind"] == "run":
            seed = int(row["seed"]) if seeds and not pd.isna(row["seed"]) else None
            labels.append(names.run_label(row["tuning"], row["source"], seed))
        elif row["kind"] == "base":
            labels.append("untuned")
        else:
            labels.append(row["label"] or row["run"])
    return labels
