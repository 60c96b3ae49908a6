"""Relative robustness, by hand."""

import pandas as pd
import pytest

from sight_beyond_text.analysis.robustness import relative_robustness
from sight_beyond_text.errors import UserError


def scores(*rows):
    columns = ["run", "suite", "benchmark", "metric", "value"]
    return pd.DataFrame(rows, columns=columns).assign(protocol="current")


ROWS = [
    ("a", "image", "my-vqa", "accuracy", 0.8),
    ("a", "corrupted", "my-vqa-fog-1", "accuracy", 0.6),
    ("a", "corrupted", "my-vqa-fog-5", "accuracy", 0.2),
    ("a", "corrupted", "my-vqa-gaussian_noise-1", "accuracy", 0.8),
    ("a", "corrupted", "my-vqa-gaussian_noise-5", "accuracy", 0.8),
    ("a", "text", "mmlu", "acc", 0.5),
]


def test_mean_over_severities_then_the_ratio():
    table = relative_robustness(scores(*ROWS)).set_index("kind")
    assert table["relative"].to_dict() == pytest.approx(
        {"fog": 0.5, "gaussian_noise": 1.0, "mean": 0.75}
    )
    assert table["corrupted"]["fog"] == pytest.approx(0.4)
    assert set(table["severities"]) == {"1,5"} and set(table["benchmark"]) == {"my-vqa"}
    assert set(table["protocol"]) == {"current"}


def test_nothing_corrupted():
    assert len(relative_robustness(scores(ROWS[0], ROWS[-1]))) == 0


def test_a_clean_score_of_zero_has_no_ratio():
    rows = [("a", "image", "vqa", "f1", 0.0), ("a", "corrupted", "vqa-fog-1", "f1", 0.0)]
    assert relative_robustness(scores(*rows))["relative"].isna().all()


def test_a_clean_twin_is_needed():
    with pytest.raises(UserError, match="my-vqa of a has corrupted scores, but no clean one"):
        relative_robustness(scores(*ROWS[1:]))


def test_the_clean_twin_has_the_same_protocol():
    table = scores(*ROWS)
    table.loc[0, "protocol"] = "published"
    with pytest.raises(UserError, match="no clean one under the protocol current"):
        relative_robustness(table)
