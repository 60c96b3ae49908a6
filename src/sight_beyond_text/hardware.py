"""GPUs by name: their memory, and how fast they multiply matrices."""

GPUS = {
    "b200": (180, 2250),
    "h200": (141, 989),
    "h100": (80, 989),
    "h100-pcie": (80, 756),
    "a100-80": (80, 312),
    "a100-40": (40, 312),
    "l40s": (48, 362),
    "rtx-6000-ada": (48, 364),
    "a6000": (48, 155),
    "l4": (24, 121),
    "a10": (24, 125),
    "rtx-4090": (24, 165),
    "rtx-3090": (24, 71),
}
"""GiB, and dense bfloat16 TFLOP/s with float32 sums; from NVIDIA's data sheets."""
