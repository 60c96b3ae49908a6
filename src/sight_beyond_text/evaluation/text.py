"""The text suite: lm-eval's own tasks on the language model alone, from local files or the hub.

Protocol "current": the tasks of the installed lm-eval, no chat template, the tokenizer's default
about a leading BOS, MMLU with 5 shots. One thing differs from lm-eval's defaults: log-likelihoods
are computed in float32 even where the model is in bfloat16, whose 8 bits would make choices tie.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from os.path import commonprefix
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.utils
import numpy as np
import pandas as pd
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from sight_beyond_text.analysis import tidy
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.text_data import (
    Splits,
    default_shots,
    mmlu_configurations,
    read_benchmark,
)
from sight_beyond_text.models.checkpoints import device, load_tuned_language_model

SUITE = "text"
FEWSHOT_SEED = 1234
"""lm-eval's default; the same examples for every run."""

FOLDERS = {
    "truthfulqa": "truthfulqa",
    "ethics": "hendrycks_ethics",
    "mmlu": "mmlu/default",
    "gsm8k": "gsm8k",
    "boolq": "super_glue/boolq",
    "mathqa": "mathqa",
}
"""Where lm-eval keeps a family of tasks; reading all of its folders would take seconds."""

MAIN = {"gsm8k": "exact_match@flexible-extract", "truthfulqa_gen": "bleu_acc@none"}
"""The metric@filter whose scores are the items' scores; the first one for other tasks."""

NAMES = {
    "exact_match@flexible-extract": "exact_match",
    "exact_match@strict-match": "exact_match_strict",
}
"""What a metric@filter is called in the tables; the metric's own name otherwise."""

GROUP_OF_FOUR = 4
"""ETHICS justice comes in fours, variations of one sentence (Hendrycks et al., 2021)."""


LONG_START = 64
LARGE_FAMILY = 8
"""From how many tokens on, and for how many sequences, a common start is computed only once."""


@dataclass(frozen=True)
class Job:
    """One lm-eval task of one benchmark.

    Attributes:
        benchmark: the benchmark's name in the study.
        task: lm-eval's name.
        built: lm-eval's object, its data loaded.
        limit: how many items, from the first.
        prefix: of the items' ids.
        group: MMLU's group ("stem", ...); "" for others.
    """

    benchmark: str
    task: str
    built: lm_eval.api.task.Task
    limit: int
    prefix: str
    group: str


class LanguageModel(HFLM):
    """lm-eval's model, with log-likelihoods computed in fewer passes.

    The numbers are the harness's own up to rounding. A start that many requests share (examples
    of few-shot tasks, TruthfulQA's preamble) is computed once a batch, requests that differ in
    their last token alone are one, and only the logits that are asked for are made.
    """

    def __init__(self, *args, **kwargs):
        self._encoded: dict[tuple, list[int]] = {}
        super().__init__(*args, **kwargs)

    def tok_encode(
        self, string: str, add_special_tokens=None, left_truncate_len=None, **kwargs
    ) -> list[int]:
        """Token ids of `string`; choices share their question, which needn't be read again."""
        key = (string, add_special_tokens, left_truncate_len)
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(
                string, add_special_tokens, left_truncate_len, **kwargs
            )
        return self._encoded[key]

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy) of each request's continuation."""
        # Tokenizing is too quick for a bar of its own.
        answers = super().loglikelihood(requests, disable_tqdm=True)
        self._encoded.clear()
        return answers

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        asked: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        for number, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise UserError(
                    f"a choice of {len(continuation)} tokens is longer than the model's"
                    f" {self.max_length} positions; leave this benchmark out"
                )
            # As upstream: what doesn't fit is cut from the left.
            whole = tuple((context + continuation)[-(self.max_length + 1) :])
            asked[whole[:-1]].append((number, whole[len(whole) - len(continuation) :]))
        starts = {
            tokens: len(tokens) - max(len(continuation) for _, continuation in choices)
            for tokens, choices in asked.items()
        }
        answers: list[tuple[float, bool]] = [(math.nan, False)] * len(requests)
        with tqdm(total=len(requests), desc="choices", unit="") as bar:
            # A recurrent state can't be repeated for the rows as keys and values can.
            alike = not getattr(self.model, "_is_stateful", False)
            for shared, batch in _batches(starts, self.batch_size, alike):
                first = min(starts[tokens] for tokens in batch)
                logits = self._last_logits(batch, shared, first)
                for tokens, row in zip(batch, logits, strict=True):
                    # In float32: in bfloat16 the choices would tie.
                    asked_for = row[starts[tokens] - first : len(tokens) - first].float()
                    scores, likeliest = asked_for.log_softmax(-1), asked_for.argmax(-1)
                    for number, continuation in asked[tokens]:
                        ids = torch.tensor(continuation, device=scores.device)
                        picked = scores[-len(ids) :].gather(1, ids[:, None])
                        greedy = (likeliest[-len(ids) :] == ids).all()
                        answers[number] = (float(picked.sum()), bool(greedy))
                    bar.update(len(asked[tokens]))
        return answers

    @torch.no_grad()
    def _last_logits(self, batch: list[tuple[int, ...]], shared: int, first: int) -> torch.Tensor:
        """Logits (rows, positions from `first` on, vocabulary); rows begin alike up to `shared`."""
        width = max(map(len, batch))
        padded = [[*tokens[shared:], *[0] * (width - len(tokens))] for tokens in batch]
        cache = None
        if shared:
            # Every row's keys and values of the common start are the same.
            start = torch.tensor([batch[0][:shared]], device=self.device)
            cache = self.model(start, use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(len(batch))
        # Padding stands on the right, where a causal model can't see it.
        return self.model(
            torch.tensor(padded, device=self.device),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=width - first,
        ).logits


def _batches(
    starts: Mapping[tuple[int, ...], int], size: int, alike: bool
) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """Sorts sequences into batches that begin alike and are about equally long.

    Args:
        starts: by sequence, the first position whose logits are needed.
        size: sequences a batch, at most.
        alike: whether to look for common starts; without, they count as of length 0.

    Yields:
        (length of the common start, at most the least of `starts`; the sequences)
    """
    families = defaultdict(list)
    for tokens in starts:
        families[tokens[:LONG_START]].append(tokens)
    sharing, single = [], []
    for members in families.values():
        common = len(commonprefix([min(members), max(members)]))
        shared = min(common, *(starts[tokens] for tokens in members))
        if alike and len(members) >= LARGE_FAMILY and shared >= LONG_START:
            sharing.append((shared, members))
        else:
            single += members
    for shared, members in ((0, single), *sharing):
        members.sort(key=lambda tokens: (-len(tokens), tokens))
        for begin in range(0, len(members), size):
            yield shared, members[begin : begin + size]


def evaluate_text(spec: dict, out: str | Path) -> None:
    """Scores one subject on the text suite; writes `items.parquet`, then `scores.parquet`.

    Args:
        spec: `{subject, protocol, batch_size, benchmarks}`; `subject` as in
            `load_tuned_language_model`, with an `id`; `benchmarks` by name: `{task, path,
            fewshot, limit}`.
        out: folder of the two tables (columns in `analysis.tidy`).

    Raises:
        UserError: local files are broken, a task is unknown or its data can't be loaded.
    """
    subject = spec["subject"]["id"]
    with _harness():
        jobs = load_jobs(spec["benchmarks"])
        samples = {}
        if jobs:
            model, tokenizer = load_tuned_language_model(spec["subject"])
            samples = run(jobs, model, tokenizer, spec["batch_size"])
        items, scores = tabulate(jobs, samples)
    for frame in (items, scores):
        frame.insert(0, "run", subject)
        frame.insert(1, "suite", SUITE)
    scores["protocol"] = spec["protocol"]
    out = Path(out)
    tidy.write_parquet(items[list(tidy.ITEMS)], out / "items.parquet")
    tidy.write_parquet(scores[list(tidy.SCORES)], out / "scores.parquet")


def load_jobs(benchmarks: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """Makes lm-eval's tasks of the study's benchmarks and loads their data.

    Raises:
        UserError: see `evaluate_text`.
    """
    # Local files first: the hub may take minutes, and a broken file would be told only then.
    local = {
        name: read_benchmark(name, entry) for name, entry in benchmarks.items() if entry.get("path")
    }
    jobs = []
    for name, entry in benchmarks.items():
        task = entry.get("task") or name
        shots = entry.get("fewshot")
        if shots is None and task == "mmlu":
            shots = default_shots(task)
        manager = _manager(task)
        try:
            if name in local:
                built = {
                    part: _from_rows(manager, part, splits, shots)
                    for part, splits in local[name].items()
                }
            else:
                built = _from_hub(manager, task, shots)
        except UserError:
            raise
        except KeyError:
            raise UserError(
                f"evaluation.text.{name}.task: lm-eval has no task {task!r}; see its list of tasks"
            ) from None
        except Exception as error:  # What a hub client raises has no common base.
            if name in local:
                raise
            raise UserError(
                f"evaluation.text.{name}: can't load {task!r} from the hub"
                f" ({type(error).__name__}: {' '.join(str(error).split())[:120]}); connect, or give"
                " a path with its files"
            ) from error
        for part, made in built.items():
            made.set_fewshot_seed(FEWSHOT_SEED)
            total, limit = len(made.eval_docs), entry.get("limit")
            subject = part.removeprefix("mmlu_")
            jobs.append(
                Job(
                    benchmark=name,
                    task=part,
                    built=made,
                    limit=min(limit or total, total),
                    prefix=subject if task == "mmlu" else name,
                    group=_group(manager, part) if task == "mmlu" else "",
                )
            )
    return jobs


def run(jobs: list[Job], model, tokenizer, batch_size: int) -> list[list[dict]]:
    """Puts all questions to the model in one pass for each kind of request.

    Args:
        jobs: what is asked.
        model: a causal language model in eval mode; moved to the accelerator if there is one.
        tokenizer: its tokenizer.
        batch_size: requests a batch.

    Returns:
        For each job lm-eval's samples, one for each item and filter.
    """
    if model.device.type != device().type:
        model = model.to(device())
    wrapped = LanguageModel(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        max_length=getattr(model.config, "max_position_embeddings", None),
    )
    for job in jobs:
        settings = job.built.get_config("generation_kwargs") or {}
        tokens = settings.get("max_gen_toks", wrapped.max_gen_toks)
        if job.built.OUTPUT_TYPE == "generate_until" and tokens >= wrapped.max_length:
            raise UserError(
                f"evaluation.text.{job.benchmark}: answers of {tokens} tokens don't fit into the"
                f" model's {wrapped.max_length} positions; leave this benchmark out"
            )
    keys = [f"{job.benchmark}/{job.task}" for job in jobs]
    results = evaluate(
        lm=wrapped,
        task_dict={"tasks": {key: job.built for key, job in zip(keys, jobs, strict=True)}},
        samples={key: range(job.limit) for key, job in zip(keys, jobs, strict=True)},
        bootstrap_iters=0,
        log_samples=True,
    )
    return [results["samples"][key] for key in keys]


def tabulate(jobs: list[Job], samples: list[list[dict]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Makes tidy tables of lm-eval's samples.

    Returns:
        (items, scores): the columns of `tidy.ITEMS` and `tidy.SCORES` but run, suite, protocol.
        Every value is the mean of an item's `score`, or of one of the further metrics in its
        `details`, over the items (of one group, for MMLU's `acc_<group>`).
    """
    items = []
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    better: dict[tuple[str, str], bool] = {}
    for job, found in zip(jobs, samples, strict=True):
        total = len(job.built.eval_docs)
        by_item: dict[int, list[dict]] = defaultdict(list)
        for sample in found:
            by_item[sample["doc_id"]].append(sample)
        for number, answers in sorted(by_item.items()):
            metrics = {
                f"{metric}@{answer['filter']}": (metric, answer, answer[metric])
                for answer in answers
                for metric in answer["metrics"]
            }
            main = MAIN.get(job.task, next(iter(metrics)))
            further = {}
            for key, (metric, _, value) in metrics.items():
                if not isinstance(value, (int, float, np.number)):
                    raise UserError(
                        f"evaluation.text.{job.benchmark}: {job.task}'s metric {metric!r} is no"
                        " mean over items; this suite can't hold it"
                    )
                label = NAMES.get(key, metric)
                values[job.benchmark, label].append(float(value))
                better[job.benchmark, label] = bool(job.built.higher_is_better()[metric])
                if key != main:
                    further[label] = float(value)
                elif job.group:
                    values[job.benchmark, f"{label}_{job.group}"].append(float(value))
                    better[job.benchmark, f"{label}_{job.group}"] = True
            _, answer, score = metrics[main]
            item = f"{job.prefix}/{number}"
            details = _details(job, answer)
            said = details.pop("prediction")
            right = details.pop("reference")
            if job.group:
                details["group"] = job.group
            if further:
                details["metrics"] = further
            details["prompt"] = _digest(_prompt(answer))
            items.append(
                {
                    "benchmark": job.benchmark,
                    "metric": NAMES.get(main, metrics[main][0]),
                    "item": item,
                    "cluster": _cluster(job, answer["doc"], number, total) or item,
                    "prediction": said,
                    "reference": right,
                    "score": float(score),
                    "details": json.dumps(details, ensure_ascii=False),
                }
            )
    scores = [
        {
            "benchmark": benchmark,
            "metric": metric,
            "value": float(np.mean(found)),
            "stderr": float(np.std(found, ddof=1) / math.sqrt(len(found)))
            if len(found) > 1
            else math.nan,
            "n": len(found),
            "higher_is_better": better[benchmark, metric],
        }
        for (benchmark, metric), found in values.items()
    ]
    derived = ("run", "suite", "protocol")
    return (
        pd.DataFrame(items, columns=[name for name in tidy.ITEMS if name not in derived]),
        pd.DataFrame(scores, columns=[name for name in tidy.SCORES if name not in derived]),
    )


def _details(job: Job, answer: dict) -> dict:
    """Prediction and reference of one item, and what they came from."""
    if job.built.OUTPUT_TYPE != "multiple_choice":
        return {
            "prediction": str(answer["filtered_resps"][0]),
            "reference": _expected(answer),
            "generated": str(answer["resps"][0][0]),
        }
    choices = job.built.doc_to_choice(answer["doc"])
    likelihoods = [response[0] for response in answer["filtered_resps"][: len(choices)]]
    targets = answer["doc"].get("mc2_targets") if job.task == "truthfulqa_mc2" else None
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
        "loglikelihoods": [round(value, 6) for value in likelihoods],
    }


def _expected(answer: dict) -> str:
    """The right answer to a free question; what follows "####" for GSM8K."""
    best = answer["doc"].get("best_answer")
    return str(best or answer["target"]).rpartition("####")[2].strip()


def _prompt(answer: dict) -> str:
    return answer["arguments"][0][0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cluster(job: Job, doc: Mapping[str, Any], number: int, total: int) -> str | None:
    """What an item shares with others, if anything."""
    if job.task in ("ethics_virtue", "ethics_deontology"):
        return f"{job.prefix}:{_digest(doc['scenario'])}"
    if job.task == "ethics_justice" and total % GROUP_OF_FOUR == 0:
        return f"{job.prefix}:{number // GROUP_OF_FOUR}"
    if job.task == "boolq":
        return f"{job.prefix}:{_digest(doc['passage'])}"
    return None


def _manager(task: str) -> TaskManager:
    """lm-eval's tasks: those of one family where it is known, else all."""
    folder = FOLDERS.get(task.partition("_")[0])
    if folder is None:
        return TaskManager()
    # The root is the MMLU folder's grandparent; every family lies below it.
    root = mmlu_configurations().parents[1]
    return TaskManager(include_defaults=False, include_path=root / folder)


def _group(manager: TaskManager, task: str) -> str:
    """The group of an MMLU subject, by lm-eval's tag."""
    tag = manager.task_index[task].cfg["tag"]
    return tag.removeprefix("mmlu_").removesuffix("_tasks")


def _from_rows(manager: TaskManager, task: str, splits: Splits, shots: int | None):
    """lm-eval's task, unchanged but for its data."""

    def dataset(**_) -> dict[str, datasets.Dataset]:
        return {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}

    # A task's settings can be changed only as a member of a group.
    group = {"group": "local", "task": [{"task": task, "custom_dataset": dataset}]}
    made = manager.load(group)["tasks"][task]
    _set_shots(made, shots)
    return made


def _from_hub(manager: TaskManager, task: str, shots: int | None) -> dict:
    if task not in manager.task_index:
        raise KeyError(task)
    built = manager.load(task)["tasks"]
    for made in built.values():
        _set_shots(made, shots)
    return built


def _set_shots(made, shots: int | None) -> None:
    # lm-eval marks tasks whose examples are built in with 0 shots, and never changes those.
    if shots is not None and made.get_config("num_fewshot") != 0:
        made.set_config(key="num_fewshot", value=shots)
    elif made.get_config("num_fewshot") is None:
        made.set_config(key="num_fewshot", value=0)


@contextmanager
def _harness() -> Iterator[None]:
    """lm-eval without its warnings, without a bar for each task, each template compiled once."""
    logger, bar, env = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm, lm_eval.utils.env
    level, bars, compiled = logger.level, datasets.is_progress_bar_enabled(), env.from_string
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = partial(tqdm, disable=True)
    # The harness compiles the task's few templates anew for every question and example.
    env.from_string = cache(compiled)
    try:
        yield
    finally:
        env.from_string = compiled
        lm_eval.api.task.tqdm = bar
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
