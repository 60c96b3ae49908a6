"""Shapes of models that are compared, the work that learning takes in them, and GPUs' peaks."""

from __future__ import annotations

from collections.abc import Sequence

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

MICRO_BATCH = 4
"""Samples of a pass in the published recipe."""

BEFORE, PROMPT = 35, 20
"""Tokens before the image (the template's opening) and of a prompt, where lengths are given."""

SHAPES = {
    # Proportions of Llama-2-7B and ViT-L/14 as far as they go; every image takes 256 positions.
    "cpu": {
        "llm": {
            "vocab_size": 32000,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096,
        },
        "tower": {
            "image_size": 224,
            "patch_size": 14,
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
        },
        # The published 64 for a width of 4,096 is 8 for one of 512.
        "lora": {"rank": 8, "alpha": 2, "dropout": 0.05, "targets": TARGETS},
        "precision": "fp32",
        "learning_rate": {"lora": 2e-3, "qlora": 2e-3, "full": 1e-3},
        "token_budget": 2048,
    },
    "7b": {
        "llm": {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
        },
        "tower": {
            "image_size": 224,
            "patch_size": 14,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "hidden_act": "quick_gelu",
        },
        "lora": {"rank": 64, "alpha": 16, "dropout": 0.05, "targets": TARGETS},
        "precision": "bf16",
        "learning_rate": {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5},
        "token_budget": 16384,
    },
    "tiny": {
        "llm": {
            "vocab_size": 512,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
        },
        "tower": {
            "image_size": 56,
            "patch_size": 14,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": TARGETS},
        "precision": "fp32",
        "learning_rate": {"lora": 1e-2, "qlora": 1e-2, "full": 1e-2},
        "token_budget": 512,
    },
}

_PEAKS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("RTX 6000 Ada", 364e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("RTX A6000", 155e12),
    ("A10", 125e12),
    ("L4", 121e12),
)
"""Dense bfloat16 FLOP/s with float32 sums, from NVIDIA's data sheets, by a part of the name."""


def positions_of_image(shape: dict) -> int:
    """Positions that an image takes."""
    return (shape["tower"]["image_size"] // shape["tower"]["patch_size"]) ** 2


def fewest_positions(shape: dict) -> int:
    """Positions of a sample of which nothing is learned."""
    return BEFORE + positions_of_image(shape) + PROMPT


def peak_flops(gpu: str) -> float | None:
    """A GPU's peak in bfloat16 (FLOP/s); None where it isn't known."""
    return next((peak for part, peak in _PEAKS if part in gpu), None)


def learning_flops(shape: dict, tuning: str, lengths: Sequence[int], learned: int) -> float:
    """The floating-point operations that learning some samples takes, by any route.

    A matrix of N weights takes 2 N operations a position forward, 2 N back to its input, and 2 N
    for its own gradient where it learns. So a position takes 6 N in full tuning, and with adapters
    4 N of the LLM's layers and 6 of the adapters' weights. The head is counted at learned tokens
    alone; attention (its causal half) is 2 T^2 a layer and unit of width forward, twice that back.
    Padding, computing again for checkpointing, the tower, the projector and what isn't a matrix
    product are left out: whoever does more of it gets no credit for it.

    Args:
        shape: one of `SHAPES`.
        tuning: "full", "lora" or "qlora".
        lengths: positions of each sample.
        learned: learned tokens of all of them.
    """
    llm = shape["llm"]
    width, inner, layers = llm["hidden_size"], llm["intermediate_size"], llm["num_hidden_layers"]
    keys = width * llm["num_key_value_heads"] // llm["num_attention_heads"]
    matrices = {
        "q_proj": (width, width),
        "k_proj": (width, keys),
        "v_proj": (width, keys),
        "o_proj": (width, width),
        "gate_proj": (width, inner),
        "up_proj": (width, inner),
        "down_proj": (inner, width),
    }
    own = 6 if tuning == "full" else 4
    a_position = own * sum(rows * columns for rows, columns in matrices.values())
    if tuning != "full":
        rank = shape["lora"]["rank"]
        a_position += 6 * rank * sum(sum(matrices[name]) for name in shape["lora"]["targets"])
    attention = 6 * width * sum(length**2 for length in lengths)
    head = own * width * llm["vocab_size"] * learned
    return float(layers * (a_position * sum(lengths) + attention) + head)
