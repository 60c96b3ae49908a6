"""`sight score` on files as anybody may have them, whole and broken."""

import gzip
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sight_beyond_text.cli import app
from sight_beyond_text.evaluation.scorers import mme


@pytest.fixture(autouse=True)
def no_java(tmp_path_factory, monkeypatch):
    """METEOR takes half a minute, whatever it is asked."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("bin")))


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def run(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def scored(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr


# pope


QUESTIONS = [
    {"question_id": n, "image": "a.jpg", "text": f"Is {n} there?", "label": label}
    for n, label in enumerate(["yes", "yes", "no", "no"], 1)
]
# (answer, as the official rule reads it once the stop string is off, as it was published)
AWKWARD = [
    ("No###", "no", "yes"),
    ("Not sure.", "yes", "yes"),
    ("no, but yes", "no", "no"),
    ("", "yes", "yes"),
]


@pytest.fixture
def asked(tmp_path):
    return write(tmp_path / "coco_pope_random.json", lines(QUESTIONS))


@pytest.mark.parametrize("key", ["answer", "text"])
def test_pope(tmp_path, asked, key):
    rows = [{"question_id": n, key: said} for n, (said, _, _) in enumerate(AWKWARD, 1)]
    made = scored(
        "pope", "--predictions", write(tmp_path / "p.jsonl", lines(rows)), "--references", asked
    )
    # Labels yes, yes, no, no; read as no, yes, no, yes; published: yes, yes, no, yes.
    assert made == {
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "yes_ratio": 0.5,
        "published": {
            "accuracy": 0.75,
            "precision": pytest.approx(2 / 3),
            "recall": 1.0,
            "f1": pytest.approx(0.8),
            "yes_ratio": 0.75,
        },
        "n": 4,
        "unknown_predictions": 0,
    }


def test_pope_as_a_table(tmp_path, asked):
    rows = [{"question_id": n, "answer": said} for n, (said, _, _) in enumerate(AWKWARD, 1)]
    predictions = write(tmp_path / "p.jsonl", lines(rows))
    result = run("pope", "--predictions", predictions, "--references", asked)
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["official", "published"],
        ["accuracy", "0.5000", "0.7500"],
        ["precision", "0.5000", "0.6667"],
        ["recall", "0.5000", "1.0000"],
        ["f1", "0.5000", "0.8000"],
        ["yes_ratio", "0.5000", "0.7500"],
        ["n", "4"],
        ["unknown_predictions", "0"],
    ]


def test_pope_in_its_own_format_answers_in_order(tmp_path, asked):
    rows = [{"question": f"is {n} there?", "answer": "no"} for n in range(1, 5)]
    predictions = write(tmp_path / "p.json", lines(rows))
    assert scored("pope", "--predictions", predictions, "--references", asked)["yes_ratio"] == 0
    write(tmp_path / "p.json", lines(reversed(rows)))
    told = refused("pope", "--predictions", predictions, "--references", asked)
    assert "answer 1 is to 'is 4 there?', not to 'Is 1 there?'" in told
    write(tmp_path / "p.json", lines(rows[:3]))
    told = refused("pope", "--predictions", predictions, "--references", asked)
    assert "3 answers without question_id to 4 questions" in told


def test_pope_in_folders(tmp_path):
    said = {"random": "yes", "popular": "no", "adversarial": "yes"}
    for split, answer in said.items():
        write(tmp_path / "asked" / f"coco_pope_{split}.json", lines(QUESTIONS))
        rows = [{"question_id": n, "answer": answer} for n in range(1, 5)]
        name = "coco_pope_random" if split == "random" else f"my_{split}_answers"
        write(tmp_path / "said" / f"{name}.jsonl", lines(rows))
    made = scored("pope", "--predictions", tmp_path / "said", "--references", tmp_path / "asked")
    assert {split: value["yes_ratio"] for split, value in made.items()} == {
        "random": 1,
        "popular": 0,
        "adversarial": 1,
    }
    table = run(
        "pope", "--predictions", tmp_path / "said", "--references", tmp_path / "asked"
    ).stdout
    assert table.count("accuracy") == 3 and "popular\n" in table
    one = tmp_path / "asked" / "coco_pope_popular.json"
    assert scored("pope", "--predictions", tmp_path / "said", "--references", one).keys() == {
        "popular"
    }
    (tmp_path / "said" / "my_popular_answers.jsonl").unlink()
    told = refused("pope", "--predictions", tmp_path / "said", "--references", tmp_path / "asked")
    assert "0 files for coco_pope_popular.json; name one popular.jsonl" in told
    told = refused("pope", "--predictions", one, "--references", tmp_path / "asked")
    assert "no folder, but --references is one" in told


def test_pope_of_several_sources_in_one_folder(tmp_path):
    for source, answer in (("coco", "yes"), ("gqa", "no")):
        rows = [{"question_id": n, "answer": answer} for n in range(1, 5)]
        write(tmp_path / "asked" / f"{source}_pope_random.json", lines(QUESTIONS))
        write(tmp_path / "said" / f"{source}_pope_random.jsonl", lines(rows))
    given = ("--predictions", tmp_path / "said", "--references", tmp_path / "asked")
    made = scored("pope", *given)
    assert {name: value["yes_ratio"] for name, value in made.items()} == {
        "coco_pope_random": 1,
        "gqa_pope_random": 0,
    }
    # Of which source the one file is can't be told.
    (tmp_path / "said" / "coco_pope_random.jsonl").unlink()
    (tmp_path / "said" / "gqa_pope_random.jsonl").rename(tmp_path / "said" / "random.jsonl")
    assert "0 files for coco_pope_random.json; name one coco_pope_random.jsonl" in refused(
        "pope", *given
    )
    write(tmp_path / "asked" / "coco_pope_random.jsonl", lines(QUESTIONS))
    write(tmp_path / "said" / "coco_pope_random.jsonl", lines(answers(1, 2, 3, 4)))
    assert "two files for coco_pope_random.jsonl" in refused("pope", *given)


def test_gzipped_pope(tmp_path):
    write(tmp_path / "asked" / "coco_pope_random.json.gz", lines(QUESTIONS))
    write(tmp_path / "said" / "random.jsonl.gz", lines(answers(1, 2, 3, 4)))
    made = scored("pope", "--predictions", tmp_path / "said", "--references", tmp_path / "asked")
    assert made["random"]["accuracy"] == 0.5


def answers(*ids):
    return [{"question_id": n, "answer": "no"} for n in ids]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (answers(1, 2, 3), "no prediction for 1 of 4 question_ids (4)"),
        (answers(1, 2, 3, 4, 4), "1 question_ids have more than one prediction (4)"),
        (answers(1, 2, 3, 4, "4"), "1 question_ids have more than one prediction (4)"),
        ([*answers(1, 2, 3), {"question_id": 4}], "question_id 4: answer or text is missing"),
        ([*answers(1, 2, 3), {"question_id": 4, "answer": 0}], "question_id 4: answer or text is"),
        ([*answers(1, 2, 3), {"answer": "no"}], "row 4: question_id is missing"),
        ([], "no prediction for 4 of 4 question_ids"),
    ],
)
def test_predictions_that_are_missing_or_double_are_refused(tmp_path, asked, rows, told):
    predictions = write(tmp_path / "p.jsonl", lines(rows))
    assert told in refused("pope", "--predictions", predictions, "--references", asked)


def test_unknown_predictions_are_counted_and_named(tmp_path, asked):
    predictions = write(tmp_path / "p.jsonl", lines(answers(1, 2, "3", 4, 77, 78)))
    result = run("pope", "--predictions", predictions, "--references", asked, "--json")
    made = json.loads(result.stdout)
    assert made["n"] == 4 and made["unknown_predictions"] == 2
    assert result.stderr == "2 prediction(s) left aside, as nothing asks for them: 77, 78\n"


def test_broken_files_are_named(tmp_path, asked):
    nowhere = tmp_path / "nowhere.jsonl"
    assert "nowhere.jsonl: no such file" in refused(
        "pope", "--predictions", nowhere, "--references", asked
    )
    broken = write(tmp_path / "p.jsonl", lines(answers(1, 2)) + '{"question_id": 3, "ans')
    assert "p.jsonl:3: POPE answers: broken JSON" in refused(
        "pope", "--predictions", broken, "--references", asked
    )


# mme


def mme_files(folder, answer, columns=4, subtasks=mme.SUBTASKS):
    for subtask in subtasks:
        rows = []
        for image in (1, 2):
            for text, label in (("Is it?", "Yes"), ("Is it not?", "No")):
                row = [f"{image}.jpg", text, label]
                rows.append(row + [answer(subtask, image, label)] if columns == 4 else row)
        write(folder / f"{subtask}.txt", "".join("\t".join(row) + "\n" for row in rows))
    return folder


def mostly_right(subtask, image, label):
    if subtask == "existence" and image == 1:
        return f" {label.lower()} it is###"
    if subtask == "count" and image == 2:
        return "unsure" if label == "Yes" else "No, not at all."
    if subtask == "OCR":
        return "Yes."
    if subtask == "posters":
        return f"   {label}"  # too far in for the official rule
    return label


def test_mme(tmp_path):
    made = scored("mme", "--predictions", mme_files(tmp_path / "said", mostly_right))
    expected = {name: 200.0 for name in mme.SUBTASKS} | {
        "count": 125.0,
        "OCR": 50.0,
        "posters": 0.0,
    }
    assert {name: made[name] for name in mme.SUBTASKS} == expected
    assert made["Perception"] == 6 * 200 + 125 + 50 + 200 and made["Cognition"] == 800
    assert made["acc"]["count"] == 0.75 and made["acc_plus"]["count"] == 0.5
    assert made["other_num"] == {name: 0 for name in mme.SUBTASKS} | {"count": 1, "posters": 4}
    # Published: answers stripped, and no landmark, no artwork.
    assert made["published"]["Perception"] == 5 * 200 + 125 + 50 + 200
    assert made["published"]["posters"] == 200 and "artwork" not in made["published"]
    assert made["n"] == 14 * 4


def test_mme_against_the_blank_files(tmp_path):
    said = mme_files(tmp_path / "said", mostly_right)
    blank = mme_files(tmp_path / "blank", None, columns=3)
    own = scored("mme", "--predictions", said)
    for subtask in ("count", "scene"):  # the order of questions doesn't matter
        path = said / f"{subtask}.txt"
        write(path, "".join(reversed(path.read_text().splitlines(keepends=True))))
    assert scored("mme", "--predictions", said, "--references", blank) == own


def test_mme_without_some_subtasks(tmp_path):
    subtasks = [name for name in mme.SUBTASKS if name not in mme.NOT_PUBLISHED]
    said = mme_files(tmp_path / "said", mostly_right, subtasks=subtasks)
    assert "no file of 2 of 14 MME subtasks (landmark, artwork)" in refused(
        "mme", "--predictions", said
    )
    made = scored("mme", "--predictions", said, "--without", "landmark", "--without", "artwork")
    assert made["Perception"] == 4 * 200 + 125 + 50 + 200
    assert "no subtask 'art'" in refused("mme", "--predictions", said, "--without", "art")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.pop(), "no prediction for 1 of 56 question_ids (color/2.jpg/2)"),
        (lambda rows: rows.append(rows[0]), "color.txt:5: 1.jpg: 'Is it?' has two answers"),
        (
            lambda rows: rows.__setitem__(0, rows[0].replace("\tYes\t", "\tNo\t")),
            "color.txt:1: 1.jpg: 'Is it?': the third column says 'No', the benchmark 'yes'",
        ),
        (lambda rows: rows.__setitem__(1, "and more\n"), "color.txt:2: 1 columns, MME has 4 here"),
        (lambda rows: rows.__setitem__(1, rows[1].strip() + "\tx\n"), "color.txt:2: 5 columns"),
        (
            lambda rows: rows.__setitem__(slice(None), [r.rsplit("\t", 1)[0] + "\n" for r in rows]),
            "color.txt: no answers in the fourth column; is this the blank file?",
        ),
    ],
)
def test_mme_refuses_what_it_cannot_match(tmp_path, change, told):
    said = mme_files(tmp_path / "said", mostly_right)
    blank = mme_files(tmp_path / "blank", None, columns=3)
    rows = (said / "color.txt").read_text().splitlines(keepends=True)
    change(rows)
    write(said / "color.txt", "".join(rows))
    assert told in refused("mme", "--predictions", said, "--references", blank)


def test_mme_empty_and_unknown_answers_are_counted(tmp_path):
    said = mme_files(tmp_path / "said", mostly_right)
    blank = mme_files(tmp_path / "blank", None, columns=3)
    rows = (said / "color.txt").read_text().splitlines()
    rows[0] = rows[0].rsplit("\t", 1)[0]  # an editor took the tab before an empty answer
    rows.append("3.jpg\tIs it?\tYes\tYes")
    write(said / "color.txt", "\n".join(rows))
    result = run("mme", "--predictions", said, "--references", blank, "--json")
    made = json.loads(result.stdout)
    assert made["other_num"]["color"] == 1 and made["color"] == 75 + 50
    assert made["unknown_predictions"] == 1 and "color.txt:5" in result.stderr


# vqa


def annotations(*rows):
    return {
        "annotations": [
            {
                "question_id": n,
                "image_id": 5,
                "question_type": f"type {n % 2}",
                "answer_type": kind,
                "answers": [{"answer": text, "answer_id": i} for i, text in enumerate(said, 1)],
            }
            for n, kind, said in rows
        ]
    }


TEN = annotations(
    (1, "yes/no", ["yes"] * 10),
    (2, "yes/no", ["yes"] * 9 + ["no"]),
    (3, "other", ["snow"] * 9 + ["ice"]),
    (4, "number", ["2"] * 8 + ["3"] * 2),
)
SAID = [
    {"question_id": 1, "answer": "yes"},
    {"question_id": 2, "answer": "Yes"},
    {"question_id": 3, "answer": "snow"},
    {"question_id": 4, "answer": "3"},
]


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_vqa(tmp_path, suffix):
    references = write(tmp_path / f"a{suffix}", TEN)
    made = scored(
        "vqa", "--predictions", write(tmp_path / "p.json", SAID), "--references", references
    )
    assert made == {
        "overall": 90.0,
        "perQuestionType": {"type 0": 80.0, "type 1": 100.0},
        "perAnswerType": {"number": 60.0, "other": 100.0, "yes/no": 100.0},
        # A unanimous "yes" is lost to its capital, "snow" to the "no" in it.
        "published": {
            "overall": 40.0,
            "perQuestionType": {"type 0": 80.0, "type 1": 0.0},
            "perAnswerType": {"number": 60.0, "other": 0.0, "yes/no": 50.0},
        },
        "n": 4,
        "unknown_predictions": 0,
    }


def test_vqa_of_some_questions(tmp_path):
    references = write(tmp_path / "a.json", TEN)
    rows = [{"question_id": n, "image_id": 5, "question": "?"} for n in (4, 2)]
    questions = write(tmp_path / "q.json.gz", {"questions": rows})
    predictions = write(tmp_path / "p.json", SAID)
    made = scored(
        "vqa", "--predictions", predictions, "--references", references, "--questions", questions
    )
    assert made["overall"] == 80 and made["n"] == 2 and made["unknown_predictions"] == 2
    write(tmp_path / "q.json.gz", {"questions": [*rows, {**rows[0], "question_id": 9}]})
    told = refused(
        "vqa", "--predictions", predictions, "--references", references, "--questions", questions
    )
    assert "a.json: no answers to 1 of the 3 questions in" in told and "(9)" in told


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (SAID[:3], "no prediction for 1 of 4 question_ids (4)"),
        ([*SAID, SAID[0]], "1 question_ids have more than one prediction (1)"),
        (
            [*SAID[:3], {"question_id": 4, "answer": 3}],
            "question_id 4: answer is missing or no text",
        ),
        ({"1": "yes"}, "expected a list of objects with question_id and answer"),
    ],
)
def test_vqa_refuses(tmp_path, rows, told):
    references = write(tmp_path / "a.json", TEN)
    predictions = write(tmp_path / "p.json", rows)
    assert told in refused("vqa", "--predictions", predictions, "--references", references)


# caption


def test_caption_against_each_kind_of_references(tmp_path):
    said = {7: "a cat", 8: "two red birds"}
    truth = {7: ["a cat", "the cat"], 8: ["two birds", "birds sing"]}
    predictions = write(
        tmp_path / "p.json", [{"image_id": n, "caption": t} for n, t in said.items()]
    )
    plain = write(tmp_path / "plain.json", {str(n): texts for n, texts in truth.items()})
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 1, "height": 1} for n in truth]
    rows = [
        {"id": 10 * n + at, "image_id": n, "caption": text}
        for n, texts in truth.items()
        for at, text in enumerate(texts)
    ]
    coco = write(tmp_path / "coco.json", {"images": images, "annotations": rows})
    karpathy = write(
        tmp_path / "karpathy.json",
        {
            "images": [
                {
                    "cocoid": n,
                    "filename": f"{n}.jpg",
                    "split": "test",
                    "sentences": [{"raw": text} for text in texts],
                }
                for n, texts in [*truth.items()]
            ]
            + [{"cocoid": 9, "filename": "9.jpg", "split": "val", "sentences": [{"raw": "x"}]}]
        },
    )
    made = [
        scored("caption", "--predictions", predictions, "--references", path)
        for path in (plain, coco, karpathy)
    ]
    assert made[0] == made[1] == made[2]
    assert made[0]["Bleu_1"] == pytest.approx(4 / 5)
    assert made[0]["n"] == 2
    told = refused(
        "caption", "--predictions", predictions, "--references", karpathy, "--split", "val"
    )
    assert "no prediction for 1 of 1 image_ids (9)" in told


def captions_of_two(folder):
    references = write(folder / "r.json", {"1": ["a cat"], "2": ["a dog"]})
    rows = [{"image_id": n, "caption": text} for n, text in ((1, "a cat"), (2, "a cow"))]
    return "--predictions", write(folder / "p.json", rows), "--references", references


def test_metrics_in_java_are_left_out_with_a_notice(tmp_path):
    result = run("caption", *captions_of_two(tmp_path), "--json")
    assert json.loads(result.stdout).keys().isdisjoint({"METEOR", "SPICE"})
    assert result.stderr.startswith("METEOR, SPICE: left out, there is no java on the PATH")


def with_java(folder, script):
    """`sight score caption` as a process of its own, in whose PATH `java` is a script."""
    for name in ("meteor/meteor-1.5.jar", "spice/spice-1.0.jar"):
        write(folder / "packages" / "pycocoevalcap" / name, "")
    write(folder / "packages/pycocoevalcap/spice/lib/stanford-corenlp-3.6.0-models.jar", "")
    java = write(folder / "bin" / "java", f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    given = captions_of_two(folder)
    path = [str(folder / "packages"), *filter(None, sys.path)]
    return subprocess.run(
        [sys.executable, "-m", "sight_beyond_text.cli", "score", "caption", *given, "--json"],
        env={**os.environ, "PATH": str(folder / "bin"), "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_java_that_fails_is_a_notice_each(tmp_path):
    done = with_java(tmp_path, "echo 'no room   for the heap' >&2; exit 1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys().isdisjoint({"METEOR", "SPICE"})
    assert done.stderr.splitlines() == [
        f"{name}: left out, its program failed (no room for the heap); does `java {room} -version`"
        " run here?"
        for name, room in (("METEOR", "-Xmx2G"), ("SPICE", "-Xmx8G"))
    ]


AS_THE_PROGRAMS = """
case "$*" in
*meteor*)
  while read -r word rest; do
    case "$word" in
      SCORE) echo "1.0 2.0" ;;
      EVAL) [ "$rest" = "||| 1.0 2.0 ||| 1.0 2.0" ] && printf '0.5\\n0.25\\n0.375\\n' ;;
    esac
  done ;;
*)
  echo "Parsing reference captions"
  while [ "$1" != -out ]; do shift; done
  echo '[{"scores": {"All": {"f": 0.5}}}, {"scores": {"All": {"f": 0.25}}}]' > "$2" ;;
esac
"""


def test_what_javas_programs_print_stays_out_of_the_json(tmp_path):
    done = with_java(tmp_path, AS_THE_PROGRAMS)
    assert done.stderr == ""
    made = json.loads(done.stdout)
    assert (made["METEOR"], made["SPICE"]) == (0.375, 0.375)


def test_captions_of_flickr_by_any_name_of_the_photo(tmp_path):
    names = ["1007129816.jpg", "36979.jpg"]
    images = [
        {"filename": name, "imgid": n, "split": "test", "sentences": [{"raw": f"a cat {n}"}]}
        for n, name in enumerate(names)
    ]
    references = write(tmp_path / "dataset_flickr30k.json.gz", {"images": images})
    made = []
    for ids in (names, [1007129816, "36979"], [0, 1], [names[0], "1"]):
        rows = [{"image_id": key, "caption": f"a cat {n}"} for n, key in enumerate(ids)]
        predictions = write(tmp_path / "p.json", rows)
        made.append(scored("caption", "--predictions", predictions, "--references", references))
    assert made[0]["Bleu_1"] == pytest.approx(1) and made[0]["unknown_predictions"] == 0
    assert all(one == made[0] for one in made)
    rows = [{"image_id": key, "caption": "a cat"} for key in (*names, 0, 7)]
    given = ("--predictions", write(tmp_path / "p.json", rows), "--references", references)
    assert "1 image_ids have more than one prediction (1007129816.jpg)" in refused(
        "caption", *given
    )


def test_caption_refuses(tmp_path):
    references = write(tmp_path / "r.json", {"1": ["a cat"], "2": ["a dog"]})
    rows = [{"image_id": 1, "caption": "a cat"}, {"image_id": 2, "caption": "a dog"}]
    for bad, told in [
        (rows[:1], "no prediction for 1 of 2 image_ids (2)"),
        ([*rows, rows[1]], "1 image_ids have more than one prediction (2)"),
        ([rows[0], {"image_id": 2}], "image_id 2: caption is missing or no text"),
    ]:
        predictions = write(tmp_path / "p.json", bad)
        assert told in refused("caption", "--predictions", predictions, "--references", references)
