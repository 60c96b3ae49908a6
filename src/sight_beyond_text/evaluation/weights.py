"""What a subject's weights are, told without reading them all. Light: no torch here."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from sight_beyond_text.files import COMPLETE, read_json


def identity_of(subject: dict) -> dict:
    """What stands for the language model of a subject.

    A checkpoint is known by the hashes in its record; a base's folder by names, sizes and times of
    its files; a base of the hub by its commit.

    Args:
        subject: `{base, mode, checkpoint, precision}`.
    """
    base = subject["base"]
    files = None
    if subject["checkpoint"]:
        record = read_json(Path(subject["checkpoint"]) / COMPLETE, "completion record")
        files = {k: v for k, v in record["files"].items() if not k.startswith("projector")}
    return {
        "base": _folder(Path(base["model"])) or _commit(base["model"], base["revision"]),
        "mode": subject["mode"],
        "precision": subject["precision"],
        "checkpoint": files,
    }


def base_key(subject: dict) -> tuple[str, ...]:
    """What is loaded for a subject; those of the same key share it.

    Args:
        subject: as for `identity_of`.
    """
    base = subject["base"]
    return (
        base["model"],
        base["revision"] or "",
        subject["precision"],
        "4 bits" if subject["mode"] == "qlora" else "",
        str(subject["checkpoint"]) if has_own_weights(subject) else "",
    )


def has_own_weights(subject: dict) -> bool:
    """Whether a subject's weights are more than its base's with adapters."""
    return subject["mode"] == "full" or has_own_embeddings(subject)


def has_own_embeddings(subject: dict) -> bool:
    """Whether a subject has embeddings for tokens that were added to its base's."""
    folder = subject["checkpoint"]
    return bool(folder) and (Path(folder) / "embeddings.safetensors").is_file()


def _folder(path: Path) -> list | None:
    if not path.is_dir():
        return None
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return [
        [str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
    ]


@cache
def _commit(model: str, revision: str | None) -> str:
    """The commit that a load would take, asked of the hub where the study doesn't pin it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if re.fullmatch("[0-9a-f]{40}", revision or ""):
        return f"{model}@{revision}"
    try:
        found = hf_hub_download(model, "config.json", revision=revision)
    except ValueError:  # No repository's name. What can't be fetched is told where it is loaded.
        found = None
    except OSError:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    commit = re.search(r"snapshots[/\\]([0-9a-f]+)[/\\]", str(found))
    return f"{model}@{commit[1] if commit else revision or 'main'}"
