"""Large files of instructions are counted exactly, and some of their rows stand for all."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sight_beyond_text import lengths
from sight_beyond_text.data.glance import glance, rows_with
from sight_beyond_text.lengths import measure, read_samples

TEXTS = st.text(max_size=30) | st.sampled_from(
    ['{"id": 1}', "{", '{"id', "}, {", '"', "\\", '\\{"']
)


def row(name: str, asked: str, answer: str, **further) -> dict:
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": f"{name}.jpg", **further, "conversations": turns}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=30), st.sampled_from([None, 0, 2]))
def test_every_row_is_counted_whatever_its_texts_hold(tmp_path: Path, texts, indent) -> None:
    rows = [row(f"{number}", *pair) for number, pair in enumerate(texts)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False))
    looked = glance(path, rows=len(rows))
    assert (looked.count, looked.rows) == (len(rows), rows)
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert glance(lines, rows=len(rows)).rows == rows
    assert rows_with(path, {"0", "7"}) == [row for row in rows if row["id"] in ("0", "7")]


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        '"text"',
        '[{"id": 1, "a": {"id": 2}}, {"id": 3}]',
        '[{"id": 1}, {"no": 2}]',
        "[{}]",
    ],
)
def test_what_is_not_rows_of_one_kind_is_left_to_whoever_reads_it_whole(tmp_path, content) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    assert glance(path) is None


def written(path: Path, count: int, chance: random.Random) -> list[dict]:
    """Two kinds in two blocks, and one very long sample."""
    made = []
    for number in range(count):
        kind = "detail" if number < count / 3 else "reasoning"
        words = chance.randint(5, 90) if kind == "detail" else chance.randint(60, 250)
        made.append(row(f"{number:06d}", "<image>\nWhat?", "word " * words, kind=kind))
    made[count // 2] = row("long", "<image>\nWhat?", "word " * 1500, kind="reasoning")
    path.write_text(json.dumps(made, indent=2))
    return made


@pytest.mark.parametrize("kinds", [False, True])
def test_some_rows_tell_what_all_of_them_take(tmp_path, monkeypatch, kinds) -> None:
    path, chance = tmp_path / "rows.json", random.Random(0)
    made = written(path, 20_000, chance)
    files = None
    if kinds:
        path.write_text(json.dumps([{k: v for k, v in r.items() if k != "kind"} for r in made]))
        files = {}
        for kind in ("detail", "reasoning"):
            files[kind] = str(tmp_path / f"{kind}.json")
            own = [row for row in made if row["kind"] == kind]
            Path(files[kind]).write_text(json.dumps(own, indent=2))
    monkeypatch.setattr(lengths, "WHOLE", 2**20)
    some = read_samples(str(path), kinds=files)
    monkeypatch.setattr(lengths, "WHOLE", 10**9)
    whole = read_samples(str(path), kinds=files)
    assert len(whole) == 20_000 and len(some) < 7000
    for kind in ("detail", "reasoning"):
        found, wanted = (
            measure([s for s in of if s.kind == kind], "visual", "v1", 256, 0, 2048)
            for of in (some, whole)
        )
        assert found.samples == pytest.approx(wanted.samples, rel=0.01)
        assert found.tokens == pytest.approx(wanted.tokens, rel=0.02)
        assert found.squares == pytest.approx(wanted.squares, rel=0.04)
        assert found.longest == wanted.longest
