"""A reference can name where weights were published; its ids don't wait for them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import make_world

from sight_beyond_text import grid, runs, study
from sight_beyond_text.errors import UserError
from sight_beyond_text.models.released import import_released

REPO = "PahaII/MM-LLaMA-2-7B-lora"
VALUES = {
    "name": "x",
    "data": {"images": "i", "captions": "c", "instructions": "r", "alignment": "p"},
    "tower": {"model": "a/tower", "revision": "1"},
    "bases": {"one": {"model": "a/base", "revision": "2", "template": "v0"}},
    "sources": {"visual": {}},
    "alignment": {"learning_rate": 1, "batch_size": 2},
    "tunings": {"full": {"learning_rate": 1, "batch_size": 2}},
    "references": {
        "mm": {
            "model": "a/base",
            "revision": "2",
            "template": "v0",
            "released": {"repo": REPO, "revision": "3"},
        }
    },
    "evaluation": {
        "text": {"boolq": {"path": "b"}},
        "image": {"captions": {"type": "captions", "images": "i", "annotations": "c"}},
    },
}


def loaded(**changes) -> study.Study:
    values = json.loads(json.dumps(VALUES))
    values["references"]["mm"] |= changes
    return study.load(values)


def evaluations(read: study.Study) -> list[grid.Spec]:
    specs = grid.evaluation_specs(read)
    return [spec for spec in specs if spec["subject"]["id"].startswith("mm-reference-")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_released_weights_are_planned_with_nothing_there() -> None:
    read = loaded()
    (spec,) = grid.import_specs(read)
    assert spec["folder"].startswith("resources/imported/MM-LLaMA-2-7B-lora-")
    assert spec["record"] == f"{spec['folder']}.json"
    fetched = {one["name"]: one for one in grid.resource_specs(read)}
    (item,) = fetched[REPO]["items"]
    assert (item["revision"], item["files"]) == ("3", study.RELEASED_FILES)
    assert len(fetched["a/base"]["items"]) == 1  # the reference's base is the study's
    text, image = evaluations(read)
    assert (text["suite"], image["suite"]) == ("text", "image")
    for made in (text, image):
        assert made["subject"]["checkpoint"] == made["subject"]["projector"] == spec["folder"]
        assert made["subject"]["tower"]["model"] == "a/tower"
    assert not any(line.startswith("references.") for line in grid.missing_inputs(read))


def test_what_a_reference_is_made_of_is_in_its_id_and_nothing_else() -> None:
    first = [spec["folder"] for spec in evaluations(loaded())]
    for changes in (
        {"released": {"repo": REPO, "revision": "4"}},
        {"released": {"repo": REPO.replace("lora", "ft"), "revision": "3"}},
        {"revision": "5"},
        {"template": "v1"},
    ):
        made = evaluations(loaded(**changes))
        assert not {spec["folder"] for spec in made} & set(first), changes
    again = loaded(released={"repo": REPO, "revision": "3", "gib": 3}, label="MM")
    assert [spec["folder"] for spec in evaluations(again)] == first


def test_references_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="checkpoint and released: give one of them"):
        loaded(checkpoint="x")
    with pytest.raises(UserError, match="needs repo, or local"):
        loaded(released={"revision": "3"})
    lines = grid.missing_inputs(loaded(released={"local": "gone"}))
    assert "references.mm.released.local: gone: no such folder" in lines


def test_a_reference_that_is_not_imported_yet_is_told(here: Path) -> None:
    path = here / "study.yaml"
    path.write_text(json.dumps(VALUES))
    with pytest.raises(UserError, match="mm: its released weights aren't imported yet; `snake"):
        runs.find("mm", path)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    world = make_world(tmp_path_factory.mktemp("world"))
    (world / "released").mkdir()
    names = {"model.mm_projector.weight": (64, 32), "model.mm_projector.bias": (64,)}
    tensors = {name: torch.ones(shape) for name, shape in names.items()}
    torch.save(tensors, world / "released" / "mm_projector.bin")
    return world


def spec_of(world: Path, **tower) -> grid.Spec:
    values = json.loads(json.dumps(VALUES))
    values["tower"] = {"model": str(world / "tower"), **tower}
    base = {"model": str(world / "base"), "template": "v0"}
    values["bases"] = {"one": base}
    values["references"] = {"mm": {**base, "released": {"local": str(world / "released")}}}
    (spec,) = grid.import_specs(study.load(values))
    return spec


def test_a_folder_of_ones_own_is_imported_once_and_again_where_it_is_damaged(world: Path) -> None:
    spec = spec_of(world)
    done = subprocess.run(
        [sys.executable, "-m", "sight_beyond_text.cli", "import", "--spec", str(spec)]
        + ["--record", spec["record"]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(Path(spec["record"]).read_text())
    assert record["folder"] == spec["folder"] and record["recipe"]["mode"] == "frozen"
    projector = Path(spec["folder"]) / "projector.safetensors"
    before = projector.stat().st_mtime_ns
    # Snakemake deletes declared outputs; that costs no second import.
    Path(spec["record"]).unlink()
    import_released(spec, spec["record"])
    assert projector.stat().st_mtime_ns == before and Path(spec["record"]).is_file()
    content = projector.read_bytes()
    projector.write_bytes(content[:-1] + b"!")
    import_released(spec, spec["record"])
    assert projector.read_bytes() == content


def test_weights_for_another_tower_than_the_studys_have_no_record(world: Path) -> None:
    spec = spec_of(world, layer=-1, projector="mlp2x_gelu")
    with pytest.raises(UserError) as error:
        import_released(spec, spec["record"])
    told = str(error.value)
    assert "its projector was made for tower.layer -2, found -1" in told
    assert "tower.projector linear, found mlp2x_gelu" in told and "\n" not in told
    assert not Path(spec["record"]).exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "SOURCE: needed to import a checkpoint"),
        (["a"], "--out: needed to import a checkpoint"),
        (["a", "--out", "b"], "--base: needed to import a checkpoint"),
        (["--spec", "{}"], "--record: needed with --spec"),
    ],
)
def test_an_import_of_nothing_is_told(arguments: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sight_beyond_text.cli", "import", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {told}")
