"""Families of tests, and p values adjusted within them.

A family is what one looks through for something to report: a contrast on a suite, by the main
metric of each benchmark. Every other metric is a family of its own.
"""

import pandas as pd
from statsmodels.stats.multitest import multipletests

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
    for _, p in made.loc[made["p"].notna()].groupby("family")["p"]:
        made.loc[p.index, "p_holm"] = multipletests(p.to_numpy(), method="holm")[1]
    return made
