"""`sight plan`: a study's grid, what was pruned and why, what is done, and what the rest takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sight_beyond_text import grid
from sight_beyond_text.costs import Foreteller
from sight_beyond_text.errors import UserError
from sight_beyond_text.shapes import model_shape, read_config, tower_shape
from sight_beyond_text.study import Study

_SUMMED = ("flops", "gpu_hours", "price", "disk")


def plan(study: Study) -> dict:
    """The study's trainings with their costs, pruned cells, references and benchmarks.

    Returns:
        Plain data: `runs` and `alignments` (each with what `costs.Foreteller.costs` says), `left`
        (sums over what isn't trained yet, and how many trainings each sum couldn't count),
        `missing` inputs, and the rest of the grid.
    """
    kept, pruned = study.cells()
    foreteller = Foreteller(study)

    def trained(folder: str, spec: grid.Spec) -> dict:
        done = Path(f"{folder}/{spec['id']}/train.json").is_file()
        processes = spec["training"]["processes"]
        told = {"run": spec["id"], "trained": done, "processes": processes}
        return {**told, **foreteller.costs(spec)}

    runs = [
        {**cell.model_dump(), **trained(grid.RUNS, grid.run_spec(study, cell))} for cell in kept
    ]
    alignments = [
        {"base": base, "seed": seed} | trained(grid.ALIGNMENTS, grid.align_spec(study, base, seed))
        for base in study.bases
        for seed in study.seeds
    ]
    return {
        "study": study.name,
        "runs": runs,
        "alignments": alignments,
        "resources": _resources(study),
        "left": _left([row for row in (*runs, *alignments) if not row["trained"]]),
        "hardware": study.hardware and study.hardware.model_dump(),
        "pruned": [{**cell.model_dump(), "reason": reason} for cell, reason in pruned],
        "bases": list(study.bases),
        "references": list(study.references),
        "benchmarks": {
            "text": list(study.evaluation.text),
            "image": list(grid.benchmarks(study, "image")),
        },
        "missing": grid.missing_inputs(study),
    }


def _resources(study: Study) -> list[dict]:
    """What is fetched, whether it is there, and the room it takes, where that is known, about."""
    out = []
    released = [ref.released for ref in study.references.values() if ref.released is not None]
    told = {name: resource.gib for name, resource in study.resources.items()}
    told |= {weights.repo: weights.gib for weights in released}
    for spec in grid.resource_specs(study):
        if spec["name"] in told:
            gib = told[spec["name"]]
            room = None if gib is None else round(gib * 2**30)
        else:
            room = _weights(spec["name"], spec["items"][0]["revision"])
        fetched = Path(spec["record"]).is_file()
        out.append({"name": spec["name"], "fetched": fetched, "bytes": room})
    return out


def _weights(model: str, revision: str | None) -> int | None:
    """Bytes of a model's weights in 16 bits, in which most are kept; None for an unknown shape."""
    config = read_config(model, revision)
    for shape_of in (model_shape, tower_shape):
        try:
            return config and 2 * shape_of(config, model).total
        except UserError:
            continue
    return None


def _left(rows: list[dict]) -> dict:
    """Sums over trainings; a sum leaves out those of which it isn't known, and counts them."""
    out: dict[str, Any] = {"trainings": len(rows)}
    for name in _SUMMED:
        known = [row[name] for row in rows if row[name] is not None]
        out[name] = sum(known) if known else None
        out[f"{name}_unknown"] = len(rows) - len(known)
    return out


def as_table(planned: dict, costs: bool = False) -> str:
    """The plan as text for a terminal.

    Args:
        planned: what `plan` gives.
        costs: tell more of what each training takes.
    """
    runs, alignments = planned["runs"], planned["alignments"]
    lines = [f"Study {planned['study']}: {len(runs)} runs, {len(alignments)} alignments"]
    if planned["missing"]:
        lines.append("Inputs are missing; runs get other ids when they are there.")
    columns = _columns(planned, costs)
    lines += _laid_out(columns, [*alignments, *runs])
    lines.append(
        "GiB: memory of a process, without and with gradient checkpointing, in passes as large as"
        " the study allows; -: not known, as files are not at hand"
    )
    lines += _told_left(planned)
    lines += _told_resources(planned["resources"])
    if planned["pruned"]:
        lines.append(f"Pruned: {len(planned['pruned'])} cells")
        for cell in planned["pruned"]:
            name = f"{cell['base']} {cell['source']} {cell['tuning']} seed {cell['seed']}"
            lines.append(f"  {name}: {cell['reason']}")
    others = ", ".join(planned["bases"] + planned["references"])
    lines.append(f"Evaluated without tuning: {others}")
    for suite, names in planned["benchmarks"].items():
        lines.append(f"Benchmarks ({suite}): {', '.join(names) or 'none'}")
    return "\n".join(lines)


def _columns(planned: dict, costs: bool) -> dict[str, Callable[[dict], str]]:
    """What each column is headed, and how a row fills it."""

    def of_memory(name: str, shown: Callable[[float], str]) -> Callable[[dict], str]:
        return lambda row: shown((row["memory"] or {}).get(name))

    def of(name: str, shown: Callable[[float], str]) -> Callable[[dict], str]:
        return lambda row: shown(row[name])

    columns = {
        "run": lambda row: row["run"],
        "state": lambda row: "trained" if row["trained"] else "to train",
        "learns": of("learned_parameters", _count),
        "GiB": of_memory("without_checkpointing", _gib),
        "GiB ckpt": of_memory("with_checkpointing", _gib),
    }
    if any(row["processes"] > 1 for row in (*planned["runs"], *planned["alignments"])):
        columns["processes"] = of("processes", _whole)
    hardware = planned["hardware"]
    if hardware:
        columns["fits"] = _fits
        columns["hours"] = of("hours", _short)
    if costs:
        columns |= {
            "parameters": of("parameters", _count),
            "pass": of_memory("positions", _count),
            "steps": of("steps", _whole),
            "tokens": of("tokens", _count),
            "FLOP": of("flops", _power),
            "disk GiB": of("disk", _gib),
            "meanwhile": of("disk_while_training", _gib),
        }
    if costs and hardware:
        columns["pass that fits"] = of_memory("positions_that_fit", _count)
        columns["GPU hours"] = of("gpu_hours", _short)
        if hardware["price_per_hour"] is not None:
            columns["price"] = of("price", _short)
    return columns


def _laid_out(columns: dict[str, Callable[[dict], str]], rows: Sequence[dict]) -> list[str]:
    cells = [list(columns), *([fill(row) for fill in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = 2  # names and states; numbers are aligned on the right
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _told_left(planned: dict) -> list[str]:
    left, hardware = planned["left"], planned["hardware"]
    if not left["trainings"]:
        return ["Nothing is left to train"]
    told = []
    for name, shown in (
        ("flops", lambda value: f"{_power(value)} FLOP"),
        ("disk", lambda value: f"{_gib(value)} GiB of checkpoints"),
        ("gpu_hours", lambda value: f"{_short(value)} hours of {hardware['gpu']}"),
        ("price", lambda value: f"price {_short(value)}"),
    ):
        if left[name] is not None:
            unknown = left[f"{name}_unknown"]
            told.append(shown(left[name]) + (f" and {unknown} not known" if unknown else ""))
    start = f"Left to train: {left['trainings']} trainings"
    return [": ".join(filter(None, [start, "; ".join(told)]))]


def _told_resources(resources: list[dict]) -> list[str]:
    missing = [row for row in resources if not row["fetched"]]
    if not missing:
        return []
    known = [row["bytes"] for row in missing if row["bytes"]]
    small = len(missing) - len(known)
    told = [f"about {_gib(sum(known))} GiB"] if known else []
    told += [f"{small} of unknown size"] if small else []
    return [f"To fetch: {len(missing)} of {len(resources)} resources: {' and '.join(told)}"]


def _fits(row: dict) -> str:
    memory = row["memory"]
    if memory is None:
        return "-"
    if not memory["fits"]:
        return "no"
    return "ckpt" if memory["checkpointing"] else "yes"


def _count(value: float | None) -> str:
    """6738415616 as "6.74B"."""
    if value is None:
        return "-"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            shown = value / (1e3 if letter == "k" else size)
            return f"{shown:.3g}{letter}" if shown < 1000 else f"{shown:.0f}{letter}"
    return str(round(value))


def _whole(value: int | None) -> str:
    return "-" if value is None else str(value)


def _gib(value: float | None) -> str:
    return _short(None if value is None else value / 2**30)


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _power(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}".replace("e+", "e")


def as_json(planned: dict) -> str:
    """The plan as JSON."""
    return json.dumps(planned, indent=1)
