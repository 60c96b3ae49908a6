"""From a study to specs: what each alignment, run and evaluation needs, and its identity.

A spec is one flat dict that a command gets as a whole. Its `recipe` holds everything that changes
the result and nothing that doesn't; the id is a readable slug and 8 hex digits of the recipe.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import cache, cached_property, wraps
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.text_data import default_shots
from sight_beyond_text.files import COMPLETE, digest, read_json, sha256
from sight_beyond_text.study import (
    BF16_RECIPE_VERSION,
    FETCHED,
    IMPORTED,
    RECIPE_VERSION,
    RELEASED_FILES,
    Base,
    Cell,
    Item,
    Lora,
    Model,
    Reference,
    Source,
    Study,
)
from sight_beyond_text.study_claims import Side, chosen, pairs
from sight_beyond_text.study_errors import where

RUNS = "results/runs"
ALIGNMENTS = "results/alignments"
FEATURES = "resources/features"


class Spec(dict):
    """A dict whose text is JSON, so that a shell command can carry it. Made once, never changed."""

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        return json.dumps(self, sort_keys=True)

    def __format__(self, form: str) -> str:
        return format(str(self), form)


def _once(make: Callable) -> Callable:
    """Keeps what a function of a study, and of more that can be hashed, made of them.

    Every run asks for its alignment, every evaluation for its run: large grids would be worked out
    many times over. Files that a study names are looked at once for each `Study`.
    """

    @wraps(make)
    def remembered(study: Study, *arguments):
        key = (make.__name__, *arguments)
        if key not in study.remembered:
            study.remembered[key] = make(study, *arguments)
        return study.remembered[key]

    return remembered


def identity(path: str, revision: str | None = None) -> str:
    """What a path or hub id stands for, wherever it lies.

    Files that the workflow makes bear their recipe in their path. A local file is known by its
    content; a local folder by its files' content, but weights by name and size; a hub id by its
    revision.
    """
    if path.startswith(_MADE_HERE):
        return path
    local = Path(path)
    if local.is_file():
        return f"sha256:{_content(local)}"
    if local.is_dir():
        files = [file for file in sorted(local.rglob("*")) if file.is_file()]
        parts = [
            [str(f.relative_to(local)), f.stat().st_size if f.suffix in _WEIGHTS else _content(f)]
            for f in files
        ]
        return f"folder:{digest(parts)}"
    return f"hub:{path}@{revision or 'main'}"


def _content(file: Path) -> str:
    state = file.stat()
    return _hash(str(file), state.st_size, state.st_mtime_ns)


@cache
def _hash(file: str, size: int, changed: int) -> str:
    """A file's hash; the same file is asked for by many specs."""
    return sha256(file)


def missing_inputs(study: Study) -> list[str]:
    """A line for each local file or folder that the study names and that isn't there."""
    named: list[tuple[str, str | None]] = [
        (f"data.{key}", getattr(study.data, key))
        for key in ("images", "captions", "instances", "instructions", "alignment")
    ]
    named += [(f"data.kinds.{kind}", path) for kind, path in study.data.kinds.items()]
    named += [(f"sources.{n}.instructions", s.instructions) for n, s in study.sources.items()]
    named += [(f"evaluation.text.{n}.path", b.path) for n, b in study.evaluation.text.items()]
    for name, benchmark in study.evaluation.image.items():
        for key in ("images", "questions", "annotations"):
            named.append((f"evaluation.image.{name}.{key}", getattr(benchmark, key)))
    lines = []
    for key, given in named:
        path = given and study.path(given)
        # What will be made or fetched needn't be there yet.
        if path is None or path.startswith(_MADE_HERE) or Path(path).exists():
            continue
        lines.append(f"{key}: {path}: no such file or folder; mend the path or fetch the data")
    models = [("tower.model", study.tower.model)]
    models += [(f"bases.{name}.model", base.model) for name, base in study.bases.items()]
    models += [(f"references.{name}.model", base.model) for name, base in study.references.items()]
    for key, model in models:
        made = study.path(model).startswith(_MADE_HERE)
        if not made and not Path(model).exists() and not is_hub_id(model):
            lines.append(f"{key}: {model}: no such folder, and no hub id (owner/name) either")
    for name, reference in study.references.items():
        lines += [f"references.{name}.checkpoint: {why}" for why in _misfits(study, reference)]
        local = reference.released and reference.released.local
        if local and not Path(local).is_dir():
            lines.append(f"references.{name}.released.local: {local}: no such folder")
    return lines


def is_hub_id(model: str) -> bool:
    """Whether a model is named as the hub does it (owner/name), and nothing local has the name."""
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith((".", "~"))
    return bool(named) and not Path(model).exists()


def resource_specs(study: Study) -> list[Spec]:
    """What is to be fetched: the resources, and the models that come from the hub by name."""
    made = [
        Spec(
            name=name,
            folder=study.resource_folder(name),
            record=f"{study.resource_folder(name)}.json",
            items=[item.model_dump() for item in resource.items],
        )
        for name, resource in study.resources.items()
        if resource.local is None
    ]
    asked: dict[str, list[dict]] = {}
    for model in (study.tower, *study.bases.values(), *study.references.values()):
        if is_hub_id(study.path(model.model)):
            _ask(asked, repo=model.model, revision=model.revision)
    for imported in import_specs(study):
        if imported["local"] is None:
            source = {"repo": imported["source"], "revision": imported["revision"]}
            _ask(asked, **source, files=RELEASED_FILES)
    for repo, items in asked.items():
        record = f"{FETCHED}/{repo.replace('/', '--')}-{digest(items)}.json"
        made.append(Spec(name=repo, folder=None, record=record, items=items))
    return made


def _ask(asked: dict[str, list[dict]], **source) -> None:
    """Notes what is to be fetched of a model's repository, once."""
    item = Item(kind="model", **source).model_dump()
    items = asked.setdefault(item["repo"], [])
    if item not in items:
        items.append(item)


def import_specs(study: Study) -> list[Spec]:
    """The released weights that references are made of, and what they are imported for."""
    return [
        import_spec(study, reference)
        for reference in study.references.values()
        if reference.released is not None
    ]


@_once
def import_spec(study: Study, reference: Reference) -> Spec:
    """How a reference's released weights become a checkpoint, and where it lies.

    Its identity is known before anything is fetched.
    """
    released, tower = reference.released, _tower(study)
    source = released.local or released.repo
    recipe = {
        "version": RECIPE_VERSION,
        "released": identity(source, released.revision),
        "base": identity(**_named(base_source(study, reference))),
        "template": reference.template,
        "tower": _identified_tower(tower),
    }
    folder = f"{IMPORTED}/{source.rstrip('/').split('/')[-1]}-{digest(recipe)}"
    return Spec(
        source=source,
        local=released.local,
        revision=released.revision,
        base=base_source(study, reference),
        template=reference.template,
        tower=tower,
        folder=folder,
        record=f"{folder}.json",
    )


def _misfits(study: Study, reference: Reference) -> list[str]:
    """Why a reference's checkpoint can't be evaluated with the study's models."""
    if reference.checkpoint is None:
        return []
    if not (Path(reference.checkpoint) / COMPLETE).is_file():
        return [f"{reference.checkpoint}: no checkpoint there; `sight import` makes one"]
    recipe = _checkpoint_record(reference)["recipe"]
    out = []
    base = identity(**_named(base_source(study, reference)))
    if _other_model(recipe.get("base"), base):
        out.append(f"it stands on the base {recipe['base']}, model says {base}")
    return out + tower_misfits(recipe, _tower(study))


def tower_misfits(recipe: dict, tower: dict) -> list[str]:
    """Why an imported checkpoint's projector can't read a tower, as far as its recipe tells.

    Args:
        recipe: of the checkpoint's record.
        tower: the study's, as a run's spec has it.
    """
    known, made_for = _identified_tower(tower), recipe.get("tower") or {}
    out = []
    for key, value in made_for.items():
        other = _other_model(value, known["model"]) if key == "model" else value != known.get(key)
        if other and key != "revision":
            out.append(f"its projector was made for tower.{key} {value}, found {known.get(key)}")
    return out


def _other_model(one: str | None, two: str) -> bool:
    """Whether two identities are surely two models; a hub id and a folder may be the same."""
    kinds = {str(name).partition(":")[0] for name in (one, two)}
    return one is not None and len(kinds) == 1 and one.partition("@")[0] != two.partition("@")[0]


def check_inputs(study: Study, files: Sequence[str | Path] = ()) -> None:
    """Refuses a study that names files which aren't there.

    Args:
        study: the study.
        files: the YAML files that it was read from, so that errors can say where.

    Raises:
        UserError: all of them, a line each.
    """
    lines = missing_inputs(study)
    if lines:
        keys = [line.partition(": ")[0].split(".") for line in lines]
        raise UserError(
            "\n".join(where(key, files) + line for key, line in zip(keys, lines, strict=True))
        )


@_once
def instructions_spec(study: Study) -> Spec | None:
    """How instructions and alignment pairs are made from COCO; None where files are given."""
    data = study.data
    if data.captions is None or (data.instructions and data.alignment):
        return None
    captions, images = study.path(data.captions), study.path(data.images)
    instances = None
    if data.instructions is None and data.instances is not None:
        instances = study.path(data.instances)
    recipe = {
        "version": RECIPE_VERSION,
        "captions": identity(captions),
        "instances": identity(instances) if instances else None,
        "make": data.make.model_dump(),
    }
    return Spec(
        captions=captions,
        instances=instances,
        images=images,
        make=data.make.model_dump(),
        folder=f"resources/instructions/{digest(recipe)}",
    )


def learned_from(study: Study) -> dict[str, str | None]:
    """The files of instructions that the study's runs learn from, with the layouts it gives."""
    made = instructions_spec(study)
    out: dict[str, str | None] = {}
    for given, name in ((study.data.alignment, "alignment"), (study.data.instructions, None)):
        path = study.path(given) if given else f"{made['folder']}/{name or 'instructions'}.json"
        out[path] = None
    for source in study.sources.values():
        if source.instructions is not None:
            out[study.path(source.instructions)] = source.layout
    return out


@_once
def leaks_spec(study: Study) -> Spec:
    """What is looked for in which files, before what leaks is left out of all runs."""
    files, text, image = learned_from(study), benchmarks(study, "text"), benchmarks(study, "image")
    text = {name: {**entry, "fewshot": None} for name, entry in text.items()}
    image = {name: entry for name, entry in image.items() if "corruption" not in entry}
    recipe = {"files": {path: identity(path) for path in files}, "text": [], "image": []}
    for suite, entries in (("text", text), ("image", image)):
        for entry in entries.values():
            known = {k: identity(v) for k, v in entry.items() if k in _FILES and v is not None}
            known |= {"images": _which_photos(entry), "prompt": None}
            kept = {k: v for k, v in entry.items() if k not in _BESIDE_IMAGES}
            recipe[suite].append({**kept, **known})
    return Spec(
        learned_from=files,
        text=text,
        image=image,
        folder=f"resources/leaks/{digest({'version': RECIPE_VERSION, **recipe})}",
    )


def _data(study: Study, stage: str, source: Source | None = None) -> dict:
    made = instructions_spec(study)
    given = study.data.alignment if stage == "align" else study.data.instructions
    if source is not None and source.instructions is not None:
        given = source.instructions
    if given is not None:
        instructions = study.path(given)
    else:
        name = "alignment" if stage == "align" else "instructions"
        instructions = f"{made['folder']}/{name}.json"
    captions = study.path(study.data.captions) if study.data.captions else None
    out = {
        "instructions": instructions,
        "images": study.path(study.data.images),
        "captions": captions,
        "captions_in_place": study.data.captions_in_place,
    }
    if study.data.leakage == "drop":
        out["leaks"] = f"{leaks_spec(study)['folder']}/leaks.json"
    if source is not None and source.layout is not None:
        out["layout"] = source.layout
    if source is not None and source.kinds != "all" and study.data.kinds:
        out["kinds"] = {kind: study.path(path) for kind, path in study.data.kinds.items()}
    if source is not None and source.boxes and study.data.instances is not None:
        out["instances"] = study.path(study.data.instances)
    return out


def _told(part: Model) -> dict:
    """A part of the study as plain data; what came later is there only where it was given."""
    return {
        key: value
        for key, value in part.model_dump().items()
        if key not in _LATER
        or value != type(part).model_fields[key].get_default(call_default_factory=True)
    }


_LATER = ("max_learned_tokens", "boxes", "shots", "more_metrics")


@_once
def features_spec(study: Study, precision: str) -> Spec:
    """The tower's features of all training images, computed once for all runs of a precision."""
    files = sorted(
        {_data(study, "align")["instructions"]}
        | {_data(study, "tune", source)["instructions"] for source in _with_images(study)}
    )
    images = study.path(study.data.images)
    tower = _tower(study)
    recipe = {
        "version": RECIPE_VERSION,
        "tower": _identified_tower(tower),
        "precision": precision,
        "instructions": [identity(path) for path in files],
        "images": images,
    }
    return Spec(
        tower=tower,
        precision=precision,
        instructions=files,
        images=images,
        limit_gib=study.data.feature_cache_gib,
        folder=f"{FEATURES}/{digest(recipe)}",
    )


def _with_images(study: Study) -> list[Source]:
    return [source for source in study.sources.values() if source.form == "visual"]


@_once
def seen_spec(study: Study, precision: str) -> Spec:
    """The tower's features of the benchmarks' images, computed once for all of a precision."""
    chosen = {
        name: {key: value for key, value in values.items() if key not in _BESIDE_IMAGES}
        for name, values in benchmarks(study, "image").items()
    }
    tower = _tower(study)
    recipe = {
        "version": RECIPE_VERSION,
        "tower": _identified_tower(tower),
        "precision": precision,
        "benchmarks": {name: _identified_files(values) for name, values in chosen.items()},
    }
    return Spec(
        tower=tower,
        precision=precision,
        benchmarks=chosen,
        limit_gib=study.evaluation.feature_cache_gib,
        folder=f"{FEATURES}/{digest(recipe)}",
    )


def _identified_files(benchmark: dict) -> dict:
    named = {k: identity(v) for k, v in benchmark.items() if k in _FILES and v is not None}
    if "corruption" in benchmark:
        named["corruption"] = {**benchmark["corruption"], "cache": None}
    return {**benchmark, **named}


def _which_photos(benchmark: dict) -> str | None:
    """What tells a folder's photos from another's, where they decide which questions are asked."""
    if not benchmark.get("only_present"):
        return None
    folder = benchmark["images"]
    if folder.startswith(_MADE_HERE) or not Path(folder).is_dir():
        return folder
    return f"names:{_names_in(folder, Path(folder).stat().st_mtime_ns)}"


@cache
def _names_in(folder: str, changed: int) -> str:
    found = (Path(inside, name) for inside, _, names in os.walk(folder) for name in names)
    return digest(sorted(path.relative_to(folder).as_posix() for path in found))


def features_specs(study: Study) -> list[Spec]:
    """The caches of features that trainings with images and image evaluations read."""
    trained = [*align_specs(study), *run_specs(study)]
    precisions = {spec["training"]["precision"] for spec in trained if spec["features"]}
    learned = [features_spec(study, precision) for precision in sorted(precisions)]
    scored = [spec for spec in evaluation_specs(study) if spec.get("features")]
    precisions = {spec["subject"]["precision"] for spec in scored}
    return learned + [seen_spec(study, precision) for precision in sorted(precisions)]


def base_source(study: Study, base: Base) -> dict:
    """What to load for a base: `{model, revision, remote_code}`."""
    return {
        "model": study.path(base.model),
        "revision": base.revision,
        "remote_code": base.remote_code,
    }


@_once
def _tower(study: Study) -> dict:
    return {**study.tower.model_dump(), "model": study.path(study.tower.model)}


@_once
def align_spec(study: Study, base: str, seed: int) -> Spec:
    """Stage 1 of a base: its projector is trained on image and caption pairs."""
    spec = {
        "stage": "align",
        "mode": "align",
        "base": base_source(study, study.bases[base]),
        "template": "plain",
        "tower": _tower(study),
        "source": {"form": "visual", "kinds": "all"},
        "data": _data(study, "align"),
        "training": _told(study.alignment),
        "projector_learning_rate": None,
        "lora": None,
        "projector": None,
        "features": features_spec(study, study.alignment.precision)["folder"],
        "seed": seed,
    }
    return _identified(spec, ALIGNMENTS, f"{base}-align-s{seed}")


@_once
def run_spec(study: Study, cell: Cell) -> Spec:
    """Stage 2 of one cell of the grid."""
    tuning, source = study.tunings[cell.tuning], study.sources[cell.source]
    alignment = align_spec(study, cell.base, cell.seed)
    training = _told(tuning)
    for key in ("mode", "lora", "projector_learning_rate"):
        training.pop(key)
    lora = (tuning.lora or Lora()).model_dump() if tuning.mode in ("lora", "qlora") else None
    visual = source.form == "visual"
    features = features_spec(study, tuning.precision) if visual else None
    spec = {
        "stage": "tune",
        "mode": tuning.mode,
        "base": base_source(study, study.bases[cell.base]),
        "template": study.bases[cell.base].template,
        "tower": _tower(study),
        "source": {k: v for k, v in _told(source).items() if k not in ("instructions", "layout")},
        "data": _data(study, "tune", source),
        "training": training,
        "projector_learning_rate": tuning.projector_learning_rate,
        "lora": lora,
        "projector": alignment["checkpoint"],
        "features": features["folder"] if features else None,
        "seed": cell.seed,
    }
    slug = f"{cell.base}-{cell.source}-{cell.tuning}-s{cell.seed}"
    return _identified(spec, RUNS, slug)


def _identified(spec: dict, root: str, slug: str) -> Spec:
    """Adds recipe, id and checkpoint folder."""
    data = spec["data"]
    captions = data["captions"] if spec["source"]["form"] == "caption" else None
    training = {k: v for k, v in spec["training"].items() if k not in _NOT_IN_THE_WEIGHTS}
    # The folder of the alignment that is started from ends in the digest of its recipe.
    started_from = spec["projector"].split("/")[-2][-8:] if spec["projector"] else None
    in_bf16 = training["precision"] == "bf16"
    recipe = {
        **{key: spec[key] for key in ("stage", "mode", "template", "source", "seed")},
        **{key: spec[key] for key in ("projector_learning_rate", "lora")},
        "training": training,
        "projector": started_from,
        "version": BF16_RECIPE_VERSION if in_bf16 else RECIPE_VERSION,
        "base": identity(**_named(spec["base"])),
        "tower": _identified_tower(spec["tower"]),
        "instructions": identity(data["instructions"]),
        "captions": identity(captions) if captions else None,
        "captions_in_place": data["captions_in_place"] if captions else None,
    }
    if "leaks" in data:
        recipe["without_leaks"] = data["leaks"]
    if "layout" in data:
        recipe["layout"] = data["layout"]
    if "kinds" in data:
        recipe["kinds_from"] = {kind: identity(path) for kind, path in data["kinds"].items()}
    if "instances" in data:
        recipe["instances"] = identity(data["instances"])
    name = f"{slug}-{digest(recipe)}"
    return Spec(id=name, recipe=recipe, checkpoint=f"{root}/{name}/checkpoint", **spec)


def _identified_tower(tower: dict) -> dict:
    return {**tower, "model": identity(**_named(tower))}


def _named(model: dict) -> dict:
    return {"path": model["model"], "revision": model["revision"]}


@_once
def subjects(study: Study) -> list[Spec]:
    """Everything that is evaluated: the untuned bases, the references, the runs.

    A subject says what to load (`mode`, `base`, `checkpoint`, `projector`, `template`,
    `precision`) and how it is told of in tables (`label`, `kind`, `base_name`, ...).
    """
    out = []
    for name, base in study.bases.items():
        alignment = align_spec(study, name, study.seeds[0])
        known = [alignment["id"], base.template]
        loaded = {"tower": _tower(study), "projector": alignment["checkpoint"]}
        out.append(_only_evaluated(study, "base", name, base, "untuned", known, loaded))
    for name, reference in study.references.items():
        known = [
            identity(**_named(base_source(study, reference))),
            reference.template,
            study.alignment.precision,
        ]
        loaded = {}
        if reference.released is not None:
            # What tunes it is known once it is imported; its evaluation finds that out.
            folder = import_spec(study, reference)["folder"]
            loaded = {"checkpoint": folder, "projector": folder, "tower": _tower(study)}
            known.append(folder)
        if reference.checkpoint is not None:
            record = _checkpoint_record(reference)
            loaded = {"mode": record["recipe"]["mode"], "checkpoint": reference.checkpoint}
            known.append([record["files"], record.get("image_marks")])
            if "projector.safetensors" in record["files"]:
                loaded |= {"tower": _tower(study), "projector": reference.checkpoint}
                known.append(_identified_tower(_tower(study)))
        out.append(_only_evaluated(study, "reference", name, reference, "reference", known, loaded))
    for cell in study.cells()[0]:
        run = run_spec(study, cell)
        out.append(
            Spec(
                id=run["id"],
                kind="run",
                label=study.bases[cell.base].label or cell.base,
                base_name=cell.base,
                source=cell.source,
                tuning=cell.tuning,
                seed=cell.seed,
                mode=run["mode"],
                base=run["base"],
                template=run["template"],
                tower=run["tower"],
                checkpoint=run["checkpoint"],
                projector=run["checkpoint"],
                precision=run["training"]["precision"],
            )
        )
    return out


def _only_evaluated(
    study: Study, kind: str, name: str, base: Base, what: str, known: list, loaded: dict
) -> Spec:
    """A subject that isn't trained in the grid.

    Args:
        what: says in the id what it is.
        known: what its scores hang on besides the benchmarks.
        loaded: `mode`, `checkpoint`, `projector` and `tower`, where it has them.
    """
    return Spec(
        id=f"{name}-{what}-{digest(known)}",
        kind=kind,
        label=base.label or name,
        base_name=name,
        source=None,
        tuning=None,
        seed=None,
        base=base_source(study, base),
        template=base.template,
        precision=study.alignment.precision,
        **{"mode": None, "checkpoint": None, "projector": None, "tower": None, **loaded},
    )


def _checkpoint_record(reference: Reference) -> dict:
    record = read_json(Path(reference.checkpoint) / COMPLETE, "record of an imported checkpoint")
    if not isinstance(record, dict) or not {"recipe", "files"} <= record.keys():
        raise UserError(f"{reference.checkpoint}/{COMPLETE}: not such a record; import it again")
    return record


@_once
def run_specs(study: Study) -> list[Spec]:
    """Stage 2 of every cell that is kept."""
    return [run_spec(study, cell) for cell in study.cells()[0]]


@_once
def align_specs(study: Study) -> list[Spec]:
    """Stage 1 of every base, once a seed."""
    return [align_spec(study, base, seed) for base in study.bases for seed in study.seeds]


def benchmarks(study: Study, suite: str) -> dict[str, dict]:
    """The benchmarks of a suite ("text" or "image") with their paths resolved.

    An image benchmark with corruptions is followed by its corrupted twins, each with a
    `corruption` {kind, severity, cache}.
    """
    # Each subject asks for them, and with corruptions there are hundreds.
    if suite not in study.remembered:
        study.remembered[suite] = _benchmarks(study, suite)
    return {name: dict(values) for name, values in study.remembered[suite].items()}


def _benchmarks(study: Study, suite: str) -> dict[str, dict]:
    chosen = study.evaluation.text if suite == "text" else study.evaluation.image
    resolved = {}
    for name, benchmark in chosen.items():
        values = _told(benchmark)
        for key in (*_FILES, "images"):
            if values.get(key) is not None:
                values[key] = study.path(values[key])
        corruptions = values.pop("corruptions", None)
        if suite == "text" and values["fewshot"] is None:
            values["fewshot"] = default_shots(values["task"] or name, study.evaluation.protocol)
        resolved[name] = values
        if corruptions is not None:
            for kind, severity in benchmark.corruptions.pairs():
                corruption = {"kind": kind, "severity": severity, "cache": corruptions["cache"]}
                resolved[f"{name}-{kind}-{severity}"] = {**values, "corruption": corruption}
    return resolved


def check_spec(study: Study) -> Spec:
    """What is read before anything is trained: benchmarks, and instructions that were given."""
    given = [path for path in (study.data.instructions, study.data.alignment) if path]
    refuses = study.data.leakage == "refuse"
    own = [
        {"path": study.path(source.instructions), "layout": source.layout}
        for source in study.sources.values()
        if source.instructions is not None
    ]
    return Spec(
        text=benchmarks(study, "text"),
        image=benchmarks(study, "image"),
        instructions=[study.path(path) for path in given],
        images=study.path(study.data.images),
        **({"sources": own} if own else {}),
        **({"leakage": "refuse", "learned_from": learned_from(study)} if refuses else {}),
    )


@_once
def evaluation_specs(study: Study) -> list[Spec]:
    """Every scoring of the study: each subject on each suite that it can be scored on."""
    made = []
    for subject in subjects(study):
        for suite in ("text", "image"):
            # A reference without a projector is a language model alone.
            if benchmarks(study, suite) and (suite == "text" or subject["tower"] is not None):
                made.append(evaluation_spec(study, subject, suite))
    return made


def evaluations_together(study: Study) -> list[list[Spec]]:
    """The evaluations by job: `jobs.evaluations_per_job` of one base at most."""
    size = study.jobs.evaluations_per_job
    return _together(evaluation_specs(study), size, lambda spec: digest(spec["subject"]["base"]))


def trainings_together(study: Study) -> list[list[Spec]]:
    """The runs by job: `jobs.trainings_per_job` of one base and alignment at most.

    A run that takes several processes has a job of its own.
    """

    def kind(spec: Spec) -> str:
        several = spec["training"]["processes"] > 1
        return digest([spec["base"], spec["projector"], spec["id"] if several else None])

    return _together(run_specs(study), study.jobs.trainings_per_job, kind)


def _together(specs: list[Spec], size: int, kind: Callable[[Spec], str]) -> list[list[Spec]]:
    """Specs of a kind in groups of a size at most, in the order of their first ones.

    A group has fewer where the specs of all would be too long for a command.
    """
    made: list[list[Spec]] = []
    latest: dict[str, list[Spec]] = {}
    lengths: dict[str, int] = {}
    for spec in specs:
        known, length = kind(spec), len(str(spec))
        group = latest.get(known, [])
        if not group or len(group) == size or lengths[known] + length > _COMMAND:
            latest[known], lengths[known] = (group := []), 0
            made.append(group)
        group.append(spec)
        lengths[known] += length
    return made


_COMMAND = 1_000_000
"""Characters of specs in one command: Linux takes two million bytes of arguments, as a rule."""


def evaluation_spec(study: Study, subject: Spec, suite: str) -> Spec:
    """The scoring of one subject on a suite."""
    settings = study.evaluation
    chosen = benchmarks(study, suite)
    recipe = {}
    for name, values in chosen.items():
        recipe[name] = {**_identified_files(values), "images": _which_photos(values)}
    further = _how_text_is_asked(study, subject) if suite == "text" else {}
    known = {"version": RECIPE_VERSION, "protocol": settings.protocol, "benchmarks": recipe}
    key = digest({**known, **further})
    if suite == "text" and settings.token_budget:
        further["token_budget"] = settings.token_budget
    if suite == "image":
        further["features"] = seen_spec(study, subject["precision"])["folder"]
    return Spec(
        subject={key: subject[key] for key in _LOADED},
        suite=suite,
        protocol=settings.protocol,
        batch_size=settings.batch_size,
        benchmarks=chosen,
        folder=f"{RUNS}/{subject['id']}/{suite}-{key}",
        **further,
    )


def _how_text_is_asked(study: Study, subject: Spec) -> dict:
    """What of the settings may change text scores, where it isn't the default."""
    made = {}
    if subject["base_name"] in study.evaluation.chat_template:
        made["chat_template"] = True
    if study.evaluation.backend != "sight":
        made["backend"] = study.evaluation.backend
    return made


_MADE_HERE = (
    "resources/micro/",
    "resources/instructions/",
    "resources/leaks/",
    f"{FETCHED}/",
    f"{IMPORTED}/",
    "results/",
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
_NOT_IN_THE_WEIGHTS = (
    "max_lost",
    "token_budget",
    "gradient_checkpointing",
    "save_steps",
    "processes",
    "fsdp",
)
_FILES = ("path", "questions", "annotations")
_BESIDE_IMAGES = ("shots", "more_metrics")
_LOADED = ("id", "mode", "base", "template", "tower", "checkpoint", "projector", "precision")


def compare_spec(study: Study) -> Spec:
    """What is gathered into the study's tables, and what is to be judged from them.

    Holds each subject with its records and evaluations, each claim with the pairs of subjects that
    it compares, and each published value with the subjects that it stands beside.
    """
    gathered = []
    scored: dict[str, list[str]] = {}
    for evaluation in evaluation_specs(study):
        scored.setdefault(evaluation["subject"]["id"], []).append(evaluation["folder"])
    for subject in subjects(study):
        name = subject["base_name"]
        told = {key: subject[key] for key in _TOLD}
        kinds, record, alignment = "all", None, None
        if subject["kind"] == "run":
            kinds = study.sources[subject["source"]].kinds
            record = f"{RUNS}/{subject['id']}/train.json"
        elif subject["kind"] == "base":
            alignment = alignment_record(align_spec(study, name, study.seeds[0]))
        gathered.append(
            {
                **told,
                "instruction_kinds": kinds,
                "record": record,
                "alignment_record": alignment,
                "evaluations": scored.get(subject["id"], []),
            }
        )
    known = {Side(*(entry[key] for key in Side._fields)): entry["id"] for entry in gathered}
    claims = []
    for name, claim in study.claims.items():
        kind, threshold = claim.threshold
        told = {"claim": name, **claim.model_dump(include={"text", "benchmark", "metric"})}
        told["text"] = " ".join(claim.text.split())
        compared = [[known[run], known[other]] for run, other in pairs(study, claim)]
        claims.append({**told, "kind": kind, "threshold": threshold, "pairs": compared})
    published = [
        {
            **value.model_dump(exclude={"runs"}),
            "runs": [known[side] for side in chosen(study, value.runs)],
        }
        for value in study.published
    ]
    return Spec(study=study.name, subjects=gathered, claims=claims, published=published)


def pictures_spec(study: Study) -> Spec:
    """Which image benchmarks lend the explorer their pictures: folders by benchmark, and room."""
    chosen = study.explorer
    folders = {}
    for name, benchmark in benchmarks(study, "image").items():
        own = study.world is not None and benchmark["images"].startswith(f"{study.world}/")
        wanted = own if chosen.images is None else chosen.images
        if wanted and "corruption" not in benchmark:
            folders[name] = benchmark["images"]
    return Spec(folders=folders, pixels=chosen.image_pixels, mib=chosen.image_mib)


def alignment_record(alignment: Spec) -> str:
    """Where an alignment's completion record lies."""
    return f"{ALIGNMENTS}/{alignment['id']}/train.json"


_TOLD = ("id", "kind", "label", "base_name", "source", "tuning", "seed")
