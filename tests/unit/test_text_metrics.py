"""Metrics that lm-eval's tasks fetch from a hub work without one."""

import numpy as np
import pytest

from sight_beyond_text.errors import UserError

pytest.importorskip("lm_eval")

SAID = ["the cat sat on the mat", "dogs run", "nothing alike"]
RIGHT = ["a cat sat on a mat", "dogs run far away", "x y z"]


@pytest.fixture
def load(monkeypatch):
    import evaluate

    from sight_beyond_text.evaluation.text_tasks import offline_metrics

    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(evaluate, "load", refuse)
    with offline_metrics():
        yield lambda name: evaluate.load(name)


def test_rouge_needs_no_network(load):
    each = load("rouge").compute(predictions=SAID, references=RIGHT, use_aggregator=False)
    # Four of six words are the same on either side, in one order; two of two, and of four.
    assert each["rouge1"] == pytest.approx([4 / 6, 2 * 2 / 6, 0])
    assert each["rougeL"] == pytest.approx([4 / 6, 2 * 2 / 6, 0])
    assert each["rouge2"] == pytest.approx([2 / 5, 2 * 1 / 4, 0])
    np.random.seed(0)
    together = load("rouge").compute(predictions=SAID, references=RIGHT)
    assert set(together) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
    assert together["rouge1"] == pytest.approx(np.mean(each["rouge1"]), abs=0.1)


def test_the_best_of_several_references_counts_and_words_may_be_split_otherwise(load):
    both = [[RIGHT[1], "dogs run"]]
    found = load("rouge").compute(predictions=SAID[1:2], references=both, rouge_types=["rougeL"])
    assert found == {"rougeL": 1.0}
    found = load("rouge").compute(
        predictions=["äb"], references=["äc"], rouge_types=["rouge1"], tokenizer=list
    )
    assert found == {"rouge1": 0.5}


def test_what_cannot_be_had_without_one_is_told(load):
    with pytest.raises(UserError, match="needs the metric 'bleurt', which is fetched from the hub"):
        load("bleurt")
