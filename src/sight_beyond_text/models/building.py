"""Building the multimodal model from a base LLM, a vision tower and a projector."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from sight_beyond_text.errors import UserError

SPARE_TOKEN = "<image>"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LinearProjector(nn.Module):
    """One linear layer from the tower's features to the LLM's embeddings (LLaVA 1.0's)."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(features, hidden)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """(..., features) to (..., hidden)."""
        return self.linear(image_features)


def load_tokenizer(spec: dict):
    """The base's tokenizer.

    Raises:
        UserError: no such folder or hub id, or it holds no tokenizer.
    """
    try:
        return AutoTokenizer.from_pretrained(spec["model"], revision=spec["revision"])
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(spec, "tokenizer", error)) from None


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
    if SPARE_TOKEN in vocabulary:
        return vocabulary[SPARE_TOKEN]
    if rows > len(tokenizer):
        return rows - 1
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    for spare in (tokenizer.unk_token_id, tokenizer.pad_token_id):
        if spare is not None and spare not in used:
            return spare
    raise UserError("the tokenizer has no spare token to stand for the image (unk or pad)")


def padding_token(tokenizer, image: int) -> int:
    """A token to pad with that isn't the image's; padding is masked, so any other serves."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None and token != image:
            return token
    return 0 if image != 0 else 1


def load_language_model(spec: dict, dtype: torch.dtype, four_bit: bool = False):
    """A causal language model alone.

    Args:
        spec: `{model, revision}`.
        dtype: of the weights (of the computation, in 4 bits).
        four_bit: NF4 with double quantization; the head stays as it is.

    Raises:
        UserError: it can't be loaded from there.
    """
    quantization = four_bit_config(["lm_head"], dtype) if four_bit else None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            spec["model"],
            revision=spec["revision"],
            dtype=dtype,
            quantization_config=quantization,
        )
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(spec, "language model", error)) from None
    for module in model.modules():
        # On some CPUs bitsandbytes repacks weights for bfloat16 when it isn't training; scores
        # would then differ from machine to machine, and odd widths fail.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


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
    """The tower's image processor (torchvision isn't needed).

    Raises:
        UserError: it can't be loaded from there.
    """
    try:
        return AutoImageProcessor.from_pretrained(tower["model"], revision=tower["revision"])
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(tower, "image processor", error)) from None


def patches_of(tower: dict) -> int:
    """Positions that one image takes (the class token is dropped)."""
    return image_positions(_tower_config(tower))


def image_positions(vision_config) -> int:
    """Positions that one image takes, by the tower's configuration."""
    return (vision_config.image_size // vision_config.patch_size) ** 2


def _tower_config(tower: dict):
    try:
        config = AutoConfig.from_pretrained(tower["model"], revision=tower["revision"])
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(tower, "vision tower", error)) from None
    return getattr(config, "vision_config", config)


def build(
    base: dict,
    tower: dict,
    tokenizer,
    dtype: torch.dtype,
    language_model: nn.Module | None = None,
) -> LlavaForConditionalGeneration:
    """The whole model: tower, fresh projector, base LLM.

    Args:
        base: `{model, revision}` of the LLM.
        tower: `{model, revision, layer, projector}`.
        tokenizer: the base's; tells which row stands for the image.
        dtype: of weights and computation.
        language_model: an LLM at hand, instead of loading the base.

    Returns:
        The model, in eval mode. The projector is drawn from torch's current seed.
    """
    from transformers import CLIPVisionModel, SiglipVisionModel

    vision_config = _tower_config(tower)
    kinds = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}
    if vision_config.model_type not in kinds:
        raise UserError(
            f"{tower['model']}: a vision tower of type {vision_config.model_type!r};"
            f" supported: {', '.join(kinds)}"
        )
    llm = language_model or load_language_model(base, dtype)
    clip = vision_config.model_type == "clip_vision_model"
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=llm.config,
        image_token_id=image_token(tokenizer, llm.get_input_embeddings().weight.shape[0]),
        vision_feature_layer=tower["layer"],
        vision_feature_select_strategy="default" if clip else "full",
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    projector = new_projector(config, tower["projector"]).to(dtype)
    try:
        vision = kinds[vision_config.model_type].from_pretrained(
            tower["model"], revision=tower["revision"], dtype=dtype
        )
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(tower, "vision tower", error)) from None
    model.model.vision_tower = vision
    model.model.multi_modal_projector = projector
    model.model.language_model = llm.model
    model.lm_head = llm.lm_head
    model.generation_config = llm.generation_config
    return model.eval()


def new_projector(config: LlavaConfig, form: str) -> nn.Module:
    """A fresh projector: `linear` or `mlp2x_gelu`."""
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    if form == "mlp2x_gelu":
        return LlavaMultiModalProjector(config)
    return LinearProjector(config.vision_config.hidden_size, config.text_config.hidden_size)


def _cannot_load(spec: dict, what: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = "folder" if Path(spec["model"]).exists() else "folder or hub id"
    return f"{spec['model']}: no {what} in this {kind}: {reason}"
