"""COCO's annotations become pictures with captions and things, crowds left out."""

import json
from pathlib import Path

import pytest

from sight_beyond_text.data.coco import Picture, Thing, read_pictures, require_images
from sight_beyond_text.data.words import NUMBERS, article, plural
from sight_beyond_text.errors import UserError

CAPTIONS = {
    "images": [
        {"id": 7, "file_name": "7.png", "width": 100, "height": 50, "license": 1},
        {"id": 3, "file_name": "3.png", "width": 64, "height": 64},
    ],
    "annotations": [
        {"id": 12, "image_id": 7, "caption": " Two  dogs\nand a cat. "},
        {"id": 11, "image_id": 7, "caption": "Dogs."},
        {"id": 13, "image_id": 99, "caption": "Of an image that isn't listed."},
    ],
}
INSTANCES = {
    "images": CAPTIONS["images"][:1],
    "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    "annotations": [
        {"id": 5, "image_id": 7, "category_id": 18, "bbox": [0, 0, 10, 20], "iscrowd": 0},
        {"id": 4, "image_id": 7, "category_id": 17, "bbox": [50.5, 10, 4, 4], "attributes": None},
        {
            "id": 6,
            "image_id": 7,
            "category_id": 18,
            "bbox": [80, 30, 10, 10],
            "attributes": {"color": "brown"},
        },
        {"id": 7, "image_id": 7, "category_id": 18, "bbox": [0, 0, 100, 50], "iscrowd": 1},
    ],
}


def write(folder: Path, captions=CAPTIONS, instances=INSTANCES) -> tuple[Path, Path]:
    paths = folder / "captions.json", folder / "instances.json"
    for path, content in zip(paths, (captions, instances), strict=True):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return paths


def test_pictures_come_by_id_with_all_that_is_said_of_them(tmp_path: Path) -> None:
    assert read_pictures(*write(tmp_path)) == [
        Picture(3, "3.png", 64, 64, (), ()),
        Picture(
            7,
            "7.png",
            100,
            50,
            ("Dogs.", "Two dogs and a cat."),
            (
                Thing("cat", (50.5, 10, 4, 4)),
                Thing("dog", (0, 0, 10, 20)),
                Thing("dog", (80, 30, 10, 10), {"color": "brown"}),
            ),
            frozenset({"dog"}),
        ),
    ]


def test_captions_alone_give_pictures_without_things(tmp_path: Path) -> None:
    pictures = read_pictures(write(tmp_path)[0])
    assert [len(picture.captions) for picture in pictures] == [0, 2]
    assert not any(picture.things for picture in pictures)


def test_a_things_area_is_its_boxs() -> None:
    assert Thing("dog", (3, 4, 10, 20)).area == 200


def without(content: dict, part: str, key: str) -> dict:
    made = json.loads(json.dumps(content))
    del made[part][0][key]
    return made


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        ("captions", {"images": []}, "COCO captions: no annotations; is this the right file?"),
        ("captions", [], "COCO captions: no images, annotations; is this the right file?"),
        ("captions", '{"images": [', "COCO captions: broken JSON"),
        ("captions", without(CAPTIONS, "annotations", "caption"), "lacks what COCO's layout has"),
        ("captions", without(CAPTIONS, "images", "file_name"), "'file_name'"),
        ("captions", without(CAPTIONS, "images", "width"), "'width'"),
        ("captions", INSTANCES, "'caption'"),
        ("instances", CAPTIONS, "COCO instances: no categories; is this the right file?"),
        ("instances", without(INSTANCES, "annotations", "bbox"), "'bbox'"),
        ("instances", without(INSTANCES, "categories", "name"), "'name'"),
        ("instances", INSTANCES | {"categories": []}, "18"),
    ],
)
def test_files_of_another_layout_are_refused_by_name(
    which: str, content, message: str, tmp_path: Path
) -> None:
    paths = write(tmp_path, **{which: content})
    with pytest.raises(UserError) as error:
        read_pictures(*paths)
    told = str(error.value)
    assert told.startswith(str(paths[which == "instances"])) and message in told
    assert "\n" not in told


def test_all_images_must_be_there(tmp_path: Path) -> None:
    pictures = read_pictures(*write(tmp_path))
    (tmp_path / "3.png").touch()
    with pytest.raises(UserError, match="1 image.s. missing, the first is 7.png"):
        require_images(pictures, tmp_path)
    (tmp_path / "7.png").touch()
    require_images(pictures, tmp_path)


def test_the_small_coco_is_read_whole(shared_data: Path) -> None:
    """Counts taken from the files themselves."""
    notes = shared_data / "coco_mini/annotations"
    for split in ("train2017", "val2017"):
        captions = json.loads((notes / f"captions_{split}.json").read_text())
        instances = json.loads((notes / f"instances_{split}.json").read_text())
        pictures = read_pictures(
            notes / f"captions_{split}.json", notes / f"instances_{split}.json"
        )
        assert [p.id for p in pictures] == sorted(image["id"] for image in captions["images"])
        assert sum(len(p.captions) for p in pictures) == len(captions["annotations"])
        crowds = sum(note["iscrowd"] for note in instances["annotations"])
        assert crowds > 0
        assert sum(len(p.things) for p in pictures) == len(instances["annotations"]) - crowds
        require_images(pictures, shared_data / "coco_mini" / split)


# A little English


@pytest.mark.parametrize(
    ("noun", "several"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("bench", "benches"),
        ("toothbrush", "toothbrushes"),
        ("cross", "crosses"),
        ("person", "people"),
        ("knife", "knives"),
        ("sheep", "sheep"),
        ("mouse", "mice"),
        ("wine glass", "wine glasses"),
        ("teddy bear", "teddy bears"),
        ("toy", "toys"),
        ("city", "cities"),
        ("scissors", "scissors"),
    ],
)
def test_plurals(noun: str, several: str) -> None:
    assert plural(noun) == several


def test_plurals_of_all_coco_categories_differ(shared_data: Path) -> None:
    """Two kinds of thing must not be asked for in the same words."""
    path = shared_data / "coco_mini/annotations/instances_val2017.json"
    names = [row["name"] for row in json.loads(path.read_text())["categories"]]
    assert len(names) == 80
    assert len({plural(name) for name in names}) == 80


def test_articles_and_numbers() -> None:
    assert [article(word) for word in ("umbrella", "dog", "Orange")] == ["an", "a", "an"]
    assert NUMBERS[:4] == ("zero", "one", "two", "three") and NUMBERS[10] == "ten"
