"""The image scorers against what the official evaluators gave for real data."""

import gzip
import json
from pathlib import Path
from shutil import which

import pytest
from typer.testing import CliRunner

from sight_beyond_text.cli import app
from sight_beyond_text.evaluation.references import read_mme_questions
from sight_beyond_text.evaluation.scorers import captions, mme, pope, vqa

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


def scored(*arguments):
    result = CliRunner().invoke(app, ["score", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("kind", VQA_PREDICTIONS)
def test_vqa_at_the_command_line(tmp_path, kind):
    path = folder("vqav2")
    references = path / "vqa_annotatons_test.json.gz"
    with gzip.open(references, "rt", encoding="utf-8") as file:
        annotations = json.load(file)["annotations"]
    rows = [
        {"question_id": row["question_id"], "answer": VQA_PREDICTIONS[kind](row)}
        for row in annotations
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows), encoding="utf-8")
    official = json.loads((path / "official_evaluator_scores.json").read_text(encoding="utf-8"))
    made = scored(
        "vqa",
        "--predictions",
        tmp_path / "results.json",
        "--references",
        references,
        "--questions",
        path / "vqa_questions_test.json.gz",
    )
    expected = official["scores"][f"test|{kind}"]
    assert {key: made[key] for key in expected} == expected
    assert made["n"] == 2962
    if kind == "constant yes":
        # As published, a unanimous "yes" is lost.
        assert made["published"]["perAnswerType"]["yes/no"] < 40


@pytest.mark.parametrize("answer", ["Yes", "No###"])
def test_pope_at_the_command_line(tmp_path, answer):
    path = folder("pope") / "coco"
    for split in ("random", "popular", "adversarial"):
        lines = (path / f"coco_pope_{split}.json").read_text(encoding="utf-8").splitlines()
        rows = [{"question_id": json.loads(line)["question_id"], "text": answer} for line in lines]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    made = scored("pope", "--predictions", tmp_path, "--references", path)
    assert made.keys() == {"random", "popular", "adversarial"}
    for values in made.values():
        assert values["accuracy"] == values["published"]["accuracy"] == 0.5
        assert values["f1"] == pytest.approx(2 / 3 if answer == "Yes" else 0)
        # With its stop string, "No###" was read as yes.
        assert values["published"]["f1"] == pytest.approx(2 / 3)


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["predictions_coco_train_1", "predictions_flicker30K_1"])
def test_captions_at_the_command_line(predictor):
    path = folder("captions") / "flickr30k_karpathy_test"
    reported = json.loads((path / "reported_scores.json").read_text(encoding="utf-8"))[predictor]
    made = scored(
        "caption",
        "--predictions",
        path / f"{predictor}.json",
        "--references",
        path / "references.json",
    )
    found = {key: round(made[key], 3) for key in made if key in reported}
    assert found == {key: reported[key] for key in found}
    expected = {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"}
    if which("java"):
        expected |= {"METEOR"}
    assert expected <= found.keys()


def test_mme_has_its_14_subtasks_of_two_questions_an_image():
    path = folder("mme") / "questions"
    questions = read_mme_questions(path)
    assert len(questions) == 2374
    assert {row["subtask"] for row in questions} == set(mme.SUBTASKS)
    right, _ = mme.score({row["question_id"]: row["label"] for row in questions}, questions)
    assert (right["perception"], right["cognition"]) == (2000, 800)
    assert right["perception_published"] == 1600
    yes, _ = mme.score({row["question_id"]: "Yes" for row in questions}, questions)
    assert {yes[f"score_{name}"] for name in mme.SUBTASKS} == {50}


def test_mme_at_the_command_line(tmp_path):
    path = folder("mme") / "questions"
    for subtask in mme.SUBTASKS:
        lines = (path / f"{subtask}.txt").read_text(encoding="utf-8").splitlines()
        # Right, right, wrong, no answer, and so on: half of the images are right as a whole.
        said = []
        for number, line in enumerate(lines):
            right = line.rsplit("\t", 1)[1]
            said.append(
                f"{line}\t{(right, right + '.', 'Yes' if right == 'No' else 'No', '')[number % 4]}"
            )
        (tmp_path / f"{subtask}.txt").write_text("\n".join(said) + "\n", encoding="utf-8")
    made = scored("mme", "--predictions", tmp_path, "--references", path)
    for subtask in ("existence", "scene", "OCR"):
        assert (made["acc"][subtask], made["acc_plus"][subtask]) == (0.5, 0.5)
        assert made[subtask] == 100
    assert made["n"] == 2374 and made["unknown_predictions"] == 0
