"""A look at large files of instructions: some of the rows stand for all. No torch.

Parsing the published files takes longer than `sight plan` may take. Their rows are counted exactly,
and evenly spaced ones read.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Collection, Mapping
from heapq import nlargest
from pathlib import Path
from typing import Any, NamedTuple

WHOLE = 16 * 2**20
"""Bytes up to which a file is read as a whole."""

ROWS = 6000
"""Rows that are read of a larger one: mean lengths are then within 2 % or so."""

LONGEST = 40
"""Rows of the largest that are read beside them, for the longest sample may be among these."""


class Glance(NamedTuple):
    """Some rows of a file.

    Attributes:
        count: of all rows.
        rows: evenly spaced ones, in order.
        longest: those that take the most bytes.
    """

    count: int
    rows: list[Any]
    longest: list[Any]


def glance(path: str | Path, rows: int = ROWS) -> Glance | None:
    """Looks at a file of rows: a JSON list of objects, or JSON lines.

    Args:
        path: the file.
        rows: how many to read, about.

    Returns:
        None where rows can't be told from what is in them; the file must be read as a whole then.

    Raises:
        OSError: it can't be read.
    """
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        first = _OBJECT.search(content)
        if first is None:
            return None
        # A quote within a string has a backslash before it, so a brace, a quote, a word, a quote
        # and a colon begin an object, and rows are those that begin with the same key.
        starts = [found.start() for found in re.finditer(_begins(first[1]), content)]
        ends = [*starts[1:], len(content)]
        step = max(1, len(starts) // rows)
        places = list(zip(starts, ends, strict=True))
        largest = nlargest(LONGEST, places, key=lambda place: place[1] - place[0])
        try:
            chosen = [_row(content[start:end]) for start, end in places[::step]]
            longest = [_row(content[start:end]) for start, end in largest]
        except ValueError:
            return None
        if any(not isinstance(row, Mapping) for row in chosen):
            return None
        return Glance(len(starts), chosen, longest)


def rows_with(path: str | Path, names: Collection[str]) -> list[Any] | None:
    """The rows of a file that have one of some ids; the others aren't parsed.

    Args:
        path: a JSON list of objects that begin with their `id`, or JSON lines.
        names: the ids, as text.

    Returns:
        None where ids can't be told without parsing.

    Raises:
        OSError: the file can't be read.
    """
    wanted = {name.encode() for name in names}
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        first = _OBJECT.search(content)
        if first is None or first[1] != b"id":
            return None
        found = [(row.start(), row[1] or row[2]) for row in _ID.finditer(content)]
        ends = [*(start for start, _ in found[1:]), len(content)]
        try:
            return [
                _row(content[start:end])
                for (start, name), end in zip(found, ends, strict=True)
                if name in wanted
            ]
        except ValueError:
            return None


_ID = re.compile(rb'\{\s*"id"\s*:\s*(?:"([^"\\]*)"|(\d+))')
_OBJECT = re.compile(rb'\{\s*"(\w+)"\s*:')


def _begins(key: bytes) -> re.Pattern[bytes]:
    return re.compile(rb'\{\s*"' + re.escape(key) + rb'"\s*:')


def _row(text: bytes) -> Any:
    """A row with what stands between it and the next.

    Raises:
        ValueError: it isn't one object alone.
    """
    return json.loads(text.decode("utf-8").rstrip(" \t\r\n,]"))
