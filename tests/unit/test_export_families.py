"""Bases of any family are exported: the whole model opens and gives the logits it was scored by."""

from pathlib import Path

import pytest
import torch
from tiny_models import LLM, PATCHES, ROWS, SIDE, make_base, make_tower
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from sight_beyond_text.files import write_json
from sight_beyond_text.micro.tokenizer import train_tokenizer
from sight_beyond_text.models.building import build, load_tokenizer
from sight_beyond_text.models.checkpoints import hashes, save_projector
from sight_beyond_text.models.export import export

TIED = {"tie_word_embeddings": True}
CAP = 2.0
FAMILIES = {
    "llama": lambda: LlamaConfig(**LLM),
    "mistral": lambda: MistralConfig(**LLM, sliding_window=8),
    "qwen2": lambda: Qwen2Config(**LLM, **TIED),
    "qwen3": lambda: Qwen3Config(**LLM, **TIED, head_dim=16),
    "gemma": lambda: GemmaConfig(**LLM, **TIED, head_dim=16),
    "gemma2": lambda: Gemma2Config(**LLM, **TIED, head_dim=16, final_logit_softcapping=CAP),
    "olmo2": lambda: Olmo2Config(**LLM),
    "phi3": lambda: Phi3Config(**LLM),
    "gpt2": lambda: GPT2Config(
        vocab_size=ROWS, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is in the image? A red circle is there."] * 3, 300)


@pytest.mark.parametrize(
    ("family", "tower_kind"), [*((family, "clip") for family in FAMILIES), ("qwen2", "siglip")]
)
def test_a_whole_export_gives_the_logits_of_the_run(family, tower_kind, tokenizer, tmp_path):
    base = make_base(tmp_path / "base", tokenizer, FAMILIES[family]())
    tower = make_tower(tmp_path / "tower", tower_kind, preparation="stretch")
    torch.manual_seed(3)
    model = build(base, tower, load_tokenizer(base), torch.float32)
    checkpoint = tmp_path / "run" / "checkpoint"
    checkpoint.mkdir(parents=True)
    save_projector(model.state_dict(), checkpoint)
    record = {"id": family, "recipe": {"mode": "frozen"}, "files": hashes(checkpoint)}
    write_json(checkpoint / "complete.json", record)
    subject = {
        "id": family,
        "mode": "frozen",
        "base": base,
        "template": "v1",
        "tower": tower,
        "checkpoint": str(checkpoint),
        "projector": str(checkpoint),
        "precision": "fp32",
    }
    whole = Path(export(subject, tmp_path / "whole")["folder"])
    opened, found = LlavaForConditionalGeneration.from_pretrained(whole, output_loading_info=True)
    assert not any(found.values()), found
    processor = AutoProcessor.from_pretrained(whole)
    assert processor.image_token_id == opened.config.image_token_id
    ids = torch.arange(4, 44)[None].clone()
    ids[0, 3 : 3 + PATCHES] = opened.config.image_token_id
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, SIDE, SIDE)}
    with torch.inference_mode():
        expected, made = model(**inputs).logits, opened.eval()(**inputs).logits
        texts = torch.arange(4, 44)[None]
        said = opened(input_ids=texts).logits
    card = (whole / "README.md").read_text()
    if family == "gemma2":
        assert "caps its logits" in card
        made, said = (CAP * torch.tanh(logits / CAP) for logits in (made, said))
    else:
        assert "caps its logits" not in card
    assert torch.equal(made, expected)
    alone = export(subject, tmp_path / "alone", part="language")["folder"]
    llm = AutoModelForCausalLM.from_pretrained(alone).eval()
    with torch.inference_mode():
        assert torch.equal(said, llm(input_ids=texts).logits)
