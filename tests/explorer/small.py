"""A small study that never ran, with questions, choices, answers, pictures, and hostile words."""

import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from unit.synthetic_tables import make_tables, write_tables

from sight_beyond_text.analysis import tidy
from sight_beyond_text.explorer.pictures import gather_pictures

HOSTILE = (
    "<script>window.hacked=1</script>",
    '<img src=x onerror="window.hacked=1">',
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "]]>\u2028\u2029'\"`};window.hacked=1;//",
    "javascript:window.hacked=1",
)
FREE = ("gsm8k", "vqa", "pope", "captions")


def write_small(folder: Path, seeds=(0, 1), questions: bool = True, hostile: bool = False) -> None:
    """Writes the tables of eight runs, and pictures of two image benchmarks."""
    made = make_tables(
        bases=("micro-base",), tunings=("full", "frozen"), seeds=seeds, scale=0.3, draws=30
    )
    rows = [_told(row, questions, hostile) for row in made.items.to_dict("records")]
    for name in ("prediction", "reference", "details"):
        made.items[name] = [row[name] for row in rows]
    if hostile:
        _spoil(made)
    write_tables(made, folder)
    images = folder / "given"
    images.mkdir()
    for number in range(20):
        colour = (number * 12, 200 - number * 9, 90)
        Image.new("RGB", (90, 60), colour).save(images / f"{number:03d}.png")
    folders = {"vqa": str(images), "captions": str(images)}
    gather_pictures({"folders": folders, "pixels": 48, "mib": 1.0}, folder)


def _told(row: dict, questions: bool, hostile: bool) -> dict:
    """An item's prediction, reference and details, in keeping with its score."""
    number = int(row["item"].rsplit("-", 1)[1])
    rng = np.random.default_rng(zlib.crc32(f"{row['run']} {row['item']}".encode()))
    word = HOSTILE[number % len(HOSTILE)] if hostile else f"word{number % 7}"
    details: dict = {"prompt": f"{number:016x}", "protocol": "current"}
    if questions or row["suite"] == "image":
        details["question"] = f"Question {number} of {row['benchmark']}: what is {word}?"
    if row["benchmark"] in FREE:
        reference = f"right {word}"
        prediction = reference if row["score"] == 1 else f"wrong {word} {rng.integers(3)}"
        details["generated"] = f"I say: {prediction}"
        if row["suite"] == "image":
            details["image"] = f"{number % 25:03d}.png"
    else:
        choices = [f"{word} {letter}" for letter in "ABCD"]
        right = number % 4
        said = right if row["score"] == 1 else (right + 1 + int(rng.integers(3))) % 4
        found = -np.sort(rng.random(4) * 30)[::-1]
        found[[said, int(found.argmax())]] = found[[int(found.argmax()), said]]
        details |= {"choices": choices, "loglikelihoods": [round(float(v), 6) for v in found]}
        prediction, reference = choices[said], choices[right]
    text = json.dumps(details, ensure_ascii=False)
    return {"prediction": prediction, "reference": reference, "details": text}


def _spoil(made: tidy.Tables) -> None:
    """Hostile words in the names of runs, bases, benchmarks, metrics, items and images too."""
    renamed = {run: f"{run}{HOSTILE[n % 3]}" for n, run in enumerate(made.runs["run"])}
    for frame, keys in (
        (made.runs, ["run"]),
        (made.scores, ["run"]),
        (made.items, ["run"]),
        (made.intervals, ["run"]),
        (made.effects, ["run", "other"]),
        (made.curves, ["run"]),
    ):
        for key in keys:
            frame[key] = frame[key].map(renamed)
    made.runs["base"] = made.runs["base"] + HOSTILE[0]
    made.runs["label"] = HOSTILE[2]
    made.items["item"] = made.items["item"] + HOSTILE[1]
    for frame in (made.scores, made.items, made.intervals, made.effects):
        frame["benchmark"] = frame["benchmark"].replace("boolq", f"boolq{HOSTILE[2]}")
    for key in ("prediction", "reference"):
        made.items[key] = made.items[key] + HOSTILE[4]
