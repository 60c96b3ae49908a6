"""VQAv2 accuracy, by the rule of the official evaluator.

Source: Goyal et al., "Making the V in VQA Matter" (2017), and the behaviour of the evaluator
published with it (GT-Vision-Lab/VQA), odd corners included: without them scores don't compare.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from sight_beyond_text.evaluation.scorers import check_predictions

_PUNCTUATION = r""";/[]"{}()=+\_-><@`,?!"""
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The official code passes a flag of value 32 where the substitution takes its count.
_PERIODS_REMOVED = 32
_CUT = re.compile("Question|Answer|###|</s>")
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}

# In the official table every misspelling is its contraction less exactly one apostrophe, so the
# contractions alone say it all. Forms with a capital (I'm, I've) can't match: words are lower case.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've
""".split()
_CONTRACTIONS = {
    form[:at] + form[at + 1 :]: form
    for form in _CONTRACTED
    for at, letter in enumerate(form)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the one entry the official table has the wrong way round


def _tidy(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalise(answer: str) -> str:
    """The form in which the official evaluator compares answers that are not unanimous.

    Lower case, no articles, "none" and "zero" to "ten" as digits, apostrophes put back into
    contractions. A punctuation mark goes if it stands beside a space anywhere in the answer, or if
    the answer has a comma between digits; otherwise it becomes a space. Periods go unless a digit
    follows.
    """
    text = _tidy(answer)
    joined = _DIGIT_COMMA.search(text) is not None
    text = text.translate(
        {
            ord(mark): "" if joined or f"{mark} " in text or f" {mark}" in text else " "
            for mark in _PUNCTUATION
        }
    )
    text = _PERIOD.sub("", text, count=_PERIODS_REMOVED)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Official accuracy of one prediction, 0..1.

    The mean, over the human answers, of min(1, matches among the others / 3). Where all answers
    agree to the letter, nothing is normalised: "Yes" then scores 0 against ten times "yes".

    Args:
        prediction: the answer to score.
        answers: the human answers, ten in VQAv2.

    Returns:
        The accuracy; 0.0 if there are no answers.
    """
    if not answers:
        return 0.0
    prediction, answers = _tidy(prediction), [_tidy(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    matches = answers.count(prediction)
    # Leaving out a matching answer leaves one match fewer, leaving out another leaves them all.
    total = matches * min(1, (matches - 1) / 3) + (len(answers) - matches) * min(1, matches / 3)
    return total / len(answers)


def published(prediction: str) -> str:
    """What Tu et al. (2023) made of a prediction before they scored it.

    Cut at the first "Question", "Answer", "###" or "</s>"; then "Yes" if "yes" or "Yes" is
    anywhere in it, else "No" if "no" or "No" is (as in "snow"), else left as it is. Capitals tell:
    ten times "yes" isn't normalised, so that "Yes" scores 0 there.
    """
    text = _CUT.split(prediction, maxsplit=1)[0]
    for word in ("Yes", "No"):
        if word in text or word.lower() in text:
            return word
    return text


def score(
    predictions: Mapping[int, str], annotations: Sequence[Mapping]
) -> tuple[dict[str, float], pd.DataFrame]:
    """Scores predictions against VQAv2 annotations.

    Args:
        predictions: question id -> answer. Ids without an annotation are left aside.
        annotations: rows of the official annotation file, with `question_id`, `image_id`,
            `answer_type` and `answers` (a list of `{"answer": ...}`).

    Returns:
        The metrics, fractions 0..1: `accuracy`, and `accuracy_<type>` for each answer type present
        (`accuracy_yes/no`, `accuracy_number`, `accuracy_other`); and a frame with one row a
        question in the order of `annotations`: question_id, image_id, prediction, reference (the
        most common human answer, the first of equals), score.

    Raises:
        UserError: an annotated question has no prediction or occurs twice, or nothing is annotated.
    """
    check_predictions(
        predictions, (row["question_id"] for row in annotations), "vqa", "question_id"
    )
    rows = []
    for row in annotations:
        prediction = predictions[row["question_id"]]
        answers = [answer["answer"] for answer in row["answers"]]
        rows.append(
            {
                "question_id": row["question_id"],
                "image_id": row["image_id"],
                "prediction": prediction,
                "reference": Counter(answers).most_common(1)[0][0] if answers else "",
                "score": accuracy(prediction, answers),
            }
        )
    items = pd.DataFrame(rows)
    types = pd.Series([row["answer_type"] for row in annotations])
    by_type = items["score"].groupby(types).mean()
    metrics = {"accuracy": float(items["score"].mean())}
    return metrics | {f"accuracy_{kind}": float(value) for kind, value in by_type.items()}, items
