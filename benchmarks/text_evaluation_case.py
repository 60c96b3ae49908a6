"""One case of `text_evaluation.py`: a task put to one of the models, in a process of its own."""

from __future__ import annotations

import json
import os
import threading
import time
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model

from sight_beyond_text.evaluation.engine import SightLM
from sight_beyond_text.evaluation.text import ask, evaluate_texts
from sight_beyond_text.evaluation.text_tasks import harness, load_jobs
from sight_beyond_text.files import write_json
from sight_beyond_text.models.building import load_language_model
from sight_beyond_text.models.checkpoints import hashes
from sight_beyond_text.training.record import hardware

SHAPES = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "134m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
"""Llama's family; "7b" is Llama 2's."""

LENGTH = 4096


class Hf(HFLM):
    """lm-eval's model `hf`, with answers of another length."""

    max_gen_toks = 256


class Sight(SightLM):
    """Our model, likewise."""

    max_gen_toks = 256


def prepare(job: dict) -> dict:
    """Writes random weights and a tokenizer; cuts a benchmark's files where examples are missing.

    Args:
        job: `{shape, precision, threads, data, folder}`.

    Returns:
        What the weights are, and on what they are computed.
    """
    from sight_beyond_text.models.building import load_tokenizer

    torch.set_num_threads(job["threads"])
    folder, data = Path(job["folder"]), Path(job["data"])
    source = data / "llama2_tokenizer"
    tokenizer = load_tokenizer({"model": str(source), "revision": None})
    tokenizer.save_pretrained(folder / "model")
    config = transformers.LlamaConfig(
        **SHAPES[job["shape"]],
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=_dtype(job))
    model.save_pretrained(folder / "model")
    # The published test questions of MathQA alone may be at hand; the last ones are its examples.
    rows = json.loads((data / "mathqa" / "test.json").read_text("utf-8"))
    (folder / "mathqa").mkdir()
    for name, part in (("test", rows[:-64]), ("train", rows[-64:])):
        (folder / "mathqa" / f"{name}.json").write_text(json.dumps(part), "utf-8")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "hardware": {**hardware(), "cpu": _cpu(), "memory_gib": round(pages / 2**30, 1)},
        "versions": {name: version(name) for name in ("lm_eval", "torch", "transformers", "peft")},
    }


def measure(job: dict) -> dict:
    """Puts one task to one model.

    Args:
        job: `{contender, benchmarks, batch_size, tokens, answer, threads, precision, folder}`;
            `answer` is the length of generated texts in tokens.

    Returns:
        `seconds` of the evaluation with its requests built and its data loaded, `peak_mib` above
        what the process had with the model loaded, `length` of the longest request in tokens,
        `answers` to all requests.
    """
    torch.set_num_threads(job["threads"])
    with harness():
        jobs = load_jobs(job["benchmarks"], "current")
        given = {
            "pretrained": str(Path(job["folder"]) / "model"),
            "dtype": str(_dtype(job)).removeprefix("torch."),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        }
        if job["contender"] == "hf":
            lm = Hf(**given, batch_size=job["batch_size"], softmax_dtype="float32")
        else:
            lm = Sight(**given, token_budget=job["tokens"])
            _ = lm.shares
        lm.max_gen_toks = job["answer"]
        # Weights that are still a mapped file would come and go as the system likes.
        for own in lm.model.parameters():
            own.data = own.data.clone()
        # The first pass of a process also sets up its libraries.
        with torch.no_grad():
            lm.model(torch.ones(2, 16, dtype=torch.long, device=lm.device))
        with Peak() as peak:
            begun = time.perf_counter()
            samples = ask(jobs, lm)
            seconds = time.perf_counter() - begun
    answers = [answer for found in samples for sample in found for answer in sample["resps"]]
    prompts = {str(a[0]) for found in samples for s in found for a in s["arguments"]}
    return {
        "seconds": seconds,
        "peak_mib": peak.bytes / 2**20,
        "length": max(len(lm.tok_encode(prompt)) for prompt in prompts),
        "items": sum(job.limit for job in jobs),
        "answers": [answer[0] for answer in answers],
    }


def write_adapters(job: dict) -> dict:
    """Writes random LoRA adapters of the published recipe's size, as runs leave them.

    Args:
        job: `{adapters, folder, precision}`.
    """
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = LoraConfig(r=64, lora_alpha=16, target_modules=targets, init_lora_weights=False)
    for number in range(job["adapters"]):
        model, folder = _base(job), _adapter(job, number)
        torch.manual_seed(number)
        get_peft_model(model, settings).save_pretrained(folder / "adapter")
        write_json(folder / "complete.json", {"files": hashes(folder)})
    return {}


def evaluate_adapters(job: dict) -> dict:
    """Evaluates adapters of one base together, from their files to their tables.

    Args:
        job: `{adapters, benchmarks, tokens, folder, precision, threads}`.
    """
    torch.set_num_threads(job["threads"])
    out = Path(job["folder"]) / f"evaluated-{job['adapters']}"
    specs = []
    for number in range(job["adapters"]):
        subject = {
            "id": f"run{number}",
            "base": {"model": str(Path(job["folder"]) / "model"), "revision": None},
            "mode": "lora",
            "checkpoint": str(_adapter(job, number)),
            "precision": job["precision"],
        }
        spec = {"subject": subject, "protocol": "current", "batch_size": 8}
        specs.append(({**spec, "benchmarks": job["benchmarks"]}, out / f"run{number}" / "text-0"))
    begun = time.perf_counter()
    loads = evaluate_texts(specs)
    seconds = time.perf_counter() - begun
    items = json.loads((specs[0][1] / "record.json").read_text("utf-8"))["items"]
    return {"seconds": seconds, "loads": loads, "items": items}


def load(job: dict) -> dict:
    """Loads the base, and tells how long that takes.

    Args:
        job: `{folder, precision}`.
    """
    begun = time.perf_counter()
    _base(job)
    return {"seconds": time.perf_counter() - begun}


def _base(job: dict) -> torch.nn.Module:
    base = {"model": str(Path(job["folder"]) / "model"), "revision": None}
    return load_language_model(base, _dtype(job))


def _adapter(job: dict, number: int) -> Path:
    return Path(job["folder"]) / f"run{number}" / "checkpoint"


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), None)


def _dtype(job: dict) -> torch.dtype:
    return torch.bfloat16 if job["precision"] == "bf16" else torch.float32


class Peak:
    """The most memory that is taken meanwhile beyond what was before.

    Attributes:
        bytes: torch's on a GPU, else those of the process that no file stands behind, looked at
            every few milliseconds.
    """

    EVERY = 0.004

    def __enter__(self):
        self.bytes, self._done = 0, threading.Event()
        self._before = self._now()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            self._watching = threading.Thread(target=self._watch, daemon=True)
            self._watching.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self._before
        else:
            self._watching.join()

    def _watch(self) -> None:
        while not self._done.wait(self.EVERY):
            self.bytes = max(self.bytes, self._now() - self._before)

    def _now(self) -> int:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return torch.cuda.memory_allocated()
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
        raise OSError("/proc/self/status: no RssAnon; the CPU's memory is measured on Linux alone")
