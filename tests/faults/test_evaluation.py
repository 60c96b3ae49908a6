"""A killed evaluation goes on where it was, and ends with the tables of an undisturbed one."""

import json
import multiprocessing
import time

import pandas as pd
import pytest
from tiny_llms import byte_tokenizer, tiny

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval")

from peft import LoraConfig, get_peft_model  # noqa: E402

from sight_beyond_text.evaluation.text import evaluate_texts  # noqa: E402
from sight_beyond_text.files import write_json  # noqa: E402
from sight_beyond_text.models.checkpoints import hashes  # noqa: E402

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sight_beyond_text.evaluation.engine"])
QUESTIONS = 200


def run(specs, stop=None):
    """Evaluates in a child; kills it with SIGKILL as soon as `stop()` is true."""
    asked = [(spec, spec["folder"]) for spec in specs]
    child = CONTEXT.Process(target=evaluate_texts, args=(asked,))
    child.start()
    while child.is_alive():
        if stop is not None and stop():
            child.kill()
        time.sleep(0.002)
    child.join()
    return child.exitcode


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, two adapters of it, and questions."""
    folder = tmp_path_factory.mktemp("world")
    byte_tokenizer().save_pretrained(folder / "base")
    tiny().save_pretrained(folder / "base")
    for number in range(2):
        model = tiny()
        torch.manual_seed(number + 1)
        settings = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(model, settings).save_pretrained(folder / f"run{number}" / "adapter")
        record = {"files": hashes(folder / f"run{number}")}
        write_json(folder / f"run{number}" / "complete.json", record)
    rows = [
        {"question": f"is {n} odd", "passage": f"It is {n}.", "answer": n % 2 == 1}
        for n in range(QUESTIONS)
    ]
    (folder / "boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def specs_in(world, folder):
    return [
        {
            "subject": {
                "id": f"run{number}",
                "base": {"model": str(world / "base"), "revision": None},
                "mode": "lora",
                "checkpoint": str(world / f"run{number}"),
                "precision": "fp32",
            },
            "suite": "text",
            "protocol": "current",
            "batch_size": 8,
            # Many small passes, so that there is time to be killed.
            "token_budget": 64,
            "benchmarks": {
                "boolq": {"task": None, "path": str(world), "fewshot": None, "limit": None}
            },
            "folder": str(folder / f"run{number}" / "text-0"),
        }
        for number in range(2)
    ]


def known(folder):
    """Answers on disk, whole or not."""
    path = folder / "text-0" / "answers.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_any_moment(world, tmp_path):
    assert run(specs_in(world, tmp_path / "whole")) == 0
    killed = tmp_path / "killed"
    specs, first, second = specs_in(world, killed), killed / "run0", killed / "run1"
    for answers in (1, 100, 200):
        assert run(specs, lambda n=answers: known(first) >= n) == -9
        assert not (first / "text-0" / "record.json").exists()
    # As if a line had been written in part.
    with open(first / "text-0" / "answers.jsonl", "a") as stream:
        stream.write('["0123", [-1.5')
    assert run(specs, lambda: known(second) >= 70) == -9
    finished = (first / "text-0" / "record.json").read_bytes()
    assert json.loads(finished)["asked"] < 2 * QUESTIONS - 100
    assert not (second / "text-0" / "record.json").exists()
    assert run(specs) == 0
    # The first one was finished; only the second one was lost in part.
    assert (first / "text-0" / "record.json").read_bytes() == finished
    assert json.loads((second / "text-0" / "record.json").read_text())["asked"] < 2 * QUESTIONS
    for name in ("run0", "run1"):
        found, expected = (
            pd.read_parquet(tmp_path / kind / name / "text-0" / "items.parquet")
            for kind in ("killed", "whole")
        )
        assert found.drop(columns="details").equals(expected.drop(columns="details"))
        for one, two in zip(found["details"], expected["details"], strict=True):
            one, two = json.loads(one), json.loads(two)
            assert one.pop("loglikelihoods") == pytest.approx(two.pop("loglikelihoods"), abs=1e-5)
            assert one == two
