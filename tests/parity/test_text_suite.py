"""The text suite on published data with tiny random models: tables, items, log-likelihoods."""

import csv
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from tiny_llms import FAMILIES, byte_tokenizer, tiny

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
    "truthfulqa_gen": "truthfulqa",
    "ethics_cm": "ethics",
    "ethics_justice": "ethics",
    "ethics_deontology": "ethics",
    "ethics_virtue": "ethics",
    "ethics_utilitarianism": "ethics",
    "mmlu": "mmlu",
    "gsm8k": "gsm8k",
    "boolq": "boolq",
    "mathqa": "mathqa",
    "squadv2": "squadv2",
}
FEWER = {"gsm8k": 2, "truthfulqa_gen": 2, "mathqa": 3, "squadv2": 4}
"""Items of the tasks that take longer; the shots of GSM8K and MathQA are fewer, too."""


def folder_of(family, folder):
    """A random model and a tokenizer of bytes, in transformers' layout."""
    byte_tokenizer().save_pretrained(folder)
    tiny(family).save_pretrained(folder)
    return str(folder)


def subject_of(base):
    return {
        "id": "tiny",
        "base": {"model": base, "revision": None},
        "mode": None,
        "checkpoint": None,
        "precision": "fp32",
    }


def evaluate_text(spec, out):
    """Scores one subject."""
    from sight_beyond_text.evaluation.text import evaluate_texts

    return evaluate_texts([(spec, out)])


def spec_of(subject, benchmarks, **changes):
    return {
        "subject": subject,
        "suite": "text",
        "protocol": "current",
        "batch_size": 8,
        "benchmarks": benchmarks,
        **changes,
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return folder_of("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def benchmarks(shared_data, tmp_path_factory):
    mmlu = tmp_path_factory.mktemp("mmlu")
    for split in ("dev", "test"):
        (mmlu / split).mkdir()
        for subject in SUBJECTS:
            name = f"{split}/{subject}_{split}.csv"
            (mmlu / name).symlink_to(shared_data / "mmlu" / name)
    # The published test questions alone are at hand; the last ones serve as examples.
    mathqa = tmp_path_factory.mktemp("mathqa")
    rows = json.loads((shared_data / "mathqa" / "test.json").read_text())
    (mathqa / "test.json").write_text(json.dumps(rows[:-64]))
    (mathqa / "train.json").write_text(json.dumps(rows[-64:]))
    own = {"mmlu": mmlu, "mathqa": mathqa}
    made = {}
    for name, folder in FOLDERS.items():
        path = own.get(name, shared_data / folder)
        shots = 2 if name in ("gsm8k", "mathqa") else None
        limit = FEWER.get(name, LIMIT)
        made[name] = {"task": None, "path": str(path), "fewshot": shots, "limit": limit}
    made["cruel"] = {**made["ethics_cm"], "task": "ethics_cm", "limit": 3}
    return made


@pytest.fixture(scope="module")
def subject(base):
    return subject_of(base)


@pytest.fixture(scope="module")
def folder(subject, benchmarks, tmp_path_factory):
    """What an evaluation of all benchmarks leaves."""
    out = tmp_path_factory.mktemp("run") / "text-all"
    evaluate_text(spec_of(subject, benchmarks), out)
    names = {"answers.jsonl", "items.parquet", "record.json", "scores.parquet"}
    assert {path.name for path in out.iterdir()} == names
    return out


@pytest.fixture(scope="module")
def tables(folder):
    return pd.read_parquet(folder / "items.parquet"), pd.read_parquet(folder / "scores.parquet")


def test_tables_have_the_columns_of_the_contract(tables, benchmarks):
    items, scores = tables
    assert list(items) == list(tidy.ITEMS)
    assert list(scores) == list(tidy.SCORES)
    assert not items.duplicated(tidy.KEYS["items"]).any()
    assert not scores.duplicated(tidy.KEYS["scores"]).any()
    assert set(scores["benchmark"]) == set(items["benchmark"]) == set(benchmarks)
    assert set(scores["protocol"]) == {"current"} and set(scores["suite"]) == {"text"}
    assert scores["higher_is_better"].all()
    # BLEU and ROUGE are in percent, as lm-eval gives them.
    percent = scores["metric"].str.contains("bleu|rouge") & ~scores["metric"].str.endswith("_acc")
    assert scores.loc[~percent, "value"].between(0, 1).all()


def recomputed(items, benchmark, metric):
    """A score from the items alone, and the values that it is the mean of (None for no mean)."""
    from sight_beyond_text.evaluation import squad

    own = items[items["benchmark"] == benchmark]
    details = own["details"].map(json.loads)
    if metric == "em":
        sets = details.map(lambda d: d.get("set"))
        return own["score"].groupby(sets).min().to_numpy()
    if metric.startswith("best_"):
        main = own["metric"].iloc[0]
        single = metric.removeprefix("best_")
        values = [
            score if single == main else d["metrics"][single]
            for score, d in zip(own["score"], details, strict=True)
        ]
        doubts = [math.exp(d["loglikelihoods"][0]) for d in details]
        said = [bool(text) for text in own["prediction"]]
        best, _ = squad.best(values, said, [d["answerable"] for d in details], doubts)
        return np.array([best])
    if (own["metric"] == metric).all():
        return own["score"].to_numpy()
    if metric.startswith("acc_") and details.map(lambda d: "group" in d).all():
        group = metric.removeprefix("acc_")
        return own["score"][details.map(lambda d: d["group"] == group)].to_numpy()
    return np.array([d["metrics"][metric] for d in details if metric in d["metrics"]])


def test_every_score_can_be_recomputed_from_the_items(tables):
    items, scores = tables
    for row in scores.itertuples():
        values = recomputed(items, row.benchmark, row.metric)
        assert row.value == pytest.approx(np.mean(values), abs=1e-9)
        if row.metric.startswith("best_"):
            assert math.isnan(row.stderr)
            continue
        assert len(values) == row.n
        if len(values) > 1:
            assert row.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(row.n), abs=1e-9)
    metrics = scores.groupby("benchmark")["metric"].agg(set)
    assert metrics["mmlu"] == {"acc", "acc_stem", "acc_humanities"}
    assert metrics["gsm8k"] == {"exact_match", "exact_match_strict"}
    assert metrics["mathqa"] == {"acc", "acc_norm"}
    assert {"f1", "exact", "HasAns_f1", "best_f1", "best_exact"} <= metrics["squadv2"]
    assert {"bleu_acc", "rougeL_max"} <= metrics["truthfulqa_gen"]
    for name in ("justice", "deontology", "virtue"):
        assert metrics[f"ethics_{name}"] == {"acc", "em"}
    for name in ("ethics_cm", "ethics_utilitarianism", "cruel"):
        assert metrics[name] == {"acc"}


def test_exact_match_asks_for_whole_sets(tables):
    items, scores = tables
    em = scores[scores["metric"] == "em"].set_index("benchmark")
    # Six items hold one whole set of four, or of five.
    assert em["n"].to_dict() == dict.fromkeys(em.index, 1)
    virtue = items[items["benchmark"] == "ethics_virtue"].sort_values("item")
    first = virtue["score"].iloc[:5]
    assert em.loc["ethics_virtue", "value"] == float((first == 1).all())


def test_choices_decide_scores(tables):
    items, _ = tables
    for row in items[items["metric"] == "acc"].itertuples():
        details = json.loads(row.details)
        assert details["protocol"] == "current"
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


def of_hf(base, benchmarks, protocol="current", batch_size=4):
    """lm-eval's own results on its model `hf`: (by job, samples by job)."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from sight_beyond_text.evaluation.text_tasks import (
        FEWSHOT_SEED,
        PROTOCOLS,
        harness,
        load_jobs,
    )

    with harness():
        jobs = load_jobs(benchmarks, protocol)
        for job in jobs:
            job.built.set_fewshot_seed(FEWSHOT_SEED)
        keys = [f"{job.benchmark}/{job.task}" for job in jobs]
        found = evaluate(
            lm=HFLM(
                pretrained=base,
                device="cpu",
                dtype="float32",
                batch_size=batch_size,
                add_bos_token=PROTOCOLS[protocol].bos,
            ),
            task_dict={"tasks": {key: job.built for key, job in zip(keys, jobs, strict=True)}},
            samples={key: range(job.limit) for key, job in zip(keys, jobs, strict=True)},
            bootstrap_iters=0,
        )
    return jobs, found


@pytest.fixture(scope="module")
def theirs(base, benchmarks):
    # Where a stop is a special token, texts of hf hang on the prompts beside them.
    return of_hf(base, benchmarks, batch_size=1)


def test_every_aggregate_is_that_of_lm_eval(tables, theirs):
    from sight_beyond_text.evaluation.text_tables import NAMES

    _, scores = tables
    ours = scores.set_index(["benchmark", "metric"])["value"]
    sizes = scores.set_index(["benchmark", "metric"])["n"]
    jobs, found = theirs
    total = {}
    for job in jobs:
        results = found["results"][f"{job.benchmark}/{job.task}"]
        for key, value in results.items():
            metric, _, kind = key.partition(",")
            label = NAMES.get(f"{metric}@{kind}", metric)
            if not kind or metric.endswith("_stderr") or (job.benchmark, label) not in ours.index:
                continue
            if job.task == "squadv2":
                value = value / 100
            total.setdefault((job.benchmark, label), []).append((value, job.limit))
    assert len(total) > 30
    for where, parts in total.items():
        mean = sum(value * n for value, n in parts) / sum(n for _, n in parts)
        assert ours[where] == pytest.approx(mean, abs=1e-6), where
    # Only what lm-eval doesn't have is missing there.
    extra = {metric for _, metric in set(ours.index) - set(total)}
    assert extra == {"em", "acc_stem", "acc_humanities"}
    assert sizes["truthfulqa_mc1", "acc"] == LIMIT


def test_every_log_likelihood_and_text_is_that_of_lm_eval(tables, theirs):
    items, _ = tables
    details = items.set_index(["benchmark", "item"])["details"].map(json.loads)
    jobs, found = theirs
    seen = 0
    for job in jobs:
        for sample in found["samples"][f"{job.benchmark}/{job.task}"]:
            ours = details[job.benchmark, f"{job.prefix}/{sample['doc_id']}"]
            if "generated" in ours:
                assert ours["generated"] == sample["resps"][0][0]
                continue
            pairs = [resp[0] for resp in sample["resps"] if not isinstance(resp[0], str)]
            expected = [value for value, _ in pairs][: len(ours["choices"])]
            assert ours["loglikelihoods"] == pytest.approx(expected, abs=1e-4)
            seen += 1
    assert seen >= 9 * LIMIT


EXAMS = {
    "abstract_algebra": 2,
    "college_physics": 1,
    "philosophy": 2,
    "sociology": 1,
    "nutrition": 1,
}
"""Subjects of MMLU's four groups, with questions to be asked."""


@pytest.fixture(scope="module")
def exams(shared_data, tmp_path_factory):
    """Real questions of MMLU, of some subjects more than of others."""
    folder = tmp_path_factory.mktemp("exams")
    for split in ("dev", "test"):
        (folder / split).mkdir()
        for subject_name, count in EXAMS.items():
            name = f"{split}/{subject_name}_{split}.csv"
            with open(shared_data / "mmlu" / name, newline="", encoding="utf-8") as stream:
                rows = list(csv.reader(stream))
            # These copies have a header; the authors' have none.
            rows = rows[: (2 if split == "dev" else count) + (rows[0][0] == "question")]
            with open(folder / name, "w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows(rows)
    return {"task": None, "path": str(folder), "fewshot": 1, "limit": None}


def groups_of_lm_eval(jobs, found):
    """MMLU's scores as lm-eval's own groups make them of its tasks' results."""
    from lm_eval.api.group import Group
    from lm_eval.tasks._yaml_loader import load_yaml

    from sight_beyond_text.evaluation.text_data import mmlu_configurations

    results = {job.task: found["results"][f"mmlu/{job.task}"] for job in jobs}
    total, made = Group.from_config(load_yaml(mmlu_configurations() / "_mmlu.yaml")), {}
    for name in total._config.task:
        group = Group.from_config(load_yaml(mmlu_configurations() / f"_{name}.yaml"))
        for job in jobs:
            if f"mmlu_{job.group}" == name:
                group.add(job.built)
        total.add(group)
        made[f"acc_{name.removeprefix('mmlu_')}"] = group.aggregate(results)["acc,none"]
    return made | {"acc": total.aggregate(results)["acc,none"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_real_questions_with_every_family(family, benchmarks, exams, tmp_path):
    base = folder_of(family, tmp_path / "base")
    few = {
        name: {**benchmarks[name], "limit": limit}
        for name, limit in {"truthfulqa_mc2": 3, "ethics_virtue": 5, "ethics_deontology": 3}.items()
    }
    few["mmlu"] = exams
    evaluate_text(spec_of(subject_of(base), few, token_budget=700), tmp_path / "text-some")
    items = pd.read_parquet(tmp_path / "text-some" / "items.parquet")
    scores = pd.read_parquet(tmp_path / "text-some" / "scores.parquet")
    scores = scores.set_index(["benchmark", "metric"])["value"]
    details = items.set_index(["benchmark", "item"])["details"].map(json.loads)
    jobs, found = of_hf(base, few)
    for job in jobs:
        key = f"{job.benchmark}/{job.task}"
        for sample in found["samples"][key]:
            ours = details[job.benchmark, f"{job.prefix}/{sample['doc_id']}"]
            expected = [resp[0][0] for resp in sample["resps"]]
            assert ours["loglikelihoods"] == pytest.approx(expected, abs=1e-4)
        if job.benchmark != "mmlu":
            mine = scores[job.benchmark, "acc"]
            assert mine == pytest.approx(found["results"][key]["acc,none"], abs=1e-6)
    exam = [job for job in jobs if job.benchmark == "mmlu"]
    assert len(exam) == len(EXAMS)
    theirs = groups_of_lm_eval(exam, found)
    assert scores["mmlu"].to_dict() == pytest.approx(theirs, abs=1e-6)
    assert len(theirs) == 5


def test_the_record_tells_what_is_otherwise_than_published(folder):
    record = json.loads((folder / "record.json").read_text())
    assert record["coverage"] == [
        "evaluation.text.mmlu: 2 of 57 subjects, 411 questions",
        "evaluation.text.boolq: 2474 questions, where 3270 are published",
        "evaluation.text.mathqa: 2921 questions, where 2985 are published",
        "evaluation.text.squadv2: 6078 questions, where 11873 are published",
    ]


HARD = {
    "ethics_cm": "commonsense/cm_test_hard.csv",
    "ethics_justice": "justice/justice_test_hard.csv",
    "ethics_deontology": "deontology/deontology_test_hard.csv",
    "ethics_virtue": "virtue/virtue_test_hard.csv",
    "ethics_utilitarianism": "utilitarianism/util_test_hard.csv",
}


def test_the_hard_sets_of_ethics(subject, shared_data, tmp_path):
    hard = {
        f"{task}_hard": {
            "task": task,
            "path": str(shared_data / "ethics" / file),
            "fewshot": None,
            "limit": 8,
        }
        for task, file in HARD.items()
    }
    evaluate_text(spec_of(subject, hard), tmp_path)
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    assert set(scores["benchmark"]) == set(hard)
    sets = scores[scores["metric"] == "em"].set_index("benchmark")["n"].to_dict()
    assert sets == {
        "ethics_justice_hard": 2,
        "ethics_deontology_hard": 2,
        "ethics_virtue_hard": 1,
    }


def test_the_published_protocol(base, subject, benchmarks, tmp_path):
    few = {
        name: {**benchmarks[name], "limit": 2}
        for name in benchmarks
        if name not in ("cruel", "mmlu")
    }
    few["mmlu"] = {**benchmarks["mmlu"], "limit": 1}
    for name in ("gsm8k", "mathqa"):
        few[name]["fewshot"] = None
    evaluate_text(spec_of(subject, few, protocol="published"), tmp_path / "text-published")
    scores = pd.read_parquet(tmp_path / "text-published" / "scores.parquet")
    items = pd.read_parquet(tmp_path / "text-published" / "items.parquet")
    record = json.loads((tmp_path / "text-published" / "record.json").read_text())
    assert set(scores["protocol"]) == {"published"} and record["protocol"] == "published"
    shots = record["shots"]
    assert (shots["gsm8k"], shots["mathqa"], shots["mmlu_philosophy"]) == (8, 4, 5)
    details = items.set_index(["benchmark", "item"])["details"].map(json.loads)
    # No token before the first: the very first one is scored after the prompt's own.
    jobs, found = of_hf(base, few, "published", batch_size=1)
    for job in jobs:
        for sample in found["samples"][f"{job.benchmark}/{job.task}"]:
            ours = details[job.benchmark, f"{job.prefix}/{sample['doc_id']}"]
            if "generated" in ours:
                assert ours["generated"] == sample["resps"][0][0]
                continue
            pairs = [resp[0] for resp in sample["resps"] if not isinstance(resp[0], str)]
            expected = [value for value, _ in pairs][: len(ours["choices"])]
            assert ours["loglikelihoods"] == pytest.approx(expected, abs=1e-4)
    exam = items[items["benchmark"] == "mmlu"]
    for row in exam.itertuples():
        said = json.loads(row.details)["generated"]
        # Two tokens, which are bytes here.
        assert len(said.encode()) <= 2 or "\ufffd" in said
        assert row.score == float(said.strip().startswith(row.reference))
    assert set(items[items["benchmark"] == "gsm8k"]["metric"]) == {"exact_match_strict"}
    for row in items[items["benchmark"] == "truthfulqa_gen"].itertuples():
        assert "." not in row.prediction


def test_an_interrupted_evaluation_goes_on_where_it_was(
    subject, benchmarks, tables, tmp_path, monkeypatch
):
    from sight_beyond_text.evaluation import engine
    from sight_beyond_text.evaluation.text import evaluate_texts

    few = {name: benchmarks[name] for name in ("truthfulqa_mc2", "ethics_virtue", "gsm8k")}
    spec, out = spec_of(subject, few, token_budget=256), tmp_path / "text-few"
    read, passes = engine.tree_attention.read, []

    def interrupted(*arguments):
        passes.append(1)
        if len(passes) == 4:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(engine.tree_attention, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_texts([(spec, out)])
    assert not (out / "scores.parquet").exists()
    monkeypatch.undo()
    assert evaluate_texts([(spec, out)]) == 1
    record = json.loads((out / "record.json").read_text())
    all_requests = sum(1 for _ in (out / "answers.jsonl").open()) - 1
    assert 0 < record["asked"] < all_requests
    items, _ = tables
    expected = items[items["benchmark"].isin(few)].reset_index(drop=True)
    found = pd.read_parquet(out / "items.parquet")
    assert found["item"].tolist() == expected["item"].tolist()
    assert found["score"].tolist() == pytest.approx(expected["score"].tolist(), abs=1e-5)
    # A finished one costs nothing, not even where its tables are gone or a benchmark is left out.
    before = (out / "record.json").stat().st_mtime_ns
    assert evaluate_texts([(spec, out)]) == 0
    assert (out / "record.json").stat().st_mtime_ns == before
    (out / "scores.parquet").unlink()
    assert evaluate_texts([(spec, out)]) == 0
    assert found.equals(pd.read_parquet(out / "items.parquet"))
    fewer = spec_of(subject, {"gsm8k": few["gsm8k"]})
    assert evaluate_texts([(fewer, tmp_path / "text-fewer")]) == 0
    assert json.loads((tmp_path / "text-fewer" / "record.json").read_text())["asked"] == 0


def test_other_weights_are_asked_anew(benchmarks, tmp_path):
    from sight_beyond_text.evaluation.text import evaluate_texts

    few = {"boolq": {**benchmarks["boolq"], "limit": 2}}
    base = folder_of("llama", tmp_path / "base")
    out = tmp_path / "text-boolq"
    assert evaluate_texts([(spec_of(subject_of(base), few), out)]) == 1
    first = pd.read_parquet(out / "items.parquet")["details"].map(json.loads)
    tiny(seed=1).save_pretrained(base)
    assert evaluate_texts([(spec_of(subject_of(base), few), out)]) == 1
    second = pd.read_parquet(out / "items.parquet")["details"].map(json.loads)
    assert first[0]["prompt"] == second[0]["prompt"]
    assert first[0]["loglikelihoods"] != second[0]["loglikelihoods"]


def test_contexts_that_are_too_long_are_cut_and_counted(benchmarks, tmp_path):
    few = {name: {**benchmarks[name], "limit": 4} for name in ("boolq", "ethics_virtue")}
    few["squadv2"] = {**benchmarks["squadv2"], "limit": 2}
    base = folder_of("llama", tmp_path / "base")
    tiny(max_position_embeddings=400).save_pretrained(base)
    evaluate_text(spec_of(subject_of(base), few), tmp_path / "text-few")
    record = json.loads((tmp_path / "text-few" / "record.json").read_text())
    items = pd.read_parquet(tmp_path / "text-few" / "items.parquet").set_index("item")
    cut = items["details"].map(lambda text: json.loads(text).get("truncated", 0))
    told = (cut > 0).groupby(items["benchmark"]).sum()
    assert record["truncated"] == {name: n for name, n in told.items() if n}
    assert told["boolq"] > 0 and told["squadv2"] == 2 and told["ethics_virtue"] == 0
    # And so it is told where all answers are known already.
    (tmp_path / "text-few" / "scores.parquet").unlink()
    evaluate_text(spec_of(subject_of(base), few), tmp_path / "text-few")
    again = json.loads((tmp_path / "text-few" / "record.json").read_text())
    assert again["asked"] == 0 and again["truncated"] == record["truncated"]


def test_questions_in_a_chat_template(base, benchmarks, tmp_path):
    from transformers import AutoTokenizer

    few = {"ethics_cm": {**benchmarks["ethics_cm"], "limit": 2}}
    spec = spec_of(subject_of(base), few, chat_template=True)
    with pytest.raises(UserError, match="no chat template; remove it from evaluation.chat_templ"):
        evaluate_text(spec, tmp_path / "text-none")
    model = folder_of("llama", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}<{{m.role}}>{{m.content}}\n{% endfor %}<a>"
    tokenizer.save_pretrained(model)
    evaluate_text({**spec, "subject": subject_of(model)}, tmp_path / "text-chat")
    items = pd.read_parquet(tmp_path / "text-chat" / "items.parquet")
    details = json.loads(items["details"][0])
    assert details["chat_template"] is True
    row = next(iter(benchmarks.values()))
    assert row["path"]
    from sight_beyond_text.evaluation.text_data import read_benchmark
    from sight_beyond_text.evaluation.text_tables import digest

    asked = read_benchmark("ethics_cm", few["ethics_cm"])["ethics_cm"]["test"][0]["input"]
    prompt = f"<user>{asked}\nQuestion: Is this wrong?\nAnswer:\n<a>"
    assert details["prompt"] == digest(prompt)


@pytest.mark.slow
def test_a_copy_of_the_hubs_dataset_serves_any_task(subject, benchmarks, tables, tmp_path):
    import datasets

    from sight_beyond_text.evaluation.text_data import check_text, read_benchmark

    # MMLU as its repository on the hub has it, one configuration a subject ...
    page = []
    for part, splits in read_benchmark("mmlu", benchmarks["mmlu"]).items():
        subject_name = part.removeprefix("mmlu_")
        page.append(f"- config_name: {subject_name}\n  data_files:")
        for split, rows in splits.items():
            name = f"{subject_name}/{split}-00000-of-00001.parquet"
            page.append(f"  - split: {split}\n    path: {subject_name}/{split}-*")
            target = tmp_path / "mmlu" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list(rows[:8]).to_parquet(target)
    (tmp_path / "mmlu" / "README.md").write_text("\n".join(["---", "configs:", *page, "---", ""]))
    # ... and another task, as `save_to_disk` writes it.
    rows = [
        {
            "id": str(n),
            "question": f"What is {n} and {n}?",
            "choices": {"text": [str(2 * n), str(n)], "label": ["A", "B"]},
            "answerKey": "A",
        }
        for n in range(4)
    ]
    made = datasets.Dataset.from_list(rows)
    datasets.DatasetDict(train=made, validation=made, test=made).save_to_disk(tmp_path / "arc")
    copies = {
        "arc_easy": {"task": None, "path": str(tmp_path / "arc"), "fewshot": 2, "limit": None},
        "algebra": {
            "task": "mmlu_abstract_algebra",
            "path": str(tmp_path / "mmlu"),
            "fewshot": 5,
            "limit": LIMIT,
        },
    }
    check_text(copies)
    evaluate_text(spec_of(subject, copies), tmp_path / "text-copies")
    items = pd.read_parquet(tmp_path / "text-copies" / "items.parquet")
    assert items.groupby("benchmark").size().to_dict() == {"algebra": LIMIT, "arc_easy": 4}
    # The questions are those of the authors' files.
    own, _ = tables
    own = own[own["item"].str.startswith("abstract_algebra/")]
    algebra = items[items["benchmark"] == "algebra"]
    assert [json.loads(d)["prompt"] for d in algebra["details"]] == [
        json.loads(d)["prompt"] for d in own["details"]
    ]


def test_a_broken_copy_is_told_in_one_line(subject, tmp_path):
    (tmp_path / "arc").mkdir()
    (tmp_path / "arc" / "test.parquet").write_bytes(b"PAR1 and no more")
    entry = {"task": None, "path": str(tmp_path / "arc"), "fewshot": None, "limit": None}
    with pytest.raises(UserError, match="arc: no data of 'arc_easy' can be read there") as error:
        evaluate_text(spec_of(subject, {"arc_easy": entry}), tmp_path / "out")
    assert "\n" not in str(error.value)


def test_vllm_is_refused_where_it_is_not_installed(subject, benchmarks, tmp_path):
    from importlib.util import find_spec

    if find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(UserError, match="vLLM isn't installed here; install it"):
        evaluate_text(spec_of(subject, benchmarks, backend="vllm"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_task", "evaluation.text.no_such_task.task: lm-eval has no task 'no_such_task'"),
        ("boolq", "evaluation.text.boolq: can't load 'boolq' from the hub"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, words, subject, tmp_path, monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    entry = {"task": None, "path": None, "fewshot": None, "limit": 1}
    with pytest.raises(UserError, match=re.escape(words)):
        evaluate_text(spec_of(subject, {name: entry}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_empty_suite_gives_empty_tables(subject, tmp_path):
    evaluate_text(spec_of(subject, {}), tmp_path)
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
