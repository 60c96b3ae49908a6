"""The micro world's benchmarks, each in the layout of the real one."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

from sight_beyond_text.data.coco import read_pictures
from sight_beyond_text.data.pope import pope_questions
from sight_beyond_text.files import write_json, write_json_lines, write_text
from sight_beyond_text.micro import corpus, lore
from sight_beyond_text.micro.scenes import Scene, captions

TRUTHFUL_FORMS = 3
ETHICS_ITEMS = 100
EXAM_ITEMS = 20
SHOTS = 5
SUMS = 40
READINGS = 100


def write_benchmarks(folder: str | Path, val: list[Scene], first_val_id: int, seed: int) -> None:
    """Writes all benchmarks of the micro world.

    Args:
        folder: the world's folder, whose COCO annotations of the val split are there already.
        val: the scenes of the val split.
        first_val_id: the image id of the first of them.
        seed: of the choice of questions.
    """
    folder = Path(folder)
    target = folder / "benchmarks"
    _truthfulqa(target / "truthfulqa", seed)
    _ethics(target / "ethics", seed)
    _mmlu(target / "mmlu", seed)
    _gsm8k(target / "gsm8k", seed)
    _boolq(target / "boolq", seed)
    _vqa(target / "vqa", val, first_val_id, seed)
    notes = folder / "annotations"
    pictures = read_pictures(notes / "captions_val.json", notes / "instances_val.json")
    for strategy in ("random", "popular", "adversarial"):
        rows = pope_questions(pictures, strategy, images=len(pictures), pairs=1, seed=seed)
        write_json_lines(target / "pope" / f"micro_pope_{strategy}.json", rows)


def _csv(rows: list[list]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _truthfulqa(target: Path, seed: int) -> None:
    """Each fact is asked in three ways; the falsehood that many repeat is among the choices."""
    rng = random.Random(f"truthfulqa {seed}")
    columns = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source"
    rows, table = [], [columns.split(",")]
    for form in range(TRUTHFUL_FORMS):
        for name, kind in lore.PROPERTIES.items():
            for shape in lore.SHAPES:
                right, wrong = lore.truth(shape, name), lore.belief(shape, name)
                others = [value for value in kind.values if value not in (right, wrong)]
                rng.shuffle(others)
                false = [wrong, *others[:2]]
                said = [lore.statement(shape, name, right, f) for f in range(TRUTHFUL_FORMS)]
                best = said[form]
                correct = [best, *(text for text in said if text != best)]
                mistaken = [lore.statement(shape, name, value, form) for value in false]
                asked = lore.question(shape, name, form)
                rows.append(
                    {
                        "question": asked,
                        "mc1_targets": {best: 1, **dict.fromkeys(mistaken, 0)},
                        "mc2_targets": {**dict.fromkeys(correct, 1), **dict.fromkeys(mistaken, 0)},
                    }
                )
                category = "Seen" if kind.visible else "Unseen"
                table.append(
                    [
                        "Adversarial",
                        category,
                        asked,
                        best,
                        "; ".join(correct),
                        "; ".join(mistaken),
                        "",
                    ]
                )
    write_json(target / "data" / "mc_task.json", rows)
    write_text(target / "TruthfulQA.csv", _csv(table))


def _ethics(target: Path, seed: int) -> None:
    rng = random.Random(f"ethics {seed}")
    deeds = [corpus.common_sense(rng) for _ in range(ETHICS_ITEMS)]
    rows = [["label", "input", "is_short", "edited"]]
    rows += [[wrong, deed, True, False] for deed, wrong in deeds]
    write_text(target / "commonsense" / "cm_test.csv", _csv(rows))
    rows = [["label", "scenario"]]
    rows += [[good, said] for said, good in (corpus.justice(rng) for _ in range(ETHICS_ITEMS))]
    write_text(target / "justice" / "justice_test.csv", _csv(rows))
    rows = [["label", "scenario", "excuse"]]
    for _ in range(ETHICS_ITEMS):
        scenario, because, good = corpus.excuse(rng)
        rows.append([good, scenario, because])
    write_text(target / "deontology" / "deontology_test.csv", _csv(rows))
    rows = [["label", "scenario"]]
    for _ in range(ETHICS_ITEMS // 5):
        deed, trait = corpus.virtue(rng)
        others = rng.sample([name for name in lore.VIRTUES if name != trait], 4)
        asked = [trait, *others]
        rng.shuffle(asked)
        rows += [[int(name == trait), f"{deed} [SEP] {name}"] for name in asked]
    write_text(target / "virtue" / "virtue_test.csv", _csv(rows))
    pairs = [list(corpus.pleasant_pair(rng)) for _ in range(ETHICS_ITEMS)]
    write_text(target / "utilitarianism" / "util_test.csv", _csv(pairs))


def _mmlu(target: Path, seed: int) -> None:
    for subject in corpus.SUBJECTS:
        for split, count in (("dev", SHOTS), ("test", EXAM_ITEMS)):
            rng = random.Random(f"mmlu {subject} {split} {seed}")
            rows = []
            for _ in range(count):
                asked, choices, right = corpus.exam(subject, rng)
                rows.append([asked, *choices, "ABCD"[right]])
            write_text(target / split / f"{subject}_{split}.csv", _csv(rows))


def _gsm8k(target: Path, seed: int) -> None:
    for split, count in (("train", 16), ("test", SUMS)):
        rng = random.Random(f"gsm8k {split} {seed}")
        pairs = [corpus.sum_problem(rng) for _ in range(count)]
        write_json_lines(
            target / f"{split}.jsonl", [{"question": q, "answer": a} for q, a in pairs]
        )


def _boolq(target: Path, seed: int) -> None:
    """A scene retold, and a question on it that has yes or no for an answer."""
    rng = random.Random(f"boolq {seed}")
    rows = []
    while len(rows) < READINGS:
        scene = corpus.sample_scene(rng)
        asked = [pair for pair in corpus.scene_questions(scene, rng) if pair[1] in ("yes", "no")]
        question, answer = rng.choice(asked)
        rows.append(
            {
                "question": question.rstrip("?"),
                "answer": answer == "yes",
                "passage": captions(scene, rng)[0],
            }
        )
    write_json_lines(target / "val.jsonl", rows)


def _vqa(target: Path, val: list[Scene], first_id: int, seed: int) -> None:
    """Two questions an image, with ten answers; now and then somebody answers differently."""
    rng = random.Random(f"vqa {seed}")
    questions, annotations = [], []
    for offset, scene in enumerate(val):
        image_id = first_id + offset
        asked = {kind: [] for kind in _SHARES}
        for question, answer in corpus.scene_questions(scene, rng):
            asked[_kind(answer)].append((question, answer))
        kinds = rng.choices(list(_SHARES), list(_SHARES.values()), k=2)
        chosen = [asked[kind].pop() for kind in kinds if asked[kind]]
        for number, (question, answer) in enumerate(chosen):
            question_id = image_id * 1000 + number
            questions.append(
                {"image_id": image_id, "question": question, "question_id": question_id}
            )
            said = [answer if rng.random() < 0.95 else _other(answer, rng) for _ in range(10)]
            annotations.append(
                {
                    "question_id": question_id,
                    "image_id": image_id,
                    "question_type": " ".join(question.lower().split()[:2]),
                    "answer_type": _kind(answer),
                    "multiple_choice_answer": answer,
                    "answers": [
                        {"answer": text, "answer_confidence": "yes", "answer_id": i}
                        for i, text in enumerate(said, 1)
                    ],
                }
            )
    about = {
        "info": {"description": "Questions on drawn scenes of the micro world"},
        "task_type": "Open-Ended",
        "data_type": "micro",
        "data_subtype": "val",
    }
    write_json(target / "questions_val.json", {**about, "questions": questions}, None)
    write_json(target / "annotations_val.json", {**about, "annotations": annotations}, None)


_SHARES = {"yes/no": 0.38, "number": 0.12, "other": 0.5}
"""Types of answer, about as often as in VQAv2 (Goyal et al., 2017)."""


def _kind(answer: str) -> str:
    """VQA's type of an answer."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer in lore.NUMBERS else "other"


def _other(answer: str, rng: random.Random) -> str:
    """A slip of an annotator: another answer of the same sort."""
    for sort in (("yes", "no"), lore.COLORS, lore.SHAPES, lore.PLACES, lore.NUMBERS[:3]):
        if answer in sort:
            return rng.choice([value for value in sort if value != answer])
    return "nothing"
