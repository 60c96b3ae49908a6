"""`sight plan`: a study's grid, what was pruned and why, what is done, and what the rest takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sight_beyond_text import grid
from sight_beyond_text.claim_power import decidable
from sight_beyond_text.costs import Foreteller
from sight_beyond_text.errors import UserError
from sight_beyond_text.power import (
    CORRELATION,
    DISCORDANCE,
    LASTING,
    LEVEL,
    POWER,
    SPREAD,
    smallest_effects,
)
from sight_beyond_text.shapes import read_config, stored_bytes
from sight_beyond_text.study import Study

_SUMMED = ("flops", "gpu_hours", "price", "disk")


def plan(study: Study, discordance: float = DISCORDANCE) -> dict:
    """The study's trainings with their costs, pruned cells, references and benchmarks.

    Args:
        study: the study.
        discordance: share of a benchmark's questions whose outcome differs between two runs, where
            nothing is measured.

    Returns:
        Plain data: `runs` and `alignments` (each with what `costs.Foreteller.costs` says), `left`
        (sums over what isn't trained yet, and how many trainings each sum couldn't count),
        `evaluations` with theirs, `left_to_score`, `fetching` (bytes that are still to come, and
        room needed meanwhile), `effects` (`power.smallest_effects`), `claims`
        (`claim_power.decidable`), `missing` inputs, and the rest of the grid.
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
    resources, evaluations = _resources(study), _evaluations(study, foreteller)
    effects = smallest_effects(study, discordance)
    to_score = [row for row in evaluations if not row["done"]]
    return {
        "study": study.name,
        "runs": runs,
        "alignments": alignments,
        "resources": resources,
        "fetching": _fetching(resources),
        "left": _left([row for row in (*runs, *alignments) if not row["trained"]]),
        "evaluations": evaluations,
        "left_to_score": {
            "evaluations": len(to_score),
            **_sums(to_score, ("items", "corrupted", "flops", "gpu_hours", "price")),
        },
        "effects": effects,
        "claims": decidable(study, effects),
        "assumed": {
            "level": LEVEL,
            "power": POWER,
            "discordance": discordance,
            "spread": SPREAD,
            "correlation": CORRELATION,
            "lasting": LASTING,
        },
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
        row = {"name": spec["name"], "fetched": fetched, "bytes": room}
        out.append({**row, "archives": _archives(study, spec["name"], room)})
    return out


def _weights(model: str, revision: str | None) -> int | None:
    """Bytes of a model's weights as the hub has them; None for an unknown shape."""
    config = read_config(model, revision)
    try:
        return config and stored_bytes(config, model)
    except UserError:
        return None


def _archives(study: Study, name: str, room: int | None) -> int:
    """Bytes of a resource's archives, which lie beside what is in them until it is whole.

    Photos take as much room packed as unpacked, so where sizes aren't given, so much is reckoned.
    """
    resource = study.resources.get(name)
    packed = [item for item in resource.items if item.unpack] if resource else []
    if not packed:
        return 0
    given = [item.size for item in packed]
    return sum(given) if all(given) else room or 0


def _fetching(resources: list[dict]) -> dict:
    """What is still to come: `bytes`, and bytes at the `peak`, one resource after the other."""
    missing = [row for row in resources if not row["fetched"]]
    whole = sum(row["bytes"] or 0 for row in missing)
    return {
        "resources": len(missing),
        "bytes": whole,
        "peak": whole + max((row["archives"] for row in missing), default=0),
        "unknown": sum(row["bytes"] is None for row in missing),
    }


def _evaluations(study: Study, foreteller: Foreteller) -> list[dict]:
    """Each subject on each suite: whether it is `done`, and what it takes."""
    try:
        specs = grid.evaluation_specs(study)
    except UserError:
        return []  # an imported checkpoint isn't there, which is told elsewhere
    return [
        {
            "subject": spec["subject"]["id"],
            "suite": spec["suite"],
            "folder": spec["folder"],
            "done": Path(spec["folder"], "scores.parquet").is_file(),
            **foreteller.evaluation(spec),
        }
        for spec in specs
    ]


def _left(rows: list[dict]) -> dict:
    """Sums over trainings; a sum leaves out those of which it isn't known, and counts them."""
    return {"trainings": len(rows), **_sums(rows, _SUMMED)}


def _sums(rows: list[dict], names: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in names:
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
    lines += _told_scoring(planned)
    lines += _told_resources(planned["fetching"], len(planned["resources"]))
    if planned["pruned"]:
        lines.append(f"Pruned: {len(planned['pruned'])} cells")
        for cell in planned["pruned"]:
            name = f"{cell['base']} {cell['source']} {cell['tuning']} seed {cell['seed']}"
            lines.append(f"  {name}: {cell['reason']}")
    others = ", ".join(planned["bases"] + planned["references"])
    lines.append(f"Evaluated without tuning: {others}")
    lines += _told_effects(planned)
    lines += _told_claims(planned)
    return "\n".join(lines)


def _told_effects(planned: dict) -> list[str]:
    """The benchmarks, and what each can detect."""
    rows, assumed = planned["effects"], planned["assumed"]
    if not rows:
        return ["Benchmarks: none"]
    several = any(row["seeds"] is not None for row in rows)

    def points(value: float | None, row: dict) -> str:
        if value is None:
            return "-"
        # Shares are told in points of a hundred, other scores as they are.
        return _short(value) if row["metric"] in _UNBOUNDED else f"{100 * value:.1f}"

    columns: dict[str, Callable[[dict], str]] = {
        "benchmark": lambda row: row["benchmark"],
        "metric": lambda row: row["metric"] or "",
        "suite": lambda row: row["suite"],
        "items": lambda row: _whole(row["items"]),
        "detects": lambda row: points(row["pair"], row),
    }
    if several:
        columns["over seeds"] = lambda row: points(row["seeds"], row)
    columns["from"] = lambda row: row["from"] or "-"
    if not any(row["metric"] for row in rows):
        del columns["metric"]
    seeds = (
        f"; over seeds: of means over the study's, {assumed['lasting']:.0%} of what a question"
        " differs by being the same in all"
        if several
        else ""
    )
    means = {
        "assumed": f"{assumed['discordance']:.0%} of the answers differ, correlated by"
        f" {assumed['correlation']} where questions share a photo, a passage or a scene, and two"
        f" captions' CIDEr by {assumed['spread']}",
        "measured": f"by the intervals in figures/data/{planned['study']}",
    }
    told = [
        f"{name}: {what}" for name, what in means.items() if any(r["from"] == name for r in rows)
    ]
    return [
        *_laid_out(columns, rows),
        "detects: the smallest difference of two runs, in points, that a test at"
        f" {assumed['level']:.0%} finds with a power of {assumed['power']:.0%}; "
        + "; ".join(told)
        + seeds,
    ]


def _told_claims(planned: dict) -> list[str]:
    """What each claim takes to be decided."""
    rows, assumed = planned["claims"], planned["assumed"]
    if not rows:
        return []

    def decided(row: dict) -> str:
        if row["distance"] is None:
            return "-"
        if row["kind"] == "equivalence":
            return f"{'yes' if row['decides'] else 'no'}, margins from {row['distance']:.1f}"
        low, high = (row["threshold"] + sign * row["distance"] for sign in (-1, 1))
        return f"below {low:.1f}, above {high:.1f}"

    columns: dict[str, Callable[[dict], str]] = {
        "claim": lambda row: row["claim"],
        "benchmark": lambda row: row["benchmark"],
        "claimed": lambda row: _CLAIMED[row["kind"]].format(row["threshold"]),
        "pairs": lambda row: _whole(row["pairs"]),
        "decided": decided,
        "from": lambda row: row["from"] or "-",
    }
    return [
        f"Claims: {len(rows)}",
        *_laid_out(columns, rows),
        "decided: true differences in points, of equivalence the margins, that are decided with a"
        f" power of {assumed['power']:.0%}; measured: by the claim's own interval; else by that of"
        " one pair, at most",
    ]


_CLAIMED = {
    "superiority": "at least {:g}",
    "inferiority": "at most {:g}",
    "equivalence": "within {:g}",
}

_UNBOUNDED = ("CIDEr", "SPICE", "exact", "f1")
"""Metrics that aren't shares of one."""


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


def _told_scoring(planned: dict) -> list[str]:
    """What is left to score, in one line."""
    left, total = planned["left_to_score"], len(planned["evaluations"])
    if not total:
        return []
    if not left["evaluations"]:
        return [f"Nothing is left to score; {total} evaluations are done"]
    told = []
    if left["flops"] is not None:
        told.append(f"{_power(left['flops'])} FLOP")
    if left["gpu_hours"] is not None:
        told.append(f"{_short(left['gpu_hours'])} hours of {planned['hardware']['gpu']}")
    if left["price"] is not None:
        told.append(f"price {_short(left['price'])}")
    start = f"Left to score: {left['evaluations']} of {total} evaluations"
    if left["corrupted"]:
        share = left["corrupted"] / left["items"]
        start += f", {share:.0%} of their questions on corrupted images"
    return [": ".join(filter(None, [start, "; ".join(told)]))]


def _told_resources(fetching: dict, total: int) -> list[str]:
    if not fetching["resources"]:
        return []
    told = []
    if fetching["bytes"]:
        told.append(f"about {_gib(fetching['bytes'])} GiB")
    if fetching["unknown"]:
        told.append(f"{fetching['unknown']} of unknown size")
    told = [" and ".join(told)]
    if fetching["peak"] > fetching["bytes"]:
        told.append(f"room for {_gib(fetching['peak'])} GiB, with the largest still packed")
    return [f"To fetch: {fetching['resources']} of {total} resources: {'; '.join(told)}"]


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
