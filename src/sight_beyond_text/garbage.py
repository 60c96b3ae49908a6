"""What was made that no study refers to any more, and its removal."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sight_beyond_text import grid
from sight_beyond_text.errors import UserError
from sight_beyond_text.locks import is_held, try_held
from sight_beyond_text.study import FETCHED, IMPORTED, Study

ROOTS = {
    "run": grid.RUNS,
    "alignment": grid.ALIGNMENTS,
    "study": "results/studies",
    "features": grid.FEATURES,
    "instructions": "resources/instructions",
    "leaks": "resources/leaks",
    "import": IMPORTED,
    "world": "resources/micro",
    "download": FETCHED,
}
"""Folders by the kind of what lies in them; an evaluation lies in its subject's run."""

_REMAINS = ".removed-"
"""Begins the names of folders whose removal was begun."""


def find(studies: Mapping[str, Study], results: str | Path, resources: str | Path) -> list[dict]:
    """What lies in the folders of `ROOTS` and isn't any study's.

    Args:
        studies: those whose runs and caches are kept, by the files that they were read from.
        results: the folder that is called `results` in a study's directory.
        resources: the one that is called `resources`.

    Returns:
        A row each: `kind`, `path`, `bytes`, `changed` (ISO date of the newest file in it), `locked`
        (a living process makes it).

    Raises:
        UserError: a study whose inputs aren't there, so that its runs' ids can't be told.
    """
    kept = set().union(*(referred(study, file) for file, study in studies.items()))
    given = {"results": Path(results), "resources": Path(resources)}
    found = []
    for kind, root in ROOTS.items():
        top, _, rest = root.partition("/")
        for folder in _folders(given[top] / rest):
            name = f"{root}/{folder.name}"
            if folder.name.startswith(_REMAINS):
                found.append(_row("remains", folder))
            elif name not in kept:
                found.append(_row(kind, folder))
            elif kind == "run":
                gone = [p for p in _evaluations(folder) if f"{name}/{p.name}" not in kept]
                found += [_row("evaluation", p) for p in gone]
    return found


def referred(study: Study, file: str) -> set[str]:
    """The folders that a study makes or reads, as paths that begin with `results` or `resources`.

    Raises:
        UserError: its inputs aren't there.
    """
    missing = grid.missing_inputs(study)
    if missing:
        raise UserError(
            f"{file}: what it refers to can't be told, as inputs are missing: {missing[0]}; mend"
            " that, or leave the study out"
        )
    evaluations = [spec["folder"] for spec in grid.evaluation_specs(study)]
    made = [f"{grid.RUNS}/{subject['id']}" for subject in grid.subjects(study)]
    made += [f"{grid.ALIGNMENTS}/{spec['id']}" for spec in grid.align_specs(study)]
    made += [spec["folder"] for spec in grid.features_specs(study)]
    made += [spec["folder"] for spec in grid.import_specs(study)]
    made += [spec["folder"] for spec in grid.resource_specs(study) if spec["folder"]]
    made += [spec["folder"] for spec in [grid.instructions_spec(study)] if spec]
    made += [grid.leaks_spec(study)["folder"]] if study.data.leakage == "drop" else []
    made += [f"results/studies/{study.name}", *evaluations]
    made += [study.world] if study.world else []
    # A study may read what another made, as the checkpoint of a reference.
    named = (study.path(text) for text in _texts(study.model_dump()))
    whole = {
        "/".join(os.path.relpath(path).split(os.sep)[:3])
        for path in named
        if path and "\0" not in path
    }
    return {*made, *whole}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _folders(root: Path) -> list[Path]:
    """The folders in one; links lead elsewhere, and are left alone."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())


def _row(kind: str, folder: Path) -> dict:
    states = [part.lstat() for part in (folder, *folder.rglob("*"))]
    changed = max(state.st_mtime for state in states)
    return {
        "kind": kind,
        "path": str(folder),
        "bytes": sum(state.st_size for state in states),
        "changed": datetime.datetime.fromtimestamp(changed).isoformat(" ", "minutes"),
        "locked": any(is_held(part) for part in _lockable(folder)),
    }


def _lockable(folder: Path) -> list[Path]:
    """A run's folder and those of its evaluations, which are each held by themselves."""
    return [folder, *_evaluations(folder)]


def _evaluations(run: Path) -> list[Path]:
    return [path for path in _folders(run) if path.name.startswith(("text-", "image-"))]


def remove(rows: Iterable[dict]) -> list[dict]:
    """Removes what was found, but for what a living process holds.

    A folder gets another name first: it is there as a whole, or it isn't. What is left of an
    interrupted removal is found, and removed, the next time.

    Returns:
        The rows, each with `removed`, and `why` where it wasn't.
    """
    return [{**row, **_removed(Path(row["path"]))} for row in rows]


def _removed(folder: Path) -> dict:
    with contextlib.ExitStack() as holding:
        mine = [holding.enter_context(try_held(part, True)) for part in _lockable(folder)]
        if not all(mine):
            return {"removed": False, "why": "a living process makes it"}
        try:
            gone = folder
            if not folder.name.startswith(_REMAINS):
                gone = folder.with_name(f"{_REMAINS}{folder.name}-{os.getpid()}")
                os.rename(folder, gone)
                # Of imports and downloads, the record lies beside the folder.
                folder.with_name(f"{folder.name}.json").unlink(missing_ok=True)
            shutil.rmtree(gone)
        except OSError as error:
            return {"removed": False, "why": f"{error.filename}: {error.strerror}"}
    return {"removed": True}
