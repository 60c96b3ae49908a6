"""MME, corruptions and awkward images in a study: from the file to the tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import make_world, run_spec
from transformers import LlamaForCausalLM

from sight_beyond_text import grid, plan, study
from sight_beyond_text.analysis.compare import compare
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation import image_answers
from sight_beyond_text.evaluation.image import evaluate_image, score
from sight_beyond_text.evaluation.image_data import check_image, load_questions
from sight_beyond_text.evaluation.image_features import make_features
from sight_beyond_text.evaluation.scorers import captions, mme, vqa
from sight_beyond_text.files import write_json, write_json_lines
from sight_beyond_text.models.building import build, load_tokenizer
from sight_beyond_text.models.checkpoints import hashes, save_projector
from sight_beyond_text.training.train import train

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


def test_the_photos_count_where_they_decide_what_is_asked(tmp_path):
    one, other, copied = (tmp_path / name for name in ("one", "other", "copied"))
    for folder, names in ((one, "ab"), (other, "bc"), (copied, "ab")):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.jpg").touch()
    some, others, same = (
        made({**POPE, "images": str(folder), "only_present": True})
        for folder in (one, other, copied)
    )
    assert evaluation_key(some) != evaluation_key(others)
    assert evaluation_key(some) == evaluation_key(same), "wherever they lie"
    assert grid.leaks_spec(some)["folder"] != grid.leaks_spec(others)["folder"]
    keys = {evaluation_key(made({**POPE, "images": str(folder)})) for folder in (one, other)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("type", "changes"),
    [("vqa", {"shots": 3}), ("captions", {"more_metrics": ["METEOR"]})],
)
def test_further_settings_are_told_only_where_they_are_set(type, changes):
    plain, changed = made({"type": type}), made({"type": type, **changes})
    assert not changes.keys() & grid.benchmarks(plain, "image")["one"].keys()
    assert evaluation_key(plain) != evaluation_key(changed)
    # Neither the photos nor what is learned change with them.
    assert grid.seen_spec(plain, "fp32") == grid.seen_spec(changed, "fp32")
    assert grid.leaks_spec(plain)["folder"] == grid.leaks_spec(changed)["folder"]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ({**POPE, "shots": 3}, "shots is for type vqa, found pope; remove it"),
        ({**POPE, "more_metrics": ["SPICE"]}, "more_metrics is for type captions, found pope"),
        ({"type": "captions", "more_metrics": ["meteor"]}, "found 'meteor', allowed: .*'METEOR'"),
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
    write_json(aligned / grid.COMPLETE, {"recipe": {}, "files": hashes(aligned)})
    subject = {**subject, "projector": str(aligned), "precision": "fp32"}
    (folder / "blank").mkdir()
    for number, subtask in enumerate(mme.SUBTASKS):
        inside = folder / "release" / subtask / ("images" if number % 2 else "")
        inside.mkdir(parents=True)
        Image.new("RGB", (40, 30), (20 * number, 90, 30)).save(inside / "0001.png")
        rows = "0001.png\tIs it?\tYes\n0001.png\tIs it not?\tNo\n"
        (folder / "blank" / f"{subtask}.txt").write_text(rows)
    return folder, subject


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """A tiny model of larger weights, whose answers hang on question and image."""
    folder = make_world(tmp_path_factory.mktemp("loud"))
    llm = LlamaForCausalLM.from_pretrained(folder / "base")
    with torch.no_grad():
        for tensor in llm.parameters():
            tensor *= 1 if tensor.ndim == 1 else 10
    llm.save_pretrained(folder / "base")
    (subject,) = [s for s in grid.subjects(made(POPE, models=folder)) if s["kind"] == "base"]
    torch.manual_seed(1)
    tokenizer = load_tokenizer(subject["base"])
    model = build(subject["base"], subject["tower"], tokenizer, torch.float32)
    aligned = folder / "aligned" / "checkpoint"
    aligned.mkdir(parents=True)
    save_projector(model.state_dict(), aligned)
    write_json(aligned / grid.COMPLETE, {"recipe": {}, "files": hashes(aligned)})
    return folder, {**subject, "projector": str(aligned), "precision": "fp32"}


def evaluated(world, tmp_path, image, **changes):
    folder, subject = world
    of = made(image)
    spec = {
        "subject": subject,
        "suite": "image",
        "protocol": "current",
        "batch_size": 8,
        "benchmarks": grid.benchmarks(of, "image"),
        **changes,
    }
    check_image(spec["benchmarks"])
    evaluate_image(spec, tmp_path)
    return [pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("scores", "items")]


def cached(world, tmp_path, image, limit_gib=1.0):
    """A cache of the tower's features, as the workflow makes it."""
    folder, _ = world
    of = made(image, models=folder)
    spec = {**grid.seen_spec(of, "fp32"), "folder": str(tmp_path / "seen"), "limit_gib": limit_gib}
    return make_features(spec), spec["folder"]


def about_the_world(folder, tmp_path, count=24, **more):
    rows = [
        {"question_id": n, "image": f"{n % 6}.png", "text": f"Is {n} there?", "label": "yes"}
        for n in range(count)
    ]
    write_json_lines(tmp_path / "q.jsonl", rows)
    image = {"type": "pope", "images": str(folder / "images"), "max_new_tokens": 12}
    return {**image, "questions": str(tmp_path / "q.jsonl"), **more}


def test_features_are_shared_by_all_that_is_evaluated(world, tmp_path, monkeypatch):
    folder, _ = world
    foggy = {"corruptions": {"kinds": ["fog"], "severities": [3]}}
    image = about_the_world(folder, tmp_path, **foggy)
    expected = evaluated(world, tmp_path / "alone", image)
    record, features = cached(world, tmp_path, image)
    paths = [str(folder / "images" / f"{n}.png") for n in range(6)]
    assert record["names"] == paths + [f"{path}#fog-3" for path in paths]
    room = 6.5 / 12 * (Path(features) / "features.npy").stat().st_size / 2**30
    smaller, kept = cached(world, tmp_path / "smaller", image, room)
    assert smaller["names"] == paths, "the foggy ones found no room"

    read = []
    tower_features = image_answers.tower_features
    monkeypatch.setattr(
        image_answers,
        "tower_features",
        lambda tower, values, layer: (
            read.append(len(values)) or tower_features(tower, values, layer)
        ),
    )
    for number, cache in enumerate((features, kept)):
        found = evaluated(world, tmp_path / str(number), image, features=cache)
        assert sum(read) == 6 * number, "those that aren't cached"
        for one, other in zip(found, expected, strict=True):
            pd.testing.assert_frame_equal(one, other)


def test_where_there_is_no_room_for_features(world, tmp_path):
    folder, _ = world
    image = about_the_world(folder, tmp_path)
    record, features = cached(world, tmp_path, image, limit_gib=0.0)
    assert record["names"] == []
    _, items = evaluated(world, tmp_path, image, features=features)
    assert len(items) == 24


def test_room_for_features_is_apart_from_that_of_the_training():
    of = made(POPE)
    none = of.model_copy(update={"data": of.data.model_copy(update={"feature_cache_gib": 0.0})})
    assert grid.seen_spec(none, "fp32")["limit_gib"] == 8
    less = of.evaluation.model_copy(update={"feature_cache_gib": 3.0})
    less = of.model_copy(update={"evaluation": less})
    assert grid.seen_spec(less, "fp32")["limit_gib"] == 3
    assert evaluation_key(less) == evaluation_key(of)


def test_what_features_hang_on():
    corrupted = {**POPE, "corruptions": {"kinds": ["fog"], "severities": [1]}}
    key = grid.seen_spec(made(POPE), "fp32")["folder"]
    foggy = grid.seen_spec(made(corrupted), "fp32")["folder"]
    assert foggy != key
    corrupted["corruptions"]["cache"] = "somewhere"
    assert grid.seen_spec(made(corrupted), "fp32")["folder"] == foggy
    assert grid.seen_spec(made(POPE), "bf16")["folder"] != key
    assert grid.seen_spec(made({**POPE, "questions": "r.json"}), "fp32")["folder"] != key
    of = made(POPE)
    folders = {spec["folder"] for spec in grid.features_specs(of)}
    for spec in grid.evaluation_specs(of):
        assert spec["features"] in folders


@pytest.mark.parametrize("protocol", ["current", "published"])
def test_batch_size_changes_nothing(loud, tmp_path, protocol):
    folder, _ = loud
    image = about_the_world(folder, tmp_path)
    tables = [
        evaluated(loud, tmp_path / str(rows), image, protocol=protocol, batch_size=rows)
        for rows in (1, 16)
    ]
    assert tables[0][1]["prediction"].nunique() > 4
    for one, other in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert set(tables[0][0]["protocol"]) == {protocol}


def test_the_published_protocol_draws_answers_in_its_own_template(loud, tmp_path):
    folder, subject = loud
    image = about_the_world(folder, tmp_path)
    greedy = evaluated(loud, tmp_path / "greedy", image)[1]["prediction"]
    drawn = evaluated(loud, tmp_path / "drawn", image, protocol="published")[1]["prediction"]
    other = (folder, {**subject, "template": "v0"})
    in_v0 = evaluated(other, tmp_path / "v0", image)[1]["prediction"]
    also = evaluated(other, tmp_path / "also", image, protocol="published")[1]["prediction"]
    assert not greedy.equals(drawn) and not in_v0.equals(drawn)
    assert drawn.equals(also), "whatever the base's own template"


def test_a_run_tuned_on_text_sees_through_the_projector_of_its_alignment(loud, tmp_path):
    folder, subject = loud
    text = {"source": {"form": "text", "kinds": "all"}, "projector": subject["projector"]}
    spec = run_spec(folder, "lora", **text, epochs=1, checkpoint=str(tmp_path / "checkpoint"))
    train(spec, tmp_path / "train.json")
    tuned, aligned = (
        load_file(Path(where) / "projector.safetensors")
        for where in (spec["checkpoint"], subject["projector"])
    )
    assert tuned.keys() == aligned.keys()
    assert all(tuned[name].equal(aligned[name]) for name in tuned)

    run = {**subject, "id": "text", "mode": "lora", "projector": spec["checkpoint"]}
    run["checkpoint"] = spec["checkpoint"]
    image = about_the_world(folder, tmp_path)
    scores, items = evaluated((folder, run), tmp_path / "tuned", image)
    assert set(scores["run"]) == {"text"} and len(items) == 24
    before = evaluated(loud, tmp_path / "untuned", image)[1]
    assert not items["prediction"].equals(before["prediction"]), "the LLM is the tuned one"


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
    row = items.iloc[0]
    assert (row["item"], row["cluster"], row["reference"]) == ("0", "000000000000.jpg", "cat")
    assert json.loads(row["details"]) == {
        "question": "?",
        "image": "000000000000.jpg",
        "parsed": vqa.normalise(row["prediction"]),
        "references": {"cat": 10},
    }


def test_shots_come_before_the_question_whatever_the_batch(loud, tmp_path):
    folder, _ = loud
    rows = [{"question_id": n, "image_id": n % 6, "question": f"Is {n} there?"} for n in range(8)]
    write_json(tmp_path / "q.json", {"questions": rows})
    answers = [
        {**row, "answer_type": "other", "answers": [{"answer": f"cat {row['image_id']}"}] * 10}
        for row in rows
    ]
    write_json(tmp_path / "a.json", {"annotations": answers})
    for n in range(6):
        photo = Image.open(folder / "images" / f"{n}.png")
        (tmp_path / "photos").mkdir(exist_ok=True)
        photo.convert("RGB").save(tmp_path / "photos" / f"{n:012d}.png")
    image = {
        "type": "vqa",
        "images": str(tmp_path / "photos"),
        "questions": str(tmp_path / "q.json"),
        "annotations": str(tmp_path / "a.json"),
    }
    plain = evaluated(loud, tmp_path / "plain", image, protocol="published")[1]
    image["shots"] = 2
    tables = [
        evaluated(loud, tmp_path / str(rows), image, protocol="published", batch_size=rows)[1]
        for rows in (1, 16)
    ]
    pd.testing.assert_frame_equal(*tables)
    assert not tables[0]["prediction"].equals(plain["prediction"])
    for text in tables[0]["details"]:
        details = json.loads(text)
        assert len(details["shots"]) == 2
        for asked, said in details["shots"]:
            assert said == f"cat {int(asked.split()[1]) % 6}"
    assert "shots" not in json.loads(plain["details"][0])


METEOR = """#!/bin/sh
while read -r word rest; do
  case "$word" in
    SCORE) echo 1.0 ;;
    EVAL) printf '0.5\\n0.25\\n0.375\\n' ;;
  esac
done
"""


@pytest.mark.parametrize(
    ("script", "value"), [(METEOR, 0.375), ("#!/bin/sh\necho no room >&2; exit 1\n", None)]
)
def test_meteor_in_a_study(world, tmp_path, monkeypatch, caplog, script, value):
    folder, _ = world
    program = tmp_path / "packages" / "pycocoevalcap" / "meteor" / "meteor-1.5.jar"
    java = tmp_path / "bin" / "java"
    for path, text in ((program, ""), (java, script)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    write_json(tmp_path / "c.json", {"0.png": ["One, two.", "Three."], "1.png": ["Four."]})
    image = {"type": "captions", "images": str(folder / "images")}
    image |= {"annotations": str(tmp_path / "c.json"), "more_metrics": ["METEOR"]}
    scores, _ = evaluated(world, tmp_path, image)
    values = scores.set_index("metric")["value"]
    assert "CIDEr" in values and values.get("METEOR") == value
    told = "one: METEOR: left out, its program failed (no room); does `java -Xmx2G -version` run"
    assert (told in caplog.text) == (value is None)


def test_outcomes_of_captions_tell_all_references(world, tmp_path):
    folder, _ = world
    write_json(tmp_path / "c.json", {"0.png": ["One, two.", "Three."], "1.png": ["Four."]})
    image = {"type": "captions", "images": str(folder / "images")}
    scores, items = evaluated(world, tmp_path, {**image, "annotations": str(tmp_path / "c.json")})
    assert {"CIDEr", "Bleu_4", "ROUGE_L"} <= set(scores["metric"])
    row = items.iloc[0]
    assert (row["item"], row["cluster"], row["reference"]) == ("0.png", "0.png", "One, two.")
    assert json.loads(row["details"]) == {
        "question": "Please provide a description of the picture.",
        "image": "0.png",
        "parsed": " ".join(captions.tokenise(row["prediction"])),
        "references": ["One, two.", "Three."],
    }


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
    names = ["cut.jpg", "good.jpg", "text.jpg"]
    photo.save(tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("this is no image")
    told = r"evaluation\.image\.one: 2 of 3 images can't be read; .*cut\.jpg: not a readable image"
    with pytest.raises(UserError, match=told):
        evaluated(world, tmp_path, asked_about(tmp_path, *names))
    foggy = {"corruptions": {"kinds": ["fog"], "severities": [3]}}
    with pytest.raises(UserError, match=told):
        evaluated(world, tmp_path, asked_about(tmp_path, *names) | foggy)
    with pytest.raises(UserError, match=told):
        cached(world, tmp_path, asked_about(tmp_path, *names))
    photo.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UserError, match=r"bomb\.png"):
        evaluated(world, tmp_path, asked_about(tmp_path, "bomb.png"))
