"""A run's samples: kinds by id, nested subsets, and what stands for the image."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sight_beyond_text import grid, study
from sight_beyond_text.data.contexts import ByImage, read_contexts
from sight_beyond_text.data.kinds import read_kinds, with_kinds
from sight_beyond_text.data.prepare import drawn, load_rows
from sight_beyond_text.data.sources import read_instructions
from sight_beyond_text.errors import UserError


def row(name: str, answer: str, **further) -> dict:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": f"{name}.jpg", **further, "conversations": turns}


def spec(path: Path, form: str = "text", of="all", size: int | None = None, **data) -> dict:
    known = {"instructions": str(path), "captions": None, "captions_in_place": 5, **data}
    return {
        "data": known,
        "source": {"form": form, "kinds": of},
        "training": {"max_samples": size},
        "seed": 3,
    }


def written(path: Path, rows: list) -> Path:
    path.write_text(json.dumps(rows))
    return path


@given(st.integers(2, 300), st.integers(0, 9), st.data())
def test_smaller_subsets_lie_within_larger_ones(count: int, seed: int, data) -> None:
    larger = data.draw(st.integers(1, count))
    smaller = data.draw(st.integers(1, larger))
    order = drawn(count, seed)
    assert sorted(order) == list(range(count))
    assert set(order[:smaller]) <= set(drawn(count, seed)[:larger])


def test_subsets_are_the_same_for_all_forms_and_keep_the_files_order(tmp_path: Path) -> None:
    rows = [row(f"{number:012d}", f"answer {number}") for number in range(50)]
    path = written(tmp_path / "rows.json", rows)
    captions = tmp_path / "captions.jsonl"
    lines = [{"image": r["image"], "captions": [f"A {r['id']}."], "instances": []} for r in rows]
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    chosen = {}
    for size in (10, 20):
        forms = ("visual", "caption", "text")
        made = [load_rows(spec(path, form, size=size, captions=str(captions))) for form in forms]
        ids = [[r["id"] for r in rows] for rows in made]
        assert ids[0] == ids[1] == ids[2] == sorted(ids[0]) and len(ids[0]) == size
        chosen[size] = set(ids[0])
    assert chosen[10] < chosen[20]
    other = {**spec(path, size=10), "seed": 4}
    assert {r["id"] for r in load_rows(other)} != chosen[10]


def test_kinds_are_told_by_id_and_where_that_is_not_enough_by_the_first_answer(
    tmp_path: Path,
) -> None:
    files = {
        "conversation": written(tmp_path / "c.json", [row("1", "short"), row("2", "two")]),
        "detail": written(tmp_path / "d.json", [row("1", "A long description.")]),
        "reasoning": written(tmp_path / "r.json", [row("1", "Because."), row("3", "So.")]),
    }
    rows = [
        row("1", "Because. "),
        row("1", "short"),
        row("2", "said otherwise"),
        row("1", "said otherwise"),
        row("4", "unknown"),
        row("3", "So.", kind="detail"),
    ]
    kinds = [r.get("kind") for r in with_kinds(rows, read_kinds(files))]
    assert kinds == ["reasoning", "conversation", "conversation", None, None, "detail"]
    path = written(tmp_path / "all.json", rows)
    known = {kind: str(file) for kind, file in files.items()}
    kept = load_rows(spec(path, "visual", ["conversation"], kinds=known))
    assert [r["conversations"][1]["value"] for r in kept] == ["short", "said otherwise"]


def test_a_broken_file_of_a_kind_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", [row("1", "a"), {"id": "2"}])
    with pytest.raises(UserError) as error:
        read_kinds({"detail": path})
    assert str(error.value) == (
        f"{path}: sample 2: needs 'id' and 'conversations'; is this one of LLaVA's files by kind?"
    )


def test_a_photo_is_found_under_either_years_name() -> None:
    texts = ByImage([("COCO_val2014_000000000042.jpg", ["one"]), ("a.jpg", ["two"])])
    assert texts["000000000042.jpg"] == texts["coco/train2017/000000000042.jpg"] == ["one"]
    assert texts["a.jpg"] == ["two"] and len(texts) == 2
    assert texts.get("b.jpg") is None and texts.get("000000000043.jpg") is None


def test_published_instructions_with_captions_and_boxes_in_place(shared_data: Path) -> None:
    """LLaVA's own files: 2014's names in one, 2017's in the other."""
    llava = shared_data / "llava"
    path = llava / "coco2014_val_gpt4_qa_30x3.jsonl"
    contexts = llava / "caps_boxes_coco2014_val_80.jsonl"
    made = spec(path, "caption", captions=str(contexts))
    captions, _ = read_contexts(contexts)
    plain = load_rows(made)
    made["source"]["boxes"] = True
    boxed = load_rows(made)
    known = {json.loads(line)["id"]: json.loads(line) for line in contexts.open()}
    assert len(plain) == len(boxed) == 90
    for given_row, one, other in zip(read_instructions(path), plain, boxed, strict=True):
        context = known[given_row["id"]]
        question = given_row["conversations"][0]["value"].removeprefix("<image>\n")
        told = " ".join(context["captions"])
        assert one["conversations"][0]["value"] == f"{told}\n{question}"
        lines = [f"{t['category']}: {t['bbox']}" for t in context["instances"]]
        assert other["conversations"][0]["value"] == "\n".join([told, *lines, question])
        assert captions[given_row["image"]] == context["captions"]
    with pytest.raises(UserError, match="no captions for image"):
        load_rows(spec(path, "caption", captions=str(shared_data / COCO_CAPTIONS)))


COCO_CAPTIONS = "coco_mini/annotations/captions_train2017.json"


def test_boxes_of_real_instances_lie_within_their_images(shared_data: Path) -> None:
    notes = shared_data / "coco_mini" / "annotations"
    captions, boxes = read_contexts(
        notes / "captions_val2017.json", notes / "instances_val2017.json", 2
    )
    content = json.loads((notes / "instances_val2017.json").read_text())
    assert len(captions) == len(boxes) == 159 and len(content["images"]) == 79
    things = [note for note in content["annotations"] if not note["iscrowd"]]
    assert sum(len(lines) for lines in boxes.values()) == len(things) > 400
    for lines in boxes.values():
        for line in lines:
            left, top, right, bottom = json.loads(line.split(": ", 1)[1])
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    assert all(len(texts) == 2 for texts in captions.values())


def test_a_broken_context_is_named(tmp_path: Path) -> None:
    path = tmp_path / "contexts.jsonl"
    path.write_text('{"image": "a.jpg", "captions": ["A"]}\n{"captions": ["A"]}\n')
    with pytest.raises(UserError, match=r"contexts.jsonl:2: captions and boxes: a row lacks 'im"):
        read_contexts(path)


VALUES = {
    "name": "x",
    "data": {
        "images": "images",
        "captions": "captions.json",
        "instances": "instances.json",
        "instructions": "rows.json",
        "alignment": "pairs.json",
    },
    "tower": {"model": "a/tower"},
    "bases": {"base": {"model": "a/base"}},
    "sources": {"visual": {}, "caption": {}, "text": {}},
    "alignment": {"learning_rate": 1, "batch_size": 2},
    "tunings": {"frozen": {"learning_rate": 1, "batch_size": 2}, "full": {"preset": "published"}},
}


def specs(**changes) -> dict[str, grid.Spec]:
    values = json.loads(json.dumps(VALUES))
    for key, value in changes.items():
        here = values
        *parents, last = key.split("__")
        for part in parents:
            here = here[part]
        here[last] = value
    read = study.load(values)
    return {f"{run['id'].rsplit('-', 2)[0]}": run for run in grid.run_specs(read)}


def test_what_is_not_given_leaves_no_trace_in_a_spec() -> None:
    for run in specs().values():
        assert run["source"].keys() == {"form", "kinds"}
        assert run["data"].keys() == {"instructions", "images", "captions", "captions_in_place"}
        assert "max_learned_tokens" not in run["training"]


def test_settings_of_sources_change_their_own_runs_alone() -> None:
    plain = specs()
    boxes = specs(sources__caption={"boxes": True})
    changed = {name for name, run in plain.items() if boxes[name]["id"] != run["id"]}
    assert changed == {"base-caption-full"}
    assert boxes["base-caption-full"]["data"]["instances"] == "instances.json"
    own = specs(sources__alpaca={"form": "text", "instructions": "alpaca.json", "layout": "alpaca"})
    assert {name: run["id"] for name, run in own.items() if name in plain} == {
        name: run["id"] for name, run in plain.items()
    }
    alpaca = own["base-alpaca-full"]
    assert alpaca["data"]["instructions"] == "alpaca.json" and alpaca["data"]["layout"] == "alpaca"
    kinds = specs(data__kinds={"detail": "detail.json"}, sources__text={"kinds": ["detail"]})
    changed = {name for name, run in plain.items() if kinds[name]["id"] != run["id"]}
    assert changed == {"base-text-full"}
    budget = specs(tunings__full={"preset": "published", "max_learned_tokens": 9})
    changed = {name for name, run in plain.items() if budget[name]["id"] != run["id"]}
    assert changed == {"base-visual-full", "base-caption-full", "base-text-full"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources__text": {"boxes": True}}, "boxes are for form 'caption', found 'text'"),
        ({"sources__text": {"layout": "alpaca"}}, "layout is of a source's own instructions"),
        (
            {"sources__caption": {"boxes": True}, "data__instances": None},
            "sources.caption.boxes needs data.instances",
        ),
        ({"sources__text": {"instructions": "a", "layout": "vicuna"}}, "found 'vicuna', allowed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        specs(**changes)


@pytest.mark.slow
@pytest.mark.timed
def test_a_tenth_of_the_published_sizes_is_prepared_in_time(
    repository: Path, shared_data: Path, tmp_path: Path, monkeypatch
) -> None:
    """A tenth of what the bound allows two cores; benchmarks/preparation.py times it all."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import preparation

    # A process of its own finds what this one does.
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    words = preparation.words_of(shared_data / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl")
    files = preparation.write_files(tmp_path, words, 0.1)
    made = {
        name: preparation.measured(name, files, shared_data / "llama2_tokenizer")
        for name in preparation.CASES
    }
    assert made["alignment"]["samples"] == 59_538 and made["alignment"]["lost"] == 0
    assert {made[form]["samples"] for form in ("visual", "caption", "text")} == {8000}
    learned = {made[form]["learned_tokens_a_sample"] for form in ("visual", "caption", "text")}
    assert len(learned) == 1
    bound = [made[name] for name in preparation.BOUND]
    assert sum(row["cpu"] for row in bound) < 0.1 * 2 * preparation.SECONDS
    assert max(row["gib"] for row in bound) < 1.2
