"""Published weights are scored by the workflow, and nothing is trained for that."""

import json

import pytest
import torch
import yaml
from file_server import Hub, serving
from tiny_runs import make_world
from transformers import LlamaForCausalLM

from sight_beyond_text import grid
from sight_beyond_text.analysis import tidy
from sight_beyond_text.models.published import import_checkpoint
from sight_beyond_text.study import read

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

TRAINING = {"learning_rate": 1e-2, "batch_size": 4, "precision": "fp32"}
PROJECTOR = {
    "model.mm_projector.weight": torch.randn(64, 32),
    "model.mm_projector.bias": torch.randn(64),
}


def study_of(world, **references) -> dict:
    data = {name: str(world / f"{name}.json") for name in ("instructions", "captions")}
    base = {"model": str(world / "base")}
    captions = {
        "type": "captions",
        "images": str(world / "images"),
        "annotations": data["captions"],
        "limit": 2,
    }
    return {
        "name": "published",
        "data": {**data, "alignment": data["instructions"], "images": str(world / "images")},
        "tower": {"model": str(world / "tower")},
        "bases": {"tiny": base},
        "sources": {"visual": {}},
        "alignment": TRAINING,
        "tunings": {"frozen": TRAINING},
        "references": {name: {**base, **values} for name, values in references.items()},
        "evaluation": {
            "text": {"boolq": {"path": str(world / "boolq.jsonl")}},
            "image": {"captions": captions},
        },
    }


def questions(path) -> None:
    asked = {"question": "is it red", "passage": "It is."}
    rows = [json.dumps({**asked, "answer": bool(number % 2)}) for number in range(4)]
    path.write_text("\n".join(rows) + "\n")


def released_whole(world) -> dict[str, bytes]:
    """A tuned model as the MM-*-ft repositories hold one."""
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(world / "base")
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += torch.randn_like(tensor) / 50
    torch.save({**model.state_dict(), **PROJECTOR}, world / "pytorch_model.bin")
    config = {**model.config.to_dict(), "model_type": "llava", "mm_vision_select_layer": -2}
    return {
        "config.json": json.dumps(config).encode(),
        "pytorch_model.bin": (world / "pytorch_model.bin").read_bytes(),
        "evil.py": b"raise SystemExit",
    }


def test_published_weights_are_scored_without_training(fresh, tmp_path, monkeypatch):
    """One imported by hand, one that the workflow fetches from a hub and imports."""
    world = make_world(tmp_path)
    questions(world / "boolq.jsonl")
    torch.save(PROJECTOR, world / "mm_projector.bin")
    base = {"model": str(world / "base"), "revision": None, "remote_code": False}
    source = str(world / "mm_projector.bin")
    import_checkpoint(source, world / "imported", base, str(world / "tower"))
    commit = "1" * 40
    named = {"repo": "PahaII/MM-tiny-ft", "revision": commit}
    path = fresh.folder / "published.yaml"
    study = study_of(
        world,
        **{"mm-tiny": {"checkpoint": str(world / "imported")}, "mm-tiny-ft": {"released": named}},
    )
    path.write_text(yaml.safe_dump(study))
    monkeypatch.chdir(fresh.folder)

    def planned() -> tuple[list[str], dict[str, int]]:
        specs = grid.evaluation_specs(read(path))
        folders = [s["folder"] for s in specs if "-reference-" in s["subject"]["id"]]
        targets = [f"{folder}/scores.parquet" for folder in folders]
        return folders, fresh.planned(*targets, "--configfile", str(path))

    folders, jobs = planned()
    assert len(folders) == 4
    # Planned with nothing there, and no line.
    new = {"fetch": 1, "import_checkpoint": 1, "cache_features": 1, "evaluate": 4}
    assert jobs == new
    monkeypatch.setenv("HF_HOME", str(fresh.folder / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    repos = {commit: released_whole(world)}
    with serving(Hub, repo="PahaII/MM-tiny-ft", commits={"main": commit}, repos=repos) as hub:
        hub.damaged = {}
        monkeypatch.setenv("HF_ENDPOINT", hub.files.address)
        fresh.snakemake("fetch_all", "--cores", "1", "--configfile", str(path))
    # Its hub is gone, and none of its ids has changed.
    assert planned() == (folders, {name: n for name, n in new.items() if name != "fetch"})
    targets = [f"{folder}/scores.parquet" for folder in folders]
    fresh.snakemake(*targets, "--cores", "2", "--configfile", str(path))
    for folder, metric in zip(folders, ("acc", "CIDEr") * 2, strict=True):
        scores = tidy.read_table(fresh.folder / folder, "scores", "scores.parquet")
        assert metric in set(scores["metric"])
    (record,) = (fresh.folder / "resources" / "imported").glob("MM-tiny-ft-*.json")
    record = json.loads(record.read_text())
    assert record["recipe"]["mode"] == "full"
    assert record["imported"]["source"] == f"PahaII/MM-tiny-ft@{commit}"
    assert not list(fresh.folder.glob("cache/**/evil.py"))
    # Its text scores are those of its own weights, not of the base that the projector was for.
    answers = [(fresh.folder / folder / "answers.jsonl") for folder in (folders[0], folders[2])]
    assert answers[0].read_text() != answers[1].read_text()
    # Imported again, with the same content, a checkpoint is the same.
    (world / "imported").rename(world / "old")
    import_checkpoint(source, world / "imported", base, str(world / "tower"))
    assert planned() == (folders, {})
