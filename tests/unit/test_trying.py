"""What is tried before a training, and what trainings in the rarer settings leave."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_tower
from tiny_runs import make_world, run_spec

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import write_json
from sight_beyond_text.models.features import make_features
from sight_beyond_text.training.learner import Learner, thinned
from sight_beyond_text.training.loss import TokenLoss
from sight_beyond_text.training.train import train


class Stop(Exception):
    """Ends a training where it is looked into."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(("token_budget", "several"), [(None, False), (60, True)])
def test_the_largest_pass_is_tried_beside_gradients_where_steps_have_several(
    world, tmp_path, monkeypatch, token_budget, several
):
    seen = []

    def forward(self, **_):
        seen.extend(p.grad is not None for p in self.parameters() if p.requires_grad)
        raise Stop

    monkeypatch.setattr(TokenLoss, "forward", forward)
    given = run_spec(
        world, "lora", token_budget=token_budget, checkpoint=str(tmp_path / "checkpoint")
    )
    with pytest.raises(Stop):
        train(given, tmp_path / "train.json")
    assert set(seen) == {several}


@pytest.mark.parametrize(("optimizer", "bytes_each"), [("adamw", 8), ("paged_adamw_8bit", 0)])
def test_the_largest_pass_is_tried_beside_states_that_cannot_make_way(
    world, tmp_path, monkeypatch, optimizer, bytes_each
):
    def try_longest(self, beside):
        learned = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        assert beside == bytes_each * learned
        raise Stop

    monkeypatch.setattr(Learner, "try_longest", try_longest)
    given = run_spec(world, "frozen", optimizer=optimizer, checkpoint=str(tmp_path / "checkpoint"))
    with pytest.raises(Stop):
        train(given, tmp_path / "train.json")


@pytest.mark.slow
def test_the_paged_optimizer_learns_where_nothing_can_be_paged(world, tmp_path):
    given = run_spec(
        world,
        "full",
        optimizer="paged_adamw_8bit",
        learning_rate=1e-2,
        epochs=1,
        batch_size=3,
        checkpoint=str(tmp_path / "checkpoint"),
    )
    losses = [point["loss"] for point in train(given, tmp_path / "train.json")["curve"]]
    assert losses[-1] < losses[0] - 0.3


def test_a_curve_ends_with_the_last_step():
    losses = [{"loss": float(step), "learning_rate": 1.0 / step} for step in range(1, 306)]
    curve = thinned(losses, steps_an_epoch=305)
    assert [point["step"] for point in curve] == [*range(3, 304, 3), 305]
    last = {"step": 305, "epoch": 1.0, "loss": 304.5, "learning_rate": 1 / 305}
    assert curve[-1] == last


def test_samples_that_are_cut_or_dropped_are_told_in_the_record(world, tmp_path):
    def row(name: str, asked: str, answered: str) -> dict:
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]
        return {"id": name, "conversations": turns}

    rows = [row(f"whole {number}", "What is this?", "a ring.") for number in range(5)]
    rows += [row("cut", "What is this?", "a ring " * 100), row("dropped", "Why? " * 200, "so.")]
    write_json(tmp_path / "rows.json", rows)
    given = run_spec(
        world,
        "lora",
        epochs=1,
        max_length=200,
        max_lost=0.3,
        data={"instructions": str(tmp_path / "rows.json"), "images": "-", "captions": None},
        checkpoint=str(tmp_path / "checkpoint"),
    )
    record = train(given, tmp_path / "train.json")
    # The question alone is longer than the limit, so that one is cut first.
    assert record["samples_cut"] == ["cut", "dropped"]
    assert record["samples_dropped"] == ["dropped"]
    assert (record["samples_lost"], record["samples"]) == (2, 6)
    given["training"]["max_lost"] = 0.2
    given["recipe"] = {"mode": "another"}
    with pytest.raises(UserError, match="more than max_lost"):
        train(given, tmp_path / "train.json")


def test_siglip_and_two_layers_learn_the_same_from_cached_features(world, tmp_path):
    tower = make_tower(tmp_path / "tower", "siglip", projector="mlp2x_gelu")
    features = {
        "tower": tower,
        "precision": "fp32",
        "images": str(world / "images"),
        "instructions": [str(world / "instructions.json")],
        "limit_gib": 1,
        "folder": str(tmp_path / "features"),
    }
    assert len(make_features(features)["names"]) == 12
    learned, curves = [], []
    for cached in (None, features["folder"]):
        folder = tmp_path / str(bool(cached))
        given = run_spec(
            world,
            "lora",
            tower=tower,
            epochs=1,
            features=cached,
            checkpoint=str(folder / "checkpoint"),
        )
        record = train(given, folder / "train.json")
        curves.append([point["loss"] for point in record["curve"]])
        learned.append(load_file(folder / "checkpoint" / "projector.safetensors"))
    assert {f"linear_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")} == set(learned[0])
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    for name, tensor in learned[0].items():
        torch.testing.assert_close(tensor, learned[1][name], atol=1e-4, rtol=1e-3)
