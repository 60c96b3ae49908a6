"""SQuAD 2.0's exact match and F1, as its official evaluation counts them (Rajpurkar et al., 2018).

The same interface as the metric "squad_v2" of `evaluate`, which is fetched from a hub.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous space."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers; an unanswerable question has none or ""."""
    return float(any(normalized(prediction) == answer for answer in _answers(answers)))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best overlap in words with one of the answers, from 0 to 1."""
    said = normalized(prediction).split()
    return max(_overlap(said, answer.split()) for answer in _answers(answers))


def _answers(answers: Sequence[str]) -> list[str]:
    # An answer that is nothing but an article doesn't count as one.
    return [text for text in map(normalized, answers) if text] or [""]


def _overlap(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    same = sum((Counter(said) & Counter(right)).values())
    return 2 * same / (len(said) + len(right))


def best(
    scores: Sequence[float],
    said: Sequence[bool],
    answerable: Sequence[bool],
    doubts: Sequence[float],
) -> tuple[float, float]:
    """The highest mean score where answers of more doubt than some threshold are taken back.

    Args:
        scores: of each prediction.
        said: whether it isn't empty.
        answerable: whether the question has an answer.
        doubts: the model's probability that it hasn't.

    Returns:
        (the score, from 0 to 1; the threshold)
    """
    current = sum(not has for has in answerable)
    highest, threshold = current, 0.0
    for number in np.argsort(doubts, kind="stable"):
        current += scores[number] if answerable[number] else -int(said[number])
        if current > highest:
            highest, threshold = current, float(doubts[number])
    return float(highest / len(scores)), threshold


class SquadV2:
    """The metric as lm-eval's task asks for it."""

    def compute(
        self,
        predictions: Sequence[Mapping],
        references: Sequence[Mapping],
        no_answer_threshold: float = 1.0,
    ) -> dict[str, float]:
        """Scores in percent, under the official names.

        Args:
            predictions: `{id, prediction_text, no_answer_probability}` of each question.
            references: `{id, answers: {text, ...}}` of the same.
            no_answer_threshold: above it a prediction counts as none.
        """
        right = {row["id"]: list(row["answers"]["text"]) for row in references}
        answers = [right[row["id"]] for row in predictions]
        doubts = np.array([row["no_answer_probability"] for row in predictions])
        has = np.array([bool(texts) for texts in answers])
        said = [bool(row["prediction_text"]) for row in predictions]
        made: dict[str, float] = {}
        for name, score in (("exact", exact), ("f1", f1)):
            raw = np.array(
                [
                    score(row["prediction_text"], texts)
                    for row, texts in zip(predictions, answers, strict=True)
                ]
            )
            counted = np.where(doubts > no_answer_threshold, ~has, raw)
            made[name] = 100 * counted.mean()
            for which, part in (("HasAns", has), ("NoAns", ~has)):
                if part.any():
                    made[f"{which}_{name}"] = 100 * counted[part].mean()
                    made[f"{which}_total"] = int(part.sum())
            made[f"best_{name}"], made[f"best_{name}_thresh"] = best(raw, said, has, doubts)
            made[f"best_{name}"] *= 100
        return {**made, "total": len(answers)}
