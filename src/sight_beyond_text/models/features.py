"""What the frozen tower makes of images: computed once, and read by every run that wants it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sight_beyond_text.data.layouts import read_rows
from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json, sha256, write_json
from sight_beyond_text.models.building import DTYPES, has_class_token, load_processor, load_tower
from sight_beyond_text.models.checkpoints import device

_BATCH = 32


def make_features(spec: dict) -> dict:
    """Loads a tower and caches its features of all images that some instructions speak of.

    Args:
        spec: `{tower, precision, images, instructions, limit_gib, folder}` (`grid.features_spec`).

    Returns:
        What `features.json` holds.
    """
    tower = load_tower(spec["tower"], DTYPES[spec["precision"]])
    return cache_features(
        images_of(spec["instructions"]),
        Pixels(spec["images"], load_processor(spec["tower"]), keep=0),
        tower.to(device()).eval(),
        spec["tower"]["layer"],
        spec["folder"],
        spec["limit_gib"],
    )


@torch.no_grad()
def tower_features(tower, pixel_values: torch.Tensor, layer: int) -> torch.Tensor:
    """The states that the projector reads, as `LlavaModel.get_image_features` selects them.

    Args:
        tower: the vision tower.
        pixel_values: (images, 3, H, W).
        layer: which hidden states; -2 is the last but one.

    Returns:
        (images, positions, features); without the class token.
    """
    states = tower(pixel_values.to(tower.dtype), output_hidden_states=True).hidden_states[layer]
    return states[:, 1:] if has_class_token(tower.config) else states


def cache_features(
    names: Iterable[str],
    pixels,
    tower,
    layer: int,
    folder: str | Path,
    limit_gib: float,
    further: Iterable[Iterable[str]] = (),
) -> dict:
    """Writes the features of images to a folder, unless they take more room than allowed.

    Args:
        names: image file names.
        pixels: from a name to pixel values (3, H, W).
        tower, layer: as for `tower_features`.
        folder: gets `features.npy` (images, positions, features) in the tower's precision
            (bfloat16 by its bits, which NumPy has no type for), and `features.json`, last.
        limit_gib: room that the cache may take, in GiB.
        further: groups of further images, each cached as a whole where it still finds room.

    Returns:
        What `features.json` holds: `names` in the order of the rows, or why there are none.
    """
    folder, names = Path(folder), sorted(set(names))
    folder.mkdir(parents=True, exist_ok=True)
    record: dict = {"names": [], "why": "no images"}
    if names:
        first = tower_features(tower, pixels(names[0])[None].to(tower.device), layer)
        each = tower.dtype.itemsize * np.prod(first.shape, dtype=float) / 2**30
        needed = each * len(names)
        if needed > limit_gib:
            record["why"] = f"{needed:.1f} GiB needed, {limit_gib:g} allowed"
        else:
            for group in further:
                more = sorted(set(group).difference(names))
                if each * (len(names) + len(more)) <= limit_gib:
                    names += more
            shape = (len(names), *first.shape[1:])
            _write(names, pixels, tower, layer, folder / "features.npy", shape)
            record = {"names": names, "hash": sha256(folder / "features.npy")}
    write_json(folder / "features.json", record)
    return record


def _write(names: list[str], pixels, tower, layer: int, path: Path, shape: tuple[int, ...]) -> None:
    partial = path.with_suffix(".partial")
    kind = np.int16 if tower.dtype == torch.bfloat16 else np.float32
    rows = np.lib.format.open_memmap(partial, mode="w+", dtype=kind, shape=shape)
    for start in tqdm(range(0, len(names), _BATCH), desc="features", mininterval=5):
        chosen = names[start : start + _BATCH]
        values = torch.stack([pixels(name) for name in chosen]).to(tower.device)
        made = tower_features(tower, values, layer).cpu()
        rows[start : start + len(chosen)] = made.view(torch.int16) if kind is np.int16 else made
    rows.flush()
    del rows
    partial.replace(path)


class Features:
    """Reads cached features, without holding them in memory.

    Args:
        folder: what `cache_features` wrote.

    Raises:
        UserError: the folder holds no cache, or another than its record says.
    """

    key = "image_features"

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        record = read_json(folder / "features.json", "record of cached image features")
        self.rows = {name: row for row, name in enumerate(record["names"])}
        self.values = None
        if self.rows:
            path = folder / "features.npy"
            # Others may have made it, or a disk spoilt it since.
            if not path.is_file() or sha256(path) != record["hash"]:
                raise UserError(f"{path}: not as written; remove {folder} and run again")
            try:
                self.values = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError):
                raise UserError(f"{path}: not readable; remove {folder} and run again") from None
            if len(self.values) != len(self.rows):
                raise UserError(f"{path}: not as written; remove {folder} and run again")

    def __call__(self, name: str) -> torch.Tensor | None:
        """(positions, features) of an image; None where it isn't in the cache."""
        row = self.rows.get(name)
        if row is None:
            return None
        values = torch.from_numpy(np.array(self.values[row]))
        return values.view(torch.bfloat16) if values.dtype == torch.int16 else values


def images_of(paths: Iterable[str | Path]) -> list[str]:
    """Names of the images that files of instructions speak of."""
    found: set[str] = set()
    for path in paths:
        found.update(row["image"] for row in read_rows(path) if "image" in row)
    return sorted(found)
