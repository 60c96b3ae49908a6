"""The text suite on published data with a tiny random model: tables, items, log-likelihoods."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from sight_beyond_text.analysis import tidy
from sight_beyond_text.errors import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval")

pytestmark = pytest.mark.parity

LIMIT = 6
SUBJECTS = ("abstract_algebra", "philosophy")
FOLDERS = {
    "truthfulqa_mc1": "truthfulqa",
    "truthfulqa_mc2": "truthfulqa",
    "ethics_cm": "ethics",
    "ethics_justice": "ethics",
    "ethics_deontology": "ethics",
    "ethics_virtue": "ethics",
    "ethics_utilitarianism": "ethics",
    "mmlu": "mmlu",
    "gsm8k": "gsm8k",
    "boolq": "boolq",
    "mathqa": "mathqa",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random Llama of two layers whose tokens are bytes, as a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=6144,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def benchmarks(shared_data, tmp_path_factory):
    mmlu = tmp_path_factory.mktemp("mmlu")
    for split in ("dev", "test"):
        (mmlu / split).mkdir()
        for subject in SUBJECTS:
            name = f"{split}/{subject}_{split}.csv"
            (mmlu / name).symlink_to(shared_data / "mmlu" / name)
    made = {}
    for name, folder in FOLDERS.items():
        path = mmlu if folder == "mmlu" else shared_data / folder
        shots = 2 if name == "gsm8k" else None
        limit = 2 if name == "gsm8k" else LIMIT
        made[name] = {"task": None, "path": str(path), "fewshot": shots, "limit": limit}
    made["cruel"] = {**made["ethics_cm"], "task": "ethics_cm", "limit": 3}
    return made


@pytest.fixture(scope="module")
def subject(base):
    return {
        "id": "tiny",
        "base": {"model": base, "revision": None},
        "mode": None,
        "checkpoint": None,
        "precision": "fp32",
    }


@pytest.fixture(scope="module")
def tables(subject, benchmarks, tmp_path_factory):
    from sight_beyond_text.evaluation.text import evaluate_text

    out = tmp_path_factory.mktemp("out")
    spec = {
        "subject": subject,
        "suite": "text",
        "protocol": "current",
        "batch_size": 8,
        "benchmarks": benchmarks,
    }
    evaluate_text(spec, out)
    assert sorted(path.name for path in out.iterdir()) == ["items.parquet", "scores.parquet"]
    return pd.read_parquet(out / "items.parquet"), pd.read_parquet(out / "scores.parquet")


def test_tables_have_the_columns_of_the_contract(tables, benchmarks):
    items, scores = tables
    assert list(items) == list(tidy.ITEMS)
    assert list(scores) == list(tidy.SCORES)
    assert not items.duplicated(tidy.KEYS["items"]).any()
    assert not scores.duplicated(tidy.KEYS["scores"]).any()
    assert set(scores["benchmark"]) == set(items["benchmark"]) == set(benchmarks)
    assert set(scores["protocol"]) == {"current"} and set(scores["suite"]) == {"text"}
    assert scores["value"].between(0, 1).all() and scores["higher_is_better"].all()


def test_every_score_is_the_mean_of_its_items(tables):
    items, scores = tables
    items = items.assign(details=items["details"].map(json.loads))
    for row in scores.itertuples():
        own = items[items["benchmark"] == row.benchmark]
        group = row.metric.removeprefix("acc_")
        if row.benchmark == "mmlu" and row.metric != "acc":
            values = own[own["details"].map(lambda d, group=group: d["group"] == group)]["score"]
        elif (own["metric"] == row.metric).all():
            values = own["score"]
        else:
            values = own["details"].map(lambda d, row=row: d["metrics"][row.metric])
        assert len(values) == row.n
        assert row.value == pytest.approx(np.mean(values), abs=1e-9)
        assert row.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(row.n), abs=1e-9)
    metrics = scores.groupby("benchmark")["metric"].agg(set)
    assert metrics["mmlu"] == {"acc", "acc_stem", "acc_humanities"}
    assert metrics["gsm8k"] == {"exact_match", "exact_match_strict"}
    assert metrics["mathqa"] == {"acc", "acc_norm"}


def test_choices_decide_scores(tables):
    items, _ = tables
    for row in items[items["metric"] == "acc"].itertuples():
        details = json.loads(row.details)
        best = details["choices"][int(np.argmax(details["loglikelihoods"]))]
        assert row.prediction == best
        if row.benchmark == "truthfulqa_mc2":
            right = len(row.reference.split("; "))
            shares = np.exp(details["loglikelihoods"])
            assert row.score == pytest.approx(shares[:right].sum() / shares.sum(), abs=1e-4)
        else:
            assert row.score == float(row.prediction == row.reference)


def test_limits_take_the_first_items_and_clusters_hold_what_belongs_together(tables, benchmarks):
    items, _ = tables
    sizes = items.groupby("benchmark").size()
    for name, entry in benchmarks.items():
        assert sizes[name] == entry["limit"] * (len(SUBJECTS) if name == "mmlu" else 1)
    names = items.set_index("item")["cluster"]
    assert {f"philosophy/{number}" for number in range(LIMIT)} <= set(names.index)
    assert names["truthfulqa_mc1/5"] == "truthfulqa_mc1/5"
    for name, together in (("justice", 4), ("deontology", 4), ("virtue", 5)):
        clusters = [names[f"ethics_{name}/{number}"] for number in range(LIMIT)]
        assert len(set(clusters[:together])) == 1
        assert clusters[together] != clusters[0]


PROMPTS = {
    "ethics_virtue/3": (
        "Sentence: {scenario}\nQuestion: Does the character in this sentence exhibit the trait"
        ' "{trait}"?\nAnswer:'
    ),
    "boolq/1": "{passage}\nQuestion: {question}?\nAnswer:",
}


def test_loglikelihoods_are_those_of_a_plain_forward_pass(tables, subject, benchmarks):
    from sight_beyond_text.evaluation.text_data import read_benchmark
    from sight_beyond_text.models.checkpoints import load_tuned_language_model

    items, _ = tables
    details = items.set_index("item")["details"].map(json.loads)
    cases = {}
    for item, template in PROMPTS.items():
        name, number = item.split("/")
        splits = read_benchmark(name, benchmarks[name])[name]
        row = splits.get("test", splits.get("validation"))[int(number)]
        cases[item] = template.format(**row)
    subject_name = "abstract_algebra"
    exam = read_benchmark("mmlu", benchmarks["mmlu"])[f"mmlu_{subject_name}"]

    def asked(row):
        listed = "".join(f"{m}. {c}\n" for m, c in zip("ABCD", row["choices"], strict=True))
        return f"{row['question'].strip()}\n{listed}Answer:"

    shots = "".join(f"{asked(row)} {'ABCD'[row['answer']]}\n\n" for row in exam["dev"])
    opening = "The following are multiple choice questions (with answers) about abstract algebra."
    cases[f"{subject_name}/2"] = f"{opening}\n\n{shots}{asked(exam['test'][2])}"

    model, tokenizer = load_tuned_language_model(subject)
    for item, prompt in cases.items():
        _compare(model, tokenizer, prompt, details[item])


def test_requests_with_a_common_start_are_those_of_the_harness(subject):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from sight_beyond_text.evaluation.text import LanguageModel
    from sight_beyond_text.models.checkpoints import load_tuned_language_model

    model, tokenizer = load_tuned_language_model(subject)
    start = "These words are common to most of what is asked, and long enough to be shared.\n"
    texts = [f"{start}Question {n}: {'what ' * (n % 5)}?\nAnswer:" for n in range(20)]
    texts += ["Something else?", "x" * 300, "One more: "]
    pairs = [(text, choice) for text in texts for choice in (" A", " B", " much longer", " A")]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    for length in (6144, 128):
        given = {"pretrained": model, "tokenizer": tokenizer, "batch_size": 8}
        ours = LanguageModel(**given, max_length=length).loglikelihood(requests)
        theirs = HFLM(**given, max_length=length).loglikelihood(requests, disable_tqdm=True)
        assert [value for value, _ in ours] == pytest.approx([v for v, _ in theirs], abs=2e-4)
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_task", "evaluation.text.no_such_task.task: lm-eval has no task 'no_such_task'"),
        ("boolq", "evaluation.text.boolq: can't load 'boolq' from the hub"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, words, subject, tmp_path, monkeypatch):
    import datasets

    from sight_beyond_text.evaluation.text import evaluate_text

    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    entry = {"task": None, "path": None, "fewshot": None, "limit": 1}
    spec = {"subject": subject, "protocol": "current", "batch_size": 1, "benchmarks": {name: entry}}
    with pytest.raises(UserError, match=re.escape(words)):
        evaluate_text(spec, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_empty_suite_gives_empty_tables(subject, tmp_path):
    from sight_beyond_text.evaluation.text import evaluate_text

    evaluate_text(
        {"subject": subject, "protocol": "current", "batch_size": 1, "benchmarks": {}}, tmp_path
    )
    assert list(pd.read_parquet(tmp_path / "items.parquet")) == list(tidy.ITEMS)
    assert len(pd.read_parquet(tmp_path / "scores.parquet")) == 0


def _compare(model, tokenizer, prompt, details):
    import hashlib

    assert details["prompt"] == hashlib.sha256(prompt.encode()).hexdigest()[:16]
    start = tokenizer(prompt)["input_ids"]
    for choice, expected in zip(details["choices"], details["loglikelihoods"], strict=True):
        whole = tokenizer(f"{prompt} {choice}")["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        steps = range(len(start), len(whole))
        assert sum(float(scores[i - 1, whole[i]]) for i in steps) == pytest.approx(
            expected, abs=2e-4
        )
