"""Benchmarks with fewer questions than published are told of; the micro world's own are not."""

import json

import pytest

from sight_beyond_text.evaluation.text_coverage import SUBJECTS, coverage
from sight_beyond_text.evaluation.text_data import check_text


def entry(path=None, task=None):
    return {"task": task, "path": path and str(path), "fewshot": None, "limit": None}


@pytest.mark.parametrize(
    ("name", "task", "count", "words"),
    [
        ("truthfulqa_mc1", None, 817, None),
        ("truthfulqa_mc1", None, 790, "truthfulqa_mc1: 790 questions, where 817 are published"),
        ("ethics_cm", None, 3885, None),
        ("hard", "ethics_cm", 3964, None),
        ("ethics_cm", None, 4000, "4000 questions, where 3885 (3964 hard ones) are published"),
        ("ethics_justice", None, 2703, "2703 questions aren't whole sets of 4, so there is no em"),
        ("arc_easy", None, 3, None),
    ],
)
def test_questions_are_counted_against_the_published_ones(name, task, count, words):
    lines = coverage(name, entry(task=task), {task or name: count})
    assert bool(lines) == (words is not None)
    assert words is None or any(words in line for line in lines)


def test_subjects_of_mmlu_are_counted():
    subjects = {f"mmlu_{number}": 100 for number in range(SUBJECTS)}
    words = "evaluation.text.mmlu: 5700 questions, where 14042 are published"
    assert coverage("mmlu", entry(), subjects) == [words]
    del subjects["mmlu_0"]
    words = "evaluation.text.mmlu: 56 of 57 subjects, 5600 questions"
    assert coverage("mmlu", entry(), subjects) == [words]
    subjects |= {"mmlu_0": 14_042 - 5600}
    assert not coverage("mmlu", entry(), subjects)


def test_checks_say_so_but_not_of_the_micro_world(tmp_path, capsys):
    folder = tmp_path / "benchmarks" / "boolq"
    folder.mkdir(parents=True)
    row = {"question": "is it", "passage": "It is.", "answer": True}
    (folder / "boolq.jsonl").write_text(json.dumps(row) + "\n")
    check_text({"boolq": entry(folder)})
    assert capsys.readouterr().out == (
        "evaluation.text.boolq: 1 questions, where 3270 are published\n"
    )
    (tmp_path / "world.json").write_text("{}")
    check_text({"boolq": entry(folder)})
    assert capsys.readouterr().out == ""
