"""The image benchmarks' own files, read and checked: questions, answers, reference captions.

Every mistake is one line that says file, question and remedy, so that a benchmark can be checked
before anything is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sight_beyond_text.data.coco import read_pictures
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.scorers import mme, shown
from sight_beyond_text.files import read_bytes, read_json, read_json_lines

VQA_ANSWERS = 10
PUBLISHED_POOL = 2048
PUBLISHED_SCORED = 5000
PUBLISHED_OF = 214_354
"""The published choice from VQAv2's validation questions: a pool of shots, what is scored."""


def published_subset(total: int, path: str | Path = "") -> tuple[list[int], list[int]]:
    """Places of the published shots and questions in the official question file.

    Source: the code published with Tu et al. (2023), NumPy's legacy generator with seed 42.

    Args:
        total: number of questions in the file; there is a published choice from all 214,354 alone.
        path: the file, for the error.

    Returns:
        2,048 places to draw shots from, 5,000 to score; no place is in both.

    Raises:
        UserError: another number of questions.
    """
    if total != PUBLISHED_OF:
        raise UserError(
            f"{path}: {total} questions; the published subset is chosen from the {PUBLISHED_OF} of"
            " v2_OpenEnded_mscoco_val2014_questions.json"
        )
    size = PUBLISHED_POOL + PUBLISHED_SCORED
    chosen = np.random.RandomState(42).choice(total, size, replace=False).tolist()
    return chosen[:PUBLISHED_POOL], chosen[PUBLISHED_POOL:]


def read_vqa_annotations(path: str | Path) -> list[dict]:
    """Rows of a VQA annotation file: question_id, image_id, answer_type, ten answers.

    Raises:
        UserError: the file can't be read, or a row isn't as it should be.
    """
    rows = _listed(read_json(path, "VQA annotations"), "annotations", path)
    for row in rows:
        where = f"{path}: question_id {row.get('question_id')}"
        _need(
            row, {"question_id": int, "image_id": int, "answer_type": str, "answers": list}, where
        )
        for answer in row["answers"]:
            if not isinstance(answer, Mapping) or not isinstance(answer.get("answer"), str):
                raise UserError(f"{where}: an answer without its text; fetch the file again")
        if len(row["answers"]) != VQA_ANSWERS:
            raise UserError(
                f"{where}: {len(row['answers'])} answers, VQA has {VQA_ANSWERS} a question; fetch"
                " the file again or take the question out"
            )
    _once((row["question_id"] for row in rows), path, "question_id")
    return rows


def read_vqa_questions(path: str | Path) -> list[dict]:
    """Rows of a VQA question file: question_id, image_id, question.

    Raises:
        UserError: the file can't be read, or a row isn't as it should be.
    """
    rows = _listed(read_json(path, "VQA questions"), "questions", path)
    for row in rows:
        where = f"{path}: question_id {row.get('question_id')}"
        _need(row, {"question_id": int, "image_id": int, "question": str}, where)
    _once((row["question_id"] for row in rows), path, "question_id")
    return rows


def read_pope_questions(path: str | Path) -> list[dict]:
    """Rows of a POPE file: question_id, image, text, label.

    Raises:
        UserError: the file can't be read, or a row isn't as it should be.
    """
    rows = read_json_lines(path, "POPE questions")
    for row in rows:
        where = f"{path}: question_id {row.get('question_id')}"
        _need(row, {"question_id": int | str, "image": str, "text": str, "label": str}, where)
        if row["label"] not in ("yes", "no"):
            raise UserError(f"{where}: the label is {row['label']!r}; write yes or no")
    if not rows:
        raise UserError(f"{path}: no questions; is this a POPE file?")
    _once((row["question_id"] for row in rows), path, "question_id")
    return rows


def read_mme_questions(folder: str | Path, without: Collection[str] = ()) -> list[dict]:
    """Questions of MME: one file a subtask, with image, question and answer between tabs.

    Args:
        folder: the files as the benchmark's evaluation tool has them, `existence.txt` and so on.
        without: subtasks to leave out.

    Returns:
        Rows {question_id, subtask, image, text, label}, subtask by subtask; the two questions of an
        image stand together, and `question_id` is `<subtask>/<image>/<1 or 2>`.

    Raises:
        UserError: a subtask is missing, or a line isn't as it should be.
    """
    return [
        row
        for subtask, path in mme_files(folder, without).items()
        for row in mme_questions(subtask, path, mme_lines(path, 3))
    ]


def mme_questions(subtask: str, path: Path, lines: list[tuple[int, list[str]]]) -> list[dict]:
    """The questions in the lines of a subtask's file; see `read_mme_questions`."""
    _once((tuple(line[:2]) for _, line in lines), path, "question")
    rows = []
    for at, (number, (image, text, label, *_)) in enumerate(lines):
        first = lines[at - at % 2][1][0]
        if image != first:
            raise UserError(
                f"{path}:{number}: a question about {image} after one about {first}; an image has"
                " two questions, one after the other"
            )
        if label.lower() not in ("yes", "no"):
            raise UserError(f"{path}:{number}: the answer is {label!r}; write Yes or No")
        rows.append(
            {
                "question_id": f"{subtask}/{image}/{at % 2 + 1}",
                "subtask": subtask,
                "image": image,
                "text": text,
                "label": label.lower(),
            }
        )
    if len(rows) % 2:
        raise UserError(f"{path}: {len(rows)} questions; an image has two, add what is missing")
    return rows


def mme_files(folder: str | Path, without: Collection[str] = ()) -> dict[str, Path]:
    """The files of MME's subtasks in a folder.

    Raises:
        UserError: some aren't there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (MME); give the one with existence.txt")
    paths = {name: folder / f"{name}.txt" for name in mme.SUBTASKS if name not in without}
    for name, path in paths.items():
        if not path.is_file() and (packed := folder / f"{name}.txt.gz").is_file():
            paths[name] = packed
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise UserError(
            f"{folder}: no file of {len(missing)} of {len(paths)} MME subtasks"
            f" ({shown(missing)}); add <subtask>.txt or leave the subtasks out by name"
        )
    return paths


def mme_lines(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """A file of MME: its lines' numbers and columns; blank lines are passed over.

    Raises:
        UserError: a line with another number of columns (the line is named).
    """
    try:
        text = read_bytes(path, "MME").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; fetch it again") from None
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        image, *parts = line.rstrip("\r").split("\t")
        # An empty answer at the end of a line is easily lost with its tab.
        if columns == 4 and len(parts) == 2:
            parts.append("")
        if len(parts) != columns - 1:
            raise UserError(
                f"{path}:{number}: {len(parts) + 1} columns, MME has {columns} here; write spaces"
                " for tabs and ends of line within answers"
            )
        lines.append((number, [image, *(part.strip() for part in parts[:2]), *parts[2:]]))
    if not lines:
        raise UserError(f"{path}: no questions; fetch the file again")
    return lines


def read_captions(path: str | Path, split: str | None = None) -> list[dict]:
    """Reference captions.

    Args:
        path: `{image_id: [captions]}`, COCO's `captions_*.json`, or a `dataset_*.json` of
            Karpathy's splits of COCO and Flickr30k.
        split: of Karpathy's files; test by default.

    Returns:
        Rows {id, image, captions}: the id as text (COCO's number; else the file name), the image's
        file name, one or more captions. Images without captions are left out. Where Karpathy's
        file gives no number of COCO's, `imgid` is its own.

    Raises:
        UserError: the file can't be read, isn't in one of these layouts, or lacks the split.
    """
    content = read_json(path, "reference captions")
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected an object with captions; is this the right file?")
    images = content.get("images")
    first = images[0] if isinstance(images, list) and images else None
    karpathy = isinstance(first, Mapping) and "sentences" in first
    if split is not None and not karpathy:
        raise UserError(f"{path}: no splits, only Karpathy's files have some; leave split out")
    if karpathy:
        rows = _karpathy(images, split or "test", path)
    elif "annotations" in content:
        rows = [
            {"id": str(picture.id), "image": picture.file_name, "captions": list(picture.captions)}
            for picture in read_pictures(path)
        ]
    else:
        rows = [
            {"id": str(name), "image": str(name), "captions": captions}
            for name, captions in content.items()
        ]
        for row in rows:
            said = row["captions"]
            if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
                raise UserError(
                    f"{path}: image_id {row['id']}: expected a list of captions; is this"
                    " {image_id: [captions]}?"
                )
    rows = [row for row in rows if row["captions"]]
    if not rows:
        raise UserError(f"{path}: no captions; is this the right file?")
    return rows


def _karpathy(images: list[Mapping], split: str, path: str | Path) -> list[dict]:
    if not all(isinstance(image, Mapping) for image in images):
        raise UserError(f"{path}: an image that is no object; is this a file of Karpathy's?")
    found = Counter(str(image.get("split")) for image in images)
    if split not in found:
        raise UserError(f"{path}: no split {split!r}; there are: {', '.join(found)}")
    rows = []
    for image in images:
        if image.get("split") != split:
            continue
        where = f"{path}: imgid {image.get('imgid')}"
        _need(image, {"filename": str, "sentences": list}, where)
        for said in image["sentences"]:
            if not isinstance(said, Mapping):
                raise UserError(f"{where}: a sentence is {said!r:.40}; is this the right file?")
            _need(said, {"raw": str}, f"{where}: a sentence")
        row = {
            "id": str(image.get("cocoid", image["filename"])),
            "image": image["filename"],
            "captions": [" ".join(said["raw"].split()) for said in image["sentences"]],
        }
        if "cocoid" not in image and "imgid" in image:
            row["imgid"] = image["imgid"]
        rows.append(row)
    _once((row["id"] for row in rows), path, "image")
    return rows


def other_names(rows: Iterable[Mapping]) -> dict[str, str]:
    """What else the images of reference captions may be called in predictions.

    Args:
        rows: what `read_captions` found.

    Returns:
        Ids by file name, by file name without its suffix and by `imgid`; names that several images
        have, or that are another's id, aren't among them.
    """
    named: dict[str, set[str]] = {}
    for row in rows:
        named.setdefault(row["id"], set()).add(row["id"])
        for name in (row["image"], Path(row["image"]).stem, row.get("imgid")):
            named.setdefault(str(name), set()).add(row["id"])
    return {name: min(ids) for name, ids in named.items() if len(ids) == 1 and name not in ids}


def _listed(content: Any, key: str, path: str | Path) -> list[dict]:
    rows = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise UserError(f"{path}: no list of {key}; is this the right file?")
    if not rows:
        raise UserError(f"{path}: the list of {key} is empty; fetch the file again")
    return rows


def _need(row: Mapping, keys: Mapping[str, Any], where: str) -> None:
    for key, kind in keys.items():
        if key not in row:
            raise UserError(f"{where}: {key} is missing; is this the right file?")
        if not isinstance(row[key], kind):
            raise UserError(f"{where}: {key} is {row[key]!r:.40}; is this the right file?")


def _once(ids: Iterable[Hashable], path: str | Path, what: str) -> None:
    counts = Counter(ids)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: {len(twice)} {what}(s) more than once ({shown(twice)}); fetch the file again"
        )
