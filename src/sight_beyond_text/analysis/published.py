"""Values that others reported, as a tidy table beside ours."""

from collections.abc import Sequence

import pandas as pd

from sight_beyond_text.analysis import names, tidy


def reported(published: Sequence[dict], scores: pd.DataFrame) -> pd.DataFrame:
    """Table `published`, in each metric's own unit.

    Args:
        published: `published` of `grid.compare_spec`; values in points.
        scores: Table `scores`, which tells the metrics.
    """
    rows = []
    for entry in published:
        metric = entry["metric"] or _main(entry["benchmark"], scores)
        value = entry["value"] / names.points(metric)
        told = {"benchmark": entry["benchmark"], "metric": metric, "value": value}
        rows += [{"run": run, **told, "source": entry["source"]} for run in entry["runs"]]
    return pd.DataFrame(rows, columns=list(tidy.PUBLISHED)) if rows else tidy.empty("published")


def _main(benchmark: str, scores: pd.DataFrame) -> str:
    if benchmark in names.MEANS.values():
        return names.MEAN_METRIC
    parts = names.ETHICS if benchmark == names.MACRO else (benchmark,)
    metrics = scores.loc[scores["benchmark"].isin(parts), "metric"]
    return names.main_metric(metrics) if len(metrics) else "acc"
