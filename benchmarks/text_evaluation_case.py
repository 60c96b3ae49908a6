"""One case of `text_evaluation.py`: a task put to one of the models, in a process of its own."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import torch
import transformers
from lm_eval.models.huggingface import HFLM

from sight_beyond_text.evaluation.engine import SightLM
from sight_beyond_text.evaluation.text import ask
from sight_beyond_text.evaluation.text_tasks import harness, load_jobs

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
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "device": gpu or "CPU",
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
        # The first pass of a process also sets up its libraries.
        with torch.no_grad():
            lm.model(torch.ones(2, 16, dtype=torch.long, device=lm.device))
        before = _memory(reset=True)
        begun = time.perf_counter()
        samples = ask(jobs, lm)
        seconds = time.perf_counter() - begun
        peak = _memory() - before
    answers = [answer for found in samples for sample in found for answer in sample["resps"]]
    prompts = {str(a[0]) for found in samples for s in found for a in s["arguments"]}
    return {
        "seconds": seconds,
        "peak_mib": peak / 2**20,
        "length": max(len(lm.tok_encode(prompt)) for prompt in prompts),
        "items": sum(job.limit for job in jobs),
        "answers": [answer[0] for answer in answers],
    }


def _dtype(job: dict) -> torch.dtype:
    return torch.bfloat16 if job["precision"] == "bf16" else torch.float32


def _memory(reset: bool = False) -> int:
    """Peak bytes since the last reset: torch's on a GPU, else the resident memory's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        if reset:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        return torch.cuda.max_memory_allocated()
    if reset:
        # Linux: begins the peak anew at what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
