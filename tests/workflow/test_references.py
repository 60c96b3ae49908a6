"""A published checkpoint that was imported is scored by the workflow, and nothing is trained."""

import json

import pytest
import torch
import yaml
from tiny_runs import make_world

from sight_beyond_text import grid
from sight_beyond_text.analysis import tidy
from sight_beyond_text.models.published import import_checkpoint
from sight_beyond_text.study import read

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def test_an_imported_checkpoint_is_scored_without_training(fresh, tmp_path, monkeypatch):
    world = make_world(tmp_path)
    state = {
        "model.mm_projector.weight": torch.randn(64, 32),
        "model.mm_projector.bias": torch.randn(64),
    }
    torch.save(state, world / "mm_projector.bin")
    base = {"model": str(world / "base"), "revision": None, "remote_code": False}
    source = str(world / "mm_projector.bin")
    import_checkpoint(source, world / "imported", base, str(world / "tower"))
    (world / "boolq.jsonl").write_text(
        "".join(
            json.dumps({"question": "is it red", "passage": "It is.", "answer": bool(number % 2)})
            + "\n"
            for number in range(4)
        )
    )
    training = {"learning_rate": 1e-2, "batch_size": 4, "precision": "fp32"}
    data = {name: str(world / f"{name}.json") for name in ("instructions", "captions")}
    study = {
        "name": "published",
        "data": {**data, "alignment": data["instructions"], "images": str(world / "images")},
        "tower": {"model": str(world / "tower")},
        "bases": {"tiny": {"model": str(world / "base")}},
        "sources": {"visual": {}},
        "alignment": training,
        "tunings": {"frozen": training},
        "references": {
            "mm-tiny": {"model": str(world / "base"), "checkpoint": str(world / "imported")}
        },
        "evaluation": {
            "text": {"boolq": {"path": str(world / "boolq.jsonl")}},
            "image": {
                "captions": {
                    "type": "captions",
                    "images": str(world / "images"),
                    "annotations": data["captions"],
                    "limit": 2,
                }
            },
        },
    }
    path = fresh.folder / "published.yaml"
    path.write_text(yaml.safe_dump(study))
    monkeypatch.chdir(fresh.folder)
    folders = [
        spec["folder"]
        for spec in grid.evaluation_specs(read(path))
        if spec["subject"]["id"].startswith("mm-tiny-reference-")
    ]
    assert len(folders) == 2
    targets = [f"{folder}/scores.parquet" for folder in folders]
    assert fresh.planned(*targets, "--configfile", str(path)) == {"evaluate": 2}
    fresh.snakemake(*targets, "--cores", "1", "--configfile", str(path))
    for folder, metric in zip(folders, ("acc", "CIDEr"), strict=True):
        scores = tidy.read_table(fresh.folder / folder, "scores", "scores.parquet")
        assert metric in set(scores["metric"])
    # Imported again, with the same content, it is the same checkpoint.
    (world / "imported").rename(world / "old")
    import_checkpoint(source, world / "imported", base, str(world / "tower"))
    assert fresh.planned(*targets, "--configfile", str(path)) == {}
