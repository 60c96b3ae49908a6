"""Tidy tables of what lm-eval's tasks found: one row an item, one row a score."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from lm_eval.api.metrics import mean, nanmean

from sight_beyond_text.analysis import tidy
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation import squad
from sight_beyond_text.evaluation.text_coverage import SETS
from sight_beyond_text.evaluation.text_tasks import Job

NAMES = {
    "exact_match@flexible-extract": "exact_match",
    "exact_match@strict-match": "exact_match_strict",
}
"""What a metric@filter is called in the tables; else by the metric's own name, and where several
filters give it, only that of the items' scores: the others as `<metric>_<filter>`."""

TOGETHER = "em"
"""The metric of such sets: the share in which every item is right."""

QUESTION = 4000
"""Characters of a question that an item keeps, at most."""

MEANS = (mean, nanmean)
"""Of lm-eval's functions that make one score of items' values."""

_DERIVED = ("run", "suite", "protocol")


def tabulate(
    jobs: Sequence[Job],
    samples: Sequence[list[dict]],
    truncated: Mapping[tuple, int],
    notes: Mapping[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Makes tidy tables of lm-eval's samples.

    Args:
        jobs: what was asked.
        samples: of each job, as lm-eval's `evaluate` logs them.
        truncated: tokens cut from the left of requests that were too long, by their arguments
            (by the context alone for what was generated).
        notes: what goes into every item's details, such as the protocol.

    Returns:
        (items, scores): the columns of `tidy.ITEMS` and `tidy.SCORES` but run, suite, protocol.
        Every value can be computed from the items: the mean of `score`, or of one of the further
        `metrics` in their details, over those that have it (of one `group`, for MMLU's
        `acc_<group>`); `em` over sets, each as bad as its worst item; SQuAD's `best_...` by
        `squad.best`; what is no mean (`perplexity`, ...) by lm-eval's function of that name.

    Raises:
        UserError: a metric isn't defined for single items, or none is a mean over them.
    """
    items: list[dict] = []
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    better: dict[tuple[str, str], bool] = {}
    totals: dict[tuple[str, str], Callable] = {}
    for job, found in zip(jobs, samples, strict=True):
        own = [_item(job, answers, truncated, notes) for answers in _by_item(found)]
        _mark_sets(job, own)
        for item in own:
            for label, (metric, value) in item.pop("metrics").items():
                values[job.benchmark, label].append(value)
                better[job.benchmark, label] = _is_better(job, metric)
                totals[job.benchmark, label] = _total(job, metric)
            if job.group:
                label = f"{item['metric']}_{job.group}"
                values[job.benchmark, label].append(item["score"])
                better[job.benchmark, label] = True
        sets = defaultdict(list)
        for item in own:
            if "set" in item["details"]:
                sets[item["details"]["set"]].append(item["score"])
        if sets:
            values[job.benchmark, TOGETHER] += [min(scores) for scores in sets.values()]
            better[job.benchmark, TOGETHER] = True
        items += own
    scores = [
        _score(benchmark, label, found, better[benchmark, label], totals.get((benchmark, label)))
        for (benchmark, label), found in values.items()
    ]
    for job in jobs:
        if job.task == "squadv2":
            asked = [item for item in items if item["benchmark"] == job.benchmark]
            scores += _best_of_squad(job.benchmark, asked)
    for item in items:
        item["details"] = json.dumps(item["details"], ensure_ascii=False)
    return (
        pd.DataFrame(items, columns=[name for name in tidy.ITEMS if name not in _DERIVED]),
        pd.DataFrame(scores, columns=[name for name in tidy.SCORES if name not in _DERIVED]),
    )


def digest(text: str) -> str:
    """Sixteen hex digits that stand for a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _by_item(samples: list[dict]) -> list[list[dict]]:
    """The answers to each question, one a filter, by the question's number."""
    by_item: dict[int, list[dict]] = defaultdict(list)
    for sample in samples:
        by_item[sample["doc_id"]].append(sample)
    return [by_item[number] for number in sorted(by_item)]


def _item(
    job: Job, answers: list[dict], truncated: Mapping[tuple, int], notes: Mapping[str, Any]
) -> dict:
    """One row of the items; its details aren't text yet, and all metrics are beside them."""
    metrics = {}
    for answer in answers:
        for metric in answer["metrics"]:
            metrics[f"{metric}@{answer['filter']}"] = (metric, answer, answer[metric])
    if job.task == "squadv2":
        metrics = _squad_metrics(answers[0])
    main = job.main or _first_mean(job, metrics)
    _, answer, _ = metrics[main]
    labels = _labels(metrics, main)
    labelled = {}
    for key, (metric, _, value) in metrics.items():
        if not isinstance(value, int | float | np.number):
            raise UserError(
                f"evaluation.text.{job.benchmark}: {job.task}'s metric {metric!r} is no mean over"
                " items; this suite can't hold it"
            )
        labelled[labels[key]] = (metric, float(value))
    label = labels[main]
    number = answer["doc_id"]
    item = f"{job.prefix}/{number}"
    details = _details(job, answer)
    said, right = details.pop("prediction"), details.pop("reference")
    asked = _question(job, answer["doc"])
    if asked:
        details = {"question": asked, **details}
    if job.group:
        details["group"] = job.group
    further = {key: value for key, (_, value) in labelled.items() if key != label}
    if further:
        details["metrics"] = further
    details["prompt"] = digest(_text(answer["arguments"][0][0]))
    cut = max(_cut(arguments, truncated) for arguments in answer["arguments"])
    if cut:
        details["truncated"] = cut
    return {
        "benchmark": job.benchmark,
        "metric": label,
        "item": item,
        "cluster": _cluster(job, answer["doc"], number) or item,
        "prediction": said,
        "reference": right,
        "score": labelled[label][1],
        "details": {**details, **notes},
        "metrics": labelled,
    }


def _first_mean(job: Job, metrics: Mapping[str, tuple[str, dict, Any]]) -> str:
    """The first metric@filter that is a mean over items, so that items can be compared by it."""
    for key, (metric, _, _) in metrics.items():
        if _total(job, metric) in MEANS:
            return key
    raise UserError(
        f"evaluation.text.{job.benchmark}: none of {job.task}'s metrics is a mean over items; this"
        " suite can't hold it"
    )


def _total(job: Job, metric: str) -> Callable[[list[float]], float]:
    """What makes a metric of its items' values; lm-eval takes the mean where a task doesn't say."""
    return mean if job.task == "squadv2" else job.built.aggregation().get(metric, mean)


def _labels(metrics: Mapping[str, tuple[str, dict, Any]], main: str) -> dict[str, str]:
    """What each metric@filter is called in the tables, each by another name."""
    own = metrics[main][1]["filter"]
    labels: dict[str, str] = {}
    # The filter of the items' scores comes first, so that its metrics keep their names.
    for key in sorted(metrics, key=lambda key: (key != main, metrics[key][1]["filter"] != own)):
        metric, answer, _ = metrics[key]
        label = NAMES.get(key, metric)
        labels[key] = f"{metric}_{answer['filter']}" if label in labels.values() else label
    return labels


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt)


def _cut(arguments: tuple, truncated: Mapping[tuple, int]) -> int:
    if not truncated:
        return 0
    known = arguments if all(isinstance(part, str) for part in arguments) else arguments[:1]
    return truncated.get(tuple(known), 0)


def _details(job: Job, answer: dict) -> dict:
    """Prediction and reference of one item, and what they came from."""
    doc = answer["doc"]
    if job.task == "squadv2":
        texts = doc["answers"]["text"]
        return {
            "prediction": str(answer["filtered_resps"][0]),
            "reference": "; ".join(dict.fromkeys(texts)),
            "answerable": bool(texts),
            "choices": ["unanswerable"],
            "loglikelihoods": [_rounded(answer["filtered_resps"][1][0])],
        }
    if job.built.OUTPUT_TYPE == "loglikelihood":
        likelihood, greedy = answer["filtered_resps"][0]
        text = answer["arguments"][0][1]
        return {
            "prediction": text if greedy else "",
            "reference": text,
            "choices": [text],
            "loglikelihoods": [_rounded(likelihood)],
        }
    if job.built.OUTPUT_TYPE != "multiple_choice":
        return {
            "prediction": str(answer["filtered_resps"][0]),
            "reference": _expected(answer),
            "generated": str(answer["resps"][0][0]),
        }
    choices = list(job.built.doc_to_choice(doc))
    likelihoods = [response[0] for response in answer["filtered_resps"][: len(choices)]]
    targets = doc.get("mc2_targets") if job.task == "truthfulqa_mc2" else None
    if targets:
        right = [c for c, label in zip(choices, targets["labels"], strict=True) if label]
    else:
        target = answer["target"]
        target = target if isinstance(target, list) else [target]
        right = [choices[t] if isinstance(t, int) else str(t) for t in target]
    return {
        "prediction": choices[int(np.argmax(likelihoods))],
        "reference": "; ".join(right),
        "choices": choices,
        "loglikelihoods": [_rounded(value) for value in likelihoods],
    }


def _question(job: Job, doc: Mapping[str, Any]) -> str:
    """The question alone, as the task words it: no examples, no system's words, no template.

    Empty where a task words none: the choices are whole sentences, or the text itself is scored.
    """
    try:
        text = job.built.doc_to_text(doc)
    except NotImplementedError:
        return ""
    if not isinstance(text, str):
        # The number of a choice, of tasks that put the choices where the question stands.
        return ""
    if job.task.startswith("truthfulqa"):
        # Its examples are part of the question's wording.
        text = text.rpartition("\n\n")[2]
    text = text.strip()
    return text if len(text) <= QUESTION else f"{text[: QUESTION - 1]}\u2026"


def _rounded(value: float) -> float:
    return round(value, 6)


def _expected(answer: dict) -> str:
    """The right answer to a free question; what follows "####" for GSM8K."""
    best = answer["doc"].get("best_answer")
    return str(best or answer["target"]).rpartition("####")[2].strip()


def _squad_metrics(answer: dict) -> dict[str, tuple[str, dict, float]]:
    """SQuAD's scores of one item, which lm-eval leaves to the end."""
    texts = answer["doc"]["answers"]["text"]
    said = str(answer["filtered_resps"][0])
    part = "HasAns" if texts else "NoAns"
    values = {"f1": squad.f1(said, texts), "exact": squad.exact(said, texts)}
    values |= {f"{part}_{name}": value for name, value in values.items()}
    return {name: (name, answer, value) for name, value in values.items()}


def _best_of_squad(benchmark: str, items: list[dict]) -> list[dict]:
    """SQuAD's scores with the best threshold for declining to answer; no means over items."""
    said = [bool(item["prediction"]) for item in items]
    answerable = [item["details"]["answerable"] for item in items]
    doubts = [math.exp(item["details"]["loglikelihoods"][0]) for item in items]
    made = []
    for metric in ("exact", "f1"):
        each = [{item["metric"]: item["score"], **item["details"]["metrics"]} for item in items]
        value, _ = squad.best([scores[metric] for scores in each], said, answerable, doubts)
        made.append({**_score(benchmark, f"best_{metric}", [value], True), "n": len(items)})
    return made


def _is_better(job: Job, metric: str) -> bool:
    """Whether higher values of a metric are better."""
    return job.task == "squadv2" or bool(job.built.higher_is_better().get(metric, True))


def _score(
    benchmark: str,
    label: str,
    found: list[float],
    higher_is_better: bool,
    total: Callable[[list[float]], float] | None = None,
) -> dict:
    error = math.nan
    if total is not None and total not in MEANS:
        value = float(total(found))
    else:
        if total is nanmean:
            found = [value for value in found if not math.isnan(value)]
        value = float(np.mean(found)) if found else math.nan
        if len(found) > 1:
            error = float(np.std(found, ddof=1) / math.sqrt(len(found)))
    return {
        "benchmark": benchmark,
        "metric": label,
        "value": value,
        "stderr": error,
        "n": len(found),
        "higher_is_better": higher_is_better,
    }


def _mark_sets(job: Job, items: list[dict]) -> None:
    """Notes in the details which set an item belongs to, where all items come in whole sets."""
    size = SETS.get(job.task)
    if size is None or len(job.built.eval_docs) % size:
        return
    sets = [items[begin : begin + size] for begin in range(0, len(items) - size + 1, size)]
    if job.task != "ethics_justice" and any(len({i["cluster"] for i in s}) > 1 for s in sets):
        return
    for number, members in enumerate(sets):
        for item in members:
            item["details"]["set"] = number


def _cluster(job: Job, doc: Mapping[str, Any], number: int) -> str | None:
    """What an item shares with others, if anything."""
    if job.task in ("ethics_virtue", "ethics_deontology"):
        return f"{job.prefix}:{digest(doc['scenario'])}"
    size = SETS["ethics_justice"]
    if job.task == "ethics_justice" and len(job.built.eval_docs) % size == 0:
        return f"{job.prefix}:{number // size}"
    if job.task == "boolq":
        return f"{job.prefix}:{digest(doc['passage'])}"
    if job.task == "squadv2":
        return f"{job.prefix}:{digest(doc['context'])}"
    return None
