"""The figures: they draw whatever a study holds, legibly, honestly and the same each time."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.robustness import relative_robustness
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.corruptions import KINDS
from sight_beyond_text.figures.draw import FIGURES, draw_figure
from sight_beyond_text.figures.price import signed
from sight_beyond_text.figures.style import PALETTE, FigureStyle
from sight_beyond_text.figures.training_curves import smoothed

from .synthetic_tables import make_tables, write_tables

SIX = ("LLaMA-7B", "Vicuna-7B v1.3", "OpenLLaMA-3B", "Alpaca-3B", "LLaMA2-7B", "LLaMA2-chat-7B")
STUDIES = {
    "default": {},
    "reference": {"reference": True},
    "six bases": {"bases": SIX},
    "three seeds": {"seeds": (0, 1, 2)},
    "one run": {"bases": ("m",), "sources": ("visual",), "tunings": ("lora",)},
    "corrupted": {"corrupted": KINDS},
    "two sources": {"sources": ("visual", "text"), "tunings": ("full",)},
}


@pytest.fixture(scope="module")
def studies():
    made = {}

    def study(name: str) -> tidy.Tables:
        if name not in made:
            made[name] = make_tables(scale=0.1, draws=20, **STUDIES[name])
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


def test_a_dot_is_filled_only_where_the_interval_excludes_zero(studies):
    tables = studies("default")
    effects = tables.effects.copy()
    effects["low"], effects["high"] = effects["difference"] - 1, effects["difference"] + 1
    figure = FIGURES["sources"].draw(dataclasses.replace(tables, effects=effects), FigureStyle())
    dots = [line for ax in figure.axes for line in ax.lines if len(line.get_xdata()) == 1]
    assert dots and all(dot.get_markerfacecolor() == "white" for dot in dots)


def test_heat_map_shows_every_change_and_is_centred(studies):
    tables = studies("default")
    figure = FIGURES["price"].draw(tables, FigureStyle())
    heat = [ax.collections[0] for ax in figure.axes[:2]]
    for mesh in heat:
        assert mesh.norm.vmin == -mesh.norm.vmax
    shown = np.sort(np.concatenate([np.asarray(mesh.get_array()).ravel() for mesh in heat]))
    effects = tables.effects[tables.effects["contrast"] == "tuned - base"]
    others = effects[
        (effects["suite"] == "text")
        & (effects["benchmark"] != "ethics")
        & ~effects["benchmark"].str.startswith("truthfulqa")
    ]
    np.testing.assert_allclose(shown, np.sort(100 * others["difference"].to_numpy()), atol=1e-9)
    texts = [text.get_text() for ax in figure.axes[:2] for text in ax.texts]
    stars = sum(text.endswith("*") for text in texts)
    assert stars == ((others["low"] > 0) | (others["high"] < 0)).sum()


@pytest.mark.parametrize(
    ("value", "text"), [(1.25, "+1.2"), (-3.04, "−3.0"), (0.04, "0.0"), (-0.04, "0.0")]
)
def test_signed(value, text):
    assert signed(value) == text


def test_smoothing_keeps_length_and_level():
    assert smoothed(np.array([2.0])) == [2.0]
    assert smoothed(np.full(100, 1.5)) == pytest.approx(np.full(100, 1.5))


def test_a_curve_that_runs_share_is_drawn_once(studies):
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
    ],
)
def test_an_empty_study_gives_a_notice(studies, name, said):
    tables = bare(studies("default"), "scores", "curves", "effects", "intervals")
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
