"""The whole workflow on real photos, captions and questions."""

import json
from pathlib import Path

import pandas as pd
import pytest
from checkouts import copy

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

CORRUPTED = {f"pope-{kind}-{n}" for kind in ("gaussian_noise", "fog") for n in (1, 5)}


@pytest.fixture(scope="module")
def study(repository, shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    checkout = copy(repository, folder / "clone")
    (folder / "shared").symlink_to(shared_data.parent)
    sample = Path(__file__).parent / "real_sample.yaml"
    (checkout.folder / "real_sample.yaml").write_text(sample.read_text())
    checkout.snakemake("--cores", "2", "--configfile", "real_sample.yaml")
    return checkout


def test_runs_are_trained_on_real_photos(study):
    records = [json.loads(p.read_text()) for p in study.folder.glob("results/runs/*/train.json")]
    assert len(records) == 3 + 1 + 2  # lora on all sources, frozen on those with images
    for record in records:
        parts = {name.split(".")[1] for name in record["learned_tensors"]}
        if record["recipe"]["mode"] == "frozen":
            # So few steps of a projector alone show in no batch's loss.
            assert parts == {"multi_modal_projector"}
            continue
        with_images = record["recipe"]["source"]["form"] == "visual"
        # Without images the projector has nothing to learn from.
        assert parts == {"language_model"} | ({"multi_modal_projector"} if with_images else set())
        # Kinds of instruction differ in loss, so whole passes over the same samples are compared.
        first = [point["loss"] for point in record["curve"] if point["epoch"] <= 1]
        last = [point["loss"] for point in record["curve"] if point["epoch"] > 2]
        assert sum(last) / len(last) < sum(first) / len(first)


def test_real_instructions_speak_of_what_is_annotated(study, shared_data):
    made = next(study.folder.glob("resources/instructions/*/instructions.json"))
    rows = json.loads(made.read_text())
    assert {row["kind"] for row in rows} == {"conversation", "detail", "reasoning"}
    annotations = shared_data / "coco_mini" / "annotations" / "instances_train2017.json"
    content = json.loads(annotations.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    files = {image["file_name"]: image["id"] for image in content["images"]}
    present: dict[int, set] = {}
    for row in content["annotations"]:
        if not row["iscrowd"]:
            present.setdefault(row["image_id"], set()).add(names[row["category_id"]])
    checked = 0
    for row in rows:
        turns = row["conversations"]
        for asked, answered in zip(turns[::2], turns[1::2], strict=True):
            question = asked["value"].removeprefix("<image>\n")
            if not question.startswith("Is there a"):
                continue
            thing = question.removesuffix("?").removesuffix(" in the image").split(" ", 3)[3]
            is_there = thing in present[files[row["image"]]]
            assert answered["value"] == ("yes" if is_there else "no"), row["id"]
            checked += 1
    assert checked > 50


def test_real_questions_are_scored_for_all(study, shared_data):
    tables = study.folder / "figures" / "data" / "real_sample"
    scores, runs = pd.read_csv(tables / "scores.csv"), pd.read_csv(tables / "runs.csv")
    assert set(runs["kind"]) == {"run", "base", "reference"}
    assert set(scores["benchmark"]) == {
        "truthfulqa_mc1",
        "truthfulqa_mc2",
        "ethics_cm",
        "ethics_justice",
        "ethics_deontology",
        "ethics_virtue",
        "ethics_utilitarianism",
        "pope",
        "pope_random",
        "pope_popular",
        "captions",
        "vqa",
        *CORRUPTED,
    }
    overlaps = json.loads((shared_data / "coco_mini/overlaps_with_benchmarks.json").read_text())
    for benchmark, split in (
        ("pope", "adversarial"),
        ("pope_random", "random"),
        ("pope_popular", "popular"),
    ):
        own = scores[(scores["benchmark"] == benchmark) & (scores["metric"] == "accuracy")]
        assert len(own) and (own["n"] == len(overlaps["pope"][split])).all()
    asked = scores.query("benchmark == 'vqa' and metric == 'accuracy'")["n"]
    assert (asked == len(overlaps["vqav2_subset"]["test"])).all()
    items = pd.read_parquet(tables / "items.parquet")
    means = items.groupby(["run", "benchmark", "metric"])["score"].mean()
    for row in scores.query("metric in ['acc', 'accuracy']").itertuples():
        assert means[row.run, row.benchmark, row.metric] == pytest.approx(row.value, abs=1e-5)


def test_every_run_is_scored_on_corrupted_photos(study):
    tables = study.folder / "figures" / "data" / "real_sample"
    scores, runs = pd.read_csv(tables / "scores.csv"), pd.read_csv(tables / "runs.csv")
    corrupted = scores[scores["suite"] == "corrupted"]
    assert set(corrupted["benchmark"]) == CORRUPTED
    assert set(corrupted["run"]) == set(runs.query("kind != 'reference'")["run"])
    assert set(pd.read_csv(tables / "robustness.csv")["benchmark"]) == {"pope"}


def test_figures_are_drawn(study):
    names = ("truthfulness_ethics", "sources", "image_benchmarks", "training_curves", "robustness")
    for name in names:
        for kind in ("svg", "png", "pdf"):
            path = study.folder / "figures" / "real_sample" / f"{name}.{kind}"
            assert path.stat().st_size > 1000
