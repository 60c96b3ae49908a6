"""Several subjects of one base: one load, and each model is the one that is loaded alone."""

import json
import shutil
import weakref
from pathlib import Path

import pandas as pd
import pytest
from tiny_llms import byte_tokenizer, tiny
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval")

from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from sight_beyond_text.errors import UserError  # noqa: E402
from sight_beyond_text.evaluation import shared_base  # noqa: E402
from sight_beyond_text.evaluation.shared_base import SharedBase  # noqa: E402
from sight_beyond_text.evaluation.text import evaluate_texts  # noqa: E402
from sight_beyond_text.files import write_json  # noqa: E402
from sight_beyond_text.models.checkpoints import hashes, load_tuned_language_model  # noqa: E402

SIZES = {"hidden_size": 64, "intermediate_size": 128}
MODES = ("lora", "lora", "lora", "qlora", "qlora", "full")
TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    byte_tokenizer().save_pretrained(folder)
    tiny(**SIZES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def subjects(base, tmp_path_factory):
    """The base itself, three LoRA runs, two QLoRA runs and a fully tuned one, all different."""

    def subject(name, mode, checkpoint=None):
        return {
            "id": name,
            "base": {"model": str(base), "revision": None},
            "mode": mode,
            "checkpoint": str(checkpoint) if checkpoint else None,
            "projector": None,
            "precision": "fp32",
        }

    made = [subject("base", None)]
    for number, mode in enumerate(MODES):
        folder = tmp_path_factory.mktemp(f"run{number}")
        if mode == "full":
            tiny(seed=9, **SIZES).save_pretrained(folder / "llm")
        else:
            model = tiny(**SIZES)
            # An adapter's B is zero before training; these are as if they had learned.
            settings = LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False)
            torch.manual_seed(number + 1)
            get_peft_model(model, settings).save_pretrained(folder / "adapter")
        write_json(folder / "complete.json", {"files": hashes(folder)})
        made.append(subject(f"{mode}{number}", mode, folder))
    return made


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boolq")
    rows = [{"question": f"is {n} odd", "passage": f"It is {n}.", "answer": n % 2} for n in (3, 4)]
    (folder / "boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def spec_of(subject, questions, out):
    return {
        "subject": subject,
        "suite": "text",
        "protocol": "current",
        "batch_size": 8,
        "benchmarks": {
            "boolq": {"task": None, "path": str(questions), "fewshot": None, "limit": None}
        },
        "folder": str(out / subject["id"] / "text-0"),
    }


def logits(model):
    with torch.no_grad():
        return model(torch.arange(40)[None]).logits


def test_each_is_the_model_that_is_loaded_alone(subjects):
    alone = {}
    for subject in subjects:
        model, _ = load_tuned_language_model(subject)
        alone[subject["id"]] = logits(model)
    assert len({float(found.sum()) for found in alone.values()}) == len(subjects)
    # There and back, so that what one leaves behind would show in the next.
    base, *tuned = subjects
    shared = SharedBase()
    for subject in [base, *tuned, base, *reversed(tuned), tuned[1], tuned[4], tuned[0], base]:
        assert torch.equal(logits(shared.take(subject)), alone[subject["id"]]), subject["id"]
    # One that is said to be the last of its base is the same, and leaves nothing behind.
    for subject in (tuned[0], tuned[1], base):
        assert torch.equal(logits(shared.take(subject, again=False)), alone[subject["id"]])


def test_one_load_serves_all_adapters(subjects):
    shared = SharedBase()
    for loads, part in ((1, subjects[:4]), (2, subjects[4:6]), (3, subjects[6:])):
        for subject in part:
            shared.take(subject)
        assert shared.loads == loads


def test_an_adapter_that_fits_in_part_is_refused(subjects, tmp_path):
    lora = next(subject for subject in subjects if subject["mode"] == "lora")
    folder = Path(shutil.copytree(lora["checkpoint"], tmp_path / "part"))
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(min(tensors))
    save_file(tensors, path)
    with pytest.raises(UserError, match="1 tensors are missing"):
        SharedBase().take({**lora, "id": "part", "checkpoint": str(folder)})


def test_each_answers_as_if_it_was_evaluated_alone(subjects, questions, tmp_path):
    # In an order in which bases alternate: they are loaded once all the same.
    order = [subjects[n] for n in (1, 4, 6, 0, 5, 2, 3)]
    specs = [spec_of(subject, questions, tmp_path / "all") for subject in order]
    assert evaluate_texts([(spec, spec["folder"]) for spec in specs]) == 3
    answers = set()
    for subject in subjects:
        alone = spec_of(subject, questions, tmp_path / "alone")
        evaluate_texts([(alone, alone["folder"])])
        for table in ("items", "scores"):
            one, two = (
                pd.read_parquet(tmp_path / kind / subject["id"] / "text-0" / f"{table}.parquet")
                for kind in ("all", "alone")
            )
            assert one.equals(two)
        items = pd.read_parquet(tmp_path / "all" / subject["id"] / "text-0" / "items.parquet")
        answers.add(tuple(json.loads(items["details"][0])["loglikelihoods"]))
    assert len(answers) == len(subjects)


def test_a_model_is_gone_before_the_next_comes(subjects, questions, tmp_path, monkeypatch):
    loaded = []

    def watched(load):
        def loading(*arguments):
            assert not any(model() for model in loaded)
            made = load(*arguments)
            loaded.append(weakref.ref(made[0] if isinstance(made, tuple) else made))
            return made

        return loading

    for name in ("load_language_model", "load_tuned_language_model"):
        monkeypatch.setattr(shared_base, name, watched(getattr(shared_base, name)))
    specs = [spec_of(subject, questions, tmp_path) for subject in subjects]
    assert evaluate_texts([(spec, spec["folder"]) for spec in specs]) == len(loaded) == 3


def sight(*arguments):
    from sight_beyond_text.cli import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_several_specs_at_the_terminal(subjects, questions, tmp_path):
    specs = [spec_of(subject, questions, tmp_path) for subject in subjects[:3]]
    texts = [json.dumps(spec) for spec in specs]
    done = sight("evaluate", *texts[:2])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "lora0" / "text-0" / "scores.parquet").is_file()
    records = [tmp_path / name / "text-0" / "record.json" for name in ("base", "lora0")]
    before = [record.stat().st_mtime_ns for record in records]
    again = sight("evaluate", *texts)
    assert again.exit_code == 0 and again.output.count("finished already") == 2
    assert [record.stat().st_mtime_ns for record in records] == before
    assert (tmp_path / "lora1" / "text-0" / "record.json").is_file()


def test_mistakes_at_the_terminal_are_told_in_one_line(subjects, questions, tmp_path):
    spec = spec_of(subjects[0], questions, tmp_path)
    text = json.dumps(spec)
    for arguments, words in (
        (["{}"], "not the spec of an evaluation, it lacks 'subject'"),
        ([text, text, "--out", tmp_path], "--out: one folder for several specs"),
    ):
        done = sight("evaluate", *arguments)
        assert done.exit_code == 2
        assert words in done.stderr and done.stderr.count("\n") == 1
