"""Families of tests, and p values adjusted within them.

A family is what one looks through for something to report: a contrast on a suite, by the main
metric of each benchmark. Every other metric is a family of its own.
"""

import numpy as np
import pandas as pd

from sight_beyond_text.analysis import names


def adjusted(effects: pd.DataFrame) -> pd.DataFrame:
    """Effects with `family` and `p_holm` (Holm, A simple sequentially rejective multiple test
    procedure, 1979), which keeps the chance of any false finding in the family under 5 %.

    Args:
        effects: has contrast, suite, benchmark, metric and p; a NaN (nothing could be tested)
            stays one, and does not count.
    """
    made = effects.copy()
    main = made.groupby(["suite", "benchmark"])["metric"].transform(names.main_metric)
    family = made["contrast"] + ", " + made["suite"]
    made["family"] = family.where(made["metric"] == main, family + ", " + made["metric"]).astype(
        "str"
    )
    made["p_holm"] = float("nan")
    tested = made["p"].notna()
    made.loc[tested, "p_holm"] = made[tested].groupby("family")["p"].transform(_holm)
    return made


def _holm(p: pd.Series) -> np.ndarray:
    # As statsmodels' multipletests, which collects garbage at each call: seconds in a large study.
    order = np.argsort(p.to_numpy(), kind="stable")
    steps = p.to_numpy()[order] * np.arange(len(p), 0, -1)
    found = np.empty(len(p))
    found[order] = np.maximum.accumulate(steps).clip(max=1.0)
    return found
