"""Corrupted images: what is random, how strong, and on which images it works."""

import math
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from sight_beyond_text.commands.corrupt import contact_sheet
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.corrupted import CorruptedPixels
from sight_beyond_text.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from sight_beyond_text.study import Corruption

FIXED = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)
"""Kinds that nothing is random in."""


def photo(seed: int = 0, size: tuple[int, int] = (224, 224)) -> Image.Image:
    """Soft light and shapes with edges, about as bright and varied as a photo."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(size)
    draw = ImageDraw.Draw(image)
    for _ in range(70):
        (x, y), (width, height) = rng.uniform(0, 1, 2) * size, rng.uniform(3, 50, 2)
        draw.ellipse((x, y, x + width, y + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image.filter(ImageFilter.GaussianBlur(0.7))


def by_severity(*values: float) -> list[tuple[int, float]]:
    return list(zip(SEVERITIES, values, strict=True))


def distance(one: Image.Image, two: Image.Image) -> float:
    """Mean absolute difference in levels of 0..255."""
    return float(np.abs(np.asarray(one, float) - np.asarray(two, float)).mean())


def test_the_study_names_the_same_kinds():
    assert get_args(Corruption) == tuple(KINDS)
    assert len(KINDS) == 19


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_gives_one_image_and_another_name_another(kind):
    image = photo()
    made = corrupt(image, kind, 3, "a.jpg")
    assert made.mode == "RGB" and made.size == image.size
    state = np.random.get_state()[1].copy()
    assert distance(made, corrupt(image, kind, 3, "a.jpg")) == 0
    assert (np.random.get_state()[1] == state).all()
    random = distance(made, corrupt(image, kind, 3, "b.jpg")) > 0
    assert random == (kind not in FIXED)


def test_another_process_makes_the_same():
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]);"
        "from PIL import Image;"
        "from sight_beyond_text.evaluation.corruptions import KINDS, corrupt;"
        "im = Image.linear_gradient('L').resize((64, 48));"
        "print(hashlib.sha256(b''.join(corrupt(im, k, 4, 'x').tobytes() for k in KINDS))"
        ".hexdigest())"
    )
    source = str(Path(__file__).parents[2] / "src")
    said = {
        subprocess.run(
            [sys.executable, "-c", code, source],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": "", "OMP_NUM_THREADS": "1"},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_more_severe_is_farther_away(kind):
    images = [photo(seed) for seed in range(3)]
    distances = [
        np.mean([distance(im, corrupt(im, kind, s, str(n))) for n, im in enumerate(images)])
        for s in SEVERITIES
    ]
    if kind == "saturate":
        # Severities 1 and 2 take colour away, 3 to 5 add it.
        assert distances[0] < distances[1] and sorted(distances[2:]) == distances[2:]
    elif kind == "glass_blur":
        # Its settings trade reach for rounds: 2 is as far away as 1, and 4 as 3.
        assert distances[0] < distances[2] < distances[4]
        assert distances[1] == pytest.approx(distances[0], rel=0.25)
        assert distances[3] == pytest.approx(distances[2], rel=0.25)
    elif kind in ("frost", "fog"):
        # What is laid over hides the image more and more, whose light it may well resemble.
        contrasts = [
            np.mean([_likeness(im, corrupt(im, kind, s, str(n))) for n, im in enumerate(images)])
            for s in SEVERITIES
        ]
        # Fog is as dense at 4 as at 3, but rougher.
        assert all(after < 1.01 * before for before, after in pairwise(contrasts))
        assert contrasts[4] < 0.7 * contrasts[0]
    else:
        assert sorted(distances) == distances
        assert distances[4] > 1.4 * distances[0]


def _likeness(one: Image.Image, two: Image.Image) -> float:
    """Share of the first image's differences between neighbours that the second keeps."""
    first, second = (
        np.diff(np.asarray(im.convert("L"), float), axis=0).ravel() for im in (one, two)
    )
    return float(first @ second / (first @ first))


@pytest.mark.parametrize(("severity", "scale"), by_severity(0.08, 0.12, 0.18, 0.26, 0.38))
def test_gaussian_noise_is_as_strong_as_published(severity, scale):
    made = np.asarray(
        corrupt(Image.new("RGB", (200, 200), (128,) * 3), "gaussian_noise", severity, "x")
    )
    level = made / 255 - 128 / 255
    inside = np.abs(level) < 0.49
    assert level.mean() == pytest.approx(0, abs=0.01)
    # Of a normal distribution cut at black and white, what lies inside is known.
    expected = math.erf(0.49 / scale / math.sqrt(2))
    assert inside.mean() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("severity", "share"), by_severity(0.03, 0.06, 0.09, 0.17, 0.27))
def test_impulse_noise_hits_its_share(severity, share):
    grey = Image.new("RGB", (200, 200), (90,) * 3)
    made = np.asarray(corrupt(grey, "impulse_noise", severity, "x"))
    assert (made != 90).mean() == pytest.approx(share, abs=0.005)
    assert set(np.unique(made)) == {0, 90, 255}
    assert (made == 255).mean() == pytest.approx(share / 2, abs=0.005)


@pytest.mark.parametrize(("severity", "photons"), by_severity(60, 25, 12, 5, 3))
def test_shot_noise_counts_photons(severity, photons):
    grey = Image.new("RGB", (200, 200), (51,) * 3)  # 0.2: hardly any count is cut off
    made = np.asarray(corrupt(grey, "shot_noise", severity, "x")) / 255
    assert made.mean() == pytest.approx(0.2, abs=0.01)
    assert made.std() == pytest.approx(math.sqrt(0.2 / photons), rel=0.05)


@pytest.mark.parametrize(("severity", "scale"), by_severity(0.15, 0.2, 0.35, 0.45, 0.6))
def test_speckle_noise_grows_with_the_light(severity, scale):
    made = np.asarray(
        corrupt(Image.new("RGB", (200, 200), (51,) * 3), "speckle_noise", severity, "x")
    )
    assert np.median(np.abs(made - 51.0)) == pytest.approx(0.6745 * scale * 51, rel=0.1)
    black = corrupt(Image.new("RGB", (50, 50)), "speckle_noise", severity, "x")
    assert np.asarray(black).max() == 0


@pytest.mark.parametrize(("severity", "share"), by_severity(0.4, 0.3, 0.2, 0.1, 0.05))
def test_contrast_shrinks_about_the_mean(severity, share):
    image = np.asarray(photo(), float)
    made = np.asarray(corrupt(photo(), "contrast", severity, "x"), float)
    expected = image.mean((0, 1)) + share * (image - image.mean((0, 1)))
    assert np.abs(made - expected).max() <= 0.51


@pytest.mark.parametrize(("severity", "more"), by_severity(0.1, 0.2, 0.3, 0.4, 0.5))
def test_brightness_raises_the_value_alone(severity, more):
    made = corrupt(Image.new("RGB", (4, 4), (100, 50, 25)), "brightness", severity, "x")
    value = min(1, 100 / 255 + more) * 255
    assert np.asarray(made)[0, 0] == pytest.approx([value, value / 2, value / 4], abs=0.51)
    black = corrupt(Image.new("RGB", (4, 4)), "brightness", severity, "x")
    assert np.asarray(black)[0, 0] == pytest.approx([255 * more] * 3, abs=0.51)


def test_saturate_by_hand():
    colour = Image.new("RGB", (4, 4), (200, 100, 100))  # saturation 1 / 2
    assert tuple(np.asarray(corrupt(colour, "saturate", 1, "x"))[0, 0]) == (200, 170, 170)
    assert tuple(np.asarray(corrupt(colour, "saturate", 3, "x"))[0, 0]) == (200, 0, 0)
    # Grey has no hue; as published it counts as red.
    grey = Image.new("RGB", (4, 4), (200, 200, 200))
    assert tuple(np.asarray(corrupt(grey, "saturate", 3, "x"))[0, 0]) == (200, 200, 200)
    assert tuple(np.asarray(corrupt(grey, "saturate", 5, "x"))[0, 0]) == (200, 160, 160)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("_blur")])
def test_blurs_keep_an_even_surface_and_smooth_an_edge(kind):
    even = Image.new("RGB", (80, 60), (40, 120, 200))
    assert distance(even, corrupt(even, kind, 5, "x")) < 1
    edge = Image.new("L", (81, 81), 0)
    edge.paste(255, (20, 20, 61, 61))
    made = np.asarray(corrupt(edge, kind, 3, "x"), float)
    assert ((made > 20) & (made < 235)).mean() > 0.03


def test_defocus_is_a_disc():
    point = Image.new("L", (41, 41))
    point.putpixel((20, 20), 255)
    made = np.asarray(corrupt(point, "defocus_blur", 1, "x"), float)[..., 0]
    rows, columns = np.nonzero(made)
    assert ((rows - 20) ** 2 + (columns - 20) ** 2).max() == 9
    assert made.max() == pytest.approx(255 / 29, abs=0.51)  # 29 points lie within a radius of 3


def test_pixelate_has_fewer_pixels():
    made = np.asarray(corrupt(photo(), "pixelate", 5, "x"))
    assert len(np.unique(made.reshape(-1, 3), axis=0)) <= (224 // 4) ** 2
    assert (made[::4, ::4] == made[1::4, 1::4]).all()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(list(KINDS)),
    st.sampled_from(SEVERITIES),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["RGB", "L", "1", "P", "LA", "RGBA"]),
    st.sampled_from([0, 128, 255]),
)
def test_any_size_and_mode(kind, severity, size, mode, level):
    made = corrupt(Image.new("L", size, level).convert(mode), kind, severity, "x")
    assert made.mode == "RGB" and made.size == size


@pytest.mark.parametrize("kind", KINDS)
def test_wide_images(kind):
    wide = photo(1, (500, 90))
    made = corrupt(wide, kind, 3, "x")
    assert made.size == (500, 90)
    assert 0.5 < distance(wide, made) < 110


@pytest.mark.parametrize("kind", KINDS)
def test_grey_images_are_taken_as_rgb(kind):
    grey = photo().convert("L")
    assert distance(corrupt(grey, kind, 2, "x"), corrupt(grey.convert("RGB"), kind, 2, "x")) == 0


def test_each_kind_is_made_fast():
    image = photo()
    for kind in KINDS:
        corrupt(image, kind, 5, "warm up")
        times = []
        for turn in range(3):
            start = time.perf_counter()
            corrupt(image, kind, 5, str(turn))
            times.append(time.perf_counter() - start)
        # Meant to be under 0.1 s; some room for a busy machine.
        assert min(times) < 0.3, kind


def test_unknown_kinds_and_severities_are_refused():
    with pytest.raises(UserError, match="no kind 'rain'; there are: gaussian_noise, "):
        corrupt(photo(), "rain", 1, "x")
    for severity in (0, 6):
        with pytest.raises(UserError, match=f"no severity {severity}; there are 1 to 5"):
            corrupt(photo(), "fog", severity, "x")


def processor(image, return_tensors):
    values = torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)
    return {"pixel_values": values[None]}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    photo(0, (60, 50)).save(folder / "a.png")
    photo(1, (60, 50)).save(folder / "deep" / "b.png")
    return folder


@pytest.mark.parametrize("cached", [False, True])
def test_pixels_are_corrupted_by_name(images, tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        pixels = CorruptedPixels(images, processor, "fog", 4, cache)
        for name in ("deep/b.png", "a.png", "deep/b.png"):
            clean = Image.open(images / name)
            made = pixels(name).permute(1, 2, 0).byte().numpy()
            assert (made == np.asarray(corrupt(clean, "fog", 4, name))).all()
    kept = sorted(
        path.relative_to(tmp_path / "cache").parent for path in tmp_path.rglob("cache/**/*.png")
    )
    assert [str(path) for path in kept] == (["fog/4", "fog/4/deep"] if cached else [])


def test_the_cache_is_read_and_knows_another_image_of_the_same_name(images, tmp_path):
    cache = tmp_path / "cache"
    before = CorruptedPixels(images, processor, "fog", 4, cache)("a.png")
    (kept,) = cache.rglob("*.png")
    Image.new("RGB", (60, 50), "red").save(kept)
    again = CorruptedPixels(images, processor, "fog", 4, cache)("a.png")
    assert again[0].eq(255).all() and again[1:].eq(0).all()
    photo(5, (60, 50)).save(images / "a.png")
    other = CorruptedPixels(images, processor, "fog", 4, cache)("a.png")
    assert not other.equal(again) and not other.equal(before)


def test_a_contact_sheet_shows_each_kind_at_each_severity(images):
    photo(2).save(images / "c.png")
    sheet = np.asarray(contact_sheet(images / "c.png", [1, 3, 5]), np.int16)
    width, height, rows = 3 * 224 + 4, 224 + 18 + 4, 10

    def tile(block, at):
        left, top = block // rows * width + 224 * at, block % rows * height + 18
        return sheet[top : top + 224, left : left + 224]

    clean = tile(0, 0)
    for block, kind in enumerate(KINDS, 1):
        tiles = [clean, *(tile(block, at) for at in range(3))]
        for one in range(4):
            assert tiles[one].std() > 3, f"{kind}: a tile is empty"
            for other in range(one):
                change = abs(tiles[one] - tiles[other]).mean()
                assert change > 0.5, f"{kind}: tiles {other} and {one} are the same"
    assert len(KINDS) == 19


def test_contact_sheet(images):
    sheet = contact_sheet(images / "a.png", [1, 5])
    assert sheet.width == 2 * (2 * 224 + 4) and sheet.height == 10 * (224 + 18 + 4)
    broken = images / "broken.png"
    broken.write_bytes((images / "a.png").read_bytes()[:200])
    with pytest.raises(UserError, match=r"broken\.png: not a readable image"):
        contact_sheet(broken, [1])
    with pytest.raises(UserError, match="no severity 7"):
        contact_sheet(images / "a.png", [7])
