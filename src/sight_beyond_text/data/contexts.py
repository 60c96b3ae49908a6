"""What is known in words of an image: its captions, and its boxes as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sight_beyond_text.data.coco import coco_id, read_pictures
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json_lines


class ByImage(Mapping[str, Sequence[str]]):
    """Texts by image file name; a COCO photo is found under the names of either year.

    Args:
        texts: (file name, texts) of each image.
    """

    def __init__(self, texts: Iterable[tuple[str, Sequence[str]]]):
        self._named = dict(texts)
        numbers = ((coco_id(name), found) for name, found in self._named.items())
        self._numbered = {number: found for number, found in numbers if number is not None}

    def __getitem__(self, name: str) -> Sequence[str]:
        if name in self._named:
            return self._named[name]
        number = coco_id(name)
        if number is None:
            raise KeyError(name)
        return self._numbered[number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


def read_contexts(
    captions: str | Path, instances: str | Path | None = None, limit: int | None = None
) -> tuple[ByImage, ByImage]:
    """Captions and boxes of images.

    Args:
        captions: COCO's captions; or LLaVA's contexts (JSON lines of `image`, `captions` and
            `instances`), which hold boxes as well.
        instances: COCO's instances, for the boxes.
        limit: captions of an image, at most.

    Returns:
        By image, the captions; and lines "category: [left, top, right, bottom]" in shares of the
        width and height, as LLaVA put boxes to GPT-4. No lines without `instances`, but for
        LLaVA's contexts.

    Raises:
        UserError: a file can't be read, or isn't what it should be.
    """
    if str(captions).endswith(".jsonl"):
        return _llava_contexts(captions, limit)
    pictures = read_pictures(captions, instances)
    lines = ((p.file_name, [_of_thing(thing, p) for thing in p.things]) for p in pictures)
    return ByImage((p.file_name, p.captions[:limit]) for p in pictures), ByImage(lines)


def _of_thing(thing, picture) -> str:
    left, top, width, height = thing.box
    shares = (
        left / picture.width,
        top / picture.height,
        (left + width) / picture.width,
        (top + height) / picture.height,
    )
    return _line(thing.category, shares)


def _line(category: str, shares: Sequence[float]) -> str:
    return f"{category}: [{', '.join(str(round(share, 3)) for share in shares)}]"


def _llava_contexts(path: str | Path, limit: int | None) -> tuple[ByImage, ByImage]:
    said, seen = [], []
    for number, row in enumerate(read_json_lines(path, "captions and boxes"), 1):
        try:
            said.append((row["image"], [str(text) for text in row["captions"][:limit]]))
            things = row.get("instances", ())
            seen.append((row["image"], [_line(t["category"], t["bbox"]) for t in things]))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: captions and boxes: a row lacks {error}; is this the right file?"
            ) from None
    return ByImage(said), ByImage(seen)
