"""Gathers a study's records and scores into the tidy tables that everything is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.effects import mean_interval, paired_effects
from sight_beyond_text.analysis.robustness import relative_robustness
from sight_beyond_text.analysis.seeds import over_seeds
from sight_beyond_text.analysis.tables import table_hashes
from sight_beyond_text.files import read_json, write_json

ROBUSTNESS = "robustness.csv"
"""Only there where images were corrupted; figures reckon it from the scores."""


def compare(spec: dict, tables: str | Path, record: str | Path) -> None:
    """Writes all tables of a study.

    Args:
        spec: `grid.compare_spec`: the subjects, each with its records and evaluation folders.
        tables: the folder that gets them.
        record: written last: the tables and their hashes.

    Raises:
        UserError: a record or table is missing or broken, or one benchmark has two protocols.
    """
    tables = Path(tables)
    runs, curves = _runs(spec["subjects"])
    scores = _gather(spec["subjects"], "scores")
    items = _gather(spec["subjects"], "items")
    tidy.write_csv(runs, tables / tidy.FILES["runs"])
    tidy.write_csv(curves, tables / tidy.FILES["curves"])
    tidy.write_csv(scores, tables / tidy.FILES["scores"])
    tidy.write_parquet(items, tables / tidy.FILES["items"])
    effects, intervals = paired_effects(runs, items), mean_interval(items)
    seeds = over_seeds(runs, items)
    tidy.write_csv(tidy.with_protocol(effects, scores), tables / tidy.FILES["effects"])
    tidy.write_csv(tidy.with_protocol(seeds, scores), tables / tidy.FILES["over_seeds"])
    tidy.write_csv(tidy.with_protocol(intervals, scores), tables / tidy.FILES["intervals"])
    (tables / ROBUSTNESS).unlink(missing_ok=True)
    if (scores["suite"] == "corrupted").any():
        tidy.write_csv(relative_robustness(scores), tables / ROBUSTNESS)
    write_json(record, {"study": spec["study"], "tables": table_hashes(tables)})


def _runs(subjects: Sequence[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, curves = [], []
    for subject in subjects:
        record = {}
        if subject["record"] is not None:
            record = read_json(subject["record"], "completion record of a run")
        kinds = subject["instruction_kinds"]
        rows.append(
            {
                "run": subject["id"],
                "label": subject["label"],
                "kind": subject["kind"],
                "base": subject["base_name"],
                "source": subject["source"] or "",
                "instruction_kinds": kinds if isinstance(kinds, str) else "+".join(kinds),
                "tuning": subject["tuning"] or "",
                "seed": subject["seed"],
                "parameters": record.get("parameters"),
                "trainable_parameters": record.get("trainable_parameters"),
                "train_seconds": record.get("seconds"),
                "samples": record.get("samples"),
                "tokens": record.get("tokens"),
            }
        )
        stages = [("tune", record)]
        if subject["alignment_record"] is not None:
            aligned = read_json(subject["alignment_record"], "completion record of an alignment")
            stages.append(("align", aligned))
        for stage, told in stages:
            curves += [
                {"run": subject["id"], "stage": stage, **point} for point in told.get("curve", [])
            ]
    return _frame(rows, "runs"), _frame(curves, "curves")


def _gather(subjects: Sequence[dict], table: str) -> pd.DataFrame:
    parts = [
        tidy.read_table(folder, table, f"{table}.parquet")
        for subject in subjects
        for folder in subject["evaluations"]
    ]
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else tidy.empty(table)


def _frame(rows: list[dict], table: str) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(tidy.SCHEMAS[table]))
    for name, kind in tidy.SCHEMAS[table].items():
        if kind == "integer":
            frame[name] = frame[name].astype("Int64")
    return frame
