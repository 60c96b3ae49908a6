"""The text suite on vLLM, for those who have it, through lm-eval's own model of that name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


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

    return VLLM(**arguments, add_bos_token=bos, batch_size=batch_size)


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
    if subject["checkpoint"] and (checkpoint / "embeddings.safetensors").is_file():
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
        made |= {"lora_local_path": str(checkpoint / "adapter"), "max_lora_rank": settings["r"]}
    return made
