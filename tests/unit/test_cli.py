"""`sight` at the terminal: lists, specs, logs, and mistakes in one line each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from sight_beyond_text.study import schema


@pytest.fixture
def sight(repository: Path):
    """Runs `sight` in the repository's root."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sight_beyond_text.cli", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(repository / "src"), "NO_COLOR": "1"}
        return subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, timeout=120
        )

    return run


def coco(folder: Path) -> list[str | Path]:
    """A COCO of one picture in a folder, as options of commands that read it."""
    images = [{"id": 1, "file_name": "1.png", "width": 10, "height": 10}]
    notes = [
        {"id": name, "image_id": 1, "category_id": name, "bbox": [0, 0, 2, 2]} for name in (1, 2)
    ]
    said = [{"id": 1, "image_id": 1, "caption": "A dog."}]
    kinds = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    for name, content in (
        ("captions", {"images": images, "annotations": said}),
        ("instances", {"images": images, "annotations": notes, "categories": kinds}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "1.png").touch()
    return ["--captions", folder / "captions.json", "--instances", folder / "instances.json"]


# Studies


def test_plan_lists_the_default_grid_and_what_was_pruned(sight) -> None:
    done = sight("plan", "--json")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert planned["study"] == "micro"
    assert len(planned["runs"]) == len({run["run"] for run in planned["runs"]}) == 20
    assert {(cell["base"], cell["source"], cell["tuning"]) for cell in planned["pruned"]} == {
        (base, source, "frozen")
        for base in ("micro-base", "micro-chat")
        for source in ("caption", "text")
    }
    assert len(planned["pruned"]) == 4
    assert {cell["reason"] for cell in planned["pruned"]} == {
        "frozen without images: nothing would learn"
    }
    assert "pope" in planned["benchmarks"]["image"] and "mmlu" in planned["benchmarks"]["text"]


def test_plan_as_a_table_tells_the_same(sight) -> None:
    told = sight("plan", "config.yaml").stdout
    planned = json.loads(sight("plan", "--json").stdout)
    assert all(run["run"] in told for run in planned["runs"])
    assert "20 runs" in told and "Pruned: 4 cells" in told
    assert "  micro-chat text frozen seed 0: frozen without images: nothing would learn" in told


def test_plan_takes_the_study_as_snakemake_does(sight) -> None:
    named = sight("plan", "--configfile", "workflow/studies/laptop.yaml")
    assert named.returncode == 0 and named.stdout.startswith("Study laptop: ")
    assert named.stdout == sight("plan", "workflow/studies/laptop.yaml").stdout
    both = sight("plan", "config.yaml", "--configfile", "workflow/studies/laptop.yaml")
    assert both.returncode == 2
    assert both.stderr == (
        "error: two study files, config.yaml and workflow/studies/laptop.yaml; give one\n"
    )


def test_plan_reckons_with_another_gpu_and_another_guess(sight) -> None:
    laptop = ("plan", "workflow/studies/laptop.yaml", "--json")
    usual = json.loads(sight(*laptop).stdout)
    other = json.loads(sight(*laptop, "--gpu", "h100", "--discordance", "0.1").stdout)
    assert (usual["hardware"]["gpu"], other["hardware"]["gpu"]) == ("8 GB laptop", "h100")
    assert other["left"]["gpu_hours"] < usual["left"]["gpu_hours"]
    assert other["effects"][0]["pair"] < usual["effects"][0]["pair"]
    unknown = sight("plan", "--gpu", "h1000")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: --gpu: 'h1000' isn't known; there are: b200, h200, ")


def test_a_misspelt_key_is_told_in_one_line_without_a_traceback(
    sight, repository: Path, tmp_path: Path
) -> None:
    text = (repository / "config.yaml").read_text()
    path = tmp_path / "study.yaml"
    assert "\nseeds:" in text
    path.write_text(text.replace("\nseeds:", "\nseedz:"))
    line = text.splitlines().index(next(r for r in text.splitlines() if r.startswith("seeds:"))) + 1
    done = sight("plan", path)
    assert done.returncode == 2 and done.stdout == ""
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"error: {path}:{line}: seedz: unknown key; did you mean 'seeds'?")


def test_missing_inputs_are_all_told_before_anything_is_done(
    sight, repository: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load((repository / "config.yaml").read_text())
    values["data"]["captions"] = "nowhere/captions.json"
    values["evaluation"]["image"]["pope"]["questions"] = "nowhere/pope.json"
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    done = sight("plan", path)
    assert done.returncode == 2
    told = done.stderr.splitlines()
    keys = ["data.captions", "evaluation.image.pope.questions"]
    assert [line.split(": ")[2] for line in told] == keys
    lines = path.read_text().splitlines()
    for line, key in zip(told, keys, strict=True):
        place = line.split(": ")[1].rsplit(":", 1)
        assert place[0] == str(path) and key.split(".")[-1] in lines[int(place[1]) - 1]


def test_spec_prints_what_plan_lists(sight) -> None:
    run = json.loads(sight("plan", "--json").stdout)["runs"][0]
    done = sight("spec", run["run"])
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)
    assert spec["id"] == run["run"] and spec["stage"] == "tune"
    alignment = Path(spec["projector"]).parent.name
    aligned = json.loads(sight("spec", alignment).stdout)
    assert aligned["id"] == alignment and aligned["stage"] == "align"


def test_spec_of_an_unknown_run_says_where_runs_are_listed(sight) -> None:
    done = sight("spec", "nothing")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: config.yaml: no step 'nothing'; `sight plan config.yaml` lists the runs\n"
    )


def test_schema_is_printed_or_written(sight, tmp_path: Path) -> None:
    path = tmp_path / "made" / "schema.json"
    assert sight("schema", "--out", path).returncode == 0
    assert json.loads(sight("schema").stdout) == json.loads(path.read_text()) == schema()
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize("text", ["{", "[]", "results/runs/x"])
def test_a_spec_that_is_none_is_refused_in_one_line(sight, text: str) -> None:
    done = sight("check", text)
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith("error: not ") and "`sight spec` prints specs" in told


# Logs


def test_output_goes_to_the_log(sight, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "made.log"
    options = [*coco(tmp_path), "--images", tmp_path, "--out", tmp_path / "made"]
    done = sight("instructions", *options, "--log", log)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "1 image and caption pairs" in log.read_text()
    assert len(json.loads((tmp_path / "made/alignment.json").read_text())) == 1
    rows = json.loads((tmp_path / "made/instructions.json").read_text())
    assert rows and all(row["image"] == "1.png" for row in rows)
    without = sight("instructions", *options)
    assert without.stdout == log.read_text()


def test_a_users_mistake_is_in_the_log_and_at_the_terminal(sight, tmp_path: Path) -> None:
    log = tmp_path / "made.log"
    options = [*coco(tmp_path), "--images", tmp_path, "--out", tmp_path / "made", "--log", log]
    (tmp_path / "1.png").unlink()
    done = sight("instructions", *options)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == log.read_text()
    assert done.stderr.startswith(f"error: {tmp_path}: 1 image(s) missing, the first is 1.png;")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_an_unexpected_error_is_one_line_and_its_traceback_is_in_the_log(
    sight, tmp_path: Path
) -> None:
    log = tmp_path / "check.log"
    made = ("--tables", tmp_path, "--record", tmp_path / "compare.json")
    done = sight("compare", "{}", *made, "--log", log)
    assert done.returncode == 1 and done.stdout == ""
    expected = f"error: unexpected KeyError: 'subjects'; the traceback is in {log}\n"
    assert done.stderr == expected
    assert log.read_text().startswith("Traceback (most recent call last):")
    assert log.read_text().endswith(expected)


def test_a_log_holds_the_last_attempt_alone(sight, tmp_path: Path) -> None:
    log = tmp_path / "check.log"
    log.write_text("an older attempt")
    sight("check", '{"text": {}, "image": {}}', "--log", log)
    assert log.read_text() == ""


# Data


def test_check_tells_the_mistakes_of_both_suites(sight, tmp_path: Path) -> None:
    benchmarks = {
        "text": {"boolq": {"task": None, "path": str(tmp_path / "boolq"), "fewshot": None}},
        "image": {
            "pope": {
                "type": "pope",
                "images": str(tmp_path),
                "questions": str(tmp_path / "pope.json"),
                "annotations": None,
                "prompt": None,
                "limit": None,
                "only_present": False,
            }
        },
    }
    done = sight("check", json.dumps(benchmarks))
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert len(told) == 2 and "Traceback" not in done.stderr
    assert str(tmp_path / "boolq") in told[0] and str(tmp_path / "pope.json") in told[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ('{"turn": 2}', "turn: unknown key; did you mean 'turns'?"),
        ('{"detail": 2}', "detail: found 2; input should be less than or equal to 1"),
    ],
)
def test_settings_of_instructions_are_checked(sight, tmp_path: Path, make, message) -> None:
    options = [*coco(tmp_path), "--images", tmp_path, "--out", tmp_path / "made"]
    done = sight("instructions", *options, "--make", make)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --make: {message}") and done.stderr.count("\n") == 1


def test_pope_writes_questions(sight, tmp_path: Path) -> None:
    options, out = coco(tmp_path), tmp_path / "pope.json"
    images = [{"id": n, "file_name": f"{n}.png", "width": 1, "height": 1} for n in (1, 2)]
    notes = [{"id": n, "image_id": n, "category_id": n, "bbox": [0, 0, 1, 1]} for n in (1, 2)]
    kinds = [{"id": 1, "name": "dog"}, {"id": 2, "name": "ape"}]
    content = {"images": images, "annotations": notes, "categories": kinds}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": []}))
    assert sight("pope", *options, "--out", out, "--strategy", "popular").returncode == 0
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == [
        "Is there a dog in the image?",
        "Is there an ape in the image?",
        "Is there an ape in the image?",
        "Is there a dog in the image?",
    ]


def test_planning_needs_no_heavy_library(repository: Path) -> None:
    """What users type most must answer at once."""
    code = (
        "import sys; from sight_beyond_text import cli, plan, study;"
        "plan.plan(study.read('config.yaml'));"
        "print(sorted({'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(repository / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_spec_longer_than_an_argument_may_be_comes_by_stdin(tmp_path):
    spec = json.dumps({"text": {}, "note": "x" * 200_000})
    command = [sys.executable, "-m", "sight_beyond_text.cli", "check", "-"]
    done = subprocess.run(command, input=spec, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    broken = subprocess.run(command, input=spec[:-1], capture_output=True, text=True, cwd=tmp_path)
    assert broken.returncode == 2 and broken.stderr.startswith("error: not JSON: '{\"text")
