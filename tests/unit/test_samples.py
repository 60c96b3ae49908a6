"""From conversations to samples and batches: nothing is lost unseen."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sight_beyond_text.data.samples import (
    IGNORED,
    Collator,
    Conversations,
    Losses,
    Pixels,
    encode,
    keep_learned,
)
from sight_beyond_text.data.sources import apply_form
from sight_beyond_text.data.templates import IMAGE, Segment, segments, turns_of
from sight_beyond_text.errors import UserError
from sight_beyond_text.micro.tokenizer import train_tokenizer

PATCHES = 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is in the image? A red circle is there."] * 3, 300)


def row(name: str, *said: str, image: str | None = None) -> dict:
    roles = ("human", "gpt") * len(said)
    turns = [{"from": who, "value": text} for who, text in zip(roles, said, strict=False)]
    return {"id": name, "conversations": turns} | ({"image": image} if image else {})


def dataset(tokenizer, rows: list[dict], max_length: int = 1000, pixels=None) -> Conversations:
    place = tokenizer.convert_tokens_to_ids("<image>")
    return Conversations(rows, tokenizer, "v1", place, PATCHES, max_length, pixels)


def test_an_image_takes_exactly_its_patches_and_is_never_learned(tokenizer) -> None:
    laid = [Segment("a "), Segment(IMAGE, mark=True), Segment("\nb"), Segment(" c", True)]
    ids, labels = encode(laid, tokenizer, 7, 4)
    at = ids.index(7)
    assert ids[at : at + 4] == [7] * 4 and ids.count(7) == 4
    assert labels[: at + 4] == [IGNORED] * (at + 4)
    text = [token for token in ids if token != 7]
    assert tokenizer.decode(text) == "<s>a \nb c"
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == " c"


def test_a_text_goes_on_from_the_text_before_it(tokenizer) -> None:
    parts = [Segment("What is"), Segment(" in the"), Segment(" image"), Segment("? A", True)]
    joined = [Segment("What is in the image"), Segment("? A", True)]
    assert encode(parts, tokenizer, 7, 4) == encode(joined, tokenizer, 7, 4)


class Letters:
    """A tokenizer of letters that begins each text with a space, as SentencePiece does."""

    bos_token_id = None

    def __call__(self, text, add_special_tokens, split_special_tokens):
        assert not add_special_tokens and split_special_tokens
        return {"input_ids": [ord(char) for char in ("" if text[:1] == " " else " ") + text]}


def test_only_texts_of_their_own_begin_with_sentencepieces_space() -> None:
    laid = [
        Segment("a"),
        Segment("b", True),
        Segment(IMAGE, mark=True),
        Segment("c"),
        Segment(" d"),
    ]
    ids, labels = encode(laid, Letters(), 7, 2)
    assert bytes(ids) == b" ab\7\7 c d"
    assert labels == [IGNORED] * 2 + [ord("b")] + [IGNORED] * 6


def test_names_of_special_tokens_in_texts_stay_text(tokenizer) -> None:
    text = "a</s><s>b<image><pad>"
    ids, labels = encode([Segment(text), Segment(text, True)], tokenizer, 7, 2)
    assert set(ids) & set(range(4)) == {tokenizer.bos_token_id}
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids[1:]) == text * 2
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == text


def test_samples_keep_the_order_ids_and_images_of_the_rows(tokenizer, tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (5, 5, 5)).save(tmp_path / "1.png")
    rows = [
        row("one", f"{IMAGE}\nWhat?", "A circle", image="1.png"),
        row(2, "What?", "A ring"),
    ]
    made = dataset(tokenizer, rows, pixels=Pixels(tmp_path, processor))
    assert [(made[i]["id"], made[i]["image"]) for i in range(2)] == [("one", "1.png"), ("2", None)]
    assert torch.equal(made[0]["pixel_values"], torch.full((3, 2, 2), 5))
    assert "pixel_values" not in made[1]
    assert made.losses == Losses(total=2) and made.losses.share == 0


def test_samples_cut_at_the_limit_are_counted_and_those_left_with_nothing_dropped(
    tokenizer,
) -> None:
    rows = [
        row("long", f"{IMAGE}\nWhat?", "A red circle " * 30, image="1.png"),
        row("fits", "What?", "A ring"),
        row("hopeless", "What is in the image? " * 40, "A ring"),
        row("long", "What?", "A red circle " * 30),  # LLaVA's ids aren't unique
    ]
    whole = dataset(tokenizer, rows)
    lengths = [len(sample["input_ids"]) for sample in whole.samples]
    limit = lengths[1] + PATCHES + 20
    assert lengths[0] > limit and lengths[2] > limit and lengths[3] > limit
    made = dataset(tokenizer, rows, max_length=limit)
    assert made.losses.cut == ["long", "hopeless", "long"] and made.losses.dropped == ["hopeless"]
    assert (made.losses.total, made.losses.lost, made.losses.share) == (4, 3, 0.75)
    assert [sample["id"] for sample in made.samples] == ["long", "fits", "long"]
    del whole.samples[2]
    for cut, kept in zip(made.samples, whole.samples, strict=True):
        for key in ("input_ids", "labels"):
            assert cut[key] == kept[key][:limit]
    # A sample just as long as the limit is whole.
    assert dataset(tokenizer, rows[:1], max_length=lengths[0]).losses.cut == []
    assert dataset(tokenizer, rows[:1], max_length=lengths[0] - 1).losses.cut == ["long"]


def test_the_limit_counts_the_expanded_image_and_never_cuts_into_it(tokenizer) -> None:
    turns = ("Hello", "Hi", f"{IMAGE}\nWhat?", "A ring")
    rows = [row("x", *turns, image="1.png"), row("y", "Hello", "Hi")]
    place = tokenizer.convert_tokens_to_ids("<image>")
    (sample, _) = dataset(tokenizer, rows).samples
    ids = sample["input_ids"]
    assert ids.count(place) == PATCHES
    end = ids.index(place) + PATCHES
    # "Hi" is learned before the image: a cut through the image would leave that, and no image.
    for limit in range(end - PATCHES, end):
        made = dataset(tokenizer, rows, max_length=limit)
        assert made.losses == Losses(total=2, cut=["x"], dropped=["x"], lost=1)
        assert [sample["id"] for sample in made.samples] == ["y"]
    (cut, _) = dataset(tokenizer, rows, max_length=end).samples
    assert cut["input_ids"].count(place) == PATCHES and len(cut["input_ids"]) == end


def test_a_text_that_becomes_the_images_token_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "What": 1, "</s>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    own = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(UserError, match="^sample 'x': the tokenizer gives its text the token 0"):
        Conversations([row("x", "What", "漢")], own, "v1", 0, PATCHES, 99, None)


@pytest.mark.parametrize(
    "wrong",
    [
        row("x", "What?", "A ring", image="1.png"),
        row("x", f"{IMAGE}\nWhat?", "A ring"),
        row("x", f"{IMAGE}\nWhat?", "A ring", f"{IMAGE}\nAnd?", "A star", image="1.png"),
        row("x", "What?", f"{IMAGE} A ring", image="1.png"),
        row("x", f"{IMAGE}\nWhat?", f"{IMAGE} A ring", image="1.png"),
    ],
    ids=["no mark", "no image", "two marks", "in the answer", "in both"],
)
def test_an_image_and_its_mark_come_together_and_once(tokenizer, wrong: dict) -> None:
    with pytest.raises(UserError, match="^sample 'x': an image and its mark <image> must come"):
        dataset(tokenizer, [row("fine", "What?", "A ring"), wrong])


def test_a_row_without_turns_is_refused_by_its_id(tokenizer) -> None:
    with pytest.raises(UserError, match="^sample 'x': a conversation has 0 turns"):
        dataset(tokenizer, [{"id": "x", "conversations": []}])


# Batches


def sample(ids: list[int], pixel: float | None = None) -> dict:
    made = {"id": "x", "input_ids": ids, "labels": [IGNORED, *ids[1:]], "image": None}
    if pixel is not None:
        made["pixel_values"] = torch.full((3, 2, 2), pixel)
    return made


def test_batches_are_padded_on_the_right_and_padding_is_ignored() -> None:
    batch = Collator(pad=9)([sample([1, 2, 9]), sample([3, 4, 5, 6, 7], 0.5), sample([8], 1.5)])
    assert batch["input_ids"].tolist() == [[1, 2, 9, 9, 9], [3, 4, 5, 6, 7], [8, 9, 9, 9, 9]]
    ignored = IGNORED
    assert ignored == torch.nn.CrossEntropyLoss().ignore_index
    assert batch["labels"].tolist() == [
        [ignored, 2, 9, ignored, ignored],
        [ignored, 4, 5, 6, 7],
        [ignored] * 5,
    ]
    # By length and not by token: the first text ends with the token that is padded with.
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1, 0, 0, 0, 0]]
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0.5, 1.5]


def test_batches_without_images_have_no_pixels() -> None:
    assert set(Collator(0)([sample([1, 2])])) == {"input_ids", "labels", "attention_mask"}


# Images


def processor(image, return_tensors):
    """All pixels, as (1, 3, H, W), as an image processor gives a batch of one."""
    assert image.mode == "RGB" and return_tensors == "pt"
    values = torch.from_numpy(np.array(image, dtype=np.int64))
    return {"pixel_values": values.permute(2, 0, 1)[None]}


def read(folder: Path, image: Image.Image, name: str, **options) -> list:
    """Colors of an image file's pixels, row by row."""
    image.save(folder / name, **options)
    return Pixels(folder, processor)(name).permute(1, 2, 0).tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_images_of_any_mode_are_read_as_rgb(mode: str, tmp_path: Path) -> None:
    name = "image.tif" if mode == "CMYK" else "image.png"
    level = {"P": 204, "1": 255}.get(mode, 200)  # 204 is in the palette
    image = Image.new("RGB", (3, 2), (level,) * 3)
    if mode == "I;16":
        image = Image.fromarray(np.full((2, 3), level * 257, dtype=np.uint16))
    else:
        image = image.convert(mode)
    assert image.mode == mode
    assert read(tmp_path, image, name) == [[[level] * 3] * 3] * 2


def test_16_bits_keep_their_shades(tmp_path: Path) -> None:
    shades = [[0, 257, 25700, 65535]]
    image = Image.fromarray(np.array(shades, dtype=np.uint16))
    for name in ("image.png", "image.tif"):
        assert read(tmp_path, image, name) == [[[0] * 3, [1] * 3, [100] * 3, [255] * 3]]


def test_a_cmyk_photo_keeps_its_colors(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), (210, 60, 20)).convert("CMYK")
    (color,) = {tuple(color) for row in read(tmp_path, image, "image.jpg") for color in row}
    assert color == pytest.approx((210, 60, 20), abs=4)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)])
    assert read(tmp_path, image, "image.png") == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 0, 255, 0])
    palette.putdata([0, 1])
    colors = [[[10, 20, 30], [255, 255, 255]]]
    assert read(tmp_path, palette, "palette.png", transparency=1) == colors
    assert read(tmp_path, palette, "palette.gif", transparency=1) == colors


def test_a_camera_held_sideways_makes_no_picture_on_its_side(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1))
    image.putdata([(250, 0, 0), (0, 0, 250)])
    turned = Image.Exif()
    turned[0x0112] = 6  # its top is at the right
    assert read(tmp_path, image, "image.png", exif=turned) == [[[250, 0, 0]], [[0, 0, 250]]]
    broken = turned.tobytes().replace(b"MM", b"XX")
    colors = [[[250, 0, 0], [0, 0, 250]]]
    assert read(tmp_path, image, "broken.png", exif=broken) == colors


def test_a_missing_image_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Pixels(tmp_path, processor)("gone.png")
    assert str(error.value).startswith(f"{tmp_path / 'gone.png'}: no such image; ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 10, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_truncated_image_is_told_in_one_line(kept: float, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{kind}"
    noise = Image.effect_noise((64, 64), 90)
    noise.save(path)
    content = path.read_bytes()
    size = int(kept * len(content)) if kept < 1 else int(kept)
    path.write_bytes(content[:size])
    with pytest.raises(UserError) as error:
        Pixels(tmp_path, processor)(path.name)
    assert str(error.value).startswith(f"{path}: not a readable image (")
    assert "\n" not in str(error.value)


def test_a_broken_png_chunk_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    Image.effect_noise((64, 64), 90).save(path)
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable image"):
        Pixels(tmp_path, processor)(path.name)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_png_whose_text_swells_is_told_in_one_line(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "swells.png"
    Image.new("RGB", (8, 8)).save(path)
    content = path.read_bytes()
    head = {b"zTXt": b"key\0\0", b"iTXt": b"key\0\1\0\0\0"}[kind]
    text = head + zlib.compress(bytes(2**21))
    chunk = struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text))
    path.write_bytes(content[:33] + chunk + content[33:])
    with pytest.raises(UserError) as error:
        Pixels(tmp_path, processor)(path.name)
    assert str(error.value).startswith(f"{path}: not a readable image (")
    assert "\n" not in str(error.value)


def test_a_truncated_image_is_told_where_a_sample_is_asked_for(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"\x89PNG")
    rows = [row("one", f"{IMAGE}\nWhat?", "A circle", image="1.png")]
    made = dataset(tokenizer, rows, pixels=Pixels(tmp_path, processor))
    with pytest.raises(UserError, match="1.png: not a readable image"):
        made[0]


def test_prepared_images_are_kept_as_long_as_they_have_room(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (2, 2), (index, 0, 0)).save(tmp_path / f"{index}.png")
    one = Pixels(tmp_path, processor)("0.png").nbytes
    pixels = Pixels(tmp_path, processor, keep=3 * one - 1)
    first = [pixels(f"{index}.png") for index in range(3)]
    assert [int(values[0, 0, 0]) for values in first] == [0, 1, 2]
    assert pixels("0.png") is first[0] and pixels("1.png") is first[1]
    assert len(pixels.kept) == 2
    assert torch.equal(pixels("2.png"), first[2])
    forgetful = Pixels(tmp_path, processor)
    assert forgetful("0.png") is not forgetful("0.png")
    assert not forgetful.kept


@pytest.mark.parametrize("template", ["plain", "v0", "v1"])
def test_texts_tokenized_many_at_once_give_what_each_gives_alone(tokenizer, template) -> None:
    words = "What is in the image? A red circle is there. </s> \n\n ü 漢".split(" ")
    rows = []
    for number in range(60):
        said = [" ".join(words[(number * step) % 13 :]) or "So" for step in (1, 5, 7, 11)]
        image = "1.png" if number % 3 else None
        said[0] = f"{IMAGE}\n{said[0]}" if image else said[0]
        rows.append(row(str(number), *said, image=image))
    place = tokenizer.convert_tokens_to_ids("<image>")
    made = Conversations(rows, tokenizer, template, place, PATCHES, 1000, None)
    assert len(made) == 60
    for given, sample in zip(rows, made.samples, strict=True):
        laid = segments(turns_of(given["conversations"], ""), template, tokenizer)
        ids, labels = encode(laid, tokenizer, place, PATCHES)
        assert (list(sample["input_ids"]), list(sample["labels"])) == (ids, labels)


def learned_of(made: Conversations) -> list[list[int]]:
    return [[label for label in sample["labels"] if label != IGNORED] for sample in made.samples]


def test_sources_are_matched_to_the_same_learned_tokens(tokenizer) -> None:
    """The same samples in the same order, and of the last one as much as is left."""
    answers = ["A red circle " * (number % 5 + 1) for number in range(30)]
    image = [row(str(n), f"{IMAGE}\nWhat?", said, image="a") for n, said in enumerate(answers)]
    text = [apply_form(given, "text") for given in image]
    other = [row(str(n), "Why?", "Is there a circle? " * 3) for n in range(25)]
    whole = dataset(tokenizer, image)
    total = sum(map(len, learned_of(whole)))
    for budget in (1, 40, total // 2, total):
        made = [dataset(tokenizer, rows) for rows in (image, text, other)]
        for each in made[:2] if budget == total else made:
            keep_learned(each, budget, 3)
            assert sum(map(len, learned_of(each))) == budget
        assert [s["id"] for s in made[0].samples] == [s["id"] for s in made[1].samples]
        assert learned_of(made[0]) == learned_of(made[1])
        names = [int(sample["id"]) for sample in made[0].samples]
        assert names == sorted(names)
    # Smaller budgets take samples of larger ones, as subsets by size do.
    one, two = dataset(tokenizer, image), dataset(tokenizer, image)
    keep_learned(one, 40, 3)
    keep_learned(two, 80, 3)
    assert {s["id"] for s in one.samples} < {s["id"] for s in two.samples}
    with pytest.raises(UserError, match=f"{total + 1} asked for, the samples have {total}; lower"):
        keep_learned(dataset(tokenizer, image), total + 1, 3)
