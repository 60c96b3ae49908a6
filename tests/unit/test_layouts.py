"""Instructions of other layouts become LLaVA-style samples, and what can't is told."""

import json
from collections import Counter
from pathlib import Path

import pytest

from sight_beyond_text.data.layouts import read_laid
from sight_beyond_text.data.sources import read_instructions
from sight_beyond_text.data.templates import IMAGE, turns_of
from sight_beyond_text.errors import UserError


def written(path: Path, rows: list) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def said(row: dict) -> list[tuple[str, str]]:
    return turns_of(row["conversations"], "here")


def test_alpaca(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": "Hi"},
        {"instruction": "Nothing.", "input": "", "output": " "},
        {"instruction": "Draw", "input": "", "output": "<svg><image></svg>"},
        {"instruction": "Missing", "output": None},
        "a text",
    ]
    laid = read_laid(written(tmp_path / "alpaca_data.json", rows))
    assert laid.layout == "alpaca"
    assert [said(row) for row in laid.rows] == [[("Add.\n1 2", "3")], [("Say hi.", "Hi")]]
    assert [row["id"] for row in laid.rows] == ["1", "2"]
    assert laid.left_out == [
        ("3", "no instruction or no output"),
        ("4", f"a text that holds {IMAGE}"),
        ("5", "no instruction or no output"),
        ("6", "not an object"),
    ]


def sharegpt(name: str, *turns: tuple[str, str]) -> dict:
    return {"id": name, "conversations": [{"from": who, "value": text} for who, text in turns]}


def test_sharegpt(tmp_path: Path, capsys) -> None:
    late = ("gpt", "As I said."), ("human", "Go on"), ("gpt", "So"), ("human", "?")
    new = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        sharegpt("opens-late", *late),
        sharegpt("others", ("user", "a"), ("chatgpt", "b"), ("user", "c"), ("bing", "d")),
        sharegpt("twice", ("human", "a"), ("human", "b"), ("gpt", "c")),
        sharegpt("system", ("system", "You are."), ("human", "a"), ("gpt", "b")),
        sharegpt("empty", ("human", " "), ("gpt", "b")),
        sharegpt("alone", ("gpt", "b")),
        {"id": "none", "conversations": []},
        {"id": "new", "messages": new},
    ]
    path = written(tmp_path / "sharegpt.json", rows)
    laid = read_laid(path, "sharegpt")
    assert {row["id"]: said(row) for row in laid.rows} == {
        "opens-late": [("Go on", "So")],
        "others": [("a", "b"), ("c", "d")],
        "new": [("a", "b")],
    }
    assert dict(laid.left_out) == {
        "twice": "roles that don't take turns",
        "system": "a turn of 'system'",
        "empty": "an empty turn",
        "alone": "no question with an answer",
        "none": "no question with an answer",
    }
    # Not named, it is taken for LLaVA's, whose roles must be in turn.
    with pytest.raises(UserError, match="sample 'opens-late': turn 1 should be from 'human'"):
        read_instructions(path)
    assert read_instructions(path, "sharegpt") == laid.rows
    told = capsys.readouterr().err
    assert told.startswith(f"{path}: 5 samples are left out: 2 no question with an answer; ")


def test_messages_are_sharegpts_without_a_name(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    laid = read_laid(written(tmp_path / "chat.jsonl", [{"messages": turns}, {"messages": turns}]))
    assert laid.layout == "sharegpt" and [row["id"] for row in laid.rows] == ["1", "2"]


def test_a_file_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", [{"instruction": "", "output": "b"}])
    with pytest.raises(UserError) as error:
        read_laid(path)
    assert str(error.value) == (
        f"{path}: nothing of its 1 samples can be learned from; the first: no instruction or no"
        " output"
    )


def test_llavas_published_questions_are_samples_of_their_images(shared_data: Path) -> None:
    rows = read_instructions(shared_data / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl")
    assert Counter(row["kind"] for row in rows) == {
        "conversation": 30,
        "detail": 30,
        "reasoning": 30,
    }
    assert len({row["image"] for row in rows}) == 30
    for row in rows:
        ((asked, answer),) = said(row)
        assert asked.startswith(f"{IMAGE}\n") and answer.strip() and IMAGE not in answer
