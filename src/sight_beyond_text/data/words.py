"""A little English for texts made by rule: articles, plurals, numbers."""

from __future__ import annotations

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "broccoli": "broccoli",
    "knife": "knives",
    "wine glass": "wine glasses",
}


def article(noun: str) -> str:
    """ "a" or "an", by the first letter."""
    return "an" if noun[:1].lower() in "aeiou" else "a"


def plural(noun: str) -> str:
    """The plural of a COCO category's name or another regular noun."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"
