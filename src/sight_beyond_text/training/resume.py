"""Resume points of a training: written whole, believed only if they are.

A point is a folder `checkpoint-<step>` as transformers' Trainer writes it (learned tensors,
optimizer, schedule, random states), and `resume.json`, written last, with the recipe it belongs to
and the hash of each file. It may be whole and yet hold weights that the last update has ruined, so
the one before is removed only when the next step was finite: there is always one to go on from.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import sha256, share, write_json

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
    """Declares a resume point whole.

    Args:
        point: folder `checkpoint-<step>`.
        recipe: of the run.
        losses: the curve so far, a row a step.
        resumed: steps after which the training was taken up again.
        seconds: time spent so far.
    """
    point = Path(point)
    share(point)
    files = {path.name: sha256(path) for path in sorted(point.iterdir()) if path.name != RECORD}
    record = {
        "recipe": recipe,
        "files": files,
        "losses": losses,
        "resumed": resumed,
        "seconds": seconds,
    }
    write_json(point / RECORD, record, indent=None)


def prove(point: str | Path) -> None:
    """Declares a resume point good, since the step after it was finite; others are removed."""
    point = Path(point)
    for other in point.parent.glob("checkpoint-*"):
        if other != point:
            remove(other)


def remove(point: str | Path) -> None:
    """Removes a resume point, its record first, so that no half of it is believed."""
    (Path(point) / RECORD).unlink(missing_ok=True)
    shutil.rmtree(point, ignore_errors=True)


def latest(folder: str | Path, recipe: dict) -> tuple[Path, dict] | None:
    """The newest whole resume point of a recipe.

    Earlier ones stay, as it may not be good (`prove`); what is damaged or another recipe's goes.

    Returns:
        (folder of the point, its record), or None.
    """
    found = None
    for point in points(folder):
        record = _recorded(point, recipe)
        if record is None or (found is None and not _intact(point, record)):
            remove(point)
        elif found is None:
            found = (point, record)
    return found


def points(folder: str | Path) -> list[Path]:
    """The resume points in a folder, whole or not, the newest first."""
    return sorted(Path(folder).glob("checkpoint-*"), key=_step, reverse=True)


def _step(point: Path) -> int:
    number = point.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _recorded(point: Path, recipe: dict) -> dict | None:
    try:
        record = json.loads((point / RECORD).read_text(encoding="utf-8"))
        return record if record["recipe"] == recipe else None
    except (OSError, ValueError, KeyError):
        return None


def _intact(point: Path, record: dict) -> bool:
    try:
        return all(sha256(point / name) == hashed for name, hashed in record["files"].items())
    except (OSError, KeyError):
        return False
