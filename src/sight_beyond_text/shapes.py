"""Shapes of models, and how many parameters they have, by their `config.json` alone. No torch here.

A shape is enough to foretell what a training takes (`memory`, `costs`), so that `sight plan`
answers at once, and before any weights are downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from sight_beyond_text.errors import UserError


class _Family(NamedTuple):
    """What a kind of language model has that its configuration doesn't say."""

    biased: Mapping[str, str | None] = {}  # noqa: RUF012 - a default that nobody changes
    norms: int = 2
    qk_norm: str | None = None
    defaults: Mapping[str, Any] = {}  # noqa: RUF012


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_BY_ATTENTION_BIAS = dict.fromkeys(_ATTENTION, "attention_bias")
_BY_BOTH = {**_BY_ATTENTION_BIAS, **dict.fromkeys(_MLP, "mlp_bias")}
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}

_FAMILIES = {
    "llama": _Family(_BY_BOTH),
    "mistral": _Family(defaults={"num_key_value_heads": 8}),
    "qwen2": _Family(dict.fromkeys(_ATTENTION[:3])),
    "qwen3": _Family(_BY_ATTENTION_BIAS, qk_norm="head", defaults={"head_dim": 128}),
    "gemma": _Family(_BY_ATTENTION_BIAS, defaults=_GEMMA),
    "gemma2": _Family(_BY_ATTENTION_BIAS, norms=4, defaults={**_GEMMA, "num_key_value_heads": 4}),
    "gemma3_text": _Family(
        _BY_ATTENTION_BIAS,
        norms=4,
        qk_norm="head",
        defaults={**_GEMMA, "num_key_value_heads": 4, "vocab_size": 262208},
    ),
    "olmo2": _Family(_BY_ATTENTION_BIAS, qk_norm="whole"),
    "smollm3": _Family(_BY_BOTH, defaults={"tie_word_embeddings": True, "num_key_value_heads": 4}),
}


@dataclass(frozen=True)
class Shape:
    """The shape of a language model.

    Attributes:
        kind: its `model_type`.
        hidden, intermediate: widths of the residual stream and of the MLP.
        heads, kv_heads, head_dim: of the attention.
        vocabulary: rows of the embeddings.
        tied: whether the head is the embeddings.
        biased: names of a layer's matrices that have a bias.
        norms: norms of a layer that are as wide as the stream.
        qk_norm: norms of queries and keys: of each "head", of the "whole", or none.
        scores: whether its attention keeps the scores (Gemma 2 caps them, so no SDPA).
    """

    kind: str
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    biased: frozenset[str] = frozenset()
    norms: int = 2
    qk_norm: str | None = None
    scores: bool = False

    @property
    def queries(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """A layer's matrices by name: features in, features out."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters by part: embeddings, attention, mlp, norms, head (0 where it is tied)."""
        sizes = {
            name: prod(size) + (size[1] if name in self.biased else 0)
            for name, size in self.matrices.items()
        }
        qk = {None: 0, "head": 2 * self.head_dim, "whole": self.queries + self.keys}[self.qk_norm]
        table = self.vocabulary * self.hidden
        return {
            "embeddings": table,
            "attention": self.layers * sum(sizes[name] for name in _ATTENTION),
            "mlp": self.layers * sum(sizes[name] for name in _MLP),
            "norms": self.layers * (self.norms * self.hidden + qk) + self.hidden,
            "head": 0 if self.tied else table,
        }

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())


@dataclass(frozen=True)
class TowerShape:
    """The shape of a vision tower.

    Attributes:
        kind: "clip_vision_model" or "siglip_vision_model".
        width, intermediate: of the stream and of the MLP.
        image_size, patch_size: sides in pixels.
        pooling: whether it has SigLIP's head, which pools by attention (and which nobody reads).
    """

    kind: str
    width: int
    layers: int
    intermediate: int
    image_size: int
    patch_size: int
    pooling: bool = False

    @property
    def patches(self) -> int:
        """Positions that an image takes in the language model."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def total(self) -> int:
        """All parameters."""
        width, clip = self.width, self.kind == "clip_vision_model"
        square, norm = width * width + width, 2 * width
        mlp = 2 * width * self.intermediate + width + self.intermediate
        embeddings = 3 * self.patch_size**2 * width + self.patches * width
        # CLIP has a class token with its position and a norm before the layers, SigLIP a bias.
        embeddings += 2 * width + norm if clip else width
        pooling = width + 4 * square + norm + mlp if self.pooling else 0
        return embeddings + self.layers * (4 * square + mlp + 2 * norm) + norm + pooling


def model_shape(config: Mapping[str, Any], where: str = "config.json") -> Shape:
    """The shape of a language model.

    Args:
        config: what its `config.json` holds; Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3 (text),
            OLMo2 and SmolLM3, and what shares their `model_type`.
        where: names it in errors.

    Raises:
        UserError: a model of another kind, or a size is missing.
    """
    kind = config.get("model_type")
    if kind not in _FAMILIES:
        raise UserError(
            f"{where}: parameters of a model of type {kind!r} can't be foretold;"
            f" known: {', '.join(_FAMILIES)}"
        )
    family = _FAMILIES[kind]
    given = {**family.defaults, **{key: v for key, v in config.items() if v is not None}}
    sizes = [_whole(given, name, where) for name in _SIZES]
    hidden, layers, intermediate, heads, vocabulary = sizes
    return Shape(
        kind=kind,
        hidden=hidden,
        layers=layers,
        intermediate=intermediate,
        heads=heads,
        kv_heads=int(given.get("num_key_value_heads", heads)),
        head_dim=int(given.get("head_dim", hidden // heads)),
        vocabulary=vocabulary,
        tied=bool(given.get("tie_word_embeddings", False)),
        biased=frozenset(
            name for name, key in family.biased.items() if key is None or given.get(key)
        ),
        norms=family.norms,
        qk_norm=family.qk_norm,
        scores=kind == "gemma2",
    )


_SIZES = (
    "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size",
)  # fmt: skip


def tower_shape(config: Mapping[str, Any], where: str = "config.json") -> TowerShape:
    """The shape of a CLIP or SigLIP tower; of a two-tower model's, its vision part.

    Raises:
        UserError: a model of another kind, or a size isn't a number.
    """
    kind = str(config.get("model_type")).removesuffix("_vision_model")
    if kind not in _TOWERS:
        raise UserError(
            f"{where}: a vision tower of type {config.get('model_type')!r}; known: clip, siglip"
        )
    given = {**_TOWERS[kind], **(config.get("vision_config") or config)}
    return TowerShape(
        kind=f"{kind}_vision_model",
        width=_whole(given, "hidden_size", where),
        layers=_whole(given, "num_hidden_layers", where),
        intermediate=_whole(given, "intermediate_size", where),
        image_size=_whole(given, "image_size", where),
        patch_size=_whole(given, "patch_size", where),
        pooling=kind == "siglip" and bool(given["vision_use_head"]),
    )


_TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "image_size": 224,
}
_TOWERS = {
    "clip": {**_TOWER, "patch_size": 32},
    "siglip": {**_TOWER, "patch_size": 16, "vision_use_head": True},
}
"""Defaults of transformers' configurations, which their files may leave out."""


def stored_bytes(config: Mapping[str, Any], where: str = "config.json") -> int:
    """What a model's weights take on the hub: in 16 bits, where the configuration doesn't say.

    CLIP's and SigLIP's files hold the tower for texts too.

    Raises:
        UserError: a model of another kind, or a size is missing.
    """
    value = 4 if "32" in str(config.get("dtype") or config.get("torch_dtype")) else 2
    try:
        return value * model_shape(config, where).total
    except UserError:
        vision = tower_shape(config, where)
    kind = vision.kind.removesuffix("_vision_model")
    text = {**_TEXT_TOWERS[kind], **(config.get("text_config") or {})}
    width, inner = text["hidden_size"], text["intermediate_size"]
    layer = 4 * (width * width + width) + 2 * width * inner + width + inner + 4 * width
    words = (text["vocab_size"] + text["max_position_embeddings"]) * width
    joined = config.get("projection_dim") or text["projection_dim"]
    # CLIP projects both and has a scale; SigLIP a head on the texts, a scale and a bias.
    heads = (vision.width + width) * joined + 1 if kind == "clip" else width * width + width + 2
    both = vision.total + words + text["num_hidden_layers"] * layer + 2 * width + heads
    return value * both


_TEXT_TOWERS = {
    "clip": {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "projection_dim": 512,
    },
    "siglip": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "max_position_embeddings": 64,
        "projection_dim": 0,
    },
}


def _whole(given: Mapping[str, Any], name: str, where: str) -> int:
    if not isinstance(given.get(name), int):
        raise UserError(f"{where}: {name}: expected a whole number, found {given.get(name)!r}")
    return given[name]


def projector_parameters(form: str, features: int, hidden: int) -> int:
    """Parameters of a projector (`linear` or `mlp2x_gelu`) from a tower's width to an LLM's."""
    first = features * hidden + hidden
    return first + (hidden * hidden + hidden if form == "mlp2x_gelu" else 0)


def adapter_parameters(shape: Shape, lora: Mapping[str, Any]) -> int:
    """Parameters of low-rank adapters.

    Args:
        shape: of the language model.
        lora: `{rank, targets}`.

    Raises:
        UserError: a target that the model has no matrix of.
    """
    unknown = [name for name in lora["targets"] if name not in shape.matrices]
    if unknown:
        raise UserError(
            f"lora.targets: a {shape.kind} has no {', '.join(unknown)};"
            f" there are: {', '.join(shape.matrices)}"
        )
    targets = set(lora["targets"])
    return shape.layers * lora["rank"] * sum(sum(shape.matrices[name]) for name in targets)


def read_config(model: str, revision: str | None = None) -> dict | None:
    """A model's configuration, as far as it is at hand: nothing is fetched.

    Args:
        model: a folder or a hub id.
        revision: of the hub id.

    Returns:
        What its `config.json` holds, in the folder, in Hugging Face's cache, or in `KNOWN`; None
        where there is none.

    Raises:
        UserError: the file isn't JSON.
    """
    path = Path(model) / "config.json"
    if not path.is_file():
        cached = None if Path(model).exists() else _cached(model, revision)
        if cached is None:
            return KNOWN.get(model)
        path = cached
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); fetch the model again") from None


def micro_config(name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration that a model of the micro world gets (`micro.pretrain`, `micro.tower`).

    Args:
        name: "base", "chat" or "tower".
        settings: `study.Micro` as a dict.
    """
    if name == "tower":
        return {
            "model_type": "clip_vision_model",
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "image_size": 64,
            "patch_size": 32,
        }
    width = settings["hidden_size"]
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": settings["layers"],
        "num_attention_heads": 4,
        "vocab_size": settings["vocabulary"],
        "tie_word_embeddings": True,
    }


def _cached(model: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _llama(hidden: int, intermediate: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    }


def _modern(
    kind: str, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, words: int
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": words,
        "tie_word_embeddings": kind not in ("olmo2", "llama") or hidden < 1024,
    }


def _vit_large(image_size: int) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": image_size,
        "patch_size": 14,
        "text_config": {"hidden_size": 768, "intermediate_size": 3072},
        "projection_dim": 768,
        "dtype": "float32",
    }


_VIT_BASE = {
    "model_type": "clip_vision_model",
    "dtype": "float32",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}

KNOWN = {
    "huggyllama/llama-7b": _llama(4096, 11008, 32),
    "lmsys/vicuna-7b-v1.3": _llama(4096, 11008, 32),
    "openlm-research/open_llama_3b": _llama(3200, 8640, 26),
    "openlm-research/open_llama_3b_v2": _llama(3200, 8640, 26),
    "openllmplayground/openalpaca_3b_600bt_preview": _llama(3200, 8640, 26),
    "meta-llama/Llama-2-7b-hf": _llama(4096, 11008, 32),
    "meta-llama/Llama-2-7b-chat-hf": _llama(4096, 11008, 32),
    "HuggingFaceTB/SmolLM2-135M": _modern("llama", 576, 1536, 30, 9, 3, 49152),
    "HuggingFaceTB/SmolLM2-360M": _modern("llama", 960, 2560, 32, 15, 5, 49152),
    "HuggingFaceTB/SmolLM3-3B-Base": _modern("smollm3", 2048, 11008, 36, 16, 4, 128256),
    "HuggingFaceTB/SmolLM3-3B": _modern("smollm3", 2048, 11008, 36, 16, 4, 128256),
    "Qwen/Qwen3-0.6B-Base": _modern("qwen3", 1024, 3072, 28, 16, 8, 151936),
    "Qwen/Qwen3-4B-Base": _modern("qwen3", 2560, 9728, 36, 32, 8, 151936),
    "allenai/OLMo-2-0425-1B": _modern("olmo2", 2048, 8192, 16, 16, 16, 100352),
    "allenai/OLMo-2-1124-7B": _modern("olmo2", 4096, 11008, 32, 32, 32, 100352),
    "allenai/OLMo-2-1124-7B-Instruct": _modern("olmo2", 4096, 11008, 32, 32, 32, 100352),
    "meta-llama/Llama-3.1-8B": _modern("llama", 4096, 14336, 32, 32, 8, 128256),
    "meta-llama/Llama-3.1-8B-Instruct": _modern("llama", 4096, 14336, 32, 32, 8, 128256),
    "openai/clip-vit-base-patch32": _VIT_BASE,
    "openai/clip-vit-large-patch14": _vit_large(224),
    "openai/clip-vit-large-patch14-336": _vit_large(336),
}
"""Configurations of the models of our studies, so that these plan without them."""
