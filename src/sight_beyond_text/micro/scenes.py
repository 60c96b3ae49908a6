"""Drawn scenes: what is in them, how they look, and their COCO annotations."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from sight_beyond_text.files import write_json
from sight_beyond_text.micro.lore import COLORS, PLACES, SHAPES, truth

SIDE = 64
"""Width and height of a scene in pixels."""

RGB = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 90, 210),
    "yellow": (235, 200, 30),
    "purple": (140, 60, 190),
    "orange": (245, 130, 20),
}
_CENTERS = {
    "top left": (16, 16),
    "top right": (48, 16),
    "bottom left": (16, 48),
    "bottom right": (48, 48),
}
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Drawn:
    """One object of a scene: its looks, its center and half its width in pixels."""

    shape: str
    color: str
    size: str
    place: str
    x: float
    y: float
    radius: float


Scene = tuple[Drawn, ...]


def sample_scene(rng: random.Random) -> Scene:
    """A scene of one or two objects at different places.

    An object has its shape's true usual color, place and size more often than any other, but far
    from always, so that pictures bear witness to the facts without giving an answer away.
    """
    free = list(PLACES)
    drawn = []
    for _ in range(rng.choice((1, 1, 1, 2, 2))):
        shape = rng.choice(SHAPES)
        usual_place = truth(shape, "place")
        place = usual_place if usual_place in free and rng.random() < 0.4 else rng.choice(free)
        free.remove(place)
        color = truth(shape, "color") if rng.random() < 0.3 else rng.choice(COLORS)
        size = truth(shape, "size") if rng.random() < 0.5 else rng.choice(("small", "large"))
        radius = rng.uniform(8.5, 9.5) if size == "small" else rng.uniform(12, 13)
        x, y = _CENTERS[place]
        wobble = 2.0
        drawn.append(
            Drawn(
                shape,
                color,
                size,
                place,
                x + rng.uniform(-wobble, wobble),
                y + rng.uniform(-wobble, wobble),
                radius,
            )
        )
    return tuple(sorted(drawn, key=lambda thing: PLACES.index(thing.place)))


def outline(thing: Drawn) -> list[tuple[float, float]]:
    """The polygon that bounds an object, in pixels."""
    if thing.shape == "circle":
        points = _around(24, [1.0])
    elif thing.shape == "square":
        points = [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    elif thing.shape == "triangle":
        points = [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)]
    elif thing.shape == "star":
        points = _around(10, [1.0, 0.42])
    elif thing.shape == "cross":
        a = 0.33
        points = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
        points += [(a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
    elif thing.shape == "ring":
        points = _around(24, [1.0])
    else:
        raise ValueError(f"no such shape: {thing.shape}")
    return [(thing.x + px * thing.radius, thing.y + py * thing.radius) for px, py in points]


def _around(count: int, radii: list[float]) -> list[tuple[float, float]]:
    turn = 2 * math.pi / count
    return [
        (
            radii[i % len(radii)] * math.sin(i * turn),
            -radii[i % len(radii)] * math.cos(i * turn),
        )
        for i in range(count)
    ]


def draw(scene: Scene, rng: random.Random) -> Image.Image:
    """Draws a scene (SIDE x SIDE, RGB) on a light ground of a random grey."""
    grey = rng.randint(225, 250)
    side = SIDE * _OVERSAMPLING
    image = Image.new("RGB", (side, side), (grey, grey, grey))
    pen = ImageDraw.Draw(image)
    for thing in scene:
        pen.polygon(
            [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in outline(thing)], RGB[thing.color]
        )
        if thing.shape == "ring":
            hole = thing.radius * 0.5
            box = [thing.x - hole, thing.y - hole, thing.x + hole, thing.y + hole]
            pen.ellipse([edge * _OVERSAMPLING for edge in box], (grey, grey, grey))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def noun(thing: Drawn) -> str:
    """The object in words: "small red circle", or "red circle" where it is large."""
    return f"{'small ' if thing.size == 'small' else ''}{thing.color} {thing.shape}"


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def captions(scene: Scene, rng: random.Random) -> list[str]:
    """Five captions, as COCO has them: each names every object, in its own words and order."""
    listed = []
    for form in range(5):
        things = list(scene)
        rng.shuffle(things)
        if form % 2 == 0:
            parts = [f"{_a(noun(t))} in the {t.place}" for t in things]
        else:
            parts = [f"{_a(f'{t.color} {t.shape}')} in the {t.place}" for t in things]
        joined = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
        opening = ("", "A picture of ", "There is ", "", "We see ")[form]
        sentence = f"{opening}{joined}."
        listed.append(sentence[0].upper() + sentence[1:])
    return listed


def write_split(
    scenes: list[Scene], folder: str | Path, split: str, seed: int, first_id: int
) -> None:
    """Writes one split as COCO does: `images/<split>/*.png`, captions and instances.

    Args:
        scenes: what to draw.
        folder: gets `images/<split>` and `annotations/{captions,instances}_<split>.json`.
        split: "train" or "val".
        seed: of the ground's grey and the captions' wording.
        first_id: the first image id; splits must not share ids.
    """
    folder = Path(folder)
    target = folder / "images" / split
    target.mkdir(parents=True, exist_ok=True)
    images, said, seen = [], [], []
    for offset, scene in enumerate(scenes):
        image_id = first_id + offset
        rng = random.Random(f"{seed} {split} {offset}")
        name = f"{image_id:012d}.png"
        draw(scene, rng).save(target / name)
        images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
        for text in captions(scene, rng):
            said.append({"id": len(said) + 1, "image_id": image_id, "caption": text})
        for thing in scene:
            points = outline(thing)
            xs, ys = [x for x, _ in points], [y for _, y in points]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            seen.append(
                {
                    "id": len(seen) + 1,
                    "image_id": image_id,
                    "category_id": SHAPES.index(thing.shape) + 1,
                    "bbox": [round(value, 2) for value in box],
                    "area": round(box[2] * box[3], 2),
                    "segmentation": [[round(value, 2) for point in points for value in point]],
                    "iscrowd": 0,
                    "attributes": {"color": thing.color, "size": thing.size},
                }
            )
    about = {"description": "Drawn scenes of the micro world", "version": "1"}
    categories = [{"id": i, "name": s, "supercategory": "shape"} for i, s in enumerate(SHAPES, 1)]
    notes = folder / "annotations"
    write_json(
        notes / f"captions_{split}.json",
        {"info": about, "images": images, "annotations": said},
        None,
    )
    write_json(
        notes / f"instances_{split}.json",
        {"info": about, "images": images, "annotations": seen, "categories": categories},
        None,
    )
