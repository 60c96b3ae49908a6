"""Scores of lm-eval's samples: every filter has its own, what is no mean is what lm-eval gives."""

import json

import pytest

from sight_beyond_text.errors import UserError

pytest.importorskip("lm_eval")

import datasets  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402

from sight_beyond_text.evaluation.text import ask  # noqa: E402
from sight_beyond_text.evaluation.text_tables import QUESTION, tabulate  # noqa: E402
from sight_beyond_text.evaluation.text_tasks import harness, load_jobs  # noqa: E402


class Saying(LM):
    """Says a number, another one each time; finds texts as unlikely as they are long."""

    def __init__(self):
        super().__init__()
        self.said = 0

    def loglikelihood(self, requests):
        return [
            (-0.1 * len(request.args[0]), len(request.args[0]) % 2 == 0) for request in requests
        ]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        texts = ["The answer is 7", "maybe 12. The answer is 5.", "The answer is 5.", "7", "so 5"]
        found = [texts[(self.said + n) % len(texts)] for n in range(len(requests))]
        self.said += len(requests)
        return found


def saved(folder, **splits):
    made = {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    datasets.DatasetDict(made).save_to_disk(folder)
    return str(folder)


NUMBERS = [
    {"question": f"How many are {n}?", "answer": f"#### {n}", "answer_number": n} for n in (5, 7, 5)
]
WORDS = [{"text": f"{'long ' * n}is the way home"} for n in range(4)]


def tables_of(task, path):
    """(our items, our scores by metric, lm-eval's results of the same samples)"""
    from lm_eval.evaluator_utils import _compute_task_aggregations

    entry = {"task": task, "path": path, "fewshot": 0, "limit": None}
    with harness():
        jobs = load_jobs({"mine": entry}, "current")
        samples = ask(jobs, Saying())
    items, scores = tabulate(jobs, samples, {}, {})
    raw = {}
    for sample in samples[0]:
        for metric in sample["metrics"]:
            raw.setdefault((metric, sample["filter"]), []).append(sample[metric])
    theirs, _ = _compute_task_aggregations(jobs[0].built, raw, 0)
    return items, scores.set_index("metric"), theirs


@pytest.fixture
def sorts(tmp_path, monkeypatch):
    from sight_beyond_text.evaluation import text_tasks

    # Reading the names of all tasks takes seconds.
    for name in ("mgsm", "lambada"):
        monkeypatch.setitem(text_tasks.FOLDERS, name, name)
    numbers = saved(tmp_path / "numbers", train=NUMBERS, test=NUMBERS)
    return {
        "mgsm_direct_en": numbers,
        "gsm8k_cot_self_consistency": numbers,
        "lambada_openai": saved(tmp_path / "words", test=WORDS),
    }


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (
            "mgsm_direct_en",
            {
                "exact_match@remove_whitespace": "exact_match",
                "exact_match@flexible-extract": "exact_match_flexible-extract",
            },
        ),
        (
            "gsm8k_cot_self_consistency",
            {
                "exact_match@score-first": "exact_match",
                "exact_match@maj@64": "exact_match_maj@64",
                "exact_match@maj@8": "exact_match_maj@8",
            },
        ),
    ],
)
def test_filters_that_share_a_metric_have_a_score_each(task, names, sorts):
    items, scores, theirs = tables_of(task, sorts[task])
    assert set(scores.index) == set(names.values())
    for key, label in names.items():
        metric, _, kind = key.partition("@")
        assert scores["value"][label] == pytest.approx(theirs[f"{metric},{kind}"])
    assert (items["metric"] == "exact_match").all()
    assert items["score"].mean() == pytest.approx(scores["value"]["exact_match"])
    details = items["details"].map(json.loads)
    assert all(set(d["metrics"]) == set(names.values()) - {"exact_match"} for d in details)
    assert len(set(scores["value"])) > 1


def test_what_is_no_mean_is_made_as_lm_eval_makes_it(sorts):
    items, scores, theirs = tables_of("lambada_openai", sorts["lambada_openai"])
    assert scores["value"]["perplexity"] == pytest.approx(theirs["perplexity,none"])
    assert scores["value"]["perplexity"] > 1
    assert not scores["higher_is_better"]["perplexity"]
    assert scores["stderr"].isna()["perplexity"] and not scores["stderr"].isna()["acc"]
    # Items are compared by what is a mean of theirs.
    assert (items["metric"] == "acc").all() and set(items["score"]) == {0, 1}
    assert scores["value"]["acc"] == theirs["acc,none"] == items["score"].mean()
    details = items["details"].map(json.loads)
    assert all(d["choices"] == [" home"] for d in details)
    assert [d["metrics"]["perplexity"] for d in details] == [
        pytest.approx(d["loglikelihoods"][0]) for d in details
    ]


def test_items_keep_their_question_without_examples(tmp_path, sorts):
    items, _, _ = tables_of("mgsm_direct_en", sorts["mgsm_direct_en"])
    kept = [json.loads(text)["question"] for text in items["details"]]
    assert [text.removesuffix("\nAnswer:") for text in kept] == [
        f"How many are {row['answer_number']}?" for row in NUMBERS
    ]
    items, _, _ = tables_of("lambada_openai", sorts["lambada_openai"])
    assert json.loads(items["details"][2])["question"] == "long long is the way"

    targets = {"choices": ["Blue.", "Red."], "labels": [1, 0]}
    asked = ["Which colour?", "w" * 5000]
    rows = [{"question": q, "mc1_targets": targets, "mc2_targets": targets} for q in asked]
    items, _, _ = tables_of("truthfulqa_mc1", saved(tmp_path / "truthfulqa", validation=rows))
    short, long = (json.loads(text)["question"] for text in items["details"])
    assert short == "Q: Which colour?\nA:"
    assert len(long) == QUESTION and long.startswith("Q: www") and long.endswith("w\u2026")


def test_a_task_without_a_mean_is_refused(sorts):
    with harness():
        entry = {"task": None, "path": sorts["lambada_openai"], "fewshot": 0, "limit": None}
        jobs = load_jobs({"lambada_openai": entry}, "current")
        samples = ask(jobs, Saying())
    for sample in samples[0]:
        sample["metrics"] = ["perplexity"]
    with pytest.raises(UserError, match="none of lambada_openai's metrics is a mean over items"):
        tabulate(jobs, samples, {}, {})


def test_a_group_that_weighs_its_tasks_equally_is_refused(tmp_path, monkeypatch):
    from sight_beyond_text.evaluation import text_tasks

    monkeypatch.setitem(text_tasks.FOLDERS, "lm", "lm_syneval")
    folder = tmp_path / "pairs"
    index = text_tasks._manager("lm_syneval", {}).task_index
    names = {e.cfg["dataset_name"] for e in index.values() if (e.cfg or {}).get("dataset_name")}
    for number, name in enumerate(sorted(names)):
        rows = [{"sentence_good": "a b", "sentence_bad": "a c"}] * (2 + number % 2)
        saved(folder / name, test=rows, train=rows, validation=rows)
    entry = {"task": None, "path": str(folder), "fewshot": None, "limit": None}
    with harness():
        with pytest.raises(UserError, match="weighs the tasks of 'lm_syneval' equally"):
            load_jobs({"lm_syneval": entry}, "current")
        assert load_jobs({"lm_syneval": {**entry, "limit": 2}}, "current")
