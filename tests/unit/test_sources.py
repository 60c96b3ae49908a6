"""The three sources differ in what stands for the image, and in nothing else."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sight_beyond_text.data.instructions import from_coco
from sight_beyond_text.data.sources import apply_form, read_instructions, select_kinds
from sight_beyond_text.data.templates import IMAGE
from sight_beyond_text.errors import UserError
from sight_beyond_text.study import Instructions

CAPTIONS = {"1.png": ["A red circle.", "There is a circle."], "2.png": ["A star."]}
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1)


def row(name: str, *said: str, image: str | None = None, kind: str | None = None) -> dict:
    roles = ("human", "gpt") * len(said)
    turns = [{"from": who, "value": text} for who, text in zip(roles, said, strict=False)]
    made = {"id": name, "conversations": turns}
    return made | ({"image": image} if image else {}) | ({"kind": kind} if kind else {})


@st.composite
def seen(draw) -> dict:
    """A sample of an image, whose mark opens or ends the first human text."""
    said = draw(st.lists(WORDS.filter(str.strip), min_size=1, max_size=3))
    turns = [text for human in said for text in (human, draw(WORDS))]
    turns[0] = draw(st.sampled_from([f"{IMAGE}\n{turns[0]}", f"{turns[0]}\n{IMAGE}"]))
    image = draw(st.sampled_from(sorted(CAPTIONS)))
    return row(draw(WORDS), *turns, image=image, kind="conversation")


def values(sample: dict) -> list[tuple[str, str]]:
    return [(turn["from"], turn["value"]) for turn in sample["conversations"]]


@given(seen())
def test_forms_differ_in_what_stands_for_the_image_alone(sample: dict) -> None:
    given_values = json.dumps(sample)
    visual, caption, text = (apply_form(sample, f, CAPTIONS) for f in ("visual", "caption", "text"))
    assert json.dumps(sample) == given_values
    assert visual == sample
    human = values(sample)[0][1].replace(IMAGE, "").strip()
    told = " ".join(CAPTIONS[sample["image"]])
    for made, first in ((caption, f"{told}\n{human}"), (text, human)):
        assert values(made) == [("human", first), *values(sample)[1:]]
        assert made.keys() == sample.keys() - {"image"}
        assert {key: made[key] for key in ("id", "kind")} == {
            key: sample[key] for key in ("id", "kind")
        }
        assert IMAGE not in json.dumps(made)


@pytest.mark.parametrize("form", ["visual", "caption", "text"])
def test_a_sample_without_an_image_stays_as_it_is(form: str) -> None:
    sample = row("x", "Why?", "So.")
    assert apply_form(sample, form, CAPTIONS) == sample


def test_a_mark_amid_the_words_leaves_no_gap() -> None:
    sample = row("x", f"Look: {IMAGE} what is it?", "A star", image="2.png")
    assert values(apply_form(sample, "text"))[0][1] == "Look:\nwhat is it?"
    expected = "A star.\nLook:\nwhat is it?"
    assert values(apply_form(sample, "caption", CAPTIONS))[0][1] == expected


def test_backslashes_of_a_caption_stay_what_they_are() -> None:
    sample = row("x", f"{IMAGE}\nWhat?", "A", image="1.png")
    made = apply_form(sample, "caption", {"1.png": [r"A \1 \g<0> sign"]})
    assert values(made)[0][1] == "A \\1 \\g<0> sign\nWhat?"


@pytest.mark.parametrize("captions", [None, {}, {"2.png": ["A star."]}, {"1.png": []}])
def test_missing_captions_are_told_in_one_line(captions) -> None:
    sample = row("x", f"{IMAGE}\nWhat?", "A", image="1.png")
    with pytest.raises(UserError) as error:
        apply_form(sample, "caption", captions)
    assert str(error.value).startswith("sample 'x': no captions for image '1.png'; ")
    assert "\n" not in str(error.value)


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(UserError, match="no source form 'blind'; there are: visual, caption, text"):
        apply_form(row("x", IMAGE, "A", image="1.png"), "blind")


def test_kinds_are_selected_in_the_files_order() -> None:
    kinds = ["detail", "conversation", "reasoning", "conversation", None]
    rows = [row(str(index), "a", "b", kind=kind) for index, kind in enumerate(kinds)]
    assert select_kinds(rows, "all", "x.json") == rows
    assert select_kinds(rows, ["conversation"], "x.json") == [rows[1], rows[3]]
    assert select_kinds(rows, ["reasoning", "detail"], "x.json") == [rows[0], rows[2]]
    with pytest.raises(UserError) as error:
        select_kinds(rows[:2], ["reasoning"], "x.json")
    assert str(error.value) == (
        "x.json: no instruction of kind ['reasoning']; found conversation, detail"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "are a list of samples; found none"),
        ({"id": 1}, "are a list of samples; found none"),
        ([row("a", "b", "c"), "d"], "sample 2: needs 'id' and 'conversations'"),
        ([{"conversations": []}], "sample 1: needs 'id' and 'conversations'"),
        ([row("a", "b")], "sample 'a': a conversation has 1 turns"),
        ([{"id": "a", "conversations": [{}, {}]}], "sample 'a': turn 1 should be from 'human'"),
    ],
)
def test_instructions_of_another_layout_are_refused(content, message, tmp_path: Path) -> None:
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_instructions(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_real_captions_stand_for_real_images(shared_data: Path) -> None:
    """All instructions made from the small COCO, with the samples in the same order."""
    notes = shared_data / "coco_mini/annotations"
    captions = notes / "captions_val2017.json"
    rows, _ = from_coco(
        captions,
        notes / "instances_val2017.json",
        shared_data / "coco_mini/val2017",
        Instructions(conversations=2, detail=1, reasoning=1).model_dump(),
    )
    content = json.loads(captions.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    told: dict[str, list[str]] = {}
    for note in content["annotations"]:
        told.setdefault(names[note["image_id"]], []).append(note["caption"].strip())
    assert len(rows) > 200
    for form in ("caption", "text"):
        made = [apply_form(sample, form, told) for sample in rows]
        assert [sample["id"] for sample in made] == [sample["id"] for sample in rows]
        assert not any("image" in sample for sample in made)
        assert IMAGE not in json.dumps(made)
        for one, other in zip(rows, made, strict=True):
            instead = " ".join(told[one["image"]]) + "\n" if form == "caption" else ""
            first = values(one)[0][1].replace(f"{IMAGE}\n", instead)
            assert values(other) == [("human", first), *values(one)[1:]]
