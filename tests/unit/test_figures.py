"""The figures: they draw whatever a study holds, legibly, honestly and the same each time."""

import dataclasses
import itertools
import re

import numpy as np
import pandas as pd
import pytest

from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.robustness import relative_robustness
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.corruptions import KINDS
from sight_beyond_text.figures.draw import FIGURES, draw_figure
from sight_beyond_text.figures.effects import MEAN, MOST
from sight_beyond_text.figures.price import signed
from sight_beyond_text.figures.style import PALETTE, FigureStyle
from sight_beyond_text.figures.training_curves import smoothed

from .synthetic_tables import make_tables, write_tables

SIX = ("LLaMA-7B", "Vicuna-7B v1.3", "OpenLLaMA-3B", "Alpaca-3B", "LLaMA2-7B", "LLaMA2-chat-7B")
KINDS_OF = {"pictures of talk": "conversation", "pictures of detail": "detail"}
"""Sources of some kinds of instruction only."""

GROUPS = ("humanities", "social_sciences", "stem", "other")

STUDIES = {
    "default": {},
    "reference": {"reference": True},
    "six bases": {"bases": SIX},
    "three seeds": {"seeds": (0, 1, 2)},
    "one run": {"bases": ("m",), "sources": ("visual",), "tunings": ("lora",)},
    "corrupted": {"corrupted": KINDS},
    "two sources": {"sources": ("visual", "text"), "tunings": ("full",)},
    "kinds": {"sources": ("visual", "text", *KINDS_OF), "tunings": ("full", "lora")},
}


def _more(tables: tidy.Tables) -> tidy.Tables:
    """With MMLU's groups, and with kinds of instruction for the sources that say so."""
    kinds = tables.runs["source"].map(KINDS_OF).fillna(tables.runs["instruction_kinds"])
    mmlu = tables.effects[(tables.effects["benchmark"] == "mmlu")]
    groups = [mmlu.assign(metric=f"acc_{group}") for group in GROUPS]
    effects = pd.concat([tables.effects, *groups], ignore_index=True)
    runs = tables.runs.assign(instruction_kinds=kinds)
    told = [
        {"run": run, "benchmark": benchmark, "metric": metric, "value": 0.46, "source": "a paper"}
        for run in sorted(runs["run"])[:4]
        for benchmark, metric in (("truthfulqa_mc2", "acc"), ("ethics", "acc"), ("mme", "score"))
    ]
    published = pd.DataFrame(told, columns=list(tidy.PUBLISHED))
    return dataclasses.replace(tables, runs=runs, effects=effects, published=published)


@pytest.fixture(scope="module")
def studies():
    made = {}

    def study(name: str) -> tidy.Tables:
        if name not in made:
            made[name] = _more(make_tables(scale=0.1, draws=20, **STUDIES[name]))
        return made[name]

    return study


def assert_nothing_is_cut_off(figure):
    figure.canvas.draw()
    drawn = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    # Half a point: the line widths at the very edge.
    slack = 0.5 / 72
    assert drawn.x0 >= -slack and drawn.y0 >= -slack
    assert drawn.x1 <= width + slack and drawn.y1 <= height + slack


def assert_headings_are_apart(figure):
    boxes = []
    for ax in figure.axes:
        texts = [ax.title, ax.xaxis.label, *ax.texts]
        boxes += [text.get_window_extent() for text in texts if text.get_text()]
    for drawn in figure.legends:
        boxes.append(drawn.get_window_extent())
    for one, two in itertools.combinations(boxes, 2):
        shared = min(one.x1, two.x1) - max(one.x0, two.x0)
        high = min(one.y1, two.y1) - max(one.y0, two.y0)
        assert shared < 1 or high < 1, f"{one} overlaps {two}"


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    ("study", "width"),
    [
        ("default", 3.3),
        ("default", 6.75),
        ("reference", 3.3),
        ("six bases", 6.75),
        ("three seeds", 6.75),
        ("one run", 6.75),
        ("two sources", 3.3),
        ("kinds", 3.3),
    ],
)
def test_every_figure_fits_every_study(studies, study, name, width):
    style = FigureStyle(width=width, dpi=72, font_size=7 if width < 5 else 8)
    figure = FIGURES[name].draw(studies(study), style)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    assert figure.get_size_inches()[1] < 11
    assert_nothing_is_cut_off(figure)
    if name != "price":
        assert_headings_are_apart(figure)


@pytest.mark.parametrize("name", ["sources", "tunings"])
def test_axes_of_differences_include_zero(studies, name):
    for ax in FIGURES[name].draw(studies("default"), FigureStyle()).axes:
        low, high = ax.get_xlim()
        assert low < 0 < high


def test_dots_lie_where_the_table_says(studies):
    tables = studies("default")
    figure = FIGURES["tunings"].draw(tables, FigureStyle())
    effects = tables.effects
    own = effects[(effects["contrast"] == "tuned - base") & (effects["benchmark"] == "ethics")]
    expected = sorted(100 * own.loc[own["base"] == "micro-base", "difference"])
    ax = figure.axes[1]
    drawn = [
        float(line.get_xdata()[0])
        for line in ax.lines
        if line.get_marker() not in ("None", None, "")
    ]
    assert sorted(drawn) == pytest.approx(expected)


def test_kinds_stand_beside_each_other(studies):
    figure = FIGURES["kinds"].draw(studies("kinds"), FigureStyle())
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["all, visual", "all, text", "conversation", "detail"]


def test_mmlu_has_a_column_for_each_group(studies):
    figure = FIGURES["mmlu_groups"].draw(studies("default"), FigureStyle())
    titles = [text.get_text() for ax in figure.axes[:4] for text in ax.texts]
    assert titles == ["Humanities", "Social sciences", "STEM", "Other"]


def test_forest_shows_each_pair_and_the_mean_of_a_contrast(studies):
    tables = studies("two sources")
    figure = FIGURES["effects"].draw(tables, FigureStyle())
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == [
        "micro-base, full, visual",
        "micro-base, full, text",
        "micro-chat, full, visual",
        "micro-chat, full, text",
        "mean",
    ]
    effects = tables.effects[tables.effects["contrast"] == "tuned - base"]
    own = effects[effects["benchmark"] == "truthfulqa_mc2"]
    x = [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_marker() == "D"]
    assert x == pytest.approx([100 * own["difference"].mean()])
    mean = figure.axes[1].collections[0].get_segments()[-1]
    assert mean[:, 0] == pytest.approx([100 * own["low"].mean(), 100 * own["high"].mean()])


def test_a_forest_names_the_only_reference_once(studies):
    figure = FIGURES["effects"].draw(studies("reference"), FigureStyle())
    assert "tuned − Published 7B" in [ax.get_title(loc="left") for ax in figure.axes]


def test_a_forest_of_many_pairs_shows_means_by_base(studies):
    figure = FIGURES["effects"].draw(studies("six bases"), FigureStyle())
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == [f"{base}, mean" for base in sorted(SIX)] + ["mean"]
    assert len(rows) * 7 < MOST


def test_several_seeds_are_shown_by_their_mean(studies):
    tables = studies("three seeds")
    own = tables.effects[tables.effects["contrast"] == "tuned - base"]
    cell = ["contrast", "base", "source", "tuning", "suite", "benchmark", "metric", "protocol"]
    means = own.groupby(cell, as_index=False)[["value", "difference", "low", "high"]].mean()
    means = means.assign(instruction_kinds="all", other="untuned", seeds=3, p_holm=0.01, n=9)
    tables = dataclasses.replace(tables, over_seeds=means.reindex(columns=list(tidy.OVER_SEEDS)))
    for name in ("tunings", "ethics_subsets"):
        figure = FIGURES[name].draw(tables, FigureStyle())
        # Three sources in three tunings, and the frozen one.
        assert len(_dots(figure.axes[0])) == 10
        assert all(dot.get_markerfacecolor() != "white" for dot in _dots(figure.axes[0]))


def test_radar_scales_each_axis_alike_in_all_panels(studies):
    tables = studies("default")
    figure = FIGURES["radar"].draw(tables, FigureStyle())
    key = figure.get_supxlabel().replace("\u00a0", " ")
    assert re.search(r"VQA \d+–\d+ % \(n = 15\); POPE .* Captions CIDEr \d+–\d+ \(n = 6\)", key)
    for ax in figure.axes:
        drawn = [line for line in ax.lines if line.get_marker() in ("o", "s", "^")]
        assert len(drawn) == 10
        radius = np.concatenate([np.hypot(*line.get_data()) for line in drawn])
        assert radius.min() >= 0.2 - 1e-9 and radius.max() <= 1 + 1e-9


def test_two_image_scores_make_no_radar(studies):
    tables = studies("default")
    scores = tables.scores[tables.scores["benchmark"] != "captions"]
    tables = dataclasses.replace(tables, scores=scores, intervals=tidy.empty("intervals"))
    assert FIGURES["radar"].needs(tables) == (
        "A radar takes at least 3 image scores; this study has 2"
    )


def test_corruption_curves_begin_at_the_clean_score(studies):
    tables = studies("corrupted")
    figure = FIGURES["corruption_curves"].draw(tables, FigureStyle())
    assert_nothing_is_cut_off(figure)
    runs = tables.runs.set_index("run")
    scores = tables.scores.assign(
        base=tables.scores["run"].map(runs["base"]), source=tables.scores["run"].map(runs["source"])
    )
    own = scores[(scores["base"] == "micro-base") & (scores["source"] == "visual")]
    clean = own[(own["benchmark"] == "vqa")]["value"].mean()
    worst = own[own["benchmark"].str.match("vqa-.*-5")]["value"].mean()
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [0, 1, 3, 5]
    assert line.get_ydata()[[0, -1]] == pytest.approx([100 * clean, 100 * worst])


def test_published_values_stand_beside_our_own(studies):
    tables = studies("default")
    figure = FIGURES["published"].draw(tables, FigureStyle())
    marks = {
        marker: sorted(
            line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == marker
        )
        for marker in ("D", "o")
    }
    own = tables.scores[tables.scores["run"].isin(tables.published["run"])]
    own = own[own["benchmark"] == "truthfulqa_mc2"]
    assert marks["D"] == [46.0] * 4
    assert marks["o"] == pytest.approx(sorted(100 * own["value"]))


@pytest.mark.parametrize("name", FIGURES)
def test_missing_scores_and_ties_still_draw(studies, name):
    tables = studies("default")
    gone = tables.runs["run"].iloc[2]

    def without(frame):
        return frame[~((frame["run"] == gone) & frame["benchmark"].isin(["vqa", "truthfulqa_mc2"]))]

    tied = tables.effects.assign(difference=0.0, low=0.0, high=0.0, p=1.0, p_holm=np.nan)
    tables = dataclasses.replace(
        tables,
        scores=without(tables.scores),
        intervals=without(tables.intervals).assign(low=np.nan, high=np.nan),
        effects=without(tied),
    )
    assert_nothing_is_cut_off(FIGURES[name].draw(tables, FigureStyle()))


@pytest.mark.parametrize("width", [3.3, 6.75])
def test_robustness_is_that_of_the_table(studies, width):
    tables = studies("corrupted")
    style = FigureStyle(width=width, dpi=72, font_size=7 if width < 5 else 8)
    figure = FIGURES["robustness"].draw(tables, style)
    assert_nothing_is_cut_off(figure)
    assert_headings_are_apart(figure)
    captions = next(ax for ax in figure.axes if "CIDEr" in ax.get_title())
    left = relative_robustness(tables.scores).query("benchmark == 'captions' and metric == 'CIDEr'")
    left["source"] = left["run"].map(tables.runs.set_index("run")["source"])
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows[0] == "mean of kinds" and len(rows) == 1 + len(KINDS)
    order = ["mean", *(row.replace(" ", "_") for row in rows[1:])]
    for source, line in zip(("visual", "caption", "text"), _dots(captions), strict=True):
        own = left[left["source"] == source].groupby("kind")["relative"].mean()
        assert line.get_xdata() == pytest.approx((100 * own[order]).tolist())


def _dots(ax):
    return [line for line in ax.lines if line.get_marker() in ("o", "s", "^")]


@pytest.mark.parametrize("name", ["sources", "tunings", "effects", "ethics_subsets"])
def test_a_dot_is_filled_only_where_holm_says_so(studies, name):
    tables = studies("default")
    for p, filled in ((0.2, False), (0.01, True)):
        # The unadjusted p and the interval say the opposite.
        effects = tables.effects.assign(p_holm=p, p=1 - p, low=0.1, high=0.2)
        figure = FIGURES[name].draw(dataclasses.replace(tables, effects=effects), FigureStyle())
        dots = [line for ax in figure.axes for line in ax.lines if line.get_marker() in "os^vD"]
        pairs = [dot for dot in dots if dot.get_color() != MEAN]
        assert pairs
        assert all((dot.get_markerfacecolor() != "white") == filled for dot in pairs)


def test_heat_map_shows_every_change_and_is_centred(studies):
    tables = studies("default")
    effects = tables.effects
    effects = effects.assign(p_holm=np.where(effects["difference"].abs() > 0.1, 0.01, 0.9))
    tables = dataclasses.replace(tables, effects=effects)
    figure = FIGURES["price"].draw(tables, FigureStyle())
    heat = [ax.collections[0] for ax in figure.axes[:2]]
    for mesh in heat:
        assert mesh.norm.vmin == -mesh.norm.vmax
    shown = np.sort(np.concatenate([np.asarray(mesh.get_array()).ravel() for mesh in heat]))
    effects = tables.effects[tables.effects["contrast"] == "tuned - base"]
    others = effects[
        (effects["suite"] == "text")
        & ~effects["metric"].str.startswith("acc_")
        & ~effects["benchmark"].isin(["ethics", "text_mean"])
        & ~effects["benchmark"].str.startswith("truthfulqa")
    ]
    np.testing.assert_allclose(shown, np.sort(100 * others["difference"].to_numpy()), atol=1e-9)
    texts = [text.get_text() for ax in figure.axes[:2] for text in ax.texts]
    stars = sum(text.endswith("*") for text in texts)
    assert 0 < stars == (others["p_holm"] < 0.05).sum()


@pytest.mark.parametrize(
    ("value", "text"), [(1.25, "+1.2"), (-3.04, "−3.0"), (0.04, "0.0"), (-0.04, "0.0")]
)
def test_signed(value, text):
    assert signed(value) == text


def test_smoothing_keeps_length_and_level():
    assert smoothed(np.array([2.0])) == [2.0]
    assert smoothed(np.full(100, 1.5)) == pytest.approx(np.full(100, 1.5))


def test_alignments_stand_beside_the_tunings_that_go_on_from_them(studies):
    figure = FIGURES["training_curves"].draw(studies("default"), FigureStyle())
    assert [len(ax.lines) for ax in figure.axes] == [1, 10, 1, 10]


def bare(tables: tidy.Tables, *names: str) -> tidy.Tables:
    return dataclasses.replace(tables, **{name: tidy.empty(name) for name in names})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("truthfulness_ethics", "No TruthfulQA or ETHICS scores in this study"),
        ("sources", "No two runs in this study differ in their source alone"),
        ("tunings", "No run in this study has its untuned base scored beside it"),
        ("price", "No run in this study has its untuned base scored beside it"),
        ("image_benchmarks", "No image benchmarks in this study"),
        ("training_curves", "No training curves in this study"),
        ("robustness", "No corrupted images in this study"),
        ("corruption_curves", "No corrupted images in this study"),
        ("kinds", "All runs of this study learned from the same kinds of instruction"),
        ("mmlu_groups", "No run in this study has its untuned base scored beside it"),
        ("ethics_subsets", "No run in this study has its untuned base scored beside it"),
        ("radar", "No tuned runs with image benchmarks in this study"),
        ("effects", "No two runs in this study are compared"),
        ("published", "No published values are given in this study"),
    ],
)
def test_an_empty_study_gives_a_notice(studies, name, said):
    tables = bare(studies("default"), "scores", "curves", "effects", "intervals", "published")
    assert FIGURES[name].needs(tables) == said
    figure = FIGURES[name].draw(tables, FigureStyle(width=3.3))
    assert [text.get_text().replace("\n", " ") for text in figure.texts] == [said]
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_a_study_of_references_alone_gives_notices(name):
    tables = make_tables(bases=(), sources=(), tunings=(), reference=True, scale=0.1, draws=20)
    assert FIGURES[name].needs(tables)
    FIGURES[name].draw(tables, FigureStyle())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables")
    write_tables(make_tables(scale=0.1, draws=20), path)
    return path


@pytest.mark.parametrize("name", FIGURES)
def test_drawing_twice_gives_the_same_bytes(folder, tmp_path, name):
    formats = ("svg", "png", "pdf")
    record = draw_figure(name, folder, tmp_path / "a" / "fig.v1", formats, {"dpi": 60})
    again = draw_figure(name, folder, tmp_path / "b" / "fig.v1", formats, {"dpi": 60})
    assert record == again
    assert record["files"] == ["fig.v1.svg", "fig.v1.png", "fig.v1.pdf"]
    for file in record["files"]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(record["files"])


def test_files_hold_text_as_text_and_no_date(folder, tmp_path):
    draw_figure("truthfulness_ethics", folder, tmp_path / "f", ("svg", "pdf"))
    svg = (tmp_path / "f.svg").read_text()
    assert re.search(r"<text[^>]*>TruthfulQA mc1</text>", svg)
    assert "<dc:date>" not in svg
    pdf = (tmp_path / "f.pdf").read_bytes()
    assert b"CreationDate" not in pdf and b"/Type3" not in pdf


def test_the_record_says_what_was_drawn_from_what(folder, tmp_path):
    (folder / "items.parquet").rename(folder / "elsewhere")
    try:
        record = draw_figure("sources", folder, tmp_path / "s", ("png",), {"dpi": 50})
    finally:
        (folder / "elsewhere").rename(folder / "items.parquet")
    assert record["figure"] == "sources" and record["notice"] == ""
    assert record["runs"] == 20 and record["items"] > 100
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in record["tables"].values())
    assert {"python", "matplotlib", "seaborn"} <= set(record["versions"])
    assert "95 % interval" in record["caption"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "pies"}, "no figure 'pies'"),
        ({"formats": ("gif",)}, "'gif'"),
        ({"formats": ()}, "nothing"),
        ({"style": {"colour": "red"}}, "unknown 'colour'"),
        ({"style": {"width": 0}}, "width is 0"),
        ({"style": {"dpi": "many"}}, "dpi is 'many'"),
        ({"style": {"palette": {"visual": "blau"}}}, "palette.visual is 'blau'"),
        ({"style": {"palette": "blue"}}, "palette must map"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(folder, tmp_path, arguments, said):
    asked = {"name": "price", "formats": ("svg",), "style": {}} | arguments
    with pytest.raises(UserError) as error:
        draw_figure(asked["name"], folder, tmp_path / "x", asked["formats"], asked["style"])
    assert said in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_study_may_choose_its_colours():
    style = FigureStyle.from_dict({"palette": {"visual": "#123456"}})
    assert style.colour("visual") == "#123456"
    assert style.colour("text") == PALETTE["text"]
    assert style.colour("something new") == style.colour("something new")


def test_dollar_signs_in_names_are_no_formulas(tmp_path):
    odd = r"10$ or \frac{ 5$ & x_1"
    tables = make_tables(bases=("m",), draws=50)
    runs = tables.runs.assign(label=odd)
    write_tables(dataclasses.replace(tables, runs=runs), tmp_path)
    draw_figure("truthfulness_ethics", tmp_path, tmp_path / "odd", ("svg",))
    assert r"\frac{ 5$" in (tmp_path / "odd.svg").read_text()
