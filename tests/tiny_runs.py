"""A world of a few pictures with a tiny base and tower, and specs of runs on it."""

import random
from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from sight_beyond_text.files import write_json
from sight_beyond_text.micro.scenes import captions, draw, sample_scene
from sight_beyond_text.micro.tokenizer import train_tokenizer

MODES = ("full", "lora", "qlora", "frozen")
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}


def make_world(folder: Path) -> Path:
    """A base, a tower, a few pictures and instructions."""
    torch.manual_seed(0)
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(12)]
    texts = [text for scene in scenes for text in captions(scene, rng)]
    tokenizer = train_tokenizer(texts, 320)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    )
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=32,
        )
    ).save_pretrained(folder / "tower")
    CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    ).save_pretrained(folder / "tower")
    (folder / "images").mkdir()
    rows = []
    for number, scene in enumerate(scenes):
        draw(scene, rng).save(folder / "images" / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": captions(scene, rng)[0]},
        ]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    write_json(folder / "instructions.json", rows)
    said = [{"id": i, "image_id": i, "caption": f"scene {i}."} for i in range(12)]
    pictures = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(12)]
    write_json(folder / "captions.json", {"images": pictures, "annotations": said})
    return folder


def run_spec(world: Path, mode: str, **changes) -> dict:
    """A run's spec, as `grid.run_spec` would make it."""
    made = {
        "id": f"test-{mode}",
        "stage": "tune",
        "mode": mode,
        "base": {"model": str(world / "base"), "revision": None},
        "template": "v1",
        "tower": {
            "model": str(world / "tower"),
            "revision": None,
            "layer": -2,
            "projector": "linear",
            "preparation": "crop",
        },
        "source": {"form": "visual", "kinds": "all"},
        "data": {
            "instructions": str(world / "instructions.json"),
            "images": str(world / "images"),
            "captions": str(world / "captions.json"),
            "captions_in_place": 1,
        },
        "training": {
            "learning_rate": 1e-2,
            "epochs": 6,
            "batch_size": 4,
            "warmup": 0.03,
            "weight_decay": 0.0,
            "max_length": 512,
            "max_samples": None,
            "max_lost": 0.01,
            "precision": "fp32",
            "optimizer": "adamw",
            "group_by_length": False,
            "token_budget": 512,
            "gradient_checkpointing": "auto",
            "save_steps": 500,
            "processes": 1,
            "fsdp": False,
        },
        "projector_learning_rate": None,
        "lora": LORA if mode in ("lora", "qlora") else None,
        "projector": None,
        "seed": 0,
        "recipe": {"mode": mode},
        "checkpoint": str(world / "runs" / mode / "checkpoint"),
    }
    for key, value in changes.items():
        made["training" if key in made["training"] else key] = (
            {**made["training"], key: value} if key in made["training"] else value
        )
    return made
