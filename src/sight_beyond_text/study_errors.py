"""Mistakes in a study file, told in one line each: where, what was found, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError


def describe(error: ValidationError, root: type[BaseModel], files: Sequence[str | Path]) -> str:
    """All mistakes of a validation, a line each.

    Args:
        error: what pydantic found.
        root: the model that was validated, to name the keys that are allowed.
        files: the YAML files that the values came from, the last one winning.
    """
    lines = []
    for found in error.errors():
        if found["type"] == "literal_error" and isinstance(found.get("input"), list):
            continue  # the other branch of a union, a list, tells what's wrong with it
        place = [part for part in found["loc"] if not _is_branch(part)]
        at = where(place, files)
        key = ".".join(str(part) for part in place) or "the study"
        lines.append(f"{at}{key}: {_what(found, place, root)}")
    return "\n".join(dict.fromkeys(lines))


def _is_branch(part: str | int) -> bool:
    """Pydantic names the branches of a union and a dict's key check inside the location."""
    return isinstance(part, str) and (part == "[key]" or "[" in part)


def _what(found: dict, place: list, root: type[BaseModel]) -> str:
    kind, value = found["type"], found.get("input")
    if kind == "extra_forbidden":
        allowed = _keys_at(root, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), allowed, 1, 0.5)
        guess = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key; {guess}known keys: {', '.join(allowed)}"
    if kind == "missing":
        return "is missing; it must be given"
    if kind == "literal_error":
        near = difflib.get_close_matches(str(value), _quoted(found["ctx"]["expected"]), 1, 0.5)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        return f"found {value!r}, allowed: {found['ctx']['expected']}{guess}"
    if kind == "value_error":
        return str(found["ctx"]["error"])
    message = found["msg"][0].lower() + found["msg"][1:]
    return f"found {_short(value)}; {message}"


def _quoted(text: str) -> list[str]:
    return text.split("'")[1::2]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys_at(model: type[BaseModel], place: list) -> list[str]:
    """The keys of the model at a place, walking through dicts of models."""
    here: Any = model
    in_dict = False
    for part in place:
        if isinstance(part, int):
            continue  # an item of a list; its model is that of the list's annotation
        if in_dict:
            in_dict = False  # a dict's own key leads to the model of its values
        elif here is not None:
            field = here.model_fields.get(str(part))
            in_dict = field is not None and get_origin(field.annotation) is dict
            here = _model_in(field.annotation) if field else None
    return sorted(here.model_fields) if here is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        inner = _model_in(part)
        if inner is not None:
            return inner
    return None


def where(place: Sequence[str | int], files: Sequence[str | Path]) -> str:
    """`file:line: ` of the deepest part of a place that one of the files has."""
    best = ("", -1)
    for path in files:
        try:
            node = yaml.compose(Path(path).read_text(encoding="utf-8"), yaml.SafeLoader)
        except (OSError, yaml.YAMLError):
            continue
        line, depth = 1, 0
        for part in place:
            step = _child(node, part)
            if step is None:
                break
            line, node, depth = step[0], step[1], depth + 1
        if depth >= best[1]:
            best = (f"{path}:{line}: ", depth)
    return best[0]


def _child(node: Any, part: str | int) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None
