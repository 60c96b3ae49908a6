"""One training: stage 1 (align) or stage 2 (tune), from a spec to a checkpoint."""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import TrainingArguments, set_seed

from sight_beyond_text.data.prepare import load_rows
from sight_beyond_text.data.samples import Collator, Conversations, Pixels, keep_learned
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import COMPLETE, RESUME, share, write_json
from sight_beyond_text.models.building import (
    DTYPES,
    add_adapters,
    build,
    image_token,
    load_language_model,
    load_processor,
    load_tokenizer,
    padding_token,
    patches_of,
)
from sight_beyond_text.models.checkpoints import (
    check_adapter,
    completed,
    hashes,
    language_tensors,
    load_projector,
    save_projector,
    verify,
)
from sight_beyond_text.models.features import Features
from sight_beyond_text.training import record as records
from sight_beyond_text.training.learner import OUT_OF_MEMORY, Learner, Steps, memory_errors, thinned
from sight_beyond_text.training.loss import TokenLoss
from sight_beyond_text.training.modes import parameter_groups, set_trainable, summary
from sight_beyond_text.training.room import expected_to_fit, memory_at_hand
from sight_beyond_text.training.steps import plan_steps


def train(spec: dict, record_path: str | Path) -> dict:
    """Trains one run, goes on with it where it was interrupted, or finds it trained already.

    Args:
        spec: an alignment's or a run's spec, as `grid.py` makes it.
        record_path: gets the completion record (`train.json`), written last.

    Returns:
        The record: recipe, files and their hashes, curve, samples, tokens, time, memory, versions.

    Raises:
        UserError: bad data, too many samples lost, no memory, or a loss that isn't a number.
    """
    processes = PartialState(cpu=not torch.cuda.is_available())
    folder = Path(spec["checkpoint"])
    record = completed(folder, spec["recipe"])
    processes.wait_for_everyone()
    if record is None:
        record = _train(spec, folder, processes)
    else:
        print(f"{spec['id']} is trained already; its weights are as recorded", file=sys.stderr)
    if processes.is_main_process:
        # Hashing large weights takes minutes: killed meanwhile, the last point is still needed.
        shutil.rmtree(folder / RESUME, ignore_errors=True)
        write_json(record_path, record)
    return record


def _train(spec: dict, folder: Path, processes: PartialState) -> dict:
    training, mode = spec["training"], spec["mode"]
    if processes.is_main_process:
        _clear(folder)
    if spec["projector"] is not None:
        verify(spec["projector"])
    set_seed(spec["seed"])
    dtype = DTYPES[training["precision"]]
    tokenizer = load_tokenizer(spec["base"])
    # What learns is never rounded to bfloat16, where small updates would come to nothing; autocast
    # still computes in it.
    llm = load_language_model(
        spec["base"], torch.float32 if mode == "full" else dtype, four_bit=mode == "qlora"
    )
    spare = image_token(tokenizer, llm.get_input_embeddings().weight.shape[0])
    rows = load_rows(spec)
    readers = processes.num_processes * max(1, _workers())
    dataset = Conversations(
        rows,
        tokenizer,
        spec["template"],
        spare,
        patches_of(spec["tower"]),
        training["max_length"],
        _images(spec, rows, readers),
    )
    _check_losses(dataset, training, spec["id"])
    if training.get("max_learned_tokens"):
        keep_learned(dataset, training["max_learned_tokens"], spec["seed"])
    adapted = None
    if mode in ("lora", "qlora"):
        adapted = add_adapters(llm, spec["lora"])
    model = build(
        spec["base"],
        spec["tower"],
        tokenizer,
        dtype,
        language_model=llm,
        projector_dtype=torch.float32,
    )
    if spec["projector"] is not None:
        load_projector(model, spec["projector"])
    with_images = any(sample["image"] is not None for sample in dataset.samples)
    names = set_trainable(model, mode, with_images)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    parts = summary(names, model)
    total = records.parameters(model)
    print(f"{spec['id']}: learns {parts} of {total} parameters:", file=sys.stderr)
    print("  " + "\n  ".join(names), file=sys.stderr)
    learner = _fit(model, dataset, spec, folder, padding_token(tokenizer, spare))
    lengths = [len(sample["input_ids"]) for sample in dataset.samples]
    learned = sum(label != -100 for sample in dataset.samples for label in sample["labels"])
    steps_an_epoch = math.ceil(len(dataset) / training["batch_size"])
    record = {
        "id": spec["id"],
        "stage": spec["stage"],
        "recipe": spec["recipe"],
        "base": spec["base"],
        "tower": spec["tower"],
        "learned_tensors": names,
        "trainable_parameters": sum(parts.values()),
        "parameters": total,
        "samples": len(dataset),
        "samples_lost": dataset.losses.lost,
        "samples_cut": dataset.losses.cut,
        "samples_dropped": dataset.losses.dropped,
        "tokens": sum(lengths),
        "learned_tokens": learned,
        "resumed_after": learner.resumed,
        "seconds": round(learner.seconds, 1),
        "peak_memory_mib": records.peak_memory(),
        "processes": processes.num_processes,
        "curve": thinned(learner.losses, steps_an_epoch),
        "versions": records.versions(),
        "hardware": records.hardware(),
    }
    state = learner.whole_state()
    if processes.is_main_process:
        _save(state, mode, llm, adapted, tokenizer, folder)
        share(folder)
        record["files"] = hashes(folder)
        write_json(folder / COMPLETE, record)
    processes.wait_for_everyone()
    return record


def _clear(folder: Path) -> None:
    """Removes what an interrupted training left, but for its resume points."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and path.name != RESUME:
            shutil.rmtree(path)
        elif not path.is_dir():
            path.unlink()


_KEPT = 2**30
"""Bytes of prepared images that a training keeps, all its processes together."""


def _workers() -> int:
    """Processes that prepare batches for one that trains on a GPU; on a CPU they would only vie."""
    return min(4, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 0


def _images(spec: dict, rows: list[dict], readers: int) -> Features | Pixels:
    """The tower's cached features where they hold every image of the run, else its pixels.

    Args:
        readers: processes that read images, each with a memory of its own.
    """
    cached = spec.get("features")
    if cached and (Path(cached) / "features.json").is_file():
        features = Features(cached)
        if all(row["image"] in features.rows for row in rows if "image" in row):
            return features
    again = spec["training"]["epochs"] > 1
    keep = _KEPT // readers if again else 0
    return Pixels(spec["data"]["images"], load_processor(spec["tower"]), keep)


def _save(state: dict, mode: str, llm, adapted, tokenizer, folder: Path) -> None:
    """Writes what the run changed, from the whole model's tensors by name."""
    save_projector(state, folder)
    language = language_tensors(state, llm)
    if mode == "full":
        llm.save_pretrained(folder / "llm", state_dict=language)
        tokenizer.save_pretrained(folder / "llm")
    elif adapted is not None:
        named = {f"base_model.model.{name}": tensor for name, tensor in language.items()}
        # peft holds them as a set, whose order differs from process to process.
        config = adapted.peft_config["default"]
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
        # Else peft asks the hub about the base's vocabulary, once all is learned.
        adapted.save_pretrained(folder / "adapter", state_dict=named, save_embedding_layers=False)
        check_adapter(adapted, folder / "adapter")


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


def _fit(model, dataset: Conversations, spec: dict, folder: Path, pad: int) -> Learner:
    """Trains the model in place, from its last resume point if it has one."""
    training = spec["training"]
    lengths = [len(sample["input_ids"]) for sample in dataset.samples]
    planned = plan_steps(
        lengths,
        training["batch_size"],
        training["epochs"],
        spec["seed"],
        by_length=training["group_by_length"],
    )
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder / RESUME),
        # All epochs are planned as one long one.
        num_train_epochs=1,
        per_device_train_batch_size=1,
        warmup_steps=math.ceil(len(planned) * training["warmup"]),
        lr_scheduler_type="cosine",
        learning_rate=training["learning_rate"],
        bf16=training["precision"] == "bf16",
        use_cpu=not cuda,
        logging_steps=max(1, len(planned) // 100),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=training["save_steps"],
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=_workers(),
        seed=spec["seed"],
        disable_tqdm=False,
        fsdp=training["fsdp"] or None,
        fsdp_config=_fsdp(model) if training["fsdp"] else None,
    )
    steps = Steps(
        dataset,
        planned,
        Collator(pad),
        training["token_budget"],
        arguments.process_index,
        arguments.world_size,
    )
    with_images = any(sample["image"] is not None for sample in dataset.samples)
    learner = Learner(
        TokenLoss(model, with_images),
        arguments,
        steps,
        _optimizer(model, training, spec["projector_learning_rate"]),
        spec["recipe"],
        spec["id"],
    )
    point = learner.resume_from(folder / RESUME)
    _make_it_fit(learner, model, spec)
    if point is not None:
        print(f"{spec['id']}: goes on from {point}", file=sys.stderr)
    try:
        with memory_errors():
            learner.train(resume_from_checkpoint=point)
        if parts := learner.parts():
            share = f"over {learner.args.world_size} processes, in {parts} parts"
            print(f"{spec['id']}: weights were spread {share}", file=sys.stderr)
    except OUT_OF_MEMORY:
        raise UserError(
            f"{spec['id']}: out of memory at step {learner.state.global_step + 1}, though the"
            f" largest pass had fit; {learner.last_good()}; see what else takes memory here, or"
            " lower `token_budget`"
        ) from None
    return learner


def _fsdp(model) -> dict:
    """FSDP 2's settings: weights are gathered a layer at a time, of the LLM and of the tower.

    Raises:
        UserError: the LLM's class doesn't tell which modules are its layers.
    """
    there = {type(module).__name__ for module in model.modules()}
    llm, tower = (
        sorted(there & set(part._no_split_modules or ()))
        for part in (model.model.language_model, model.model.vision_tower)
    )
    if not llm:
        name = type(model.model.language_model).__name__
        raise UserError(f"fsdp: {name} doesn't tell which modules are its layers; remove fsdp")
    # The model with its loss is no class of transformers', so nothing tells of its layers.
    return {"version": 2, "transformer_layer_cls_to_wrap": [*llm, *tower]}


def _optimizer(model, training: dict, projector_rate: float | None) -> torch.optim.Optimizer:
    groups = parameter_groups(model, training["learning_rate"], projector_rate)
    if training["optimizer"] == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(groups, weight_decay=training["weight_decay"])
    return torch.optim.AdamW(groups, weight_decay=training["weight_decay"])


def _make_it_fit(learner: Learner, model, spec: dict) -> None:
    """Tries the longest pass, without checkpointing of activations first where that is free."""
    training, name = spec["training"], spec["id"]
    wanted = training["gradient_checkpointing"]
    if training["fsdp"]:
        # A part of the model can't be tried alone, and the processes must do alike.
        if wanted:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return
    # Paged states make way for what needs the room more; gradients travel in buckets of their own.
    beside = 0 if training["optimizer"] == "paged_adamw_8bit" else 8
    beside += 4 if learner.args.world_size > 1 else 0
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    room = memory_at_hand(model)  # before a failed pass leaves gaps behind
    for checkpointing in [False, True] if wanted == "auto" else [wanted]:
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            learner.try_longest(learned * beside)
        except OUT_OF_MEMORY:
            continue
        print(f"{name}: gradient checkpointing is {_ON[checkpointing]}", file=sys.stderr)
        return
    chosen, _ = learner.train_dataset.longest()
    longest = max(learner.train_dataset.lengths[index] for index in chosen)
    told = (
        f"{name}: out of memory in the largest pass ({len(chosen)} samples of up to {longest}"
        f" positions, {learned:,} learned parameters); lower `token_budget` or `max_length`, turn"
        " `gradient_checkpointing` on, or choose lora or qlora"
    )
    expected = expected_to_fit(room, model, spec, longest, learner.model.with_images)
    raise UserError("; ".join(filter(None, [told, expected])))


_ON = {True: "on", False: "off"}
