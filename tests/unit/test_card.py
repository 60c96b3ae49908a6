"""Data cards tell counts, lengths, kinds and examples; nothing of the data runs in a browser."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from sight_beyond_text.data.card import EXAMPLES, make_card, write_card
from sight_beyond_text.data.sources import apply_form, read_instructions

EVIL = "<script>alert(1)</script> & \"quoted\" 'too' <img src=x onerror=y>"


class Tags(HTMLParser):
    """All elements of a page, with their attributes."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def tags(path: Path) -> list[tuple[str, dict]]:
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser.found


def row(name: str, asked: str, said: str, **further) -> dict:
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    return {"id": name, **further, "conversations": turns}


def test_numbers_of_a_card() -> None:
    rows = [row(str(n), "<image>\nWhat?", "x" * n, kind="detail", image="a.png") for n in (1, 2, 9)]
    rows.append(row("9", "Why?", "So.", kind="reasoning"))
    card = make_card("visual", rows, {"study": "s"})
    assert (card["samples"], card["with_image"], card["images"]) == (4, 3, 1)
    assert card["kinds"] == {"detail": 3, "reasoning": 1}
    assert card["answers"] == {
        "least": 1, "median": 3, "mean": 3.8, "p95": 3, "most": 9, "sum": 15,
    }  # fmt: skip
    assert card["turns"]["sum"] == 4 and card["double_ids"] == 2 and card["doubles"] == 0
    assert [example["id"] for example in card["examples"]] == ["1", "2", "9", "9"]


def test_everything_on_the_page_is_escaped(tmp_path: Path) -> None:
    Image.new("RGB", (900, 600), "red").save(tmp_path / "a.png")
    rows = [
        row(EVIL, f"<image>\n{EVIL}", EVIL, kind=EVIL, image="a.png"),
        row("2", "<image>", EVIL, image=f"{EVIL}.png"),
    ]
    paths = write_card(make_card("visual", rows, {EVIL: EVIL}), tmp_path, tmp_path)
    page = paths[2].read_text(encoding="utf-8")
    found = tags(paths[2])
    assert "script" not in {tag for tag, _ in found}
    images = [attributes for tag, attributes in found if tag == "img"]
    assert len(images) == 1 and images[0].keys() == {"alt", "src"}
    assert images[0]["src"].startswith("data:image/jpeg;base64,")
    assert not any(key.startswith("on") for _, attributes in found for key in attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quoted&quot;" in page
    assert json.loads(paths[0].read_text())["examples"] == rows


def test_no_picture_from_outside_the_folder_is_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for place in (tmp_path / "secret.png", tmp_path / "images" / "a.png"):
        Image.new("RGB", (9, 9), "red").save(place)
    names = ["a.png", "../secret.png", str(tmp_path / "secret.png"), "x/../../secret.png"]
    rows = [row(str(n), "<image>", "b", image=name) for n, name in enumerate(names)]
    page = write_card(make_card("visual", rows), tmp_path, tmp_path / "images")[2]
    assert sum(tag == "img" for tag, _ in tags(page)) == 1
    assert page.read_text().count("leads out of the folder of images; not shown") == 3


def test_the_command_writes_a_card_of_each_source(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("1.png", "2.png"):
        Image.new("RGB", (9, 9), "red").save(tmp_path / "images" / name)
    rows = [row(n, "<image>\nWhat?", "A square.", image=f"{n}.png") for n in ("1", "2")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    told = [{"image": r["image"], "captions": ["It is red."], "instances": []} for r in rows]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    alpaca = [{"instruction": "Name a fish.", "input": "", "output": "Cod."}]
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    training = {"learning_rate": 1, "batch_size": 2}
    study = {
        "name": "carded",
        "data": {
            "images": "images",
            "captions": "captions.jsonl",
            "instructions": "rows.json",
            "alignment": "rows.json",
        },
        "tower": {"model": "a/tower"},
        "bases": {"one": {"model": "a/base"}, "two": {"model": "b/base"}},
        "sources": {
            "visual": {},
            "caption": {},
            "alpaca": {"form": "text", "instructions": "alpaca.json"},
        },
        "alignment": training,
        "tunings": {"full": training, "lora": training},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    command = [
        sys.executable,
        "-m",
        "sight_beyond_text.cli",
        "card",
        "study.yaml",
        "--out",
        "cards",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = {"visual": 2, "caption": 2, "alpaca": 1}
    assert done.stdout.splitlines() == [
        f"{name}: {count} samples: cards/{name}.json, cards/{name}.md, cards/{name}.html"
        for name, count in counts.items()
    ]
    cards = {name: json.loads((tmp_path / f"cards/{name}.json").read_text()) for name in counts}
    assert cards["visual"]["told"] == {
        "study": "carded", "form": "visual", "instructions": "rows.json",
    }  # fmt: skip
    assert cards["caption"]["told"]["captions"] == "captions.jsonl"
    assert "It is red." in (tmp_path / "cards" / "caption.md").read_text()
    pictures = [sum(t == "img" for t, _ in tags(tmp_path / f"cards/{n}.html")) for n in counts]
    assert pictures == [2, 0, 0]


def test_a_card_of_published_instructions_in_three_forms(shared_data: Path, tmp_path: Path) -> None:
    rows = read_instructions(shared_data / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl")
    told = {row["image"]: ["A caption."] for row in rows}
    cards = {}
    for form in ("visual", "caption", "text"):
        made = make_card(form, [apply_form(row, form, told) for row in rows])
        json_path, markdown, page = write_card(made, tmp_path)
        cards[form] = json.loads(json_path.read_text())
        assert markdown.read_text().startswith(f"# {form}\n\n- samples: 90\n")
        assert len([tag for tag, _ in tags(page) if tag == "section"]) == EXAMPLES
    assert cards["visual"]["kinds"] == {"conversation": 30, "detail": 30, "reasoning": 30}
    assert cards["visual"]["with_image"] == 90 and cards["text"]["with_image"] == 0
    # The same samples stand on each card.
    ids = [[example["id"] for example in card["examples"]] for card in cards.values()]
    assert ids[0] == ids[1] == ids[2]
    assert cards["visual"]["answers"] == cards["text"]["answers"] == cards["caption"]["answers"]


def test_pictures_of_real_photos(shared_data: Path, tmp_path: Path) -> None:
    photos = shared_data / "coco_mini" / "val2017"
    names = sorted(path.name for path in photos.iterdir())[:5]
    rows = [row(name, "<image>\nWhat?", "A photo.", image=name) for name in names]
    page = write_card(make_card("visual", rows), tmp_path, photos)[2]
    assert sum(tag == "img" for tag, _ in tags(page)) == 5
    assert page.stat().st_size < 400_000
