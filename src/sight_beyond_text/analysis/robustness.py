"""How much of a score is left when the images are corrupted."""

import pandas as pd

from sight_beyond_text.errors import UserError


def relative_robustness(scores: pd.DataFrame) -> pd.DataFrame:
    """Score on corrupted images over the score on clean ones, by kind of corruption.

    The mean over the severities is taken before the ratio, so that each severity counts as much.

    Args:
        scores: table `scores`; corrupted benchmarks have the suite `corrupted` and are called
            `<benchmark>-<kind>-<severity>`.

    Returns:
        One row per run, benchmark, metric, protocol and kind: run, benchmark, metric, protocol,
        kind, severities (as in "1,3,5"), clean, corrupted (the mean over them), relative (NaN where
        clean is 0); and for kind `mean`, which stands for the mean over kinds.

    Raises:
        UserError: a corrupted benchmark has no clean twin under its protocol.
    """
    keys = ["run", "benchmark", "metric", "protocol"]
    rows = scores[scores["suite"] == "corrupted"].copy()
    names = rows["benchmark"].str.rsplit("-", n=2, expand=True).reindex(columns=range(3))
    rows["benchmark"], rows["kind"], rows["severity"] = names[0], names[1], names[2]
    clean = scores[scores["suite"] == "image"][[*keys, "value"]].rename(columns={"value": "clean"})
    rows = rows.merge(clean, on=keys, how="left", indicator=True)
    alone = rows[rows["_merge"] == "left_only"]
    if len(alone):
        first = alone.iloc[0]
        raise UserError(
            f"scores: {first['benchmark']} of {first['run']} has corrupted scores, but no clean one"
            f" under the protocol {first['protocol']}; evaluate it on clean images too"
        )
    grouped = rows.sort_values("severity").groupby([*keys, "kind"], sort=True)
    made = grouped.agg(
        severities=("severity", ",".join), clean=("clean", "first"), corrupted=("value", "mean")
    ).reset_index()
    means = made.groupby(keys, sort=True).agg(
        severities=("severities", "first"),
        clean=("clean", "first"),
        corrupted=("corrupted", "mean"),
    )
    made = pd.concat([made, means.reset_index().assign(kind="mean")], ignore_index=True)
    made["relative"] = made["corrupted"] / made["clean"].where(made["clean"] != 0)
    columns = [*keys, "kind", "severities", "clean", "corrupted", "relative"]
    return made[columns].sort_values([*keys, "kind"], ignore_index=True)
