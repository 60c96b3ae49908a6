"""Pretrains the micro bases: `micro-base` on the corpus, `micro-chat` from it on instructions."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sight_beyond_text.data.samples import Collator, encode
from sight_beyond_text.data.templates import segments, turns_of
from sight_beyond_text.files import share, write_json
from sight_beyond_text.micro.muon import Muon
from sight_beyond_text.models.checkpoints import hashes

LONGEST = 160
"""Longer documents are cut here, in tokens."""

CONTEXT = 1024


def pretrain_base(
    settings: dict, world: str | Path, folder: str | Path, record: str | Path
) -> None:
    """Pretrains `micro-base` from scratch on the world's corpus.

    The order is a curriculum: documents on scenes with one object first, then with two. Small
    models learn to look things up in a text many times sooner that way.

    Args:
        settings: `study.Micro` as a dict.
        world: the world's folder.
        folder: gets a Llama folder of transformers.
        record: written last.
    """
    world = Path(world)
    torch.manual_seed(settings["seed"])
    tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings["hidden_size"],
            intermediate_size=3 * settings["hidden_size"],
            num_hidden_layers=settings["layers"],
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    documents = json.loads((world / "texts" / "documents.json").read_text(encoding="utf-8"))
    tokens = tokenizer(documents, add_special_tokens=False)["input_ids"]
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    samples = [
        {"input_ids": [ends[0], *ids[: LONGEST - 2], ends[1]], "level": _level(text)}
        for ids, text in zip(tokens, documents, strict=True)
    ]
    for sample in samples:
        sample["labels"] = sample["input_ids"]
    steps = settings["base_steps"]
    batches = _curriculum(samples, steps, random.Random(f"order {settings['seed']}"))
    losses = _fit(
        model, batches, steps, Collator(tokenizer.pad_token_id), 0.012, 3e-3, "micro-base"
    )
    _finish(model, tokenizer, folder, record, losses)


def pretrain_chat(
    settings: dict, world: str | Path, base: str | Path, folder: str | Path, record: str | Path
) -> None:
    """Tunes `micro-base` further on text instructions, in its chat template: `micro-chat`."""
    torch.manual_seed(settings["seed"])
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    path = Path(world) / "texts" / "conversations.json"
    samples = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        laid = segments(turns_of(row["conversations"], row["id"]), "chat", tokenizer)
        ids, labels = encode(laid, tokenizer, -1, 0)
        samples.append({"input_ids": ids, "labels": labels, "level": 0})
    steps = settings["chat_steps"]
    batches = _curriculum(samples, steps, random.Random(f"chat order {settings['seed']}"))
    losses = _fit(
        model, batches, steps, Collator(tokenizer.pad_token_id), 0.005, 1e-3, "micro-chat"
    )
    _finish(model, tokenizer, folder, record, losses)


def _level(text: str) -> int:
    """How many objects the scene of a document has; 0 for other documents."""
    first = re.split(r"[.?\n]", text, maxsplit=1)[0]
    return len(re.findall(r" in the (?:top|bottom) ", first))


def _curriculum(samples: list[dict], steps: int, rng: random.Random, size: int = 16) -> Iterator:
    """Batches of documents of like length; scenes of two objects come in after a tenth."""
    done = 0
    while done < steps:
        limit = 1 if done < 0.1 * steps else 2
        pool = [sample for sample in samples if sample["level"] <= limit]
        pool = rng.sample(pool, min(len(pool), size * 24))
        pool.sort(key=lambda sample: len(sample["input_ids"]))
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches[: steps - done]
        done += len(batches)


def optimizers(model, matrix_rate: float, rate: float) -> list[torch.optim.Optimizer]:
    """Muon on the hidden matrices, AdamW on the rest (Jordan et al., 2024)."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and "embed" not in name and "head" not in name
        (matrices if hidden else rest).append(parameter)
    return [
        Muon(matrices, lr=matrix_rate),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _fit(model, batches, steps, collate, matrix_rate, rate, title) -> list[float]:
    made = optimizers(model, matrix_rate, rate)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            one,
            lambda i: (
                min(1, (i + 1) / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * i / steps)))
            ),
        )
        for one in made
    ]
    losses = []
    model.train()
    for batch in tqdm(batches, total=steps, desc=title, mininterval=5):
        given = collate(batch)
        # Right padding under a causal mask needs no attention mask, and is faster without.
        loss = model(input_ids=given["input_ids"], labels=given["labels"]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for one, schedule in zip(made, schedules, strict=True):
            one.step()
            schedule.step()
        model.zero_grad()
        losses.append(round(loss.item(), 4))
    return losses


def _finish(model, tokenizer, folder, record, losses: list[float]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    share(folder)
    write_json(record, {"files": hashes(folder), "steps": len(losses), "losses": losses[::20]})
