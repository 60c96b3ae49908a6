"""The tidy tables between evaluation and drawing: their columns, how they are read and written.

One study's tables lie in one folder (`figures/data/<study>/`). Reading checks everything that
would otherwise surface as a confusing plot: files, columns, types, truncation, doubled rows.
Writing is deterministic and atomic, so that an unchanged table keeps its bytes.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sight_beyond_text.analysis import names
from sight_beyond_text.errors import UserError

RUNS = {
    "run": "text",
    "label": "text",
    "kind": "text",
    "base": "text",
    "source": "text",
    "instruction_kinds": "text",
    "tuning": "text",
    "seed": "integer",
    "parameters": "integer",
    "trainable_parameters": "integer",
    "train_seconds": "float",
    "samples": "integer",
    "tokens": "integer",
}
SCORES = {
    "run": "text",
    "suite": "text",
    "benchmark": "text",
    "metric": "text",
    "value": "float",
    "stderr": "float",
    "n": "integer",
    "protocol": "text",
    "higher_is_better": "boolean",
}
ITEMS = {
    "run": "text",
    "suite": "text",
    "benchmark": "text",
    "metric": "text",
    "item": "text",
    "cluster": "text",
    "prediction": "text",
    "reference": "text",
    "score": "float",
    "details": "text",
}
CURVES = {
    "run": "text",
    "stage": "text",
    "step": "integer",
    "epoch": "float",
    "loss": "float",
    "learning_rate": "float",
}
_DIFFERENCE = {
    "suite": "text",
    "benchmark": "text",
    "metric": "text",
    "protocol": "text",
    "value": "float",
    "other_value": "float",
    "difference": "float",
    "low": "float",
    "high": "float",
    "p": "float",
    "p_holm": "float",
    "effect_size": "float",
    "family": "text",
    "n": "integer",
    "n_clusters": "integer",
}
EFFECTS = {
    "contrast": "text",
    "run": "text",
    "other": "text",
    "base": "text",
    "source": "text",
    "tuning": "text",
    "seed": "integer",
    **_DIFFERENCE,
}
OVER_SEEDS = {
    "contrast": "text",
    "base": "text",
    "source": "text",
    "tuning": "text",
    "instruction_kinds": "text",
    "other": "text",
    "seeds": "integer",
    **_DIFFERENCE,
}
INTERVALS = {
    "run": "text",
    "suite": "text",
    "benchmark": "text",
    "metric": "text",
    "protocol": "text",
    "value": "float",
    "low": "float",
    "high": "float",
    "n": "integer",
}
CLAIMS = {
    "claim": "text",
    "text": "text",
    "verdict": "text",
    "kind": "text",
    "threshold": "float",
    "difference": "float",
    "low": "float",
    "high": "float",
    "p": "float",
    "p_holm": "float",
    "suite": "text",
    "benchmark": "text",
    "metric": "text",
    "protocol": "text",
    "pairs": "integer",
    "pairs_alone": "integer",
    "seeds": "integer",
    "n": "integer",
    "n_clusters": "integer",
    "needed_items": "integer",
    "needed_seeds": "integer",
    "reason": "text",
}
PUBLISHED = {
    "run": "text",
    "benchmark": "text",
    "metric": "text",
    "value": "float",
    "source": "text",
}
"""Columns of each table, in order, with their types (text, integer, float, boolean)."""

FILES = {
    "runs": "runs.csv",
    "scores": "scores.csv",
    "items": "items.parquet",
    "curves": "curves.csv",
    "effects": "effects.csv",
    "over_seeds": "over_seeds.csv",
    "intervals": "intervals.csv",
    "claims": "claims.csv",
    "published": "published.csv",
}
SCHEMAS = {
    "runs": RUNS,
    "scores": SCORES,
    "items": ITEMS,
    "curves": CURVES,
    "effects": EFFECTS,
    "over_seeds": OVER_SEEDS,
    "intervals": INTERVALS,
    "claims": CLAIMS,
    "published": PUBLISHED,
}
KEYS = {
    "runs": ["run"],
    "scores": ["run", "suite", "benchmark", "metric"],
    "items": ["run", "suite", "benchmark", "metric", "item"],
    "curves": ["run", "stage", "step"],
    "effects": ["contrast", "run", "other", "suite", "benchmark", "metric"],
    "over_seeds": [
        *("contrast", "base", "source", "tuning", "instruction_kinds", "other"),
        *("suite", "benchmark", "metric"),
    ],
    "intervals": ["run", "suite", "benchmark", "metric"],
    "claims": ["claim"],
    "published": ["run", "benchmark", "metric"],
}
"""What may occur only once in a table."""

_DTYPES = {"text": "str", "integer": "Int64", "float": "float64", "boolean": "bool"}
_INTEGERS = frozenset(
    name for schema in SCHEMAS.values() for name, kind in schema.items() if kind == "integer"
)
_TEST = ["suite", "benchmark", "metric"]
_GROUP = 50_000
"""Items of a row group, or those of one run where it has more."""
_PAGE = 2**23
REMEDY = "make the tables again with `sight compare`"


@dataclass(frozen=True)
class Tables:
    """All tables of one study, one row per observation; columns as in `SCHEMAS`.

    Attributes:
        runs: What was trained or only evaluated, one row a run.
        scores: One row per run, benchmark and metric.
        items: One row per run and question; empty where it was not asked for.
        curves: Training losses by step.
        effects: Paired differences between runs.
        over_seeds: Those differences averaged over seeds; empty where the study has one seed.
        intervals: Each run's own mean with its 95 % interval, ETHICS as a whole included.
        claims: What the study claims, and the verdicts; empty where it states nothing.
        published: Values that others reported, in the metric's own unit.
    """

    runs: pd.DataFrame
    scores: pd.DataFrame
    items: pd.DataFrame
    curves: pd.DataFrame
    effects: pd.DataFrame
    over_seeds: pd.DataFrame
    intervals: pd.DataFrame
    claims: pd.DataFrame
    published: pd.DataFrame


def empty(table: str) -> pd.DataFrame:
    """A table without rows, with its columns and types."""
    schema = SCHEMAS[table]
    return pd.DataFrame({name: pd.Series(dtype=_DTYPES[kind]) for name, kind in schema.items()})


def read_tables(directory: str | Path, items: bool = True) -> Tables:
    """Reads and checks the tables of one study.

    Args:
        directory: The folder that holds them.
        items: Whether to read `items.parquet`, by far the largest. Figures do without.

    Raises:
        UserError: A file is missing, truncated, lacks a column, or contradicts another one.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder of tables; {REMEDY} or name another folder")
    frames = {
        table: empty(table) if table == "items" and not items else read_table(directory, table)
        for table in FILES
    }
    _check_runs(directory, frames)
    _check_protocols(directory / FILES["scores"], frames["scores"])
    return Tables(**frames)


def read_table(
    directory: str | Path, table: str, file: str | None = None, remedy: str = REMEDY
) -> pd.DataFrame:
    """Reads and checks one table (a key of `FILES`); columns beyond its own stay.

    Args:
        directory: The folder that holds it.
        table: A key of `FILES`.
        file: Another name of the file, such as a single run's.
        remedy: What to do where it isn't whole.

    Raises:
        UserError: The file is missing, truncated, lacks a column, or has a row twice.
    """
    path = Path(directory) / (file or FILES[table])
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    frame = _read_parquet(path, remedy) if path.suffix == ".parquet" else _read_csv(path)
    missing = [name for name in SCHEMAS[table] if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: lacks the column(s) {', '.join(missing)}; {remedy}")
    for name, kind in SCHEMAS[table].items():
        frame[name] = _typed(path, frame[name], kind)
    doubled = frame.duplicated(KEYS[table])
    if doubled.any():
        first = frame.loc[doubled, KEYS[table]].iloc[0]
        where = ", ".join(f"{name}={value}" for name, value in first.items())
        raise UserError(f"{path}: {int(doubled.sum())} row(s) occur twice, first {where}; {remedy}")
    return frame


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Writes a table as CSV: rows sorted, six significant digits, whole numbers in full.

    The same rows give the same bytes, in whatever order they come. The file appears only when it
    is complete.
    """
    frame = _sorted(frame)
    for name in frame.columns:
        if name in _INTEGERS:
            frame[name] = frame[name].astype("Int64")
        elif pd.api.types.is_float_dtype(frame[name]):
            # Adding zero turns -0.0 into 0.0, which would print as "-0".
            frame[name] = frame[name] + 0.0
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def write_parquet(frame: pd.DataFrame, path: str | Path) -> None:
    """Writes a table as Parquet (zstd), rows sorted; the file appears only when complete."""
    table = pa.Table.from_pandas(_sorted(frame), preserve_index=False)
    with atomic_path(path) as temporary:
        # Without pandas' own metadata the bytes don't change with its version.
        pq.write_table(table.replace_schema_metadata(None), temporary, compression="zstd")


def read_items(path: str | Path, remedy: str = REMEDY) -> pa.Table:
    """Reads a table of items as Arrow holds it: the columns of `ITEMS`, text without blanks.

    Args:
        path: The file.
        remedy: What to do where it isn't whole.

    Raises:
        UserError: The file is missing, truncated, or lacks a column.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in ITEMS if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: lacks the column(s) {', '.join(missing)}; {remedy}")
            table = file.read(columns=list(ITEMS)).select(list(ITEMS))
        columns = [
            table[name].cast(pa.float64())
            if kind == "float"
            else pc.fill_null(table[name].cast(pa.large_string()), "")
            for name, kind in ITEMS.items()
        ]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({_short(error)}); {remedy}") from error
    return pa.table(columns, names=list(ITEMS))


@contextmanager
def items_writer(path: str | Path) -> Iterator[Callable[[pa.Table], None]]:
    """Gives a function that writes one run's items, to be called run by run in alphabetical order.

    The rows are sorted, as `write_parquet` sorts them, and never all in memory: small runs share a
    row group, so that what all of them hold is stored once. The file appears only when it is
    complete.
    """
    schema = pa.schema(
        [
            (name, pa.float64() if kind == "float" else pa.large_string())
            for name, kind in ITEMS.items()
        ]
    )
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", compression_level=9, data_page_size=_PAGE
        ) as writer,
    ):
        waiting: list[pa.Table] = []

        def write(table: pa.Table) -> None:
            keys = [(name, "ascending") for name in KEYS["items"]]
            waiting.append(table.sort_by(keys).cast(schema))
            if sum(map(len, waiting)) >= _GROUP:
                flush()

        def flush() -> None:
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()

        yield write
        flush()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; moves it there at the end, or removes it on an error.

    Folders above `path` are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def scored(tables: Tables) -> pd.DataFrame:
    """Every reported value with its 95 % interval and what the run is.

    The interval is the bootstrap's where the metric is a mean over items, otherwise 1.96 standard
    errors where evaluation gave one, otherwise NaN. ETHICS as a whole is included.

    Returns:
        One row per run, suite, benchmark and metric: the columns of `RUNS`, then suite, benchmark,
        metric, value, low, high, n.
    """
    keys = KEYS["scores"]
    boot = tables.intervals
    merged = tables.scores.merge(boot[[*keys, "value", "low", "high"]], how="left", on=keys)
    # Some metrics (BLEU of a corpus, F1) are no mean over items: an interval of the items' mean
    # would then sit beside the point.
    same = np.isclose(merged["value_x"], merged["value_y"], rtol=1e-3, atol=1e-4)
    error = 1.96 * merged["stderr"]
    merged["value"] = merged["value_x"]
    merged["low"] = merged["low"].where(same, merged["value"] - error)
    merged["high"] = merged["high"].where(same, merged["value"] + error)
    known = pd.MultiIndex.from_frame(tables.scores[keys])
    derived = boot[~pd.MultiIndex.from_frame(boot[keys]).isin(known)]
    columns = [*keys, "value", "low", "high", "n"]
    values = pd.concat([merged[columns], derived[columns]], ignore_index=True)
    return tables.runs.merge(values, on="run").sort_values(keys, ignore_index=True)


def with_protocol(frame: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """A table made of items, with the protocol of each row after its metric.

    Args:
        frame: Has the columns suite, benchmark and metric.
        scores: Table `scores`, which tells the protocols. ETHICS as a whole has its subsets'.

    Raises:
        UserError: A benchmark has several protocols, or no score.
    """
    known = scores[[*_TEST, "protocol"]]
    whole = known[known["benchmark"].isin(names.ETHICS)].assign(benchmark=names.MACRO)
    known = pd.concat([known, whole]).drop_duplicates()
    _check_protocols("scores", known)
    known = pd.concat([known, _protocols_of_means(known)], ignore_index=True)
    protocols = frame[_TEST].merge(known, how="left", on=_TEST)["protocol"]
    missing = protocols.isna().to_numpy()
    if missing.any():
        first = "/".join(frame.loc[missing, _TEST].iloc[0])
        raise UserError(f"scores: {first} has items, but no score; evaluate its runs again")
    made = frame.copy()
    made.insert(frame.columns.get_loc("metric") + 1, "protocol", protocols.array)
    return made


def _protocols_of_means(known: pd.DataFrame) -> pd.DataFrame:
    """Of the means over a suite's benchmarks, every protocol that is in them."""
    rows = [
        {"suite": suite, "benchmark": mean, "metric": names.MEAN_METRIC, "protocol": told}
        for suite, mean in names.MEANS.items()
        if (told := ", ".join(sorted(set(known.loc[known["suite"] == suite, "protocol"]))))
    ]
    return pd.DataFrame(rows, columns=known.columns)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{path}: not readable as CSV ({_short(error)}); {REMEDY}") from error
    if not rows:
        raise UserError(f"{path}: empty; {REMEDY}")
    # A file cut inside its last field still parses; only the missing line end tells.
    if not text.endswith("\n"):
        raise UserError(f"{path}: ends in the middle of line {len(rows)}; {REMEDY}")
    header, *body = rows
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise UserError(
                f"{path}: row {number} has {len(row)} fields instead of {len(header)}; {REMEDY}"
            )
    if len(set(header)) != len(header):
        raise UserError(f"{path}: a column name occurs twice; {REMEDY}")
    return pd.DataFrame(body, columns=header, dtype="str")


def _read_parquet(path: Path, remedy: str) -> pd.DataFrame:
    try:
        return pq.read_table(path).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({_short(error)}); {remedy}") from error


def _typed(path: Path, column: pd.Series, kind: str) -> pd.Series:
    if kind == "text":
        return column.astype("str").fillna("")
    if kind == "boolean":
        truths = column.astype("str").str.lower().map({"true": True, "false": False})
        _refuse(path, column, truths.isna(), "true or false")
        return truths.astype("bool")
    texts = pd.api.types.is_string_dtype(column)
    blank = column == "" if texts else column.isna()
    numbers = pd.to_numeric(column, errors="coerce").astype("Float64")
    # The word "nan" is a number to some writers; an unreadable word is not.
    wrong = numbers.isna() & ~blank & (column.astype("str").str.lower() != "nan")
    if kind == "integer":
        wrong |= (numbers % 1 != 0).fillna(False)
    _refuse(path, column, wrong, f"{'a whole' if kind == 'integer' else 'a'} number")
    return numbers.astype("Int64") if kind == "integer" else numbers.astype("float64")


def _refuse(path: Path, column: pd.Series, wrong: pd.Series, expected: str) -> None:
    if wrong.any():
        value = column[wrong].iloc[0]
        raise UserError(
            f"{path}: column {column.name} holds {str(value)[:40]!r} where {expected} belongs "
            f"(row {int(wrong.to_numpy().argmax()) + 2}); {REMEDY}"
        )


def _check_runs(directory: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    known = set(frames["runs"]["run"])
    for table, frame in frames.items():
        if "run" not in frame:
            continue
        unknown = sorted(set(frame["run"]).difference(known))
        if unknown:
            raise UserError(
                f"{directory / FILES[table]}: {len(unknown)} run(s) are not in {FILES['runs']}, "
                f"first {unknown[0]!r}; {REMEDY}"
            )


def _check_protocols(path: str | Path, scores: pd.DataFrame) -> None:
    counts = scores.groupby(_TEST)["protocol"].nunique()
    if (counts > 1).any():
        suite, benchmark, metric = counts[counts > 1].index[0]
        mixed = scores[(scores["benchmark"] == benchmark) & (scores["metric"] == metric)]
        protocols = ", ".join(sorted(set(mixed["protocol"])))
        raise UserError(
            f"{path}: {suite}/{benchmark}/{metric} was scored under several protocols "
            f"({protocols}), so the runs can't be compared; evaluate all of them under one"
        )


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(list(frame.columns), kind="stable", ignore_index=True)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
