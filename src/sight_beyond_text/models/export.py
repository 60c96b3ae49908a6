"""Exporting a run: a folder that plain transformers, or plain peft, opens."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedModel

from sight_beyond_text.data.samples import encode
from sight_beyond_text.data.templates import segments
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.answers import endings
from sight_beyond_text.files import staged_folder, write_json, write_text
from sight_beyond_text.models.building import (
    DTYPES,
    LinearProjector,
    build,
    image_positions,
    image_token,
    load_language_model,
    load_processor,
    padding_token,
)
from sight_beyond_text.models.checkpoints import (
    EMBEDDINGS,
    image_marks_of,
    load_adapter,
    load_embeddings,
    load_projector,
    tokenizer_of,
    verify,
)
from sight_beyond_text.models.model_card import model_card, public_name
from sight_beyond_text.models.processors import llava_processor

if TYPE_CHECKING:
    from peft import PeftModel

PARTS = ("whole", "language")
ADAPTERS = ("merged", "kept")
_LLM = "base_model.model."
_WHOLE = "base_model.model.model.language_model."
_PROBES = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Is it safe to look at the sun?", "No, looking straight at the sun harms the eyes."),
    ("Name three colours.", "Red, green and blue."),
)
"""Conversations on which the logits before and after a merge are compared."""


@dataclass(frozen=True)
class Difference:
    """How far the logits of a merged model are from those of the adapter.

    Attributes:
        positions: tokens compared.
        largest, mean: of the absolute differences.
        deviation: standard deviation of the adapter's logits, to hold them against.
        same: share of positions where the likeliest token is the same.
    """

    positions: int
    largest: float
    mean: float
    deviation: float
    same: float

    def __str__(self) -> str:
        return (
            f"logits differ by {self.mean:.2g} on average and {self.largest:.2g} at most (their"
            f" standard deviation is {self.deviation:.2g}) over {self.positions} positions; the"
            f" likeliest token is the same at {self.same:.1%}"
        )


def export(
    subject: dict,
    out: str | Path,
    part: str = "whole",
    adapter: str | None = None,
    precision: str | None = None,
) -> dict:
    """Writes a run as a folder for plain transformers or peft, safetensors only.

    Args:
        subject: a run, alignment or import, as `runs.find` gives it.
        out: the folder to make; it is whole or it isn't there.
        part: "whole" (LLaVA: tower, projector, LLM) or "language" (the LLM alone).
        adapter: "merged" (the default) or "kept"; for runs that have one.
        precision: of the weights, a key of `DTYPES`; by default, that of the run.

    Returns:
        `{folder, part, adapter, precision, difference, cap, image_marks}`: `difference` is a
        `Difference`, None where nothing was merged; `cap` is a bound of the run's logits that the
        export doesn't keep (Gemma 2's).

    Raises:
        UserError: a checkpoint that isn't as written, a choice that this run can't have, or a
            folder that is there already.
    """
    if subject["checkpoint"] is None:
        raise UserError(f"{subject['id']}: not trained here, so there is nothing to export")
    if part == "whole" and subject["projector"] is None:
        raise UserError(
            f"{subject['checkpoint']}: has no projector, or no vision tower is known for it;"
            " export the language model alone (--part language)"
        )
    has_adapter = subject["mode"] in ("lora", "qlora")
    if adapter is not None and not has_adapter:
        raise UserError(
            f"{subject['id']}: mode {subject['mode']} has no adapter; leave --adapter out"
        )
    if adapter == "kept" and (Path(subject["checkpoint"]) / EMBEDDINGS).is_file():
        raise UserError(
            f"{subject['id']}: its embeddings were trained beside the adapter, so that the adapter"
            " alone would be another model; export it merged"
        )
    if adapter == "kept" and part == "language" and precision is not None:
        raise UserError("an adapter that is kept is written as it was trained; leave --dtype out")
    record = verify(subject["checkpoint"])
    adapter = (adapter or "merged") if has_adapter else None
    if part == "whole" or adapter != "kept":
        precision = precision or subject["precision"]
    tokenizer = tokenizer_of(subject)
    difference = cap = None
    with staged_folder(out) as folder:
        if part == "language" and adapter == "kept":
            _keep_adapter(subject, folder)
            tokenizer.save_pretrained(folder)
        else:
            model, difference = _language_model(subject, tokenizer, adapter, DTYPES[precision])
            if part == "whole":
                cap = getattr(model.config, "final_logit_softcapping", None)
                body = model.base_model_prefix
                model, processor = _whole(subject, model, tokenizer)
                processor.save_pretrained(folder)
                if adapter == "kept":
                    _keep_adapter(subject, folder / "adapter", body)
            else:
                tokenizer.save_pretrained(folder)
            model.generation_config = _generation(subject["template"], tokenizer, model)
            model.save_pretrained(folder)
            _forget_paths(folder)
        told = {
            "part": part,
            "adapter": adapter,
            "precision": precision,
            "difference": difference,
            "cap": cap,
            "image_marks": image_marks_of(subject["checkpoint"]),
        }
        write_text(folder / "README.md", model_card(subject, record, told, tokenizer))
    return {"folder": str(out), **told}


def _language_model(
    subject: dict, tokenizer, adapter: str | None, dtype: torch.dtype
) -> tuple[PreTrainedModel, Difference | None]:
    """The LLM of a run with its adapter merged, or without it where it is kept apart.

    The base is loaded in the precision that the run saw it in (QLoRA's in 4 bits, then
    dequantized); the sum with the adapter is taken in float32, and rounded once.
    """
    checkpoint, mode = Path(subject["checkpoint"]), subject["mode"]
    if mode == "full":
        tuned = {"model": str(checkpoint / "llm"), "revision": None}
        return load_language_model(tuned, dtype).eval(), None
    model = load_language_model(
        subject["base"], DTYPES[subject["precision"]], four_bit=mode == "qlora"
    )
    load_embeddings(model, checkpoint)
    if adapter is None:
        return model.to(dtype).eval(), None
    before = None
    if adapter == "merged":
        adapted = load_adapter(model, checkpoint / "adapter").eval()
        before = _logits(adapted, tokenizer, subject["template"])
        model = adapted.unload()
    if mode == "qlora":
        model = model.dequantize(DTYPES[subject["precision"]])
    if adapter == "kept":
        return model.to(dtype).eval(), None
    model = merge(load_adapter(model, checkpoint / "adapter"), dtype).eval()
    return model, _difference(before, _logits(model, tokenizer, subject["template"]))


def merge(adapted: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """Adds an adapter's weights to those of its base, in float32, a layer at a time.

    Args:
        adapted: a base with one adapter; it is taken apart.
        dtype: of the model that comes back.

    Raises:
        UserError: a sum that isn't finite.
    """
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer):
            weight = layer.get_base_layer().weight
            weight.data = weight.data.float()
            try:
                layer.merge(safe_merge=True)
            except ValueError as error:
                raise UserError(f"the adapter can't be merged: {error}") from None
            weight = layer.get_base_layer().weight
            weight.data = weight.data.to(dtype)
    return adapted.unload().to(dtype)


@torch.inference_mode()
def _logits(model, tokenizer, template: str | None) -> list[torch.Tensor]:
    """Logits (T, V) of each probe, in float32 on the CPU."""
    out = []
    for turn in _PROBES:
        laid = segments([turn], template or "v1", tokenizer)
        ids = torch.tensor([encode(laid, tokenizer, 0, 0)[0]], device=model.device)
        out.append(model(input_ids=ids).logits[0].float().cpu())
    return out


def _difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> Difference:
    one, two = torch.cat(before), torch.cat(after)
    apart = (one - two).abs()
    return Difference(
        positions=len(one),
        largest=apart.max().item(),
        mean=apart.mean().item(),
        deviation=one.std().item(),
        same=(one.argmax(-1) == two.argmax(-1)).float().mean().item(),
    )


def _whole(subject: dict, language_model, tokenizer):
    """The whole model, as transformers' own classes know it, and its processor."""
    tower = subject["tower"]
    model = build(
        subject["base"], tower, tokenizer, language_model.dtype, language_model=language_model
    )
    load_projector(model, subject["projector"])
    as_transformers(model)
    if model.config.tie_word_embeddings and not hasattr(model.model.language_model, "embed_tokens"):
        # LLaVA's class ties a head to embeddings of that name alone; others are written twice.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.config.image_seq_length = image_positions(model.config.vision_config)
    processor = llava_processor(
        load_processor(tower),
        tokenizer,
        model.config,
        subject["template"],
        image_marks_of(subject["checkpoint"]),
    )
    return model, processor


def as_transformers(model) -> None:
    """Puts transformers' own projector in the place of a linear one, without changing its output.

    transformers' projector is two layers with an activation between them. One layer is the same as
    that layer, the activation "linear" (which does nothing), and an identity matrix: bit for bit,
    unless a GPU is told to multiply in TF32.
    """
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    linear = model.model.multi_modal_projector
    if not isinstance(linear, LinearProjector):
        return
    model.config.projector_hidden_act = "linear"
    projector = LlavaMultiModalProjector(model.config).to(linear.linear.weight.dtype)
    projector.linear_1 = linear.linear
    torch.nn.init.eye_(projector.linear_2.weight)
    torch.nn.init.zeros_(projector.linear_2.bias)
    model.model.multi_modal_projector = projector.eval()


def _generation(template: str | None, tokenizer, model) -> GenerationConfig:
    """Greedy generation that ends where the evaluation's ends."""
    rows = model.get_input_embeddings().weight.shape[0]
    ends = endings(template, tokenizer)[1] if template not in (None, "plain") else []
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends or tokenizer.eos_token_id,
        pad_token_id=padding_token(tokenizer, image_token(tokenizer, rows)),
    )


def _keep_adapter(subject: dict, folder: Path, body: str | None = None) -> None:
    """Copies an adapter for the LLM, or one for the whole model.

    Args:
        body: name of the LLM's layers within its class ("model" in Llama's), where the adapter is
            for the whole model, which calls them `model.language_model`.
    """
    source = Path(subject["checkpoint"]) / "adapter"
    folder.mkdir(exist_ok=True)
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = public_name(subject["base"]["model"])
    config["revision"] = subject["base"]["revision"]
    tensors = load_file(source / "adapter_model.safetensors")
    if body is not None:
        # The tower's layers bear the same names as the LLM's, and have no adapters.
        layers = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in tensors}
        chosen = "|".join(re.escape(layer) for layer in sorted(layers))
        config["target_modules"] = rf"(model\.language_model\..*\.)?({chosen})"
        config["base_model_name_or_path"] = ".."
        config["revision"] = None
        own = f"{_LLM}{body}."
        tensors = {
            _WHOLE + name.removeprefix(own) if name.startswith(own) else name: tensor
            for name, tensor in tensors.items()
        }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", config, indent=2)


def _forget_paths(folder: Path) -> None:
    """Takes local paths out of the configurations."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        part.pop("_name_or_path", None)
    write_json(path, config, indent=2)


def push(folder: str | Path, name: str) -> str:
    """Uploads an exported folder to the hub, into a private repository that is made if need be.

    The token is the hub library's own: that of `hf auth login`, or of the environment.

    Args:
        name: owner/name.

    Returns:
        The repository's address.

    Raises:
        UserError: the hub refuses, or can't be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx

    try:
        api = HfApi()
        address = str(api.create_repo(name, private=True, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="Upload an export")
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: not uploaded ({reason}); {folder} is whole: log in with `hf auth login`, and"
            f" push it with `hf upload {name} {folder}`"
        ) from None
    return address
