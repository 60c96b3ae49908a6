"""One side of the comparison of trainers: builds the model, trains it, and measures.

All sides have the same weights, samples, steps, optimizer, learning rates and attention (torch's
SDPA). Token ids and pixels are random, so no side spends time on tokenizing or on reading images.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import SequentialSampler
from training_shapes import (
    BEFORE,
    MICRO_BATCH,
    PROMPT,
    SHAPES,
    fewest_positions,
    learning_flops,
    peak_flops,
    positions_of_image,
)
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sight_beyond_text.data.samples import IGNORED, Collator, Conversations
from sight_beyond_text.models.building import (
    DTYPES,
    add_adapters,
    build,
    load_language_model,
    load_tower,
)
from sight_beyond_text.models.features import Features, cache_features
from sight_beyond_text.training.learner import OUT_OF_MEMORY, Learner, Steps
from sight_beyond_text.training.loss import TokenLoss
from sight_beyond_text.training.modes import parameter_groups, set_trainable
from sight_beyond_text.training.record import hardware, parameters, peak_memory, versions
from sight_beyond_text.training.steps import plan_steps, split_step

LENGTHS = Path(__file__).with_name("llava_lengths.json")
_SEED = 0


class RandomPixels:
    """Pixel values (3, side, side) that hang on the image's name alone."""

    key = "pixel_values"

    def __init__(self, side: int):
        self.side = side

    def __call__(self, name: str) -> torch.Tensor:
        chance = torch.Generator().manual_seed(int(name))
        return torch.randn(3, self.side, self.side, generator=chance)


def prepare(job: dict) -> dict:
    """Writes what all sides share: weights of LLM and tower, and the tower's cached features.

    Args:
        job: as `contend` takes it.

    Returns:
        Hardware, versions, and what the features took: `images`, `seconds`, `mib`.
    """
    torch.set_num_threads(job["threads"])
    shape, folder = SHAPES[job["shape"]], Path(job["folder"])
    cuda = torch.cuda.is_available()
    dtype = DTYPES[shape["precision"]]
    torch.manual_seed(_SEED)
    with torch.device("cuda" if cuda else "cpu"):
        llm = AutoModelForCausalLM.from_config(LlamaConfig(**shape["llm"]), dtype=dtype)
    llm.save_pretrained(folder / "llm")
    del llm
    CLIPVisionModel(CLIPVisionConfig(**shape["tower"])).save_pretrained(folder / "tower")
    tower = load_tower(_tower(job), dtype).eval().to("cuda" if cuda else "cpu")
    names = [str(number) for number in range(job["steps"] * job["batch"])]
    pixels = RandomPixels(shape["tower"]["image_size"])
    started = time.perf_counter()
    cache_features(names, pixels, tower, -2, folder / "features", limit_gib=1000)
    seconds = time.perf_counter() - started
    size = (folder / "features" / "features.npy").stat().st_size
    return {
        "hardware": {**hardware(), "cpu": _cpu(), "cuda": torch.version.cuda if cuda else None},
        "versions": versions(),
        "features": {"images": len(names), "seconds": seconds, "mib": size / 2**20},
    }


def contend(job: dict) -> dict:
    """Trains one side, and measures it.

    Args:
        job: `{contender, shape, tuning, steps, batch, length, token_budget, checkpointing,
            optimizer, threads, folder}`; `folder` is what `prepare` filled.

    Returns:
        Each step's `losses` (means over its learned tokens), `seconds` and `cpu_seconds`, its
        samples' `tokens` (without padding), `learned` tokens, `positions` computed and `flops` due;
        `peak_mib`, `start_mib` (with the model loaded), `parameters`, `trainable`, `peak_flops`. Or
        `failed`, where memory didn't suffice.
    """
    torch.set_num_threads(job["threads"])
    try:
        return _contend(job)
    except OUT_OF_MEMORY:
        return {"failed": "out of memory"}


def _contend(job: dict) -> dict:
    model = _model(job)
    start = peak_memory()
    samples = _samples(job, model.config)
    lengths = [len(sample["input_ids"]) for sample in samples.samples]
    steps = plan_steps(
        lengths, job["batch"], 1, _SEED, by_length=job["contender"] == "ours-grouped"
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        if job["contender"].startswith("ours"):
            trainer, positions = _ours(job, model, samples, steps, folder)
        else:
            trainer, positions = _theirs(job, model, samples, steps, folder)
        trainer.add_callback(clock)
        trainer.train()
    learned = [sum(_learned(samples.samples[index]) for index in step) for step in steps]
    shape = SHAPES[job["shape"]]
    return {
        "losses": trainer.step_losses(),
        "seconds": [after - before for before, after in pairwise(clock.times)],
        "cpu_seconds": [after - before for before, after in pairwise(clock.cpu_times)],
        "tokens": [sum(lengths[index] for index in step) for step in steps],
        "learned": learned,
        "positions": positions,
        "flops": [
            learning_flops(shape, job["tuning"], [lengths[index] for index in step], count)
            for step, count in zip(steps, learned, strict=True)
        ],
        "start_mib": start,
        "peak_mib": peak_memory(),
        "parameters": parameters(model),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "checkpointing": model.model.language_model.is_activation_checkpointing,
        "peak_flops": peak_flops(torch.cuda.get_device_name()) if clock.cuda else None,
    }


def _model(job: dict):
    """The model with what learns set, as `train.train` assembles it."""
    shape = SHAPES[job["shape"]]
    dtype, tuning = DTYPES[shape["precision"]], job["tuning"]
    base = {"model": str(Path(job["folder"]) / "llm"), "revision": None}
    torch.manual_seed(_SEED)
    llm = load_language_model(base, dtype, four_bit=tuning == "qlora")
    if tuning != "full":
        add_adapters(llm, {**shape["lora"], "targets": list(shape["lora"]["targets"])})
    # Token ids are drawn, so one word is enough; an unused row then stands for the image.
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"word": 0})))
    model = build(base, _tower(job), words, dtype, language_model=llm)
    set_trainable(model, tuning)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _tower(job: dict) -> dict:
    model = str(Path(job["folder"]) / "tower")
    return {"model": model, "revision": None, "layer": -2, "projector": "linear"}


def _samples(job: dict, config) -> Conversations:
    """Samples of LLaVA's lengths with an image each; their ids follow Zipf's law.

    So there is something to learn, how often each id comes, and losses fall.
    """
    shape = SHAPES[job["shape"]]
    patches = positions_of_image(shape)
    vocabulary = shape["llm"]["vocab_size"]
    count = job["steps"] * job["batch"]
    chance = np.random.default_rng(_SEED)
    shares = 1 / np.arange(1, vocabulary - 1)
    shares /= shares.sum()
    if job["contender"].startswith("ours"):
        images = Features(Path(job["folder"]) / "features")
    else:
        images = RandomPixels(shape["tower"]["image_size"])
    no_tokenizer = SimpleNamespace(bos_token=None, eos_token=None)
    samples = Conversations([], no_tokenizer, "plain", config.image_token_id, patches, 0, images)
    for number, (before, *after) in enumerate(_layouts(job, count)):
        # The last id stands for the image, and the first for nothing.
        ids = (1 + chance.choice(vocabulary - 2, size=before + sum(after), p=shares)).tolist()
        labels = [IGNORED] * before
        for turn, length in enumerate(after):
            start = len(labels)
            labels += ids[start : start + length] if turn % 2 else [IGNORED] * length
        samples.samples.append(
            {
                "id": str(number),
                "input_ids": ids[:before] + [config.image_token_id] * patches + ids[before:],
                "labels": labels[:before] + [IGNORED] * patches + labels[before:],
                "image": str(number),
            }
        )
    return samples


def _layouts(job: dict, count: int) -> list[list[int]]:
    """Tokens before the image, then of prompt and learned text by turns, of `count` samples.

    They are LLaVA's conversations in random order, over and over; where the job gives a length, one
    turn of which all that remains is learned.
    """
    if job["length"] is not None:
        rest = job["length"] - fewest_positions(SHAPES[job["shape"]])
        return [[BEFORE, PROMPT, rest]] * count
    rows = json.loads(LENGTHS.read_text("utf-8"))["conversations"]
    chance, drawn = random.Random(_SEED), []
    while len(drawn) < count:
        drawn += chance.sample(rows, len(rows))
    return [row["lengths"] for row in drawn[:count]]


def _learned(sample: dict) -> int:
    return sum(label != IGNORED for label in sample["labels"][1:])


class Clock(TrainerCallback):
    """When training starts and each optimizer step ends, and the CPU time till then."""

    def __init__(self):
        self.times: list[float] = []
        self.cpu_times: list[float] = []
        self.cuda = torch.cuda.is_available()

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts."""
        self._note()

    def on_step_end(self, args, state, control, **kwargs):
        """Ends a step."""
        self._note()

    def _note(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.cpu_times.append(time.process_time())


def _arguments(job: dict, folder: str, batch: int, accumulation: int) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    shape = SHAPES[job["shape"]]
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=shape["learning_rate"][job["tuning"]],
        lr_scheduler_type="cosine",
        warmup_steps=1,
        bf16=shape["precision"] == "bf16",
        use_cpu=not cuda,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=min(4, (os.cpu_count() or 1) - 1) if cuda else 0,
        disable_tqdm=True,
        seed=_SEED,
    )


class Ours(Learner):
    """This project's trainer."""

    def step_losses(self) -> list[float]:
        """Each step's mean loss of its learned tokens."""
        return [row["loss"] for row in self.losses]


def _ours(job: dict, model, samples, steps, folder: str) -> tuple[Ours, list[int]]:
    """As `train.train` sets it up, and the positions that each step computes."""
    arguments = _arguments(job, folder, 1, 1)
    groups = parameter_groups(model, arguments.learning_rate, None)
    if job["optimizer"] == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit

        optimizer, states = PagedAdamW8bit(groups, weight_decay=0.0), 2
    else:
        optimizer, states = torch.optim.AdamW(groups, weight_decay=0.0), 8
    budget = job["token_budget"]
    planned = Steps(samples, steps, Collator(0), budget)
    trainer = Ours(TokenLoss(model), arguments, planned, optimizer, {}, "benchmark")
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    _make_it_fit(trainer, model, job["checkpointing"], learned * states)
    positions = []
    for step in steps:
        (passes,) = split_step(step, planned.lengths, budget)
        positions.append(sum(len(p) * max(planned.lengths[i] for i in p) for p in passes))
    return trainer, positions


def _make_it_fit(trainer: Ours, model, checkpointing: str, states: int) -> None:
    if checkpointing != "on":
        try:
            return trainer.try_longest(states)
        except OUT_OF_MEMORY:
            if checkpointing == "off":
                raise
    model.activation_checkpointing_enable({"use_reentrant": False})
    trainer.try_longest(states)


class Theirs(Trainer):
    """transformers' Trainer on micro-batches in a given order, noting its losses."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.noted: list[tuple[torch.Tensor, torch.Tensor]] = []

    def _get_train_sampler(self, train_dataset=None):
        # The samples lie in the planned steps' order, which is random.
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As Trainer's; notes the sum of the batch's losses, and of how many tokens."""
        learned = (inputs["labels"][:, 1:] != IGNORED).sum()
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        parts = num_items_in_batch if self.model_accepts_loss_kwargs else learned
        self.noted.append((loss.detach() * parts, learned))
        return loss

    def step_losses(self) -> list[float]:
        """Each step's mean loss of its learned tokens."""
        size = self.args.gradient_accumulation_steps
        losses = []
        for start in range(0, len(self.noted), size):
            sums, counts = zip(*self.noted[start : start + size], strict=True)
            losses.append(float(sum(sums) / sum(counts)))
        return losses


def _theirs(job: dict, model, samples, steps, folder: str) -> tuple[Theirs, list[int]]:
    """The published recipe, or a plain Trainer, and the positions that each step computes."""
    size = min(MICRO_BATCH, job["batch"])
    published = job["contender"] == "published"
    if published:
        # Of the LLM alone: the published tower runs without gradients.
        model.model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    in_order = [index for step in steps for index in step]
    trainer = Theirs(
        model=model,
        args=_arguments(job, folder, size, job["batch"] // size),
        train_dataset=torch.utils.data.Subset(samples, in_order),
        data_collator=Collator(0),
    )
    if published:
        # A mean over micro-batches' means, as Trainer took it in 2023.
        trainer.model_accepts_loss_kwargs = False
    lengths = [len(samples.samples[index]["input_ids"]) for index in in_order]
    padded = [size * max(lengths[i : i + size]) for i in range(0, len(lengths), size)]
    parts = job["batch"] // size
    return trainer, [sum(padded[i : i + parts]) for i in range(0, len(padded), parts)]


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), None)
