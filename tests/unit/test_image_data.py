"""The image benchmarks' own files: what is read, what is refused and how it is said."""

import gzip
import json
import sys

import pytest

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.image_data import check_image, load_questions
from sight_beyond_text.evaluation.references import (
    published_subset,
    read_captions,
    read_mme_questions,
    read_pope_questions,
    read_vqa_annotations,
    read_vqa_questions,
)
from sight_beyond_text.evaluation.scorers import mme
from sight_beyond_text.study import ImageBenchmark


def benchmark(kind, folder, **changes):
    return ImageBenchmark(type=kind, images=str(folder / "images"), **changes).model_dump()


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def touch(folder, *names):
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# vqa


def vqa_files(folder, count=3, suffix=".json"):
    questions = [
        {"question_id": 10 * n + 1, "image_id": n, "question": f"What is {n}?"}
        for n in range(1, count + 1)
    ]
    annotations = [
        {
            "question_id": row["question_id"],
            "image_id": row["image_id"],
            "answer_type": "other",
            "answers": [{"answer": "cat", "answer_id": n} for n in range(1, 11)],
        }
        for row in reversed(questions)
    ]
    return (
        write(folder / f"questions{suffix}", {"questions": questions}),
        write(folder / f"annotations{suffix}", {"annotations": annotations}),
    )


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_vqa(tmp_path, suffix):
    questions, annotations = vqa_files(tmp_path, suffix=suffix)
    touch(tmp_path, "COCO_val2014_000000000001.jpg", "000000000002.jpg", "000000000003.png")
    rows = load_questions(
        "vqa", benchmark("vqa", tmp_path, questions=questions, annotations=annotations, limit=2)
    )
    assert [(row["item"], row["image"], row["prompt"]) for row in rows] == [
        ("11", "COCO_val2014_000000000001.jpg", "What is 1?"),
        ("21", "000000000002.jpg", "What is 2?"),
    ]
    assert rows[0]["annotation"]["question_id"] == 11


def test_the_published_subset():
    pool, scored = published_subset(214_354)
    assert (len(pool), len(scored), len(set(pool) | set(scored))) == (2048, 5000, 7048)
    # What `np.random.seed(42); np.random.choice(214354, 7048, replace=False)` gives.
    assert pool[:3] == [69992, 184029, 131715]
    assert scored[:3] == [97523, 35728, 173064] and scored[-1] == 87854


def test_the_published_subset_of_another_file(tmp_path):
    questions, annotations = vqa_files(tmp_path)
    chosen = benchmark(
        "vqa", tmp_path, questions=questions, annotations=annotations, subset="published"
    )
    with pytest.raises(UserError, match=r"questions\.json: 3 questions; .* 214354 of v2_OpenEnded"):
        load_questions("vqa", chosen)


def test_the_published_subset_of_as_many_questions(tmp_path):
    count = 214_354
    pool, scored = published_subset(count)
    photo = dict.fromkeys(scored, 1)
    questions = [
        {"question_id": n, "image_id": photo.get(n, n + 2), "question": f"{n}?"}
        for n in range(count)
    ]
    annotations = [
        {
            "question_id": n,
            "image_id": photo.get(n, n + 2),
            "answer_type": "other",
            "answers": [{"answer": f"first {n}"}] + [{"answer": "a"}] * 9,
        }
        for n in pool + scored
    ]
    touch(tmp_path, "000000000001.jpg")
    rows = load_questions(
        "vqa",
        benchmark(
            "vqa",
            tmp_path,
            questions=write(tmp_path / "q.json", {"questions": questions}),
            annotations=write(tmp_path / "a.json", {"annotations": annotations}),
            subset="published",
            shots=3,
        ),
    )
    assert [row["item"] for row in rows] == [str(n) for n in scored]
    shown = [shot for row in rows for shot in row["shots"]]
    assert len(shown) == 3 * 5000
    drawn = {int(asked.rstrip("?")) for asked, _ in shown}
    assert drawn <= set(pool) and len(drawn) > 2000, "none of them is scored"
    assert all(said == f"first {asked.rstrip('?')}" for asked, said in shown)


def test_shots_are_drawn_by_question_from_other_images(tmp_path):
    questions, annotations = vqa_files(tmp_path, 8)
    touch(tmp_path, *(f"{n:012d}.jpg" for n in range(1, 9)))
    given = {"questions": questions, "annotations": annotations, "prompt": "Q: {question}"}
    rows = load_questions("vqa", benchmark("vqa", tmp_path, shots=3, **given))
    for number, row in enumerate(rows, 1):
        asked = {asked for asked, _ in row["shots"]}
        assert len(asked) == 3 and asked <= {f"Q: What is {n}?" for n in range(1, 9)}
        assert row["prompt"] == f"Q: What is {number}?" not in asked
        assert {said for _, said in row["shots"]} == {"cat"}
    assert len({str(row["shots"]) for row in rows}) > 4
    fewer = load_questions("vqa", benchmark("vqa", tmp_path, shots=3, limit=2, **given))
    assert fewer == rows[:2], "whatever else is asked"
    assert "shots" not in load_questions("vqa", benchmark("vqa", tmp_path, **given))[0]
    with pytest.raises(UserError, match=r"vqa\.shots: 8 asked for, .* has 7 questions about other"):
        load_questions("vqa", benchmark("vqa", tmp_path, shots=8, **given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["answers"].pop(), "question_id 21: 9 answers, VQA has 10 a question"),
        (lambda row: row["answers"][3].pop("answer"), "question_id 21: an answer without its text"),
        (lambda row: row.pop("answers"), "question_id 21: answers is missing"),
        (lambda row: row.update(image_id="x"), "question_id 21: image_id is 'x'"),
        (lambda row: row.update(question_id=11), r"1 question_id\(s\) more than once \(11\)"),
    ],
)
def test_vqa_annotations_are_checked(tmp_path, change, message):
    _, path = vqa_files(tmp_path)
    content = json.loads((tmp_path / "annotations.json").read_text())
    change(content["annotations"][1])
    write(tmp_path / "annotations.json", content)
    with pytest.raises(UserError, match=rf"annotations\.json: {message}") as caught:
        read_vqa_annotations(path)
    assert "\n" not in str(caught.value)


def test_vqa_without_an_annotation(tmp_path):
    questions, _ = vqa_files(tmp_path)
    annotations = vqa_files(tmp_path / "fewer", 2)[1]
    with pytest.raises(UserError, match=r"annotations\.json: no answers to question_id 31"):
        load_questions(
            "vqa", benchmark("vqa", tmp_path, questions=questions, annotations=annotations)
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken JSON"),
        ([], "no list of questions"),
        ({"questions": 3}, "no list of questions"),
        ({"questions": []}, "the list of questions is empty"),
        ({"questions": [{"question_id": 1, "image_id": 2}]}, "question_id 1: question is missing"),
    ],
)
def test_vqa_questions_are_checked(tmp_path, content, message):
    path = write(tmp_path / "questions.json", content)
    with pytest.raises(UserError, match=message):
        read_vqa_questions(path)


def test_a_cut_gzip_file(tmp_path):
    path, _ = vqa_files(tmp_path, suffix=".json.gz")
    whole = (tmp_path / "questions.json.gz").read_bytes()
    (tmp_path / "questions.json.gz").write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"questions\.json\.gz: VQA questions: can't be read"):
        read_vqa_questions(path)


# pope


def pope_rows():
    return [
        {"question_id": n, "image": f"COCO_val2014_{n:012d}.jpg", "text": f"Is {n}?", "label": "no"}
        for n in (1, 2)
    ]


def test_pope_in_either_years_naming(tmp_path):
    touch(tmp_path, "000000000001.jpg", "COCO_val2014_000000000002.jpg")
    path = write(tmp_path / "pope.json", lines(pope_rows()))
    rows = load_questions("pope", benchmark("pope", tmp_path, questions=path))
    assert [row["image"] for row in rows] == ["000000000001.jpg", "COCO_val2014_000000000002.jpg"]


def test_other_numbers_in_names_are_no_coco_ids(tmp_path):
    rows = [{**row, "image": f"a_{row['question_id']}.jpg"} for row in pope_rows()]
    touch(tmp_path, "a_1.jpg", "a_2.jpg", "b_1.jpg", "b_2.jpg")
    path = write(tmp_path / "pope.json", lines(rows))
    read = load_questions("pope", benchmark("pope", tmp_path, questions=path))
    assert [row["image"] for row in read] == ["a_1.jpg", "a_2.jpg"]


def test_gzipped_pope(tmp_path):
    plain = write(tmp_path / "pope.json", lines(pope_rows()))
    assert read_pope_questions(write(tmp_path / "pope.json.gz", lines(pope_rows()))) == (
        read_pope_questions(plain)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "Yes"}, "question_id 2: the label is 'Yes'; write yes or no"),
        ({"label": None}, "question_id 2: label is None"),
        ({"text": 3}, "question_id 2: text is 3"),
        ({"question_id": 1}, r"1 question_id\(s\) more than once \(1\)"),
    ],
)
def test_pope_is_checked(tmp_path, changes, message):
    rows = pope_rows()
    rows[1] |= changes
    path = write(tmp_path / "pope.json", lines(rows))
    with pytest.raises(UserError, match=rf"pope\.json: {message}"):
        read_pope_questions(path)


def test_images_that_are_missing_are_counted_and_named(tmp_path, capsys):
    touch(tmp_path, "000000000001.jpg")
    path = write(tmp_path / "pope.json", lines(pope_rows()))
    with pytest.raises(UserError) as caught:
        check_image({"pope": benchmark("pope", tmp_path, questions=path)})
    assert str(caught.value) == (
        f"evaluation.image.pope: 1 of 2 questions have no image in {tmp_path}/images (1 missing),"
        " the first is COCO_val2014_000000000002.jpg of 2; fetch the images or set only_present"
    )
    rows = load_questions("pope", benchmark("pope", tmp_path, questions=path, only_present=True))
    assert [row["item"] for row in rows] == ["1"]
    assert "pope: 1 of 2 questions left out" in capsys.readouterr().out


def test_all_mistakes_are_told_at_once(tmp_path):
    wrong = [{**row, "label": "No"} for row in pope_rows()]
    path = write(tmp_path / "pope.json", lines(wrong))
    with pytest.raises(UserError) as caught:
        check_image(
            {
                "pope": benchmark("pope", tmp_path, questions=path),
                "vqa": benchmark("vqa", tmp_path, questions=str(tmp_path / "nowhere.json")),
                "mme": benchmark("mme", tmp_path, questions=str(tmp_path)),
                "captions": benchmark("captions", tmp_path, annotations=path),
            }
        )
    told = str(caught.value).splitlines()
    assert [message.count(";") >= 1 for message in told] == [True] * 4
    assert "question_id 1: the label is 'No'" in told[0]
    assert "evaluation.image.vqa.annotations: is missing" in told[1]
    assert "no file of 14 of 14 MME subtasks" in told[2]


# mme


def mme_folder(folder, subtasks=mme.SUBTASKS):
    for subtask in subtasks:
        text = "".join(
            f"{n}.jpg\tIs it {n}, café?\tYes\n{n}.jpg\tIs it more?\tNo\n" for n in (1, 2)
        )
        write(folder / f"{subtask}.txt", text)
    return str(folder)


def test_mme_in_the_releases_two_layouts(tmp_path):
    questions = mme_folder(tmp_path / "questions")
    for subtask in mme.SUBTASKS:
        inside = "images/" if subtask in ("landmark", "artwork") else ""
        touch(tmp_path, f"{subtask}/{inside}1.jpg", f"{subtask}/{inside}2.jpg")
    rows = load_questions("mme", benchmark("mme", tmp_path, questions=questions))
    assert len(rows) == 14 * 4
    assert len({row["item"] for row in rows}) == 14 * 4
    by_item = {row["item"]: row for row in rows}
    assert by_item["existence/1.jpg/1"]["image"] == "existence/1.jpg"
    assert by_item["artwork/2.jpg/2"]["image"] == "artwork/images/2.jpg"
    assert by_item["OCR/2.jpg/1"]["prompt"] == "Is it 2, café?"
    assert by_item["OCR/2.jpg/1"]["annotation"]["label"] == "yes"
    fewer = benchmark("mme", tmp_path, questions=questions, without=["landmark", "artwork"])
    assert len(load_questions("mme", fewer)) == 12 * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.jpg\tIs it?\n", r"count\.txt:1: 2 columns, MME has 3 here"),
        ("1.jpg\tIs it?\tYes\n2.jpg\tIs it?\tNo\n", r"count\.txt:2: a question about 2\.jpg after"),
        ("1.jpg\tIs it?\tYes\n\n1.jpg\tIs it not?\tno!\n", r"count\.txt:3: the answer is 'no!'"),
        ("1.jpg\tIs it?\tYes\n", r"count\.txt: 1 questions; an image has two"),
        ("1.jpg\tIs it?\tYes\n1.jpg\tIs it?\tNo\n", r"count\.txt: 1 question\(s\) more than once"),
        ("\n", r"count\.txt: no questions"),
    ],
)
def test_mme_is_checked(tmp_path, text, message):
    mme_folder(tmp_path)
    write(tmp_path / "count.txt", text)
    with pytest.raises(UserError, match=message):
        read_mme_questions(tmp_path)


def test_gzipped_mme(tmp_path):
    plain = read_mme_questions(mme_folder(tmp_path))
    for path in tmp_path.glob("*.txt"):
        write(tmp_path / f"{path.name}.gz", path.read_text(encoding="utf-8"))
        path.unlink()
    assert read_mme_questions(tmp_path) == plain


def test_mme_with_a_subtask_missing(tmp_path):
    mme_folder(tmp_path, [name for name in mme.SUBTASKS if name not in ("landmark", "OCR")])
    with pytest.raises(UserError, match=r"no file of 2 of 14 MME subtasks \(landmark, OCR\)"):
        read_mme_questions(tmp_path)
    assert len(read_mme_questions(tmp_path, ["landmark", "OCR"])) == 12 * 4


# captions


COCO = {
    "images": [
        {"id": 7, "file_name": "7.jpg", "width": 4, "height": 4},
        {"id": 5, "file_name": "5.jpg", "width": 4, "height": 4},
        {"id": 9, "file_name": "9.jpg", "width": 4, "height": 4},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "a  cat\n"},
        {"id": 2, "image_id": 5, "caption": "a dog"},
        {"id": 3, "image_id": 7, "caption": "one cat"},
    ],
}


KARPATHY = {"filename": "7.jpg", "imgid": 7, "split": "test", "sentences": [{"raw": "a cat"}]}


def karpathy(**more):
    return {
        "dataset": "any",
        "images": [
            {
                "filename": f"{n}.jpg",
                "imgid": n,
                "split": split,
                "sentences": [{"raw": f"this is {n} .\n"}, {"raw": "so it is"}],
                **{key: value + n for key, value in more.items()},
            }
            for n, split in enumerate(["train", "test", "val", "test", "restval"])
        ],
    }


def test_captions_of_coco(tmp_path):
    path = write(tmp_path / "captions.json", COCO)
    touch(tmp_path, "5.jpg", "7.jpg")
    rows = load_questions("captions", benchmark("captions", tmp_path, annotations=path))
    assert [(row["item"], row["image"], row["annotation"]) for row in rows] == [
        ("5", "5.jpg", ["a dog"]),
        ("7", "7.jpg", ["a cat", "one cat"]),
    ]
    assert rows[0]["prompt"] == "Please provide a description of the picture."


@pytest.mark.parametrize(
    ("more", "ids"), [({}, ["1.jpg", "3.jpg"]), ({"cocoid": 500}, ["501", "503"])]
)
def test_captions_of_karpathys_splits(tmp_path, more, ids):
    path = write(tmp_path / "dataset.json", karpathy(**more))
    rows = read_captions(path)
    assert [row["id"] for row in rows] == ids
    assert [row["image"] for row in rows] == ["1.jpg", "3.jpg"]
    assert rows[0]["captions"] == ["this is 1 .", "so it is"]
    assert [row["image"] for row in read_captions(path, "val")] == ["2.jpg"]
    with pytest.raises(UserError, match="no split 'tst'; there are: train, test, val, restval"):
        read_captions(path, "tst")


def test_captions_in_either_years_naming(tmp_path):
    """Karpathy's split of COCO names the photos of 2014; in val2017 they bear shorter names."""
    names = [f"COCO_val2014_{n:012d}.jpg" for n in (172648, 516916, 580294, 581482)]
    images = [
        {"filename": name, "cocoid": n, "split": "test", "sentences": [{"raw": f"a photo {n}"}]}
        for n, name in enumerate(names)
    ]
    path = write(tmp_path / "dataset_coco.json", {"images": images})
    touch(tmp_path, "000000172648.jpg", "COCO_val2014_000000516916.jpg", "000000580294.jpg")
    asked = benchmark("captions", tmp_path, annotations=path, split="test", only_present=True)
    rows = load_questions("captions", asked)
    assert [(row["item"], row["image"]) for row in rows] == [
        ("0", "000000172648.jpg"),
        ("1", "COCO_val2014_000000516916.jpg"),
        ("2", "000000580294.jpg"),
    ]


def test_captions_by_image(tmp_path):
    path = write(tmp_path / "references.json", {"a.jpg": ["x", "y"], "b.jpg": ["z"]})
    assert read_captions(path) == [
        {"id": "a.jpg", "image": "a.jpg", "captions": ["x", "y"]},
        {"id": "b.jpg", "image": "b.jpg", "captions": ["z"]},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["a"], "expected an object with captions"),
        ({"a.jpg": "x"}, "image_id a.jpg: expected a list of captions"),
        ({"a.jpg": [3]}, "image_id a.jpg: expected a list of captions"),
        ({}, "no captions"),
        ({"a.jpg": []}, "no captions"),
        ({"images": [{"sentences": [], "split": "test"}]}, "filename is missing"),
        ({"images": [3]}, "image_id images: expected a list of captions"),
        ({"images": [{"sentences": []}, 3]}, "an image that is no object"),
        ({"images": [{**KARPATHY, "sentences": [{}]}]}, "imgid 7: a sentence: raw is missing"),
        ({"images": [{**KARPATHY, "sentences": ["x"]}]}, "imgid 7: a sentence is 'x'"),
        ({"images": [{**KARPATHY, "split": ["test"]}]}, "no split 'test'; there are"),
    ],
)
def test_captions_are_checked(tmp_path, content, message):
    path = write(tmp_path / "captions.json", content)
    with pytest.raises(UserError, match=rf"captions\.json: .*{message}|captions\.json: {message}"):
        read_captions(path)


@pytest.mark.parametrize("content", [COCO, karpathy(), {"a.jpg": ["x"]}])
def test_gzipped_captions(tmp_path, content):
    plain = write(tmp_path / "captions.json", content)
    packed = write(tmp_path / "captions.json.gz", content)
    assert read_captions(packed) == read_captions(plain)


def test_only_karpathys_files_have_splits(tmp_path):
    path = write(tmp_path / "captions.json", COCO)
    with pytest.raises(UserError, match=r"captions\.json: no splits, only Karpathy's"):
        read_captions(path, "test")


def test_metrics_that_cannot_be_computed_are_told_before_anything_is_trained(tmp_path, monkeypatch):
    path = write(tmp_path / "captions.json", COCO)
    touch(tmp_path, "5.jpg", "7.jpg")
    asked = benchmark("captions", tmp_path, annotations=path, more_metrics=["METEOR"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        check_image({"said": asked, "broken": benchmark("pope", tmp_path)})
    assert str(caught.value).splitlines() == [
        "evaluation.image.broken.questions: is missing; pope needs it",
        "evaluation.image.said.more_metrics: METEOR: there is no java on the PATH; install one; or"
        " take it out",
    ]
    (tmp_path / "java").touch(0o755)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match="METEOR: pycocoevalcap isn't there; pip install it; or"):
        check_image({"said": asked})
