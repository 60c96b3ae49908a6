"""Conversations of other layouts as LLaVA-style samples: Alpaca's, ShareGPT's, LLaVA's own answers.

What can't be a conversation of turns is left out, and told with its reason: nothing is mended
silently, nothing lost unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sight_beyond_text.data.templates import IMAGE
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json, read_json_lines

HUMAN = frozenset({"human", "user"})
ASSISTANT = frozenset({"gpt", "assistant", "chatgpt", "bard", "bing"})
KINDS = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}
"""What LLaVA's files of questions call the kinds of instruction."""


class Laid(NamedTuple):
    """The samples of a file, as LLaVA lays them out.

    Attributes:
        layout: "llava", "alpaca" or "sharegpt".
        rows: samples `{id, image?, kind?, conversations}`.
        left_out: (id, reason) of what couldn't be one.
    """

    layout: str
    rows: list[dict]
    left_out: list[tuple[str, str]]


def read_rows(path: str | Path, what: str = "instructions") -> list[Any]:
    """A JSON list, or the objects of JSON lines (by the suffix `.jsonl`).

    Raises:
        UserError: broken JSON, or no list.
    """
    if str(path).endswith(".jsonl"):
        rows = read_json_lines(path, what)
    else:
        rows = read_json(path, what)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: LLaVA-style instructions are a list of samples; found none")
    return rows


def read_laid(path: str | Path, layout: str | None = None) -> Laid:
    """Reads instructions in any of the layouts.

    LLaVA: `{id, image?, conversations: [{from, value}]}`, human and gpt in turn. Alpaca:
    `{instruction, input?, output}`; LLaVA's questions with answers have `image` and `type` as well.
    ShareGPT: `conversations` as they came, or `messages: [{role, content}]`.

    Args:
        path: a JSON list, or JSON lines.
        layout: "llava", "alpaca" or "sharegpt"; None: by the first row's keys. ShareGPT's own files
            have LLaVA's keys, so theirs must be named.

    Raises:
        UserError: the file can't be read, or nothing of it can be learned from.
    """
    return laid_out(read_rows(path), layout, path)


def laid_out(rows: list[Any], layout: str | None, path: str | Path) -> Laid:
    """As `read_laid`, of rows that were read already; `path` names them in errors."""
    layout = layout or _told_by(rows[0])
    if layout == "llava":
        return Laid(layout, rows, [])
    convert = {"alpaca": _alpaca, "sharegpt": _sharegpt}[layout]
    kept: list[dict] = []
    left_out: list[tuple[str, str]] = []
    for number, row in enumerate(rows, 1):
        name = str(row.get("id", number)) if isinstance(row, Mapping) else str(number)
        made = convert(row, name)
        if isinstance(made, str):
            left_out.append((name, made))
        else:
            kept.append(made)
    if not kept:
        raise UserError(
            f"{path}: nothing of its {len(rows)} samples can be learned from; the first:"
            f" {left_out[0][1]}"
        )
    return Laid(layout, kept, left_out)


def _told_by(row: Any) -> str:
    keys = row.keys() if isinstance(row, Mapping) else ()
    if "instruction" in keys and "output" in keys:
        return "alpaca"
    return "sharegpt" if "messages" in keys else "llava"


def _alpaca(row: Any, name: str) -> dict | str:
    if not isinstance(row, Mapping):
        return "not an object"
    said = [row.get(key) or "" for key in ("instruction", "input", "output")]
    if not all(isinstance(text, str) for text in said):
        return "a part that isn't text"
    instruction, given, output = said
    if not instruction.strip() or not output.strip():
        return "no instruction or no output"
    image = row.get("image")
    if image is None and IMAGE in f"{instruction}{given}{output}":
        return f"a text that holds {IMAGE}"
    asked = f"{instruction}\n{given}" if given.strip() else instruction
    made: dict[str, Any] = {"id": name}
    if image is not None:
        made["image"] = image
        asked = asked if IMAGE in asked else f"{IMAGE}\n{asked}"
    if row.get("type") in KINDS:
        made["kind"] = KINDS[row["type"]]
    made["conversations"] = [{"from": "human", "value": asked}, {"from": "gpt", "value": output}]
    return made


def _sharegpt(row: Any, name: str) -> dict | str:
    """Opening turns of the assistant and a last question without answer are cut off."""
    given = row.get("messages", row.get("conversations")) if isinstance(row, Mapping) else None
    if not isinstance(given, list):
        return "no list of turns"
    turns: list[dict] = []
    for turn in given:
        role = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
        text = turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None
        if role not in HUMAN | ASSISTANT or not isinstance(text, str):
            return f"a turn of {role!r}" if isinstance(text, str) else "a turn without text"
        if IMAGE in text:
            return f"a text that holds {IMAGE}"
        if role in ASSISTANT and not turns:
            continue
        turns.append({"from": "human" if role in HUMAN else "gpt", "value": text})
    if len(turns) % 2:
        turns.pop()
    if not turns:
        return "no question with an answer"
    if any(turn["from"] != ("human", "gpt")[place % 2] for place, turn in enumerate(turns)):
        return "roles that don't take turns"
    if not all(turn["value"].strip() for turn in turns):
        return "an empty turn"
    return {"id": name, "conversations": turns}
