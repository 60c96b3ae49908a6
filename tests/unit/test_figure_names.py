"""Which figures a study has is told from its file alone, and for every figure there is."""

import subprocess
import sys

import pytest
import yaml

from sight_beyond_text import figure_names
from sight_beyond_text.figures.draw import FIGURES
from sight_beyond_text.study import Study, load, read


@pytest.fixture(scope="module")
def micro(repository) -> dict:
    values = yaml.safe_load((repository / "config.yaml").read_text())
    return {key: value for key, value in values.items() if key not in ("from_cache", "claims")}


def changed(study: dict, **changes) -> Study:
    return load({**study, **changes})


def test_every_figure_can_be_told(repository):
    assert set(figure_names.FIGURES) == set(FIGURES)
    study = read(repository / "config.yaml")
    both = {*figure_names.figures(study), *figure_names.left_out(study)}
    assert both == set(FIGURES)


def test_the_published_study_has_all_of_todays_figures(repository):
    study = read(repository / "workflow" / "studies" / "paper.yaml")
    assert {"price", "robustness", "image_benchmarks"} <= set(figure_names.figures(study))


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (["truthfulqa_mc1"], {"tunings", "price"}),
        (["boolq"], {"truthfulness_ethics", "sources", "tunings"}),
        ([], {"truthfulness_ethics", "sources", "tunings", "price"}),
    ],
)
def test_text_benchmarks_decide(micro, text, gone):
    evaluation = {**micro["evaluation"], "text": {name: {} for name in text}}
    kept = set(figure_names.figures(changed(micro, evaluation=evaluation)))
    assert not gone & kept and {"image_benchmarks", "training_curves"} <= kept


def test_one_source_has_nothing_to_contrast(micro):
    study = changed(micro, sources={"visual": {}})
    assert figure_names.left_out(study)["sources"] == "only one source"


def test_a_study_without_claims_has_no_figure_of_them(micro, repository):
    assert figure_names.left_out(changed(micro))["claims"] == "no claims"
    assert "claims" in figure_names.figures(read(repository / "config.yaml"))


def test_corrupted_images_decide(micro):
    assert "robustness" not in figure_names.figures(changed(micro))
    image = {**micro["evaluation"]["image"]}
    image["vqa"] = {**image["vqa"], "corruptions": {"kinds": ["fog"]}}
    study = changed(micro, evaluation={**micro["evaluation"], "image": image})
    assert "robustness" in figure_names.figures(study)


def test_one_line_says_what_is_left_out(micro):
    study = changed(micro, evaluation={**micro["evaluation"], "text": {}})
    told = figure_names.notice(study)
    assert "\n" not in told
    assert "price (no text benchmarks beside TruthfulQA)" in told
    assert told.count("no TruthfulQA or whole ETHICS") == 1


def test_the_job_graph_needs_no_pandas():
    code = "import sys, sight_beyond_text.figure_names; print('pandas' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
