"""Published recipes by name, for `preset:` in a study; what a study says itself comes before them.

`published`: Tu et al., arXiv 2309.07120, and its public code. Batches there were 16 x 8 (alignment)
and 4 x 2 (tuning) samples a device; these are one device's. `llava-1.5`: Liu et al., arXiv
2310.03744, and its public scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = ("published", "llava-1.5")

_COMMON = {
    "epochs": 1,
    "warmup": 0.03,
    "weight_decay": 0.0,
    "max_length": 2048,
    "precision": "bf16",
}

ALIGNMENT = {
    "published": {**_COMMON, "learning_rate": 2e-3, "batch_size": 128},
    "llava-1.5": {**_COMMON, "learning_rate": 1e-3, "batch_size": 256},
}

_PUBLISHED = {**_COMMON, "learning_rate": 2e-5, "batch_size": 8}
_PUBLISHED_LORA = {**_PUBLISHED, "lora": {"rank": 64, "alpha": 16, "dropout": 0.05}}
_LLAVA = {**_COMMON, "learning_rate": 2e-5, "batch_size": 128}
_LLAVA_LORA = {
    **_LLAVA,
    "learning_rate": 2e-4,
    "projector_learning_rate": 2e-5,
    "lora": {"rank": 128, "alpha": 256, "dropout": 0.05},
}

TUNING = {
    "published": {
        "full": _PUBLISHED,
        "frozen": _PUBLISHED,
        "lora": _PUBLISHED_LORA,
        "qlora": _PUBLISHED_LORA,
    },
    "llava-1.5": {"full": _LLAVA, "frozen": _LLAVA, "lora": _LLAVA_LORA, "qlora": _LLAVA_LORA},
}

TOWER = {
    "published": {
        "model": "openai/clip-vit-large-patch14",
        "layer": -2,
        "projector": "linear",
        "preparation": "crop",
    },
    "llava-1.5": {
        "model": "openai/clip-vit-large-patch14-336",
        "layer": -2,
        "projector": "mlp2x_gelu",
        "preparation": "pad",
    },
}


def filled(given: Any, presets: Mapping[str, Mapping]) -> Any:
    """The values that a part of a study gives, over those of the preset that it names.

    Args:
        given: the part as read; `preset` stays in it, to be checked with the rest.
        presets: values by the preset's name.
    """
    if not isinstance(given, Mapping) or given.get("preset") not in presets:
        return given
    return {**presets[given["preset"]], **given}
