"""Published LLaVA-style checkpoints, as small files of each layout, become this project's."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tiny_runs import make_world
from transformers import AutoTokenizer, CLIPVisionModel, LlamaForCausalLM

from sight_beyond_text import grid, runs
from sight_beyond_text.data.templates import IMAGE
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.answers import prompt_ids
from sight_beyond_text.files import write_json
from sight_beyond_text.models.building import image_token
from sight_beyond_text.models.checkpoints import (
    image_marks_of,
    load_tuned,
    load_tuned_language_model,
    verify,
)
from sight_beyond_text.models.export import export
from sight_beyond_text.models.published import import_checkpoint, tensors_of

TARGETS = ["q_proj", "v_proj", "down_proj"]
IDS = torch.tensor([[0, 5, 9, 40, 7]])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def base(world) -> dict:
    return {"model": str(world / "base"), "revision": None, "remote_code": False}


def projector(names: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) / 8 for name, shape in names.items()}


def linear(prefix: str) -> dict[str, torch.Tensor]:
    return projector(
        {f"{prefix}mm_projector.weight": (64, 32), f"{prefix}mm_projector.bias": (64,)}
    )


def two_layers(prefix: str) -> dict[str, torch.Tensor]:
    return projector(
        {
            f"{prefix}mm_projector.0.weight": (64, 32),
            f"{prefix}mm_projector.0.bias": (64,),
            f"{prefix}mm_projector.2.weight": (64, 64),
            f"{prefix}mm_projector.2.bias": (64,),
        }
    )


def subject(folder: Path) -> dict:
    return {**runs.subject_of(folder), "template": "v1", "precision": "fp32"}


def text_logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def trained_model(world: Path, added: int = 0) -> LlamaForCausalLM:
    """The base with other weights, and rows for tokens that were added, untied as Llama's."""
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(world / "base")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.resize_token_embeddings(320 + added, mean_resizing=False)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += torch.randn_like(tensor) / 50
    return model


def tokenizer_with_marks(world: Path, folder: Path) -> None:
    """Writes the base's tokenizer with LLaVA's tokens, as training with them leaves it."""
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    tokenizer.add_tokens(["<im_patch>", "<im_start>", "<im_end>"], special_tokens=True)
    tokenizer.save_pretrained(folder)


# The projector alone


@pytest.mark.parametrize(
    ("state", "form"),
    [
        (linear("model."), "linear"),
        (linear(""), "linear"),
        (linear("base_model.model.model."), "linear"),
        (two_layers("model."), "mlp2x_gelu"),
        (two_layers("base_model.model.model."), "mlp2x_gelu"),
    ],
    ids=["1.0", "bare", "1.0-lora", "1.5", "1.5-lora"],
)
@pytest.mark.parametrize("new_format", (True, False))
def test_a_projector(world, base, tmp_path, state, form, new_format):
    torch.save(state, tmp_path / "mm_projector.bin", _use_new_zipfile_serialization=new_format)
    out = tmp_path / "imported"
    record = import_checkpoint(str(tmp_path / "mm_projector.bin"), out, base, str(world / "tower"))
    assert record["recipe"]["mode"] == "frozen"
    assert record["recipe"]["tower"]["projector"] == form
    assert verify(out) == json.loads((out / "complete.json").read_text())
    made = subject(out)
    model, _ = load_tuned(made, made["tower"])
    given = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    tensors = list(state.values())
    expected = torch.nn.functional.linear(given, tensors[0], tensors[1])
    if form == "mlp2x_gelu":
        expected = torch.nn.functional.gelu(expected)
        expected = torch.nn.functional.linear(expected, tensors[2], tensors[3])
    torch.testing.assert_close(model.model.multi_modal_projector(given), expected)


def test_a_folder_with_a_projector_alone(world, base, tmp_path):
    source = tmp_path / "published"
    source.mkdir()
    torch.save(linear("model."), source / "mm_projector.bin")
    write_json(
        source / "config.json",
        {
            "model_type": "llava",
            "mm_vision_tower": "owner/tower",
            "mm_vision_select_layer": -1,
            "image_aspect_ratio": "pad",
        },
    )
    record = import_checkpoint(str(source), tmp_path / "out", base, template="v0")
    tower = record["tower"]
    assert (tower["model"], tower["layer"]) == ("owner/tower", -1)
    assert tower["preparation"] == "pad"
    assert record["recipe"]["tower"]["model"] == "hub:owner/tower@main"
    assert record["imported"]["source"] == "published"
    assert record["recipe"]["template"] == runs.find(str(tmp_path / "out"))["template"] == "v0"


# LoRA


def lora_folder(world: Path, folder: Path, beside: dict, pickled: bool = True) -> torch.Tensor:
    """Writes a LoRA folder as LLaVA does; the logits that its LLM should have."""
    torch.manual_seed(2)
    model = LlamaForCausalLM.from_pretrained(world / "base")
    adapted = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_B" in name:
                tensor += torch.randn_like(tensor) / 10
    adapted.save_pretrained(folder)
    weights = tensors_of(folder / "adapter_model.safetensors")
    if pickled:
        (folder / "adapter_model.safetensors").unlink()
        torch.save(weights, folder / "adapter_model.bin")
    config = json.loads((folder / "adapter_config.json").read_text())
    # A key that peft knows nothing of, as versions of other times have.
    write_json(folder / "adapter_config.json", {**config, "enable_lora": None})
    (folder / "README.md").unlink()
    torch.save(beside, folder / "non_lora_trainables.bin")
    write_json(folder / "config.json", {"model_type": "llava", "mm_vision_select_layer": -2})
    return text_logits(adapted)


@pytest.mark.parametrize("pickled", (True, False))
def test_lora(world, base, tmp_path, pickled):
    source = tmp_path / "lora"
    source.mkdir()
    beside = two_layers("base_model.model.model.")
    expected = lora_folder(world, source, beside, pickled)
    record = import_checkpoint(str(source), tmp_path / "out", base, str(world / "tower"))
    assert record["recipe"]["mode"] == "lora" and record["imported"]["notes"] == []
    names = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    assert sorted(record["files"]) == [*names, "projector.safetensors"]
    found, _ = load_tuned_language_model(subject(tmp_path / "out"))
    torch.testing.assert_close(text_logits(found), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(
        text_logits(LlamaForCausalLM.from_pretrained(world / "base")), expected, atol=1e-2
    )


def test_embeddings_trained_beside_lora_are_said_and_used(world, base, tmp_path):
    """What is scored is what was trained; the published code scores another model."""
    source = tmp_path / "lora"
    source.mkdir()
    trained = trained_model(world, 3)
    rows = {
        "base_model.model.model.embed_tokens.weight": trained.model.embed_tokens.weight.detach(),
        "base_model.model.lm_head.weight": trained.lm_head.weight.detach(),
    }
    lora_folder(world, source, {**linear("base_model.model.model."), **rows})
    tokenizer_with_marks(world, source)
    write_json(source / "config.json", {"model_type": "llava", "mm_use_im_start_end": True})
    # What was trained: the adapter and both matrices, on the base.
    model = LlamaForCausalLM.from_pretrained(world / "base")
    model.config.tie_word_embeddings = False
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, source).merge_and_unload()
    embeddings = torch.nn.Embedding.from_pretrained(trained.model.embed_tokens.weight.detach())
    model.model.embed_tokens = embeddings
    model.lm_head = trained.lm_head
    expected = text_logits(model)
    assert expected.shape[-1] == 323

    record = import_checkpoint(str(source), tmp_path / "out", base, str(world / "tower"))
    assert "embeddings.safetensors" in record["files"]
    assert "score another model" in record["imported"]["notes"][0]
    found, tokenizer = load_tuned_language_model(subject(tmp_path / "out"))
    torch.testing.assert_close(text_logits(found), expected, atol=1e-5, rtol=1e-5)

    marks = image_marks_of(tmp_path / "out")
    assert marks == ["<im_start>", "<im_end>"]
    spare = image_token(tokenizer, 323)
    ids = prompt_ids([(f"{IMAGE}\nWhat?", "")], "v1", tokenizer, spare, 4, marks)
    start, end = tokenizer.convert_tokens_to_ids(marks)
    at = ids.index(start)
    assert ids[at : at + 6] == [start, *[spare] * 4, end]

    made = export(subject(tmp_path / "out"), tmp_path / "exported", part="language")
    opened = LlamaForCausalLM.from_pretrained(made["folder"])
    torch.testing.assert_close(text_logits(opened), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="embeddings were trained beside the adapter"):
        export(subject(tmp_path / "out"), tmp_path / "kept", adapter="kept")
    whole = export(subject(tmp_path / "out"), tmp_path / "whole")
    assert "<im_start><image><im_end>" in (Path(whole["folder"]) / "README.md").read_text()


def test_embeddings_trained_beside_a_projector(world, base, tmp_path):
    """LLaVA's first stage with marks trains their rows; the head's are the mean of the others."""
    rows = torch.randn(322, 64, generator=torch.Generator().manual_seed(5))
    torch.save(
        {**linear("model."), "model.embed_tokens.weight": rows}, tmp_path / "mm_projector.bin"
    )
    untied = tmp_path / "untied"
    model = trained_model(world)
    model.save_pretrained(untied)
    AutoTokenizer.from_pretrained(world / "base").save_pretrained(untied)
    source = str(tmp_path / "mm_projector.bin")
    for number, (folder, tied) in enumerate(((world / "base", True), (untied, False))):
        given = {**base, "model": str(folder)}
        import_checkpoint(source, tmp_path / f"out{number}", given, str(world / "tower"))
        found, _ = load_tuned_language_model(subject(tmp_path / f"out{number}"))
        assert torch.equal(found.get_input_embeddings().weight, rows)
        head = found.get_output_embeddings().weight
        if tied:
            assert torch.equal(head, rows)
        else:
            assert torch.equal(head[:320], model.lm_head.weight)
            torch.testing.assert_close(head[320:], head[:320].mean(0).expand(2, -1))


# Whole folders


def full_folder(world: Path, folder: Path, model, pickled: bool, **extra) -> None:
    """Writes a whole model in two files and an index, as the MM-*-ft folders are."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    state |= {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16), **linear("model.")}
    state |= extra
    names = sorted(state)
    index = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        kind = "pytorch_model" if pickled else "model"
        suffix = "bin" if pickled else "safetensors"
        file = f"{kind}-{number:05}-of-00002.{suffix}"
        chosen = {name: state[name] for name in part}
        if pickled:
            torch.save(chosen, folder / file)
        else:
            save_file(chosen, folder / file)
        index |= dict.fromkeys(part, file)
    name = "pytorch_model.bin.index.json" if pickled else "model.safetensors.index.json"
    write_json(folder / name, {"metadata": {}, "weight_map": index})
    config = {
        "_name_or_path": "/elsewhere/llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": model.config.rms_norm_eps,
        "rope_theta": 500.0,
        "vocab_size": len(model.lm_head.weight),
        "tie_word_embeddings": False,
        "pad_token_id": -1,
        "torch_dtype": "float32",
        "mm_hidden_size": 32,
        "mm_vision_select_layer": -2,
        "use_mm_proj": True,
    }
    write_json(folder / "config.json", config)


def tower_inside(world: Path) -> dict[str, torch.Tensor]:
    """The tower, as LLaVA saves it with the rest."""
    state = CLIPVisionModel.from_pretrained(world / "tower").state_dict()
    prefix = "model.vision_tower.vision_tower.vision_model."
    return {prefix + name.removeprefix("vision_model."): t for name, t in state.items()}


def with_theta(model, theta: float) -> LlamaForCausalLM:
    values = {**model.config.to_dict(), "vocab_size": len(model.lm_head.weight)}
    values.pop("rope_parameters")
    made = LlamaForCausalLM(type(model.config)(**values, rope_theta=theta))
    made.load_state_dict(model.state_dict())
    return made


@pytest.mark.parametrize("pickled", (True, False))
def test_a_whole_folder(world, base, tmp_path, pickled):
    source = tmp_path / "MM-tiny-ft"
    source.mkdir()
    model = with_theta(trained_model(world), 500.0)
    inside = {name: tensor.half() for name, tensor in tower_inside(world).items()}
    full_folder(world, source, model, pickled, **inside)
    record = import_checkpoint(str(source), tmp_path / "out", base, str(world / "tower"))
    assert record["recipe"]["mode"] == "full"
    assert record["imported"]["notes"] == [
        "A vision tower lies in the checkpoint; it is that of tower."
    ]
    assert len(record["imported"]["files"]) == 2
    suffixes = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja"}
    found, tokenizer = load_tuned_language_model(subject(tmp_path / "out"))
    assert torch.equal(text_logits(found), text_logits(model))
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(world / "base").get_vocab()
    # It is an ordinary folder of transformers too.
    opened = LlamaForCausalLM.from_pretrained(tmp_path / "out" / "llm")
    assert torch.equal(text_logits(opened), text_logits(model))
    assert not any(key.startswith("mm_") for key in opened.config.to_dict())
    made = subject(tmp_path / "out")
    whole, _ = load_tuned(made, made["tower"])
    state = linear("model.")
    projected = whole.model.multi_modal_projector.linear
    assert torch.equal(projected.weight, state["model.mm_projector.weight"])


def test_a_whole_folder_with_added_tokens(world, base, tmp_path):
    source = tmp_path / "ft"
    source.mkdir()
    model = with_theta(trained_model(world, 3), 500.0)
    full_folder(world, source, model, True)
    tokenizer_with_marks(world, source)
    config = json.loads((source / "config.json").read_text())
    write_json(source / "config.json", {**config, "mm_use_im_start_end": True})
    record = import_checkpoint(str(source), tmp_path / "out", base, str(world / "tower"))
    assert record["image_marks"] == ["<im_start>", "<im_end>"]
    found, tokenizer = load_tuned_language_model(subject(tmp_path / "out"))
    assert torch.equal(text_logits(found), text_logits(model))
    assert tokenizer.convert_tokens_to_ids("<im_end>") == 322


def test_a_tower_that_was_trained_too_is_refused(world, base, tmp_path):
    source = tmp_path / "ft"
    source.mkdir()
    inside = {name: tensor + 1 for name, tensor in tower_inside(world).items()}
    full_folder(world, source, trained_model(world), True, **inside)
    with pytest.raises(UserError, match="vision tower differs from .*it was trained too"):
        import_checkpoint(str(source), tmp_path / "out", base, str(world / "tower"))
    assert not (tmp_path / "out").exists()


# Mistakes and malice


class Malicious:
    """Unpickled by pickle, it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ("zip", "legacy", "pickle"))
def test_a_malicious_pickle_is_refused_in_one_line(world, base, tmp_path, kind):
    mark, path = tmp_path / "executed", tmp_path / "mm_projector.bin"
    state = {**linear("model."), "more": Malicious(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(UserError) as error:
        import_checkpoint(str(path), tmp_path / "out", base)
    assert str(error.value).count("\n") == 0
    assert "refused: don't trust this file" in str(error.value)
    assert not mark.exists() and not (tmp_path / "out").exists()
    # It is a real one: pickle itself would have run it.
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole file of tensors|refused"),
        (b"PK\x03\x04 cut", "not a whole file of tensors|refused"),
        ({"model.mm_projector.weight": 3}, "not a dict of tensors"),
        ([1, 2], "not a dict of tensors"),
        (
            linear("model.") | {"model.norm.weight": torch.ones(64)},
            "no place for.*model.norm.weight",
        ),
        ({"model.mm_projector.weight": torch.ones(64, 32)}, "a projector of tensors weight;"),
        (
            projector({"model.mm_projector.weight": (48, 32), "model.mm_projector.bias": (48,)}),
            r"leads to 48 features, the base has 64; is it this base \(--base\)",
        ),
        (linear("model.") | {"lm_head.weight": torch.ones(2, 64)}, "embeddings of 2 tokens"),
        ({"model.embed_tokens.weight": torch.ones(320, 64)}, "no mm_projector in any file"),
    ],
    ids=str,
)
def test_files_that_are_no_projector(base, tmp_path, content, message):
    path = tmp_path / "mm_projector.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as error:
        import_checkpoint(str(path), tmp_path / "out", base)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_layouts_that_are_not_known(world, base, tmp_path):
    source = tmp_path / "published"
    source.mkdir()
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no layout that is known"):
        import_checkpoint(str(source), out, base)
    with pytest.raises(UserError, match="no such file or folder, and no hub id"):
        import_checkpoint(str(tmp_path / "nothing"), out, base)
    lora_folder(world, source, linear("model."))
    (source / "non_lora_trainables.bin").unlink()
    with pytest.raises(UserError, match="its projector is missing"):
        import_checkpoint(str(source), out, base)
    full_folder(world, tmp_path, trained_model(world), True)
    index = tmp_path / "pytorch_model.bin.index.json"
    for name in ("../base/model.safetensors", "gone.bin"):
        write_json(index, {"weight_map": {"lm_head.weight": name}})
        with pytest.raises(UserError, match="which isn't in the folder"):
            import_checkpoint(str(tmp_path), out, base)
    write_json(index, {"weight_map": {"lm_head.weight": "pytorch_model-00001-of-00002.bin"}})
    with pytest.raises(UserError, match="tensors are missing, the first is"):
        import_checkpoint(str(tmp_path), out, base)
    write_json(tmp_path / "config.json", {"model_type": "llava", "text_config": {}})
    with pytest.raises(UserError, match="type 'llava', not a LLaVA model of class"):
        import_checkpoint(str(tmp_path), out, base)
    assert not out.exists()


def test_an_adapter_of_another_base(world, base, tmp_path):
    source = tmp_path / "lora"
    source.mkdir()
    lora_folder(world, source, linear("model."))
    weights = tensors_of(source / "adapter_model.bin")
    torch.save({name: tensor.repeat(2, 2) for name, tensor in weights.items()},
               source / "adapter_model.bin")  # fmt: skip
    with pytest.raises(UserError, match=r"fits no layer of the base; is it this one \(--base\)"):
        import_checkpoint(str(source), tmp_path / "out", base)


def test_marks_without_their_tokenizer_are_refused(world, base, tmp_path):
    source = tmp_path / "published"
    source.mkdir()
    torch.save(linear("model."), source / "mm_projector.bin")
    write_json(source / "config.json", {"model_type": "llava", "mm_use_im_start_end": True})
    with pytest.raises(UserError, match="fetch its tokenizer files too"):
        import_checkpoint(str(source), tmp_path / "out", base)


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (["<im_patch>", "<im_start>", "<im_end>"], {}),
        (["<im_patch>", "<im_start>", "<im_end>"], {"mm_use_im_patch_token": True}),
        (["<im_start>", "<im_end>"], {"mm_use_im_patch_token": False}),
        (["[PAD]", "<im_patch>", "<im_start>", "<im_end>"], {"mm_use_im_patch_token": True}),
        (["[PAD]", "<im_start>", "<im_end>"], {"mm_use_im_patch_token": False}),
    ],
    ids=["older", "patch", "no patch", "pad", "pad, no patch"],
)
def test_released_adapters_and_projectors_have_no_tokenizer(world, base, tmp_path, names, config):
    """As MM-*-lora and MM-*-projector are: the rows of their embeddings tell which tokens."""
    source = tmp_path / "published"
    source.mkdir()
    rows = {"model.embed_tokens.weight": torch.randn(320 + len(names), 64)}
    torch.save({**linear("model."), **rows}, source / "mm_projector.bin")
    write_json(
        source / "config.json", {"model_type": "llava", "mm_use_im_start_end": True, **config}
    )
    record = import_checkpoint(str(source), tmp_path / "out", base, str(world / "tower"))
    assert record["image_marks"] == ["<im_start>", "<im_end>"]
    assert f"the tokens that LLaVA adds: {', '.join(names)}." in record["imported"]["notes"][0]
    _, tokenizer = load_tuned_language_model(subject(tmp_path / "out"))
    assert tokenizer.convert_tokens_to_ids(names) == [320 + n for n in range(len(names))]
    assert (
        tokenizer("a<im_start>b", add_special_tokens=False)["input_ids"].count(
            tokenizer.convert_tokens_to_ids("<im_start>")
        )
        == 1
    )


# A reference of a study


def study_with(world: Path, **reference):
    from sight_beyond_text.study import load

    training = {"learning_rate": 1e-2, "batch_size": 4, "precision": "fp32"}
    data = {name: str(world / f"{name}.json") for name in ("instructions", "captions")}
    return load(
        {
            "name": "tiny",
            "data": {**data, "alignment": data["instructions"], "images": str(world / "images")},
            "tower": {"model": str(world / "tower")},
            "bases": {"tiny": {"model": str(world / "base")}},
            "sources": {"visual": {}},
            "alignment": training,
            "tunings": {"frozen": training},
            "references": {
                "published": {"model": str(world / "base"), "template": "v0", **reference}
            },
            "evaluation": {
                "text": {"boolq": {"path": str(world)}},
                "image": {
                    "captions": {
                        "type": "captions",
                        "images": str(world / "images"),
                        "annotations": str(world / "captions.json"),
                        "limit": 3,
                    }
                },
            },
        }
    )


def reference_specs(study) -> dict[str, dict]:
    specs = grid.evaluation_specs(study)
    return {s["suite"]: s for s in specs if s["subject"]["id"].startswith("published-")}


@pytest.fixture
def imported(world, base, tmp_path) -> Path:
    source = tmp_path / "lora"
    source.mkdir()
    lora_folder(world, source, linear("base_model.model.model."))
    import_checkpoint(str(source), tmp_path / "imported", base, str(world / "tower"))
    return tmp_path / "imported"


def test_a_reference_names_an_imported_checkpoint(world, imported):
    without = reference_specs(study_with(world))
    assert list(without) == ["text"] and without["text"]["subject"]["mode"] is None
    study = study_with(world, checkpoint=str(imported))
    assert grid.missing_inputs(study) == []
    specs = reference_specs(study)
    assert list(specs) == ["text", "image"]
    for spec in specs.values():
        assert spec["subject"] == {
            "id": specs["text"]["subject"]["id"],
            "mode": "lora",
            "base": {"model": str(world / "base"), "revision": None, "remote_code": False},
            "template": "v0",
            "tower": study.tower.model_dump(),
            "checkpoint": str(imported),
            "projector": str(imported),
            "precision": "fp32",
        }
    assert specs["text"]["subject"]["id"] != without["text"]["subject"]["id"]
    told = next(s for s in grid.compare_spec(study)["subjects"] if s["kind"] == "reference")
    assert len(told["evaluations"]) == 2 and told["record"] is None


def test_a_references_identity_follows_the_checkpoints_content(world, base, imported, tmp_path):
    moved = tmp_path / "moved"
    imported.rename(moved)
    before = reference_specs(study_with(world, checkpoint=str(moved)))["text"]["subject"]["id"]
    moved.rename(imported)
    after = reference_specs(study_with(world, checkpoint=str(imported)))["text"]["subject"]["id"]
    assert before == after
    other = tmp_path / "mm_projector.bin"
    torch.save(linear("model."), other)
    import_checkpoint(str(other), tmp_path / "other", base, str(world / "tower"))
    study = study_with(world, checkpoint=str(tmp_path / "other"))
    assert reference_specs(study)["text"]["subject"]["id"] != before


def test_a_reference_that_does_not_fit_the_study(world, base, imported, tmp_path):
    gone = study_with(world, checkpoint="nowhere")
    assert grid.missing_inputs(gone) == [
        "references.published.checkpoint: nowhere: no checkpoint there; `sight import` makes one"
    ]
    path = tmp_path / "mm_projector.bin"
    torch.save(two_layers("model."), path)
    import_checkpoint(str(path), tmp_path / "deep", base, "owner/tower")
    (line,) = grid.missing_inputs(study_with(world, checkpoint=str(tmp_path / "deep")))
    assert "its projector was made for tower.projector mlp2x_gelu, found linear" in line
    record = json.loads((imported / "complete.json").read_text())
    record["recipe"]["base"] = "folder:00000000"
    write_json(imported / "complete.json", record)
    (line,) = grid.missing_inputs(study_with(world, checkpoint=str(imported)))
    assert "it stands on the base folder:00000000, model says folder:" in line


def test_an_imported_reference_is_evaluated_for_real(world, imported, tmp_path, monkeypatch):
    from sight_beyond_text.analysis import tidy
    from sight_beyond_text.evaluation.image import evaluate_image
    from sight_beyond_text.evaluation.image_features import make_features

    study = study_with(world, checkpoint=str(imported))
    spec = reference_specs(study)["image"]
    verify(spec["subject"]["checkpoint"])
    monkeypatch.chdir(tmp_path)
    make_features(grid.seen_spec(study, spec["subject"]["precision"]))
    evaluate_image(json.loads(str(spec)), tmp_path / "scores")
    scores = tidy.read_table(tmp_path / "scores", "scores", "scores.parquet")
    assert set(scores["run"]) == {spec["subject"]["id"]}
    assert "CIDEr" in set(scores["metric"]) and (scores["n"] == 3).all()
