"""Any base: language models of many families learn, are saved, and come back, with an image."""

from pathlib import Path

import pytest
import torch
from tiny_models import LLM, PATCHES, SIDE, make_base, make_tower
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from sight_beyond_text.data.samples import IGNORED, Collator
from sight_beyond_text.micro.tokenizer import train_tokenizer
from sight_beyond_text.models.building import (
    add_adapters,
    build,
    load_language_model,
    load_tokenizer,
    padding_token,
)
from sight_beyond_text.models.checkpoints import (
    load_tuned,
    load_tuned_language_model,
    save_projector,
)
from sight_beyond_text.training.modes import set_trainable

MODES = ("full", "lora", pytest.param("qlora", marks=pytest.mark.slow), "frozen")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": TARGETS}
WINDOW = {"sliding_window": 8}
TIED, APART = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
FAMILIES = {
    "llama": lambda: LlamaConfig(**LLM, **APART),
    "smollm": lambda: LlamaConfig(**LLM, **TIED, rope_theta=100000.0),
    "smollm3": lambda: SmolLM3Config(**LLM, **TIED),
    "mistral": lambda: MistralConfig(**LLM, **WINDOW, **APART),
    "qwen2": lambda: Qwen2Config(**LLM, **TIED, **WINDOW, use_sliding_window=True),
    "qwen3": lambda: Qwen3Config(**LLM, **TIED, head_dim=16),
    "gemma": lambda: GemmaConfig(**LLM, **TIED, head_dim=16),
    "gemma2": lambda: Gemma2Config(
        **LLM, **TIED, **WINDOW, head_dim=16, final_logit_softcapping=2.0
    ),
    "gemma3": lambda: Gemma3TextConfig(**LLM, **TIED, **WINDOW, head_dim=16),
    "olmo2": lambda: Olmo2Config(**LLM, **APART),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is in the image? A red circle is there."] * 3, 300)


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> dict:
    return make_tower(tmp_path_factory.mktemp("tower"))


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tokenizer, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp(request.param)
    return make_base(folder, tokenizer, FAMILIES[request.param]())


def batch_of(tokenizer, place: int) -> dict:
    """Two samples, one with an image; longer than a sliding window."""
    texts = [tokenizer(text)["input_ids"] for text in ("What is it? A red circle", "A ring")]
    samples = [
        {
            "input_ids": [place] * PATCHES + texts[0],
            "labels": [IGNORED] * (PATCHES + 8) + texts[0][8:],
            "pixel_values": torch.linspace(-2, 2, 3 * SIDE * SIDE).reshape(3, SIDE, SIDE),
        },
        {"input_ids": texts[1], "labels": [IGNORED, *texts[1][1:]]},
    ]
    return Collator(padding_token(tokenizer, place))(samples)


def subject_of(base: dict, mode: str | None, folder: Path) -> dict:
    return {
        "base": base,
        "mode": mode,
        "checkpoint": str(folder),
        "projector": str(folder),
        "precision": "fp32",
    }


def whole(base: dict, tower: dict, llm=None):
    return build(base, tower, load_tokenizer(base), torch.float32, language_model=llm)


@torch.no_grad()
def test_on_texts_the_whole_model_says_what_the_language_model_says(base, tower) -> None:
    llm, model = load_language_model(base, torch.float32), whole(base, tower)
    ids = torch.arange(4, 44)[None]
    alone = llm(input_ids=ids).logits
    assert alone.std() > 0.1
    assert torch.equal(model(input_ids=ids).logits, alone)
    mask = torch.ones_like(ids)
    mask[:, :9] = 0
    padded = model(input_ids=ids, attention_mask=mask).logits[:, 9:]
    assert torch.equal(padded, llm(input_ids=ids, attention_mask=mask).logits[:, 9:])


@torch.no_grad()
def test_image_features_reach_the_layers_as_the_projector_gives_them(
    base, tower, tokenizer
) -> None:
    model = whole(base, tower)
    batch = batch_of(tokenizer, model.config.image_token_id)
    seen = {}
    layer = model.model.language_model.layers[0]
    layer.register_forward_pre_hook(
        lambda _, given, named: seen.update(hidden=named.get("hidden_states", *given)),
        with_kwargs=True,
    )
    model.model.multi_modal_projector.register_forward_hook(
        lambda *called: seen.update(features=called[2])
    )
    model(**batch)
    places = batch["input_ids"] == model.config.image_token_id
    assert places.sum() == PATCHES
    assert torch.equal(seen["hidden"][places], seen["features"][0])
    texts = model.get_input_embeddings()(batch["input_ids"])
    assert torch.equal(seen["hidden"][~places], texts[~places])


@torch.no_grad()
def test_an_answer_is_the_same_with_and_without_a_cache(base, tower, tokenizer) -> None:
    model = whole(base, tower)
    batch = batch_of(tokenizer, model.config.image_token_id)
    asked = {key: batch[key][:1] for key in ("input_ids", "attention_mask", "pixel_values")}
    made = [
        model.generate(**asked, max_new_tokens=4, do_sample=False, use_cache=cached, pad_token_id=2)
        for cached in (True, False)
    ]
    assert made[0].shape[1] > asked["input_ids"].shape[1]
    assert torch.equal(*made)


@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_learned_saved_and_comes_back(
    base, tower, tokenizer, mode: str, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    llm = load_language_model(base, torch.float32, four_bit=mode == "qlora")
    before = {name: tensor.clone() for name, tensor in llm.state_dict().items()}
    adapted = add_adapters(llm, LORA) if mode in ("lora", "qlora") else None
    model = whole(base, tower, llm)
    names = set_trainable(model, mode)
    batch = batch_of(tokenizer, model.config.image_token_id)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(learned) == len(names)
    optimizer = torch.optim.SGD(learned, lr=0.05)
    losses = []
    for _ in range(2):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    head, embeddings = llm.get_output_embeddings(), llm.get_input_embeddings()
    tied = llm.config.tie_word_embeddings
    if mode == "full":
        assert (head.weight is embeddings.weight) == tied
        assert (model.lm_head.weight is embeddings.weight) == tied
        llm.save_pretrained(tmp_path / "llm")
    elif adapted is not None:
        assert sum(".lora_A." in name for name in names) == 2 * len(TARGETS)
        adapted.save_pretrained(tmp_path / "adapter")
    else:
        now = llm.state_dict()
        assert now.keys() == before.keys()
        assert all(torch.equal(now[name], before[name]) for name in before)
    save_projector(model.state_dict(), tmp_path)
    model.eval()
    again, _ = load_tuned(subject_of(base, mode, tmp_path), tower)
    alone, _ = load_tuned_language_model(subject_of(base, mode, tmp_path))
    text = {"input_ids": torch.arange(4, 24)[None]}
    with torch.no_grad():
        untuned = load_language_model(base, torch.float32)(**text).logits
        assert torch.equal(model(**text).logits, untuned) == (mode == "frozen")
        # Merged adapters sum in another order.
        close = {"rtol": 1e-4, "atol": 1e-4} if mode == "lora" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits, **close)
        torch.testing.assert_close(alone(**text).logits, model(**text).logits, **close)
    if mode == "full":
        weights = alone.get_output_embeddings().weight, alone.get_input_embeddings().weight
        assert (weights[0] is weights[1]) == tied
