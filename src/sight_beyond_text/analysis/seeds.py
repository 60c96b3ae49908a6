"""Differences between runs over several training seeds."""

import pandas as pd

from sight_beyond_text.analysis import tidy


def over_seeds(runs: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Table `over_seeds`, without the protocol; empty where no pair of runs has several seeds."""
    return tidy.empty("over_seeds").drop(columns="protocol")
