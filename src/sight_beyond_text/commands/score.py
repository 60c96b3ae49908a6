"""`sight score`: anybody's predictions, scored as the benchmarks' own evaluators do.

Results are plain dicts under the official metric names. Where Tu et al. (2023) scored otherwise,
their score stands beside it, under `published`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from sight_beyond_text.errors import UserError
from sight_beyond_text.session import session

score = typer.Typer(
    help="Scores anybody's predictions as the benchmarks' own evaluators do.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@score.command("pope")
def pope(
    predictions: Annotated[
        Path, typer.Option(help="JSON lines with question_id and answer (or text); or a folder.")
    ],
    references: Annotated[Path, typer.Option(help="POPE's question file; or the folder of them.")],
    as_json: AsJson = False,
) -> None:
    """Accuracy, precision, recall, F1 and share of yes."""
    with session():
        pairs = _pairs(predictions, references)
        made = {name: score_pope(*pair) for name, pair in pairs.items()}
        _tell(made[""] if "" in made else made, as_json)


@score.command("mme")
def mme(
    predictions: Annotated[
        Path, typer.Option(help="Folder of <subtask>.txt: image, question, right answer, answer.")
    ],
    references: Annotated[
        Path | None, typer.Option(help="Folder of the blank files; else the third column counts.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A subtask to leave out; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Each subtask from 0 to 200, and the sums Perception and Cognition."""
    with session():
        _tell(score_mme(predictions, references, without or ()), as_json)


@score.command("vqa")
def vqa(
    predictions: Annotated[Path, typer.Option(help="Results: a list of question_id and answer.")],
    references: Annotated[Path, typer.Option(help="Official annotations, plain or gzipped.")],
    questions: Annotated[
        Path | None, typer.Option(help="Official questions: score these of the annotations alone.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy over ten answers, in percent: overall, per answer type, per question type."""
    with session():
        _tell(score_vqa(predictions, references, questions), as_json)


@score.command("caption")
def caption(
    predictions: Annotated[Path, typer.Option(help="Results: a list of image_id and caption.")],
    references: Annotated[
        Path, typer.Option(help="{image_id: [captions]}, COCO's captions, or Karpathy's dataset.")
    ],
    split: Annotated[
        str | None, typer.Option(help="Split of a Karpathy file; test by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """BLEU-1 to 4, ROUGE-L, CIDEr; METEOR, SPICE where Java and pycocoevalcap are."""
    with session():
        _tell(score_captions(predictions, references, split), as_json)


def score_pope(predictions: Path, references: Path) -> dict:
    """Scores one file of POPE; see `scorers.pope` for the metrics."""
    from sight_beyond_text.evaluation import predictions as given
    from sight_beyond_text.evaluation import references as official
    from sight_beyond_text.evaluation.scorers import pope as scorer

    asked = official.read_pope_questions(references)
    rows = given.read_pope_predictions(predictions, asked)
    ids = [row["question_id"] for row in asked]
    answers, unknown = given.matched(rows, ids, predictions, "question_id")
    made, _ = scorer.score(answers, asked)
    published, _ = scorer.score(answers, asked, scorer.parse_unstripped)
    return {**made, "published": published, **_counts(asked, unknown)}


def score_mme(predictions: Path, references: Path | None, without: Collection[str] = ()) -> dict:
    """Scores a folder of MME's answers; see `scorers.mme` for the metrics.

    Raises:
        UserError: `without` names no subtask, or what is given contradicts the references.
    """
    from sight_beyond_text.evaluation import predictions as given
    from sight_beyond_text.evaluation import references as official
    from sight_beyond_text.evaluation.scorers import mme as scorer

    for name in without:
        if name not in scorer.SUBTASKS:
            raise UserError(
                f"--without: no subtask {name!r}; there are: {', '.join(scorer.SUBTASKS)}"
            )
    files = given.read_mme_predictions(predictions, without)
    if references is None:
        asked = [
            row
            for subtask, lines in files.items()
            for row in official.mme_questions(subtask, predictions / f"{subtask}.txt", lines)
        ]
    else:
        asked = official.read_mme_questions(references, without)
    answers, unknown = given.matched_mme(files, asked, predictions)
    _, items = scorer.score(answers, asked)
    _, stripped = scorer.score({key: text.strip() for key, text in answers.items()}, asked)
    parts = scorer.subtask_scores(items)
    scores = (100 * parts.sum(axis=1)).to_dict()
    published = (100 * scorer.subtask_scores(stripped).sum(axis=1)).to_dict()
    others = (items["parsed"] == "other").groupby(items["subtask"]).sum()
    return {
        **scorer.totals(scores),
        **scores,
        "acc": parts["acc"].to_dict(),
        "acc_plus": parts["acc_plus"].to_dict(),
        "other_num": {name: int(others[name]) for name in parts.index},
        "published": {
            **scorer.totals(published, scorer.NOT_PUBLISHED),
            **{k: v for k, v in published.items() if k not in scorer.NOT_PUBLISHED},
        },
        **_counts(asked, unknown),
    }


def score_vqa(predictions: Path, references: Path, questions: Path | None = None) -> dict:
    """Scores a VQA results file, in percent with two decimals as the official evaluator gives it.

    Raises:
        UserError: `questions` holds some that have no annotation.
    """
    from sight_beyond_text.evaluation import predictions as given
    from sight_beyond_text.evaluation import references as official
    from sight_beyond_text.evaluation.scorers import shown
    from sight_beyond_text.evaluation.scorers import vqa as scorer

    annotated = official.read_vqa_annotations(references)
    if questions is not None:
        by_id = {row["question_id"]: row for row in annotated}
        asked = [row["question_id"] for row in official.read_vqa_questions(questions)]
        bare = [key for key in asked if key not in by_id]
        if bare:
            raise UserError(
                f"{references}: no answers to {len(bare)} of the {len(asked)} questions in"
                f" {questions} ({shown(bare)}); give the annotations that belong to them"
            )
        annotated = [by_id[key] for key in asked]
    rows = given.read_vqa_predictions(predictions)
    ids = [row["question_id"] for row in annotated]
    answers, unknown = given.matched(rows, ids, predictions, "question_id")
    _, items = scorer.score(answers, annotated)
    published = {key: scorer.published(text) for key, text in answers.items()}
    _, published_items = scorer.score(published, annotated)
    return {
        **_accuracies(items["score"], annotated),
        "published": _accuracies(published_items["score"], annotated),
        **_counts(annotated, unknown),
    }


def score_captions(predictions: Path, references: Path, split: str | None = None) -> dict:
    """Scores a COCO results file; see `scorers.captions` and `scorers.java` for the metrics."""
    from sight_beyond_text.evaluation import predictions as given
    from sight_beyond_text.evaluation import references as official
    from sight_beyond_text.evaluation.scorers import captions as scorer
    from sight_beyond_text.evaluation.scorers import java

    read = official.read_captions(references, split)
    truths = {row["id"]: row["captions"] for row in read}
    rows = given.read_captions_predictions(predictions)
    names = official.other_names(read)
    said, unknown = given.matched(rows, truths, predictions, "image_id", names)
    made, _ = scorer.score(said, truths)
    more, notices = java.score(said, truths)
    for notice in notices:
        typer.echo(notice, err=True)
    return {**made, **more, **_counts(truths, unknown)}


def _accuracies(scores, annotated: list[dict]) -> dict:
    made: dict = {"overall": round(100 * float(scores.mean()), 2)}
    for name, key in (("perQuestionType", "question_type"), ("perAnswerType", "answer_type")):
        if all(key in row for row in annotated):
            means = scores.groupby([row[key] for row in annotated]).mean()
            made[name] = {kind: round(100 * float(mean), 2) for kind, mean in means.items()}
    return made


def _counts(scored: Collection, unknown: list) -> dict:
    from sight_beyond_text.evaluation.scorers import shown

    if unknown:
        typer.echo(
            f"{len(unknown)} prediction(s) left aside, as nothing asks for them: {shown(unknown)}",
            err=True,
        )
    return {"n": len(scored), "unknown_predictions": len(unknown)}


def _pairs(predictions: Path, references: Path) -> dict[str, tuple[Path, Path]]:
    """Files of predictions with their references; in folders, by name or by split."""
    asked = _json_files(references) if references.is_dir() else [references]
    if not predictions.is_dir():
        if references.is_dir():
            raise UserError(
                f"{predictions}: no folder, but --references is one; give one question file, or a"
                " folder with predictions for each"
            )
        return {"": (predictions, references)}
    files = _json_files(predictions)
    splits = Counter(_stem(reference).rsplit("_", 1)[-1] for reference in asked)
    pairs = {}
    for reference in asked:
        name = _stem(reference)
        found = [path for path in files if _stem(path) == name]
        split = name.rsplit("_", 1)[-1]
        # Where several files are of a split, it names none of them.
        if splits[split] == 1:
            name = split
            found = found or [path for path in files if split in _stem(path).split("_")]
        if len(found) != 1 or name in pairs:
            count = len(found) if len(found) != 1 else "two"
            raise UserError(
                f"{predictions}: {count} files for {reference.name}; name one {name}.jsonl"
            )
        pairs[name] = (found[0], reference)
    return pairs


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _json_files(folder: Path) -> list[Path]:
    kinds = (".json", ".jsonl")
    files = [
        path for path in sorted(folder.iterdir()) if path.name.removesuffix(".gz").endswith(kinds)
    ]
    if not files:
        raise UserError(f"{folder}: no .json or .jsonl files in this folder; give another")
    return files


def _tell(made: dict, as_json: bool) -> None:
    print(json.dumps(made, indent=1, ensure_ascii=False) if as_json else as_table(made))


def as_table(made: dict) -> str:
    """A result as text: a line a metric, the published score beside it where there is one.

    Accuracies by question type and the parts of MME's scores are left to the JSON.
    """
    if all(isinstance(value, dict) for value in made.values()):
        return "\n\n".join(f"{name}\n{as_table(value)}" for name, value in made.items())
    published = dict(_flat(made.get("published", {})))
    own = dict(_flat(made))
    width = max(map(len, own))
    lines = [f"{'':{width}}  {'official':>9}  {'published':>9}".rstrip()] if published else []
    for name, value in own.items():
        texts = [_number(value)] + ([_number(published[name])] if name in published else [])
        lines.append(f"{name:{width}}  " + "  ".join(f"{text:>9}" for text in texts))
    return "\n".join(lines)


_IN_JSON_ALONE = ("published", "perQuestionType", "acc", "acc_plus", "other_num")


def _flat(made: dict, before: str = ""):
    for key, value in made.items():
        if key in _IN_JSON_ALONE:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key} ")
        else:
            yield before + key, value


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"
