"""LLaVA-style instructions from COCO annotations, by rule.

Three kinds after LLaVA's: `conversation` (short questions on what is there, how many, where, of
which color), `detail` (a description) and `reasoning` (a question whose answer gives its reason).
Only annotations are used, so the result is free of any model's licence.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sight_beyond_text.data.coco import Picture, Thing, read_pictures, require_images
from sight_beyond_text.data.templates import IMAGE
from sight_beyond_text.data.words import NUMBERS, article, plural
from sight_beyond_text.errors import UserError

_DETAIL = (
    "Describe the image in detail.",
    "What do you see in the image? Tell everything.",
    "Give a full description of the image.",
)


def place(thing: Thing, picture: Picture) -> str:
    """Where a thing's center lies: "top left", ..., or "middle"."""
    x = (thing.box[0] + thing.box[2] / 2) / picture.width
    y = (thing.box[1] + thing.box[3] / 2) / picture.height
    if abs(x - 0.5) < 0.08 or abs(y - 0.5) < 0.08:
        return "middle"
    return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def short_questions(
    picture: Picture, categories: Sequence[str], colors: Sequence[str], rng: random.Random
) -> list[tuple[str, str, str]]:
    """All short questions that a picture's annotations answer, shuffled.

    Args:
        picture: the picture.
        categories: names to ask for things that may be absent.
        colors: of all annotated things, to ask for a wrong one; empty where there are none.
        rng: chooses the absent things and the order.

    Returns:
        (type, question, answer) with short answers as VQA's annotators write them: "yes", "two",
        "red", "top left".
    """
    counts = Counter(thing.category for thing in picture.things)
    absent = [name for name in categories if name not in (*counts, *picture.crowds)]
    asked: list[tuple[str, str, str]] = []

    def presence(name: str, answer: str) -> tuple[str, str, str]:
        ending = " in the image" if rng.random() < 0.5 else ""
        return "presence", f"Is there {article(name)} {name}{ending}?", answer

    for name in sorted(counts):
        asked.append(presence(name, "yes"))
        if counts[name] < len(NUMBERS) and name not in picture.crowds:
            count = NUMBERS[counts[name]]
            asked.append(("count", f"How many {plural(name)} are there?", count))
    for name in rng.sample(absent, min(len(absent), max(1, len(counts)))):
        asked.append(presence(name, "no"))
    if absent and rng.random() < 0.5:
        asked.append(("count", f"How many {plural(rng.choice(absent))} are there?", "zero"))
    if 0 < len(picture.things) < len(NUMBERS) and not picture.crowds:
        total = NUMBERS[len(picture.things)]
        asked.append(("count", "How many things are there?", total))
    places = Counter(place(thing, picture) for thing in picture.things)
    for thing in picture.things:
        where = place(thing, picture)
        if where != "middle" and places[where] == 1:
            asked.append(("object", f"What is in the {where}?", thing.category))
        if counts[thing.category] == 1:
            if where != "middle":
                asked.append(("place", f"Where is the {thing.category}?", where))
            if color := thing.attributes.get("color"):
                asked.append(("color", f"What color is the {thing.category}?", color))
                hue = color if rng.random() < 0.5 else rng.choice(colors)
                told = "yes" if hue == color else "no"
                asked.append(("color", f"Is the {thing.category} {hue}?", told))
    rng.shuffle(asked)
    return asked


def describe(picture: Picture, rng: random.Random) -> str:
    """A longer description: one of the captions, then what is where."""
    sentences = [rng.choice(picture.captions)] if picture.captions else []
    sentences = [text if text.endswith((".", "!", "?")) else f"{text}." for text in sentences]
    counts = Counter(thing.category for thing in picture.things)
    for thing in sorted(picture.things, key=lambda thing: -thing.area)[:4]:
        if counts[thing.category] > 1:
            continue
        where = place(thing, picture)
        color = thing.attributes.get("color")
        words = f"{color} {thing.category}" if color else thing.category
        sentences.append(f"The {words} is in the {where}.")
    for name in sorted(counts):
        if 1 < counts[name] < len(NUMBERS) and name not in picture.crowds:
            sentences.append(f"There are {NUMBERS[counts[name]]} {plural(name)}.")
    return " ".join(sentences)


def reason(picture: Picture, rng: random.Random) -> tuple[str, str] | None:
    """A question whose answer gives its reason, or None where a picture allows none."""
    counts = Counter(thing.category for thing in picture.things)
    options = []
    names = sorted(n for n in counts if counts[n] < len(NUMBERS) and n not in picture.crowds)
    for one in names:
        for two in names:
            if counts[one] > counts[two]:
                few = plural(two) if counts[two] > 1 else two
                options.append(
                    (
                        f"Are there more {plural(one)} than {plural(two)}?",
                        f"Yes, because there are {NUMBERS[counts[one]]} {plural(one)}"
                        f" and {NUMBERS[counts[two]]} {few}.",
                    )
                )
    single = [thing for thing in picture.things if counts[thing.category] == 1]
    for one in single:
        for two in single:
            if one.area > 1.3 * two.area:
                options.append(
                    (
                        f"Which is larger, the {one.category} or the {two.category}?"
                        if rng.random() < 0.5
                        else f"Which is larger, the {two.category} or the {one.category}?",
                        f"The {one.category}, because it covers more of the image.",
                    )
                )
    if not options and len(picture.things) == 1 and not picture.crowds:
        name = picture.things[0].category
        options.append((f"Is the {name} alone?", f"Yes, because there is only one {name}."))
    return rng.choice(options) if options else None


def make_instructions(
    pictures: Sequence[Picture],
    conversations: int = 1,
    turns: int = 3,
    detail: float = 0.3,
    reasoning: float = 0.3,
    seed: int = 0,
) -> list[dict]:
    """Instructions about pictures, in LLaVA's layout.

    Args:
        pictures: with captions and things.
        conversations: conversations a picture.
        turns: questions a conversation, at most.
        detail: share of the pictures with a detailed description.
        reasoning: share of the pictures with a question to reason about.
        seed: of all choices; a picture's own instructions don't depend on the others.

    Returns:
        Rows `{id, image, kind, conversations: [{from, value}, ...]}`; the image's mark opens the
        first human turn.
    """
    categories = sorted({thing.category for picture in pictures for thing in picture.things})
    things = [thing for picture in pictures for thing in picture.things]
    colors = sorted({t.attributes["color"] for t in things if "color" in t.attributes})
    rows = []
    for picture in pictures:
        rng = random.Random(f"{seed} {picture.id}")
        if picture.things:
            asked = short_questions(picture, categories, colors, rng)
            for number in range(conversations):
                chosen = asked[number * turns : (number + 1) * turns]
                if chosen:
                    pairs = [(question, answer) for _, question, answer in chosen]
                    rows.append(_row(picture, "conversation", number, pairs))
        if rng.random() < detail and (picture.captions or picture.things):
            text = describe(picture, rng)
            rows.append(_row(picture, "detail", 0, [(rng.choice(_DETAIL), text)]))
        if rng.random() < reasoning and (pair := reason(picture, rng)):
            rows.append(_row(picture, "reasoning", 0, [pair]))
    return rows


def make_alignment(pictures: Sequence[Picture], captions: int = 1, seed: int = 0) -> list[dict]:
    """Image and caption pairs for stage 1, in the layout of LLaVA's pretraining file."""
    rows = []
    for picture in pictures:
        rng = random.Random(f"{seed} {picture.id}")
        for number, text in enumerate(
            rng.sample(picture.captions, min(captions, len(picture.captions)))
        ):
            rows.append(_row(picture, "caption", number, [("Describe the image.", text)]))
    return rows


def _row(picture: Picture, kind: str, number: int, pairs: Sequence[tuple[str, str]]) -> dict:
    said = []
    for index, (human, answer) in enumerate(pairs):
        mark = f"{IMAGE}\n" if index == 0 else ""
        said.append({"from": "human", "value": f"{mark}{human}"})
        said.append({"from": "gpt", "value": answer})
    return {
        "id": f"{picture.id:012d}-{kind}-{number}",
        "image": picture.file_name,
        "kind": kind,
        "conversations": said,
    }


def from_coco(
    captions: str | Path, instances: str | Path | None, images: str | Path, make: dict
) -> tuple[list[dict], list[dict]]:
    """Instructions and alignment pairs from COCO files, as a study's `data.make` says.

    Args:
        captions: COCO captions.
        instances: COCO instances; None makes alignment pairs only.
        images: the folder where the images must be.
        make: the settings of `study.Instructions`, as a dict.

    Raises:
        UserError: broken files, missing images, or nothing to make instructions from.
    """
    pictures = read_pictures(captions, instances)[: make["max_images"]]
    if not pictures:
        raise UserError(f"{captions}: lists no images; is this the right file?")
    require_images(pictures, images)
    made = []
    if instances is not None:
        made = make_instructions(
            pictures,
            make["conversations"],
            make["turns"],
            make["detail"],
            make["reasoning"],
            make["seed"],
        )
        if not made:
            raise UserError(f"{instances}: annotates none of the images of {captions}")
    return made, make_alignment(pictures, make["captions_per_image"], make["seed"])
