"""Files are written whole or not at all, and broken ones are told of in one line."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import (
    digest,
    read_json,
    read_json_lines,
    sha256,
    write_json,
    write_json_lines,
    write_text,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def told(error: pytest.ExceptionInfo) -> str:
    """The message of a user's error, which is one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


def test_truncated_json_names_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text('{\n "images": [],\n "annotations": [{"id"')
    with pytest.raises(UserError) as error:
        read_json(path, "COCO captions")
    assert told(error).startswith(f"{path}:3:23: COCO captions: broken JSON")


def test_a_missing_file_is_named_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_json(tmp_path / "gone.json", "COCO captions")
    assert "gone.json: no such file (COCO captions)" in told(error)


def test_a_folder_in_a_files_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_json(tmp_path, "COCO captions")
    assert f"{tmp_path}: COCO captions can't be read" in told(error)


@pytest.mark.parametrize("read", [read_json, read_json_lines])
def test_a_file_that_is_not_utf8_is_refused(read, tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(UserError) as error:
        read(path, "questions")
    assert "not UTF-8 text at byte 7" in told(error)


@pytest.mark.parametrize("read", [read_json, read_json_lines])
def test_a_byte_order_mark_is_no_mistake(read, tmp_path: Path) -> None:
    path = tmp_path / "marked.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert read(path, "questions") in ({"a": 1}, [{"a": 1}])


@pytest.mark.parametrize(
    ("line", "reason"), [('{"a": 1', "broken JSON"), ("[1]", "expected an object, found '[1]'")]
)
def test_a_broken_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f'{{"a": 0}}\n\n{line}\n{{"a": 2}}\n')
    with pytest.raises(UserError) as error:
        read_json_lines(path, "POPE questions")
    assert f"{path}:3: POPE questions: {reason}" in told(error)


@given(st.lists(st.dictionaries(TEXT, TEXT, max_size=3), max_size=4))
def test_json_lines_come_back_as_they_were(tmp_path_factory, rows: list[dict]) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_json_lines(path, rows)
    assert read_json_lines(path, "rows") == rows


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXT, st.lists, max_leaves=5))
def test_json_comes_back_as_it_was(tmp_path_factory, value) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path, "value") == value


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_an_interrupt_at_the_last_moment_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "record.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_never_seen_half_written(tmp_path: Path, monkeypatch) -> None:
    path, real, seen = tmp_path / "record.json", os.replace, []

    def watched(source, target):
        seen.append((path.exists(), json.loads(Path(source).read_text())))
        real(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_json(path, {"done": True})
    assert seen == [(False, {"done": True})]
    assert read_json(path, "record") == {"done": True}


def test_folders_are_made_and_permissions_follow_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "record.json"
    before = os.umask(0o027)
    try:
        write_text(path, "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_text(path, "a\nb\r\nc")
    assert path.read_bytes() == b"a\nb\r\nc"


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # The digest of FIPS 180-2, appendix B.1.
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digests_ignore_the_order_of_keys_only() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
