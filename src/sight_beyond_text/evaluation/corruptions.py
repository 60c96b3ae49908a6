"""Corrupted images: the 19 kinds of ImageNet-C at severities 1 to 5, made on the fly.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (2019); the constants are those of the code published with it. They are lengths in
pixels and shares of the brightness, and hold for any size, as in Michaelis et al., "Benchmarking
Robustness in Object Detection" (2019), whose motion blur (the original calls ImageMagick) and
elastic transform (the original supposes 224 pixels) are used here.

What differs from the published pictures: frost is drawn, not photographed, to the brightness and
the tint of the published photos; zooms have sub-pixel grids; drops of spatter have their outline by
erosion in place of Canny's edges; levels are rounded, not cut off.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage, signal

from sight_beyond_text.errors import UserError

VERSION = 1
"""Raised when a kind comes out otherwise than before, so that kept images aren't taken for it."""

SEVERITIES = (1, 2, 3, 4, 5)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ICE = np.array([0.86, 1.0, 1.1], np.float32)
_WATER = np.array([175, 238, 238], np.float32) / 255
_MUD = np.array([63, 42, 20], np.float32) / 255


def corrupt(image: Image.Image, kind: str, severity: int, name: str) -> Image.Image:
    """Corrupts one image.

    Args:
        image: any size; grey ones are taken as RGB.
        kind: one of `KINDS`.
        severity: 1 (mild) to 5.
        name: the image's name. What is random follows from name, kind and severity alone, so an
            image is corrupted alike in every run, order and process.

    Returns:
        An RGB image of the same size.

    Raises:
        UserError: there is no such kind or severity.
    """
    if kind not in KINDS:
        raise UserError(f"corruption: no kind {kind!r}; there are: {', '.join(KINDS)}")
    if severity not in SEVERITIES:
        raise UserError(f"corruption: no severity {severity!r}; there are 1 to 5")
    make, settings = KINDS[kind]
    seed = hashlib.sha256(f"{kind}/{severity}/{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    return _image(make(pixels, settings[severity - 1], rng))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8))


# What follows gets pixels (H, W, 3) in 0..1, the settings of a severity and a random generator.


def _gaussian_noise(pixels, scale, rng):
    return pixels + rng.normal(scale=scale, size=pixels.shape)


def _shot_noise(pixels, photons, rng):
    return rng.poisson(pixels * photons) / photons


def _impulse_noise(pixels, share, rng):
    """Salt and pepper: each channel of each pixel by itself."""
    hit = rng.random(pixels.shape) < share
    return np.where(hit, rng.random(pixels.shape) < 0.5, pixels)


def _speckle_noise(pixels, scale, rng):
    return pixels * (1 + rng.normal(scale=scale, size=pixels.shape))


def _gaussian_blur(pixels, sigma, rng=None):
    widths = (sigma, sigma, 0)[: pixels.ndim]
    return ndimage.gaussian_filter(pixels, widths, mode="nearest", truncate=4)


def _glass_blur(pixels, settings, rng):
    """Blurs, lets pixels take the place of near ones, blurs again."""
    sigma, reach, rounds = settings
    height, width = pixels.shape[:2]
    blurred = np.floor(_gaussian_blur(pixels, sigma) * 255) / 255
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    here = (rows[:, None] * width + columns).ravel()
    taken = list(range(height * width))
    for _ in range(rounds):
        down, right = rng.integers(-reach, reach, size=(2, here.size))
        there = here + down * width + right
        # One after the other, as a pixel may be taken on. The published code means to swap, but
        # its swap of views copies.
        for at, origin in zip(here.tolist(), there.tolist(), strict=True):
            taken[at] = taken[origin]
    moved = blurred.reshape(-1, 3)[taken].reshape(pixels.shape)
    return _gaussian_blur(moved, sigma)


def _defocus_blur(pixels, settings, rng):
    """Convolution with a disc that is a little softened."""
    radius, softness = settings
    reach = max(8, radius)
    across = np.arange(-reach, reach + 1)
    disc = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.float32)
    taps = np.exp(-(np.arange(-2, 3) ** 2) / (2 * softness**2))
    if radius <= 8:
        taps = taps[1:-1]
    taps /= taps.sum()
    for axis in (0, 1):
        disc = ndimage.correlate1d(disc, taps, axis, mode="mirror")
    around = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return signal.oaconvolve(around, (disc / disc.sum())[..., None], "valid", axes=(0, 1))


def _motion_blur(pixels, settings, rng):
    radius, sigma = settings
    return _streak(pixels, radius, sigma, rng.uniform(-45, 45))


def _streak(pixels, radius, sigma, degrees):
    """Mean of copies moved ever further in one direction, weighted by half a Gaussian."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    down = -np.ceil(steps * math.sin(math.radians(degrees)) - 0.5).astype(int)
    right = -np.ceil(steps * math.cos(math.radians(degrees)) - 0.5).astype(int)
    height, width = pixels.shape[:2]
    reach = 2 * radius
    margins = [(reach, reach), (reach, reach), (0, 0)][: pixels.ndim]
    around = np.pad(pixels, margins, mode="edge")
    mean = np.zeros_like(pixels)
    for weight, dy, dx in zip(weights, down, right, strict=True):
        top, left = reach - dy, reach - dx
        mean += weight * around[top : top + height, left : left + width]
    return mean


def _zoom_blur(pixels, zooms, rng):
    height, width = pixels.shape[:2]
    image = _image(pixels)
    total = pixels.copy()
    for zoom in zooms:
        left, top = width * (1 - 1 / zoom) / 2, height * (1 - 1 / zoom) / 2
        box = (left, top, width - left, height - top)
        zoomed = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        total += np.asarray(zoomed, np.float32) / 255
    return total / (len(zooms) + 1)


def _fog(pixels, settings, rng):
    strength, decay = settings
    brightest = pixels.max()
    fog = strength * _clouds(*pixels.shape[:2], decay, rng)
    return (pixels + fog[..., None]) * brightest / (brightest + strength)


def _clouds(height, width, decay, rng):
    """A height map (H, W) in 0..1 by the diamond-square algorithm; a small decay is rough."""
    size = 1 << max(1, (max(height, width) - 1).bit_length())
    heights = np.zeros((size, size), np.float32)
    step, wobble = size, 100.0
    while step >= 2:
        half = step // 2
        corners, centres = heights[::step, ::step], heights[half::step, half::step]
        across, along = corners + np.roll(corners, -1, 1), corners + np.roll(corners, -1, 0)
        centres[:] = _wobbled(across + np.roll(across, -1, 0), wobble, rng)
        heights[::step, half::step] = _wobbled(
            across + centres + np.roll(centres, 1, 0), wobble, rng
        )
        heights[half::step, ::step] = _wobbled(
            along + centres + np.roll(centres, 1, 1), wobble, rng
        )
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return (heights / heights.max())[:height, :width]


def _wobbled(around, wobble, rng):
    return around / 4 + wobble * rng.uniform(-wobble, wobble, around.shape)


def _frost(pixels, settings, rng):
    kept, added = settings
    return kept * pixels + added * _ice(*pixels.shape[:2], rng)


def _ice(height, width, rng):
    """A picture (H, W, 3) of ice on a pane: bundles of needles over a cloudy film."""
    scale = max(1.0, max(height, width) / 224)
    sheet = Image.new("L", (width, height), 128)
    draw = ImageDraw.Draw(sheet)
    bundles = 20 + round(250 * height * width / (224 * scale) ** 2)
    for _ in range(bundles):
        x, y, heading = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, math.pi)
        for _ in range(rng.integers(6, 16)):
            angle = heading + rng.normal(scale=0.18)
            start, length = rng.normal(scale=4 * scale, size=2), rng.uniform(6, 34) * scale
            line = [x + start[0], y + start[1]]
            line += [line[0] + length * math.cos(angle), line[1] + length * math.sin(angle)]
            draw.line(line, fill=int(rng.integers(0, 256)), width=round(scale))
    needles = np.asarray(sheet, np.float32) / 255 - 0.5
    film = _clouds(height, width, 1.9, rng)
    grain = rng.normal(scale=0.03, size=(height, width))
    level = rng.uniform(0.25, 0.6) + 0.4 * film + 0.5 * _gaussian_blur(needles, 0.6) + grain
    return (level.astype(np.float32)[..., None] * _ICE).clip(0, 1)


def _snow(pixels, settings, rng):
    """Whitens, and adds flakes: noise, enlarged, cut at a threshold, streaked; and once turned."""
    mean, deviation, zoom, least, radius, sigma, kept = settings
    height, width = pixels.shape[:2]
    fewer = (math.ceil(height / zoom), math.ceil(width / zoom))
    noise = Image.fromarray(rng.normal(mean, deviation, fewer).astype(np.float32))
    box = (0, 0, width / zoom, height / zoom)
    flakes = np.asarray(noise.resize((width, height), Image.Resampling.BILINEAR, box=box))
    flakes = np.where(flakes < least, 0, flakes.clip(0, 1))
    flakes = _streak(flakes, radius, sigma, rng.uniform(-135, -45))
    white = np.maximum(pixels, (pixels @ _LUMA * 1.5 + 0.5)[..., None])
    return kept * pixels + (1 - kept) * white + (flakes + np.rot90(flakes, 2))[..., None]


def _spatter(pixels, settings, rng):
    mean, deviation, sigma, least, strength, mud = settings
    noise = rng.normal(mean, deviation, pixels.shape[:2]).astype(np.float32)
    liquid = _gaussian_blur(noise, sigma)
    wet = liquid >= least
    if mud:
        cover = _gaussian_blur(wet.astype(np.float32), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return pixels * (1 - cover) + _MUD * cover
    relief = np.where(wet, liquid, 0) * _drops(wet)
    light = strength * relief / max(relief.max(), 1e-12)
    return pixels + light[..., None] * _WATER


def _drops(wet):
    """How bright drops of water are at each place, from the distance to their outline."""
    outline = wet & ~ndimage.binary_erosion(wet, border_value=1)
    away = np.full(wet.shape, 20.0)
    if outline.any():
        away = ndimage.distance_transform_edt(~outline).clip(max=20)
    levels = ndimage.uniform_filter(away, 3, mode="mirror").astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256)
    first = counts[levels.min()]
    if first < levels.size:
        spread = (counts.cumsum() - first) * 255 / (levels.size - first)
        levels = np.rint(spread.clip(0)).astype(np.uint8)[levels]
    relief = ndimage.correlate(levels.astype(np.int32), _RELIEF, mode="mirror").clip(0, 255)
    return np.rint(ndimage.uniform_filter(relief.astype(np.float32), 3, mode="mirror"))


def _contrast(pixels, share, rng):
    mean = pixels.mean(axis=(0, 1))
    return mean + (pixels - mean) * share


def _brightness(pixels, more, rng):
    """Raises the value of HSV; hue and saturation stay."""
    value = pixels.max(-1, keepdims=True)
    raised = (value + more).clip(max=1)
    return np.where(value > 0, pixels / np.where(value > 0, value, 1) * raised, raised)


def _saturate(pixels, settings, rng):
    """Scales and shifts the saturation of HSV; grey, whose hue counts as red, is tinted by it."""
    factor, more = settings
    value = pixels.max(-1, keepdims=True)
    below = value - pixels
    most = below.max(-1, keepdims=True)
    red = value * np.array([0, 1, 1], np.float32)
    below = np.where(most > 0, below * value / np.where(most > 0, most, 1), red)
    saturation = most / np.where(value > 0, value, 1)
    return value - below * (saturation * factor + more).clip(0, 1)


def _jpeg_compression(pixels, quality, rng):
    file = io.BytesIO()
    _image(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / 255


def _pixelate(pixels, share, rng):
    image = _image(pixels)
    fewer = (max(1, int(image.width * share)), max(1, int(image.height * share)))
    coarse = image.resize(fewer, Image.Resampling.BOX)
    return np.asarray(coarse.resize(image.size, Image.Resampling.NEAREST), np.float32) / 255


def _elastic_transform(pixels, strength, rng):
    """Moves each pixel a little, near ones alike."""
    height, width = pixels.shape[:2]
    sigma, most = (0.01 * height, 0.01 * width), 0.005 * height
    rows, columns = np.indices((height, width), np.float32)
    for place in (columns, rows):
        moves = rng.uniform(-most, most, (height, width)).astype(np.float32)
        place += strength * ndimage.gaussian_filter(moves, sigma, mode="reflect", truncate=3)
    places = np.stack([rows, columns])
    channels = [
        ndimage.map_coordinates(pixels[..., channel], places, order=1, mode="reflect")
        for channel in range(3)
    ]
    return np.stack(channels, axis=-1)


_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])

KINDS: dict[str, tuple[Callable, tuple]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (_defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": (
        _glass_blur,
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (_motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (
        _zoom_blur,
        (
            np.linspace(1, 1.11, 12),
            np.linspace(1, 1.15, 16),
            np.linspace(1, 1.2, 11),
            np.linspace(1, 1.24, 13),
            np.linspace(1, 1.3, 11),
        ),
    ),
    "snow": (
        _snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (_frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": (_fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (_elastic_transform, (12.5, 16.25, 21.25, 25, 30)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (_jpeg_compression, (25, 18, 15, 10, 7)),
    "speckle_noise": (_speckle_noise, (0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": (_gaussian_blur, (1, 2, 3, 4, 6)),
    "spatter": (
        _spatter,
        (
            (0.65, 0.3, 4, 0.69, 0.6, False),
            (0.65, 0.3, 3, 0.68, 0.6, False),
            (0.65, 0.3, 2, 0.68, 0.5, False),
            (0.65, 0.3, 1, 0.65, 1.5, True),
            (0.67, 0.4, 1, 0.65, 1.5, True),
        ),
    ),
    "saturate": (_saturate, ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
}
"""Kinds, each with what makes it and its settings at the five severities; the last four are the
extra ones of ImageNet-C."""
