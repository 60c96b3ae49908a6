"""SQuAD 2.0's metrics against scores worked out by hand after the official evaluation."""

import pytest

from sight_beyond_text.evaluation import squad


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("The  Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("Eiffel", ["the Eiffel Tower", "Tower"], 0, 2 / 3),
        ("a tower in Paris", ["tower", "Paris tower"], 0, 0.8),
        ("", [], 1, 1),
        ("unanswerable", [], 0, 0),
        ("the", [], 1, 1),
        ("the", ["the"], 1, 1),
        ("in 1992", ["1992"], 0, 2 / 3),
    ],
)
def test_single_answers(said, answers, exact, f1):
    assert squad.exact(said, answers) == exact
    assert squad.f1(said, answers) == pytest.approx(f1)


QUESTIONS = [
    # said, answers, doubt
    ("Paris", ["Paris"], 0.1),
    ("a Rome", ["Rome"], 0.4),
    ("London", [], 0.3),
    ("Madrid", ["Oslo"], 0.7),
    ("", [], 0.9),
    ("Berlin", [], 0.8),
]


def scored(**settings):
    predictions = [
        {"id": str(number), "prediction_text": said, "no_answer_probability": doubt}
        for number, (said, _, doubt) in enumerate(QUESTIONS)
    ]
    references = [
        {"id": str(number), "answers": {"text": answers, "answer_start": [0] * len(answers)}}
        for number, (_, answers, _) in enumerate(QUESTIONS)
    ]
    return squad.SquadV2().compute(predictions=predictions, references=references, **settings)


def test_aggregates():
    made = scored()
    assert made["exact"] == made["f1"] == pytest.approx(100 * 3 / 6)
    assert made["HasAns_exact"] == pytest.approx(100 * 2 / 3)
    assert made["NoAns_f1"] == pytest.approx(100 * 1 / 3)
    assert (made["total"], made["HasAns_total"], made["NoAns_total"]) == (6, 3, 3)


def test_the_best_threshold():
    # Three have no answer: 3 to begin with. Then Paris +1, London -1, Rome +1, Berlin -1.
    made = scored()
    assert made["best_exact"] == pytest.approx(100 * 4 / 6)
    assert made["best_exact_thresh"] == 0.1
    assert squad.best([1, 1], [True, True], [True, True], [0.2, 0.6]) == (1.0, 0.6)


def test_a_threshold_takes_answers_back():
    made = scored(no_answer_threshold=0.25)
    assert made["exact"] == pytest.approx(100 * 4 / 6)
