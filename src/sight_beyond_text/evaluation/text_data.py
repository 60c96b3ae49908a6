"""Text benchmarks from local files, in the layouts in which their authors publish them.

Each reader gives the rows of lm-eval's own task, so that a task can't tell local files from the
hub. Light: no torch, no lm-eval here, so that files can be checked before anything is trained.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_bytes, read_json, read_json_lines

Rows = list[dict[str, Any]]
Splits = dict[str, Rows]

SHOTS = {
    "current": {"mmlu": 5, "gsm8k": 5},
    "published": {"mmlu": 5, "gsm8k": 8, "mathqa": 4},
}
"""Shots where the study doesn't say, by protocol; other tasks have none, or lm-eval's own."""

LETTERS = "ABCD"

MIRRORED = ("parquet", "arrow", "jsonl", "json", "csv")
"""Kinds of file in which the hub keeps data."""


def check_text(benchmarks: Mapping[str, Mapping[str, Any]]) -> None:
    """Reads every local file of the text suite once, so that a broken one is known in time.

    What is not broken, but has fewer or more questions than were published, is printed.

    Args:
        benchmarks: by name: `{task, path, fewshot, limit}`, None where not given. Those without
            a path come from the hub; of those only the task's name is checked.

    Raises:
        UserError: all mistakes, a line each: a file that is absent, lacks a column, or has a
            broken row (the file and the line, or the study's key, are named); an unknown task.
    """
    lines = []
    known: dict[str, Mapping[str, Any]] = {}
    for name, entry in benchmarks.items():
        try:
            task = entry.get("task") or name
            if not entry.get("path") or task not in READERS:
                known = known or _tasks_of_lm_eval()
                _check_task(name, task, entry.get("fewshot"), known)
            if entry.get("path"):
                _check_files(name, entry)
        except UserError as error:
            lines.append(str(error))
    if lines:
        raise UserError("\n".join(lines))


def _check_files(name: str, entry: Mapping[str, Any]) -> None:
    """Reads local files; of a copy of the hub's dataset it is enough that there is one."""
    task, path = entry.get("task") or name, Path(entry["path"])
    if task in READERS and not is_mirror(path):
        from sight_beyond_text.evaluation.text_coverage import coverage

        read = read_benchmark(name, entry)
        asked = {part: splits.get("test") or splits["validation"] for part, splits in read.items()}
        counts = {part: len(rows) for part, rows in asked.items()}
        for line in coverage(name, entry, counts):
            print(line)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder (evaluation.text.{name}.path)")
    elif not any(any(path.rglob(f"*.{kind}")) for kind in MIRRORED):
        raise UserError(
            f"{path}: no copy of {task!r}'s dataset ({', '.join(MIRRORED)}) in this folder; fetch"
            f" it from the hub, or remove evaluation.text.{name}.path"
        )


@cache
def _tasks_of_lm_eval() -> dict[str, Mapping[str, Any]]:
    """Settings by name of all tasks, groups and tags; reading their index takes seconds."""
    from lm_eval.tasks import TaskManager

    return {name: entry.cfg or {} for name, entry in TaskManager().task_index.items()}


def _check_task(
    name: str, task: str, shots: int | None, known: Mapping[str, Mapping[str, Any]]
) -> None:
    if task not in known:
        near = difflib.get_close_matches(task, known, 1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"evaluation.text.{name}: lm-eval has no task {task!r}{guess}")
    if known[task].get("unsafe_code"):
        raise UserError(runs_code(name, task))
    if shots and known[task].get("num_fewshot") == 0:
        raise UserError(built_in(name, task))


def runs_code(name: str, task: str) -> str:
    """What is told of a benchmark that runs what a model wrote."""
    return (
        f"evaluation.text.{name}: {task!r} runs code that models write, which is not done here;"
        " leave it out, or see `sight lm-eval run --confirm_run_unsafe_code`"
    )


def built_in(name: str, task: str) -> str:
    """What is told where a study gives shots to a task that has its own."""
    return (
        f"evaluation.text.{name}.fewshot: {task} has its examples built in; remove fewshot or set"
        " it to 0"
    )


def read_benchmark(name: str, entry: Mapping[str, Any]) -> dict[str, Splits]:
    """Reads one benchmark's local files.

    Args:
        name: the benchmark's name in the study; also the task's, unless `entry` has another. One
            of `READERS`.
        entry: `{task, path, fewshot, limit}`; `path` is given.

    Returns:
        By lm-eval task name (several for MMLU, one a subject): by split, the rows as the task's
        own dataset has them. A split that isn't needed is empty.

    Raises:
        UserError: see `check_text`.
    """
    task, key = entry.get("task") or name, f"evaluation.text.{name}"
    if not Path(entry["path"]).exists():
        raise UserError(f"{entry['path']}: no such file or folder ({key}.path)")
    shots = entry.get("fewshot")
    if shots is None:
        shots = default_shots(task) or 0
    if task.startswith("truthfulqa") and shots:
        raise UserError(built_in(name, task))
    return READERS[task](Path(entry["path"]), f"{key}.path", shots)


def default_shots(task: str, protocol: str = "current") -> int | None:
    """Shots of a task that the study says nothing about (lm-eval alone would give MMLU none).

    Returns:
        None where lm-eval's own number holds.
    """
    return SHOTS[protocol].get(task)


def is_mirror(path: Path) -> bool:
    """Whether a folder is a copy of a dataset as the hub has it, not in its authors' layout."""
    return any(any(path.rglob(f"*.{kind}")) for kind in MIRRORED[:2])


def mmlu_configurations() -> Path:
    """Folder of lm-eval's MMLU tasks, found without importing lm-eval."""
    return Path(find_spec("lm_eval").origin).parent / "tasks" / "mmlu" / "default"


def is_subject(task: str) -> bool:
    """Whether a task is one of MMLU's subjects."""
    return task.startswith("mmlu_") and (mmlu_configurations() / f"{task}.yaml").is_file()


def _find(path: Path, key: str, *names: str) -> Path:
    """The first of `names` under `path` that is there; `path` itself where it is a file."""
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    raise UserError(f"{path / names[0]}: no such file{others}; check {key}")


def _enough(rows: Rows, shots: int, path: Path, key: str) -> Rows:
    if len(rows) < shots:
        raise UserError(
            f"{path}: {len(rows)} rows are too few for {shots} shots; lower"
            f" {key.removesuffix('.path')}.fewshot or add rows"
        )
    return rows


def _csv(path: Path, what: str) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file, each with its first line's number."""
    try:
        text = read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {what}: not UTF-8 text at byte {error.start}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: {what}: broken CSV ({error}); fetch it again") from None
    if not rows:
        raise UserError(f"{path}: {what}: no rows; fetch the file again")
    return rows


def _columns(path: Path, what: str, *wanted: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, as `{column: text}`, each with its line's number."""
    (_, header), *body = _csv(path, what)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UserError(
            f"{path}:1: {what}: lacks the column {missing[0]!r}; found {', '.join(header)[:80]}"
        )
    if not body:
        raise UserError(f"{path}: {what}: a header without rows; fetch the file again")
    for line, row in body:
        _same_length(path, line, what, row, len(header))
    return [(line, dict(zip(header, row, strict=True))) for line, row in body]


def _same_length(path: Path, line: int, what: str, row: list[str], expected: int) -> None:
    if len(row) != expected:
        raise UserError(
            f"{path}:{line}: {what}: {len(row)} fields instead of {expected}; fetch the file again"
        )


def _binary(path: Path, line: int, what: str, text: str) -> int:
    if text not in ("0", "1"):
        raise UserError(f"{path}:{line}: {what}: label {text[:20]!r} is neither 0 nor 1")
    return int(text)


def _objects(path: Path, what: str, rows: Any, *wanted: str) -> Rows:
    """Rows of a JSON file, each an object with the wanted keys."""
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: {what}: expected a list of questions; fetch the file again")
    for number, row in enumerate(rows, 1):
        missing = [key for key in wanted if not isinstance(row, dict) or key not in row]
        if missing:
            raise UserError(f"{path}: {what}: question {number} lacks {missing[0]!r}")
    return rows


def _truthfulqa(path: Path, key: str, shots: int) -> Splits:
    what = "TruthfulQA's choices"
    path = _find(path, key, "data/mc_task.json", "mc_task.json")
    rows = []
    for number, row in enumerate(
        _objects(path, what, read_json(path, what), "question", "mc1_targets", "mc2_targets"), 1
    ):
        made = {"question": row["question"]}
        for name in ("mc1_targets", "mc2_targets"):
            targets = row[name]
            if not isinstance(targets, dict) or {0, 1} != set(targets.values()):
                raise UserError(
                    f"{path}: {what}: question {number}: {name} needs choices marked 1 (right)"
                    " and choices marked 0"
                )
            # lm-eval takes the first choice of mc1 for the right one.
            ordered = sorted(targets, key=lambda choice: -targets[choice])
            made[name] = {"choices": ordered, "labels": [targets[c] for c in ordered]}
        if sum(made["mc1_targets"]["labels"]) != 1:
            raise UserError(
                f"{path}: {what}: question {number}: mc1_targets needs one right choice"
            )
        rows.append(made)
    return {"validation": rows}


def _truthfulqa_gen(path: Path, key: str, shots: int) -> Splits:
    what = "TruthfulQA's answers"
    path = _find(path, key, "TruthfulQA.csv")
    names = ("Type", "Category", "Question", "Best Answer")
    lists = ("Correct Answers", "Incorrect Answers")
    rows = []
    for _, row in _columns(path, what, *names, *lists, "Source"):
        made = {name.lower().replace(" ", "_"): row[name] for name in names}
        for name in lists:
            answers = [answer.strip() for answer in row[name].split(";")]
            made[name.lower().replace(" ", "_")] = [answer for answer in answers if answer]
        rows.append({**made, "source": row["Source"]})
    return {"validation": rows}


def _ethics(folder: str, stem: str, read: Callable[[Path], Rows]):
    """A reader of one subset of ETHICS, `<folder>/<stem>_test.csv`."""

    def reader(path: Path, key: str, shots: int) -> Splits:
        def find(split: str) -> Path:
            return _find(path, key, f"{folder}/{stem}_{split}.csv", f"{stem}_{split}.csv")

        test, train = read(find("test")), []
        if shots:
            train = _enough(read(find("train")), shots, find("train"), key)
        return {"train": train, "test": test}

    return reader


def _labelled(what: str, *columns: str) -> Callable[[Path], Rows]:
    def read(path: Path) -> Rows:
        return [
            {
                "label": _binary(path, line, what, row["label"]),
                **{name: row[name] for name in columns},
            }
            for line, row in _columns(path, what, "label", *columns)
        ]

    return read


def _virtue(path: Path) -> Rows:
    what, rows = "ETHICS virtue", []
    for line, row in _columns(path, what, "label", "scenario"):
        scenario, mark, trait = row["scenario"].rpartition(" [SEP] ")
        if not mark:
            raise UserError(f"{path}:{line}: {what}: no ' [SEP] ' between scenario and trait")
        label = _binary(path, line, what, row["label"])
        rows.append({"label": label, "scenario": scenario, "trait": trait})
    return rows


def _utilitarianism(path: Path) -> Rows:
    what, rows = "ETHICS utilitarianism", []
    for line, row in _csv(path, what):
        _same_length(path, line, what, row, 2)
        rows.append({"activity": row[0], "baseline": row[1]})
    # Some copies have a header, the published file has none.
    return rows[1:] if rows[0] == {"activity": "activity", "baseline": "baseline"} else rows


def _mmlu(path: Path, key: str, shots: int) -> dict[str, Splits]:
    files = sorted(path.glob("test/*_test.csv"))
    if not files:
        raise UserError(f"{path / 'test'}: no <subject>_test.csv there; check {key}")
    made = {}
    for file in files:
        subject = file.name.removesuffix("_test.csv")
        if not (mmlu_configurations() / f"mmlu_{subject}.yaml").is_file():
            raise UserError(f"{file}: {subject!r} is no subject of MMLU; remove or rename the file")
        dev = []
        if shots:
            examples = _find(path, key, f"dev/{subject}_dev.csv")
            dev = _enough(_exam(examples), shots, examples, key)
        made[f"mmlu_{subject}"] = {"dev": dev, "test": _exam(file)}
    return made


def _exam(path: Path) -> Rows:
    """MMLU rows, published (no header, A to D) or with a header (answers 0 to 3)."""
    what, rows = "MMLU", _csv(path, "MMLU")
    header = ["question", *(f"choice{i}" for i in range(4)), "answer"]
    marks = dict(zip(LETTERS, range(4), strict=True))
    if rows[0][1] == header:
        rows, marks = rows[1:], {str(number): number for number in range(4)}
        if not rows:
            raise UserError(f"{path}: {what}: a header without rows; fetch the file again")
    made = []
    for line, row in rows:
        _same_length(path, line, what, row, 6)
        question, *choices, answer = row
        if answer not in marks:
            raise UserError(
                f"{path}:{line}: {what}: answer {answer[:20]!r} is none of {', '.join(marks)}"
            )
        made.append({"question": question, "choices": choices, "answer": marks[answer]})
    return made


def _gsm8k(path: Path, key: str, shots: int) -> Splits:
    what = "GSM8K"

    def read(file: Path) -> Rows:
        rows = _objects(file, what, read_json_lines(file, what), "question", "answer")
        for number, row in enumerate(rows, 1):
            if "####" not in row["answer"]:
                raise UserError(f"{file}: {what}: question {number}: no '#### ' before the result")
        return [{"question": row["question"], "answer": row["answer"]} for row in rows]

    test, train = read(_find(path, key, "test.jsonl")), []
    if shots:
        # A file given instead of the folder has its examples beside it.
        folder = path.parent if path.is_file() else path
        file = _find(folder, key, "train.jsonl", "train_first64.jsonl")
        train = _enough(read(file), shots, file, key)
    return {"train": train, "test": test}


def _boolq(path: Path, key: str, shots: int) -> Splits:
    what = "BoolQ"

    def read(file: Path) -> Rows:
        rows = []
        found = _objects(file, what, read_json_lines(file, what), "question", "passage")
        for number, row in enumerate(found, 1):
            # SuperGLUE's copy says label for answer, and has put the title before the passage.
            answer = row.get("answer", row.get("label"))
            if answer not in (True, False):
                raise UserError(f"{file}: {what}: question {number}: answer is not true or false")
            passage = f"{row['title']} -- {row['passage']}" if "title" in row else row["passage"]
            rows.append({"question": row["question"], "passage": passage, "label": int(answer)})
        return rows

    validation = read(_find(path, key, "boolq.jsonl", "val.jsonl", "dev.jsonl"))
    train = []
    if shots:
        file = _find(path.parent if path.is_file() else path, key, "train.jsonl")
        train = _enough(read(file), shots, file, key)
    return {"train": train, "validation": validation}


def _mathqa(path: Path, key: str, shots: int) -> Splits:
    """MathQA, as published or with problem and options in one `instruction`."""
    what = "MathQA"

    def read(file: Path) -> Rows:
        rows = []
        for number, row in enumerate(_objects(file, what, read_json(file, what)), 1):
            if isinstance(row, dict) and "instruction" in row and "answer" in row:
                problem, mark, options = row["instruction"].partition(" The options: ")
                options = re.sub(r"\b([A-E]) \)", lambda match: match[0].lower(), options)
                row = {"Problem": problem, "options": options, "correct": row["answer"].lower()}
            else:
                _objects(file, what, [row], "Problem", "options", "correct")
            if row["correct"] not in tuple("abcde") or "a )" not in row["options"]:
                raise UserError(
                    f"{file}: {what}: question {number}: no options a to e, or no answer"
                )
            rows.append({name: row[name] for name in ("Problem", "options", "correct")})
        return rows

    test, train = read(_find(path, key, "test.json")), []
    if shots:
        file = _find(path.parent if path.is_file() else path, key, "train.json")
        train = _enough(read(file), shots, file, key)
    return {"train": train, "validation": [], "test": test}


def _squad(path: Path, key: str, shots: int) -> Splits:
    """SQuAD 2.0's official schema: articles of paragraphs of questions."""
    what = "SQuAD 2.0"

    def read(file: Path) -> Rows:
        rows = []
        articles = read_json(file, what)
        articles = articles.get("data") if isinstance(articles, dict) else articles
        for article in _objects(file, what, articles, "title", "paragraphs"):
            for paragraph in article["paragraphs"]:
                asked = _objects(file, what, paragraph.get("qas"), "id", "question", "answers")
                if "context" not in paragraph:
                    raise UserError(
                        f"{file}: {what}: a paragraph of {article['title']!r} lacks 'context'"
                    )
                for question in asked:
                    answers = question["answers"]
                    if not all({"text", "answer_start"} <= set(answer) for answer in answers):
                        raise UserError(
                            f"{file}: {what}: question {question['id']}: an answer needs 'text'"
                            " and 'answer_start'"
                        )
                    rows.append(
                        {
                            "id": question["id"],
                            "title": article["title"],
                            "context": paragraph["context"],
                            "question": question["question"],
                            "answers": {
                                "text": [answer["text"] for answer in answers],
                                "answer_start": [answer["answer_start"] for answer in answers],
                            },
                        }
                    )
        return rows

    validation, train = read(_find(path, key, "dev-v2.0.json")), []
    if shots:
        file = _find(path.parent if path.is_file() else path, key, "train-v2.0.json")
        train = _enough(read(file), shots, file, key)
    return {"train": train, "validation": validation}


def _single(task: str, reader: Callable[[Path, str, int], Splits]):
    return lambda path, key, shots: {task: reader(path, key, shots)}


READERS: dict[str, Callable[[Path, str, int], dict[str, Splits]]] = {
    "mmlu": _mmlu,
    **{
        task: _single(task, reader)
        for task, reader in {
            "truthfulqa_mc1": _truthfulqa,
            "truthfulqa_mc2": _truthfulqa,
            "truthfulqa_gen": _truthfulqa_gen,
            "ethics_cm": _ethics("commonsense", "cm", _labelled("ETHICS commonsense", "input")),
            "ethics_justice": _ethics(
                "justice", "justice", _labelled("ETHICS justice", "scenario")
            ),
            "ethics_deontology": _ethics(
                "deontology", "deontology", _labelled("ETHICS deontology", "scenario", "excuse")
            ),
            "ethics_virtue": _ethics("virtue", "virtue", _virtue),
            "ethics_utilitarianism": _ethics("utilitarianism", "util", _utilitarianism),
            "gsm8k": _gsm8k,
            "boolq": _boolq,
            "mathqa": _mathqa,
            "squadv2": _squad,
        }.items()
    },
}
"""Readers of local files by task: (path, the study's key, shots) to rows by task and split."""
