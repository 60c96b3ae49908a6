"""A whole model of random weights, assembled as a training assembles it, and its shapes."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from sight_beyond_text.memory import Job
from sight_beyond_text.models.building import DTYPES, add_adapters, build, load_language_model
from sight_beyond_text.shapes import model_shape, tower_shape
from sight_beyond_text.training.modes import set_trainable

SIZES = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCH, LENGTH, LEARNED, PATCHES = 2, 128, 10, 9
"""Samples, their positions, learned tokens and positions of their image."""


def job(mode: str, precision: str = "fp32", dropout: float = 0.0) -> Job:
    """What is trained on a CPU."""
    lora = {"rank": 8, "alpha": 8, "dropout": dropout, "targets": TARGETS}
    adapted = mode in ("lora", "qlora")
    return Job(mode, lora=lora if adapted else None, precision=precision, gpu=False)


def model_of(folder: Path, family: str, wanted: Job):
    """The model as a training assembles it, and its shapes."""
    dtype = DTYPES[wanted.precision]
    base = {"model": str(folder / family), "revision": None}
    tower = {"model": str(folder / "tower"), "revision": None, "layer": -2, "projector": "linear"}
    llm = load_language_model(base, dtype, four_bit=wanted.mode == "qlora")
    if wanted.lora:
        add_adapters(llm, wanted.lora)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"word": 0})))
    model = build(base, tower, words, dtype, language_model=llm)
    set_trainable(model, wanted.mode)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    shape = model_shape(json.loads((folder / family / "config.json").read_text()))
    return model, shape, tower_shape(json.loads((folder / "tower" / "config.json").read_text()))


def batch_of(model) -> dict[str, torch.Tensor]:
    """Samples that begin with an image and end with learned tokens."""
    ids = torch.randint(3, 300, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[:, :PATCHES] = model.config.image_token_id
    labels = ids.clone()
    labels[:, :-LEARNED] = -100
    side = model.config.vision_config.image_size
    pixels = torch.zeros(BATCH, 3, side, side)
    return {"input_ids": ids, "labels": labels, "pixel_values": pixels}
