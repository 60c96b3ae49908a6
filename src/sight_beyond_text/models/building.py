"""Building the multimodal model from a base LLM, a vision tower and a projector."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file

from sight_beyond_text.errors import UserError
from sight_beyond_text.models.sentencepiece import LlamaTokenizer

if TYPE_CHECKING:
    from peft import PeftModel

SPARE_TOKEN = "<image>"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_UNREADABLE = (OSError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError)
"""What transformers raises where files are missing, broken, or another model's."""

_PROVEN = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "smollm3",
)  # fmt: skip
"""Kinds of LLM whose logits are known to be those of their head; others are tried out."""


class LinearProjector(nn.Module):
    """One linear layer from the tower's features to the LLM's embeddings (LLaVA 1.0's)."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(features, hidden)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """(..., features) to (..., hidden)."""
        return self.linear(image_features)


class CappedHead(nn.Linear):
    """Another head's weights, its logits capped smoothly, as Gemma 2 does outside of its head."""

    def __init__(self, head: nn.Linear, cap: float):
        super().__init__(head.in_features, head.out_features, head.bias is not None, device="meta")
        self.weight, self.bias, self.cap = head.weight, head.bias, cap

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., hidden) to logits (..., rows) between -cap and cap."""
        return torch.tanh(super().forward(hidden) / self.cap) * self.cap


def load_tokenizer(spec: dict):
    """The base's tokenizer.

    Raises:
        UserError: no such folder or hub id, it holds no tokenizer, or needs code of its own.
    """
    kind = AutoTokenizer
    with _reading(spec, "tokenizer"):
        if _file(spec, "tokenizer.json") is None and _file(spec, "tokenizer.model") is not None:
            settings = _file(spec, "tokenizer_config.json")
            named = json.loads(Path(settings).read_text("utf-8")) if settings else {}
            if (named.get("tokenizer_class") or "LlamaTokenizer").startswith("LlamaTokenizer"):
                kind = LlamaTokenizer
        tokenizer = kind.from_pretrained(spec["model"], **_source(spec))
    if hasattr(tokenizer, "legacy"):
        # transformers forgets it when it saves, and then tokenizes otherwise.
        tokenizer.init_kwargs["legacy"] = tokenizer.legacy
    return tokenizer


def _file(spec: dict, name: str) -> str | None:
    return cached_file(
        spec["model"], name, revision=spec["revision"], _raise_exceptions_for_missing_entries=False
    )


def _source(spec: dict) -> dict:
    """Where from, for `from_pretrained`; a repository's own code runs only where allowed."""
    return {
        "revision": spec["revision"],
        "trust_remote_code": bool(spec.get("remote_code", False)),
    }


def image_token(tokenizer, rows: int) -> int:
    """An embedding row that no text uses, to stand for one image position.

    A token is never added, so the embeddings and the head keep their size and needn't learn.

    Args:
        tokenizer: the base's.
        rows: rows of the base's embedding matrix.

    Raises:
        UserError: every row is taken.
    """
    vocabulary = tokenizer.get_vocab()
    if vocabulary.get(SPARE_TOKEN, rows) < rows:
        return vocabulary[SPARE_TOKEN]
    if rows > max(vocabulary.values()) + 1:
        return rows - 1
    template = str(tokenizer.chat_template or "")
    reserved = [
        number
        for number, token in sorted(tokenizer.added_tokens_decoder.items(), reverse=True)
        if token.special and token.content not in template and number < rows
    ]
    unknown = tokenizer.unk_token_id  # the last choice: not every tokenizer knows all characters
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, None}
    reserved = [number for number in reserved if number != unknown]
    for spare in (tokenizer.pad_token_id, *reserved, unknown):
        if spare not in used:
            return spare
    raise UserError("the tokenizer has no spare token to stand for the image (unk, pad, reserved)")


def padding_token(tokenizer, image: int) -> int:
    """A token to pad with that isn't the image's; padding is masked, so any other serves."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None and token != image:
            return token
    return 0 if image != 0 else 1


def load_language_model(spec: dict, dtype: torch.dtype, four_bit: bool = False):
    """A causal language model alone.

    Weights are read from safetensors, or else from `.bin` files without unpickling more than
    tensors.

    Args:
        spec: `{model, revision}`, and `remote_code`, whether the base's own code may run.
        dtype: of the weights (of the computation, in 4 bits).
        four_bit: NF4 with double quantization; the head stays as it is.

    Raises:
        UserError: it can't be loaded from there, or isn't a whole causal language model.
    """
    _check_base(spec)
    quantization = four_bit_config(["lm_head", "embed_out"], dtype) if four_bit else None
    with _reading(spec, "language model"):
        model, found = AutoModelForCausalLM.from_pretrained(
            spec["model"],
            dtype=dtype,
            quantization_config=quantization,
            output_loading_info=True,
            **_source(spec),
        )
    _check_whole(spec, "language model", found)
    for module in model.modules():
        # On some CPUs bitsandbytes repacks weights for bfloat16 when it isn't training; scores
        # would then differ from machine to machine, and odd widths fail.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _check_base(spec: dict) -> None:
    """Refuses what isn't the full-precision weights of a language model, before they're read."""
    with _reading(spec, "language model"):
        adapter = _file(spec, "adapter_config.json")
    if adapter is not None:
        raise UserError(f"{spec['model']}: an adapter, not a base; merge it into its base first")
    with _reading(spec, "language model"):
        config = AutoConfig.from_pretrained(spec["model"], **_source(spec))
    kind = config.model_type
    if str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, "")).endswith("ForConditionalGeneration"):
        raise UserError(
            f"{spec['model']}: a model of type {kind!r} has a vision part of its own;"
            " choose a base that is a language model alone"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"{spec['model']}: quantized already; choose the base in full precision"
            " (qlora quantizes it when it is loaded)"
        )


def _check_whole(spec: dict, what: str, found: dict) -> None:
    missing = sorted(found["missing_keys"])
    if missing:
        raise UserError(
            f"{spec['model']}: not a whole {what}: {len(missing)} tensors are missing, the first"
            f" is {missing[0]}; fetch it again or choose another"
        )


def add_adapters(llm, settings: dict) -> PeftModel:
    """Puts fresh low-rank adapters into a language model.

    Args:
        llm: a base; its modules are changed in place.
        settings: `{rank, alpha, dropout, targets}`, as `study.Lora`.

    Raises:
        UserError: a target that no module of the base is named after.
    """
    # Takes a second, which most evaluations can do without.
    from peft import LoraConfig, get_peft_model

    head = llm.get_output_embeddings()
    there = {
        name.rsplit(".", 1)[-1]
        for name, module in llm.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    missing = [name for name in settings["targets"] if name not in there]
    if missing:
        raise UserError(
            f"lora.targets: {type(llm).__name__} has no {', '.join(missing)};"
            f" there are: {', '.join(sorted(there))}"
        )
    return get_peft_model(
        llm,
        LoraConfig(
            r=settings["rank"],
            lora_alpha=settings["alpha"],
            lora_dropout=settings["dropout"],
            target_modules=settings["targets"],
            bias="none",
            task_type="CAUSAL_LM",
        ),
    )


def four_bit_config(skipped: list[str], dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's: NF4, double quantization, computing in `dtype`; `skipped` modules stay whole."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )


def load_processor(tower: dict):
    """The tower's image processor, set to the study's way of making images square.

    Args:
        tower: `{model, revision, preparation}`. "crop": the shorter side is resized, the middle is
            kept. "pad": padded to a square with the processor's mean color first, as LLaVA-1.5
            does. "stretch": both sides are resized.

    Returns:
        A processor of transformers, without torchvision (whose pixels would differ a little).

    Raises:
        UserError: it can't be loaded from there, or its size isn't the tower's.
    """
    with _reading(tower, "image processor"):
        own = AutoImageProcessor.from_pretrained(tower["model"], backend="pil", **_source(tower))
    side = _tower_config(tower).image_size
    square = {"height": side, "width": side}
    if tower["preparation"] == "crop" and own.do_center_crop:
        if dict(own.crop_size) != square:
            raise UserError(
                f"{tower['model']}: its image processor crops to {own.crop_size['height']} pixels,"
                f" its tower sees {side}; take both from one model"
            )
        return own
    crop = tower["preparation"] == "crop"
    return LlavaImageProcessorPil(
        size={"shortest_edge": side} if crop else square,
        do_center_crop=crop,
        crop_size=square,
        do_pad=tower["preparation"] == "pad",
        **{name: getattr(own, name) for name in _PIXEL_SETTINGS},
    )


_PIXEL_SETTINGS = (
    "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip


def patches_of(tower: dict) -> int:
    """Positions that one image takes (the class token is dropped)."""
    return image_positions(_tower_config(tower))


def image_positions(vision_config) -> int:
    """Positions that one image takes, by the tower's configuration."""
    return (vision_config.image_size // vision_config.patch_size) ** 2


def _tower_config(tower: dict):
    with _reading(tower, "vision tower"):
        config = AutoConfig.from_pretrained(tower["model"], **_source(tower))
    return getattr(config, "vision_config", config)


def load_tower(tower: dict, dtype: torch.dtype):
    """The vision part of a CLIP or SigLIP model.

    Raises:
        UserError: it can't be loaded from there, is of another type, or has no such layer.
    """
    from transformers import CLIPVisionModel, SiglipVisionModel

    config = _tower_config(tower)
    kinds = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}
    if config.model_type not in kinds:
        raise UserError(
            f"{tower['model']}: a vision tower of type {config.model_type!r};"
            f" supported: {', '.join(kinds)}"
        )
    layers = config.num_hidden_layers
    if not 0 < abs(tower["layer"]) <= layers:
        raise UserError(
            f"tower.layer: {tower['model']} has {layers} layers, no {tower['layer']};"
            f" allowed: 1 to {layers}, or from the end -1 to -{layers}"
        )
    with _reading(tower, "vision tower"):
        vision, found = kinds[config.model_type].from_pretrained(
            tower["model"], dtype=dtype, output_loading_info=True, **_source(tower)
        )
    _check_whole(tower, "vision tower", found)
    return vision


def has_class_token(vision_config) -> bool:
    """Whether a tower's first position stands for the whole image (it is dropped then)."""
    return vision_config.model_type == "clip_vision_model"


def build(
    base: dict,
    tower: dict,
    tokenizer,
    dtype: torch.dtype,
    language_model: nn.Module | None = None,
    projector_dtype: torch.dtype | None = None,
) -> LlavaForConditionalGeneration:
    """The whole model: tower, fresh projector, base LLM.

    Args:
        base: `{model, revision}` of the LLM.
        tower: `{model, revision, layer, projector}`.
        tokenizer: the base's; tells which row stands for the image.
        dtype: of weights and computation.
        language_model: an LLM at hand, instead of loading the base.
        projector_dtype: of the projector's weights, where it isn't `dtype`.

    Returns:
        The model, in eval mode. The projector is drawn from torch's current seed.

    Raises:
        UserError: a part can't be loaded, or the LLM's class does what LLaVA's doesn't.
    """
    vision = load_tower(tower, dtype)
    llm = language_model or load_language_model(base, dtype)
    body, head = llm.base_model, llm.get_output_embeddings()
    if body is llm or head is None:
        raise UserError(
            f"{base['model']}: {type(llm).__name__} can't be taken apart; choose another"
        )
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=LlamaConfig(
            vocab_size=3, hidden_size=1, num_hidden_layers=0, num_attention_heads=1
        ),
        image_token_id=image_token(tokenizer, llm.get_input_embeddings().weight.shape[0]),
        vision_feature_layer=tower["layer"],
        vision_feature_select_strategy="default" if has_class_token(vision.config) else "full",
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    config.text_config = llm.config
    config.tie_word_embeddings = llm.config.tie_word_embeddings
    model.model.vision_tower = vision
    projector = new_projector(config, tower["projector"])
    model.model.multi_modal_projector = projector.to(projector_dtype or dtype)
    model.model.language_model = body
    cap = getattr(llm.config, "final_logit_softcapping", None)
    model.lm_head = CappedHead(head, cap) if cap else head
    model.generation_config = llm.generation_config
    model.eval()
    if llm.config.model_type not in _PROVEN:
        _try_out(model, llm.eval())
    return model


@torch.no_grad()
def _try_out(model: LlavaForConditionalGeneration, llm: nn.Module) -> None:
    """Sees that the whole model says of a text what the LLM alone says.

    Raises:
        UserError: it doesn't; the LLM's class scales its logits, say, outside of its head.
    """
    ids = torch.arange(4, device=llm.device)[None]
    try:
        alone, whole = llm(input_ids=ids).logits.float(), model(input_ids=ids).logits.float()
        same = torch.allclose(alone, whole, rtol=1e-3, atol=1e-3 * alone.abs().max().item())
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError):
        same = False
    if not same:
        raise UserError(
            f"{llm.config.name_or_path}: {type(llm).__name__} makes its logits in a way that"
            " LLaVA's class doesn't; choose a base of another family"
        )


def new_projector(config: LlavaConfig, form: str) -> nn.Module:
    """A fresh projector: `linear` or `mlp2x_gelu`."""
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    if form == "mlp2x_gelu":
        return LlavaMultiModalProjector(config)
    return LinearProjector(config.vision_config.hidden_size, config.text_config.hidden_size)


@contextmanager
def _reading(spec: dict, what: str) -> Iterator[None]:
    """Tells in one line what can't be read, be it missing, broken, or not allowed."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _UNREADABLE as error:
        if not spec.get("remote_code") and "trust_remote_code" in str(error):
            raise UserError(
                f"{spec['model']}: its {what} needs code of its own, which isn't run unless you"
                " allow it; read that code, then set `remote_code: true` for this base"
            ) from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        kind = "folder" if Path(spec["model"]).exists() else "folder or hub id"
        raise UserError(f"{spec['model']}: no {what} in this {kind}: {reason}") from None
