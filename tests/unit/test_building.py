"""The parts of a model: what is loaded from where, what is refused, and how images get square."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import LLM, PATCHES, ROWS, SIDE, make_base, make_tower
from tokenizers import Tokenizer, models
from transformers import (
    AutoImageProcessor,
    Cohere2Config,
    Gemma3Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    PreTrainedTokenizerFast,
    StableLmConfig,
    T5Config,
)

from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.errors import UserError
from sight_beyond_text.micro.tokenizer import train_tokenizer
from sight_beyond_text.models.building import (
    LinearProjector,
    add_adapters,
    build,
    image_token,
    load_language_model,
    load_processor,
    load_tokenizer,
    load_tower,
    padding_token,
    patches_of,
)

LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is in the image? A red circle is there."] * 3, 300)


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory) -> dict:
    return make_base(tmp_path_factory.mktemp("base"), tokenizer, LlamaConfig(**LLM))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> dict:
    return make_tower(tmp_path_factory.mktemp("clip"))


def loaded(spec: dict):
    return load_language_model(spec, torch.float32)


def built(base: dict, tower: dict):
    return build(base, tower, load_tokenizer(base), torch.float32)


def refusal(spec: dict, load=loaded) -> str:
    """What a user is told: one line, with the model's name."""
    with pytest.raises(UserError) as error:
        load(spec)
    text = str(error.value)
    assert text.startswith(f"{spec['model']}: ") and "\n" not in text
    return text


# Towers and projectors


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("part", ["alone", "of a whole model"])
@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_towers_give_a_feature_a_patch(
    base, kind: str, part: str, layer: int, tmp_path: Path
) -> None:
    tower = make_tower(tmp_path, kind, whole=part != "alone", layer=layer)
    assert patches_of(tower) == PATCHES == (SIDE // 20) ** 2
    model = built(base, tower)
    written = load_file(tmp_path / "model.safetensors")
    prefix = "" if part == "alone" else "vision_model."
    for name, tensor in model.model.vision_tower.state_dict().items():
        same = [key for key in (name, prefix + name) if key in written]
        assert torch.equal(tensor, written[same[-1]]), name
    pixels = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        features = torch.stack(model.get_image_features(pixels).pooler_output)
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert len(states) == 4
    own = states[layer][:, 1:] if kind == "clip" else states[layer]
    assert own.shape == (2, PATCHES, 32)
    torch.testing.assert_close(features, model.model.multi_modal_projector(own))
    assert model.config.vision_feature_select_strategy == ("default" if kind == "clip" else "full")


@pytest.mark.parametrize("layer", [-4, 0, 4])
def test_a_layer_that_the_tower_lacks_is_refused(clip, layer: int) -> None:
    with pytest.raises(
        UserError, match=f"tower.layer: .* has 3 layers, no {layer}; allowed: 1 to 3"
    ):
        load_tower({**clip, "layer": layer}, torch.float32)


def test_a_tower_of_another_type_is_refused(base, clip) -> None:
    said = refusal({**clip, "model": base["model"]}, lambda tower: load_tower(tower, torch.float32))
    assert "a vision tower of type 'llama'; supported: clip_vision_model" in said


def test_a_tower_whose_weights_are_missing_is_refused(tmp_path: Path) -> None:
    tower = make_tower(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({f"other.{key}": value for key, value in load_file(path).items()}, path)
    said = refusal(tower, lambda spec: load_tower(spec, torch.float32))
    assert "not a whole vision tower" in said and "tensors are missing, the first is " in said


def test_projectors_have_the_published_forms(base, clip) -> None:
    linear = built(base, clip).model.multi_modal_projector
    assert isinstance(linear, LinearProjector)
    shapes = {name: tuple(tensor.shape) for name, tensor in linear.state_dict().items()}
    assert shapes == {"linear.weight": (32, 32), "linear.bias": (32,)}
    perceptron = built(base, {**clip, "projector": "mlp2x_gelu"}).model.multi_modal_projector
    given = torch.randn(1, 2, 32)
    first, second = perceptron.linear_1, perceptron.linear_2
    expected = second(torch.nn.functional.gelu(first(given)))
    torch.testing.assert_close(perceptron(given), expected)
    assert len(list(perceptron.parameters())) == 4


def test_the_same_seed_draws_the_same_projector(base, clip) -> None:
    drawn = []
    for seed in (3, 3, 4):
        llm = loaded(base)
        torch.manual_seed(seed)
        model = build(base, clip, load_tokenizer(base), torch.float32, language_model=llm)
        drawn.append(model.model.multi_modal_projector.linear.weight)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


# How images get square

WIDE = (120, 60)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Wide, another color on each side of the middle."""
    image = Image.new("RGB", WIDE, (40, 160, 220))
    image.paste((230, 30, 90), (60, 0, 120, 60))
    image.paste((0, 0, 0), (0, 0, 20, 60))
    return image


def squared(image: Image.Image, how: str, mean: list[float]) -> Image.Image:
    """The same in plain Pillow."""
    width, height = image.size
    if how == "pad":
        padded = Image.new("RGB", (width, width), tuple(int(255 * value) for value in mean))
        padded.paste(image, (0, (width - height) // 2))
        image = padded
    if how != "crop":
        return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    image = image.resize((int(SIDE * width / height), SIDE), Image.Resampling.BICUBIC)
    left = (image.size[0] - SIDE) // 2
    return image.crop((left, 0, left + SIDE, SIDE))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_images_get_square_as_the_study_says(photo, kind: str, how: str, tmp_path: Path) -> None:
    tower = make_tower(tmp_path / "tower", kind, preparation=how)
    photo.save(tmp_path / "photo.png")
    processor = load_processor(tower)
    values = Pixels(tmp_path, processor)("photo.png")
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    assert values.shape == (3, SIDE, SIDE) and values.dtype == torch.float32
    expected = np.array(squared(photo, how, processor.image_mean), dtype=np.float32) / 255
    expected = (torch.from_numpy(expected) - mean) / std
    torch.testing.assert_close(values, expected.permute(2, 0, 1), rtol=0, atol=1e-5)
    # It is an ordinary processor of transformers, which an export can save.
    processor.save_pretrained(tmp_path / "saved")
    again = AutoImageProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    torch.testing.assert_close(Pixels(tmp_path, again)("photo.png"), values, rtol=0, atol=0)


def test_crop_leaves_a_processor_that_crops_as_it_is(tmp_path: Path) -> None:
    tower = make_tower(tmp_path)
    own = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    own.size, own.crop_size = {"shortest_edge": SIDE + 10}, {"height": SIDE, "width": SIDE}
    own.save_pretrained(tmp_path)
    assert load_processor(tower).to_dict() == own.to_dict()


def test_a_processor_of_another_size_is_refused(tmp_path: Path) -> None:
    tower = make_tower(tmp_path)
    own = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    own.crop_size = {"height": 99, "width": 99}
    own.save_pretrained(tmp_path)
    assert f"crops to 99 pixels, its tower sees {SIDE};" in refusal(tower, load_processor)


# Weights


class Attack:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def with_bin(folder: Path, tokenizer, **more) -> tuple[dict, LlamaForCausalLM]:
    """A base whose only weights are a `.bin` file."""
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(**LLM))
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save({**model.state_dict(), **more}, folder / "pytorch_model.bin")
    return {"model": str(folder), "revision": None}, model


def test_bin_files_are_read_and_nothing_in_them_runs(tokenizer, tmp_path: Path) -> None:
    spec, model = with_bin(tmp_path / "good", tokenizer)
    for name, tensor in loaded(spec).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    touched = tmp_path / "touched"
    spec, _ = with_bin(tmp_path / "bad", tokenizer, extra=Attack(touched))
    assert "no language model in this folder: Weights only load failed" in refusal(spec)
    (tmp_path / "bad" / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(touched)))
    refusal(spec)
    assert not touched.exists()
    pickle.loads(pickle.dumps(Attack(touched))).close()
    assert touched.exists(), "the attack itself works"


def test_safetensors_come_first(tokenizer, tmp_path: Path) -> None:
    spec, model = with_bin(tmp_path, tokenizer, extra=Attack(tmp_path / "touched"))
    model.save_pretrained(tmp_path)
    assert torch.equal(loaded(spec).lm_head.weight, model.lm_head.weight)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"xx", bytes(99)])
def test_broken_weights_are_told_in_one_line(tokenizer, tmp_path: Path, content: bytes) -> None:
    spec = make_base(tmp_path, tokenizer, LlamaConfig(**LLM))
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "no language model in this folder: " in refusal(spec)


def test_a_model_without_a_head_is_refused(tokenizer, tmp_path: Path) -> None:
    spec = make_base(tmp_path, tokenizer, LlamaConfig(**LLM))
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    said = refusal(spec)
    assert "not a whole language model: 1 tensors are missing, the first is lm_head.weight" in said


def test_weights_of_other_shapes_are_refused(tokenizer, tmp_path: Path) -> None:
    spec = make_base(tmp_path, tokenizer, LlamaConfig(**LLM))
    LlamaConfig(**{**LLM, "intermediate_size": 96}).save_pretrained(tmp_path)
    assert "no language model in this folder: " in refusal(spec)


def test_what_is_no_base_is_refused_before_its_weights_are_read(tokenizer, tmp_path: Path) -> None:
    def folder(name: str, config) -> dict:
        config.save_pretrained(tmp_path / name)
        return {"model": str(tmp_path / name), "revision": None}

    vision = Gemma3Config(text_config=LLM | {"head_dim": 16}, vision_config={"hidden_size": 32})
    assert "type 'gemma3' has a vision part of its own" in refusal(folder("gemma3", vision))
    packed = LlamaConfig(**LLM, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantized already; choose the base in full precision" in refusal(folder("gptq", packed))
    encoder = folder("t5", T5Config(d_model=16, d_ff=32, num_layers=1, num_heads=1))
    assert "no language model in this folder: Unrecognized configuration class" in refusal(encoder)
    adapter = folder("adapter", LlamaConfig(**LLM))
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert "an adapter, not a base" in refusal(adapter)
    assert "no language model in this folder or hub id" in refusal(
        {"model": "nowhere/at-all", "revision": None}
    )


# Other families

OTHERS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=ROWS, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**LLM),
    "phi3": lambda: Phi3Config(**LLM),
    "stablelm": lambda: StableLmConfig(**LLM),
}


@pytest.mark.parametrize("family", OTHERS)
def test_bases_of_other_families_are_tried_out(family: str, tokenizer, clip, tmp_path) -> None:
    spec = make_base(tmp_path, tokenizer, OTHERS[family]())
    model, llm = built(spec, clip), loaded(spec)
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, llm(input_ids=ids).logits)
        ids[0, :PATCHES] = model.config.image_token_id
        made = model(input_ids=ids, pixel_values=torch.rand(1, 3, SIDE, SIDE)).logits
    assert made.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**LLM, logits_scaling=8.0),
        Cohere2Config(**LLM, logit_scale=0.25, head_dim=16, sliding_window=8),
    ],
    ids=["granite", "cohere2"],
)
def test_bases_that_change_their_logits_are_refused(config, tokenizer, clip, tmp_path) -> None:
    spec = make_base(tmp_path, tokenizer, config)
    said = refusal(spec, lambda base: built(base, clip))
    assert "makes its logits in a way that LLaVA's class doesn't; choose a base of another" in said


# Adapters


def test_adapters_go_on_every_target_and_nothing_else(base) -> None:
    adapted = add_adapters(loaded(base), LORA)
    names = {name for name, tensor in adapted.named_parameters() if tensor.requires_grad}
    assert len(names) == 2 * 2 * 2
    assert all(".q_proj.lora_" in name or ".v_proj.lora_" in name for name in names)


def test_targets_that_a_base_lacks_are_refused(tokenizer, tmp_path: Path) -> None:
    spec = make_base(tmp_path, tokenizer, Phi3Config(**LLM))
    given = {**LORA, "targets": ["q_proj", "o_proj", "down_proj", "up_proj"]}
    with pytest.raises(UserError) as error:
        add_adapters(loaded(spec), given)
    assert str(error.value) == (
        "lora.targets: Phi3ForCausalLM has no q_proj, up_proj;"
        " there are: down_proj, gate_up_proj, o_proj, qkv_proj"
    )
    add_adapters(loaded(spec), {**LORA, "targets": ["qkv_proj"]})


# The repository's own code

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({ran!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def test_a_repositorys_own_code_runs_only_where_allowed(
    tokenizer, clip, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    ran, folder = tmp_path / "ran", tmp_path / "own"
    spec = make_base(folder, tokenizer, LlamaConfig(**LLM))
    (folder / "own.py").write_text(CODE.format(ran=str(ran)))
    for name, places in (
        (
            "config.json",
            {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
        ),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "own.OwnTokenizer"]}),
    ):
        values = json.loads((folder / name).read_text())
        values["auto_map"] = places
        if name == "config.json":
            values["model_type"] = "own"
        else:
            values["tokenizer_class"] = "OwnTokenizer"
        (folder / name).write_text(json.dumps(values))
    for refused in (spec, {**spec, "remote_code": False}):
        for what, load in (("language model", loaded), ("tokenizer", load_tokenizer)):
            said = refusal(refused, load)
            assert f"its {what} needs code of its own, which isn't run unless you allow it" in said
            assert "remote_code: true" in said
    assert not ran.exists()
    allowed = {**spec, "remote_code": True}
    model = built(allowed, clip)
    assert ran.exists()
    assert type(model.model.language_model).__name__ == "LlamaModel"
    assert type(load_tokenizer(allowed)).__name__ == "OwnTokenizer"
    assert model.config.text_config.model_type == "own"


# The row that stands for the image


def words(rows: int, **special: str) -> PreTrainedTokenizerFast:
    names = [*special.values(), *(f"w{index}" for index in range(rows - len(special)))]
    ids = {name: index for index, name in enumerate(names)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(ids)), **special)


def test_a_row_that_no_text_uses_stands_for_the_image(tokenizer) -> None:
    named = tokenizer.convert_tokens_to_ids("<image>")
    assert image_token(tokenizer, 999) == named
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    assert image_token(words(10, **ends), 16) == 15
    assert image_token(words(10, **ends, unk_token="<unk>", pad_token="<pad>"), 10) == 3
    assert image_token(words(10, **ends, unk_token="<unk>"), 10) == 2
    assert image_token(words(10, **ends, pad_token="</s>", unk_token="<unk>"), 10) == 3


def test_a_reserved_token_stands_for_the_image_but_none_of_the_chat(tokenizer) -> None:
    """As in SmolLM, whose only named token ends texts."""
    own = words(10, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    with pytest.raises(UserError, match="no spare token"):
        image_token(own, 10)
    own.add_special_tokens({"additional_special_tokens": ["<repo>", "<file>", "<|im_start|>"]})
    own.chat_template = "{{ '<|im_start|>' }}"
    rows = len(own)
    assert image_token(own, rows) == own.convert_tokens_to_ids("<file>")
    # Tokens beyond the embedding matrix, as Gemma 3 has one, can't be used.
    assert image_token(own, rows - 2) == own.convert_tokens_to_ids("<repo>")
    other = words(10, eos_token="</s>", bos_token="<s>")
    other.add_special_tokens({"additional_special_tokens": ["<image>"]})
    with pytest.raises(UserError, match="no spare token"):
        image_token(other, 10)


def test_padding_is_never_taken_for_an_image() -> None:
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    own = words(10, **ends, pad_token="<pad>")
    assert padding_token(own, 9) == own.pad_token_id
    assert padding_token(own, own.pad_token_id) == own.eos_token_id
    assert padding_token(words(10), 0) == 1
