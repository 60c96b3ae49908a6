"""The loss of learned tokens alone equals the model's own, value and gradient."""

import pytest
import torch
from tiny_runs import make_world, run_spec
from torch import nn

from sight_beyond_text.data.samples import IGNORED, Collator, Conversations, Pixels
from sight_beyond_text.models.building import (
    build,
    image_token,
    load_language_model,
    load_processor,
    load_tokenizer,
    patches_of,
)
from sight_beyond_text.models.features import Features, cache_features
from sight_beyond_text.training import loss as losses
from sight_beyond_text.training.loss import TokenLoss, summed_loss
from sight_beyond_text.training.modes import set_trainable
from sight_beyond_text.training.train import load_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def assembled(world, form: str = "visual"):
    """A model in which all of the LLM and the projector learn, and the encoded samples."""
    given = run_spec(world, "full", source={"form": form, "kinds": "all"})
    tokenizer = load_tokenizer(given["base"])
    llm = load_language_model(given["base"], torch.float32)
    torch.manual_seed(0)
    model = build(given["base"], given["tower"], tokenizer, torch.float32, language_model=llm)
    set_trainable(model, "full")
    samples = Conversations(
        load_rows(given),
        tokenizer,
        given["template"],
        image_token(tokenizer, llm.get_input_embeddings().weight.shape[0]),
        patches_of(given["tower"]),
        512,
        Pixels(given["data"]["images"], load_processor(given["tower"])),
    )
    return model, samples


def own(batch: dict) -> dict:
    """A batch as our loss takes it."""
    return {name: tensor for name, tensor in batch.items() if name != "attention_mask"}


def gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("chunk", (8, 1024))
def test_loss_and_gradients_are_the_models_own(world, monkeypatch, chunk):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    model, samples = assembled(world)
    batch = Collator(0)([samples[i] for i in range(4)])
    count = int((batch["labels"][:, 1:] != IGNORED).sum())
    assert count > 16, "several chunks"
    whole = model(**batch).loss
    whole.backward()
    expected = gradients(model)
    ours = TokenLoss(model)(**own(batch)) / count
    ours.backward()
    assert ours.item() == pytest.approx(whole.item(), abs=1e-5)
    found = gradients(model)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


def test_a_pass_of_which_nothing_is_learned_has_zero_gradients(world):
    model, samples = assembled(world)
    batch = Collator(0)([samples[0]])
    batch["labels"].fill_(IGNORED)
    total = TokenLoss(model)(**own(batch))
    total.backward()
    assert total.item() == 0
    assert all(not gradient.any() for gradient in gradients(model).values())


def test_texts_touch_the_projector_only_in_a_run_with_images(world):
    model, samples = assembled(world, "text")
    batch = Collator(0)([samples[0]])
    for with_images in (True, False):
        TokenLoss(model, with_images)(**own(batch)).backward()
        found = {n: g for n, g in gradients(model).items() if "projector" in n}
        assert bool(found) == with_images
        assert all(not gradient.any() for gradient in found.values())


def test_the_tower_never_trains(world):
    model, _ = assembled(world)
    wrapped = TokenLoss(model).train()
    assert model.model.language_model.training
    assert not wrapped.model.model.vision_tower.training


def test_cached_features_give_the_same_loss(world, tmp_path):
    model, samples = assembled(world)
    names = [sample["image"] for sample in samples.samples]
    record = cache_features(
        names, samples.pixels, model.model.vision_tower, -2, tmp_path, limit_gib=1
    )
    assert record["names"] == sorted(names)
    seen = TokenLoss(model)(**own(Collator(0)([samples[i] for i in range(5)])))
    samples.pixels = Features(tmp_path)
    batch = Collator(0)([samples[i] for i in range(5)])
    assert "pixel_values" not in batch
    assert TokenLoss(model)(**own(batch)).item() == pytest.approx(seen.item(), rel=1e-5)


def test_features_are_what_the_model_reads(world, tmp_path):
    model, samples = assembled(world)
    cache_features(["3.png"], samples.pixels, model.model.vision_tower, -2, tmp_path, 1)
    cached = Features(tmp_path)("3.png")
    projected = model.model.multi_modal_projector(cached)
    own = model.model.get_image_features(
        pixel_values=samples.pixels("3.png")[None],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    ).pooler_output[0]
    torch.testing.assert_close(projected, own)


def test_bfloat16_features_come_back_to_the_bit(world, tmp_path):
    model, samples = assembled(world)
    tower = model.model.vision_tower.to(torch.bfloat16)
    cache_features(["3.png", "5.png"], samples.pixels, tower, -2, tmp_path, limit_gib=1)
    values = torch.stack([samples.pixels("3.png"), samples.pixels("5.png")])
    from sight_beyond_text.models.features import tower_features

    found = Features(tmp_path)("5.png")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, tower_features(tower, values, -2)[1])


def test_no_room_means_no_cache(world, tmp_path):
    model, samples = assembled(world)
    record = cache_features(["3.png"], samples.pixels, model.model.vision_tower, -2, tmp_path, 0)
    assert "0 allowed" in record["why"]
    assert Features(tmp_path)("3.png") is None
    assert not (tmp_path / "features.npy").exists()


def test_no_learned_tokens_cost_nothing():
    head = nn.Linear(4, 9, bias=False)
    hidden = torch.zeros(0, 4, requires_grad=True)
    assert summed_loss(hidden, torch.zeros(0, dtype=torch.long), head).item() == 0
