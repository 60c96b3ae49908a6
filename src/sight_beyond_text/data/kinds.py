"""The kind of an instruction, told by LLaVA's three files of one kind each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sight_beyond_text.data.layouts import read_rows
from sight_beyond_text.errors import UserError


def read_kinds(files: Mapping[str, str | Path]) -> dict[str, dict[int, str]]:
    """What tells a sample's kind: by its id, the kinds that have it, each by its first answer.

    LLaVA's ids are those of images, and one image may be in all three files, so an id alone isn't
    always enough.

    Args:
        files: by kind ("conversation", "detail", "reasoning"), LLaVA-style JSON.

    Returns:
        By id: by the hash of the first answer, the kind.

    Raises:
        UserError: a file can't be read, or a row has no id or no answer.
    """
    return kinds_of(
        (kind, path, read_rows(path, f"instructions of kind {kind}"))
        for kind, path in files.items()
    )


def kinds_of(
    several: Iterable[tuple[str, str | Path, Iterable[dict]]],
) -> dict[str, dict[int, str]]:
    """As `read_kinds`, of rows that were read already: each kind, its file and its rows."""
    known: dict[str, dict[int, str]] = {}
    for kind, path, rows in several:
        for number, row in enumerate(rows, 1):
            try:
                name, answer = str(row["id"]), _first_answer(row)
            except (KeyError, TypeError, IndexError):
                raise UserError(
                    f"{path}: sample {number}: needs 'id' and 'conversations'; is this one of"
                    " LLaVA's files by kind?"
                ) from None
            known.setdefault(name, {})[answer] = kind
    return known


def with_kinds(rows: Iterable[dict], known: Mapping[str, Mapping[int, str]]) -> list[dict]:
    """Rows with their `kind`; those that have one, and those that no file has, stay as they are.

    Args:
        rows: LLaVA-style samples.
        known: what `read_kinds` gives. An id that only one kind has is enough; else the first
            answer decides.
    """
    out = []
    for row in rows:
        kinds = known.get(str(row["id"]))
        if "kind" not in row and kinds:
            kind = kinds.get(_first_answer(row))
            if kind is None and len(set(kinds.values())) == 1:
                (kind,) = set(kinds.values())
            if kind is not None:
                row = {**row, "kind": kind}
        out.append(row)
    return out


def _first_answer(row: Mapping) -> int:
    return hash(row["conversations"][1]["value"].strip())
