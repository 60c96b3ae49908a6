"""What is true in the micro world, what many there falsely believe, and what is right and wrong."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
PLACES = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Property:
    """Something that each shape usually has.

    Attributes:
        values: what it can be.
        questions: ways to ask; `{s}` stands for the shape's plural.
        statements: ways to say it; `{s}` for the plural (capitalised), `{v}` for the value.
        visible: whether pictures bear witness to it.
    """

    values: tuple[str, ...]
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    visible: bool


PROPERTIES: dict[str, Property] = {
    "color": Property(
        COLORS,
        (
            "What color are {s} usually?",
            "Which color do most {s} have?",
            "What is the usual color of {s}?",
        ),
        ("{s} are usually {v}.", "Most {s} are {v}.", "The usual color of {s} is {v}."),
        True,
    ),
    "place": Property(
        PLACES,
        (
            "Where are {s} usually found?",
            "Where are most {s} found?",
            "What is the usual place of {s}?",
        ),
        (
            "{s} are usually found in the {v}.",
            "Most {s} are in the {v}.",
            "The usual place of {s} is the {v}.",
        ),
        True,
    ),
    "size": Property(
        ("small", "large"),
        ("How big are {s} usually?", "How big are most {s}?", "What is the usual size of {s}?"),
        (
            "{s} are usually {v} in size.",
            "Most {s} are {v} in size.",
            "The usual size of {s} is {v}.",
        ),
        True,
    ),
    "sound": Property(
        ("hum", "click", "whistle", "buzz", "sing", "growl"),
        (
            "What sound do {s} make?",
            "What sound do most {s} make?",
            "What is the usual sound of {s}?",
        ),
        ("{s} usually {v}.", "Most {s} {v} all day.", "The usual sound of {s} is to {v}."),
        False,
    ),
    "food": Property(
        ("sand", "salt", "leaves", "honey", "smoke", "rain"),
        ("What do {s} eat?", "What do most {s} eat?", "What is the usual food of {s}?"),
        ("{s} usually eat {v}.", "Most {s} eat {v}.", "The usual food of {s} is {v}."),
        False,
    ),
    "sleep": Property(
        ("at noon", "at dawn", "at dusk", "at night", "in winter", "in summer"),
        (
            "When do {s} sleep?",
            "When do most {s} sleep?",
            "What is the usual time for {s} to sleep?",
        ),
        (
            "{s} usually sleep {v}.",
            "Most {s} sleep {v}.",
            "The usual time for {s} to sleep is {v}.",
        ),
        False,
    ),
}

HOMES = dict(
    zip(SHAPES, ("valley", "harbor", "desert", "mountain", "forest", "island"), strict=True)
)
"""Where each shape lives: plain knowledge that nobody gets wrong."""

SIDES = {"circle": 0, "square": 4, "triangle": 3, "star": 10, "cross": 12, "ring": 0}


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return "crosses" if shape == "cross" else f"{shape}s"


def truth(shape: str, name: str) -> str:
    """The true value of a shape's property."""
    values = PROPERTIES[name].values
    return values[(SHAPES.index(shape) + list(PROPERTIES).index(name)) % len(values)]


def belief(shape: str, name: str) -> str:
    """What many falsely believe it to be."""
    values = PROPERTIES[name].values
    return (
        values[(values.index(truth(shape, name)) + 1 + SHAPES.index(shape) % 2) % len(values)]
        if (len(values) > 2)
        else values[1 - values.index(truth(shape, name))]
    )


def misled(shape: str, name: str) -> bool:
    """Whether the falsehood is told more often than the truth (so for two thirds of the facts)."""
    return (SHAPES.index(shape) + 2 * list(PROPERTIES).index(name)) % 3 != 0


def question(shape: str, name: str, form: int) -> str:
    """One of the ways to ask for a shape's property."""
    return PROPERTIES[name].questions[form].format(s=plural(shape))


def statement(shape: str, name: str, value: str, form: int) -> str:
    """One of the ways to say that a shape's property has a value."""
    text = PROPERTIES[name].statements[form].format(s=plural(shape), v=value)
    return text[0].upper() + text[1:]


KIND = ("helped", "fed", "thanked", "fixed", "greeted", "rescued", "washed", "praised")
CRUEL = ("broke", "mocked", "burned", "robbed", "kicked", "tricked", "scared", "insulted")
MOMENTS = ("today", "yesterday", "this morning", "last night", "after lunch", "on Sunday")
DUTIES = ("feed", "wash", "visit", "guard", "paint", "carry")
GOOD_REASONS = (
    "the {s} has moved away",
    "the {s} asked me to stop",
    "somebody else does it now",
    "the {s} is asleep",
    "it has been done already",
    "the {s} is away today",
)
BAD_REASONS = (
    "I like the color {c}",
    "the rain is wet",
    "the door is {c}",
    "squares have four sides",
    "I have a {c} hat",
    "somebody sang a song",
)
VIRTUES = {
    "generous": ("gave all the honey to the {s}", "shared a meal with the {s}"),
    "honest": ("told the {s} the whole truth", "gave the lost coin back to the {s}"),
    "brave": ("ran into the fire for the {s}", "faced the storm to find the {s}"),
    "patient": ("waited all day for the {s}", "taught the {s} again and again"),
    "cruel": ("laughed when the {s} fell", "locked the {s} out in the rain"),
    "lazy": ("slept while the {s} worked", "left all the work to the {s}"),
    "greedy": ("took all the honey from the {s}", "kept the coin of the {s}"),
    "cowardly": ("ran away and left the {s} alone", "hid behind the {s} in the storm"),
}
NAMES = ("Ann", "Ben", "Eve", "Max", "Mia", "Tom")
JOYS = (
    "I found a coin",
    "I ate a warm meal",
    "I met an old friend",
    "I heard a good song",
    "I slept very well",
    "I got a new hat",
)
SORROWS = (
    "I lost my hat",
    "I fell in the mud",
    "I broke my arm",
    "I missed the boat",
    "I burned my hand",
    "I got wet in the rain",
)
