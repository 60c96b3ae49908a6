"""What the explorer shows, by columns and without repetition.

Questions, choices and references are kept once; a run keeps its scores, which choice or text it
gave, and log-likelihoods in steps of a hundredth. All is in blocks that the page unpacks when it
is looked at, but for the index: runs, reported values, and which block holds what.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.errors import UserError
from sight_beyond_text.explorer.blocks import pack
from sight_beyond_text.explorer.pictures import read_pictures

LAYOUT = 1
STEP = 0.01
"""Log-likelihoods are kept in steps of this, or of more where they are very large."""

NONE = -32768
"""Stands where a choice has no log-likelihood."""

TEXT = 4000
"""Characters of an answer that are kept."""

PICTURES = 2**19
"""Bytes of pictures in a block, about."""

_REMEDY = "make the tables again with `sight compare`"
_TASK = ["suite", "benchmark", "metric"]
_USED = ["item", "cluster", "prediction", "reference", "score", "details"]
_SUITES = ("text", "image", "corrupted")
_FIRST = (*names.HEADLINE, *names.ETHICS)


class Explored(NamedTuple):
    """Attributes:
    index: what the page reads at once.
    blocks: what it unpacks later, by name.
    """

    index: dict[str, Any]
    blocks: dict[str, bytes]


def explored(tables_dir: str | Path, study: str) -> Explored:
    """Gathers a study's tables for the page.

    Args:
        tables_dir: the study's folder of tables, `items.parquet` among them.
        study: its name, for the title.

    Raises:
        UserError: a table is missing or broken.
    """
    tables = tidy.read_tables(tables_dir, items=False)
    runs = _in_order(tables.runs)
    place = {run: number for number, run in enumerate(runs["run"])}
    shown = _Pictures(read_pictures(tables_dir))
    path = Path(tables_dir) / tidy.FILES["items"]
    # Twice through the items, a run at a time: those of big studies don't fit in memory.
    tasks = _tasks(_by_run(path, place), shown)
    blocks = {f"items-{number}": pack(*task.facts()) for number, task in enumerate(tasks.values())}
    numbers = {key: number for number, key in enumerate(tasks)}
    for run, parts in _by_run(path, place):
        at, scores = place[run], {}
        for key, own in parts:
            scores[str(numbers[key])], answers = tasks[key].answers(own)
            tasks[key].runs.append(at)
            blocks[f"answers-{at}-{numbers[key]}"] = pack(*answers)
        blocks[f"scores-{at}"] = pack({}, scores)
    better = _better(tables.scores)
    told = [{**task.told(), "better": better.get(key, True)} for key, task in tasks.items()]
    blocks["effects"] = pack({"pairs": _pairs(tables.effects, place)})
    blocks |= shown.blocks()
    return Explored(
        {
            "layout": LAYOUT,
            "study": study,
            "runs": _records(runs),
            "columns": _columns(tables, list(runs["run"])),
            "tasks": told,
            "pictures": shown.told(),
        },
        blocks,
    )


def _in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Untuned bases and references first, then by base, tuning, source and seed."""
    keys = {
        "base": {name: n for n, name in enumerate(sorted(set(runs["base"])))},
        "tuning": {name: n for n, name in enumerate(names.ordered(runs["tuning"], names.TUNINGS))},
        "source": {name: n for n, name in enumerate(names.ordered(runs["source"], names.SOURCES))},
    }
    ranks = {key: runs[key].map(order) for key, order in keys.items()}
    ranks["kind"] = runs["kind"].map({"base": 0, "run": 1}).fillna(2)
    order = pd.DataFrame({**ranks, "seed": runs["seed"].fillna(-1), "run": runs["run"]})
    order = order.sort_values(["base", "kind", "tuning", "source", "seed", "run"])
    return runs.loc[order.index].reset_index(drop=True)


def _records(runs: pd.DataFrame) -> list[dict]:
    made = []
    several = runs["seed"].nunique() > 1
    kinds = runs["instruction_kinds"].replace("", "all").nunique() > 1
    for row in runs.to_dict("records"):
        if row["kind"] == "run":
            told = names.run_label(
                row["tuning"],
                row["source"],
                row["seed"] if several else None,
                row["instruction_kinds"] if kinds else "",
            )
            name = f"{row['base']}: {told}"
        else:
            name = row["label"] or row["run"]
            name = f"{name} (untuned)" if row["kind"] == "base" else name
        made.append({"name": name, **{key: _plain(row[key]) for key in tidy.RUNS}})
    return made


def _columns(tables: tidy.Tables, order: list[str]) -> list[dict]:
    """Every reported value of every run, a column a benchmark and metric."""
    values = tidy.scored(tables)
    better = _better(tables.scores)
    made = []
    for suite, benchmark, own in _benchmarks(values):
        metrics = sorted(set(own["metric"]))
        main = names.table_metrics(metrics)
        for metric in sorted(metrics, key=lambda metric: (metric not in main, metric)):
            rows = own[own["metric"] == metric].drop_duplicates("run").set_index("run")
            rows = rows.reindex(order)
            made.append(
                {
                    "suite": suite,
                    "benchmark": benchmark,
                    "metric": metric,
                    "label": names.benchmark_label(benchmark),
                    "metric_label": names.metric_label(metric),
                    "factor": names.points(metric),
                    "main": metric in main,
                    "better": better.get((suite, benchmark, metric), True),
                    **{key: [_plain(v) for v in rows[key]] for key in ("value", "low", "high")},
                    "n": _plain(rows["n"].max()),
                }
            )
    return made


def _better(scores: pd.DataFrame) -> dict[tuple[str, str, str], bool]:
    """Whether higher values are better, by suite, benchmark and metric."""
    rows = scores[[*_TASK, "higher_is_better"]].drop_duplicates(_TASK)
    return {tuple(row[:3]): bool(row[3]) for row in rows.itertuples(index=False)}


def _benchmarks(frame: pd.DataFrame) -> Iterable[tuple[str, str, pd.DataFrame]]:
    """(suite, benchmark, its rows) in the order of tables."""
    for suite in names.ordered(frame["suite"], _SUITES):
        own = frame[frame["suite"] == suite]
        groups = dict(tuple(own.groupby("benchmark")))
        for benchmark in names.ordered(own["benchmark"], _FIRST):
            yield suite, benchmark, groups[benchmark]


def _by_run(path: Path, known: Collection[str]) -> Iterator[tuple[str, list[tuple]]]:
    """Each run's items: (run, [(task, its rows)]); rows lie sorted by run in the table.

    Raises:
        UserError: the table is missing or broken, or has a row twice, or of an unknown run.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_REMEDY}")
    seen: set[str] = set()
    held: list[pd.DataFrame] = []
    columns = ["run", *_TASK, *_USED]
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: lacks the column(s) {', '.join(missing)}; {_REMEDY}")
            for batch in file.iter_batches(batch_size=20_000, columns=columns):
                rows = _frame(batch)
                for run, part in rows.groupby("run", sort=False):
                    if held and held[0]["run"].iloc[0] != run:
                        yield _one_run(path, held, seen, known)
                        held = []
                    held.append(part)
    except (pa.ArrowException, OSError) as error:
        told = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not readable as Parquet ({told}); {_REMEDY}") from error
    if held:
        yield _one_run(path, held, seen, known)


def _frame(batch: pa.RecordBatch) -> pd.DataFrame:
    """Rows with the texts as Python's own: pandas' give single ones slowly."""
    columns = {name: pd.Series(values, dtype=object) for name, values in batch.to_pydict().items()}
    return pd.DataFrame({**columns, "score": columns["score"].astype(float)})


def _one_run(
    path: Path, held: list[pd.DataFrame], seen: set[str], known: Collection[str]
) -> tuple[str, list[tuple]]:
    rows = pd.concat(held, ignore_index=True)
    run = rows["run"].iloc[0]
    if run in seen:
        raise UserError(f"{path}: the rows of {run} lie apart; {_REMEDY}")
    if run not in known:
        raise UserError(f"{path}: {run} is unknown in {tidy.FILES['runs']}; {_REMEDY}")
    seen.add(run)
    parts = []
    for key, own in rows.groupby(_TASK, sort=True):
        twice = own["item"].duplicated()
        if twice.any():
            item = own.loc[twice, "item"].iloc[0]
            raise UserError(f"{path}: {run} has {'/'.join(key)}/{item} twice; {_REMEDY}")
        parts.append((key, own[_USED]))
    return run, parts


def _tasks(
    items: Iterable[tuple[str, list[tuple]]], pictures: _Pictures
) -> dict[tuple[str, str, str], _Task]:
    """All tasks with their items, in the order of tables."""
    found: dict[tuple[str, str, str], _Task] = {}
    for _, parts in items:
        for key, own in parts:
            found.setdefault(key, _Task(key, pictures)).meet(own)
    frame = pd.DataFrame(list(found), columns=_TASK)
    order = [
        (suite, benchmark, metric)
        for suite, benchmark, own in _benchmarks(frame)
        for metric in sorted(own["metric"])
    ]
    for task in found.values():
        task.settle()
    return {key: found[key] for key in order}


class _Task:
    """One benchmark's items: their facts, and what runs made of them.

    Meets the items of all runs, is settled, and only then tells of them.
    """

    def __init__(self, task: tuple[str, str, str], pictures: _Pictures):
        self.suite, self.benchmark, self.metric = task
        self.pictures = pictures
        self.binary = True
        self.runs: list[int] = []
        self._met: dict[str, dict] = {}

    def meet(self, own: pd.DataFrame) -> None:
        """Takes note of a run's items; the first that tells a question says what was asked."""
        self.binary = self.binary and bool(own["score"].dropna().isin((0, 1)).all())
        columns = zip(own["item"], own["cluster"], own["reference"], own["details"], strict=True)
        for item, cluster, reference, details in columns:
            known = self._met.get(item)
            if known is None or not (known["asked"] or known["tried"]):
                read = _read(details)
                asked = "question" in read
                if known is None or asked:
                    told = {"reference": reference, "cluster": cluster}
                    self._met[item] = {**read, **told, "asked": asked, "tried": known is not None}
                else:
                    known["tried"] = True

    def settle(self) -> None:
        """Puts the items in order."""
        self.names = sorted(self._met, key=_natural)
        self.at = {item: number for number, item in enumerate(self.names)}
        self.first = [self._met.pop(item) for item in self.names]
        self.choices = [_strings(fact.get("choices")) for fact in self.first]

    def facts(self) -> tuple[dict, dict[str, np.ndarray]]:
        """What is the same in every run."""
        shots = [fact.get("shots") for fact in self.first]
        header = {
            "item": self.names,
            "cluster": [
                fact["cluster"] if fact["cluster"] != item else None
                for item, fact in zip(self.names, self.first, strict=True)
            ],
            "question": [_text(fact.get("question")) for fact in self.first],
            "choices": self.choices,
            "reference": [_text(fact["reference"]) for fact in self.first],
            "references": [_references(fact.get("references")) for fact in self.first],
            "prompt": [_text(fact.get("prompt")) for fact in self.first],
            "group": [_text(fact.get("group")) for fact in self.first],
            "image": [_text(fact.get("image")) for fact in self.first],
            "shots": [len(asked) if isinstance(asked, list) else 0 for asked in shots],
        }
        header = {
            key: values
            for key, values in header.items()
            if key == "item" or any(map(_told, values))
        }
        # A corrupted twin shows the clean image; its name is <benchmark>-<kind>-<severity>.
        clean = self.benchmark.rsplit("-", 2)[0] if self.suite == "corrupted" else self.benchmark
        pictures = [self.pictures.number(clean, fact.get("image")) for fact in self.first]
        arrays = {"choice_count": np.array([len(c or ()) for c in self.choices], np.int16)}
        if any(picture >= 0 for picture in pictures):
            arrays["picture"] = np.array(pictures, np.int32)
        return header, arrays

    def answers(self, own: pd.DataFrame) -> tuple[np.ndarray, tuple[dict, dict[str, np.ndarray]]]:
        """One run's scores (NaN where it lacks an item), and its answers' block."""
        size = len(self.names)
        scores = np.full(size, np.nan, np.float32)
        said = np.full(size, -1, np.int32)
        texts: dict[str, int] = {}
        likelihoods: list[list | None] = [None] * size
        other: dict[str, list[str]] = {}
        spare = {"generated": {}, "parsed": {}, "truncated": {}, "reference": {}}
        for row in own.itertuples(index=False):
            at = self.at[row.item]
            scores[at] = row.score
            details = _read(row.details)
            likelihoods[at] = details.get("loglikelihoods")
            choices = _strings(details.get("choices"))
            if choices is not None and choices != self.choices[at]:
                other[str(at)] = choices
            prediction = _text(row.prediction) or ""
            # Beyond the texts' numbers lie those of choices, counted down.
            if choices and prediction in choices:
                said[at] = -2 - choices.index(prediction)
            else:
                said[at] = texts.setdefault(prediction, len(texts))
            for key in ("generated", "parsed"):
                text = _text(details.get(key))
                if text is not None and text.strip() != prediction.strip():
                    spare[key][str(at)] = text
            if details.get("truncated"):
                spare["truncated"][str(at)] = details["truncated"]
            reference = _text(row.reference)
            if reference != _text(self.first[at]["reference"]):
                spare["reference"][str(at)] = reference
        header: dict[str, Any] = {"texts": list(texts)}
        header |= {key: values for key, values in spare.items() if values}
        if other:
            header["choices"] = other
        arrays = {"said": said}
        counts = [
            len(other.get(str(at)) or choices or ()) for at, choices in enumerate(self.choices)
        ]
        if any(likelihoods):
            step, values = _quantized(likelihoods, counts)
            header["step"] = step
            arrays["loglikelihoods"] = values
        return scores, (header, arrays)

    def told(self) -> dict[str, Any]:
        """What the index says of it."""
        return {
            "suite": self.suite,
            "benchmark": self.benchmark,
            "metric": self.metric,
            "label": names.benchmark_label(self.benchmark),
            "metric_label": names.metric_label(self.metric),
            "factor": names.points(self.metric),
            "binary": self.binary,
            "n": len(self.names),
            "runs": sorted(self.runs),
        }


def _quantized(found: list[list | None], counts: list[int]) -> tuple[float, np.ndarray]:
    """Log-likelihoods of all items after one another, in whole steps."""
    flat: list[float] = []
    for given, count in zip(found, counts, strict=True):
        given = given if isinstance(given, list) else []
        values = [v if isinstance(v, int | float) else math.nan for v in given[:count]]
        flat += values + [math.nan] * (count - len(values))
    values = np.array(flat, np.float64)
    known = np.isfinite(values)
    largest = float(np.abs(values[known]).max()) if known.any() else 0.0
    step = max(STEP, largest / 32000)
    made = np.full(len(values), NONE, np.int16)
    made[known] = np.round(values[known] / step).astype(np.int16)
    return step, made


class _Pictures:
    """The pictures that items show, each once."""

    def __init__(self, known: Mapping[tuple[str, str], bytes]):
        self.known, self.numbers, self.data = known, {}, []
        self.asked: set[tuple[str, str]] = set()

    def number(self, benchmark: str, name: object) -> int:
        """The number of an image's picture; -1 where there is none."""
        if not isinstance(name, str):
            return -1
        self.asked.add((benchmark, name))
        data = self.known.get((benchmark, name))
        if data is None:
            return -1
        if data not in self.numbers:
            self.numbers[data] = len(self.data)
            self.data.append(data)
        return self.numbers[data]

    def _groups(self) -> list[list[bytes]]:
        groups: list[list[bytes]] = []
        size = PICTURES
        for data in self.data:
            if size + len(data) > PICTURES:
                groups.append([])
                size = 0
            groups[-1].append(data)
            size += len(data)
        return groups

    def blocks(self) -> dict[str, bytes]:
        """Their blocks, by name."""
        return {
            f"pictures-{number}": pack(
                {"sizes": [len(data) for data in group]},
                {"bytes": np.frombuffer(b"".join(group), np.uint8)},
            )
            for number, group in enumerate(self._groups())
        }

    def told(self) -> dict[str, Any]:
        """How many images items name and how many are here; the first picture of each block."""
        groups = self._groups()
        firsts = [sum(len(group) for group in groups[:number]) for number in range(len(groups))]
        kept = sum((benchmark, name) in self.known for benchmark, name in self.asked)
        return {"asked": len(self.asked), "kept": kept, "firsts": firsts}


def _pairs(effects: pd.DataFrame, place: Mapping[str, int]) -> dict[str, dict]:
    """Paired effects by `<run>-<other>`, then by `<suite>/<benchmark>/<metric>`."""
    made: dict[str, dict] = {}
    adjusted = "p_holm" in effects.columns
    for row in effects.to_dict("records"):
        if row["run"] not in place or row["other"] not in place:
            continue
        pair = made.setdefault(f"{place[row['run']]}-{place[row['other']]}", {})
        told = [_plain(row[key]) for key in ("difference", "low", "high", "p")]
        told.append(_plain(row["p_holm"]) if adjusted else None)
        pair.setdefault("/".join(row[key] for key in _TASK), told)
    return made


def _read(details: object) -> dict[str, Any]:
    """An item's details; none where they are no JSON object."""
    try:
        read = json.loads(details) if isinstance(details, str) else None
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {}


def _strings(values: object) -> list[str] | None:
    return [_text(value) or "" for value in values] if isinstance(values, list) else None


def _references(values: object) -> list[str] | None:
    """Several references as texts; with how many gave each where that is known."""
    if isinstance(values, dict):
        return [f"{text} \u00d7 {count}" for text, count in values.items()]
    return _strings(values)


def _text(value: object) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}\u2026"


def _told(value: object) -> bool:
    return value not in (None, "", 0)


def _plain(value: Any) -> Any:
    """A cell as JSON knows it: six significant digits, null where there is no value."""
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.6g}")
    return int(value)


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Sorts boolq/2 before boolq/10."""
    parts = re.split(r"(\d{1,18})", text)
    return [(0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts]
