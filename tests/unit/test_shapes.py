"""Parameters foretold from a configuration are those of transformers' and peft's models."""

import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolLM3Config,
)

from sight_beyond_text.errors import UserError
from sight_beyond_text.memory import Job, all_parameters, learned_parameters
from sight_beyond_text.models.building import add_adapters, new_projector
from sight_beyond_text.shapes import (
    KNOWN,
    adapter_parameters,
    model_shape,
    projector_parameters,
    read_config,
    tower_shape,
)
from sight_beyond_text.training.record import parameters

SIZES = {
    "vocab_size": 330,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TIED, APART = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
FAMILIES = {
    "llama": LlamaConfig(**SIZES, **APART),
    "llama with biases": LlamaConfig(**SIZES, **TIED, attention_bias=True, mlp_bias=True),
    "llama with wide heads": LlamaConfig(**SIZES, **APART, head_dim=32),
    "mistral": MistralConfig(**SIZES, **APART),
    "qwen2": Qwen2Config(**SIZES, **TIED),
    "qwen3": Qwen3Config(**SIZES, **APART),
    "gemma": GemmaConfig(**SIZES),
    "gemma2": Gemma2Config(**SIZES),
    "gemma3": Gemma3TextConfig(**SIZES, head_dim=24),
    "olmo2": Olmo2Config(**SIZES, **APART),
    "smollm3": SmolLM3Config(**SIZES),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def on_meta(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def as_saved(config, folder) -> dict:
    """What transformers writes of a configuration."""
    config.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_parameters_of_its_model(name, tmp_path):
    config = FAMILIES[name]
    model = on_meta(config)
    shape = model_shape(as_saved(config, tmp_path))
    assert shape.total == parameters(model)
    embeddings = model.get_input_embeddings().weight
    assert shape.parameters["embeddings"] == embeddings.numel()
    assert (shape.parameters["head"] == 0) == (model.lm_head.weight is embeddings) == shape.tied
    for part, key in (("attention", "proj"), ("mlp", "mlp")):
        there = sum(
            p.numel()
            for name, p in model.named_parameters()
            if key in name and ("mlp" in name) == (part == "mlp")
        )
        assert shape.parameters[part] == there


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("targets", [TARGETS, ["q_proj", "v_proj"], ["down_proj"]])
def test_adapters_have_the_parameters_that_peft_gives_them(name, targets, tmp_path):
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": targets}
    adapted = add_adapters(on_meta(FAMILIES[name]), lora)
    there = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    assert adapter_parameters(model_shape(as_saved(FAMILIES[name], tmp_path)), lora) == there > 0


def test_a_target_that_is_no_matrix_of_the_model_is_named():
    shape = model_shape(KNOWN["huggyllama/llama-7b"])
    with pytest.raises(UserError, match="a llama has no fc1; there are: q_proj, "):
        adapter_parameters(shape, {"rank": 4, "targets": ["q_proj", "fc1"]})


VISION = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 62,
    "patch_size": 20,
}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (CLIPVisionModel, CLIPVisionConfig(**VISION)),
        (CLIPVisionModel, CLIPVisionConfig()),
        (SiglipVisionModel, SiglipVisionConfig(**VISION)),
        (SiglipVisionModel, SiglipVisionConfig(**VISION, vision_use_head=False)),
        (SiglipVisionModel, SiglipVisionConfig()),
    ],
)
def test_a_tower_has_the_parameters_of_its_model(kind, config, tmp_path):
    with torch.device("meta"):
        model = kind(config)
    assert tower_shape(as_saved(config, tmp_path)).total == parameters(model)


def test_the_vision_part_of_two_towers_counts_alone(tmp_path):
    whole = CLIPConfig(vision_config=VISION, text_config={"vocab_size": 99})
    shape = tower_shape(as_saved(whole, tmp_path))
    assert shape == tower_shape({"model_type": "clip_vision_model", **VISION})
    assert shape.patches == 9


@pytest.mark.parametrize("form", ["linear", "mlp2x_gelu"])
def test_a_projector_has_the_parameters_of_its_module(form):
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**SIZES))
    module = new_projector(config, form)
    assert projector_parameters(form, 48, 96) == parameters(module)


def test_published_bases_and_towers_are_as_large_as_they_are_said_to_be():
    sizes = {
        "huggyllama/llama-7b": 6_738_415_616,
        "meta-llama/Llama-2-7b-hf": 6_738_415_616,
        "openlm-research/open_llama_3b": 3_426_473_600,
    }
    assert {name: model_shape(KNOWN[name]).total for name in sizes} == sizes
    for name, config in KNOWN.items():
        made = AutoConfig.for_model(**config)
        if "clip" in name:
            with torch.device("meta"):
                model = CLIPVisionModel(made)
            shape = tower_shape(config)
        else:
            model, shape = on_meta(made), model_shape(config)
        assert shape.total == parameters(model), name


def test_what_learns_is_what_the_mode_says():
    shape = model_shape(KNOWN["meta-llama/Llama-2-7b-hf"])
    tower = tower_shape(KNOWN["openai/clip-vit-large-patch14"])
    lora = {"rank": 64, "dropout": 0.05, "targets": TARGETS}
    linear, adapters = 1024 * 4096 + 4096, 159_907_840
    learned = {
        mode: learned_parameters(shape, tower, Job(mode, lora=lora))
        for mode in ("align", "frozen", "lora", "qlora", "full")
    }
    assert learned["align"] == learned["frozen"] == {"projector": linear}
    assert learned["lora"] == learned["qlora"] == {"projector": linear, "adapters": adapters}
    assert learned["full"] == {"projector": linear, "language_model": 6_738_415_616}
    text = Job("lora", lora=lora, with_images=False)
    assert learned_parameters(shape, tower, text) == {"adapters": adapters}
    assert all_parameters(shape, tower, text) == shape.total + adapters + linear + tower.total


def test_models_of_other_kinds_are_refused_by_name():
    with pytest.raises(UserError, match="here: parameters of a model of type 'gpt2' can't"):
        model_shape({"model_type": "gpt2"}, "here")
    with pytest.raises(UserError, match="here: hidden_size: expected a whole number, found None"):
        model_shape({"model_type": "llama"}, "here")
    with pytest.raises(UserError, match="here: a vision tower of type 'vit'; known: clip, siglip"):
        tower_shape({"model_type": "vit"}, "here")


def test_a_configuration_is_read_where_it_lies_and_never_fetched(tmp_path, monkeypatch):
    assert read_config("nobody/nothing") is None
    assert read_config(str(tmp_path)) is None
    assert read_config("huggyllama/llama-7b") == KNOWN["huggyllama/llama-7b"]
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read_config(str(tmp_path)) == {"model_type": "llama"}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: not JSON"):
        read_config(str(tmp_path))


def test_a_configuration_in_the_hubs_cache_is_found(tmp_path, monkeypatch):
    cache = tmp_path / "models--nobody--nothing"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "snapshots" / "abc" / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert read_config("nobody/nothing") == {"model_type": "llama"}
    assert read_config("nobody/nothing", "other") is None
