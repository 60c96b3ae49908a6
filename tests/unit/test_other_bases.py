"""Trainings of bases that name their layers otherwise than Llama, and adapters of another base."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_base
from tiny_runs import make_world, run_spec
from transformers import AutoTokenizer, GPT2Config, GPTNeoXConfig

from sight_beyond_text.errors import UserError
from sight_beyond_text.models.building import load_language_model
from sight_beyond_text.models.checkpoints import load_tuned_language_model
from sight_beyond_text.models.export import export
from sight_beyond_text.training.train import train

BASES = {
    "gpt_neox": (
        lambda rows: GPTNeoXConfig(
            vocab_size=rows,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        ["query_key_value", "dense_4h_to_h"],
    ),
    "gpt2": (
        lambda rows: GPT2Config(vocab_size=rows, n_embd=32, n_layer=2, n_head=2),
        ["c_attn", "c_proj"],
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def spec_of(world, family: str, mode: str, folder) -> dict:
    config, targets = BASES[family]
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    base = make_base(folder / "base", tokenizer, config(len(tokenizer)))
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": targets}
    return run_spec(
        world,
        mode,
        base=base,
        epochs=1,
        lora=lora if mode in ("lora", "qlora") else None,
        checkpoint=str(folder / "checkpoint"),
    )


def subject(given: dict) -> dict:
    named = {key: given[key] for key in ("id", "base", "mode", "checkpoint", "template", "tower")}
    return {**named, "projector": given["checkpoint"], "precision": "fp32"}


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("mode", ("full", "lora"))
def test_what_such_a_base_learned_is_saved_so_that_it_loads(world, tmp_path, family, mode):
    given = spec_of(world, family, mode, tmp_path)
    record = train(given, tmp_path / "train.json")
    tuned, _ = load_tuned_language_model(subject(given))
    before = dict(load_language_model(given["base"], torch.float32).named_parameters())
    changed = {n for n, t in tuned.named_parameters() if not torch.equal(t, before[n])}
    if mode == "full":
        assert changed == set(before)
    else:
        targets = {
            n for n in before if n.endswith("weight") and n.split(".")[-2] in BASES[family][1]
        }
        assert changed == targets and targets
        assert len(record["learned_tensors"]) == 2 * len(targets) + 2
    text = {"input_ids": torch.arange(4, 24)[None]}
    export(subject(given), tmp_path / "out", part="language")
    alone = load_language_model({"model": str(tmp_path / "out"), "revision": None}, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(alone(**text).logits, tuned(**text).logits)


@pytest.mark.parametrize("damage", ("missing", "renamed"))
def test_an_adapter_that_fits_its_base_only_in_part_is_refused(world, tmp_path, damage):
    given = spec_of(world, "gpt_neox", "lora", tmp_path)
    train(given, tmp_path / "train.json")
    path = tmp_path / "checkpoint" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    if damage == "missing":
        tensors.pop(min(tensors))
        told = "1 tensors are missing, 0 fit nowhere"
    else:
        tensors = {name.replace(".gpt_neox.", ".model."): t for name, t in tensors.items()}
        told = "8 tensors are missing, 8 fit nowhere"
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"adapter_model.safetensors: not an adapter .*{told}"):
        load_tuned_language_model(subject(given))
