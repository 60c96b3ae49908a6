"""Questions of the image benchmarks, with the images they are about."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation import references
from sight_beyond_text.evaluation.scorers import java

PROMPTS = {
    "vqa": "{question}",
    "pope": "{question}",
    "mme": "{question}",
    "captions": "Please provide a description of the picture.",
}
"""What is put to the model where a study says nothing else."""


def load_questions(name: str, benchmark: Mapping) -> list[dict]:
    """Reads one image benchmark.

    Args:
        name: the benchmark's name in the study, for errors.
        benchmark: `study.ImageBenchmark` as a dict.

    Returns:
        Rows `{item, image, prompt, annotation}`; `image` is a path in the folder of images,
        `annotation` what the scorer needs. Where there are some, `shots` are the (prompt, answer)
        pairs that come before, in words alone.

    Raises:
        UserError: files that are missing or broken, or questions whose image is missing (unless
            `only_present`, which leaves them out).
    """
    reader = {"vqa": _vqa, "pope": _pope, "mme": _mme, "captions": _captions}[benchmark["type"]]
    prompt = benchmark["prompt"] or PROMPTS[benchmark["type"]]
    rows = []
    for item, image, text, annotation, *more in reader(name, benchmark):
        row = {
            "item": str(item),
            "image": image,
            "prompt": prompt.replace("{question}", text),
            "annotation": annotation,
        }
        for shots in more:
            row["shots"] = [(prompt.replace("{question}", asked), said) for asked, said in shots]
        rows.append(row)
    folder = Path(benchmark["images"])
    present = {image for image in {row["image"] for row in rows} if (folder / image).is_file()}
    missing = [row for row in rows if row["image"] not in present]
    if benchmark["only_present"]:
        print(f"{name}: {len(missing)} of {len(rows)} questions left out, their image isn't here")
        rows = [row for row in rows if row["image"] in present]
    elif missing:
        files = {row["image"] for row in missing}
        raise UserError(
            f"evaluation.image.{name}: {len(missing)} of {len(rows)} questions have no image in"
            f" {folder} ({len(files)} missing), the first is {missing[0]['image']} of"
            f" {missing[0]['item']}; fetch the images or set only_present"
        )
    rows = rows[: benchmark["limit"]]
    if not rows:
        raise UserError(f"evaluation.image.{name}: no questions about the images in {folder}")
    return rows


def load_all(benchmarks: Mapping[str, Mapping]) -> dict[str, list[dict]]:
    """Questions of several benchmarks, by name; corrupted twins share those of the clean one.

    Raises:
        UserError: all mistakes, a line each.
    """
    read: dict[str, list[dict]] = {}
    asked, lines = {}, []
    for name, benchmark in benchmarks.items():
        clean = {key: value for key, value in benchmark.items() if key != "corruption"}
        what = json.dumps(clean, sort_keys=True)
        try:
            if what not in read:
                read[what] = []
                read[what] = load_questions(name, benchmark)
        except UserError as error:
            lines.append(str(error))
        asked[name] = read[what]
    if lines:
        raise UserError("\n".join(lines))
    return asked


def check_image(benchmarks: Mapping[str, Mapping]) -> None:
    """Reads every image benchmark, so that what's wrong is known before anything is trained.

    Raises:
        UserError: all mistakes, a line each: what `load_all` raises, and metrics that can't be
            computed here.
    """
    lines = [
        f"evaluation.image.{name}.more_metrics: {metric}: {reason}; or take it out"
        for name, benchmark in benchmarks.items()
        if "corruption" not in benchmark
        for metric in benchmark.get("more_metrics", ())
        if (reason := java.lacking(metric)) is not None
    ]
    try:
        load_all(benchmarks)
    except UserError as error:
        lines.insert(0, str(error))
    if lines:
        raise UserError("\n".join(lines))


def _needs(name: str, benchmark: Mapping, key: str) -> str:
    if benchmark[key] is None:
        raise UserError(f"evaluation.image.{name}.{key}: is missing; {benchmark['type']} needs it")
    return benchmark[key]


def _vqa(name: str, benchmark: Mapping) -> Iterable[tuple]:
    path, answers = _needs(name, benchmark, "questions"), _needs(name, benchmark, "annotations")
    questions = references.read_vqa_questions(path)
    pool = questions
    if benchmark.get("subset") == "published":
        shown, scored = references.published_subset(len(questions), path)
        pool, questions = ([questions[place] for place in places] for places in (shown, scored))
    by_id = {row["question_id"]: row for row in references.read_vqa_annotations(answers)}
    names = _image_names(benchmark["images"])

    def annotated(key: int) -> dict:
        if key not in by_id:
            raise UserError(
                f"{answers}: no answers to question_id {key} of {path}; fetch both again"
            )
        return by_id[key]

    count = benchmark.get("shots", 0)
    about_one = max(Counter(row["image_id"] for row in pool).values())
    for row in questions:
        key = row["question_id"]
        image = names.get(row["image_id"], f"{row['image_id']:012d}.jpg")
        asked = [key, image, row["question"], annotated(key)]
        if count:
            # By the question alone, so that neither order nor what else is asked changes it.
            drawn = random.Random(f"shots {key}").sample(pool, min(len(pool), count + about_one))
            shots = [one for one in drawn if one["image_id"] != row["image_id"]][:count]
            if len(shots) < count:
                raise UserError(
                    f"evaluation.image.{name}.shots: {count} asked for, {path} has {len(shots)}"
                    f" questions about other images than that of {key}; lower it"
                )
            asked.append(
                [
                    (one["question"], annotated(one["question_id"])["answers"][0]["answer"])
                    for one in shots
                ]
            )
        yield tuple(asked)


def _pope(name: str, benchmark: Mapping) -> Iterable[tuple]:
    names = _image_names(benchmark["images"])
    for row in references.read_pope_questions(_needs(name, benchmark, "questions")):
        yield row["question_id"], _renamed(row["image"], names), row["text"], row


def _mme(name: str, benchmark: Mapping) -> Iterable[tuple]:
    """Images lie in `<subtask>/images/` or in `<subtask>/`, as the release has them."""
    folder = Path(benchmark["images"])
    questions = references.read_mme_questions(
        _needs(name, benchmark, "questions"), benchmark.get("without", ())
    )
    subtasks = {row["subtask"] for row in questions}
    apart = {subtask: (folder / subtask / "images").is_dir() for subtask in subtasks}
    for row in questions:
        inside = f"{row['subtask']}/images" if apart[row["subtask"]] else row["subtask"]
        yield row["question_id"], f"{inside}/{row['image']}", row["text"], row


def _captions(name: str, benchmark: Mapping) -> Iterable[tuple]:
    path = _needs(name, benchmark, "annotations")
    names = _image_names(benchmark["images"])
    for row in references.read_captions(path, benchmark.get("split")):
        yield row["id"], _renamed(row["image"], names), "", row["captions"]


def _image_names(folder: str) -> dict[int, str]:
    """COCO's image ids, as the file names of a folder tell them (2014's and 2017's naming)."""
    names = {}
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        digits = path.stem.rsplit("_", 1)[-1]
        if _is_coco(digits):
            names[int(digits)] = path.name
    return names


def _renamed(given: str, names: Mapping[int, str]) -> str:
    """A COCO file name as it is in the folder, whichever year's naming either has."""
    digits = Path(given).stem.rsplit("_", 1)[-1]
    return names.get(int(digits), given) if _is_coco(digits) else given


def _is_coco(digits: str) -> bool:
    return len(digits) == 12 and digits.isdecimal()
