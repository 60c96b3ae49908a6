"""Cached tables of an older layout made into those of the present one."""

from __future__ import annotations

from pathlib import Path

from sight_beyond_text import cache
from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.compare import derive
from sight_beyond_text.analysis.outcomes import Gatherer
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json

_KEPT = ("runs", "scores", "items", "curves")
"""What can't be made again from anything in the folder."""


def migrate(folder: str | Path, spec: dict | None = None) -> bool:
    """Makes anew what follows from a folder's runs, scores and items, and writes its layout.

    Args:
        folder: tables of this or an older layout.
        spec: `grid.compare_spec`, for claims and published values; what the old layout tells of
            them by default.

    Returns:
        Whether there was anything to do.

    Raises:
        UserError: the layout is newer; or runs, scores, items or curves are missing, broken, or
            were changed by hand since they were written.
    """
    folder = Path(folder)
    old = _old(folder)
    if old.get("layout") == cache.LAYOUT:
        wrong = cache.differences(folder, cache.read_layout(folder))
        kept = [line for line in wrong if any(tidy.FILES[table] in line for table in _KEPT)]
        if kept:
            raise UserError("\n".join(kept))
        if not wrong and spec is None:
            return False
    runs, scores, _ = (tidy.read_table(folder, table) for table in ("runs", "scores", "curves"))
    items = Gatherer()
    items.add(tidy.read_items(folder / tidy.FILES["items"]))
    told = old.get("derived", {}) if spec is None else spec
    derived = {key: told.get(key, []) for key in cache.DERIVED}
    derive(folder, runs, scores, items, derived)
    cache.write_layout(folder, (spec or old).get("study", folder.resolve().name), derived)
    return True


def _old(folder: Path) -> dict:
    path = folder / cache.FILE
    if not path.is_file():
        return {}
    old = read_json(path, "layout of cached tables")
    number = old.get("layout") if isinstance(old, dict) else None
    if not isinstance(number, int) or number > cache.LAYOUT:
        # It tells what is wrong.
        cache.read_layout(folder)
    return old
