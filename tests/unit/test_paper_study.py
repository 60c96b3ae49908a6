"""The study of the published grid says what is known of it."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from sight_beyond_text import grid, study


@pytest.fixture(scope="module")
def path(repository: Path) -> Path:
    return repository / "workflow" / "studies" / "paper.yaml"


@pytest.fixture(scope="module")
def paper(path: Path) -> study.Study:
    return study.read(path)


def test_the_grid_is_six_bases_by_three_sources_by_four_tunings(paper) -> None:
    assert len(paper.bases) == 6 and len(paper.sources) == 3 and len(paper.tunings) == 4
    kept, pruned = paper.cells()
    # frozen learns the projector alone, so only with images.
    assert len(kept) == 6 * (3 * 3 + 1) and len(pruned) == 6 * 2
    assert Counter(cell.tuning for cell in kept) == {
        "full": 18,
        "lora": 18,
        "qlora": 18,
        "frozen": 6,
    }
    assert {(cell.tuning, cell.source) for cell, _ in pruned} == {
        ("frozen", "caption"),
        ("frozen", "text"),
    }
    runs = grid.run_specs(paper)
    assert len({run["id"] for run in runs}) == 60 and len(grid.align_specs(paper)) == 6
    # 60 runs, 6 untuned bases and 16 released checkpoints, each on both suites.
    assert len(grid.evaluation_specs(paper)) == 2 * 82


def test_every_released_checkpoint_is_scored_on_the_base_that_it_was_trained_from(paper) -> None:
    released = {
        f"PahaII/MM-{base}-{kind}"
        for base in ("LLaMA-7B", "Vicuna-7B", "LLaMA-3B", "Alpaca-3B", "LLaMA-2-7B")
        + ("LLaMA-2-7B-chat",)
        for kind in ("projector", "ft", "lora")
    } - {"PahaII/MM-LLaMA-7B-lora", "PahaII/MM-Vicuna-7B-lora"}
    found = {reference.released.repo: reference for reference in paper.references.values()}
    assert found.keys() == released and len(released) == 16
    for name, reference in paper.references.items():
        base = paper.bases[name.removeprefix("mm-").rpartition("-")[0]]
        assert reference.model_dump(include={"model", "revision", "template"}) == base.model_dump(
            include={"model", "revision", "template"}
        )


def test_all_published_benchmarks_are_there(paper) -> None:
    text = set(paper.evaluation.text)
    for subset in ("cm", "justice", "deontology", "virtue", "utilitarianism"):
        assert {f"ethics_{subset}", f"ethics_{subset}_hard"} <= text
    others = {"mmlu", "gsm8k", "mathqa", "boolq", "squadv2"}
    assert others | {"truthfulqa_mc1", "truthfulqa_mc2", "truthfulqa_gen"} <= text
    image = grid.benchmarks(paper, "image")
    corrupted = [values["corruption"] for values in image.values() if "corruption" in values]
    assert len(corrupted) == 3 * 19 * 3 and {c["severity"] for c in corrupted} == {1, 3, 5}
    clean = {name for name, values in image.items() if "corruption" not in values}
    assert clean == {
        "vqav2", "coco_captions", "flickr30k_captions", "mme",
        "pope_random", "pope_popular", "pope_adversarial",
    }  # fmt: skip
    assert paper.data.leakage == "drop"


def test_templates_and_recipe_are_the_published_ones(paper) -> None:
    assert {name: base.template for name, base in paper.bases.items()} == {
        "llama-7b": "v0",
        "vicuna-7b": "v1",
        "llama-3b": "v0",
        "alpaca-3b": "v0",
        "llama-2-7b": "llava_llama_2",
        "llama-2-7b-chat": "llava_llama_2",
    }
    assert not any(base.remote_code for base in paper.bases.values())
    tower = paper.tower
    assert (tower.model, tower.layer) == ("openai/clip-vit-large-patch14", -2)
    assert (tower.projector, tower.preparation) == ("linear", "crop")
    align = paper.alignment
    assert (align.learning_rate, align.batch_size) == (2e-3, 16 * 8)
    for tuning in paper.tunings.values():
        assert (tuning.learning_rate, tuning.batch_size) == (2e-5, 4 * 2)
    for stage in (align, *paper.tunings.values()):
        assert (stage.epochs, stage.warmup, stage.weight_decay) == (1, 0.03, 0)
        assert (stage.max_length, stage.precision) == (2048, "bf16")
    for name in ("lora", "qlora"):
        lora = paper.tunings[name].lora
        assert (lora.rank, lora.alpha, lora.dropout, len(lora.targets)) == (64, 16, 0.05, 7)
    shots = {name: task.fewshot for name, task in paper.evaluation.text.items() if task.fewshot}
    assert shots == {"mmlu": 5, "gsm8k": 8, "mathqa": 4}


def test_every_base_names_the_revision_to_pin_where_one_is_known(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert all("revision" in model for model in (values["tower"], *values["bases"].values()))


def test_nothing_must_be_there_to_plan_it(paper, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert grid.missing_inputs(paper) == []


def test_a_folder_of_ones_own_stands_for_a_resource(path: Path, paper) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["resources"]["coco-val2014"] = {"local": "/data/coco/val2014"}
    changed = study.load(values)
    told = "evaluation.image.vqav2.images: /data/coco/val2014: no such file or folder"
    assert any(line.startswith(told) for line in grid.missing_inputs(changed))
    # Images are known by the files that name them, so no run is another.
    for before, after in zip(grid.run_specs(paper), grid.run_specs(changed), strict=True):
        assert after["id"] == before["id"]


def test_remote_code_reaches_what_loads_a_base_and_changes_no_run(path: Path, paper) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["bases"]["llama-7b"]["remote_code"] = True
    changed = study.load(values)
    for before, after in zip(grid.run_specs(paper), grid.run_specs(changed), strict=True):
        assert after["id"] == before["id"]
        assert not before["base"]["remote_code"]
        assert after["base"]["remote_code"] == after["id"].startswith("llama-7b-")


def test_how_images_get_square_belongs_to_the_recipe(path: Path, paper) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["tower"]["preparation"] = "pad"
    changed = study.load(values)
    for before, after in zip(grid.run_specs(paper), grid.run_specs(changed), strict=True):
        assert after["tower"]["preparation"] == "pad" and after["id"] != before["id"]
