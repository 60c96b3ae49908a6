"""Released weights that a study's references are made of: imported once, checked, recorded."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import COMPLETE, write_json
from sight_beyond_text.grid import tower_misfits
from sight_beyond_text.models.checkpoints import verify
from sight_beyond_text.models.published import import_checkpoint


def import_released(spec: Mapping, record: str | Path) -> dict:
    """Imports released weights for a study, or finds that they are there.

    Args:
        spec: what and what for (`grid.import_spec`).
        record: gets the record, last.

    Returns:
        The checkpoint's own record (`published.import_checkpoint`).

    Raises:
        UserError: what `import_checkpoint` raises, or a projector that was made for another tower
            than the study's.
    """
    folder = Path(spec["folder"])
    made = _whole(folder)
    if made is None:
        shutil.rmtree(folder, ignore_errors=True)
        made = import_checkpoint(
            spec["source"],
            folder,
            spec["base"],
            spec["tower"]["model"],
            spec["revision"],
            spec["template"],
        )
    misfits = tower_misfits(made["recipe"], spec["tower"])
    if misfits:
        raise UserError(
            f"{spec['source']}: {'; '.join(misfits)}; mend the study's tower or leave it out"
        )
    write_json(record, {"folder": str(folder), **made})
    return made


def _whole(folder: Path) -> dict | None:
    """The record of a checkpoint that is there, and as its import wrote it."""
    if not (folder / COMPLETE).is_file():
        return None
    try:
        return verify(folder)
    except UserError as error:
        print(f"{error}; doing so")
        return None
