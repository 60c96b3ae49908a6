"""Each claim of the study: its estimate and interval against its threshold, and the verdict."""

import textwrap

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.claims_table import needed
from sight_beyond_text.analysis.tidy import Tables
from sight_beyond_text.figures import panels
from sight_beyond_text.figures.style import FigureStyle, new_figure, notice

CAPTION = (
    "The study's claims, judged from the answers to the same questions: the mean difference over "
    "all runs that a claim is about, with its interval (paired bootstrap, clustered; 95 %, and 90 "
    "% for claims of equivalence, which is two one-sided tests at 5 %). Shaded: what the claim "
    "says. Supported: the whole interval lies there; refuted: it lies wholly outside; undecided: "
    "it reaches both, so more items or seeds would be needed. Alone: the pairs of runs that would "
    "support the claim by themselves. Not corrected for the number of claims; the table has "
    "Holm's p values."
)
LOOKS = {
    "supported": ("o", "#0072B2", "#0072B2"),
    "refuted": ("X", "#D55E00", "#D55E00"),
    "undecided": ("D", "#595959", "white"),
}
"""Marker, colour and fill of each verdict."""

_CLAIMED = "#56B4E9"
_ORDER = (*names.HEADLINE, *names.MEANS.values())
_LINE = 1.28
_ROOM = 0.8


def needs(tables: Tables) -> str:
    """What is missing to draw this figure; empty when nothing is."""
    return "This study states no claims" if tables.claims.empty else ""


def draw(tables: Tables, style: FigureStyle) -> Figure:
    """Draws the figure; a notice where the study lacks what it shows."""
    if missing := needs(tables):
        return notice(style, missing)
    claims = tables.claims
    labels, verdicts = _texts(claims, style)
    # A unit of height is a line of text; each claim gets what its longer text takes.
    rows = {
        claim: max(_lines(labels[claim]), _lines(verdicts[claim]), 1) + _ROOM for claim in labels
    }
    tests = _panels(claims, style)
    unit = style.small * _LINE / 72
    heights = [sum(rows[name] for name in own["claim"]) for own in tests.values()]
    # Between panels stand a title and the ticks.
    between = (style.font_size + style.small) * 2.3 / 72
    with mpl.rc_context(style.rc()):
        figure = new_figure(style, 0.55 + unit * sum(heights) + between * len(tests))
        grid = figure.subplots(
            len(tests), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for ax, (title, own) in zip(grid, tests.items(), strict=True):
            _draw(ax, own, rows, labels, verdicts, style)
            ax.set_title(title, fontweight="bold", fontsize=style.font_size, loc="left", pad=3)
        figure.supxlabel(f"Difference ({_unit(claims)})", fontsize=style.font_size)
        panels.legend(figure, _handles(claims), style)
    return figure


def _panels(claims: pd.DataFrame, style: FigureStyle) -> dict[str, pd.DataFrame]:
    """Claims by what they are about, in the order of the headline, each with its title."""
    found = {}
    for benchmark in names.ordered(claims["benchmark"], _ORDER):
        here = claims[claims["benchmark"] == benchmark]
        for metric in sorted(set(here["metric"])):
            told = names.benchmark_label(benchmark)
            if metric and metric not in ("acc", "accuracy", "mean"):
                told += f", {names.metric_label(metric)}"
            own = here[here["metric"] == metric]
            size = panels.size_note(own.assign(benchmark=""), style)
            found[f"{told}, {size}" if size else told] = own
    return found


def _unit(claims: pd.DataFrame) -> str:
    """Of the differences: a score that is no share, such as MME's, stays as it is."""
    points = {names.points(metric) for metric in claims["metric"] if metric}
    if len(points) > 1:
        return "points; scores that are no shares as they are"
    return "score" if points == {1.0} else "points"


def _texts(claims: pd.DataFrame, style: FigureStyle) -> tuple[dict[str, str], dict[str, str]]:
    """By claim: its own words, and the verdict's, both broken into lines."""
    letter = style.small / 72 * 0.58
    left = int(style.width * (0.36 if style.narrow else 0.38) / letter)
    right = int(style.width * (0.22 if style.narrow else 0.2) / letter)
    labels, verdicts = {}, {}
    for row in claims.to_dict("records"):
        labels[row["claim"]] = textwrap.fill(row["text"], left)
        told = [row["verdict"]]
        if row["verdict"] == "undecided":
            told += textwrap.wrap(needed(row), right)
        elif row["verdict"] == "untestable":
            told += textwrap.wrap(row["reason"].partition(";")[0], right)
        elif row["pairs"] > 1:
            told += textwrap.wrap(f"{row['pairs_alone']} of {row['pairs']} alone", right)
        verdicts[row["claim"]] = "\n".join(told)
    return labels, verdicts


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _draw(
    ax: Axes,
    claims: pd.DataFrame,
    rows: dict[str, float],
    labels: dict[str, str],
    verdicts: dict[str, str],
    style: FigureStyle,
) -> None:
    low, high = _limits(claims)
    ticks, y = {}, 0.0
    for row in claims.to_dict("records"):
        height, factor = rows[row["claim"]], names.points(row["metric"] or "acc")
        middle = y + height / 2
        ticks[middle] = labels[row["claim"]]
        _claimed(ax, row, factor, (low, high), (y + 0.12, y + height - 0.12))
        if row["verdict"] in LOOKS:
            marker, colour, fill = LOOKS[row["verdict"]]
            ends = [row["low"] * factor, row["high"] * factor]
            ax.plot(ends, [middle] * 2, color=colour, linewidth=1.3, zorder=3)
            ax.plot(
                [row["difference"] * factor],
                [middle],
                marker=marker,
                markersize=5.2,
                markerfacecolor=fill,
                markeredgecolor=colour,
                markeredgewidth=0.9,
                zorder=4,
            )
        colour = LOOKS.get(row["verdict"], ("", panels.GREY, ""))[1]
        ax.annotate(
            verdicts[row["claim"]],
            (1, middle),
            (5, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize=style.small,
            color=colour,
            annotation_clip=False,
        )
        y += height
    ax.set_xlim(low, high)
    ax.set_ylim(y, 0)
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.tick_params(axis="y", length=0, pad=4, labelsize=style.small)
    ax.axvline(0, color=panels.GREY, linewidth=0.8, zorder=1)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.5, zorder=0)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(4 if style.narrow else 6, steps=[1, 2, 5, 10]))


def _limits(claims: pd.DataFrame) -> tuple[float, float]:
    """Of an axis: all intervals, thresholds and zero, with room at both ends."""
    factor = claims["metric"].map(lambda metric: names.points(metric or "acc"))
    threshold = claims["threshold"] * factor
    both = threshold.where(claims["kind"] == "equivalence")
    marks = pd.concat([claims["low"] * factor, claims["high"] * factor, threshold, -both])
    low, high = min(0.0, marks.min()), max(0.0, marks.max())
    room = 0.12 * (high - low) or 1.0
    return low - room, high + room


def _claimed(
    ax: Axes,
    row: dict,
    factor: float,
    ends: tuple[float, float],
    span: tuple[float, float],
) -> None:
    """Shades what the claim says, and marks its threshold."""
    at = row["threshold"] * factor
    edges = {"superiority": (at, ends[1]), "inferiority": (ends[0], at), "equivalence": (-at, at)}
    left, right = edges[row["kind"]]
    ax.fill_between([left, right], *span, color=_CLAIMED, alpha=0.22, linewidth=0, zorder=0.5)
    for x in (-at, at) if row["kind"] == "equivalence" else (at,):
        ax.plot([x, x], span, color="black", linewidth=0.9, linestyle=(0, (2, 1.2)), zorder=2)


def _handles(claims: pd.DataFrame) -> list[object]:
    handles: list[object] = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            markersize=4.6,
            markerfacecolor=fill,
            markeredgewidth=0.9,
            linewidth=1.3,
            label=verdict,
        )
        for verdict, (marker, colour, fill) in LOOKS.items()
        if (claims["verdict"] == verdict).any()
    ]
    claimed = panels.band_handle("what is claimed", _CLAIMED)
    claimed.set_alpha(0.3)
    threshold = panels.line_handle("threshold", color="black", linestyle=(0, (2, 1.2)))
    return [*handles, claimed, threshold]
