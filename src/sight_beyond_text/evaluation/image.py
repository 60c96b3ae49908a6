"""The image suite: answers by greedy generation, scored as the benchmarks' own evaluators do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from sight_beyond_text.analysis import tidy
from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.data.templates import IMAGE
from sight_beyond_text.evaluation.answers import cut, endings, prompt_ids
from sight_beyond_text.evaluation.corrupted import CorruptedPixels
from sight_beyond_text.evaluation.image_data import load_all
from sight_beyond_text.evaluation.scorers import captions, mme, pope, vqa
from sight_beyond_text.models.building import image_positions, load_processor, padding_token
from sight_beyond_text.models.checkpoints import image_marks_of, load_tuned


def evaluate_image(spec: dict, out: str | Path) -> None:
    """Scores one subject on the image benchmarks.

    Args:
        spec: an evaluation spec (`grid.evaluation_spec`).
        out: folder that gets items.parquet, then scores.parquet.
    """
    subject = spec["subject"]
    asked = load_all(spec["benchmarks"])
    model, tokenizer = load_tuned(subject, subject["tower"])
    processor = load_processor(subject["tower"])
    scores, items = [], []
    for name, questions in asked.items():
        benchmark = spec["benchmarks"][name]
        answers = generate(
            model,
            tokenizer,
            _pixels(benchmark, processor),
            questions,
            subject["template"],
            benchmark["max_new_tokens"],
            spec["batch_size"],
            f"{subject['id']} {name}",
            image_marks_of(subject["projector"]),
        )
        values, rows = score(benchmark["type"], questions, answers)
        suite = "corrupted" if "corruption" in benchmark else "image"
        told = {"run": subject["id"], "suite": suite, "benchmark": name}
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
    out = Path(out)
    tidy.write_parquet(pd.DataFrame(items, columns=tidy.ITEMS), out / "items.parquet")
    tidy.write_parquet(pd.DataFrame(scores, columns=tidy.SCORES), out / "scores.parquet")


def _pixels(benchmark: dict, processor) -> Pixels:
    if "corruption" not in benchmark:
        return Pixels(benchmark["images"], processor)
    return CorruptedPixels(benchmark["images"], processor, **benchmark["corruption"])


@torch.inference_mode()
def generate(
    model,
    tokenizer,
    pixels: Pixels,
    questions: Sequence[dict],
    template: str,
    max_new_tokens: int,
    batch_size: int,
    title: str,
    image_marks: Sequence[str] | None = None,
) -> list[str]:
    """Greedy answers, in the questions' order, with stop strings stripped.

    Batches are left-padded and of like length, so an answer doesn't depend on its neighbours
    (beyond rounding).
    """
    spare = model.config.image_token_id
    pad = padding_token(tokenizer, spare)
    patches = image_positions(model.config.vision_config)
    stops, ends = endings(template, tokenizer)
    prompts = []
    for question in questions:
        turns = [(f"{IMAGE}\n{question['prompt']}", "")]
        prompts.append(prompt_ids(turns, template, tokenizer, spare, patches, image_marks))
    order = sorted(range(len(questions)), key=lambda index: len(prompts[index]))
    answers = [""] * len(questions)
    for start in tqdm(range(0, len(order), batch_size), desc=title, mininterval=5):
        chosen = order[start : start + batch_size]
        length = max(len(prompts[index]) for index in chosen)
        ids = torch.tensor([[pad] * (length - len(prompts[i])) + prompts[i] for i in chosen])
        mask = torch.tensor(
            [[0] * (length - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen]
        )
        images = torch.stack([pixels(questions[index]["image"]) for index in chosen])
        made = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            pixel_values=images.to(model.device, model.dtype),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
            eos_token_id=ends,
        )
        for index, tokens in zip(chosen, made[:, length:], strict=True):
            answers[index] = cut(tokenizer.decode(tokens), stops)
    return answers


def score(kind: str, questions: Sequence[dict], answers: Sequence[str]) -> tuple[dict, list[dict]]:
    """Scores answers with a benchmark's own rule.

    Returns:
        Metric values, and one item row a question (metric, item, cluster, prediction, reference,
        score, details).
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
        if "parsed" in row:
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
