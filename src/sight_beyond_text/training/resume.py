"""Resume points of a training: written whole, believed only if they are.

A point is a folder `checkpoint-<step>` as transformers' Trainer writes it (learned tensors,
optimizer, schedule, random states), and `resume.json`, written last, with the recipe it belongs to
and the hash of each file. The one before is removed only then, so there is always a whole one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import sha256, write_json

RECORD = "resume.json"
WEIGHTS = "learned.safetensors"


def save_learned(tensors: dict[str, torch.Tensor], folder: str | Path) -> None:
    """Writes the learned tensors of a model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / WEIGHTS)


def load_learned(model: nn.Module, folder: str | Path) -> None:
    """Puts learned tensors back.

    Raises:
        UserError: other tensors learn in this model.
    """
    path = Path(folder) / WEIGHTS
    saved = load_file(path)
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if set(saved) != set(learned):
        raise UserError(f"{path}: not of this training; remove {Path(folder).parent} and run again")
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(saved[name])


def mark(
    point: str | Path, recipe: dict, losses: list[dict], resumed: list[int], seconds: float
) -> None:
    """Declares a resume point whole, and removes the earlier ones.

    Args:
        point: folder `checkpoint-<step>`.
        recipe: of the run.
        losses: the curve so far, a row a step.
        resumed: steps after which the training was taken up again.
        seconds: time spent so far.
    """
    point = Path(point)
    files = {path.name: sha256(path) for path in sorted(point.iterdir()) if path.name != RECORD}
    record = {
        "recipe": recipe,
        "files": files,
        "losses": losses,
        "resumed": resumed,
        "seconds": seconds,
    }
    write_json(point / RECORD, record, indent=None)
    for other in point.parent.glob("checkpoint-*"):
        if other != point:
            shutil.rmtree(other, ignore_errors=True)


def latest(folder: str | Path, recipe: dict) -> tuple[Path, dict] | None:
    """The newest whole resume point of a recipe; all else in the folder is removed.

    Returns:
        (folder of the point, its record), or None.
    """
    points = sorted(Path(folder).glob("checkpoint-*"), key=_step, reverse=True)
    found = None
    for point in points:
        record = _whole(point, recipe) if found is None else None
        if record is not None:
            found = (point, record)
        else:
            shutil.rmtree(point, ignore_errors=True)
    return found


def _step(point: Path) -> int:
    number = point.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _whole(point: Path, recipe: dict) -> dict | None:
    try:
        record = json.loads((point / RECORD).read_text(encoding="utf-8"))
        if record["recipe"] != recipe:
            return None
        if any(sha256(point / name) != hashed for name, hashed in record["files"].items()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return record
