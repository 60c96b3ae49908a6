"""POPE's rule: half of the things asked for are there, the others are absent ones by strategy."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from sight_beyond_text.data.coco import Picture, Thing, read_pictures
from sight_beyond_text.data.pope import STRATEGIES, pope_questions
from sight_beyond_text.errors import UserError
from sight_beyond_text.micro.scenes import sample_scene, write_split


def picture(name: int, *things: str) -> Picture:
    boxes = tuple(Thing(thing, (0, 0, 1, 1)) for thing in things)
    return Picture(name, f"{name}.png", 10, 10, (), boxes)


PICTURES = [
    picture(1, "dog", "dog", "cat"),
    picture(2, "dog", "bird"),
    picture(3, "dog", "bird"),
    picture(4, "cat", "apple"),
    picture(5, "apple", "pen"),
    picture(6, "apple", "pen"),
    picture(7, "apple"),
    picture(8),
]


def asked(rows: list[dict], name: int) -> dict[str, list[str]]:
    """Things asked for of a picture, by label, in the order of the questions."""
    made: dict[str, list[str]] = {"yes": [], "no": []}
    for row in rows:
        if row["image"] == f"{name}.png":
            thing = re.fullmatch(r"Is there an? ([\w ]+) in the image\?", row["text"])[1]
            made[row["label"]].append(thing)
    return made


def test_popular_asks_for_the_most_frequent_absent_things() -> None:
    # In pictures: apple 4, dog 3, bird 2, cat 2, pen 2.
    rows = pope_questions(PICTURES, "popular", pairs=2)
    assert asked(rows, 1)["no"] == ["apple", "bird"]
    assert asked(rows, 5)["no"] == ["dog", "bird"]
    assert asked(rows, 7) == {"yes": ["apple"], "no": ["dog"]}


def test_adversarial_asks_for_what_occurs_with_what_is_there() -> None:
    rows = pope_questions(PICTURES, "adversarial", pairs=2)
    # With dog or cat: bird 2, apple 1, pen 0. With apple or pen: cat 1, then bird and dog 0.
    assert asked(rows, 1)["no"] == ["bird", "apple"]
    assert asked(rows, 5)["no"] == ["cat", "bird"]
    assert asked(rows, 4)["no"] == ["pen", "dog"]


def test_rows_have_popes_layout() -> None:
    rows = pope_questions(PICTURES, "random", pairs=1)
    assert [row["question_id"] for row in rows] == list(range(1, len(rows) + 1))
    assert {tuple(row) for row in rows} == {("question_id", "image", "text", "label")}
    texts = {row["text"] for row in rows}
    assert "Is there an apple in the image?" in texts and "Is there a dog in the image?" in texts


def test_pictures_with_enough_things_come_first() -> None:
    rows = pope_questions(PICTURES, "popular", images=6, pairs=2)
    assert {row["image"] for row in rows} == {f"{name}.png" for name in range(1, 7)}
    assert len(rows) == 6 * 4
    assert {row["image"] for row in pope_questions(PICTURES, "popular", images=2, pairs=1)} != set()


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(UserError, match="no POPE strategy 'hard'; there are: random, popular, adv"):
        pope_questions(PICTURES, "hard")
    with pytest.raises(UserError, match="POPE needs COCO instances"):
        pope_questions([picture(8)], "random")


def check(rows: list[dict], present: dict[str, set[str]], strategy: str, pairs: int) -> None:
    """Half yes; yes is there; no is absent; the absent ones are the first by the strategy."""
    frequency = Counter(name for names in present.values() for name in names)
    labels = Counter(row["label"] for row in rows)
    assert labels["yes"] == labels["no"] > 0
    by_image: dict[str, list[tuple[str, bool]]] = {}
    for row in rows:
        thing = re.fullmatch(r"Is there an? ([\w ]+) in the image\?", row["text"])[1]
        by_image.setdefault(row["image"], []).append((thing, row["label"] == "yes"))
    for image, questions in by_image.items():
        here = present[image]
        assert len({thing for thing, _ in questions}) == len(questions)
        assert all((thing in here) == label for thing, label in questions)
        told = [thing for thing, label in questions if not label]
        assert len(told) == min(pairs, len(here), len(frequency) - len(here))
        if strategy == "popular":
            weight = frequency
        elif strategy == "adversarial":
            weight = Counter()
            for other in present.values():
                for thing in other - here:
                    weight[thing] += len(other & here)
        else:
            continue
        weights = [weight[thing] for thing in told]
        assert weights == sorted(weights, reverse=True)
        left_out = frequency.keys() - here - set(told)
        assert min(weights) >= max((weight[thing] for thing in left_out), default=0)


def things_of(path: Path) -> dict[str, set[str]]:
    """What is in each image, straight from an instances file."""
    content = json.loads(path.read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    files = {row["id"]: row["file_name"] for row in content["images"]}
    present: dict[str, set[str]] = {}
    for note in content["annotations"]:
        if not note["iscrowd"]:
            present.setdefault(files[note["image_id"]], set()).add(names[note["category_id"]])
    return present


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[list[Picture], dict[str, set[str]]]:
    folder = tmp_path_factory.mktemp("world")
    rng = random.Random(3)
    write_split([sample_scene(rng) for _ in range(50)], folder, "val", 0, 1)
    notes = folder / "annotations"
    pictures = read_pictures(notes / "captions_val.json", notes / "instances_val.json")
    return pictures, things_of(notes / "instances_val.json")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_questions_on_drawn_scenes_follow_the_rule(drawn, strategy: str) -> None:
    pictures, present = drawn
    for pairs in (1, 3):
        rows = pope_questions(pictures, strategy, pairs=pairs)
        assert {row["image"] for row in rows} == present.keys()
        check(rows, present, strategy, pairs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_questions_follow_from_the_seed(drawn, strategy: str) -> None:
    pictures, _ = drawn
    ask = [pope_questions(pictures, strategy, 20, 1, seed) for seed in (0, 0, 1)]
    assert ask[0] == ask[1] != ask[2]


def test_strategies_differ_and_random_favours_nothing(drawn) -> None:
    pictures, _ = drawn
    made = {name: pope_questions(pictures, name, pairs=1) for name in STRATEGIES}
    assert made["random"] != made["popular"] != made["adversarial"]
    absent = [
        row["text"]
        for seed in range(4)
        for row in pope_questions(pictures, "random", pairs=1, seed=seed)
        if row["label"] == "no"
    ]
    assert len(absent) == 200 and max(Counter(absent).values()) < 80


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_questions_on_the_small_coco_follow_the_rule(shared_data: Path, strategy: str) -> None:
    notes = shared_data / "coco_mini/annotations"
    instances = notes / "instances_val2017.json"
    pictures = read_pictures(notes / "captions_val2017.json", instances)
    rows = pope_questions(pictures, strategy, images=40)
    assert len({row["image"] for row in rows}) == 40
    check(rows, things_of(instances), strategy, 3)


def test_published_questions_have_the_same_layout_and_wording(shared_data: Path) -> None:
    path = shared_data / "pope/coco/coco_pope_popular.json"
    published = [json.loads(line) for line in path.read_text().splitlines()]
    ours = pope_questions(PICTURES, "popular")
    assert {tuple(row) for row in published} == {tuple(row) for row in ours}
    assert {row["label"] for row in published} == {row["label"] for row in ours}
    form = re.compile(r"Is there (a|an) [\w ]+ in the image\?")
    assert all(form.fullmatch(row["text"]) for row in published + ours)
