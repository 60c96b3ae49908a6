"""One training: stage 1 (align) or stage 2 (tune), from a spec to a checkpoint."""

from __future__ import annotations

import math
import os
import platform
import random
import resource
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from sight_beyond_text.data.coco import read_pictures
from sight_beyond_text.data.samples import Collator, Conversations, Pixels
from sight_beyond_text.data.sources import apply_form, read_instructions, select_kinds
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import write_json
from sight_beyond_text.models.building import (
    DTYPES,
    build,
    image_token,
    load_language_model,
    load_processor,
    load_tokenizer,
    padding_token,
    patches_of,
)
from sight_beyond_text.models.checkpoints import (
    COMPLETE,
    completed,
    hashes,
    load_projector,
    save_projector,
)
from sight_beyond_text.training.modes import parameter_groups, set_trainable, summary

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "sight-beyond-text")


def train(spec: dict, record_path: str | Path) -> dict:
    """Trains one run, or finds it trained already.

    Args:
        spec: an alignment's or a run's spec, as `grid.py` makes it.
        record_path: gets the completion record (`train.json`), written last.

    Returns:
        The record: recipe, files and their hashes, curve, samples, tokens, time, memory, versions.

    Raises:
        UserError: bad data, too many samples lost, or a loss that isn't a number.
    """
    folder = Path(spec["checkpoint"])
    record = completed(folder, spec["recipe"])
    if record is None:
        record = _train(spec, folder)
    else:
        print(f"{spec['id']} is trained already; its weights are as recorded", file=sys.stderr)
    write_json(record_path, record)
    return record


def load_rows(spec: dict) -> list[dict]:
    """The samples of a run with its source applied, in the file's order.

    The subset (`max_samples`) is drawn by the seed before the source is applied, so that sources
    which differ only in form learn from the same conversations.
    """
    path = spec["data"]["instructions"]
    rows = select_kinds(read_instructions(path), spec["source"]["kinds"], path)
    limit = spec["training"]["max_samples"]
    if limit is not None and limit < len(rows):
        chosen = random.Random(f"{spec['seed']} subset").sample(range(len(rows)), len(rows))
        rows = [rows[index] for index in sorted(chosen[:limit])]
    captions = None
    if spec["source"]["form"] == "caption":
        if spec["data"]["captions"] is None:
            raise UserError(
                "data.captions: needed for a source of form 'caption'; give COCO captions"
            )
        captions = {p.file_name: p.captions for p in read_pictures(spec["data"]["captions"])}
        limit = spec["data"]["captions_in_place"]
        captions = {name: texts[:limit] for name, texts in captions.items()}
    return [apply_form(row, spec["source"]["form"], captions) for row in rows]


def _train(spec: dict, folder: Path) -> dict:
    training, mode = spec["training"], spec["mode"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.time()
    set_seed(spec["seed"])
    dtype = DTYPES[training["precision"]]
    tokenizer = load_tokenizer(spec["base"])
    llm = load_language_model(spec["base"], dtype, four_bit=mode == "qlora")
    spare = image_token(tokenizer, llm.get_input_embeddings().weight.shape[0])
    dataset = Conversations(
        load_rows(spec),
        tokenizer,
        spec["template"],
        spare,
        patches_of(spec["tower"]),
        training["max_length"],
        Pixels(spec["data"]["images"], load_processor(spec["tower"])),
    )
    _check_losses(dataset, training, spec["id"])
    adapted = None
    if mode in ("lora", "qlora"):
        adapted = get_peft_model(llm, _lora(spec["lora"]))
    model = build(spec["base"], spec["tower"], tokenizer, dtype, language_model=llm)
    if spec["projector"] is not None:
        load_projector(model, spec["projector"])
    names = set_trainable(model, mode)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # In bfloat16 small updates would round to nothing; autocast still computes in it.
            parameter.data = parameter.data.float()
    parts = summary(names, model)
    print(f"{spec['id']}: learns {parts} of {_count(model)} parameters:", file=sys.stderr)
    print("  " + "\n  ".join(names), file=sys.stderr)
    curve = _fit(model, dataset, spec, folder, padding_token(tokenizer, spare))
    save_projector(model, folder)
    if mode == "full":
        llm.save_pretrained(folder / "llm")
        tokenizer.save_pretrained(folder / "llm")
    elif adapted is not None:
        adapted.save_pretrained(folder / "adapter")
    lengths = [len(sample["input_ids"]) for sample in dataset.samples]
    learned = sum(label != -100 for sample in dataset.samples for label in sample["labels"])
    record = {
        "id": spec["id"],
        "stage": spec["stage"],
        "recipe": spec["recipe"],
        "files": hashes(folder),
        "learned_tensors": names,
        "trainable_parameters": sum(parts.values()),
        "parameters": _count(model),
        "samples": len(dataset),
        "samples_cut": dataset.losses.cut[:100],
        "samples_dropped": dataset.losses.dropped[:100],
        "tokens": sum(lengths),
        "learned_tokens": learned,
        "seconds": round(time.time() - started, 1),
        "peak_memory_mib": _peak_memory(),
        "curve": curve,
        "versions": {name: version(name) for name in _PACKAGES},
        "hardware": _hardware(),
    }
    write_json(folder / COMPLETE, record)
    return record


def _check_losses(dataset: Conversations, training: dict, name: str) -> None:
    lost = dataset.losses
    if lost.share > training["max_lost"]:
        raise UserError(
            f"{name}: {len(lost.cut)} samples cut at max_length {training['max_length']} and"
            f" {len(lost.dropped)} with nothing to learn, of {lost.total}: more than max_lost"
            f" ({training['max_lost']:.1%}); first: {(lost.cut + lost.dropped)[0]};"
            " raise max_length or max_lost, or mend the data"
        )
    if not len(dataset):
        raise UserError(f"{name}: no samples to learn from")


def _lora(settings: dict) -> LoraConfig:
    return LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=settings["targets"],
        bias="none",
        task_type="CAUSAL_LM",
    )


class _Watch(TrainerCallback):
    """Keeps the loss curve, and stops at a loss that isn't a number."""

    def __init__(self, name: str):
        self.name = name
        self.curve: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs is None or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise UserError(
                f"{self.name}: the loss is {loss} at step {state.global_step};"
                " lower the learning rate or look at the samples of that step"
            )
        self.curve.append(
            {
                "step": state.global_step,
                "epoch": round(state.epoch or 0.0, 4),
                "loss": loss,
                "learning_rate": float(logs["learning_rate"]),
            }
        )


def _fit(model, dataset, spec: dict, folder: Path, pad: int) -> list[dict]:
    training = spec["training"]
    batches = math.ceil(len(dataset) / (training["batch_size"] * training["accumulation"]))
    steps = math.ceil(batches * training["epochs"])
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        num_train_epochs=training["epochs"],
        per_device_train_batch_size=training["batch_size"],
        gradient_accumulation_steps=training["accumulation"],
        learning_rate=training["learning_rate"],
        weight_decay=training["weight_decay"],
        warmup_steps=math.ceil(steps * training["warmup"]),
        lr_scheduler_type="cosine",
        bf16=training["precision"] == "bf16",
        gradient_checkpointing=training["gradient_checkpointing"],
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=spec["seed"],
        data_seed=spec["seed"],
        disable_tqdm=False,
    )
    groups = parameter_groups(model, training["learning_rate"], spec["projector_learning_rate"])
    optimizer = torch.optim.AdamW(groups, weight_decay=training["weight_decay"])
    watch = _Watch(spec["id"])
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=Collator(pad),
        train_dataset=dataset,
        optimizers=(optimizer, None),
        callbacks=[watch],
    )
    trainer.train()
    broken = [n for n, p in model.named_parameters() if p.requires_grad and not _finite(p)]
    if broken:
        raise UserError(
            f"{spec['id']}: {broken[0]} isn't finite at the end; lower the learning rate"
        )
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return watch.curve


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _count(model) -> int:
    """Parameters, those packed in 4 bits counted as they were."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += math.prod(state.shape) if state is not None else parameter.numel()
    return total


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _hardware() -> dict:
    found = {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
