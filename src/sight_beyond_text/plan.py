"""`sight plan`: the grid of a study, what was pruned and why, what is done already."""

from __future__ import annotations

import json
from pathlib import Path

from sight_beyond_text import grid
from sight_beyond_text.study import Study


def plan(study: Study) -> dict:
    """The study's runs, pruned cells, references and benchmarks as plain data."""
    kept, pruned = study.cells()
    runs = []
    for cell in kept:
        spec = grid.run_spec(study, cell)
        done = Path(f"{grid.RUNS}/{spec['id']}/train.json").is_file()
        runs.append({**cell.model_dump(), "run": spec["id"], "trained": done})
    return {
        "study": study.name,
        "runs": runs,
        "pruned": [{**cell.model_dump(), "reason": reason} for cell, reason in pruned],
        "bases": list(study.bases),
        "references": list(study.references),
        "benchmarks": {
            "text": list(study.evaluation.text),
            "image": list(grid.benchmarks(study, "image")),
        },
    }


def as_table(planned: dict) -> str:
    """The plan as text for a terminal."""
    rows = [("base", "source", "tuning", "seed", "run", "state")]
    for run in planned["runs"]:
        state = "trained" if run["trained"] else "to train"
        rows.append(
            (run["base"], run["source"], run["tuning"], str(run["seed"]), run["run"], state)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"Study {planned['study']}: {len(planned['runs'])} runs"]
    lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
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


def as_json(planned: dict) -> str:
    """The plan as JSON."""
    return json.dumps(planned, indent=1)
