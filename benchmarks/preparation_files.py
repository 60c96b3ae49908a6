"""Files as large as the published ones, in their schema, made of somebody's words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CONVERSATIONS, PAIRS, PHOTOS, THINGS = 80_000, 595_375, 118_287, 860_001
"""llava_instruct_80k, LLaVA-CC3M-Pretrain-595K, COCO train2017 and its instances."""

SHARES = {"conversation": 58, "detail": 23, "reasoning": 77}
"""Kinds of LLaVA-Instruct, in thousands."""


def write_files(folder: Path, words: Sequence[str], share: float = 1.0) -> dict[str, str]:
    """Writes instructions, alignment pairs, captions, instances, and files by kind.

    Args:
        folder: gets the files.
        words: what texts are drawn from; repeat common ones.
        share: of the published sizes.

    Returns:
        Paths by what they hold: `instructions`, `alignment`, `captions`, `instances`, and
        `conversation`, `detail`, `reasoning`.
    """
    chance = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(least, most))).capitalize() + "."

    counts = {
        name: round(whole * share)
        for name, whole in (
            ("instructions", CONVERSATIONS),
            ("alignment", PAIRS),
            ("photos", PHOTOS),
            ("things", THINGS),
        )
    }
    photos = chance.sample(range(600_000), counts["photos"])
    kinds = chance.choices(list(SHARES), list(SHARES.values()), k=counts["instructions"])
    rows = [_conversation(kind, chance.choice(photos), chance, text) for kind in kinds]
    paths = {"instructions": _written(folder / "llava_instruct_80k.json", rows)}
    for kind in SHARES:
        own = [row for row, of in zip(rows, kinds, strict=True) if of == kind]
        paths[kind] = _written(folder / f"{kind}.json", own)
    del rows
    pairs = (_pair(number, chance, text) for number in range(counts["alignment"]))
    paths["alignment"] = _streamed(folder / "chat.json", pairs)
    paths["captions"] = _coco(folder / "captions.json", photos, _captions(photos, text))
    things = _things(photos, counts["things"], chance)
    categories = [{"id": number, "name": f"thing {number}"} for number in range(1, 81)]
    paths["instances"] = _coco(folder / "instances.json", photos, things, categories)
    return paths


def _conversation(kind: str, photo: int, chance: random.Random, text: Callable) -> dict:
    turns = []
    for number in range(chance.randint(3, 8) if kind == "conversation" else 1):
        asked = text(6, 14)
        if number == 0:
            asked = chance.choice([f"<image>\n{asked}", f"{asked}\n<image>"])
        lengths = {"conversation": (6, 60), "detail": (90, 180), "reasoning": (130, 260)}[kind]
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": text(*lengths)}]
    return {"id": f"{photo:012d}", "image": f"{photo:012d}.jpg", "conversations": turns}


def _pair(number: int, chance: random.Random, text: Callable) -> dict:
    asked = chance.choice([f"{text(10, 13)}\n<image>", f"<image>\n{text(10, 13)}"])
    return {
        "id": f"{number:09d}",
        "image": f"GCC_train_{number:09d}.jpg",
        "conversations": [
            {"from": "human", "value": asked},
            {"from": "gpt", "value": text(8, 18)},
        ],
    }


def _captions(photos: Sequence[int], text: Callable) -> Iterator[dict]:
    for number in range(5 * len(photos)):
        yield {"image_id": photos[number // 5], "id": number, "caption": text(9, 17)}


def _things(photos: Sequence[int], count: int, chance: random.Random) -> Iterator[dict]:
    for number in range(count):
        left, top = chance.uniform(0, 500), chance.uniform(0, 300)
        outline = [round(left + step / 7, 2) for step in range(2 * chance.randint(8, 40))]
        yield {
            "segmentation": [outline],
            "area": round(chance.uniform(100, 9000), 4),
            "iscrowd": 0,
            "image_id": chance.choice(photos),
            "bbox": [round(left, 2), round(top, 2), 100.5, 80.25],
            "category_id": chance.randint(1, 80),
            "id": number,
        }


def _coco(path: Path, photos: Sequence[int], annotations: Iterator[dict], categories=()) -> str:
    images = [
        {"id": photo, "file_name": f"{photo:012d}.jpg", "width": 640, "height": 480}
        for photo in photos
    ]
    with path.open("w", encoding="utf-8") as stream:
        stream.write(f'{{"images": {json.dumps(images)}, "categories": ')
        stream.write(f'{json.dumps(list(categories))}, "annotations": ')
        _stream(stream, annotations, None)
        stream.write("}")
    return str(path)


def _written(path: Path, rows: list[dict]) -> str:
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return str(path)


def _streamed(path: Path, rows: Iterator[dict]) -> str:
    with path.open("w", encoding="utf-8") as stream:
        _stream(stream, rows, 2)
    return str(path)


def _stream(stream, rows: Iterator[dict], indent: int | None) -> None:
    for number, row in enumerate(rows):
        stream.write("[\n" if number == 0 else ",\n")
        stream.write(json.dumps(row, indent=indent))
    stream.write("\n]")
