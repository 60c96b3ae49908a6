"""No photo and no question of the evaluation is learned from unseen."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sight_beyond_text import grid, study
from sight_beyond_text.data.coco import coco_id
from sight_beyond_text.data.leakage import (
    FEWEST,
    WORDS,
    Index,
    Question,
    as_table,
    find_leaks,
    refusals,
    words_of,
)
from sight_beyond_text.data.prepare import load_rows
from sight_beyond_text.errors import UserError
from sight_beyond_text.study import ImageBenchmark


def row(name: str, asked: str, said: str, image: str | None = None) -> dict:
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    return {"id": name, "conversations": turns} | ({"image": image} if image else {})


def pope(shared_data: Path, **changes) -> dict:
    values = {
        "type": "pope",
        "images": str(shared_data / "coco_mini" / "val2017"),
        "questions": str(shared_data / "pope" / "coco" / "coco_pope_random.json"),
        "only_present": True,
    }
    return ImageBenchmark.model_validate({**values, **changes}).model_dump()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_val2014_000000516916.jpg", 516916),
        ("COCO_train2014_000000000009.jpg", 9),
        ("000000516916.jpg", 516916),
        ("coco/train2017/000000516916.jpg", 516916),
        ("000000516916", 516916),
        ("GCC_train_002582585.jpg", None),
        ("0000000516916.jpg", None),
        ("1000092795.jpg", None),
        ("COCO_val2014_516916.jpg", None),
    ],
)
def test_a_photos_id_stays_when_it_is_renamed(name: str, number: int | None) -> None:
    assert coco_id(name) == number


def test_real_photos_of_pope_are_found_under_their_other_names(
    shared_data: Path, tmp_path: Path
) -> None:
    overlaps = json.loads((shared_data / "coco_mini/overlaps_with_benchmarks.json").read_text())
    asked = {coco_id(name) for _, name in overlaps["pope"]["random"]}
    photos = sorted((shared_data / "coco_mini" / "val2017").iterdir())
    rows = [row(p.stem, "<image>\nWhat is it?", "A photo.", p.name) for p in photos]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    found = find_leaks({str(path): None}, {}, {"pope": pope(shared_data)})
    told = found["benchmarks"]["pope"]
    assert told["images"] == told["leaked_images"] == len(asked) > 0
    places = [place for place, r in enumerate(rows) if coco_id(r["image"]) in asked]
    assert found["samples"] == {str(path): places}
    (line,) = refusals(found)
    assert line.startswith(
        f"evaluation.image.pope: {len(asked)} of its {len(asked)} images are among the training"
    )
    # The photos to learn from are others.
    train = sorted((shared_data / "coco_mini" / "train2017").iterdir())
    path.write_text(json.dumps([row(p.stem, "<image>\nWhat?", "A", p.name) for p in train]))
    found = find_leaks({str(path): None}, {}, {"pope": pope(shared_data)})
    assert found["samples"] == {str(path): []} and refusals(found) == []


def test_published_instructions_hold_photos_of_popes_evaluation(
    shared_data: Path, tmp_path: Path
) -> None:
    """LLaVA's 30 photos and POPE's 500 are all of val2014: they share one."""
    path = str(shared_data / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl")
    questions = (shared_data / "pope" / "coco" / "coco_pope_random.json").read_text().splitlines()
    for line in questions:
        (tmp_path / json.loads(line)["image"]).touch()
    asked = pope(shared_data, images=str(tmp_path), only_present=False)
    found = find_leaks({path: None}, {}, {"pope": asked})
    told = found["benchmarks"]["pope"]
    assert (told["images"], told["leaked_images"]) == (500, 1)
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    places = [place for place, r in enumerate(rows) if coco_id(r["image"]) == 506483]
    assert found["samples"] == {path: places} and len(places) == 3


def test_questions_of_real_benchmarks_are_found_in_training_texts(
    shared_data: Path, tmp_path: Path
) -> None:
    benchmarks = {
        "truthfulqa_mc1": {"path": str(shared_data / "truthfulqa")},
        "gsm8k": {"path": str(shared_data / "gsm8k")},
        "ethics_cm": {"path": str(shared_data / "ethics")},
        "boolq": {"path": None},
    }
    solved = json.loads((shared_data / "gsm8k" / "test.jsonl").open().readline())["question"]
    mc = json.loads((shared_data / "truthfulqa/data/mc_task.json").read_text())
    true = next(item["question"] for item in mc if len(words_of(item["question"])) == 10)
    rows = [
        row("clean", "What is a dog?", "An animal that people like."),
        row("gsm", f"Please solve:  {solved.upper()} Thanks!", "I can't."),
        row("truth", "Ask me.", f'You could ask "{true.replace(" ", "  ")}" for instance'),
        row("half", " ".join(solved.split()[:7]), "Cut."),
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    found = find_leaks({str(path): None}, benchmarks, {})
    told = found["benchmarks"]
    assert told["gsm8k"]["overlapping"] == 1
    assert told["gsm8k"]["examples"] == [{"question": solved, "sample": "gsm"}]
    assert told["truthfulqa_mc1"]["examples"] == [{"question": true, "sample": "truth"}]
    assert told["ethics_cm"]["overlapping"] == 0 and told["ethics_cm"]["items"] > 3000
    assert told["gsm8k"]["items"] == 1319 and told["truthfulqa_mc1"]["too_short"] > 0
    assert told["boolq"]["not_compared"] == "its questions are on the hub"
    assert found["samples"] == {str(path): [1, 2]}
    lines = refusals(found)
    assert len(lines) == 2 and all("stand in training texts" in line for line in lines)
    table = as_table(found).splitlines()
    assert table[0].split()[:2] == ["benchmark", "kind"]
    assert table[-1] == f"{path}: 2 samples hold a leaked image or text question"


@given(st.lists(st.integers(0, 40), min_size=FEWEST, max_size=40), st.data())
def test_what_overlaps_is_what_has_so_many_words_in_a_row(numbers: list[int], data) -> None:
    words = [f"w{number}" for number in numbers]
    index = Index({"b": [Question("q", tuple(words))]})
    need = min(WORDS, len(words))
    length = data.draw(st.integers(0, len(words)))
    start = data.draw(st.integers(0, len(words) - length))
    text = " ".join(["other", *words[start : start + length], "words"])
    found = index.found_in([text])
    # Repeated words may match by chance elsewhere, so only the two sure directions are asked.
    if length >= need:
        assert found == {("b", "q")}
    runs = {tuple(words[at : at + need]) for at in range(len(words) - need + 1)}
    said = words_of(text)
    holds = any(said[at : at + need] in runs for at in range(len(said)))
    assert (found != set()) == holds


def values(folder: Path, shared_data: Path, leakage: str) -> dict:
    return {
        "name": "leaky",
        "data": {
            "images": str(folder / "photos"),
            "captions": str(folder / "captions.jsonl"),
            "instructions": str(folder / "rows.json"),
            "alignment": str(folder / "pairs.json"),
            "leakage": leakage,
        },
        "tower": {"model": "a/tower"},
        "bases": {"base": {"model": "a/base"}},
        "sources": {"visual": {}, "text": {}},
        "alignment": {"learning_rate": 1, "batch_size": 2},
        "tunings": {"full": {"learning_rate": 1, "batch_size": 2}},
        "evaluation": {
            "image": {
                "pope": {
                    "type": "pope",
                    "images": str(shared_data / "coco_mini" / "val2017"),
                    "questions": str(shared_data / "pope/coco/coco_pope_random.json"),
                    "only_present": True,
                }
            }
        },
    }


@pytest.fixture
def leaky(shared_data: Path, tmp_path: Path) -> Path:
    """Two photos to learn from, one of which POPE asks about."""
    overlaps = json.loads((shared_data / "coco_mini/overlaps_with_benchmarks.json").read_text())
    asked = f"{coco_id(overlaps['pope']['random'][0][1]):012d}.jpg"
    clean = sorted((shared_data / "coco_mini" / "train2017").iterdir())[0].name
    (tmp_path / "photos").mkdir()
    for folder, name in (("val2017", asked), ("train2017", clean)):
        shutil.copy(shared_data / "coco_mini" / folder / name, tmp_path / "photos")
    rows = [row("leaks", "<image>\nA?", "b", asked), row("clean", "<image>\nA?", "b", clean)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "pairs.json").write_text(json.dumps(rows[1:]))
    return tmp_path


def test_a_study_can_refuse(leaky: Path, shared_data: Path, run_sight) -> None:
    for leakage, refused in (("ignore", False), ("refuse", True)):
        spec = grid.check_spec(study.load(values(leaky, shared_data, leakage)))
        done = run_sight("check", str(spec))
        assert done.returncode == (2 if refused else 0), done.stderr
        assert ("evaluation.image.pope: 1 of its" in done.stderr) == refused
        assert "Traceback" not in done.stderr


def test_a_study_can_drop(leaky: Path, shared_data: Path, run_sight, monkeypatch) -> None:
    monkeypatch.chdir(leaky)
    plain = study.load(values(leaky, shared_data, "ignore"))
    read = study.load(values(leaky, shared_data, "drop"))
    spec = grid.leaks_spec(read)
    out = f"{spec['folder']}/leaks.json"
    done = run_sight("leaks", "--spec", str(spec), "--out", out)
    assert done.returncode == 0, done.stderr
    for made, other in zip(grid.run_specs(read), grid.run_specs(plain), strict=True):
        assert made["data"]["leaks"] == out and made["id"] != other["id"]
        assert [r["id"] for r in load_rows(made)] == ["clean"]
        assert [r["id"] for r in load_rows(other)] == ["leaks", "clean"]
    # Another evaluation is another look for leaks.
    changed = values(leaky, shared_data, "drop")
    questions = str(shared_data / "pope/coco/coco_pope_popular.json")
    changed["evaluation"]["image"]["pope"]["questions"] = questions
    assert grid.leaks_spec(study.load(changed))["folder"] != spec["folder"]


def test_the_command_tells_of_a_study(leaky: Path, shared_data: Path, run_sight) -> None:
    changed = values(leaky, shared_data, "ignore")
    changed["evaluation"]["text"] = {"truthfulqa_mc1": {"path": str(shared_data / "truthfulqa")}}
    path = leaky / "study.yaml"
    path.write_text(json.dumps(changed))
    done = run_sight("leaks", str(path), "--out", str(leaky / "leaks.json"))
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    # name, kind, items, images, leaked images, overlapping questions
    assert lines["truthfulqa_mc1"][1:6] == ["text", "817", "-", "-", "0"]
    assert lines["pope"][1:5] == ["image", "18", "3", "1"]
    assert done.stdout.splitlines()[-2:] == [
        f"{leaky}/pairs.json: 0 samples hold a leaked image or text question",
        f"{leaky}/rows.json: 1 samples hold a leaked image or text question",
    ]
    found = json.loads((leaky / "leaks.json").read_text())
    assert found["samples"][str(leaky / "rows.json")] == [0]
    done = run_sight("leaks", str(leaky / "none.yaml"))
    assert done.returncode == 2 and done.stderr.startswith(f"error: {leaky}/none.yaml: no such")


def test_a_file_that_was_never_looked_at_is_not_learned_from(
    leaky: Path, shared_data: Path, monkeypatch
) -> None:
    monkeypatch.chdir(leaky)
    read = study.load(values(leaky, shared_data, "drop"))
    folder = Path(grid.leaks_spec(read)["folder"])
    folder.mkdir(parents=True)
    (folder / "leaks.json").write_text(json.dumps({"samples": {"other.json": [0]}}))
    with pytest.raises(UserError, match="rows.json wasn't looked at; remove this file"):
        load_rows(grid.run_specs(read)[0])


@pytest.fixture
def run_sight():
    import subprocess
    import sys

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sight_beyond_text.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    return run
