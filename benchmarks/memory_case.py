"""One case of the comparison of memory: builds a model, trains it, and measures its peak."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from sight_beyond_text.data.samples import IGNORED, Collator, Conversations
from sight_beyond_text.memory import Job, estimate
from sight_beyond_text.models.building import DTYPES, add_adapters, build, load_language_model
from sight_beyond_text.shapes import model_shape, tower_shape
from sight_beyond_text.training.learner import Learner, Steps
from sight_beyond_text.training.loss import TokenLoss
from sight_beyond_text.training.modes import parameter_groups, set_trainable
from sight_beyond_text.training.record import hardware, versions

LENGTH, LEARNED = 256, 100
"""Positions and learned tokens of a sample."""

TOWER = {
    "image_size": 112,
    "patch_size": 14,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
}
_TINY = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class RandomPixels:
    """The same random image under every name."""

    key = "pixel_values"

    def __init__(self, job: dict):
        self.side = job.get("tower", TOWER)["image_size"]

    def __call__(self, name: str) -> torch.Tensor:
        side = self.side
        return torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))


def prepare(job: dict) -> dict:
    """Writes a random language model and tower in the job's precision.

    Args:
        job: as `measure` takes it, without what differs between cases.

    Returns:
        `hardware` and `versions`.
    """
    torch.manual_seed(0)
    folder, dtype = Path(job["folder"]), DTYPES[job["precision"]]
    for name, sizes in (("llm", job["sizes"]), ("tiny", _TINY)):
        config = _config(sizes, _length(job))
        llm = AutoModelForCausalLM.from_config(config, dtype=dtype)
        llm.save_pretrained(folder / name)
    tower = CLIPVisionConfig(**job.get("tower", TOWER))
    CLIPVisionModel(tower).save_pretrained(folder / "tower")
    return {"hardware": hardware(), "versions": versions()}


def _length(job: dict) -> int:
    return job.get("length", LENGTH)


def _config(sizes: dict, length: int = LENGTH) -> LlamaConfig:
    heads = sizes["hidden_size"] // 64
    return LlamaConfig(
        **{"vocab_size": 32000, **sizes},
        num_attention_heads=heads,
        num_key_value_heads=heads // 3 if heads % 3 == 0 else heads,
        max_position_embeddings=length,
    )


def measure(job: dict) -> dict:
    """Trains one case, and compares its memory with the estimate.

    Args:
        job: `{sizes, precision, mode, dropout, checkpointing, positions, folder}`; the folder is
            what `prepare` filled. Larger shapes have their own `tower`, `length` of a sample and
            `rank` of adapters.

    Returns:
        `measured_mib`, `estimated_mib`, and the estimate's `parts_mib`.
    """
    cuda = torch.cuda.is_available()
    with _silence():
        # Numerical libraries take once what they take.
        _train({**job, "positions": _length(job)}, "tiny")
        gc.collect()
        before = 0 if cuda else _resident("VmRSS")
        model, lora = _train(job, "llm")
    peak = torch.cuda.max_memory_allocated() if cuda else _resident("VmHWM") - before
    foretold = estimate(
        model_shape(model.config.text_config.to_dict()),
        tower_shape(model.config.vision_config.to_dict()),
        Job(job["mode"], lora=lora, precision=job["precision"], gpu=cuda),
        job["positions"],
        job["checkpointing"],
        _length(job),
        learned_positions=job["positions"] // _length(job) * LEARNED,
    )
    parts = {name: round(value / 2**20, 1) for name, value in vars(foretold).items()}
    total = parts.pop("total")
    return {"measured_mib": round(peak / 2**20, 1), "estimated_mib": total, "parts_mib": parts}


def _train(job: dict, name: str):
    """Trains a model from its beginning; gives it, and its adapters' settings."""
    model, lora = _model(job, name)
    with tempfile.TemporaryDirectory() as folder:
        learner = _learner(job, model, folder)
        if job["checkpointing"]:
            model.activation_checkpointing_enable({"use_reentrant": False})
        for tensor in (*model.parameters(), *model.buffers()):
            # Weights that lie in a file would be counted when they are touched, and those beside
            # them that were packed into four bits since, as long as anything of the file is held.
            tensor.data = tensor.data.clone()
        _forget_peak()
        learner.train()
    return model, lora


def _model(job: dict, name: str):
    folder, mode = Path(job["folder"]), job["mode"]
    dtype = DTYPES[job["precision"]]
    base = {"model": str(folder / name), "revision": None}
    tower = {"model": str(folder / "tower"), "revision": None, "layer": -2, "projector": "linear"}
    llm = load_language_model(base, dtype, four_bit=mode == "qlora")
    lora = None
    if mode in ("lora", "qlora"):
        lora = {
            "rank": job.get("rank", 16),
            "alpha": 32,
            "dropout": job["dropout"],
            "targets": TARGETS,
        }
        add_adapters(llm, lora)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"word": 0})))
    model = build(base, tower, words, dtype, language_model=llm)
    set_trainable(model, mode)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model, lora


def _learner(job: dict, model, folder: str) -> Learner:
    cuda, length = torch.cuda.is_available(), _length(job)
    config = model.config
    images = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    no_tokenizer = SimpleNamespace(bos_token=None, eos_token=None, is_fast=False)
    samples = Conversations(
        [], no_tokenizer, "plain", config.image_token_id, images, 0, RandomPixels(job)
    )
    # The first step lets the optimizer make its states; the second has two whole passes.
    count = 1 + 2 * (job["positions"] // length)
    chance = torch.Generator().manual_seed(0)
    for number in range(count):
        text = torch.randint(1, 300, (length - images,), generator=chance).tolist()
        samples.samples.append(
            {
                "id": str(number),
                "input_ids": [config.image_token_id] * images + text,
                "labels": [IGNORED] * (length - LEARNED) + text[-LEARNED:],
                "image": "image",
            }
        )
    planned = [[0], list(range(1, count))]
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        learning_rate=1e-4,
        bf16=job["precision"] == "bf16",
        use_cpu=not cuda,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    steps = Steps(samples, planned, Collator(0), job["positions"])
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-4, None), weight_decay=0.0)
    return Learner(TokenLoss(model), arguments, steps, optimizer, {}, "case")


def _resident(name: str) -> int:
    """A value of this process' status, in bytes: VmRSS now, VmHWM at the peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1])


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Where the system doesn't allow it, the peak may be that of loading.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def _silence():
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
