"""Scorers of the image benchmarks: plain functions from predictions to metrics and item tables.

Each module has `score(predictions, ...)`, which returns the metrics (fractions 0..1; CIDEr as
usual, 1.0 = 100) and a frame with one row an item that has at least the columns `image_id`,
`prediction`, `reference` and `score`.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

from sight_beyond_text.errors import UserError

_SHOWN = 5


def check_predictions(
    predictions: Mapping[Hashable, str], ids: Iterable[Hashable], benchmark: str, item: str
) -> None:
    """Refuses predictions that do not cover the benchmark.

    Args:
        predictions: item id -> answer; ids the benchmark does not have are no error.
        ids: the benchmark's item ids.
        benchmark: name of the benchmark, for the message.
        item: what one item is called in the message, e.g. "question_id".

    Raises:
        UserError: there are no items, an id occurs twice (one prediction would be scored for two
            items), or items have no prediction.
    """
    # Without iter, a mapping's values would be taken for counts.
    counts = Counter(iter(ids))
    if not counts:
        raise UserError(f"{benchmark}: nothing to score; give at least one {item}")
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise UserError(
            f"{benchmark}: {len(repeated)} {item}s occur more than once ({shown(repeated)}); "
            "score each file of the benchmark on its own"
        )
    missing = [key for key in counts if key not in predictions]
    if missing:
        raise UserError(
            f"{benchmark}: no prediction for {len(missing)} of {len(counts)} {item}s "
            f"({shown(missing)}); predict every item, if only with an empty answer"
        )


def shown(ids: Sequence[Hashable]) -> str:
    """The first few of many ids, for a message."""
    return ", ".join(map(str, ids[:_SHOWN])) + (", ..." if len(ids) > _SHOWN else "")
