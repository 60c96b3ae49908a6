"""The image scorers against what the official evaluators gave for real data."""

import gzip
import json
from pathlib import Path

import pytest

from sight_beyond_text.evaluation.scorers import captions, pope, vqa

pytestmark = pytest.mark.parity

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def folder(name: str) -> Path:
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"no ../shared/data/{name} beside the checkout")
    return path


VQA_PREDICTIONS = {
    "multiple_choice_answer": lambda row: row["multiple_choice_answer"],
    "first_annotator(answers[0])": lambda row: row["answers"][0]["answer"],
    "constant yes": lambda row: "yes",
    'answers[4] upper-cased + "."': lambda row: row["answers"][4]["answer"].upper() + ".",
    '"The "+answers[2]': lambda row: "The " + row["answers"][2]["answer"],
}


@pytest.mark.parametrize("kind", VQA_PREDICTIONS)
def test_vqa_is_the_official_score(kind):
    path = folder("vqav2")
    with gzip.open(path / "vqa_annotatons_test.json.gz", "rt", encoding="utf-8") as file:
        annotations = json.load(file)["annotations"]
    official = json.loads((path / "official_evaluator_scores.json").read_text(encoding="utf-8"))
    expected = official["scores"][f"test|{kind}"]

    predict = VQA_PREDICTIONS[kind]
    metrics, items = vqa.score(
        {row["question_id"]: predict(row) for row in annotations}, annotations
    )

    assert {name: round(100 * value, 2) for name, value in metrics.items()} == {
        "accuracy": expected["overall"]
    } | {f"accuracy_{name}": value for name, value in expected["perAnswerType"].items()}
    assert len(items) == len(annotations)


def test_vqa_kinds_are_all_there():
    official = json.loads((folder("vqav2") / "official_evaluator_scores.json").read_text("utf-8"))
    assert set(official["scores"]) == {f"test|{kind}" for kind in VQA_PREDICTIONS}


@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", {"accuracy": 0.5, "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "yes_ratio": 1.0}),
        ("No###", {"accuracy": 0.5, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}),
    ],
)
def test_pope_of_one_answer(split, answer, expected):
    lines = (folder("pope") / "coco" / f"coco_pope_{split}.json").read_text(encoding="utf-8")
    questions = [json.loads(line) for line in lines.splitlines()]
    metrics, items = pope.score({row["question_id"]: answer for row in questions}, questions)
    assert metrics == pytest.approx(expected)
    assert len(items) == 3000
    assert items["image_id"].nunique() == 500


@pytest.mark.parametrize("predictor", ["predictions_coco_train_1", "predictions_flicker30K_1"])
def test_captions_have_the_reported_scores(predictor):
    path = folder("captions") / "flickr30k_karpathy_test"
    references = json.loads((path / "references.json").read_text(encoding="utf-8"))
    rows = json.loads((path / f"{predictor}.json").read_text(encoding="utf-8"))
    reported = json.loads((path / "reported_scores.json").read_text(encoding="utf-8"))[predictor]
    predictions = {row["image_id"]: row["caption"] for row in rows}

    metrics, items = captions.score(predictions, references)

    assert {name: round(value, 3) for name, value in metrics.items()} == {
        name: reported[name] for name in metrics
    }
    assert items["score"].mean() == pytest.approx(metrics["CIDEr"])

    said = {image: len(captions.tokenise(predictions[image])) for image in references}
    closest = {
        image: min(
            (len(captions.tokenise(caption)) for caption in references[image]),
            key=lambda length, image=image: (abs(length - said[image]), length),
        )
        for image in references
    }
    assert sum(said.values()) == reported["testlen"]
    assert sum(closest.values()) == reported["reflen"]
