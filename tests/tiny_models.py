"""Tiny models with random weights, saved as transformers saves them."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SIDE, PATCHES = 62, 9
"""Pixels of a side, and patches of 20 x 20 pixels that fit."""

ROWS = 330
LLM = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.3,
}
"""Sizes of a language model, and ids of `micro.tokenizer`; weights large enough to tell apart."""


def make_tower(folder: Path, kind: str = "clip", whole: bool = False, **spec) -> dict:
    """A random CLIP or SigLIP tower, alone or as a part of its two-tower model; its spec."""
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 2, "image_size": SIDE, "patch_size": 20}
    text = {**vision, "vocab_size": 99, "max_position_embeddings": 16}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    square = {"height": SIDE, "width": SIDE}
    parts = {"text_config": text, "vision_config": vision}
    if kind == "clip":
        model = (
            CLIPModel(CLIPConfig(**parts)) if whole else CLIPVisionModel(CLIPVisionConfig(**vision))
        )
        processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
    else:
        model = (
            SiglipModel(SiglipConfig(**parts))
            if whole
            else SiglipVisionModel(SiglipVisionConfig(**vision))
        )
        processor = SiglipImageProcessorPil(size=square)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    given = {"model": str(folder), "revision": None, "layer": -2, "projector": "linear"}
    return {**given, "preparation": "crop", **spec}


def make_base(folder: Path, tokenizer, config) -> dict:
    """A random language model and its tokenizer; its spec."""
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"model": str(folder), "revision": None}
