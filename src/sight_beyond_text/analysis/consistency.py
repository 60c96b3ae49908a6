"""Whether a study's tables agree with each other."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sight_beyond_text.analysis import tidy
from sight_beyond_text.errors import UserError
from sight_beyond_text.explorer.pictures import read_pictures

_MOST = 3
"""So many examples are named in a line."""


def contradictions(folder: str | Path) -> list[str]:
    """What tables of one folder say against each other, or can't be read, one line each.

    Args:
        folder: The tables of one study. Of the items, only names are read, never texts.
    """
    folder = Path(folder)
    frames, lines = {}, []
    for table in tidy.FILES:
        try:
            frames[table] = (
                _items(folder / tidy.FILES[table])
                if table == "items"
                else tidy.read_table(folder, table)
            )
        except UserError as error:
            lines.append(str(error))
    try:
        read_pictures(folder)
    except UserError as error:
        lines.append(str(error))
    if "runs" not in frames:
        return lines
    known = set(frames["runs"]["run"])
    for table, frame in frames.items():
        for column in ("run", "other"):
            # Over seeds, a label stands for the other side.
            if column in frame and "run" in frame:
                unknown = sorted(set(frame[column]).difference(known, {""}))
                lines += _line(folder, table, unknown, f"unknown in {tidy.FILES['runs']}", column)
    if "scores" in frames:
        lines += _line(
            folder, "runs", sorted(known.difference(frames["scores"]["run"])), "not scored", "run"
        )
    if "scores" in frames and "items" in frames:
        keys = ["run", "suite", "benchmark"]
        scored = set(frames["scores"][keys].itertuples(index=False, name=None))
        found = set(frames["items"][keys].itertuples(index=False, name=None))
        alone = ["/".join(key) for key in sorted(found - scored)]
        lines += _line(folder, "items", alone, f"without a score in {tidy.FILES['scores']}", "run")
    return lines


def _items(path: Path) -> pd.DataFrame:
    """Who answered what: one row per run, suite and benchmark."""
    keys = ["run", "suite", "benchmark"]
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in tidy.ITEMS if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: lacks the column(s) {', '.join(missing)}")
            names = file.read(columns=tidy.KEYS["items"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({str(error)[:120]})") from None
    counted = names.group_by(tidy.KEYS["items"]).aggregate([([], "count_all")])
    if counted.num_rows < names.num_rows:
        raise UserError(f"{path}: {names.num_rows - counted.num_rows} row(s) occur twice")
    return counted.group_by(keys).aggregate([]).to_pandas()


def _line(folder: Path, table: str, wrong: list[str], what: str, column: str) -> list[str]:
    if not wrong:
        return []
    told = ", ".join(wrong[:_MOST]) + (", ..." if len(wrong) > _MOST else "")
    return [f"{folder / tidy.FILES[table]}: {len(wrong)} {column}(s) {what}: {told}"]
