"""lm-eval's tasks as a study names them: MMLU's groups, and what vLLM is told."""

import json
import random
import subprocess
import sys
from collections import Counter

import pytest

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.text_data import mmlu_configurations
from sight_beyond_text.evaluation.vllm_backend import arguments_for

pytest.importorskip("lm_eval")


def test_the_57_subjects_of_mmlu_make_four_groups(tmp_path):
    from sight_beyond_text.evaluation.text_tasks import harness, load_jobs

    folder = tmp_path / "test"
    folder.mkdir()
    subjects = {path.stem.removeprefix("mmlu_") for path in mmlu_configurations().glob("mmlu_*")}
    for name in subjects:
        (folder / f"{name}_test.csv").write_text("Q,a,b,c,d,A\n")
    entry = {"task": None, "path": str(tmp_path), "fewshot": 0, "limit": None}
    with harness():
        jobs = load_jobs({"mmlu": entry}, "current")
    groups = Counter(job.group for job in jobs)
    assert groups == {"stem": 19, "humanities": 13, "social_sciences": 12, "other": 13}


def subjects_of_mmlu():
    return sorted(path.stem.removeprefix("mmlu_") for path in mmlu_configurations().glob("mmlu_*"))


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory):
    """Copies of the hub's MMLU and TruthfulQA, as `save_to_disk` writes them, a row or a few."""
    import datasets

    folder = tmp_path_factory.mktemp("mirrors")
    row = {"question": "Q", "choices": list("abcd"), "answer": 0}
    rows = {split: datasets.Dataset.from_list([row] * n) for split, n in (("dev", 5), ("test", 1))}
    for name in subjects_of_mmlu():
        datasets.DatasetDict(rows).save_to_disk(folder / "mmlu" / name)
    targets = {"choices": ["a", "b"], "labels": [1, 0]}
    row = {"question": "Q", "mc1_targets": targets, "mc2_targets": targets}
    choices = {"validation": datasets.Dataset.from_list([row])}
    datasets.DatasetDict(choices).save_to_disk(folder / "truthfulqa" / "multiple_choice")
    answers = {
        "type": "T",
        "category": "C",
        "question": "Q",
        "best_answer": "a",
        "correct_answers": ["a"],
        "incorrect_answers": ["b"],
        "source": "",
    }
    texts = {"validation": datasets.Dataset.from_list([answers])}
    datasets.DatasetDict(texts).save_to_disk(folder / "truthfulqa" / "generation")
    return folder


def jobs_of(benchmarks, protocol):
    from sight_beyond_text.evaluation.text_tasks import harness, load_jobs

    default = {"task": None, "path": None, "fewshot": None, "limit": None}
    with harness():
        return load_jobs({name: default | entry for name, entry in benchmarks.items()}, protocol)


@pytest.mark.parametrize("protocol", ["current", "published"])
def test_a_copy_of_the_hubs_mmlu_has_57_subjects_under_either_protocol(protocol, mirrors):
    jobs = jobs_of({"mmlu": {"path": str(mirrors / "mmlu")}}, protocol)
    groups = Counter(job.group for job in jobs)
    assert groups == {"stem": 19, "humanities": 13, "social_sciences": 12, "other": 13}
    assert sorted(job.prefix for job in jobs) == subjects_of_mmlu()
    kind = {"current": "multiple_choice", "published": "generate_until"}[protocol]
    assert {(job.built.OUTPUT_TYPE, job.built.get_config("num_fewshot")) for job in jobs} == {
        (kind, 5)
    }


def test_tasks_have_the_settings_of_their_protocol_whatever_group_names_them(mirrors):
    named = {name: {"path": str(mirrors / "mmlu")} for name in ("mmlu_anatomy", "mmlu_stem")}
    named["truthfulqa"] = {"path": str(mirrors / "truthfulqa")}
    jobs = jobs_of(named, "published")
    assert Counter(job.benchmark for job in jobs) == {
        "mmlu_anatomy": 1,
        "mmlu_stem": 19,
        "truthfulqa": 3,
    }
    for job in jobs:
        if job.benchmark != "truthfulqa":
            settings = job.built.get_config("generation_kwargs")
            assert settings["max_gen_toks"] == 2 and job.built.get_config("num_fewshot") == 5
        elif job.task == "truthfulqa_gen":
            assert job.built.get_config("generation_kwargs")["until"] == ["."]
        else:
            assert job.built.OUTPUT_TYPE == "multiple_choice"


def test_shots_of_tasks_that_have_their_examples_built_in_are_refused(mirrors):
    from sight_beyond_text.evaluation.text_data import check_text

    entry = {"path": str(mirrors / "truthfulqa"), "fewshot": 3}
    words = r"evaluation\.text\.mine\.fewshot: truthfulqa_mc1 has its examples built in; remove"
    with pytest.raises(UserError, match=words):
        jobs_of({"mine": {"task": "truthfulqa_mc1", **entry}}, "current")
    with pytest.raises(UserError, match=words):
        check_text({"mine": {"task": "truthfulqa_mc1", "path": None, "fewshot": 3}})
    assert jobs_of({"truthfulqa_mc1": {**entry, "fewshot": 0}}, "current")


def test_code_that_a_model_writes_is_not_run(monkeypatch):
    from sight_beyond_text.evaluation import text_tasks
    from sight_beyond_text.evaluation.text_data import check_text

    # Reading the names of all tasks takes seconds.
    monkeypatch.setitem(text_tasks.FOLDERS, "humaneval", "humaneval")

    words = "evaluation.text.humaneval: 'humaneval' runs code that models write"
    with pytest.raises(UserError, match=words):
        jobs_of({"humaneval": {}}, "current")
    with pytest.raises(UserError, match=words):
        check_text({"humaneval": {"path": None}})


SHUFFLED = """
import json, sys
from lm_eval.api.model import LM
from sight_beyond_text.evaluation import text_tasks
from sight_beyond_text.evaluation.text import ask

class Longest(LM):
    def loglikelihood(self, requests):
        return [(float(len(request.args[0])), False) for request in requests]
    loglikelihood_rolling = generate_until = None

text_tasks.FOLDERS["gpqa"] = "gpqa"
entry = {"task": None, "path": sys.argv[1], "fewshot": None, "limit": None}
with text_tasks.harness():
    jobs = text_tasks.load_jobs({"gpqa_main_zeroshot": entry}, "current")
    samples = ask(jobs, Longest())[0]
made = [[sample["doc"][f"choice{n}"] for n in range(1, 5)] for sample in samples]
listed = [sample["arguments"][0][0].partition("Choices:")[2] for sample in samples]
print(json.dumps([made, listed]))
"""


def test_choices_that_a_task_shuffles_stand_alike_in_every_process(tmp_path):
    import datasets

    names = ["Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Correct Answer"]
    rows = [
        {"Question": f"Q{n}", **{name: f"{name[:3]}{n}{name[-1]}" for name in names}}
        for n in range(6)
    ]
    made = datasets.DatasetDict(train=datasets.Dataset.from_list(rows))
    found = []
    for copy in ("one", "two"):
        made.save_to_disk(tmp_path / copy)
        command = [sys.executable, "-c", SHUFFLED, str(tmp_path / copy)]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(told.stdout.splitlines()[-1]))
    assert found[0] == found[1]
    # What is asked is what is scored, and as a run of lm-eval alone shuffles it.
    random.seed(0)
    for row, choices, listed in zip(rows, *found[0], strict=True):
        expected = [row[name] for name in names]
        random.shuffle(expected)
        assert choices == expected
        lines = "".join(f"\n({m}) {c}" for m, c in zip("ABCD", expected, strict=True))
        assert listed == f"{lines}\nAnswer:"


def test_random_numbers_of_others_go_on_as_they_were(mirrors):
    import numpy as np

    states = random.getstate(), np.random.get_state()[1].tolist()
    jobs_of({"truthfulqa_mc1": {"path": str(mirrors / "truthfulqa")}}, "current")
    assert states == (random.getstate(), np.random.get_state()[1].tolist())


def subject(folder, mode, **changes):
    return {
        "id": "run",
        "base": {"model": "some/base", "revision": "abc"},
        "mode": mode,
        "checkpoint": str(folder),
        "precision": "bf16",
        **changes,
    }


def test_what_vllm_is_told_of_each_mode(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 12}))
    base = {
        "pretrained": "some/base",
        "revision": "abc",
        "dtype": "bfloat16",
        "trust_remote_code": False,
    }
    assert arguments_for(subject(tmp_path, None, checkpoint=None)) == base
    assert arguments_for(subject(tmp_path, "frozen")) == base
    adapter = {"lora_local_path": str(tmp_path / "adapter"), "max_lora_rank": 16}
    assert arguments_for(subject(tmp_path, "lora")) == base | adapter
    full = {"pretrained": str(tmp_path / "llm"), "revision": None}
    assert arguments_for(subject(tmp_path, "full")) == base | full


def test_what_vllm_cannot_serve_is_refused(tmp_path):
    with pytest.raises(UserError, match="run: vLLM computes 4-bit bases otherwise"):
        arguments_for(subject(tmp_path, "qlora"))
    (tmp_path / "embeddings.safetensors").touch()
    with pytest.raises(UserError, match="run: vLLM can't take an import's own embeddings"):
        arguments_for(subject(tmp_path, "lora"))


def test_what_the_model_beneath_cuts_is_counted():
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from tiny_llms import byte_tokenizer, tiny

    from sight_beyond_text.evaluation.vllm_backend import CountsCuts

    class Counting(CountsCuts, HFLM):
        pass

    lm = Counting(pretrained=tiny(), tokenizer=byte_tokenizer(), max_length=60)
    pairs = [("x" * 70, " A"), ("x" * 50, " A")]
    lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], True)
    texts = [("y" * 60, {"max_gen_toks": 10}), ("y" * 20, {"max_gen_toks": 10})]
    lm.generate_until([Instance("generate_until", {}, text, 0) for text in texts], True)
    # A token <s> comes before each text.
    assert lm.truncated == {pairs[0]: 71 + 2 - 59, ("y" * 60,): 61 - 50}
