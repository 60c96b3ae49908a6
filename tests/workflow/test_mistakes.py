"""Mistakes in a study or its files: one line that says what, where and what to do; no traceback."""

import json

import pytest

pytestmark = pytest.mark.workflow


def refused(checkout, study: str) -> str:
    """What snakemake says of a study that it refuses before running anything."""
    done = checkout.snakemake("--cores", "1", "--configfile", study, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert "Job stats" not in done.stdout, "nothing may be planned"
    return done.stdout


def failed(checkout, study: str, *targets: str) -> str:
    """What snakemake says of a study whose first steps fail; no training may have begun."""
    done = checkout.snakemake(*targets, "--cores", "1", "--configfile", study, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert not list((checkout.folder / "results").glob("runs/*"))
    assert not list((checkout.folder / "results").glob("alignments/*"))
    return done.stdout


def error_lines(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith("error:")]


def test_a_misspelt_key(fresh):
    told = refused(fresh, fresh.study("bad", tunings__lora__learning_rat=1))
    assert "bad.yaml:" in told
    assert "tunings.lora.learning_rat: unknown key; did you mean 'learning_rate'?" in told


def test_all_mistakes_at_once(fresh):
    told = refused(fresh, fresh.study("bad", sedes=[1], sources__visual={"form": "visul"}))
    assert "did you mean 'seeds'?" in told
    assert "did you mean 'visual'?" in told


def test_an_unknown_base(fresh):
    told = refused(fresh, fresh.study("bad", bases__other={"model": "no/such/base"}))
    assert "bases.other.model: no/such/base: no such folder" in told


def test_an_absent_benchmark_file(fresh):
    told = refused(fresh, fresh.study("bad", evaluation__text__ethics_cm={"path": "nowhere"}))
    assert "evaluation.text.ethics_cm.path: nowhere: no such file or folder" in told


@pytest.fixture
def coco(fresh, finished):
    """The tiny world's scenes as plain local files, in a fresh checkout with nothing trained."""
    import shutil

    world = next((finished.folder / "resources" / "micro").iterdir())
    for part in ("images", "annotations", "benchmarks"):
        shutil.copytree(world / part, fresh.folder / "local" / part)
    return fresh


def local_study(checkout, **changes) -> str:
    given = {
        "data__images": "local/images/train",
        "data__captions": "local/annotations/captions_train.json",
        "data__instances": "local/annotations/instances_train.json",
        "evaluation__image__vqa__images": "local/images/val",
        **changes,
    }
    return checkout.study("local", **given)


def test_a_missing_training_image(coco):
    image = sorted((coco.folder / "local" / "images" / "train").iterdir())[3]
    image.unlink()
    lines = error_lines(failed(coco, local_study(coco), "train_all"))
    assert len(lines) == 1
    assert "local/images/train" in lines[0] and image.name in lines[0]


def test_a_truncated_json(coco):
    path = coco.folder / "local" / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:-200])
    lines = error_lines(failed(coco, local_study(coco), "train_all"))
    assert len(lines) == 1
    assert "instances_train.json:1:" in lines[0] and "broken JSON" in lines[0]


def test_a_missing_evaluation_image(coco):
    image = sorted((coco.folder / "local" / "images" / "val").iterdir())[0]
    image.unlink()
    lines = error_lines(failed(coco, local_study(coco), "train_all"))
    assert len(lines) == 1
    assert "evaluation.image.vqa" in lines[0] and image.stem in lines[0]


def test_a_row_without_captions_layout(coco):
    path = coco.folder / "local" / "annotations" / "captions_train.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["caption"]
    path.write_text(json.dumps(content))
    lines = error_lines(failed(coco, local_study(coco), "train_all"))
    assert len(lines) == 1 and "captions_train.json" in lines[0]


def test_a_study_that_refuses_leaks_is_checked_once_its_instructions_are_made(fresh):
    study = fresh.study("refusing", data__leakage="refuse")
    target = "results/studies/tiny/inputs.ok"
    assert fresh.planned(target, "--configfile", study).keys() == {
        "micro_world", "make_instructions", "check_inputs",
    }  # fmt: skip
    fresh.snakemake(target, "--cores", "2", "--configfile", study)
