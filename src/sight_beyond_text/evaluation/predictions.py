"""Anybody's predictions, in the formats that the benchmarks' own evaluators read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.references import mme_files, mme_lines
from sight_beyond_text.evaluation.scorers import shown
from sight_beyond_text.files import read_json, read_json_lines


def read_vqa_predictions(path: str | Path) -> list[tuple[Hashable, str]]:
    """Answers of a VQA results file, `[{"question_id": ..., "answer": ...}]`.

    Raises:
        UserError: the file can't be read, or a row lacks its id or text.
    """
    return _rows(read_json(path, "VQA results"), "question_id", ("answer",), path)


def read_captions_predictions(path: str | Path) -> list[tuple[Hashable, str]]:
    """Captions of a COCO results file, `[{"image_id": ..., "caption": ...}]`.

    Raises:
        UserError: the file can't be read, or a row lacks its id or text.
    """
    return _rows(read_json(path, "captions"), "image_id", ("caption",), path)


def read_pope_predictions(
    path: str | Path, questions: Sequence[Mapping]
) -> list[tuple[Hashable, str]]:
    """Answers of a POPE file: JSON lines with `question_id` and `answer` or `text`.

    Without any `question_id`, as POPE's own evaluator has it, rows answer the questions in order,
    and their `question` must be the one asked.

    Raises:
        UserError: the file can't be read, a row lacks its id or text, or answers another question.
    """
    rows = read_json_lines(path, "POPE answers")
    if rows and not any("question_id" in row for row in rows):
        if len(rows) != len(questions):
            raise UserError(
                f"{path}: {len(rows)} answers without question_id to {len(questions)} questions;"
                " give each its question_id"
            )
        for number, (row, asked) in enumerate(zip(rows, questions, strict=True), 1):
            said = row.get("question")
            if not isinstance(said, str) or said.strip().lower() != asked["text"].strip().lower():
                raise UserError(
                    f"{path}: answer {number} is to {said!r:.60}, not to {asked['text']!r:.60};"
                    " give the answers their question_id, or the order of the questions"
                )
        rows = [
            {**row, "question_id": asked["question_id"]}
            for row, asked in zip(rows, questions, strict=True)
        ]
    return _rows(rows, "question_id", ("answer", "text"), path)


def read_mme_predictions(
    folder: str | Path, without: Collection[str] = ()
) -> dict[str, list[tuple[int, list[str]]]]:
    """Answers of MME: a file a subtask with image, question, right answer and answer between tabs.

    Returns:
        By subtask: each line's number and its four columns.

    Raises:
        UserError: a subtask is missing, a line has other columns, or a file has no answers.
    """
    found = {}
    for subtask, path in mme_files(folder, without).items():
        found[subtask] = mme_lines(path, 4)
        if not any(answer.strip() for _, (*_, answer) in found[subtask]):
            raise UserError(f"{path}: no answers in the fourth column; is this the blank file?")
    return found


def matched(
    predictions: Iterable[tuple[Hashable, str]],
    ids: Iterable[Hashable],
    path: str | Path,
    item: str,
    other_names: Mapping[str, Hashable] | None = None,
) -> tuple[dict[Hashable, str], list[Hashable]]:
    """Predictions by the benchmark's own ids; 7 and "7" are the same id.

    Args:
        predictions: id and text of each.
        ids: the benchmark's.
        path: where the predictions are from, for the error.
        item: what an id is called there.
        other_names: further names of ids.

    Returns:
        Known id -> text, and the ids that the benchmark doesn't have.

    Raises:
        UserError: an item has two predictions.
    """
    known = {**(other_names or {}), **{str(key): key for key in ids}}
    predictions = [(known.get(str(key), key), key, text) for key, text in predictions]
    counts = Counter(str(meant) for meant, _, _ in predictions)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: {len(twice)} {item}s have more than one prediction ({shown(twice)}); keep one"
        )
    found = {meant: text for meant, key, text in predictions if str(key) in known}
    return found, [key for _, key, _ in predictions if str(key) not in known]


def matched_mme(
    files: Mapping[str, Sequence[tuple[int, list[str]]]], questions: Iterable[Mapping], folder: Path
) -> tuple[dict[str, str], list[str]]:
    """Answers of MME by question id, matched by subtask, image and question.

    Args:
        files: what `read_mme_predictions` found.
        questions: what `references.read_mme_questions` found.
        folder: where the predictions are from, for the errors.

    Returns:
        Question id -> answer, and the places of answers to questions that aren't asked.

    Raises:
        UserError: a question has two answers, or another right answer than the benchmark's.
    """
    asked = {(row["subtask"], row["image"], row["text"]): row for row in questions}
    found: dict[str, str] = {}
    unknown = []
    for subtask, lines in files.items():
        for number, (image, text, label, answer) in lines:
            row = asked.get((subtask, image, text))
            where = f"{folder}/{subtask}.txt:{number}"
            if row is None:
                unknown.append(where)
            elif row["question_id"] in found:
                raise UserError(f"{where}: {image}: {text!r} has two answers; keep one")
            elif label.lower() != row["label"]:
                raise UserError(
                    f"{where}: {image}: {text!r}: the third column says {label!r}, the benchmark"
                    f" {row['label']!r}; mend the file"
                )
            else:
                found[row["question_id"]] = answer
    return found, unknown


def _rows(
    content: object, key: str, texts: Sequence[str], path: str | Path
) -> list[tuple[Hashable, str]]:
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise UserError(f"{path}: expected a list of objects with {key} and {texts[0]}")
    found = []
    for number, row in enumerate(content, 1):
        if not isinstance(row.get(key), int | str):
            raise UserError(f"{path}: row {number}: {key} is missing or no number; add it")
        name = next((text for text in texts if text in row), texts[0])
        if not isinstance(row.get(name), str):
            raise UserError(
                f"{path}: {key} {row[key]}: {' or '.join(texts)} is missing or no text; write it in"
                " quotes, if only an empty one"
            )
        found.append((row[key], row[name]))
    return found
