"""What the tower makes of the benchmarks' images: computed once for all that is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.image_answers import known_as
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
        What `features.json` holds; images are named as `known_as` does. Corrupted twins are cached
        one by one, as far as there is room.

    Raises:
        UserError: a benchmark or an image can't be read; the benchmark's are counted then.
    """
    processor = load_processor(spec["tower"])
    asked = {
        name: list(dict.fromkeys(question["image"] for question in questions))
        for name, questions in load_all(spec["benchmarks"]).items()
    }
    where: dict[str, tuple] = {}
    clean, corrupted = [], []
    for name, images in asked.items():
        read = reader(spec["benchmarks"][name], processor)
        known = {known_as(read, image): (name, read, image) for image in images}
        where |= known
        if "corruption" in spec["benchmarks"][name]:
            corrupted.append(list(known))
        else:
            clean += known
    tower = load_tower(spec["tower"], DTYPES[spec["precision"]])

    def pixels(key: str) -> torch.Tensor:
        name, read, image = where[key]
        try:
            return read(image)
        except UserError as error:
            folder = spec["benchmarks"][name]["images"]
            raise unreadable(name, folder, asked[name], error) from None

    return cache_features(
        clean,
        pixels,
        tower.to(device()).eval(),
        spec["tower"]["layer"],
        spec["folder"],
        spec["limit_gib"],
        corrupted,
    )


def reader(benchmark: Mapping, processor) -> Callable[[str], torch.Tensor]:
    """What gives pixel values of a benchmark's images by name, corrupted where it asks for that."""
    if "corruption" not in benchmark:
        return Pixels(benchmark["images"], processor, keep=0)
    # Not at the top: SciPy takes most of a second.
    from sight_beyond_text.evaluation.corrupted import CorruptedPixels

    return CorruptedPixels(benchmark["images"], processor, **benchmark["corruption"])


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
