"""MME, corruptions and awkward images in a study: from the file to the tables."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_runs import make_world

from sight_beyond_text import grid, plan, study
from sight_beyond_text.analysis.compare import compare
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.image import evaluate_image, score
from sight_beyond_text.evaluation.image_data import check_image, load_questions
from sight_beyond_text.evaluation.scorers import mme
from sight_beyond_text.files import write_json
from sight_beyond_text.models.building import build, load_tokenizer
from sight_beyond_text.models.checkpoints import save_projector

TRAINING = {"learning_rate": 1e-2, "batch_size": 4}


def made(image, models="owner", **others):
    """A study with one image benchmark, and others."""
    return study.load(
        {
            "name": "small",
            "data": {"images": "i", "instructions": "a.json", "alignment": "b.json"},
            "tower": {"model": f"{models}/tower"},
            "bases": {"base": {"model": f"{models}/base"}},
            "sources": {"visual": {}},
            "alignment": TRAINING,
            "tunings": {"frozen": TRAINING},
            "evaluation": {"image": {"one": {"images": "i", **image}, **others}},
        }
    )


POPE = {"type": "pope", "questions": "q.json"}


def test_corruptions_expand_to_benchmarks():
    of = made({**POPE, "corruptions": {"kinds": ["fog", "snow"], "severities": [1, 5]}})
    chosen = grid.benchmarks(of, "image")
    assert list(chosen) == ["one", "one-fog-1", "one-fog-5", "one-snow-1", "one-snow-5"]
    assert "corruption" not in chosen["one"]
    assert chosen["one-fog-5"].pop("corruption") == {"kind": "fog", "severity": 5, "cache": None}
    assert chosen["one-fog-5"] == chosen["one"]
    assert plan.plan(of)["benchmarks"]["image"] == list(chosen)
    assert len(grid.benchmarks(made({**POPE, "corruptions": {}}), "image")) == 1 + 19 * 3


def evaluation_key(of):
    (subject,) = [one for one in grid.subjects(of) if one["kind"] == "run"]
    return grid.evaluation_spec(of, subject, "image")["folder"]


def test_what_changes_an_evaluation():
    corruptions = {"kinds": ["fog"], "severities": [1]}
    plain, corrupted = made(POPE), made({**POPE, "corruptions": corruptions})
    kept = made({**POPE, "corruptions": {**corruptions, "cache": "somewhere"}})
    worse = made({**POPE, "corruptions": {**corruptions, "severities": [2]}})
    keys = [evaluation_key(of) for of in (plain, corrupted, worse)]
    assert len(set(keys)) == 3
    assert evaluation_key(kept) == keys[1]
    questions = {"type": "mme", "questions": "q"}
    all_of, some = made(questions), made({**questions, "without": ["landmark"]})
    assert evaluation_key(all_of) != evaluation_key(some)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ({**POPE, "split": "test"}, "split is for type captions, found pope; remove it"),
        ({**POPE, "subset": "published"}, "subset is for type vqa, found pope"),
        ({"type": "vqa", "without": ["OCR"]}, "without is for type mme, found vqa"),
        ({"type": "mme", "without": ["ocr"]}, "found 'ocr', allowed: .*'OCR'"),
        ({**POPE, "corruptions": {"kinds": ["fogg"]}}, "found 'fogg', .*did you mean 'fog'"),
        ({**POPE, "corruptions": {"severities": [6]}}, "found 6; "),
        ({**POPE, "corruptions": {"severities": []}}, "severities: found"),
    ],
)
def test_mistakes_are_told(image, told):
    with pytest.raises(UserError, match=told):
        made(image)


def test_a_benchmark_may_not_have_a_twins_name():
    twin = {"one-fog-1": {"images": "i", **POPE}}
    with pytest.raises(UserError, match="image.one-fog-1: image.one.corruptions makes one of that"):
        made({**POPE, "corruptions": {"kinds": ["fog"]}}, **twin)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model; MME in its release's layout; POPE questions about awkward files."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    of = made(POPE, models=folder)
    (subject,) = [one for one in grid.subjects(of) if one["kind"] == "base"]
    torch.manual_seed(1)
    tokenizer = load_tokenizer(subject["base"])
    model = build(subject["base"], subject["tower"], tokenizer, torch.float32)
    aligned = folder / "aligned" / "checkpoint"
    aligned.mkdir(parents=True)
    save_projector(model.state_dict(), aligned)
    write_json(aligned / grid.COMPLETE, {"recipe": {}, "files": {}})
    subject = {**subject, "projector": str(aligned), "precision": "fp32"}
    (folder / "blank").mkdir()
    for number, subtask in enumerate(mme.SUBTASKS):
        inside = folder / "release" / subtask / ("images" if number % 2 else "")
        inside.mkdir(parents=True)
        Image.new("RGB", (40, 30), (20 * number, 90, 30)).save(inside / "0001.png")
        rows = "0001.png\tIs it?\tYes\n0001.png\tIs it not?\tNo\n"
        (folder / "blank" / f"{subtask}.txt").write_text(rows)
    return folder, subject


def evaluated(world, tmp_path, image):
    folder, subject = world
    of = made(image)
    spec = {
        "subject": subject,
        "suite": "image",
        "protocol": "current",
        "batch_size": 8,
        "benchmarks": grid.benchmarks(of, "image"),
    }
    check_image(spec["benchmarks"])
    evaluate_image(spec, tmp_path)
    return [pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("scores", "items")]


def test_mme_in_a_study(world, tmp_path):
    folder, _ = world
    image = {"type": "mme", "images": str(folder / "release"), "questions": str(folder / "blank")}
    scores, items = evaluated(world, tmp_path, image)
    values = scores.set_index("metric")["value"]
    assert len(items) == 28 and items["item"].is_unique
    assert values["accuracy"] == items["score"].mean()
    parts = [values[f"score_{name}"] for name in mme.SUBTASKS]
    assert all(0 <= part <= 200 for part in parts)
    assert values["perception"] + values["cognition"] == pytest.approx(sum(parts))
    left_out = values["score_landmark"] + values["score_artwork"]
    assert values["perception_published"] == pytest.approx(values["perception"] - left_out)
    assert set(scores["suite"]) == {"image"}
    details = json.loads(items.set_index("item").loc["OCR/0001.png/2", "details"])
    assert details == {
        "question": "Is it not?",
        "image": "OCR/images/0001.png",
        "parsed": mme.parse(items.set_index("item").loc["OCR/0001.png/2", "prediction"]),
    }


def test_answers_of_mme_are_scored_by_image(world):
    folder, _ = world
    image = {"type": "mme", "images": str(folder / "release"), "questions": str(folder / "blank")}
    chosen = grid.benchmarks(made(image), "image")["one"]
    questions = load_questions("one", chosen)
    right = ["Yes." if row["item"].endswith("1") else "No" for row in questions]
    values, _ = score("mme", questions, right)
    assert values["perception"] == 2000 and values["perception_published"] == 1600
    assert values["cognition"] == 800 and values["accuracy_plus"] == 1
    values, _ = score("mme", questions, ["Yes"] * len(questions))
    assert values["perception"] == 500 and values["accuracy_plus"] == 0


def test_corrupted_twins_in_a_study(world, tmp_path):
    folder, _ = world
    rows = [
        {"question_id": n, "image": f"{n}.png", "text": "Is it?", "label": "yes"} for n in range(6)
    ]
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    image = {
        "type": "pope",
        "images": str(folder / "images"),
        "questions": str(questions),
        "corruptions": {
            "kinds": ["gaussian_noise", "frost"],
            "severities": [1, 5],
            "cache": str(tmp_path / "cache"),
        },
    }
    scores, items = evaluated(world, tmp_path, image)
    assert scores.groupby("suite")["benchmark"].nunique().to_dict() == {"corrupted": 4, "image": 1}
    twins = {
        f"one-{kind}-{severity}" for kind in ("gaussian_noise", "frost") for severity in (1, 5)
    }
    assert set(items["benchmark"]) == {"one", *twins}
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 6 * 4
    subject = {"id": scores["run"][0], "kind": "base", "label": "", "base_name": "base"}
    subject |= dict.fromkeys(["source", "tuning", "seed", "record", "alignment_record"])
    subject |= {"instruction_kinds": "all", "evaluations": [str(tmp_path)]}
    spec = {"study": "small", "subjects": [subject]}
    compare(spec, tmp_path / "tables", tmp_path / "record.json")
    table = pd.read_csv(tmp_path / "tables" / "robustness.csv")
    assert len(table) == 5 * 3  # five metrics; two kinds and their mean
    assert set(table["severities"]) == {"1,5"}


def test_published_vqa_beside_the_official_one(world, tmp_path):
    folder, _ = world
    ids = range(3)
    questions = {"questions": [{"question_id": n, "image_id": n, "question": "?"} for n in ids]}
    answers = [{"answer": "cat"}] * 10
    rows = [
        {"question_id": n, "image_id": n, "answer_type": "other", "answers": answers} for n in ids
    ]
    write_json(tmp_path / "q.json", questions)
    write_json(tmp_path / "a.json", {"annotations": rows})
    images = tmp_path / "images"
    images.mkdir()
    for n in ids:
        Image.new("RGB", (30, 30)).save(images / f"{n:012d}.jpg")
    image = {
        "type": "vqa",
        "images": str(images),
        "questions": str(tmp_path / "q.json"),
        "annotations": str(tmp_path / "a.json"),
    }
    scores, items = evaluated(world, tmp_path, image)
    assert set(scores["metric"]) == {"accuracy", "accuracy_other", "accuracy_published"}
    assert set(items["metric"]) == {"accuracy"}


def asked_about(folder, *names):
    rows = [
        {"question_id": n, "image": name, "text": "Is it?", "label": "no"}
        for n, name in enumerate(names)
    ]
    path = folder / "awkward.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"type": "pope", "images": str(folder), "questions": str(path)}


def test_awkward_images_are_read(world, tmp_path):
    photo = Image.effect_noise((50, 40), 60)
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.asarray(photo, np.uint16) * 257).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    photo.convert("P").save(tmp_path / "palette.png")
    names = ["cmyk.jpg", "deep.png", "turned.jpg", "palette.png"]
    for more in ({}, {"corruptions": {"kinds": ["fog"], "severities": [3]}}):
        scores, items = evaluated(world, tmp_path, asked_about(tmp_path, *names) | more)
        assert len(items) == 4 * scores["benchmark"].nunique()


def test_a_truncated_image_and_a_bomb_are_refused_by_name(world, tmp_path, monkeypatch):
    photo = Image.effect_noise((50, 40), 60)
    photo.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:600])
    with pytest.raises(UserError, match=r"cut\.jpg"):
        evaluated(world, tmp_path, asked_about(tmp_path, "cut.jpg"))
    photo.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UserError, match=r"bomb\.png"):
        evaluated(world, tmp_path, asked_about(tmp_path, "bomb.png"))
