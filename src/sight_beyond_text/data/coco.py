"""COCO annotations (captions and instances) as one list of images with what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json


@dataclass(frozen=True)
class Thing:
    """One annotated instance.

    Attributes:
        category: its COCO category name.
        box: x, y, width, height in pixels.
        attributes: optional extra labels such as `{"color": "red"}` (the key that annotation tools
            add to COCO's own); empty for COCO's own files.
    """

    category: str
    box: tuple[float, float, float, float]
    attributes: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def area(self) -> float:
        """The box's area in square pixels."""
        return self.box[2] * self.box[3]


@dataclass(frozen=True)
class Picture:
    """One COCO image with its captions and things.

    Crowds are no things, as they can't be counted; `crowds` names their categories, so that
    nobody takes them for absent.
    """

    id: int
    file_name: str
    width: int
    height: int
    captions: tuple[str, ...]
    things: tuple[Thing, ...]
    crowds: frozenset[str] = frozenset()


def read_pictures(captions: str | Path, instances: str | Path | None = None) -> list[Picture]:
    """Reads COCO's captions and instances files.

    Args:
        captions: `captions_*.json`; its images are the ones returned.
        instances: `instances_*.json`; images that it doesn't list have no things.

    Returns:
        The pictures, by id.

    Raises:
        UserError: a file is missing, broken, or lacks one of COCO's fields.
    """
    said = _read(captions, "COCO captions", ("images", "annotations"))
    texts: dict[int, list[tuple[int, str]]] = {}
    things: dict[int, list[tuple[int, Thing]]] = {}
    crowds: dict[int, set[str]] = {}
    at = captions
    try:
        for row in said["annotations"]:
            text = " ".join(row["caption"].split())
            texts.setdefault(row["image_id"], []).append((row["id"], text))
        if instances is not None:
            at = instances
            seen = _read(instances, "COCO instances", ("images", "annotations", "categories"))
            names = {row["id"]: row["name"] for row in seen["categories"]}
            for row in seen["annotations"]:
                if row.get("iscrowd"):
                    crowds.setdefault(row["image_id"], set()).add(names[row["category_id"]])
                    continue
                thing = Thing(
                    names[row["category_id"]], tuple(row["bbox"]), dict(row.get("attributes") or {})
                )
                things.setdefault(row["image_id"], []).append((row["id"], thing))
        at = captions
        return [
            Picture(
                id=row["id"],
                file_name=row["file_name"],
                width=row["width"],
                height=row["height"],
                captions=tuple(text for _, text in sorted(texts.get(row["id"], []))),
                things=tuple(
                    thing
                    for _, thing in sorted(things.get(row["id"], []), key=lambda pair: pair[0])
                ),
                crowds=frozenset(crowds.get(row["id"], ())),
            )
            for row in sorted(said["images"], key=lambda row: row["id"])
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{at}: a row lacks what COCO's layout has: {error}; check the file"
        ) from None


def _read(path: str | Path, what: str, keys: Iterable[str]) -> dict:
    # Outlines are nine tenths of an instances file, and nobody asks for them.
    content = read_json(path, what, without=("segmentation",))
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path}: {what}: no {', '.join(missing)}; is this the right file?")
    return content


def coco_id(name: str) -> int | None:
    """COCO's image id, as a file name tells it in 2014's or 2017's naming; None for other names.

    The same photo is `COCO_val2014_000000000042.jpg` in one year's files and `000000000042.jpg` in
    the other's, where it may be in another split as well.
    """
    found = _COCO_NAME.fullmatch(name.rsplit("/", 1)[-1])
    return int(found[1]) if found else None


_COCO_NAME = re.compile(r"(?:COCO_[a-z]+20\d\d_)?(\d{12})(?:\.\w+)?")


def require_images(pictures: Iterable[Picture], folder: str | Path) -> None:
    """Refuses a list of pictures whose files aren't all there.

    Raises:
        UserError: with the count and the first missing file.
    """
    missing = [p.file_name for p in pictures if not (Path(folder) / p.file_name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} image(s) missing, the first is {missing[0]};"
            " fetch them or take them out of the annotations"
        )
