"""What the tower makes of the benchmarks' images: computed once for all that is evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.image_data import load_all
from sight_beyond_text.models.building import DTYPES, load_processor, load_tower
from sight_beyond_text.models.checkpoints import device
from sight_beyond_text.models.features import cache_features

_UNPREPARED = {"pixel_values": [None]}


def make_features(spec: dict) -> dict:
    """Loads a tower and caches its features of all images that benchmarks ask about.

    Args:
        spec: `{tower, precision, benchmarks, limit_gib, folder}` (`grid.seen_spec`).

    Returns:
        What `features.json` holds; images are named by their paths.

    Raises:
        UserError: a benchmark or an image can't be read; the benchmark's are counted then.
    """
    by_folder = {name: Path(benchmark["images"]) for name, benchmark in spec["benchmarks"].items()}
    asked = {
        name: list(dict.fromkeys(question["image"] for question in questions))
        for name, questions in load_all(spec["benchmarks"]).items()
    }
    tower = load_tower(spec["tower"], DTYPES[spec["precision"]])
    read = Pixels("", load_processor(spec["tower"]), keep=0)

    def pixels(path: str) -> torch.Tensor:
        try:
            return read(path)
        except UserError as error:
            name = next(n for n in asked if path in {str(by_folder[n] / i) for i in asked[n]})
            raise unreadable(name, by_folder[name], asked[name], error) from None

    return cache_features(
        [str(by_folder[name] / image) for name, images in asked.items() for image in images],
        pixels,
        tower.to(device()).eval(),
        spec["tower"]["layer"],
        spec["folder"],
        spec["limit_gib"],
    )


def unreadable(name: str, folder: str | Path, images: Iterable[str], first: UserError) -> UserError:
    """Says of a benchmark, after one image couldn't be read, how many can't."""
    read, images, count = Pixels(folder, lambda image, **_: _UNPREPARED, 0), set(images), 0
    for image in images:
        try:
            read(image)
        except UserError:
            count += 1
    return UserError(
        f"evaluation.image.{name}: {count} of {len(images)} images can't be read; {first}"
    )
