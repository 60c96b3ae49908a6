"""What the runs see: visual question answering, object hallucination, captions."""

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tidy import Tables, scored
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.selection import panel_bases, run_dots, varied
from sight_beyond_text.figures.style import FigureStyle, notice

CAPTION = (
    "Image benchmarks of every tuned run, with 95 % intervals (bootstrap over items, clustered by "
    "image) where the metric is a mean over items. Dashed line on POPE: guessing at random; always "
    "answering yes gives an F1 of 66.7. CIDEr is given times 100."
)
METRICS = (
    ("vqa", "accuracy"),
    ("pope", "accuracy"),
    ("pope", "f1"),
    ("captions", "CIDEr"),
)
"""What is shown where a study has it; other image benchmarks follow up to `MOST` columns."""

MOST = 6
_OWN = (*(name for name, _ in METRICS), *names.MEANS.values())
_CHANCE = 0.5


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    image = tables.scores[tables.scores["suite"] == "image"]
    if image.empty:
        return "No image benchmarks in this study"
    kinds = tables.runs.set_index("run")["kind"]
    if not image["run"].map(kinds).eq("run").any():
        return "No tuned runs with image benchmarks in this study"
    return ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    values = scored(tables)
    values = values[values["suite"] == "image"]
    values = values.assign(column=values["benchmark"] + "/" + values["metric"])
    tuned = values[values["kind"] == "run"]
    shown = _shown(tuned)
    tuned = tuned[tuned["column"].isin([f"{name}/{metric}" for name, metric in shown])]
    dots = run_dots(tuned, panel="base", group="tuning", hue="source")
    dots["column"] = tuned["column"]
    columns = [
        panels.Column(
            f"{benchmark}/{metric}",
            names.benchmark_label(benchmark),
            panels.size_note(tuned[tuned["column"] == f"{benchmark}/{metric}"], style),
            _axis(metric),
        )
        for benchmark, metric in shown
    ]
    references = values[values["kind"] == "reference"]
    with mpl.rc_context(style.rc()):
        grid = panels.dot_grid(
            dots, columns, panel_bases(tables, tuned), varied(tuned, "tuning"), style, 0.25
        )
        handles = panels.hue_handles(varied(tuned, "source"), style)
        for (_, column), ax in grid.axes.items():
            benchmark, metric = column.split("/")
            if benchmark == "pope" and metric in ("accuracy", "f1"):
                ax.axvline(
                    100 * _CHANCE, color=panels.GREY, linewidth=0.9, linestyle="--", zorder=2
                )
        if any(benchmark == "pope" for benchmark, _ in shown):
            handles.append(panels.line_handle("chance (POPE)", linestyle="--"))
        handles += panels.reference_lines(grid, references, tables.runs)
        for (_, column), ax in grid.axes.items():
            if column in ("vqa/accuracy", "captions/CIDEr"):
                ax.set_xlim(left=0)
        panels.legend(grid.figure, handles, style)
    return grid.figure


def _shown(tuned: pd.DataFrame) -> list[tuple[str, str]]:
    present = set(zip(tuned["benchmark"], tuned["metric"], strict=True))
    shown = [pair for pair in METRICS if pair in present]
    for benchmark in sorted(set(tuned["benchmark"]).difference(_OWN)):
        metrics = tuned.loc[tuned["benchmark"] == benchmark, "metric"]
        shown += [(benchmark, metric) for metric in names.table_metrics(metrics)]
    return shown[:MOST]


def _axis(metric: str) -> str:
    label = names.metric_label(metric)
    label = label[0].upper() + label[1:]
    if metric == "CIDEr":
        return "CIDEr (× 100)"
    return f"{label} (%)" if names.points(metric) == 100 else label
