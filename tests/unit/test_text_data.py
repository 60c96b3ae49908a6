"""Local files of the text benchmarks: the layouts that are read, and the words for broken ones."""

import json
import subprocess
import sys

import pytest

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.text_data import check_text, read_benchmark


def entry(path, **changes):
    return {"task": None, "path": str(path), "fewshot": None, "limit": None, **changes}


def write(folder, files):
    for name, text in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="")
    return folder


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


TRUTH = [
    {
        "question": "Q?",
        "mc1_targets": {"wrong": 0, "right": 1},
        "mc2_targets": {"right": 1, "also": 1, "wrong": 0},
    }
]
SUM = {"question": "1 + 1?", "answer": "Two.\n#### 2"}
EXAM = '"What, then?",a,b,c,"d, or e",D\n'


def test_truthfulqa_puts_the_right_choice_first(tmp_path):
    for name in ("data/mc_task.json", "mc_task.json"):
        folder = write(tmp_path / name.replace("/", "_"), {name: json.dumps(TRUTH)})
        (row,) = read_benchmark("truthfulqa_mc1", entry(folder))["truthfulqa_mc1"]["validation"]
        assert row["mc1_targets"] == {"choices": ["right", "wrong"], "labels": [1, 0]}
        assert row["mc2_targets"]["labels"] == [1, 1, 0]


ETHICS = {
    "ethics_cm": (
        "commonsense/cm_test.csv",
        'label,input,is_short,edited\n1,"I said\nno.",True,False\n',
        {"label": 1, "input": "I said\nno."},
    ),
    "ethics_justice": (
        "justice/justice_test.csv",
        "label,scenario\n0,It is fair.\n",
        {"label": 0, "scenario": "It is fair."},
    ),
    "ethics_deontology": (
        "deontology/deontology_test.csv",
        "label,scenario,excuse\n1,Why?,Because.\n",
        {"label": 1, "scenario": "Why?", "excuse": "Because."},
    ),
    "ethics_virtue": (
        "virtue/virtue_test.csv",
        "label,scenario\n0,Ann sang. [SEP] shy\n",
        {"label": 0, "scenario": "Ann sang.", "trait": "shy"},
    ),
    "ethics_utilitarianism": (
        "utilitarianism/util_test.csv",
        "I won.,I lost.\n",
        {"activity": "I won.", "baseline": "I lost."},
    ),
}


@pytest.mark.parametrize("task", ETHICS)
def test_ethics(task, tmp_path):
    name, text, row = ETHICS[task]
    write(tmp_path, {name: text})
    expected = {task: {"train": [], "test": [row]}}
    assert read_benchmark(task, entry(tmp_path)) == expected
    assert read_benchmark("hard", entry(tmp_path / name, task=task)) == expected


@pytest.mark.parametrize(
    "text",
    [EXAM, 'question,choice0,choice1,choice2,choice3,answer\n"What, then?",a,b,c,"d, or e",3\n'],
)
def test_mmlu_in_both_layouts(text, tmp_path):
    write(tmp_path, {"test/anatomy_test.csv": text, "dev/anatomy_dev.csv": text})
    row = {"question": "What, then?", "choices": ["a", "b", "c", "d, or e"], "answer": 3}
    assert read_benchmark("mmlu", entry(tmp_path, fewshot=1)) == {
        "mmlu_anatomy": {"dev": [row], "test": [row]}
    }


def test_mmlu_reads_the_subjects_that_are_there(tmp_path):
    write(tmp_path, {f"test/{name}_test.csv": EXAM for name in ("virology", "anatomy")})
    assert list(read_benchmark("mmlu", entry(tmp_path, fewshot=0))) == [
        "mmlu_anatomy",
        "mmlu_virology",
    ]


def test_gsm8k_takes_its_examples_from_a_short_train_file_too(tmp_path):
    write(tmp_path, {"test.jsonl": lines(SUM), "train_first64.jsonl": lines(*[SUM] * 5)})
    splits = read_benchmark("gsm8k", entry(tmp_path))["gsm8k"]
    assert splits == {"train": [SUM] * 5, "test": [SUM]}


def test_squad_in_the_official_schema(tmp_path):
    answer = {"text": "France", "answer_start": 15}
    asked = [
        {"id": "1", "question": "Where?", "answers": [answer, answer], "is_impossible": False},
        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    article = {
        "title": "Normans",
        "paragraphs": [{"context": "Normandy is in France.", "qas": asked}],
    }
    write(tmp_path, {"dev-v2.0.json": json.dumps({"version": "v2.0", "data": [article]})})
    first, second = read_benchmark("squadv2", entry(tmp_path))["squadv2"]["validation"]
    assert first == {
        "id": "1",
        "title": "Normans",
        "context": "Normandy is in France.",
        "question": "Where?",
        "answers": {"text": ["France", "France"], "answer_start": [15, 15]},
    }
    assert second["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize("name", ["boolq.jsonl", "val.jsonl", "dev.jsonl"])
def test_boolq(name, tmp_path):
    rows = [
        {"question": "is it", "answer": True, "passage": "It is."},
        {"question": "is it", "label": False, "passage": "Title -- It isn't."},
        {"question": "is it", "answer": False, "passage": "It isn't.", "title": "Title"},
    ]
    write(tmp_path, {name: lines(*rows)})
    found = read_benchmark("boolq", entry(tmp_path))["boolq"]["validation"]
    assert [row["label"] for row in found] == [1, 0, 0]
    assert found[1] == found[2]


HEADER = "question,choice0,choice1,choice2,choice3,answer\n"

BROKEN = {
    "no folder": ("boolq", {}, "nowhere: no such file or folder (evaluation.text.boolq.path)"),
    "no file": (
        "boolq",
        {"nowhere/other.txt": ""},
        "boolq.jsonl: no such file (or val.jsonl, dev.jsonl); check evaluation.text.boolq.path",
    ),
    "no column": (
        "ethics_justice",
        {"nowhere/justice/justice_test.csv": "label,text\n1,a\n"},
        "justice_test.csv:1: ETHICS justice: lacks the column 'scenario'",
    ),
    "no key": (
        "boolq",
        {"nowhere/val.jsonl": lines({"question": "is it", "answer": True})},
        "val.jsonl: BoolQ: question 1 lacks 'passage'",
    ),
    "cut json": (
        "truthfulqa_mc2",
        {"nowhere/mc_task.json": json.dumps(TRUTH, indent=1)[:60]},
        "mc_task.json:",
    ),
    "cut line": (
        "gsm8k",
        {"nowhere/test.jsonl": lines(SUM, SUM)[:-20]},
        "test.jsonl:2: GSM8K: broken JSON",
    ),
    "cut row": (
        "ethics_cm",
        {"nowhere/commonsense/cm_test.csv": 'label,input\n1,a\n0,"b\nc\n'},
        "cm_test.csv:3: ETHICS commonsense: broken CSV",
    ),
    "short row": (
        "ethics_deontology",
        {"nowhere/deontology/deontology_test.csv": "label,scenario,excuse\n1,Why?\n"},
        "deontology_test.csv:2: ETHICS deontology: 2 fields instead of 3",
    ),
    "label": (
        "ethics_virtue",
        {"nowhere/virtue/virtue_test.csv": "label,scenario\nyes,A. [SEP] b\n"},
        "virtue_test.csv:2: ETHICS virtue: label 'yes' is neither 0 nor 1",
    ),
    "no trait": (
        "ethics_virtue",
        {"nowhere/virtue/virtue_test.csv": "label,scenario\n1,A. b\n"},
        "virtue_test.csv:2: ETHICS virtue: no ' [SEP] '",
    ),
    "header only": (
        "ethics_justice",
        {"nowhere/justice/justice_test.csv": "label,scenario\n"},
        "a header without rows",
    ),
    "empty": ("ethics_utilitarianism", {"nowhere/utilitarianism/util_test.csv": ""}, "no rows"),
    "answer": (
        "mmlu",
        {
            "nowhere/test/anatomy_test.csv": EXAM + "Q,a,b,c,d,E\n",
            "nowhere/dev/anatomy_dev.csv": EXAM * 5,
        },
        "anatomy_test.csv:2: MMLU: answer 'E' is none of A, B, C, D",
    ),
    "no subject": (
        "mmlu",
        {"nowhere/test/astrology_test.csv": "Q,a,b,c,d,A\n"},
        "'astrology' is no subject of MMLU",
    ),
    "no dev": (
        "mmlu",
        {"nowhere/test/anatomy_test.csv": "Q,a,b,c,d,A\n"},
        "dev/anatomy_dev.csv: no such file",
    ),
    "few shots": (
        "gsm8k",
        {"nowhere/test.jsonl": lines(SUM), "nowhere/train.jsonl": lines(SUM)},
        "train.jsonl: 1 rows are too few for 5 shots; lower evaluation.text.gsm8k.fewshot",
    ),
    "no result": (
        "gsm8k",
        {"nowhere/test.jsonl": lines({"question": "1 + 1?", "answer": "2"})},
        "question 1: no '#### '",
    ),
    "no choice": (
        "truthfulqa_mc1",
        {"nowhere/mc_task.json": json.dumps([{**TRUTH[0], "mc1_targets": {"a": 0}}])},
        "question 1: mc1_targets needs choices",
    ),
    "no exam": (
        "mmlu",
        {f"nowhere/{part}/anatomy_{part}.csv": HEADER for part in ("dev", "test")},
        "anatomy_dev.csv: MMLU: a header without rows",
    ),
    "no copy": ("arc_easy", {"nowhere/a.txt": ""}, "nowhere: no copy of 'arc_easy''s dataset"),
    "a file": ("arc_easy", {"nowhere": ""}, "nowhere: no copy of 'arc_easy''s dataset"),
    "no questions": (
        "squadv2",
        {"nowhere/dev-v2.0.json": json.dumps({"data": [{"title": "T"}]})},
        "dev-v2.0.json: SQuAD 2.0: question 1 lacks 'paragraphs'",
    ),
    "no text": (
        "squadv2",
        {"nowhere/dev-v2.0.json": json.dumps({"data": [{"title": "T", "paragraphs": [{}]}]})},
        "dev-v2.0.json: SQuAD 2.0: expected a list of questions",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_told_in_one_line(case, tmp_path):
    name, files, words = BROKEN[case]
    write(tmp_path, files)
    with pytest.raises(UserError) as error:
        check_text({name: entry(tmp_path / "nowhere")})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_shots_where_they_are_built_in(tmp_path):
    write(tmp_path, {"mc_task.json": json.dumps(TRUTH)})
    with pytest.raises(UserError, match="evaluation.text.truthfulqa_mc1.fewshot"):
        check_text({"truthfulqa_mc1": entry(tmp_path, fewshot=5)})


def test_benchmarks_of_the_hub_are_not_checked():
    check_text({"arc_easy": entry("") | {"path": None}})


def test_checking_is_light():
    script = (
        "import sys, sight_beyond_text.evaluation.text_data as d; d.check_text({});"
        "d.mmlu_configurations();"
        "assert not {'torch', 'lm_eval', 'datasets', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
