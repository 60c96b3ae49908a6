"""Exports open with plain transformers and peft, and are the models that were trained."""

import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import LORA, make_world
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    LlavaForConditionalGeneration,
)

from sight_beyond_text import grid, runs
from sight_beyond_text.analysis import tidy
from sight_beyond_text.data.samples import Pixels, encode
from sight_beyond_text.data.templates import IMAGE, segments
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json, write_json
from sight_beyond_text.models.building import load_language_model, load_processor, load_tokenizer
from sight_beyond_text.models.checkpoints import load_tuned
from sight_beyond_text.models.export import export
from sight_beyond_text.study import Cell, load
from sight_beyond_text.training.train import train

MODES = ("full", "lora", "qlora", "frozen")
TEXTS = ["The left shape is", "USER: What is this? ASSISTANT: a red circle"]
MERGED = {"fp32": 2e-5, "bf16": 0.1}
"""Largest difference of logits, in their standard deviations, between adapter and merged model."""


def study_of(world: Path, precision: str = "fp32", projector: str = "linear"):
    training = {
        "learning_rate": 1e-2,
        "epochs": 2,
        "batch_size": 4,
        "max_samples": 8,
        "precision": precision,
    }
    data = {name: str(world / f"{name}.json") for name in ("instructions", "captions")}
    return load(
        {
            "name": "tiny",
            "data": {**data, "alignment": data["instructions"], "images": str(world / "images")},
            "tower": {"model": str(world / "tower"), "layer": -2, "projector": projector},
            "bases": {"tiny": {"model": str(world / "base"), "template": "v1"}},
            "sources": {"visual": {}},
            "alignment": {**training, "epochs": 1, "max_samples": 4},
            "tunings": {
                mode: {**training, **({"lora": LORA} if "lora" in mode else {})} for mode in MODES
            },
        }
    )


def trained_in(folder: Path, study, modes) -> dict[str, Path]:
    """Trains the alignment, then the modes, as the workflow does; their checkpoints."""
    made = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        aligned = grid.align_spec(study, "tiny", 0)
        train({**aligned, "features": None}, grid.alignment_record(aligned))
        made["align"] = folder / aligned["checkpoint"]
        for mode in modes:
            spec = grid.run_spec(study, Cell(base="tiny", source="visual", tuning=mode, seed=0))
            train({**spec, "features": None}, f"{grid.RUNS}/{spec['id']}/train.json")
            made[mode] = folder / spec["checkpoint"]
    finally:
        os.chdir(before)
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world):
    """Subjects of all modes, trained for a few steps in float32."""
    study = study_of(world)
    made = trained_in(world, study, MODES)
    return {mode: runs.subject_of(folder, study) for mode, folder in made.items()}


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Each mode exported whole."""
    root = tmp_path_factory.mktemp("whole")
    return {mode: export(subject, root / mode) for mode, subject in trained.items()}


def inputs_of(world: Path, subject: dict, config) -> dict:
    """A prompt with an image, encoded as training and evaluation do."""
    tokenizer = load_tokenizer(subject["base"])
    laid = segments([(f"{IMAGE}\nWhat is this?", "")], subject["template"], tokenizer, True)
    ids = encode(laid, tokenizer, config.image_token_id, 4)[0]
    pixels = Pixels(world / "images", load_processor(subject["tower"]))("3.png")
    return {"input_ids": torch.tensor([ids]), "pixel_values": pixels[None]}


@torch.inference_mode()
def logits(model, **inputs) -> torch.Tensor:
    return model.eval()(**inputs).logits.float()


def text_logits(model, tokenizer) -> torch.Tensor:
    made = [logits(model, **tokenizer(text, return_tensors="pt"))[0] for text in TEXTS]
    return torch.cat(made)


def apart(one: torch.Tensor, two: torch.Tensor) -> float:
    """Largest difference, in standard deviations."""
    return ((one - two).abs().max() / one.std()).item()


# The whole model


@pytest.mark.parametrize("mode", ("align", *MODES))
def test_a_whole_export_answers_as_the_run_that_was_scored(world, trained, exported, mode):
    subject = trained[mode]
    scored, _ = load_tuned(subject, subject["tower"])
    opened = LlavaForConditionalGeneration.from_pretrained(exported[mode]["folder"])
    inputs = inputs_of(world, subject, scored.config)
    found, expected = logits(opened, **inputs), logits(scored, **inputs)
    if mode == "qlora":  # what was 4 bits there was dequantized here
        assert apart(expected, found) < 1e-4
    else:
        assert apart(expected, found) < 1e-5
    if mode in ("align", "full", "frozen"):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", MODES)
def test_an_export_opens_with_the_auto_class_and_holds_no_pickles(exported, mode):
    folder = Path(exported[mode]["folder"])
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert isinstance(model, LlavaForConditionalGeneration)
    assert model.config.projector_hidden_act == "linear"
    assert model.config.image_seq_length == 4
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".md", ".jinja"}
    assert str(folder.parents[1]) not in (folder / "config.json").read_text()


def test_the_processor_gives_the_ids_and_pixels_of_training(world, trained, exported):
    subject = trained["lora"]
    model = LlavaForConditionalGeneration.from_pretrained(exported["lora"]["folder"])
    processor = AutoProcessor.from_pretrained(exported["lora"]["folder"])
    expected = inputs_of(world, subject, model.config)
    tokenizer = load_tokenizer(subject["base"])
    laid = segments([(f"{IMAGE}\nWhat is this?", "")], "v1", tokenizer, True)
    with Image.open(world / "images" / "3.png") as image:
        text = "".join(part.text for part in laid)
        made = processor(images=image, text=text, return_tensors="pt")
    assert torch.equal(made["input_ids"], expected["input_ids"])
    assert torch.equal(made["pixel_values"], expected["pixel_values"])
    assert (made["input_ids"] == model.config.image_token_id).sum() == 4


def test_generation_ends_where_the_evaluation_ends(exported):
    folder = exported["full"]["folder"]
    settings = GenerationConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert settings.eos_token_id == [tokenizer.eos_token_id]
    assert settings.pad_token_id == tokenizer.pad_token_id != settings.eos_token_id
    assert not settings.do_sample


def test_padding_is_no_image(exported):
    processor = AutoProcessor.from_pretrained(exported["full"]["folder"])
    made = processor.tokenizer(["a", "a longer text"], padding=True)["input_ids"]
    assert processor.image_token_id not in made[0]


def test_a_two_layer_projector_is_exported_as_it_is(world, tmp_path):
    study = study_of(world, projector="mlp2x_gelu")
    subject = runs.subject_of(trained_in(world, study, ())["align"], study)
    made = export(subject, tmp_path / "out")
    opened = LlavaForConditionalGeneration.from_pretrained(made["folder"])
    scored, _ = load_tuned(subject, subject["tower"])
    assert opened.config.projector_hidden_act == "gelu"
    inputs = inputs_of(world, subject, scored.config)
    assert torch.equal(logits(opened, **inputs), logits(scored, **inputs))


# The language model


@pytest.mark.parametrize("mode", MODES)
def test_the_language_model_alone_gives_the_whole_models_logits(trained, exported, tmp_path, mode):
    made = export(trained[mode], tmp_path / "llm", part="language")
    alone = AutoModelForCausalLM.from_pretrained(made["folder"])
    tokenizer = AutoTokenizer.from_pretrained(made["folder"])
    whole = LlavaForConditionalGeneration.from_pretrained(exported[mode]["folder"])
    assert torch.equal(text_logits(alone, tokenizer), text_logits(whole, tokenizer))
    base = load_language_model(trained[mode]["base"], torch.float32)
    same = torch.equal(text_logits(alone, tokenizer), text_logits(base, tokenizer))
    assert same == (mode == "frozen")


def test_the_language_models_tokenizer_is_the_bases(trained, tmp_path):
    made = export(trained["lora"], tmp_path / "llm", part="language")
    base, own = (
        load_tokenizer(trained["lora"]["base"]),
        AutoTokenizer.from_pretrained(made["folder"]),
    )
    assert own.get_vocab() == base.get_vocab() and own.chat_template == base.chat_template
    assert [own(text)["input_ids"] for text in TEXTS] == [base(t)["input_ids"] for t in TEXTS]


# Adapters


@pytest.fixture(scope="module")
def in_bf16(world):
    """LoRA and QLoRA, trained for a few steps in bfloat16."""
    study = study_of(world, "bf16")
    made = trained_in(world, study, ("lora", "qlora"))
    return {mode: runs.subject_of(made[mode], study) for mode in ("lora", "qlora")}


def adapted(subject: dict, folder: Path, dtype: torch.dtype) -> PeftModel:
    """The base with the adapter, opened as any user of peft would."""
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head"],
    )
    base = AutoModelForCausalLM.from_pretrained(
        subject["base"]["model"],
        dtype=dtype,
        quantization_config=four if subject["mode"] == "qlora" else None,
    )
    for module in base.modules():
        # Where a CPU can, bitsandbytes would compute in bfloat16 whatever it is told.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("mode", ("lora", "qlora"))
@pytest.mark.parametrize("precision", ("fp32", "bf16"))
def test_merged_equals_adapter(trained, in_bf16, tmp_path, mode, precision):
    subject = (trained if precision == "fp32" else in_bf16)[mode]
    made = export(subject, tmp_path / "merged", part="language")
    merged = AutoModelForCausalLM.from_pretrained(made["folder"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert merged.dtype == dtype
    export(subject, tmp_path / "kept", part="language", adapter="kept")
    kept = adapted(subject, tmp_path / "kept", dtype)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "kept")
    expected = text_logits(kept, tokenizer)
    assert apart(expected, text_logits(merged, tokenizer)) < MERGED[precision]
    with kept.disable_adapter():
        assert apart(expected, text_logits(kept, tokenizer)) > 0.1
    difference = made["difference"]
    assert difference.positions > 30
    assert 0 < difference.mean < difference.largest < MERGED[precision] * difference.deviation


def test_a_merge_in_float32_is_rounded_once(in_bf16, tmp_path):
    subject = in_bf16["lora"]
    exact = export(subject, tmp_path / "fp32", part="language", precision="fp32")
    rounded = export(subject, tmp_path / "bf16", part="language")
    one = load_file(Path(exact["folder"]) / "model.safetensors")
    two = load_file(Path(rounded["folder"]) / "model.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor.to(torch.bfloat16), two[name]), name


def test_qlora_merges_into_the_weights_that_its_four_bits_stand_for(trained, tmp_path):
    from bitsandbytes.functional import dequantize_4bit

    subject = trained["qlora"]
    made = export(subject, tmp_path / "merged", part="language")
    weights = load_file(Path(made["folder"]) / "model.safetensors")
    four = load_language_model(subject["base"], torch.float32, four_bit=True)
    parts = load_file(Path(subject["checkpoint"]) / "adapter" / "adapter_model.safetensors")
    for kind in ("q_proj", "k_proj"):
        name = f"layers.1.self_attn.{kind}"
        packed = four.get_submodule(f"model.{name}").weight
        expected = dequantize_4bit(packed.data, packed.quant_state)
        if kind in LORA["targets"]:
            two, one = (parts[f"base_model.model.model.{name}.lora_{x}.weight"] for x in "BA")
            expected = expected + two @ one * LORA["alpha"] / LORA["rank"]
        torch.testing.assert_close(weights[f"model.{name}.weight"], expected)


@pytest.mark.parametrize("mode", ("lora", "qlora"))
def test_an_adapter_kept_beside_the_whole_model(world, trained, exported, tmp_path, mode):
    made = export(trained[mode], tmp_path / "out", adapter="kept")
    assert made["difference"] is None
    opened = LlavaForConditionalGeneration.from_pretrained(made["folder"])
    inputs = inputs_of(world, trained[mode], opened.config)
    before = logits(opened, **inputs)
    whole = PeftModel.from_pretrained(opened, f"{made['folder']}/adapter")
    merged = LlavaForConditionalGeneration.from_pretrained(exported[mode]["folder"])
    expected = logits(merged, **inputs)
    assert apart(expected, logits(whole, **inputs)) < 1e-4
    assert apart(expected, before) > 0.1
    learned = [name for name, _ in whole.named_parameters() if "lora_" in name]
    assert len(learned) == 2 * 2 * len(LORA["targets"])
    assert not any("vision_tower" in name for name in learned)


def test_an_adapter_bears_the_language_models_own_names(trained, tmp_path):
    export(trained["lora"], tmp_path / "out", part="language", adapter="kept")
    names = load_file(tmp_path / "out" / "adapter_model.safetensors").keys()
    assert all(name.startswith("base_model.model.model.layers.") for name in names)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"


# The card


def snippet(card: str) -> str:
    return re.search(r"```python\n(.*?)\n```", card, re.DOTALL)[1]


@pytest.mark.parametrize(
    ("mode", "part", "adapter"),
    [
        ("full", "whole", None),
        ("lora", "whole", "kept"),
        ("frozen", "language", None),
        ("qlora", "language", "kept"),
    ],
)
def test_what_the_card_says_opens_the_export(
    world, trained, tmp_path, monkeypatch, capsys, mode, part, adapter
):
    export(trained[mode], tmp_path / "out", part=part, adapter=adapter)
    card = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "out")
    Path("picture.png").write_bytes((world / "images" / "1.png").read_bytes())
    if adapter == "kept" and part == "language":
        Path("base").symlink_to(world / "base")
    capsys.readouterr()
    exec(compile(snippet(card), "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
    assert "Open it" in card and "## Lineage" in card


def test_the_card_tells_what_was_done(trained, world, tmp_path):
    subject = trained["qlora"]
    folder = Path(subject["checkpoint"]).parent
    scores = {
        "run": subject["id"],
        "suite": "text",
        "benchmark": "mmlu | <b>",
        "metric": "acc",
        "value": 0.25,
        "stderr": 0.01,
        "n": 57,
        "protocol": "current",
        "higher_is_better": True,
    }
    tidy.write_parquet(pd.DataFrame([scores]), folder / "text-00000000" / "scores.parquet")
    made = export(subject, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["pipeline_tag"] == "image-text-to-text"
    assert metadata["library_name"] == "transformers" and "base_model" not in metadata
    record = json.loads((Path(subject["checkpoint"]) / "complete.json").read_text())
    for told in (
        record["recipe"]["base"],
        record["recipe"]["tower"]["model"],
        record["recipe"]["instructions"],
        record["versions"]["torch"],
        f"{record['trainable_parameters']} of {record['parameters']}",
        f"{record['curve'][-1]['loss']:.4g}",
        "0.250 ± 0.010",
        "`mmlu \\| <b>`",
        str(made["difference"]),
        "licence",
    ):
        assert str(told) in body, told
    assert str(world) not in card


def test_a_hub_base_is_named_in_the_metadata(trained, tmp_path):
    from sight_beyond_text.models.model_card import model_card

    subject = {**trained["full"], "base": {"model": "owner/base-7b", "revision": "a1"}}
    record = json.loads((Path(subject["checkpoint"]) / "complete.json").read_text())
    told = {"part": "language", "adapter": None, "precision": "fp32", "difference": None}
    tokenizer = load_tokenizer(trained["full"]["base"])
    card = model_card(subject, record, {**told, "image_marks": None, "cap": None}, tokenizer)
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["base_model"] == ["owner/base-7b"]
    assert metadata["base_model_relation"] == "finetune"
    assert "`owner/base-7b@a1`" in card


# Mistakes


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("full", {"adapter": "kept"}, "mode full has no adapter; leave --adapter out"),
        ("frozen", {"adapter": "merged"}, "mode frozen has no adapter"),
        ("lora", {"adapter": "kept", "part": "language", "precision": "bf16"}, "leave --dtype out"),
    ],
)
def test_choices_that_a_run_cannot_have(trained, tmp_path, mode, changes, message):
    with pytest.raises(UserError, match=message):
        export(trained[mode], tmp_path / "out", **changes)
    assert not list(tmp_path.iterdir())


def test_an_export_never_overwrites(trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already; remove it or choose another"):
        export(trained["frozen"], tmp_path / "out", part="language")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]
    (tmp_path / "out" / "notes.txt").unlink()
    export(trained["frozen"], tmp_path / "out", part="language")
    assert (tmp_path / "out" / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_fails_leaves_nothing(trained, tmp_path):
    subject = {**trained["full"], "tower": {**trained["full"]["tower"], "model": "nowhere"}}
    with pytest.raises(UserError, match="nowhere: no vision tower"):
        export(subject, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_changed_checkpoint_is_not_exported(trained, tmp_path):
    import shutil

    subject = dict(trained["frozen"])
    subject["checkpoint"] = subject["projector"] = str(tmp_path / "run" / "checkpoint")
    shutil.copytree(trained["frozen"]["checkpoint"], subject["checkpoint"])
    path = Path(subject["checkpoint"]) / "projector.safetensors"
    state = load_file(path)
    save_file({name: tensor + 1 for name, tensor in state.items()}, path)
    with pytest.raises(UserError, match="projector.safetensors: not as training wrote it"):
        export(subject, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_is_found_by_its_folder_and_its_id(world, trained, monkeypatch):
    subject = trained["lora"]
    monkeypatch.chdir(world)
    assert runs.find(subject["id"])["base"] == subject["base"]
    record = read_json(Path(subject["checkpoint"]) / "complete.json", "record")
    older = {key: value for key, value in record.items() if key not in ("base", "tower")}
    write_json(world / "older" / "complete.json", older)
    with pytest.raises(UserError, match="is a local folder .*--study"):
        runs.find("older")
    with pytest.raises(UserError, match="no finished run, checkpoint, base or reference"):
        runs.find("nothing")
    path = world / "study.yaml"
    path.write_text(study_of(world).model_dump_json(exclude={"micro"}))
    for name in (subject["id"], f"results/runs/{subject['id']}", subject["checkpoint"]):
        found = runs.find(name, path)
        assert {**found, "checkpoint": None, "projector": None} == {
            **subject,
            "checkpoint": None,
            "projector": None,
        }
        assert Path(found["checkpoint"]).resolve() == Path(subject["checkpoint"]).resolve()
    assert runs.find("tiny", path)["mode"] is None
