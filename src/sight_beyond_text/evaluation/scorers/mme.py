"""MME: two yes/no questions an image; accuracy, and accuracy+ where both must be right.

Source: Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models"
(2023), and the rule of the evaluation tool published with it.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Literal

import pandas as pd

from sight_beyond_text.evaluation.scorers import check_predictions

ABILITIES = {
    "Perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "Cognition": (
        "commonsense_reasoning",
        "numerical_calculation",
        "text_translation",
        "code_reasoning",
    ),
}
"""Subtasks, by what they test; a total is the sum over its subtasks."""

SUBTASKS = tuple(name for names in ABILITIES.values() for name in names)
NOT_PUBLISHED = ("landmark", "artwork")
"""Left out of the totals by Tu et al. (2023)."""


def parse(answer: str) -> Literal["yes", "no", "other"]:
    """Reads an answer by the official rule: yes or no, looked for in the first four letters.

    "Yes" wins over "no"; capitals don't matter. Anything else is "other", and wrong.
    """
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def score(
    predictions: Mapping[Hashable, str], questions: Sequence[Mapping]
) -> tuple[dict[str, float], pd.DataFrame]:
    """Scores answers to MME's questions.

    Args:
        predictions: question id -> answer. Ids without a question are left aside.
        questions: rows with `question_id`, `subtask`, `image` and `label` ("yes" or "no").

    Returns:
        The metrics: `accuracy` over all questions and `accuracy_plus` over all images, fractions;
        `score_<subtask>`, 100 x accuracy + 100 x accuracy+ (0..200), of each subtask that there are
        questions of; their sums `perception` and `cognition`, and those sums as published
        (`perception_published`) where subtasks are among them that weren't. And a frame with one
        row a question: question_id, subtask, image_id, prediction, parsed, reference, score (1.0
        if right).

    Raises:
        UserError: a question has no prediction or occurs twice, or there are no questions.
    """
    check_predictions(predictions, (row["question_id"] for row in questions), "mme", "question_id")
    answers = [predictions[row["question_id"]] for row in questions]
    items = pd.DataFrame(
        {
            "question_id": [row["question_id"] for row in questions],
            "subtask": [row["subtask"] for row in questions],
            "image_id": [row["image"] for row in questions],
            "prediction": answers,
            "parsed": [parse(answer) for answer in answers],
            "reference": [row["label"] for row in questions],
        }
    )
    items["score"] = (items["parsed"] == items["reference"]).astype(float)
    metrics = {
        "accuracy": float(items["score"].mean()),
        "accuracy_plus": float(_both(items).mean()),
    }
    scores = (100 * subtask_scores(items).sum(axis=1)).to_dict()
    metrics |= {ability.lower(): value for ability, value in totals(scores).items()}
    if not scores.keys().isdisjoint(NOT_PUBLISHED):
        published = totals(scores, NOT_PUBLISHED)
        metrics |= {f"{ability.lower()}_published": value for ability, value in published.items()}
    return metrics | {f"score_{name}": value for name, value in scores.items()}, items


def subtask_scores(items: pd.DataFrame) -> pd.DataFrame:
    """`acc` and `acc_plus` of each subtask, fractions, from the items that `score` returns."""
    means = pd.DataFrame(
        {
            "acc": items.groupby("subtask")["score"].mean(),
            "acc_plus": _both(items).groupby("subtask").mean(),
        }
    )
    return means.loc[[name for name in SUBTASKS if name in means.index]]


def _both(items: pd.DataFrame) -> pd.Series:
    """1.0 for each image whose questions are all answered rightly."""
    return items.groupby(["subtask", "image_id"])["score"].min()


def totals(scores: Mapping[str, float], without: Collection[str] = ()) -> dict[str, float]:
    """Sums over subtasks: `Perception` and `Cognition`, as far as there are scores of them."""
    sums = {}
    for ability, names in ABILITIES.items():
        own = [scores[name] for name in names if name in scores and name not in without]
        if own:
            sums[ability] = float(sum(own))
    return sums
