"""Gathers a study's records and scores into the tidy tables that everything is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.claims import judged
from sight_beyond_text.analysis.effects import effects_table, intervals_table, measure
from sight_beyond_text.analysis.outcomes import Gatherer
from sight_beyond_text.analysis.published import reported
from sight_beyond_text.analysis.robustness import relative_robustness
from sight_beyond_text.analysis.seeds import seeds_table
from sight_beyond_text.analysis.tables import table_hashes
from sight_beyond_text.files import read_json, write_json

ROBUSTNESS = "robustness.csv"
"""Only there where images were corrupted; figures reckon it from the scores."""


def compare(spec: dict, tables: str | Path, record: str | Path) -> None:
    """Writes all tables of a study.

    Args:
        spec: `grid.compare_spec`: the subjects, each with its records and evaluation folders, the
            claims, and what was published.
        tables: the folder that gets them.
        record: written last: the tables and their hashes.

    Raises:
        UserError: a record or table is missing or broken, or one benchmark has two protocols.
    """
    tables = Path(tables)
    runs, curves = _runs(spec["subjects"])
    scores = _scores(spec["subjects"])
    tidy.write_csv(runs, tables / tidy.FILES["runs"])
    tidy.write_csv(curves, tables / tidy.FILES["curves"])
    tidy.write_csv(scores, tables / tidy.FILES["scores"])
    items = _items(spec["subjects"], tables / tidy.FILES["items"])
    derive(tables, runs, scores, items, spec)
    write_json(record, {"study": spec["study"], "tables": table_hashes(tables)})


def derive(
    tables: Path, runs: pd.DataFrame, scores: pd.DataFrame, items: Gatherer, told: dict
) -> None:
    """Writes all tables that follow from the runs, their scores and their items.

    Args:
        tables: the folder that gets them.
        runs: table `runs`.
        scores: table `scores`.
        items: what took in table `items`.
        told: `claims` and `published` of `grid.compare_spec`.

    Raises:
        UserError: one benchmark has two protocols, or runs answered different items.
    """
    measured = measure(runs, items)
    made = {
        "effects": effects_table(runs, measured),
        "over_seeds": seeds_table(runs, measured),
        "intervals": intervals_table(measured),
    }
    for table, frame in made.items():
        tidy.write_csv(tidy.with_protocol(frame, scores), tables / tidy.FILES[table])
    verdicts = judged(told.get("claims", []), runs, measured, scores)
    tidy.write_csv(verdicts, tables / tidy.FILES["claims"])
    tidy.write_csv(reported(told.get("published", []), scores), tables / tidy.FILES["published"])
    (tables / ROBUSTNESS).unlink(missing_ok=True)
    if (scores["suite"] == "corrupted").any():
        tidy.write_csv(relative_robustness(scores), tables / ROBUSTNESS)


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


def _scores(subjects: Sequence[dict]) -> pd.DataFrame:
    parts = [
        tidy.read_table(folder, "scores", "scores.parquet", _again(f"{folder}/scores.parquet"))
        for subject in subjects
        for folder in subject["evaluations"]
    ]
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else tidy.empty("scores")


def _items(subjects: Sequence[dict], path: Path) -> Gatherer:
    """Writes the items of all runs to one file, and takes in what statistics need of them."""
    gatherer = Gatherer()
    with tidy.items_writer(path) as write:
        # Millions of items with all their texts don't fit into memory: one run at a time does.
        for subject in sorted(subjects, key=lambda subject: subject["id"]):
            paths = [f"{folder}/items.parquet" for folder in subject["evaluations"]]
            parts = [tidy.read_items(path, _again(path)) for path in paths]
            if parts:
                own = pa.concat_tables(parts)
                gatherer.add(own)
                write(own)
    return gatherer


def _again(path: str) -> str:
    """What to do where a table of an evaluation isn't whole."""
    return f"remove {path} and evaluate again"


def _frame(rows: list[dict], table: str) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(tidy.SCHEMAS[table]))
    for name, kind in tidy.SCHEMAS[table].items():
        if kind == "integer":
            frame[name] = frame[name].astype("Int64")
    return frame
