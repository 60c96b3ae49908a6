"""Questions of the image benchmarks, read from the benchmarks' own files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

from sight_beyond_text.data.coco import read_pictures
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json, read_json_lines

PROMPTS = {
    "vqa": "{question}",
    "pope": "{question}",
    "captions": "Please provide a description of the picture.",
}
"""What is put to the model where a study says nothing else."""


def load_questions(name: str, benchmark: Mapping) -> list[dict]:
    """Reads one image benchmark.

    Args:
        name: the benchmark's name in the study, for errors.
        benchmark: `study.ImageBenchmark` as a dict.

    Returns:
        Rows `{item, image, prompt, annotation}`; `image` is a file name in the folder of images,
        `annotation` what the scorer needs.

    Raises:
        UserError: files that are missing or broken, or questions whose image is missing (unless
            `only_present`, which leaves them out).
    """
    kind = benchmark["type"]
    reader = {"vqa": _vqa, "pope": _pope, "captions": _captions}[kind]
    try:
        rows = reader(name, benchmark)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"evaluation.image.{name}: a row of its files lacks {error};"
            f" are they in {kind}'s layout?"
        ) from None
    folder = Path(benchmark["images"])
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [row for row in rows if row["image"] not in present]
    if benchmark["only_present"]:
        rows = [row for row in rows if row["image"] in present]
    elif missing:
        raise UserError(
            f"evaluation.image.{name}: {len(missing)} of {len(rows)} questions have no image in"
            f" {folder}, the first is {missing[0]['image']}; fetch the images or set only_present"
        )
    rows = rows[: benchmark["limit"]]
    if not rows:
        raise UserError(f"evaluation.image.{name}: no questions about the images in {folder}")
    return rows


def check_image(benchmarks: Mapping[str, Mapping]) -> None:
    """Reads every image benchmark, so that what's wrong is known before anything is trained.

    Raises:
        UserError: all mistakes, a line each.
    """
    lines = []
    for name, benchmark in benchmarks.items():
        try:
            load_questions(name, benchmark)
        except UserError as error:
            lines.append(str(error))
    if lines:
        raise UserError("\n".join(lines))


def _needs(name: str, benchmark: Mapping, key: str) -> str:
    if benchmark[key] is None:
        raise UserError(f"evaluation.image.{name}.{key}: is missing; {benchmark['type']} needs it")
    return benchmark[key]


def _json(path: str, what: str):
    if not path.endswith(".gz"):
        return read_json(path, what)
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: {what}: can't be read: {error}; fetch it again") from None


def _vqa(name: str, benchmark: Mapping) -> list[dict]:
    questions = _json(_needs(name, benchmark, "questions"), "VQA questions")["questions"]
    answers = _json(_needs(name, benchmark, "annotations"), "VQA annotations")["annotations"]
    by_id = {row["question_id"]: row for row in answers}
    names = _image_names(benchmark["images"])
    prompt = benchmark["prompt"] or PROMPTS["vqa"]
    rows = []
    for row in questions:
        if row["question_id"] not in by_id:
            raise UserError(
                f"{benchmark['annotations']}: no answers to question {row['question_id']}"
            )
        rows.append(
            {
                "item": str(row["question_id"]),
                "image": names.get(row["image_id"], f"{row['image_id']:012d}.jpg"),
                "prompt": prompt.replace("{question}", row["question"]),
                "annotation": by_id[row["question_id"]],
            }
        )
    return rows


def _pope(name: str, benchmark: Mapping) -> list[dict]:
    questions = read_json_lines(_needs(name, benchmark, "questions"), "POPE questions")
    prompt = benchmark["prompt"] or PROMPTS["pope"]
    names = _image_names(benchmark["images"])
    return [
        {
            "item": str(row["question_id"]),
            "image": _renamed(row["image"], names),
            "prompt": prompt.replace("{question}", row["text"]),
            "annotation": row,
        }
        for row in questions
    ]


def _captions(name: str, benchmark: Mapping) -> list[dict]:
    pictures = read_pictures(_needs(name, benchmark, "annotations"))
    prompt = benchmark["prompt"] or PROMPTS["captions"]
    return [
        {
            "item": str(picture.id),
            "image": picture.file_name,
            "prompt": prompt,
            "annotation": list(picture.captions),
        }
        for picture in pictures
        if picture.captions
    ]


def _image_names(folder: str) -> dict[int, str]:
    """COCO's image ids, as the file names of a folder tell them (2014's and 2017's naming)."""
    names = {}
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        digits = path.stem.rsplit("_", 1)[-1]
        if digits.isdigit():
            names[int(digits)] = path.name
    return names


def _renamed(given: str, names: Mapping[int, str]) -> str:
    """A COCO file name as it is in the folder, whichever year's naming either has."""
    digits = Path(given).stem.rsplit("_", 1)[-1]
    return names.get(int(digits), given) if digits.isdigit() else given
