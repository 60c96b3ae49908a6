"""Trains the micro vision tower: a small CLIP, contrastively, on scenes and their captions."""

from __future__ import annotations

import math
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from sight_beyond_text.data.coco import read_pictures
from sight_beyond_text.files import share, write_json
from sight_beyond_text.micro.pretrain import optimizers
from sight_beyond_text.micro.scenes import SIDE
from sight_beyond_text.models.checkpoints import hashes

PATCH = SIDE // 2
BATCH = 64


def train_tower(settings: dict, world: str | Path, folder: str | Path, record: str | Path) -> None:
    """Trains a CLIP on the world's training pictures; `folder` gets its vision half.

    Args:
        settings: `study.Micro` as a dict.
        world: the world's folder.
        folder: gets a CLIP vision folder of transformers, image processor included.
        record: written last.
    """
    world = Path(world)
    torch.manual_seed(settings["seed"])
    rng = random.Random(f"tower {settings['seed']}")
    tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
    pictures = read_pictures(world / "annotations" / "captions_train.json")
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    arrays = [
        np.asarray(Image.open(world / "images" / "train" / picture.file_name).convert("RGB"))
        for picture in pictures
    ]
    pixels = processor(arrays, return_tensors="pt")["pixel_values"]
    texts = [
        [ids + [tokenizer.eos_token_id] for ids in tokenizer(list(picture.captions))["input_ids"]]
        for picture in pictures
    ]
    model = CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 96,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={
                "hidden_size": 96,
                "intermediate_size": 192,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "image_size": SIDE,
                "patch_size": PATCH,
            },
            projection_dim=64,
        )
    )
    steps = settings["tower_steps"]
    made = optimizers(model, 0.02, 1e-3)
    losses = []
    for step in tqdm(range(steps), desc="micro tower", mininterval=5):
        chosen = rng.sample(range(len(pictures)), min(BATCH, len(pictures)))
        said = [rng.choice(texts[index]) for index in chosen]
        length = max(map(len, said))
        ids = torch.tensor([t + [tokenizer.pad_token_id] * (length - len(t)) for t in said])
        found = model(
            input_ids=ids,
            attention_mask=(ids != tokenizer.pad_token_id).long(),
            pixel_values=pixels[chosen],
            return_loss=True,
        )
        scale = min(1, (step + 1) / 40) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        model.zero_grad()
        found.loss.backward()
        for one, rate in zip(made, (0.02, 1e-3), strict=True):
            one.param_groups[0]["lr"] = rate * scale
            one.step()
        losses.append(round(found.loss.item(), 4))
    shutil.rmtree(folder, ignore_errors=True)
    _vision_half(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    share(folder)
    write_json(record, {"files": hashes(folder), "steps": steps, "losses": losses[::10]})


def _vision_half(model: CLIPModel):
    from transformers import CLIPVisionModel

    vision = CLIPVisionModel(model.config.vision_config)
    vision.load_state_dict(model.vision_model.state_dict())
    return vision.eval()
