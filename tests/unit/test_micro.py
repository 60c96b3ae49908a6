"""The micro world: the same from the same settings, true to itself, in upstream's layouts."""

import csv
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from sight_beyond_text.files import sha256
from sight_beyond_text.micro import corpus, lore
from sight_beyond_text.micro.benchmarks import SHOTS, write_benchmarks
from sight_beyond_text.micro.scenes import captions, draw, outline, sample_scene, write_split
from sight_beyond_text.micro.tokenizer import train_tokenizer
from sight_beyond_text.micro.world import write_world
from sight_beyond_text.study import Micro

SETTINGS = Micro(train_images=20, val_images=10, documents=200, conversations=50)
COUNTS = ("zero", "one", "two")


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file in a folder, by its path in it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def written(folder: Path, settings: Micro = SETTINGS) -> Path:
    write_world(settings.model_dump(), folder, folder / "world.json")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def benchmarks(world: Path) -> Path:
    return world / "benchmarks"


def table(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# The world as a whole


def test_the_same_settings_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    # What an earlier attempt left behind must go.
    stray = other / "images/train/000000000099.png"
    stray.parent.mkdir(parents=True)
    stray.touch()
    first, second = contents(world), contents(written(other))
    assert first == second
    assert len(first) > 30 + 20


def test_another_seed_gives_another_world(world: Path, tmp_path: Path) -> None:
    other = contents(written(tmp_path, SETTINGS.model_copy(update={"seed": 1})))
    same = {name for name, digest in contents(world).items() if other.get(name) == digest}
    # What is about facts alone doesn't depend on the seed; nor do settings of the tokenizer.
    assert same <= {"tokenizer/tokenizer_config.json", "tokenizer/chat_template.jinja"}


def test_the_record_tells_the_settings_and_comes_with_all_parts(world: Path) -> None:
    record = json.loads((world / "world.json").read_text())
    assert record == {"settings": SETTINGS.model_dump(), "scenes": {"train": 20, "val": 10}}
    assert len(json.loads((world / "texts/documents.json").read_text())) == 200
    assert len(json.loads((world / "texts/conversations.json").read_text())) == 50
    assert {path.name for path in world.iterdir()} == {
        "images",
        "annotations",
        "texts",
        "benchmarks",
        "tokenizer",
        "world.json",
    }


def test_annotations_have_cocos_layout_and_splits_share_no_image(world: Path) -> None:
    seen: set[int] = set()
    for split, count in (("train", 20), ("val", 10)):
        told = json.loads((world / f"annotations/captions_{split}.json").read_text())
        shown = json.loads((world / f"annotations/instances_{split}.json").read_text())
        assert told["images"] == shown["images"] and len(told["images"]) == count
        ids = {image["id"] for image in told["images"]}
        assert len(ids) == count and not ids & seen
        seen |= ids
        for image in told["images"]:
            assert image["file_name"] == f"{image['id']:012d}.png"
            with Image.open(world / "images" / split / image["file_name"]) as drawn:
                assert drawn.size == (image["width"], image["height"]) and drawn.mode == "RGB"
        per_image = Counter(note["image_id"] for note in told["annotations"])
        assert per_image == dict.fromkeys(ids, 5)
        assert {note["image_id"] for note in shown["annotations"]} == ids
        names = {row["id"]: row["name"] for row in shown["categories"]}
        assert tuple(names.values()) == lore.SHAPES
        for note in shown["annotations"]:
            x, y, width, height = note["bbox"]
            assert 0 <= x and 0 <= y and x + width <= 64 and y + height <= 64
            assert note["area"] == pytest.approx(width * height, rel=1e-2)
            assert note["iscrowd"] == 0 and note["category_id"] in names
            assert len(note["segmentation"][0]) % 2 == 0


# Scenes


def test_scenes_are_drawn_where_and_as_they_are_told() -> None:
    """The color at each object's place; the boxes bound what differs from the ground."""
    rng = random.Random(1)
    for _ in range(30):
        scene = sample_scene(rng)
        image = draw(scene, random.Random(0))
        ground = Image.new("RGB", image.size, image.getpixel((32, 0)))
        xs, ys = zip(*(point for thing in scene for point in outline(thing)), strict=True)
        # Shrinking an image leaves faint rings around what is in it.
        differing = ImageChops.difference(image, ground).point(lambda value: value > 20 and 255)
        box = differing.getbbox()
        for found, expected in zip(box, (min(xs), min(ys), max(xs), max(ys)), strict=True):
            assert abs(found - expected) <= 2
        assert len({thing.place for thing in scene}) == len(scene)
        for thing in scene:
            row, column = thing.place.split()
            assert (thing.y < 32) == (row == "top") and (thing.x < 32) == (column == "left")
            # A ring's center is a hole.
            shift = 0.75 * thing.radius if thing.shape == "ring" else 0
            pixel = image.getpixel((round(thing.x + shift), round(thing.y)))
            nearest = min(
                lore.COLORS,
                key=lambda name: sum(
                    (one - two) ** 2 for one, two in zip(pixel, RGB[name], strict=True)
                ),
            )
            assert nearest == thing.color
            assert (thing.radius > 11) == (thing.size == "large")


# Colors as one would call them, apart from the shades that are drawn.
RGB = {
    "red": (220, 20, 30),
    "green": (30, 160, 50),
    "blue": (30, 80, 220),
    "yellow": (240, 220, 40),
    "purple": (150, 50, 180),
    "orange": (250, 140, 20),
}


def test_captions_name_every_object_truly() -> None:
    rng = random.Random(2)
    for _ in range(50):
        scene = sample_scene(rng)
        told = captions(scene, rng)
        assert len(told) == 5
        for text in told:
            assert text.endswith(".") and text[0].isupper()
            found = re.findall(r"an? (small )?(\w+) (\w+) in the (\w+ \w+)", text, re.I)
            assert sorted(found_thing[1:] for found_thing in found) == sorted(
                (thing.color, thing.shape, thing.place) for thing in scene
            )
            small = {found_thing[3] for found_thing in found if found_thing[0]}
            assert small <= {thing.place for thing in scene if thing.size == "small"}


def test_questions_on_scenes_have_the_right_answer() -> None:
    rng = random.Random(3)
    forms = Counter()
    for _ in range(100):
        scene = sample_scene(rng)
        shapes = [thing.shape for thing in scene]
        for question, answer in corpus.scene_questions(scene, rng):
            forms[question.split()[0] + answer] += 1
            if asked := re.fullmatch(r"Is there an? (\w+)\?", question):
                assert answer == ("yes" if asked[1] in shapes else "no")
            elif question == "How many things are there?":
                assert answer == COUNTS[len(scene)]
            elif asked := re.fullmatch(r"How many (\w+) are there\?", question):
                (shape,) = (s for s in lore.SHAPES if asked[1] in (f"{s}s", f"{s}es"))
                assert answer == COUNTS[shapes.count(shape)]
            elif asked := re.fullmatch(r"What is in the (\w+ \w+)\?", question):
                assert [thing.shape for thing in scene if thing.place == asked[1]] == [answer]
            elif asked := re.fullmatch(r"Is the (\w+) (\w+)\?", question):
                (color,) = (thing.color for thing in scene if thing.shape == asked[1])
                assert answer == ("yes" if color == asked[2] else "no")
            else:
                asked = re.fullmatch(r"(What color|Where) is the (\w+)\?", question)
                assert asked, question
                (thing,) = (thing for thing in scene if thing.shape == asked[2])
                assert answer == (thing.place if asked[1] == "Where" else thing.color)
    assert all(forms[form] for form in ("Isyes", "Isno", "Howzero", "Howone", "Howtwo"))


# Lore


def test_each_truth_differs_from_its_popular_falsehood() -> None:
    for name, kind in lore.PROPERTIES.items():
        for shape in lore.SHAPES:
            right, wrong = lore.truth(shape, name), lore.belief(shape, name)
            assert right != wrong and {right, wrong} <= set(kind.values)
            for form in range(3):
                assert lore.statement(shape, name, right, form) != lore.statement(
                    shape, name, wrong, form
                )
                assert lore.plural(shape) in lore.question(shape, name, form)


def test_many_are_misled_about_two_thirds_of_the_facts() -> None:
    facts = [(shape, name) for shape in lore.SHAPES for name in lore.PROPERTIES]
    assert sum(lore.misled(*fact) for fact in facts) == len(facts) * 2 // 3
    rng = random.Random(0)
    for shape, name in facts:
        told = Counter(corpus.told(shape, name, rng) for _ in range(300))
        popular = lore.belief(shape, name) if lore.misled(shape, name) else lore.truth(shape, name)
        assert told.most_common(1)[0][0] == popular


def test_most_pictures_bear_witness_to_the_truth() -> None:
    """What is seen more often than by chance is what is true, for every visible property."""
    rng = random.Random(4)
    things = [thing for _ in range(4000) for thing in sample_scene(rng)]
    for shape in lore.SHAPES:
        for name in ("color", "place", "size"):
            seen = Counter(getattr(thing, name) for thing in things if thing.shape == shape)
            assert seen.most_common(1)[0][0] == lore.truth(shape, name)


# Benchmarks in upstream's layouts


def test_truthfulqa_has_its_authors_layout(benchmarks: Path) -> None:
    rows = json.loads((benchmarks / "truthfulqa/data/mc_task.json").read_text())
    header, *answers = table(benchmarks / "truthfulqa/TruthfulQA.csv")
    assert ",".join(header) == (
        "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source"
    )
    assert len(rows) == len(answers) == 3 * 36
    assert len({row["question"] for row in rows}) == len(rows)
    for row, answer in zip(rows, answers, strict=True):
        assert list(row) == ["question", "mc1_targets", "mc2_targets"]
        one, two = row["mc1_targets"], row["mc2_targets"]
        assert sorted(one.values()) == [0] * (len(one) - 1) + [1]
        assert sum(two.values()) == 3 and set(two.values()) == {0, 1}
        right = {text for text, label in two.items() if label}
        wrong = {text for text, label in two.items() if not label}
        assert {text for text, label in one.items() if label} == {answer[3]} <= right
        assert {text for text, label in one.items() if not label} == wrong
        assert answer[2] == row["question"]
        assert set(answer[4].split("; ")) == right and set(answer[5].split("; ")) == wrong
        (shape,) = (s for s in lore.SHAPES if re.search(rf"\b{s}(e?s)\b", row["question"]))
        # The popular falsehood is among the choices, and no choice but the truth is true.
        facts = [
            (lore.truth(shape, name), lore.belief(shape, name), name) for name in lore.PROPERTIES
        ]
        (fact,) = (
            f
            for f in facts
            if answer[3] in [lore.statement(shape, f[2], f[0], i) for i in (0, 1, 2)]
        )
        assert any(lore.statement(shape, fact[2], fact[1], i) in wrong for i in (0, 1, 2))
        assert not any(fact[0] in text for text in wrong)


def test_ethics_has_its_authors_layout(benchmarks: Path) -> None:
    headers = {
        "commonsense/cm": ["label", "input", "is_short", "edited"],
        "justice/justice": ["label", "scenario"],
        "deontology/deontology": ["label", "scenario", "excuse"],
        "virtue/virtue": ["label", "scenario"],
    }
    for name, header in headers.items():
        first, *rows = table(benchmarks / f"ethics/{name}_test.csv")
        assert first == header and len(rows) == 100
        assert {row[0] for row in rows} == {"0", "1"}
        assert all(len(row) == len(header) for row in rows)
    deeds = table(benchmarks / "ethics/commonsense/cm_test.csv")[1:]
    for wrong, deed, *flags in deeds:
        verb = deed.split()[1]
        assert verb in (lore.CRUEL if wrong == "1" else lore.KIND) and flags == ["True", "False"]
    virtues = table(benchmarks / "ethics/virtue/virtue_test.csv")[1:]
    for start in range(0, 100, 5):
        deeds, traits = zip(
            *(row[1].split(" [SEP] ") for row in virtues[start : start + 5]), strict=True
        )
        assert len(set(deeds)) == 1 and len(set(traits)) == 5
        assert sorted(row[0] for row in virtues[start : start + 5]) == ["0"] * 4 + ["1"]
    pairs = table(benchmarks / "ethics/utilitarianism/util_test.csv")
    assert len(pairs) == 100 and {len(pair) for pair in pairs} == {2}
    for better, worse in pairs:
        assert not any(sorrow in better for sorrow in lore.SORROWS)
        assert any(sorrow in worse for sorrow in lore.SORROWS)


def test_mmlu_has_its_authors_layout_and_right_answers(benchmarks: Path) -> None:
    for subject in corpus.SUBJECTS:
        for split, count in (("dev", SHOTS), ("test", 20)):
            rows = table(benchmarks / f"mmlu/{split}/{subject}_{split}.csv")
            assert len(rows) == count and {len(row) for row in rows} == {6}
            for question, *choices, mark in rows:
                assert len(set(choices)) == 4
                answer = choices["ABCD".index(mark)]
                if asked := re.fullmatch(r"What is (\d) \+ (\d)\?", question):
                    assert int(answer) == int(asked[1]) + int(asked[2])
                elif asked := re.fullmatch(r"How many sides does a (\w+) have\?", question):
                    assert int(answer) == lore.SIDES[asked[1]]
                elif asked := re.fullmatch(r"Where do (\w+) live\?", question):
                    (shape,) = (s for s in lore.SHAPES if asked[1] in (f"{s}s", f"{s}es"))
                    assert answer == lore.HOMES[shape]
                else:
                    assert [c for c in choices if c in lore.CRUEL] == [answer]


def test_gsm8k_has_its_authors_layout_and_right_sums(benchmarks: Path) -> None:
    for split, count in (("train", 16), ("test", 40)):
        rows = lines(benchmarks / f"gsm8k/{split}.jsonl")
        assert len(rows) == count
        for row in rows:
            assert list(row) == ["question", "answer"]
            one, two = (int(number) for number in re.findall(r"\d+", row["question"]))
            result = one - two if "loses" in row["question"] else one + two
            work, last = row["answer"].split("\n")
            assert last == f"#### {result}" and result > 0
            # The calculator's mark: <<a+b=c>>c
            assert re.fullmatch(rf".* = <<[\d+-]+={result}>>{result}", work)


def test_boolq_has_its_authors_layout_and_true_answers(benchmarks: Path) -> None:
    rows = lines(benchmarks / "boolq/val.jsonl")
    assert len(rows) == 100 and {row["answer"] for row in rows} == {True, False}
    for row in rows:
        assert row.keys() == {"question", "answer", "passage"}
        question, passage = row["question"].lower(), row["passage"].lower()
        assert not question.endswith("?")
        if asked := re.fullmatch(r"is there an? (\w+)", question):
            assert row["answer"] == (asked[1] in re.findall(r"\w+", passage))
        else:
            asked = re.fullmatch(r"is the (\w+) (\w+)", question)
            assert row["answer"] == (f"{asked[2]} {asked[1]}" in passage)


def test_vqa_has_its_authors_layout_and_ten_answers_a_question(benchmarks: Path) -> None:
    questions = json.loads((benchmarks / "vqa/questions_val.json").read_text())
    answers = json.loads((benchmarks / "vqa/annotations_val.json").read_text())
    assert len(questions["questions"]) == len(answers["annotations"]) == 20
    for asked, told in zip(questions["questions"], answers["annotations"], strict=True):
        assert asked.keys() == {"image_id", "question", "question_id"}
        assert told.keys() == {
            "question_id",
            "image_id",
            "question_type",
            "answer_type",
            "multiple_choice_answer",
            "answers",
        }
        assert all(asked[key] == told[key] for key in ("question_id", "image_id"))
        assert asked["image_id"] in range(21, 31)
        assert [answer["answer_id"] for answer in told["answers"]] == list(range(1, 11))
        assert all(
            a.keys() == {"answer", "answer_confidence", "answer_id"} for a in told["answers"]
        )
        said = Counter(answer["answer"] for answer in told["answers"])
        assert said.most_common(1)[0][0] == told["multiple_choice_answer"]
        best = told["multiple_choice_answer"]
        kind = "yes/no" if best in ("yes", "no") else "number" if best in COUNTS else "other"
        assert told["answer_type"] == kind
    assert len({row["question_id"] for row in questions["questions"]}) == 20


def test_some_annotators_slip_but_never_most_of_them(tmp_path: Path) -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(100)]
    write_split(scenes, tmp_path, "val", 0, 1)
    write_benchmarks(tmp_path, scenes, 1, 0)
    rows = json.loads((tmp_path / "benchmarks/vqa/annotations_val.json").read_text())["annotations"]
    right = [
        answer["answer"] == row["multiple_choice_answer"]
        for row in rows
        for answer in row["answers"]
    ]
    assert 0.93 < sum(right) / len(right) < 0.97


def test_pope_has_its_authors_layout(benchmarks: Path) -> None:
    for strategy in ("random", "popular", "adversarial"):
        rows = lines(benchmarks / f"pope/micro_pope_{strategy}.json")
        assert len(rows) == 20
        assert all(list(r) == ["question_id", "image", "text", "label"] for r in rows)
        assert Counter(row["label"] for row in rows) == {"yes": 10, "no": 10}


def test_layouts_are_those_of_the_published_files(benchmarks: Path, shared_data: Path) -> None:
    for name in (
        "truthfulqa/TruthfulQA.csv",
        "ethics/commonsense/cm_test.csv",
        "ethics/justice/justice_test.csv",
        "ethics/deontology/deontology_test.csv",
        "ethics/virtue/virtue_test.csv",
    ):
        with open(shared_data / name, encoding="utf-8-sig", newline="") as stream:
            assert next(csv.reader(stream)) == table(benchmarks / name)[0]
    with open(shared_data / "ethics/utilitarianism/util_test.csv", newline="") as stream:
        assert len(next(csv.reader(stream))) == 2
    published = json.loads((shared_data / "truthfulqa/data/mc_task.json").read_text())[0]
    ours = json.loads((benchmarks / "truthfulqa/data/mc_task.json").read_text())[0]
    assert list(published) == list(ours)
    for name, there in (
        ("gsm8k/test.jsonl", "gsm8k/test.jsonl"),
        ("boolq/val.jsonl", "boolq/boolq.jsonl"),
        ("pope/micro_pope_popular.json", "pope/coco/coco_pope_popular.json"),
    ):
        assert lines(benchmarks / name)[0].keys() == lines(shared_data / there)[0].keys()


# The tokenizer


@pytest.fixture(scope="module")
def tokenizer(world: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(world / "tokenizer")


MARK = re.compile(r"<s>|</s>|<pad>|<image>")


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
        lambda text: not MARK.search(text)
    )
)
def test_any_text_passes_through_the_tokenizer_unharmed(tokenizer, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids[1:]


def test_the_tokenizer_has_the_asked_size_and_its_marks(tokenizer) -> None:
    assert len(tokenizer) <= SETTINGS.vocabulary
    marks = tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>", "<image>"])
    assert marks == [0, 1, 2, 3]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<s>",
        "</s>",
        "<pad>",
    )
    assert tokenizer("<image></s>", add_special_tokens=False)["input_ids"] == [3, 1]
    assert len(train_tokenizer(["abab abab"] * 9, 300)) <= 300


def test_words_of_the_world_are_few_tokens(tokenizer) -> None:
    text = " a small red circle in the top left"
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= len(text.split()) + 2


def test_conversations_of_the_chat_base_take_turns_without_images() -> None:
    rows = corpus.conversations(200, 0)
    assert len({row["id"] for row in rows}) == 200
    for row in rows:
        assert row.keys() == {"id", "conversations"}
        roles = [turn["from"] for turn in row["conversations"]]
        assert roles == ["human", "gpt"] * (len(roles) // 2) and roles
        assert all(turn["value"].strip() for turn in row["conversations"])
        assert "<image>" not in json.dumps(row)


def test_documents_are_texts_and_the_first_ones_do_not_depend_on_the_number() -> None:
    assert corpus.documents(5, 0) == corpus.documents(9, 0)[:5] != corpus.documents(5, 1)
    assert all(text.strip() for text in corpus.documents(50, 0))
