"""Finding what was trained or imported: its checkpoint, and the models that it stands on."""

from __future__ import annotations

from pathlib import Path

from sight_beyond_text import grid
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json
from sight_beyond_text.study import Study, Tower, read


def find(name: str, study: str | Path | None = None) -> dict:
    """A subject to load, as `grid.subjects` makes them.

    Args:
        name: a run's id or folder, or a checkpoint's folder; with a study, also the id or name of
            one of its bases and references.
        study: the study file that names the models which the checkpoint stands on, where its own
            record can't tell.

    Returns:
        `{id, mode, base, template, tower, checkpoint, projector, precision}`; `tower` and
        `projector` are None for a language model alone.

    Raises:
        UserError: nothing of that name, or models that can't be told.
    """
    known = read(study) if study is not None else None
    folder = _checkpoint(name)
    if folder is not None:
        return subject_of(folder, known)
    for subject in grid.subjects(known) if known is not None else ():
        if name == subject["id"] and subject["kind"] == "run":
            raise UserError(
                f"{name}: not trained yet; `snakemake --cores 2` trains the study's runs"
            )
        if name in (subject["id"], subject["base_name"]) and subject["kind"] != "run":
            folder = subject["checkpoint"]
            if folder is None or subject["mode"] is not None:
                return dict(subject)
            if _checkpoint(folder) is None:
                raise UserError(
                    f"{name}: its released weights aren't imported yet; `snakemake --cores 2"
                    f" {folder}.json --configfile {study}` does it"
                )
            return {**subject, "mode": subject_of(folder, known)["mode"]}
    raise UserError(
        f"{name}: no finished run, checkpoint, base or reference of that name;"
        " `sight plan` lists a study's runs, a run lies in results/runs/<run>"
    )


def _checkpoint(name: str) -> Path | None:
    given = Path(name)
    roots = (given, given / "checkpoint", *(Path(root) / name / "checkpoint" for root in _ROOTS))
    return next((root for root in roots if (root / grid.COMPLETE).is_file()), None)


def subject_of(folder: str | Path, study: Study | None = None) -> dict:
    """What to load for a checkpoint, told by its record, and by a study where that can't tell.

    Raises:
        UserError: the record isn't one, or neither it nor the study knows the models.
    """
    folder = Path(folder)
    path = folder / grid.COMPLETE
    record = read_json(path, "completion record of a training")
    recipe = record.get("recipe") if isinstance(record, dict) else None
    if not isinstance(recipe, dict) or recipe.get("mode") not in _MODES:
        raise UserError(f"{path}: not the record of a training or an import")
    tower = recipe.get("tower")
    if tower is not None and tower["model"] is None:
        tower = None
    if tower is not None:
        known = record.get("tower") if study is None else None
        found = known or _tower(tower["model"], study, f"{path}: the vision tower")
        tower = Tower(**{**tower, **found}).model_dump()
    projector = (folder / "projector.safetensors").is_file()
    # A study comes before the record: it says where things lie today.
    base = record.get("base") if study is None else None
    return {
        "id": record["id"],
        # An alignment leaves the language model alone, as a frozen tuning does.
        "mode": "frozen" if recipe["mode"] == "align" else recipe["mode"],
        "base": base or _base(recipe.get("base"), study, f"{path}: the base"),
        "template": recipe.get("template"),
        "tower": tower,
        "checkpoint": str(folder),
        "projector": str(folder) if projector and tower else None,
        "precision": recipe.get("training", {}).get("precision", "bf16"),
    }


def _base(identity: str | None, study: Study | None, what: str) -> dict:
    """`{model, revision, remote_code}` of a base's identity in a recipe."""
    for named in study.bases.values() if study is not None else ():
        found = grid.base_source(study, named)
        if grid.identity(found["model"], found["revision"]) == identity:
            return found
    return {**_elsewhere(identity, what), "remote_code": False}


def _tower(identity: str | None, study: Study | None, what: str) -> dict:
    """`{model, revision}` of a tower's identity in a recipe."""
    if study is not None:
        found = {"model": study.path(study.tower.model), "revision": study.tower.revision}
        if grid.identity(found["model"], found["revision"]) == identity:
            return found
    return _elsewhere(identity, what)


def _elsewhere(identity: str | None, what: str) -> dict:
    """`{model, revision}` of an identity that tells where the model lies."""
    if identity is None:
        raise UserError(f"{what} isn't told there; train or import it again")
    if identity.startswith("folder:"):
        raise UserError(
            f"{what} is a local folder ({identity}); name a study (--study) that says where it lies"
        )
    if not identity.startswith("hub:"):
        return {"model": identity, "revision": None}
    model, _, revision = identity.removeprefix("hub:").rpartition("@")
    return {"model": model, "revision": revision}


_ROOTS = (grid.RUNS, grid.ALIGNMENTS)
_MODES = ("align", "frozen", "lora", "qlora", "full")
