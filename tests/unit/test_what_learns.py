"""What learns in a training: from which values, how precise, how fast; and what stays."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import MODES, make_world, run_spec

from sight_beyond_text.models.building import build, load_language_model, load_tokenizer
from sight_beyond_text.training import train as training
from sight_beyond_text.training.modes import set_trainable

PROJECTOR = "projector.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def aligned(world, tmp_path_factory) -> str:
    """The checkpoint of an alignment, whose weights bfloat16 can't hold."""
    folder = tmp_path_factory.mktemp("aligned")
    stage = {"stage": "align", "template": "plain", "checkpoint": str(folder / "checkpoint")}
    training.train(run_spec(world, "align", epochs=1, **stage), folder / "train.json")
    learned = load_file(folder / "checkpoint" / PROJECTOR)["linear.weight"]
    assert not torch.equal(learned, learned.bfloat16().float())
    return str(folder / "checkpoint")


def still(world, mode: str, folder, **changes) -> dict:
    """A run of one step, whose learning rate is 0, as the first of a warm-up is."""
    once = {"epochs": 1, "batch_size": 12, "checkpoint": str(folder / "checkpoint")}
    return run_spec(world, mode, **once, **changes)


def test_in_bf16_all_that_learns_starts_in_float32_and_unrounded(world, aligned, tmp_path):
    given = still(world, "full", tmp_path, precision="bf16", projector=aligned)
    training.train(given, tmp_path / "train.json")
    base = load_file(world / "base" / "model.safetensors")
    assert not all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in base.values())
    started = load_file(tmp_path / "checkpoint" / "llm" / "model.safetensors")
    assert started.keys() == base.keys()
    for name, tensor in started.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, base[name]), name
    before, after = (load_file(f"{path}/{PROJECTOR}") for path in (aligned, given["checkpoint"]))
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name]), name


def test_a_fresh_projector_starts_alike_in_both_precisions(world, tmp_path):
    drawn = []
    for precision in ("fp32", "bf16"):
        given = still(world, "align", tmp_path / precision, precision=precision, template="plain")
        training.train(given, tmp_path / precision / "train.json")
        drawn.append(load_file(f"{given['checkpoint']}/{PROJECTOR}"))
    for name, tensor in drawn[0].items():
        assert torch.equal(tensor, drawn[1][name]), name


def test_without_images_a_projector_stays_as_it_was_aligned(world, aligned, tmp_path):
    given = run_spec(
        world,
        "lora",
        precision="bf16",
        epochs=1,
        projector=aligned,
        source={"form": "text", "kinds": "all"},
        checkpoint=str(tmp_path / "checkpoint"),
    )
    training.train(given, tmp_path / "train.json")
    before, after = (load_file(f"{path}/{PROJECTOR}") for path in (aligned, given["checkpoint"]))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("mode", ("frozen", "lora", "qlora"))
def test_a_frozen_language_model_stays_to_the_bit_while_it_is_trained_with(
    world, tmp_path, monkeypatch, mode
):
    kept = []

    def loaded(*given, **named):
        kept.append(load_language_model(*given, **named))
        return kept[0]

    monkeypatch.setattr(training, "load_language_model", loaded)
    given = run_spec(world, mode, epochs=1, checkpoint=str(tmp_path / "checkpoint"))
    training.train(given, tmp_path / "train.json")
    fresh = load_language_model(given["base"], torch.float32, four_bit=mode == "qlora")
    now = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in kept[0].state_dict().items()
        if ".lora_" not in name
    }
    before = fresh.state_dict()
    assert now.keys() == before.keys()
    for name, tensor in before.items():
        assert now[name].dtype == tensor.dtype
        assert torch.equal(now[name], tensor), name


@pytest.mark.parametrize("mode", ("align", *MODES))
@pytest.mark.parametrize("own", (None, 2e-5))
def test_projector_and_language_model_learn_at_their_own_rates(world, mode, own):
    given = run_spec(world, mode, learning_rate=3e-4, weight_decay=0.1)
    llm = load_language_model(given["base"], torch.float32)
    if given["lora"]:
        training.add_adapters(llm, given["lora"])
    tokenizer = load_tokenizer(given["base"])
    model = build(given["base"], given["tower"], tokenizer, torch.float32, language_model=llm)
    names = set_trainable(model, "lora" if mode == "qlora" else mode)
    rates = {}
    for group in training._optimizer(model, given["training"], own).param_groups:
        assert group["weight_decay"] == 0.1
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    parameters = dict(model.named_parameters())
    assert {id(parameters[name]) for name in names} == set(rates)
    for name in names:
        of_projector = name.startswith("model.multi_modal_projector.")
        assert rates[id(parameters[name])] == ((own or 3e-4) if of_projector else 3e-4), name
