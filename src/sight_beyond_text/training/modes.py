"""What learns in each tuning, and which tensors that is."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

PROJECTOR = "model.multi_modal_projector."
LANGUAGE = ("model.language_model.", "lm_head.")


def set_trainable(model: nn.Module, mode: str, with_images: bool = True) -> list[str]:
    """Makes exactly what a mode trains require gradients.

    Args:
        model: the assembled LLaVA model; adapters, if any, are already in its LLM.
        mode: "align" and "frozen": the projector. "lora", "qlora": adapters and projector.
            "full": every tensor of the LLM (embeddings and head too, as the published recipe
            does) and the projector. The vision tower never learns.

    Returns:
        Names of the tensors that learn, sorted.
    """
    for name, parameter in model.named_parameters():
        if name.startswith(PROJECTOR):
            learns = with_images
        elif name.startswith(LANGUAGE):
            learns = mode == "full" or (mode in ("lora", "qlora") and "lora_" in name)
        else:
            learns = False
        parameter.requires_grad_(learns)
    return sorted(name for name, p in model.named_parameters() if p.requires_grad)


def summary(names: Iterable[str], model: nn.Module) -> dict[str, int]:
    """Trainable parameters by part: projector, adapters, language_model."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    parts: dict[str, int] = {}
    for name in names:
        if name.startswith(PROJECTOR):
            part = "projector"
        else:
            part = "adapters" if "lora_" in name else "language_model"
        parts[part] = parts.get(part, 0) + sizes[name]
    return parts


def parameter_groups(model: nn.Module, rate: float, projector_rate: float | None) -> list[dict]:
    """AdamW's groups: the projector apart where it has its own learning rate."""
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    projector = [p for name, p in learned if name.startswith(PROJECTOR)]
    rest = [p for name, p in learned if not name.startswith(PROJECTOR)]
    groups = [
        {"params": rest, "lr": rate},
        {"params": projector, "lr": projector_rate or rate},
    ]
    return [group for group in groups if group["params"]]
