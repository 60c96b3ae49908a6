"""The text suite on vLLM, for those who have it, through lm-eval's own model of that name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.truncation import cut_of_choices, cut_of_prompts
from sight_beyond_text.evaluation.weights import has_own_embeddings
from sight_beyond_text.files import read_json

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks of adapters that vLLM can be set to."""


def check_vllm() -> None:
    """Refuses the backend where it isn't installed.

    Raises:
        UserError: so it is.
    """
    if find_spec("vllm") is None:
        raise UserError(
            "evaluation.backend: vLLM isn't installed here; install it (`pip install vllm`), or"
            " remove the key"
        )


def load_vllm(subject: dict, bos: bool | None, batch_size: int):
    """lm-eval's vLLM model of a subject.

    Args:
        subject: `{base, mode, checkpoint, precision}`.
        bos: whether prompts begin with the tokenizer's first token; None as it does by itself.
        batch_size: requests handed over at once.

    Raises:
        UserError: vLLM isn't installed, or can't serve such a subject.
    """
    check_vllm()
    arguments = arguments_for(subject)
    from lm_eval.models.vllm_causallms import VLLM

    counting = type("CountingVLLM", (CountsCuts, VLLM), {})
    return counting(**arguments, add_bos_token=bos, batch_size=batch_size)


class CountsCuts:
    """Counts what lm-eval's vLLM model, which comes after it, cuts from requests.

    Attributes:
        truncated: tokens cut from the left of requests that were too long, by their arguments.
    """

    def __init__(self, *args, **kwargs):
        self.truncated: dict[tuple, int] = {}
        super().__init__(*args, **kwargs)

    def _loglikelihood_tokens(self, requests, *args, **kwargs):
        # One position is left for a token that vLLM generates.
        self.truncated |= cut_of_choices(requests, self.max_length - 1)
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def generate_until(self, requests, *args, **kwargs):
        prompts = [request.args for request in requests]
        self.truncated |= cut_of_prompts(
            prompts, self.tok_encode, self.max_length, self.max_gen_toks
        )
        return super().generate_until(requests, *args, **kwargs)


def arguments_for(subject: dict) -> dict:
    """What lm-eval's vLLM model is told of a subject's weights.

    Raises:
        UserError: its base is in 4 bits, or it has embeddings of its own.
    """
    base, mode = subject["base"], subject["mode"]
    checkpoint = Path(subject["checkpoint"] or "")
    if mode == "qlora":
        raise UserError(
            f"{subject['id']}: vLLM computes 4-bit bases otherwise than they were trained; evaluate"
            " it without evaluation.backend: vllm"
        )
    if has_own_embeddings(subject):
        raise UserError(
            f"{subject['id']}: vLLM can't take an import's own embeddings; export the merged model,"
            " or evaluate it without evaluation.backend: vllm"
        )
    made = {
        "dtype": DTYPES[subject["precision"]],
        "pretrained": base["model"],
        "trust_remote_code": bool(base.get("remote_code", False)),
    }
    if base["revision"]:
        made["revision"] = base["revision"]
    if mode == "full":
        return {**made, "pretrained": str(checkpoint / "llm"), "revision": None}
    if mode == "lora":
        settings = read_json(checkpoint / "adapter" / "adapter_config.json", "adapter's settings")
        rank = next((rank for rank in RANKS if rank >= settings["r"]), settings["r"])
        made |= {"lora_local_path": str(checkpoint / "adapter"), "max_lora_rank": rank}
    return made
