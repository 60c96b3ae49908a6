"""The image suite: generated answers, scored as the benchmarks' own evaluators do."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from sight_beyond_text.analysis import tidy
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.answer_file import Answers, key_of
from sight_beyond_text.evaluation.answers import Sampling
from sight_beyond_text.evaluation.image_answers import ImageAnswers, Seen
from sight_beyond_text.evaluation.image_data import load_all
from sight_beyond_text.evaluation.image_features import reader, unreadable
from sight_beyond_text.evaluation.scorers import captions, java, mme, pope, vqa
from sight_beyond_text.evaluation.weights import identity_of
from sight_beyond_text.files import COMPLETE, digest, read_json
from sight_beyond_text.models.building import load_processor
from sight_beyond_text.models.checkpoints import forget_unused, image_marks_of, load_tuned
from sight_beyond_text.models.features import Features

ANSWERS = "answers.jsonl"
PUBLISHED_TEMPLATE = "v0"
ENGINE_VERSION = 1
"""To be raised where answers may come out otherwise: none given before holds."""
VERSIONS = ("torch", "transformers", "peft", "bitsandbytes")

log = logging.getLogger(__name__)


def evaluate_image(spec: dict, out: str | Path) -> None:
    """Scores one subject on the image benchmarks.

    Under the protocol `published`, every base is asked in the template v0 and answers are drawn;
    else they are greedy. Answers are kept in answers.jsonl as they come: an interrupted evaluation
    goes on where it was, and of a finished one only the tables are made again.

    Args:
        spec: an evaluation spec (`grid.evaluation_spec`).
        out: folder that gets items.parquet, then scores.parquet.

    Raises:
        UserError: files are missing or broken, images can't be read (all of a benchmark's are
            counted), or memory is too small.
    """
    out = Path(out)
    asked = load_all(spec["benchmarks"])
    kept = Answers(out / ANSWERS, _identity(spec))
    try:
        answers = _answers(spec, asked, kept)
    finally:
        kept.close()
    scores, items = [], []
    for name, questions in asked.items():
        benchmark = spec["benchmarks"][name]
        values, rows = score(benchmark["type"], questions, answers[name])
        if more := benchmark.get("more_metrics"):
            values |= _java_metrics(name, questions, answers[name], more)
        suite = "corrupted" if "corruption" in benchmark else "image"
        told = {"run": spec["subject"]["id"], "suite": suite, "benchmark": name}
        for metric, value in values.items():
            same = [row["score"] for row in rows if row["metric"] == metric]
            error = pd.Series(same).sem() if len(same) > 1 else float("nan")
            scores.append(
                {
                    **told,
                    "metric": metric,
                    "value": value,
                    "stderr": error,
                    "n": len(questions),
                    "protocol": spec["protocol"],
                    "higher_is_better": metric != "yes_ratio",
                }
            )
        items += [{**told, **row} for row in rows]
    tidy.write_parquet(pd.DataFrame(items, columns=tidy.ITEMS), out / "items.parquet")
    tidy.write_parquet(pd.DataFrame(scores, columns=tidy.SCORES), out / "scores.parquet")


def _java_metrics(
    name: str, questions: Sequence[dict], answers: Sequence[str], metrics: Sequence[str]
) -> dict[str, float]:
    """Metrics that programs in Java compute; the log tells which are left out, and why."""
    said = {q["item"]: answer for q, answer in zip(questions, answers, strict=True)}
    values, notices = java.score(said, {q["item"]: q["annotation"] for q in questions}, metrics)
    for notice in notices:
        log.warning("%s: %s", name, notice)
    return values


def _identity(spec: dict) -> str:
    """What answers hang on besides the questions."""
    subject = spec["subject"]
    record = read_json(Path(subject["projector"]) / COMPLETE, "completion record of a training")
    engine = {"engine": ENGINE_VERSION} if ENGINE_VERSION > 1 else {}
    return digest(
        {
            **engine,
            "weights": identity_of(subject),
            "projector": record["files"],
            "tower": subject["tower"],
            "template": subject["template"],
            "protocol": spec["protocol"],
            "versions": [version(name) for name in VERSIONS],
        }
    )


def _answers(
    spec: dict, asked: Mapping[str, Sequence[dict]], kept: Answers
) -> dict[str, list[str]]:
    """Answers by benchmark, in the order of its questions; what is missing is generated."""
    keys = {
        name: [_key(spec["benchmarks"][name], question) for question in questions]
        for name, questions in asked.items()
    }
    answering = None
    for name, questions in asked.items():
        missing = {key: q for key, q in zip(keys[name], questions, strict=True)}
        missing = {key: q for key, q in missing.items() if key not in kept.known}
        if missing:
            answering = answering or _Answering(spec)
            for key, answer in answering.answers(name, missing):
                kept.add(key, answer, 0)
                kept.flush()
    return {name: [kept.known[key][0] for key in keys[name]] for name in asked}


def _key(benchmark: dict, question: dict) -> str:
    what = [benchmark["images"], benchmark.get("corruption"), benchmark["max_new_tokens"]]
    shots = [question["shots"]] if "shots" in question else []
    return key_of("image", [*what, question["item"], question["image"], question["prompt"], *shots])


class _Answering:
    """A loaded subject that answers the questions of benchmarks."""

    def __init__(self, spec: dict):
        subject = spec["subject"]
        # The subject before this one goes before this one comes.
        forget_unused()
        self.spec = spec
        self.published = spec["protocol"] == "published"
        self.processor = load_processor(subject["tower"])
        model, tokenizer = load_tuned(subject, subject["tower"])
        template = PUBLISHED_TEMPLATE if self.published else subject["template"]
        marks = image_marks_of(subject["projector"])
        self.model = ImageAnswers(model, tokenizer, template, spec["batch_size"], marks)
        cached = Features(spec["features"]) if spec.get("features") else None
        self.seen = Seen(model, cached)
        self.folders: dict[str, Callable[[str], torch.Tensor]] = {}

    def answers(self, name: str, asked: Mapping[str, dict]) -> Iterator[tuple[str, str]]:
        """(key, answer) of questions of a benchmark, as they are made."""
        benchmark, questions = self.spec["benchmarks"][name], list(asked.values())
        pixels = self._pixels(benchmark)

        def features(names: Sequence[str]) -> torch.Tensor:
            try:
                return self.seen(pixels, names)
            except UserError as error:
                images = [question["image"] for question in questions]
                raise unreadable(name, benchmark["images"], images, error) from None

        choose = {}
        if self.published:
            corruption = benchmark.get("corruption") or {}
            corrupted = [corruption.get("kind"), corruption.get("severity")]
            names = [[*corrupted, q["item"], q["image"], q["prompt"]] for q in questions]
            choose = {"choose": Sampling([json.dumps(name) for name in names])}
        found = self.model.answers(questions, features, benchmark["max_new_tokens"], **choose)
        keys, title = list(asked), f"{self.spec['subject']['id']} {name}"
        for number, answer in tqdm(found, desc=title, total=len(keys), mininterval=5):
            yield keys[number], answer

    def _pixels(self, benchmark: dict) -> Callable[[str], torch.Tensor]:
        where = json.dumps([benchmark["images"], benchmark.get("corruption")])
        if where not in self.folders:
            self.folders[where] = reader(benchmark, self.processor)
        return self.folders[where]


def score(kind: str, questions: Sequence[dict], answers: Sequence[str]) -> tuple[dict, list[dict]]:
    """Scores answers with a benchmark's own rule.

    Returns:
        Metric values, and one item row a question (metric, item, cluster, prediction, reference,
        score, details). The details tell question, image, the answer as it was scored (`parsed`),
        and where there are several references all of them: captions, or VQA's answers with how
        many gave each.
    """
    if kind == "vqa":
        given = {q["annotation"]["question_id"]: a for q, a in zip(questions, answers, strict=True)}
        asked = [q["annotation"] for q in questions]
        values, frame = vqa.score(given, asked)
        published, _ = vqa.score({key: vqa.published(a) for key, a in given.items()}, asked)
        values["accuracy_published"] = published["accuracy"]
        metric, key = "accuracy", "question_id"
    elif kind in ("pope", "mme"):
        given = {q["annotation"]["question_id"]: a for q, a in zip(questions, answers, strict=True)}
        scorer = pope if kind == "pope" else mme
        values, frame = scorer.score(given, [q["annotation"] for q in questions])
        metric, key = "accuracy", "question_id"
    else:
        given = {q["item"]: a for q, a in zip(questions, answers, strict=True)}
        references = {q["item"]: q["annotation"] for q in questions}
        values, frame = captions.score(given, references)
        metric, key = "CIDEr", "image_id"
    by_item = {q["item"]: q for q in questions}
    rows = []
    for row in frame.to_dict("records"):
        question = by_item[str(row[key])]
        details = {"question": question["prompt"], "image": question["image"]}
        if "shots" in question:
            details["shots"] = question["shots"]
        if kind == "vqa":
            votes = Counter(answer["answer"] for answer in question["annotation"]["answers"])
            details |= {"parsed": vqa.normalise(row["prediction"]), "references": dict(votes)}
        elif kind == "captions":
            words = captions.tokenise(row["prediction"])
            details |= {"parsed": " ".join(words), "references": list(question["annotation"])}
        else:
            details["parsed"] = row["parsed"]
        rows.append(
            {
                "metric": metric,
                "item": question["item"],
                "cluster": question["image"],
                "prediction": row["prediction"],
                "reference": row["reference"],
                "score": float(row["score"]),
                "details": json.dumps(details, ensure_ascii=False),
            }
        )
    return values, rows
