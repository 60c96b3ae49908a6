"""The text suite: lm-eval's own tasks on the language model alone.

One thing differs from lm-eval's defaults under either protocol: log-likelihoods are computed in
float32 even where the model is in bfloat16, whose 8 bits would make choices tie.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from sight_beyond_text.analysis import tidy
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.answer_file import Answers
from sight_beyond_text.evaluation.remembered import RememberingLM
from sight_beyond_text.evaluation.text_coverage import SETS, coverage
from sight_beyond_text.evaluation.text_tables import TOGETHER, tabulate
from sight_beyond_text.evaluation.text_tasks import (
    FEWSHOT_SEED,
    PROTOCOLS,
    Job,
    harness,
    load_jobs,
    seed,
)
from sight_beyond_text.evaluation.vllm_backend import check_vllm, load_vllm
from sight_beyond_text.evaluation.weights import base_key, identity_of
from sight_beyond_text.files import digest, read_json, write_json

SUITE = "text"
RECORD = "record.json"
ANSWERS = "answers.jsonl"
ENGINE_VERSION = 1
"""To be raised where the engine's answers change by more than rounding: none given before holds."""

VERSIONS = ("lm_eval", "torch", "transformers", "peft", "bitsandbytes")


def evaluate_texts(evaluations: Sequence[tuple[dict, str | Path]]) -> int:
    """Scores subjects on the text suite; those that share a base share one load of it.

    A folder gets `items.parquet`, `scores.parquet` and, last, `record.json`: what was scored, with
    what, how many requests were too long. `answers.jsonl` there keeps every answer: an interrupted
    evaluation goes on where it was, and a finished one is left as it is.

    Args:
        evaluations: each with its folder. `{subject, protocol, batch_size, benchmarks}`, and where
            they aren't the defaults `token_budget`, `chat_template`, `backend`. `subject` as in
            `load_tuned_language_model`, with an `id`; `benchmarks` by name: `{task, path, fewshot,
            limit}`.

    Returns:
        How many bases were loaded.

    Raises:
        UserError: local files are broken, a task is unknown or its data can't be loaded, the
            backend isn't there.
    """
    waiting = []
    for spec, out in evaluations:
        if _is_finished(spec, Path(out)):
            print(f"{out}: finished already")
        else:
            waiting.append((spec, Path(out)))
    # Subjects of one base come one after the other.
    waiting.sort(key=lambda pair: base_key(pair[0]["subject"]))
    if any(spec.get("backend") == "vllm" for spec, _ in waiting):
        check_vllm()
    models = _Models([spec["subject"] for spec, _ in waiting])
    prepared: dict[str, list[Job]] = {}
    if not waiting:
        return 0
    # Heavy, and not needed where everything is finished.
    from torch.random import fork_rng

    # vLLM starts processes, so GPUs aren't to be touched here.
    with harness(), fork_rng(devices=[]):
        for spec, out in waiting:
            asked = json.dumps([spec["benchmarks"], spec["protocol"]], sort_keys=True)
            if asked not in prepared:
                prepared = {asked: load_jobs(spec["benchmarks"], spec["protocol"])}
            _evaluate(spec, out, prepared[asked], models)
            models.expected.remove(spec["subject"])
            if len(evaluations) > 1:
                print(f"{out}: finished", flush=True)
    return models.loads


def _evaluate(spec: dict, out: Path, jobs: Sequence[Job], models: _Models) -> None:
    """Scores one subject; see `evaluate_texts`."""
    begun, model = time.perf_counter(), _identity(spec)
    (out / RECORD).unlink(missing_ok=True)
    others = sorted(out.parent.glob(f"{SUITE}-*/{ANSWERS}")) if jobs else []
    answers = Answers(out / ANSWERS, model, others)
    lm = RememberingLM(answers, lambda: models.load(spec, jobs))
    try:
        samples = ask(jobs, lm, bool(spec.get("chat_template"))) if jobs else []
    finally:
        answers.close()
    items, scores = _tables(spec, jobs, samples, lm)
    differs = _coverage(spec, jobs, scores)
    for line in differs:
        print(line)
    tidy.write_parquet(items, out / "items.parquet")
    tidy.write_parquet(scores, out / "scores.parquet")
    write_json(
        out / RECORD,
        {
            "spec": digest(spec),
            "model": model,
            "subject": spec["subject"]["id"],
            "protocol": spec["protocol"],
            **_notes(spec),
            "shots": {job.task: job.built.get_config("num_fewshot") for job in jobs},
            "items": len(items),
            "truncated": _truncated(items),
            **({"coverage": differs} if differs else {}),
            "asked": lm.asked,
            **dict(getattr(lm.loaded, "counts", {})),
            "seconds": round(time.perf_counter() - begun, 2),
            "versions": {name: version(name) for name in VERSIONS},
        },
    )


def ask(jobs: Sequence[Job], lm: LM, chat_template: bool = False) -> list[list[dict]]:
    """Puts all questions to a model in one pass for each kind of request.

    Args:
        jobs: what is asked.
        lm: any model of lm-eval.
        chat_template: whether questions are put in the tokenizer's chat template.

    Returns:
        For each job lm-eval's samples, one for each item and filter.
    """
    seed()
    keys = [f"{job.benchmark}/{job.task}" for job in jobs]
    for job in jobs:
        # Building the requests draws the examples; each model gets the same ones.
        job.built.set_fewshot_seed(FEWSHOT_SEED)
    results = evaluate(
        lm=lm,
        task_dict={"tasks": {key: job.built for key, job in zip(keys, jobs, strict=True)}},
        samples={key: range(job.limit) for key, job in zip(keys, jobs, strict=True)},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
    )
    return [results["samples"][key] for key in keys]


class _Models:
    """Makes lm-eval's model of a spec, with one load of a base for all that share it.

    Attributes:
        expected: the subjects that are still to be evaluated.
    """

    def __init__(self, expected: list[dict]):
        self.expected = expected
        self.base = None
        self.vllm = 0

    @property
    def loads(self) -> int:
        """How many bases were loaded."""
        return self.vllm + (self.base.loads if self.base else 0)

    def load(self, spec: dict, jobs: Sequence[Job]) -> LM:
        """A model that can answer all requests of the jobs.

        Raises:
            UserError: answers don't fit into its positions, or it has no chat template.
        """
        subject, bos = spec["subject"], PROTOCOLS[spec["protocol"]].bos
        if spec.get("backend", "sight") == "vllm":
            self.vllm += 1
            lm = load_vllm(subject, bos, spec["batch_size"])
        else:
            # Heavy, and not needed where every answer is known.
            from sight_beyond_text.evaluation.engine import SightLM
            from sight_beyond_text.evaluation.shared_base import SharedBase
            from sight_beyond_text.models.checkpoints import tokenizer_of

            self.base = self.base or SharedBase()
            sharing = [other for other in self.expected if base_key(other) == base_key(subject)]
            lm = SightLM(
                pretrained=self.base.take(subject, again=len(sharing) > 1),
                tokenizer=tokenizer_of(subject),
                batch_size=spec["batch_size"],
                add_bos_token=bos,
                token_budget=spec.get("token_budget"),
            )
        if spec.get("chat_template") and not lm.tokenizer.chat_template:
            raise UserError(
                f"{subject['base']['model']}: its tokenizer has no chat template; remove it from"
                " evaluation.chat_template"
            )
        _seed_torch()
        for job in jobs:
            settings = job.built.get_config("generation_kwargs") or {}
            tokens = settings.get("max_gen_toks", lm.max_gen_toks)
            if job.built.OUTPUT_TYPE == "generate_until" and tokens >= lm.max_length:
                raise UserError(
                    f"evaluation.text.{job.benchmark}: answers of {tokens} tokens don't fit into"
                    f" the model's {lm.max_length} positions; leave this benchmark out"
                )
        return lm


def _seed_torch() -> None:
    """So that answers that are drawn are drawn alike each time."""
    import torch

    torch.manual_seed(FEWSHOT_SEED)


def _identity(spec: dict) -> str:
    """What answers hang on besides the questions."""
    engine = {"engine": ENGINE_VERSION} if ENGINE_VERSION > 1 else {}
    return digest(
        {
            **engine,
            "weights": identity_of(spec["subject"]),
            "bos": PROTOCOLS[spec["protocol"]].bos,
            "backend": spec.get("backend", "sight"),
            "versions": [version(name) for name in VERSIONS],
        }
    )


def _is_finished(spec: dict, out: Path) -> bool:
    files = [out / name for name in ("items.parquet", "scores.parquet", RECORD)]
    if not all(file.is_file() for file in files):
        return False
    record = read_json(out / RECORD, "record of an evaluation")
    return record.get("spec") == digest(spec) and record.get("model") == _identity(spec)


def _notes(spec: dict) -> dict:
    made = {"chat_template": True} if spec.get("chat_template") else {}
    return made | ({"backend": spec["backend"]} if spec.get("backend", "sight") != "sight" else {})


def _tables(
    spec: dict, jobs: Sequence[Job], samples: list[list[dict]], lm: RememberingLM
) -> tuple[pd.DataFrame, pd.DataFrame]:
    notes = {"protocol": spec["protocol"], **_notes(spec)}
    items, scores = tabulate(jobs, samples, lm.truncated, notes)
    for frame in (items, scores):
        frame.insert(0, "run", spec["subject"]["id"])
        frame.insert(1, "suite", SUITE)
    scores["protocol"] = spec["protocol"]
    return items[list(tidy.ITEMS)], scores[list(tidy.SCORES)]


def _coverage(spec: dict, jobs: Sequence[Job], scores: pd.DataFrame) -> list[str]:
    """What of the benchmarks is otherwise than published."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for job in jobs:
        counts[job.benchmark][job.task] = len(job.built.eval_docs)
    lines = []
    for name, asked in counts.items():
        entry = spec["benchmarks"][name]
        told = coverage(name, entry, asked)
        own = scores.loc[scores["benchmark"] == name, "metric"]
        if not told and (entry.get("task") or name) in SETS and TOGETHER not in set(own):
            told.append(f"evaluation.text.{name}: no whole set among its questions: there is no em")
        lines += told
    return lines


def _truncated(items: pd.DataFrame) -> dict[str, int]:
    """Items of each benchmark of whose prompts something was cut."""
    cut = items["details"].map(lambda details: "truncated" in json.loads(details))
    return dict(Counter(items.loc[cut.astype(bool), "benchmark"]))
