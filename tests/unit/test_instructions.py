"""Every answer that is made by rule is true of the annotations it was made from."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sight_beyond_text.data.coco import Picture, Thing, read_pictures
from sight_beyond_text.data.instructions import (
    describe,
    from_coco,
    make_alignment,
    make_instructions,
    place,
    reason,
    short_questions,
)
from sight_beyond_text.errors import UserError
from sight_beyond_text.micro.scenes import sample_scene, write_split
from sight_beyond_text.study import Instructions

COUNTS = "zero one two three four five six seven eight nine ten".split()
SHAPES = {"circle", "square", "triangle", "star", "cross", "ring"}
SEVERAL = {shape: f"{shape}s" for shape in SHAPES} | {"cross": "crosses"}
MOST = {"conversations": 5, "turns": 4, "detail": 1.0, "reasoning": 1.0}


def picture(*things: Thing, captions: tuple[str, ...] = ("A picture.",), name: int = 1) -> Picture:
    return Picture(name, f"{name}.png", 100, 100, captions, things)


DOG = Thing("dog", (0, 0, 20, 20), {"color": "brown"})
CATS = (Thing("cat", (70, 0, 20, 20)), Thing("cat", (70, 70, 25, 25)))
APPLE = Thing("apple", (45, 45, 10, 10))


# By hand


@pytest.mark.parametrize(
    ("box", "where"),
    [
        ((0, 0, 20, 20), "top left"),
        ((80, 0, 20, 20), "top right"),
        ((0, 60, 20, 20), "bottom left"),
        ((60, 60, 20, 20), "bottom right"),
        ((40, 0, 20, 20), "middle"),
        ((0, 40, 20, 20), "middle"),
        ((40, 40, 20, 20), "middle"),
    ],
)
def test_a_place_is_where_the_center_of_the_box_lies(box, where: str) -> None:
    assert place(Thing("dog", box), picture()) == where


def asked_of(shown: Picture, tries: int = 30) -> dict[str, set[str]]:
    """All questions that some seed asks of a picture, each with its answers."""
    asked: dict[str, set[str]] = {}
    for seed in range(tries):
        categories, colors = ["apple", "bird", "cat", "dog"], ["brown", "white"]
        for _, question, answer in short_questions(shown, categories, colors, random.Random(seed)):
            question = question.replace(" in the image?", "?")
            asked.setdefault(question, set()).add(answer)
    return asked


def test_all_questions_of_a_picture_have_the_one_right_answer() -> None:
    assert asked_of(picture(DOG, *CATS, APPLE)) == {
        "Is there a dog?": {"yes"},
        "Is there a cat?": {"yes"},
        "Is there an apple?": {"yes"},
        "Is there a bird?": {"no"},
        "How many dogs are there?": {"one"},
        "How many cats are there?": {"two"},
        "How many apples are there?": {"one"},
        "How many birds are there?": {"zero"},
        "How many things are there?": {"four"},
        "What is in the top left?": {"dog"},
        "What is in the top right?": {"cat"},
        "What is in the bottom right?": {"cat"},
        "Where is the dog?": {"top left"},
        "What color is the dog?": {"brown"},
        "Is the dog brown?": {"yes"},
        "Is the dog white?": {"no"},
    }


def test_nothing_is_asked_that_has_two_answers_or_none() -> None:
    shown = picture(CATS[0], Thing("dog", (75, 5, 10, 10)), APPLE)
    asked = asked_of(shown)
    assert "What is in the top right?" not in asked
    assert not any(question.startswith("Where is the apple") for question in asked)
    assert not any("middle" in question or "middle" in asked[question] for question in asked)
    assert not any("color" in question for question in asked)


def test_more_than_ten_are_not_counted() -> None:
    many = picture(*[Thing("dog", (0, 0, 2, 2))] * 11)
    asked = asked_of(many)
    assert "Is there a dog?" in asked
    assert not {"How many dogs are there?", "How many things are there?"} & asked.keys()
    assert not any("dogs" in describe(many, random.Random(seed)) for seed in range(5))
    assert reason(many, random.Random(0)) is None
    ten = picture(*[Thing("dog", (0, 0, 2, 2))] * 10)
    assert asked_of(ten)["How many dogs are there?"] == {"ten"}


def test_a_description_tells_a_caption_then_what_is_where() -> None:
    shown = picture(DOG, *CATS, captions=("A dog and cats",))
    assert describe(shown, random.Random(0)) == (
        "A dog and cats. The brown dog is in the top left. There are two cats."
    )
    assert describe(picture(APPLE, captions=()), random.Random(0)) == (
        "The apple is in the middle."
    )


def reasons_of(shown: Picture) -> set:
    return {reason(shown, random.Random(seed)) for seed in range(60)}


def test_reasons_follow_from_counts_and_sizes() -> None:
    larger = "The dog, because it covers more of the image."
    assert reasons_of(picture(DOG, APPLE)) == {
        ("Which is larger, the dog or the apple?", larger),
        ("Which is larger, the apple or the dog?", larger),
    }
    assert reasons_of(picture(DOG, *CATS)) == {
        (
            "Are there more cats than dogs?",
            "Yes, because there are two cats and one dog.",
        )
    }
    alone = ("Is the dog alone?", "Yes, because there is only one dog.")
    assert reasons_of(picture(DOG)) == {alone}
    assert reasons_of(picture(*CATS)) == {None}
    assert reasons_of(picture(APPLE, Thing("dog", (0, 0, 11, 11)))) == {None}


def test_crowds_are_no_things(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.png", "width": 100, "height": 100}]
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20]}
    notes = [{"id": 1, **box, "iscrowd": 0}, {"id": 2, **box, "iscrowd": 1}]
    instances = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": []}))
    (tmp_path / "i.json").write_text(json.dumps(instances))
    (shown,) = read_pictures(tmp_path / "c.json", tmp_path / "i.json")
    assert shown.crowds == {"dog"}
    # Nobody can count a crowd, and nobody may take it for absent.
    assert "How many dogs are there?" not in asked_of(shown)
    (crowd,) = (replace(shown, things=()),)
    assert not any("dog" in question for question in asked_of(crowd))


def test_rows_have_llavas_layout() -> None:
    rows = make_instructions([picture(DOG, *CATS, APPLE, name=42)], **MOST)
    kinds = Counter(row["kind"] for row in rows)
    assert kinds["conversation"] >= 3 and kinds["detail"] == kinds["reasoning"] == 1
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row.keys() == {"id", "image", "kind", "conversations"}
        assert row["id"].startswith(f"000000000042-{row['kind']}-") and row["image"] == "42.png"
        said = row["conversations"]
        assert [turn["from"] for turn in said] == ["human", "gpt"] * (len(said) // 2)
        assert len(said) <= 8 and (row["kind"] == "conversation" or len(said) == 2)
        assert said[0]["value"].startswith("<image>\n")
        assert sum("<image>" in turn["value"] for turn in said) == 1
        assert all(turn["value"].strip() for turn in said)


def test_no_question_is_asked_twice_of_a_picture() -> None:
    rows = make_instructions([picture(DOG, *CATS, APPLE)], **MOST)
    asked = [question for row in rows for question, _ in pairs(row)]
    assert len(asked) == len(set(asked))


def test_shares_and_numbers_are_kept() -> None:
    many = [picture(DOG, *CATS, name=name) for name in range(400)]
    rows = make_instructions(many, 1, 2, detail=0.25, reasoning=0.0)
    kinds = Counter(row["kind"] for row in rows)
    assert kinds["conversation"] == 400 and kinds["reasoning"] == 0
    assert 70 <= kinds["detail"] <= 130
    assert {len(row["conversations"]) for row in rows if row["kind"] == "conversation"} == {4}
    assert make_instructions(many, 0, 2, 0.0, 0.0) == []
    assert make_instructions([picture()], **(MOST | {"detail": 0.0})) == []


def test_alignment_pairs_hold_different_captions_of_the_picture() -> None:
    shown = picture(captions=("One.", "Two.", "Three."))
    rows = make_alignment([shown, picture(captions=(), name=2)], captions=2)
    assert [row["id"] for row in rows] == ["000000000001-caption-0", "000000000001-caption-1"]
    told = [row["conversations"][1]["value"] for row in rows]
    assert len(set(told)) == 2 and set(told) <= set(shown.captions)
    assert all(row["conversations"][0]["value"].startswith("<image>\n") for row in rows)
    assert len(make_alignment([shown], captions=9)) == 3


# Over drawn scenes: truth from the scenes and the annotations' own JSON


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """50 scenes, their folder, and what is true of each by image id."""
    folder = tmp_path_factory.mktemp("world")
    rng = random.Random(5)
    scenes = [sample_scene(rng) for _ in range(50)]
    write_split(scenes, folder, "train", 0, 1)
    notes = json.loads((folder / "annotations/instances_train.json").read_text())["annotations"]
    areas: dict[int, list] = {}
    for note in notes:
        areas.setdefault(note["image_id"], []).append(note["bbox"][2] * note["bbox"][3])
    truth = {
        index: [
            (thing.shape, thing.color, thing.place, area)
            for thing, area in zip(scene, areas[index], strict=True)
        ]
        for index, scene in enumerate(scenes, 1)
    }
    return folder, truth


def read(folder: Path) -> list[Picture]:
    notes = folder / "annotations"
    return read_pictures(notes / "captions_train.json", notes / "instances_train.json")


def pairs(row: dict) -> list[tuple[str, str]]:
    said = [turn["value"].removeprefix("<image>\n") for turn in row["conversations"]]
    return list(zip(said[::2], said[1::2], strict=True))


def short_answer(question: str, things: list[tuple]) -> str:
    """The answer to a short question, found from the question's words alone."""
    shapes = [shape for shape, *_ in things]
    question = question.replace(" in the image?", "?")
    if asked := re.fullmatch(r"Is there an? (\w+)\?", question):
        return "yes" if asked[1] in shapes else "no"
    if question == "How many things are there?":
        return COUNTS[len(things)]
    if asked := re.fullmatch(r"How many (\w+) are there\?", question):
        (shape,) = (one for one, many in SEVERAL.items() if many == asked[1])
        return COUNTS[shapes.count(shape)]
    if asked := re.fullmatch(r"What is in the (\w+ \w+)\?", question):
        (shape,) = (thing[0] for thing in things if thing[2] == asked[1])
        return shape
    asked = re.fullmatch(r"(Where|What color) is the (\w+)\?|Is the (\w+) (\w+)\?", question)
    assert asked, question
    (thing,) = (thing for thing in things if thing[0] == (asked[2] or asked[3]))
    if asked[4]:
        return "yes" if thing[1] == asked[4] else "no"
    return thing[2] if asked[1] == "Where" else thing[1]


def check_detail(text: str, things: list[tuple], captions: list[str]) -> None:
    (caption,) = {said for said in captions if text.startswith(f"{said} ") or text == said}
    for sentence in re.findall(r"[^.]+\.", text.removeprefix(caption)):
        if told := re.fullmatch(r" The (\w+) (\w+) is in the (\w+ \w+)\.", sentence):
            (thing,) = (thing for thing in things if thing[0] == told[2])
            assert thing[1:3] == (told[1], told[3])
        else:
            told = re.fullmatch(r" There are (\w+) (\w+)\.", sentence)
            assert told, sentence
            (shape,) = (one for one, many in SEVERAL.items() if many == told[2])
            assert [thing[0] for thing in things].count(shape) == COUNTS.index(told[1]) > 1


def check_reason(question: str, answer: str, things: list[tuple]) -> str:
    counts = Counter(thing[0] for thing in things)
    if asked := re.fullmatch(r"Which is larger, the (\w+) or the (\w+)\?", question):
        areas = {thing[0]: thing[3] for thing in things}
        assert counts[asked[1]] == counts[asked[2]] == 1
        larger = max(asked[1], asked[2], key=areas.get)
        assert answer == f"The {larger}, because it covers more of the image."
        return "larger"
    if asked := re.fullmatch(r"Is the (\w+) alone\?", question):
        assert len(things) == 1 and things[0][0] == asked[1]
        assert answer == f"Yes, because there is only one {asked[1]}."
        return "alone"
    asked = re.fullmatch(r"Are there more (\w+) than (\w+)\?", question)
    assert asked, question
    one, two = ({many: s for s, many in SEVERAL.items()}[asked[at]] for at in (1, 2))
    assert counts[one] > counts[two] > 0
    return "more"


def test_every_answer_on_drawn_scenes_is_true(world) -> None:
    folder, truth = world
    pictures = {p.file_name: p for p in read(folder)}
    rows = make_instructions(list(pictures.values()), **MOST)
    said, starts = Counter(), Counter()
    for row in rows:
        shown = pictures[row["image"]]
        things = truth[shown.id]
        for question, answer in pairs(row):
            said[row["kind"]] += 1
            if row["kind"] == "conversation":
                assert answer == short_answer(question, things), (row["id"], question)
                starts[question.split()[0] + answer] += 1
            elif row["kind"] == "detail":
                check_detail(answer, things, list(shown.captions))
            else:
                starts[check_reason(question, answer, things)] += 1
    assert said["conversation"] > 300 and said["detail"] == 50 and said["reasoning"] > 25
    for needed in ("Isyes", "Isno", "Howone", "Howtwo", "Howzero", "larger", "alone"):
        assert starts[needed] > 0, f"no question that begins like {needed}: nothing was checked"


def test_things_that_are_absent_are_asked_for_about_as_often(world) -> None:
    """Who always says yes must not be right more often than not."""
    rows = make_instructions(read(world[0]), **MOST)
    said = Counter(a for row in rows for q, a in pairs(row) if q.startswith("Is there"))
    assert 0.8 < said["yes"] / said["no"] < 1.25


def test_alignment_captions_are_those_of_the_annotations(world) -> None:
    folder, _ = world
    notes = json.loads((folder / "annotations/captions_train.json").read_text())["annotations"]
    told: dict[str, set] = {}
    for note in notes:
        told.setdefault(f"{note['image_id']:012d}.png", set()).add(note["caption"])
    rows = make_alignment(read(folder), captions=2)
    assert len(rows) == 100
    assert all(row["conversations"][1]["value"] in told[row["image"]] for row in rows)


def test_instructions_follow_from_the_seed(world) -> None:
    pictures = read(world[0])
    for make in (lambda seed: make_instructions(pictures, **MOST, seed=seed),
                 lambda seed: make_alignment(pictures, 2, seed)):  # fmt: skip
        assert make(3) == make(3)
        assert make(3) != make(4)


def test_a_pictures_instructions_do_not_depend_on_the_other_pictures(world) -> None:
    """As long as all kinds of thing and colors still occur somewhere."""
    pictures = read(world[0])
    kept: list[Picture] = []
    needed = {(t.category) for p in pictures for t in p.things}
    needed |= {t.attributes["color"] for p in pictures for t in p.things}
    for shown in reversed(pictures):
        new = {t.category for t in shown.things} | {t.attributes["color"] for t in shown.things}
        if new & needed:
            kept.append(shown)
            needed -= new
    assert not needed and len(kept) < 20
    of_all, of_some = make_instructions(pictures, **MOST), make_instructions(kept, **MOST)
    names = {shown.file_name for shown in kept}
    key = json.dumps
    assert sorted(of_some, key=key) == sorted((r for r in of_all if r["image"] in names), key=key)


def test_from_coco_follows_the_studys_settings(world) -> None:
    folder, _ = world
    notes = folder / "annotations"
    paths = notes / "captions_train.json", notes / "instances_train.json"
    settings = Instructions(max_images=10, turns=2, captions_per_image=3)
    made, aligned = from_coco(*paths, folder / "images/train", settings.model_dump())
    assert made == make_instructions(read(folder)[:10], 1, 2, 0.2, 0.3, 0)
    assert aligned == make_alignment(read(folder)[:10], 3, 0)
    none, alone = from_coco(paths[0], None, folder / "images/train", settings.model_dump())
    assert none == [] and alone == aligned


def test_from_coco_refuses_what_it_cannot_use(world, tmp_path: Path) -> None:
    folder, _ = world
    notes = folder / "annotations"
    captions, instances = notes / "captions_train.json", notes / "instances_train.json"
    make = Instructions(detail=0).model_dump()
    with pytest.raises(UserError, match="50 image.s. missing, the first is 000000000001.png"):
        from_coco(captions, instances, tmp_path, make)
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(UserError, match="lists no images"):
        from_coco(empty, instances, folder / "images/train", make)
    with pytest.raises(UserError, match="annotates none of the images"):
        from_coco(captions, empty, folder / "images/train", make)


# Real annotations


def test_every_answer_on_the_small_coco_is_true(shared_data: Path) -> None:
    notes = shared_data / "coco_mini/annotations"
    paths = notes / "captions_val2017.json", notes / "instances_val2017.json"
    content = json.loads(paths[1].read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    sizes = {row["id"]: (row["width"], row["height"]) for row in content["images"]}
    present: dict[str, list] = {}
    for note in content["annotations"]:
        if not note["iscrowd"]:
            width, height = sizes[note["image_id"]]
            x, y, w, h = note["bbox"]
            center = ((x + w / 2) / width - 0.5, (y + h / 2) / height - 0.5)
            thing = names[note["category_id"]], center
            present.setdefault(f"{note['image_id']:012d}.jpg", []).append(thing)
    rows = make_instructions(read_pictures(*paths), **MOST)
    checked = Counter()
    for row in rows:
        things = present[row["image"]] if row["image"] in present else []
        counts = Counter(name for name, _ in things)
        for question, answer in pairs(row) if row["kind"] == "conversation" else []:
            if asked := re.fullmatch(r"Is there an? ([\w ]+?)(?: in the image)?\?", question):
                assert asked[1] in names.values()
                assert answer == ("yes" if counts[asked[1]] else "no")
            elif asked := re.fullmatch(r"Where is the ([\w ]+)\?", question):
                ((_, (x, y)),) = (thing for thing in things if thing[0] == asked[1])
                assert answer == f"{'bottom' if y > 0 else 'top'} {'right' if x > 0 else 'left'}"
                assert min(abs(x), abs(y)) >= 0.08
            elif asked := re.fullmatch(r"What is in the (\w+) (\w+)\?", question):
                inside = [
                    name
                    for name, (x, y) in things
                    if (asked[1] == "bottom") == (y > 0)
                    and (asked[2] == "right") == (x > 0)
                    and min(abs(x), abs(y)) >= 0.08
                ]
                assert inside == [answer]
            elif question == "How many things are there?":
                assert COUNTS.index(answer) == len(things)
            else:
                assert re.fullmatch(r"How many [\w ]+ are there\?", question), question
                assert answer == "zero" or COUNTS.index(answer) in counts.values()
            checked[question.split()[0]] += 1
    assert all(checked[word] > 20 for word in ("Is", "Where", "What", "How"))
