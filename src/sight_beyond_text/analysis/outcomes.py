"""Item tables as matrices: per benchmark and metric, the scores of all runs on all items.

Built run by run, so that a study's items never lie in memory as text all at once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sight_beyond_text.errors import UserError

NEEDED = ("run", "suite", "benchmark", "metric", "item", "cluster", "score", "details")
"""The columns of table `items` that statistics read."""

_TEST = ["suite", "benchmark", "metric"]
_GROUP = r'"group":\s*"(?P<group>[^"\\]+)"'
# The harness asks the same questions of both, under the same numbers.
_SAME_QUESTIONS = re.compile(r"^truthfulqa_(mc1|mc2|gen)/")


@dataclass(frozen=True)
class Outcomes:
    """One metric of one benchmark.

    Attributes:
        suite, benchmark, metric: Its name.
        items: Names, sorted, (items,).
        clusters: What each item depends on others through: alike within the suite, even in
            different benchmarks, where items share a picture, a passage or a question, (items,).
        runs: Who was scored, sorted.
        scores: (items, runs), NaN where a run was not asked.
    """

    suite: str
    benchmark: str
    metric: str
    items: np.ndarray
    clusters: np.ndarray
    runs: tuple[str, ...]
    scores: np.ndarray

    def of(self, run: str) -> np.ndarray:
        """A run's scores, (items,)."""
        return self.scores[:, self.runs.index(run)]


@dataclass
class _Growing:
    items: pd.Index
    stated: np.ndarray
    columns: dict[str, tuple[np.ndarray | None, np.ndarray]] = field(default_factory=dict)


class Gatherer:
    """Takes in items, run by run, and gives them back by benchmark and metric."""

    def __init__(self) -> None:
        self._tests: dict[tuple[str, str, str], _Growing] = {}

    def add(self, items: pa.Table) -> None:
        """Takes in all items of one run or of several, each run only once.

        Items whose details name a group (MMLU's) count once more, under `<metric>_<group>`.

        Raises:
            UserError: Items are doubled, lack a score, or have another cluster than in the runs
                before.
        """
        for frame in (_plain(items), _groups(items)):
            for (run, *test), rows in frame.groupby(["run", *_TEST], sort=True, observed=True):
                self._take(str(run), tuple(map(str, test)), rows)

    def _take(self, run: str, test: tuple[str, str, str], rows: pd.DataFrame) -> None:
        names = rows["item"].to_numpy(object)
        scores = rows["score"].to_numpy(float)
        own = pd.Index(names)
        known = self._tests.get(test)
        twice = own.duplicated()
        if known is not None and run in known.columns:
            twice = np.ones(len(own), bool)
        for wrong, what in ((twice, "occur twice"), (np.isnan(scores), "have no score")):
            if wrong.any():
                first = "/".join((run, *test, str(names[wrong][0])))
                raise UserError(
                    f"{int(wrong.sum())} item row(s) {what}, first {first}; evaluate that run again"
                )
        stated = rows["cluster"].to_numpy(object)
        stated = np.where(stated == "", names, stated)
        if known is None:
            self._tests[test] = known = _Growing(own, stated)
        if len(own) == len(known.items) and own.equals(known.items):
            place, before = None, known.stated
        else:
            new = ~own.isin(known.items)
            known.items = known.items.append(own[new])
            known.stated = np.concatenate([known.stated, stated[new]])
            place = known.items.get_indexer(own)
            before = known.stated[place]
        other = before != stated
        if other.any():
            raise UserError(
                f"{'/'.join(test)}: item {names[other][0]!r} has different clusters in different "
                "runs; evaluate those runs again with one version of the data"
            )
        known.columns[run] = (place, scores)

    def scored(self) -> pd.DataFrame:
        """Who was scored on what: run, suite, benchmark, metric, sorted."""
        rows = [(run, *test) for test, known in self._tests.items() for run in known.columns]
        return pd.DataFrame(sorted(rows), columns=["run", *_TEST], dtype="str")

    def outcomes(self) -> Iterator[Outcomes]:
        """By suite, benchmark and metric, sorted."""
        for (suite, benchmark, metric), test in sorted(self._tests.items()):
            runs = tuple(sorted(test.columns))
            scores = np.full((len(test.items), len(runs)), np.nan)
            for column, run in enumerate(runs):
                place, values = test.columns[run]
                scores[slice(len(values)) if place is None else place, column] = values
            order = np.argsort(test.items.to_numpy(object), kind="stable")
            items = test.items.to_numpy(object)[order]
            clusters = _clusters(benchmark, items, test.stated[order])
            yield Outcomes(suite, benchmark, metric, items, clusters, runs, scores[order])


def gather(items: pd.DataFrame) -> Gatherer:
    """What `Gatherer` makes of a whole table `items`; it may lack the details."""
    gatherer = Gatherer()
    if "details" not in items:
        items = items.assign(details="")
    gatherer.add(pa.Table.from_pandas(items[list(NEEDED)], preserve_index=False))
    return gatherer


def _plain(items: pa.Table) -> pd.DataFrame:
    return _frame(items.select([name for name in NEEDED if name != "details"]))


def _groups(items: pa.Table) -> pd.DataFrame:
    rows = items.filter(pc.match_substring(items["details"], '"group":'))
    found = pc.extract_regex(rows["details"], pattern=_GROUP)
    frame = _plain(rows)
    group = pc.struct_field(found, "group").to_pandas().to_numpy(object)
    grouped = np.array([isinstance(name, str) for name in group], bool)
    frame = frame[grouped]
    frame["metric"] = (
        frame["metric"].astype("str")
        + "_"
        + pd.Series(group[grouped], index=frame.index, dtype="str")
    )
    return frame


def _frame(table: pa.Table) -> pd.DataFrame:
    made = {}
    for name in table.column_names:
        column = table[name]
        if name in ("item", "cluster"):
            texts = pc.fill_null(column.cast(pa.large_string()), "")
            made[name] = np.asarray(texts.to_numpy(zero_copy_only=False), object)
        elif name == "score":
            made[name] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        else:
            made[name] = column.cast(pa.large_string()).to_pandas().astype("category")
    return pd.DataFrame(made)


def _clusters(benchmark: str, items: np.ndarray, stated: np.ndarray) -> np.ndarray:
    alone = stated == items
    own = [
        _SAME_QUESTIONS.sub("truthfulqa/", item)
        if _SAME_QUESTIONS.match(item)
        else f"{benchmark}/{item}"
        for item in items[alone]
    ]
    clusters = stated.copy()
    clusters[alone] = own
    return clusters
