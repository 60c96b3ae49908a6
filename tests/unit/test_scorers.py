"""The scorers of the image benchmarks, against values worked out by hand."""

import math
from typing import get_args

import pytest

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.scorers import captions, check_predictions, mme, pope, vqa
from sight_beyond_text.study import Subtask

# vqa


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", ""),
        ("Yes", "yes"),
        ("YES.", "yes"),
        (" the  Red\tcar \n", "red car"),
        ("two", "2"),
        ("Ten", "10"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("2.50", "2.50"),
        ("$2.", "$2"),
        ("1,000", "1000"),
        ("1,000 cats/dogs", "1000 catsdogs"),
        ("cats/dogs", "cats dogs"),
        ("cats/ dogs/birds", "cats dogsbirds"),
        ("t-shirt", "t shirt"),
        ("a", ""),
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("somebody'd", "somebodyd"),
        ("man's", "man's"),
        ("the man: left", "man: left"),
        ("Café à la carte!", "café à la carte"),
        ("日本", "日本"),
        ("." * 40, "." * 8),
    ],
)
def test_vqa_normalise(answer, expected):
    assert vqa.normalise(answer) == expected


@pytest.mark.parametrize(
    ("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)]
)
def test_vqa_accuracy_leaves_one_out(matches, expected):
    answers = ["cat"] * matches + [f"other {n}" for n in range(10 - matches)]
    assert vqa.accuracy("cat", answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("yes", ["yes"] * 10, 1),
        (" yes\n", ["yes"] * 10, 1),
        # Unanimous answers are compared to the letter, as the official evaluator does.
        ("Yes", ["yes"] * 10, 0),
        ("yes.", ["yes"] * 10, 0),
        ("2", ["two"] * 10, 0),
        ("Yes", ["yes"] * 9 + ["no"], 1),
        ("2", ["two"] * 9 + ["3"], 1),
        ("the dogs", ["dogs"] * 5 + ["Dogs."] * 5, 1),
        ("", ["yes"] * 9 + ["no"], 0),
        ("piano", ["no"] * 9 + ["yes"], 0),
        ("snow", ["no"] * 10, 0),
        # An article alone is nothing left, and so equal to an empty answer.
        ("", ["a"] * 5 + ["b"] * 5, 1),
        ("yes", ["yes"], 0),
        ("yes", [], 0),
    ],
)
def test_vqa_accuracy(prediction, answers, expected):
    assert vqa.accuracy(prediction, answers) == expected


def annotation(question, kind, answers, image=7):
    return {
        "question_id": question,
        "image_id": image,
        "answer_type": kind,
        "answers": [{"answer": answer, "answer_id": n} for n, answer in enumerate(answers, 1)],
    }


def test_vqa_score():
    annotations = [
        annotation(1, "yes/no", ["yes"] * 10),
        annotation(2, "number", ["two"] * 6 + ["3"] * 4, image=8),
        annotation(3, "yes/no", ["no"] * 10),
    ]
    predictions = {3: "yes", 2: "2", 1: "yes", 99: "left aside"}
    metrics, items = vqa.score(predictions, annotations)
    assert metrics == {
        "accuracy": pytest.approx(2 / 3),
        "accuracy_yes/no": 0.5,
        "accuracy_number": 1.0,
    }
    assert items.to_dict("list") == {
        "question_id": [1, 2, 3],
        "image_id": [7, 8, 7],
        "prediction": ["yes", "2", "yes"],
        "reference": ["yes", "two", "no"],
        "score": [1.0, 1.0, 0.0],
    }


def test_vqa_reports_missing_predictions():
    annotations = [annotation(n, "other", ["x"] * 10) for n in range(20, 30)]
    with pytest.raises(UserError, match=r"vqa: .* 9 of 10 .*\(20, 22, 23, 24, 25, \.\.\.\)"):
        vqa.score({21: "x"}, annotations)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("yes", "Yes"),
        ("no", "No"),
        ("Yes, a dog.", "Yes"),
        ("eyes", "Yes"),
        ("no, yes", "Yes"),
        ("snow", "No"),
        ("piano", "No"),
        ("Nothing", "No"),
        ("NO", "NO"),
        ("two", "two"),
        ("red###Human: yes", "red"),
        ("red</s>", "red"),
        ("red Question: is there snow?", "red "),
        ("Answer: yes", ""),
        ("", ""),
    ],
)
def test_vqa_published_form(prediction, expected):
    assert vqa.published(prediction) == expected


def test_vqa_published_mistakes():
    # A unanimous "yes" isn't normalised, and "snow" is taken for "no".
    assert vqa.accuracy(vqa.published("yes"), ["yes"] * 10) == 0
    assert vqa.accuracy(vqa.published("yes"), ["yes"] * 9 + ["no"]) == 1
    assert vqa.accuracy(vqa.published("snow"), ["snow"] * 9 + ["ice"]) == 0
    assert vqa.accuracy(vqa.published("snow"), ["no"] * 9 + ["yes"]) == 1


# pope


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("No.", "no"),
        ("No, there is none", "no"),
        ("No###", "no"),
        ("No\n###", "no"),
        ("No</s>", "no"),
        (" No </s><s>", "no"),
        ("### No", "no"),
        ("No<|im_end|>\n", "no"),
        ("Yes### Human: no", "yes"),
        ("There is not a dog", "no"),
        ("no, but yes", "no"),
        ("yes, no", "no"),
        ("Yes. No", "yes"),
        # The official list has "not" but neither "Not" nor "NO".
        ("Not sure.", "yes"),
        ("NO", "yes"),
        ("Nothing", "yes"),
        ("snow", "yes"),
        ("No!", "yes"),
        ("", "yes"),
        ("###", "yes"),
        ("Не", "yes"),
    ],
)
def test_pope_parse(answer, expected):
    assert pope.parse(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("No", "no"),
        ("No.", "no"),
        ("No###", "yes"),
        ("No\n###", "yes"),
        (" No", "no"),
        ("no, but yes", "no"),
        ("There is not###", "yes"),
        ("", "yes"),
    ],
)
def test_pope_parse_as_published(answer, expected):
    assert pope.parse_unstripped(answer) == expected


def question(number, label):
    return {
        "question_id": number,
        "image": f"{number}.jpg",
        "text": "Is there a dog?",
        "label": label,
    }


def test_pope_score():
    questions = [question(n, label) for n, label in enumerate(["yes", "yes", "yes", "no", "no"])]
    predictions = {0: "Yes", 1: "No###", 2: "Yes.", 3: "yes", 4: "no"}
    metrics, items = pope.score(predictions, questions)
    assert metrics == {
        "accuracy": pytest.approx(3 / 5),
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "yes_ratio": pytest.approx(3 / 5),
    }
    assert list(items["score"]) == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert list(items["parsed"]) == ["yes", "no", "yes", "yes", "no"]
    assert items.loc[1, ["image_id", "prediction", "reference"]].to_list() == [
        "1.jpg",
        "No###",
        "yes",
    ]


def test_pope_without_a_yes_has_no_division_by_zero():
    metrics, _ = pope.score({1: "no"}, [question(1, "no")])
    assert metrics == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}


def test_pope_refuses_what_it_cannot_score():
    with pytest.raises(UserError, match="no prediction for 1 of 2"):
        pope.score({1: "no"}, [question(1, "no"), question(2, "no")])
    with pytest.raises(UserError, match="more than once"):
        pope.score({1: "no"}, [question(1, "no"), question(1, "yes")])
    with pytest.raises(UserError, match="label 'Yes'"):
        pope.score({1: "no"}, [question(1, "Yes")])


# mme


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("yes", "yes"),
        ("YES", "yes"),
        ("Yes.", "yes"),
        ("Yes, it is.", "yes"),
        ("No", "no"),
        ("no.", "no"),
        ("No###", "no"),
        ("Not sure", "no"),
        ("None", "no"),
        ("Noah", "no"),
        (" yes", "yes"),
        ("  no", "no"),
        ("A no", "no"),
        ("I know", "other"),
        ("  yes", "other"),
        ("   no", "other"),
        ("It is yes", "other"),
        ("The answer is no.", "other"),
        ("maybe", "other"),
        ("y", "other"),
        ("true", "other"),
        ("", "other"),
    ],
)
def test_mme_parse(answer, expected):
    assert mme.parse(answer) == expected


def mme_questions(*subtasks, images=3):
    return [
        {
            "question_id": f"{subtask}/{image}/{number}",
            "subtask": subtask,
            "image": f"{image}.jpg",
            "label": "yes" if number == 1 else "no",
        }
        for subtask in subtasks
        for image in range(images)
        for number in (1, 2)
    ]


def test_mme_score():
    questions = mme_questions("existence", "OCR", "code_reasoning")
    answers = {row["question_id"]: row["label"] for row in questions}
    # Of existence, one image has one wrong answer; of OCR every image has, one of them both.
    answers["existence/1/2"] = "Yes"
    answers |= {"OCR/0/1": "unsure", "OCR/1/2": "", "OCR/2/1": "No", "OCR/2/2": "Yes."}
    metrics, items = mme.score({**answers, "count/0/1": "left aside"}, questions)
    existence, ocr, code = 100 * 5 / 6 + 100 * 2 / 3, 100 * 2 / 6 + 0, 200
    assert metrics == {
        "accuracy": pytest.approx(13 / 18),
        "accuracy_plus": pytest.approx(5 / 9),
        "perception": pytest.approx(existence + ocr),
        "cognition": pytest.approx(code),
        "score_existence": pytest.approx(existence),
        "score_OCR": pytest.approx(ocr),
        "score_code_reasoning": pytest.approx(code),
    }
    assert items["parsed"].value_counts().to_dict() == {"yes": 9, "no": 7, "other": 2}
    assert items.loc[3].to_dict() == {
        "question_id": "existence/1/2",
        "subtask": "existence",
        "image_id": "1.jpg",
        "prediction": "Yes",
        "parsed": "yes",
        "reference": "no",
        "score": 0.0,
    }


def test_mme_published_totals_leave_two_subtasks_out():
    questions = mme_questions("existence", "landmark", "artwork", "code_reasoning")
    answers = {row["question_id"]: row["label"] for row in questions}
    metrics, _ = mme.score(answers, questions)
    assert metrics["perception"] == 600 and metrics["perception_published"] == 200
    assert metrics["cognition"] == metrics["cognition_published"] == 200
    assert mme.totals({name: 200 for name in mme.SUBTASKS}) == {
        "Perception": 2000,
        "Cognition": 800,
    }


def test_mme_subtasks_are_the_studys():
    assert get_args(Subtask) == mme.SUBTASKS
    assert len(mme.SUBTASKS) == 14


@pytest.mark.parametrize("answer", ["Yes", "No", "", "whatever"])
def test_mme_of_one_answer(answer):
    # One of an image's two questions has yes, the other no: half is right, never both.
    questions = mme_questions("count", images=5)
    metrics, _ = mme.score({row["question_id"]: answer for row in questions}, questions)
    assert metrics["score_count"] == (50 if answer in ("Yes", "No") else 0)
    assert metrics["accuracy_plus"] == 0


def test_mme_refuses_what_it_cannot_score():
    questions = mme_questions("count")
    with pytest.raises(UserError, match="no prediction for 6 of 6"):
        mme.score({}, questions)
    with pytest.raises(UserError, match="more than once"):
        mme.score({}, questions + questions)


# captions


# What the reference tokeniser gives, punctuation taken out.
@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("", ""),
        (" ... ", ""),
        ("A man, in a hat.", "a man in a hat"),
        ("The man's t-shirt doesn't fit", "the man 's t-shirt does n't fit"),
        ("I can't, cannot, DON'T, gonna", "i ca n't can not do n't gon na"),
        ("it’s a boys' “team”", "it 's a boys team"),
        ("shouldn't've y'all's o'clock", "should n't 've y' all 's o'clock"),
        ("rock 'n' roll of the '90s", "rock 'n' roll of the '90s"),
        ("white (including a hat)", "white -lrb- including a hat -rrb-"),
        ("a Texas A&amp;M player &amp; friends", "a texas a&m player & friends"),
        ("50% off, $5.00 #1", "50 % off $ 5.00 # 1"),
        ("1,000 at 12:30 on 22 3/4 St. and 8th Ave/CTH D.",
         "1,000 at 12:30 on 22 3/4 st. and 8th ave/cth d"),
        ("black/white long-sleeved 3-year-old", "black/white long-sleeved 3-year-old"),
        ('says "free hugs".A man holds tea..', "says free hugs a man holds tea"),
        ("hey!! what?! wow! why?", "hey !! what ?! wow why"),
        ("in the U.S. at 5 p.m. by Mr. Smith, No. 7", "in the u.s. at 5 p.m. by mr. smith no. 7"),
        ("there is no. it sat. on", "there is no it sat on"),
        ("café 日本 😀", "café 日本"),
        ("well -- done - yes; two: x", "well done yes two x"),
    ],
)  # fmt: skip
def test_tokenise(caption, expected):
    assert captions.tokenise(caption) == expected.split()


REFERENCES = {"a": ["A cat."], "b": ["A dog."]}


def cider(predictions, references=REFERENCES):
    metrics, items = captions.score(predictions, references)
    assert metrics["CIDEr"] == pytest.approx(items["score"].mean())
    return list(items["score"])


def test_cider_weighs_by_rarity():
    # "a" is in both images and weighs nothing; "cat" and "a cat" are in one: orders 1 and 2 of 4.
    assert cider({"a": "a cat", "b": "a cat"}) == pytest.approx([5, 0])


def test_cider_punishes_length():
    # "big" and "cat" weigh the same, so the cosine of order 1 is 1 / sqrt(2); one token too many.
    expected = 10 / 4 / math.sqrt(2) * math.exp(-1 / 72)
    assert cider({"a": "a big cat", "b": ""}) == pytest.approx([expected, 0])


def test_cider_clips_repeats():
    # Order 1: min(2, 1) * 1 / (2 * 1); "cat cat" is no bigram of the reference.
    assert cider({"a": "cat cat", "b": ""}) == pytest.approx([10 / 4 / 2, 0])


def test_cider_is_the_mean_over_references():
    references = {"a": ["A cat.", "Two birds sing."], "b": ["A dog."]}
    assert cider({"a": "a cat", "b": "dog"}, references)[0] == pytest.approx(2.5)


def test_cider_of_equal_captions_is_ten():
    same = {"a": "one red square on top", "b": "three blue circles stand below"}
    assert cider(same, {image: [caption] for image, caption in same.items()}) == pytest.approx(
        [10, 10]
    )


def test_rouge_l():
    references = {"a": ["the cat on the mat", "a dog sat", "..."]}
    metrics, _ = captions.score({"a": "The cat sat"}, references)
    # "the cat" is 2 of 3 tokens said; of the references, 2 of 5 and, with "sat", 1 of 3 are found.
    precision, recall, weight = 2 / 3, 2 / 5, 1.44
    expected = (1 + weight) * precision * recall / (recall + weight * precision)
    assert metrics["ROUGE_L"] == pytest.approx(expected)


def test_bleu():
    references = {"a": ["the cat sat on the mat", "a cat"], "b": ["a dog", "dogs run", "one dog"]}
    metrics, _ = captions.score({"a": "the cat sat on", "b": "a dog"}, references)
    # All n-grams are right. Of "a" the closest lengths, 2 and 6, tie: the shorter counts.
    assert [metrics[f"Bleu_{order}"] for order in (1, 2, 3, 4)] == pytest.approx([1] * 4)
    metrics, _ = captions.score({"a": "the the cat", "b": "dog"}, references)
    # 4 of 4 unigrams (two "the" in one reference), 1 of 2 bigrams, no trigram; 4 tokens for 4.
    assert metrics["Bleu_1"] == pytest.approx(1)
    assert metrics["Bleu_2"] == pytest.approx(math.sqrt(1 / 2))
    assert metrics["Bleu_3"] == metrics["Bleu_4"] == 0


def test_bleu_punishes_brevity():
    metrics, _ = captions.score({"a": "a cat"}, {"a": ["a cat sat down"]})
    assert metrics["Bleu_2"] == pytest.approx(math.exp(1 - 4 / 2))


def test_captions_that_say_nothing():
    metrics, items = captions.score({"a": "", "b": "..."}, REFERENCES)
    assert set(metrics.values()) == {0.0}
    assert list(items["score"]) == [0, 0]


def test_captions_items():
    references = {"b.jpg": ["A dog.", "Dogs."], "a.jpg": ["A cat."]}
    _, items = captions.score({"a.jpg": "x", "b.jpg": "y", "c.jpg": "z"}, references)
    assert items.drop(columns="score").to_dict("list") == {
        "image_id": ["b.jpg", "a.jpg"],
        "prediction": ["y", "x"],
        "reference": ["A dog.", "A cat."],
    }


def test_captions_refuses_what_it_cannot_score():
    with pytest.raises(UserError, match=r"no prediction for 1 of 2 image_ids \(b\)"):
        captions.score({"a": "a cat"}, REFERENCES)
    with pytest.raises(UserError, match="image_id b has no reference"):
        captions.score({"a": "x", "b": "x"}, {"a": ["x"], "b": []})


def test_nothing_to_score():
    with pytest.raises(UserError, match="nothing to score"):
        check_predictions({}, [], "vqa", "question_id")
