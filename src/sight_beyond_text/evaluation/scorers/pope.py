"""POPE: does the model say that an object is there which isn't?

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (2023), and the
answer rule of the script published with it.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal

import pandas as pd

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.scorers import check_predictions

STOP_STRINGS = ("###", "</s>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>")
"""What ends a turn in the prompt templates; an answer may still carry it."""

_STOP = re.compile("|".join(map(re.escape, STOP_STRINGS)))
_NEGATIVE = frozenset(("No", "not", "no"))


def parse(answer: str) -> Literal["yes", "no"]:
    """Reads an answer as yes or no, by the official rule.

    Of the text before the first period, without commas, split on spaces: "no" if any word is
    exactly "No", "not" or "no", else "yes" (so "NO" and an empty answer are "yes").

    Before that, the answer is cut at its stop string and stripped of white space at both ends, or
    "No###" would be a word of its own and read as "yes".
    """
    turns = (turn.strip() for turn in _STOP.split(answer))
    first = next((turn for turn in turns if turn), "")
    return parse_unstripped(first)


def parse_unstripped(answer: str) -> Literal["yes", "no"]:
    """Reads an answer by the official rule as it stands: as Tu et al. (2023) did, with stop string.

    "No###" is "yes" then.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "yes" if _NEGATIVE.isdisjoint(words) else "no"


def score(
    predictions: Mapping[Hashable, str],
    questions: Sequence[Mapping],
    read: Callable[[str], str] = parse,
) -> tuple[dict[str, float], pd.DataFrame]:
    """Scores answers to POPE questions; "yes" is the positive class.

    Args:
        predictions: question id -> answer. Ids without a question are left aside.
        questions: rows of a POPE file: `question_id`, `image`, `text`, `label` ("yes" or "no"). The
            three files of POPE count their ids from 1 each, so score them one by one.
        read: how an answer is read: `parse`, or `parse_unstripped` for published scores.

    Returns:
        The metrics, fractions 0..1: `accuracy`, `precision`, `recall`, `f1` and `yes_ratio` (the
        share of answers read as yes); a ratio with nothing below the line is 0. And a frame with
        one row a question: question_id, image_id, prediction, parsed ("yes" or "no"), reference,
        score (1.0 if right, else 0.0).

    Raises:
        UserError: a question has no prediction, occurs twice or has another label, or there are
            no questions.
    """
    check_predictions(predictions, (row["question_id"] for row in questions), "pope", "question_id")
    for row in questions:
        if row["label"] not in ("yes", "no"):
            raise UserError(
                f"pope: question_id {row['question_id']} has the label {row['label']!r}; "
                'write "yes" or "no"'
            )
    items = pd.DataFrame(
        {
            "question_id": [row["question_id"] for row in questions],
            "image_id": [row["image"] for row in questions],
            "prediction": [predictions[row["question_id"]] for row in questions],
            "parsed": [read(predictions[row["question_id"]]) for row in questions],
            "reference": [row["label"] for row in questions],
        }
    )
    said, true = items["parsed"] == "yes", items["reference"] == "yes"
    items["score"] = (said == true).astype(float)
    hits = int((said & true).sum())
    metrics = {
        "accuracy": float(items["score"].mean()),
        "precision": _ratio(hits, int(said.sum())),
        "recall": _ratio(hits, int(true.sum())),
        "f1": _ratio(2 * hits, int(said.sum() + true.sum())),
        "yes_ratio": float(said.mean()),
    }
    return metrics, items


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
