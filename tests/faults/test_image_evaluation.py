"""Image evaluations that are killed go on where they were, and say what undisturbed ones say."""

import json
import time
import weakref
from pathlib import Path

import pandas as pd
import pytest
import torch
from killable import CONTEXT
from tiny_runs import make_world
from transformers import LlamaForCausalLM

from sight_beyond_text import grid
from sight_beyond_text.evaluation import image
from sight_beyond_text.files import write_json, write_json_lines
from sight_beyond_text.models.building import build, load_tokenizer
from sight_beyond_text.models.checkpoints import save_projector

QUESTIONS = 48


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> dict:
    """Questions about pictures, and a model of random weights that are large enough to differ."""
    world = make_world(tmp_path_factory.mktemp("world"))
    base = {"model": str(world / "base"), "revision": None, "remote_code": False}
    tower = {"model": str(world / "tower"), "revision": None, "layer": -2, "projector": "linear"}
    tower["preparation"] = "crop"
    llm = LlamaForCausalLM.from_pretrained(world / "base")
    with torch.no_grad():
        for tensor in llm.parameters():
            tensor *= 1 if tensor.ndim == 1 else 10
    llm.save_pretrained(world / "base")
    model = build(base, tower, load_tokenizer(base), torch.float32)
    aligned = world / "aligned" / "checkpoint"
    aligned.mkdir(parents=True)
    save_projector(model.state_dict(), aligned)
    write_json(aligned / grid.COMPLETE, {"recipe": {}, "files": {}})
    rows = [
        {"question_id": n, "image": f"{n % 12}.png", "text": f"Is {n} there?", "label": "no"}
        for n in range(QUESTIONS)
    ]
    write_json_lines(world / "pope.jsonl", rows)
    benchmark = {"type": "pope", "images": str(world / "images"), "limit": None, "prompt": None}
    benchmark |= {"questions": str(world / "pope.jsonl"), "annotations": None}
    benchmark |= {"only_present": False, "max_new_tokens": 24}
    fog = {"kind": "fog", "severity": 3, "cache": None}
    subject = {"id": "one", "mode": None, "base": base, "template": "v1", "tower": tower}
    subject |= {"checkpoint": None, "projector": str(aligned), "precision": "fp32"}
    return {
        "subject": subject,
        "suite": "image",
        "protocol": "current",
        "batch_size": 2,
        "benchmarks": {"pope": benchmark, "pope-fog-3": {**benchmark, "corruption": fog}},
    }


def _evaluate(spec: dict, out: str) -> None:
    torch.set_num_threads(1)
    image.evaluate_image(spec, out)


def killed_after(spec: dict, out: Path, answers: int) -> int:
    """Kills an evaluation with SIGKILL once it has given some answers; how many are kept."""
    child = CONTEXT.Process(target=_evaluate, args=(spec, str(out)))
    child.start()
    while child.is_alive() and len(lines(out)) <= answers:
        time.sleep(0.001)
    child.kill()
    child.join()
    assert child.exitcode == -9, "killed before its end"
    assert not (out / "scores.parquet").exists()
    return len(lines(out)) - 1


def lines(out: Path) -> list[bytes]:
    path = out / image.ANSWERS
    return path.read_bytes().splitlines() if path.exists() else []


def tables(out: Path) -> list[pd.DataFrame]:
    return [pd.read_parquet(out / f"{name}.parquet") for name in ("items", "scores")]


@pytest.mark.parametrize("protocol", ["current", "published"])
def test_a_killed_evaluation_goes_on(spec, protocol, tmp_path, monkeypatch):
    spec = {**spec, "protocol": protocol}
    image.evaluate_image(spec, tmp_path / "undisturbed")
    undisturbed = tables(tmp_path / "undisturbed")
    assert undisturbed[0]["prediction"].nunique() > QUESTIONS

    out = tmp_path / "killed"
    kept = 0
    for answers in (5, QUESTIONS + 5):  # among the clean images, and among the foggy ones
        before, kept = kept, killed_after(spec, out, answers)
        assert before < kept < 2 * QUESTIONS
    with open(out / image.ANSWERS, "ab") as stream:
        stream.write(b'["cut off in the mid')

    asked = []
    generate = image.ImageAnswers.answers

    def counted(self, questions, *rest, **more):
        asked.extend(questions)
        return generate(self, questions, *rest, **more)

    monkeypatch.setattr(image.ImageAnswers, "answers", counted)
    # In other company than before: batches are others, too.
    image.evaluate_image({**spec, "batch_size": 16}, out)
    assert len(asked) == 2 * QUESTIONS - kept
    for found, expected in zip(tables(out), undisturbed, strict=True):
        pd.testing.assert_frame_equal(found, expected)

    asked.clear()
    (out / "scores.parquet").unlink()
    image.evaluate_image(spec, out)
    assert not asked
    pd.testing.assert_frame_equal(tables(out)[1], undisturbed[1])


def test_a_model_is_gone_before_the_next_comes(spec, tmp_path, monkeypatch):
    loaded, load = [], image.load_tuned

    def watched(*arguments):
        assert not any(model() for model in loaded)
        model, tokenizer = load(*arguments)
        loaded.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr(image, "load_tuned", watched)
    for name in ("one", "two"):
        image.evaluate_image(spec, tmp_path / name)
    assert len(loaded) == 2


def test_answers_of_another_model_or_protocol_are_not_taken(spec, tmp_path):
    killed_after(spec, tmp_path, 5)
    header = lines(tmp_path)[0]
    image.evaluate_image({**spec, "protocol": "published"}, tmp_path)
    drawn = tables(tmp_path)[0]
    killed_after({**spec, "subject": {**spec["subject"], "template": "v0"}}, tmp_path / "v0", 5)
    assert lines(tmp_path / "v0")[0] != header
    image.evaluate_image({**spec, "protocol": "published"}, tmp_path / "fresh")
    pd.testing.assert_frame_equal(drawn, tables(tmp_path / "fresh")[0])


def test_what_is_kept_is_believed(spec, tmp_path):
    """So an answer really isn't asked for again."""
    killed_after(spec, tmp_path, 5)
    path = tmp_path / image.ANSWERS
    header, first, *rest = path.read_text().splitlines()
    key, _, cut = json.loads(first)
    path.write_text("\n".join([header, json.dumps([key, "kept words", cut]), *rest]) + "\n")
    image.evaluate_image(spec, tmp_path)
    assert (tables(tmp_path)[0]["prediction"] == "kept words").sum() == 1
