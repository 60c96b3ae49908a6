"""What is wrong with instructions and their images ends in named lines, before any training."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sight_beyond_text.data.checks import check_file, check_instructions, check_rows
from sight_beyond_text.data.instructions import from_coco
from sight_beyond_text.errors import UserError
from sight_beyond_text.study import Instructions


def row(name: str, *said: str, image: str | None = None) -> dict:
    roles = ("human", "gpt") * len(said)
    turns = [{"from": who, "value": text} for who, text in zip(roles, said, strict=False)]
    return {"id": name, "conversations": turns} | ({"image": image} if image else {})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three samples of two good images."""
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "images" / "1.jpg")
    Image.fromarray(noise).save(tmp_path / "images" / "2.png")
    rows = [
        row("a", "<image>\nWhat?", "Noise", image="1.jpg"),
        row("b", "What?\n<image>", "Noise", "Why?", "So", image="2.png"),
        row("c", "What?", "Nothing"),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


def refused(data: Path) -> list[str]:
    with pytest.raises(UserError) as error:
        check_instructions(data / "rows.json", data / "images")
    return str(error.value).replace(f"{data}/", "").splitlines()


def test_good_data_passes(data: Path) -> None:
    check_instructions(data / "rows.json", data / "images")
    found = check_file(data / "rows.json", data / "images", decode=True)
    assert (found.samples, found.images, found.problems) == (3, 2, {})
    assert (found.double_ids, found.doubles) == (0, [])
    assert found.longest == len("What?\n<image>") + len("NoiseWhy?So")


def test_a_missing_image(data: Path) -> None:
    (data / "images" / "2.png").unlink()
    assert refused(data) == [
        "rows.json: missing images: 1, the first is '2.png': not in images; fetch them or take"
        " their samples out"
    ]


@pytest.mark.parametrize("name", ["1.jpg", "2.png"])
def test_an_image_that_was_cut_off(data: Path, name: str) -> None:
    path = data / "images" / name
    path.write_bytes(path.read_bytes()[:-200])
    assert refused(data) == [
        f"rows.json: unreadable images: 1, the first is '{name}': it has no end; the file is cut"
        " off; fetch them again"
    ]


def test_a_damaged_middle_is_seen_where_images_are_decoded(data: Path) -> None:
    path = data / "images" / "2.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert not check_file(data / "rows.json", data / "images").problems
    found = check_file(data / "rows.json", data / "images", decode=True)
    assert [name for name, _ in found.problems["unreadable images"]] == ["2.png"]


def test_what_is_no_image(data: Path) -> None:
    (data / "images" / "1.jpg").write_text("<html>404</html>")
    (line,) = refused(data)
    assert line.startswith("rows.json: unreadable images: 1, the first is '1.jpg': cannot identify")


@pytest.mark.parametrize(
    ("bad", "problem", "detail"),
    [
        ("a text", "broken samples", "needs 'id' and 'conversations'"),
        ({"id": "x"}, "broken samples", "needs 'id' and 'conversations'"),
        ({"conversations": []}, "broken samples", "needs 'id' and 'conversations'"),
        ({**row("x", "<image>", "a"), "image": 7}, "broken samples", "its image is 7, not a"),
        (row("x", "a"), "samples whose roles don't take turns", "a conversation has 1 turns"),
        (
            {"id": "x", "conversations": row("", "a", "b")["conversations"][::-1]},
            "samples whose roles don't take turns",
            "turn 1 should be from 'human' with a text value, found from 'gpt'",
        ),
        (row("x", "a", " "), "samples with an empty turn", "an answer without text"),
        (
            row("x", "a", "b", image="1.jpg"),
            "samples whose image and mark don't match",
            "an image and 0 <image> in questions, 0 in answers",
        ),
        (
            row("x", "<image> <image>", "b", image="1.jpg"),
            "samples whose image and mark don't match",
            "an image and 2 <image> in questions",
        ),
        (
            row("x", "a", "<image>"),
            "samples whose image and mark don't match",
            "no image and 0 <image> in questions, 1 in answers",
        ),
    ],
)
def test_each_mistake_has_its_name(bad, problem: str, detail: str) -> None:
    good = row("good", "a", "b")
    found = check_rows([good, bad, good])
    assert problem in found.problems and len(found.problems[problem]) == 1
    assert found.problems[problem][0][1].startswith(detail)
    assert all(line.count("\n") == 0 for line in found.lines("f.json"))
    assert found.lines("f.json")[0].startswith(f"f.json: {problem}: 1, the first is ")


def test_doubles_are_counted() -> None:
    one, two = row("x", "<image>", "b", image="1"), row("x", "<image>", "b", image="2")
    found = check_rows([one, two, {**one, "id": "y"}])
    assert found.doubles == ["y"] and found.double_ids == 2


def test_real_photos_and_instructions(shared_data: Path, tmp_path: Path) -> None:
    coco = shared_data / "coco_mini"
    settings = Instructions(detail=1, reasoning=1).model_dump()
    notes = coco / "annotations"
    rows, pairs = from_coco(
        notes / "captions_train2017.json",
        notes / "instances_train2017.json",
        coco / "train2017",
        settings,
    )
    for made in (rows, pairs):
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(made))
        found = check_file(path, coco / "train2017", decode=True)
        assert found.problems == {} and found.samples == len(made) and found.images == 80
    # One photo is cut off, as after a broken download.
    shutil.copytree(coco / "train2017", tmp_path / "photos")
    photo = sorted((tmp_path / "photos").iterdir())[7]
    photo.chmod(0o644)
    photo.write_bytes(photo.read_bytes()[:9000])
    found = check_file(path, tmp_path / "photos")
    assert [name for name, _ in found.problems["unreadable images"]] == [photo.name]


def test_the_command(data: Path) -> None:
    rows = json.loads((data / "rows.json").read_text())
    rows.append({"id": "z", "conversations": rows[2]["conversations"][::-1]})
    (data / "rows.json").write_text(json.dumps(rows))
    done = subprocess.run(
        [sys.executable, "-m", "sight_beyond_text.cli", "check-data", "rows.json"]
        + ["--images", "images", "--decode"],
        cwd=data,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout.startswith("rows.json: 4 samples, 2 images (looked at in images)\n")
    assert done.stderr == (
        "error: rows.json: samples whose roles don't take turns: 1, the first is 'z': turn 1 should"
        " be from 'human' with a text value, found from 'gpt'; human and gpt must take turns; mend"
        " them\n"
    )


def test_the_workflows_check_tells_lengths_and_doubles(data: Path) -> None:
    """In its log, as `sight check-data` does."""
    rows = json.loads((data / "rows.json").read_text())
    (data / "rows.json").write_text(json.dumps([*rows, {**rows[0], "id": "c"}]))
    spec = {"instructions": [str(data / "rows.json")], "images": str(data / "images")}
    command = [sys.executable, "-m", "sight_beyond_text.cli", "check", json.dumps(spec)]
    done = subprocess.run([*command, "--log", str(data / "log")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (data / "log").read_text().splitlines()[:4] == [
        f"{data}/rows.json: 4 samples, 2 images (looked at in {data}/images)",
        "longest: 24 characters",
        "said twice of the same image: 1",
        "samples that share an id: 2",
    ]
