"""What no study refers to is listed, and removed if asked for; nothing else is touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sight_beyond_text import garbage, grid, study
from sight_beyond_text.errors import UserError
from sight_beyond_text.locks import held

TINY = Path(__file__).parents[1] / "workflow" / "tiny.yaml"


def fill(folder: Path) -> None:
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "weights").write_bytes(bytes(1000))
    (folder / "train.json").write_text("{}")


@pytest.fixture
def place(tmp_path, monkeypatch) -> tuple[Path, study.Study]:
    """A folder in which all of the tiny study was made, and things of others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.read_text())
    read = study.read("tiny.yaml")
    for name in garbage.referred(read, "tiny.yaml"):
        if name.startswith(("results/", "resources/")):
            fill(tmp_path / name)
    for name in FOREIGN:
        fill(tmp_path / name)
    (tmp_path / "resources/imported/llava-11223344.json").write_text("{}")
    return tmp_path, read


FOREIGN = {
    "results/runs/other-visual-full-s0-00000000": "run",
    "results/alignments/other-align-s0-00000000": "alignment",
    "results/studies/other": "study",
    "resources/features/00000000": "features",
    "resources/instructions/00000000": "instructions",
    "resources/micro/00000000": "world",
    "resources/imported/llava-11223344": "import",
    "resources/fetched/photos-00000000": "download",
}


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def find(read: study.Study) -> list[dict]:
    return garbage.find({"tiny.yaml": read}, "results", "resources")


def test_all_that_a_study_makes_is_kept_and_all_else_is_found(place):
    folder, read = place
    found = {row["path"]: row for row in find(read)}
    assert {path: row["kind"] for path, row in found.items()} == FOREIGN
    for row in found.values():
        assert row["bytes"] >= 1002 and not row["locked"] and row["changed"][:2] == "20"


def test_scores_by_old_settings_are_found_in_a_run_that_is_kept(place):
    folder, read = place
    old = f"{grid.RUNS}/{grid.run_specs(read)[0]['id']}/text-00000000"
    fill(folder / old)
    assert {row["path"]: row["kind"] for row in find(read)} == {**FOREIGN, old: "evaluation"}


def test_a_second_study_keeps_its_own(place):
    folder, read = place
    values = yaml.safe_load(TINY.read_text())
    values["seeds"] = [7]
    other = study.load(values)
    for spec in grid.run_specs(other):
        fill(folder / grid.RUNS / spec["id"])
    assert len(find(read)) == len(FOREIGN) + 4
    found = garbage.find({"tiny.yaml": read, "other.yaml": other}, "results", "resources")
    assert len(found) == len(FOREIGN)


def test_what_a_reference_names_is_kept(place):
    folder, read = place
    run = next(path for path, kind in FOREIGN.items() if kind == "run")
    checkpoint = folder / run / "checkpoint"
    checkpoint.mkdir()
    record = {"recipe": {"mode": "full", "base": None}, "files": {}}
    (checkpoint / "complete.json").write_text(json.dumps(record))
    values = yaml.safe_load(TINY.read_text())
    mine = {"model": "micro:models/base", "checkpoint": f"{run}/checkpoint"}
    values["references"] = {"mine": mine}
    assert run not in {row["path"] for row in find(study.load(values))}


def test_what_a_living_process_makes_stays(place):
    folder, read = place
    run = folder / next(path for path, kind in FOREIGN.items() if kind == "run")
    scores = run / "text-00000000"
    scores.mkdir()
    for locked in (run, scores):
        with held([locked]):
            rows = find(read)
            assert [row["locked"] for row in rows if row["kind"] == "run"] == [True]
            gone = garbage.remove(row for row in rows if row["kind"] == "run")
            assert [row["removed"] for row in gone] == [False] and (run / "train.json").exists()
    assert garbage.remove(row for row in find(read) if row["kind"] == "run")[0]["removed"]
    assert not run.exists()


def test_links_lead_elsewhere_and_are_left_alone(place, tmp_path_factory):
    folder, read = place
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    fill(elsewhere / "run")
    (folder / grid.RUNS / "linked").symlink_to(elsewhere / "run")
    inside = folder / next(path for path, kind in FOREIGN.items() if kind == "run")
    (inside / "link").symlink_to(elsewhere / "run")
    before = everything(elsewhere)
    assert all(row["removed"] for row in garbage.remove(find(read)))
    assert everything(elsewhere) == before and not inside.exists()
    assert (folder / grid.RUNS / "linked").is_symlink()


def test_an_interrupted_removal_is_gone_on_with(place):
    folder, read = place
    fill(folder / grid.RUNS / ".removed-other-1")
    rows = [row for row in find(read) if row["kind"] == "remains"]
    assert [row["removed"] for row in garbage.remove(rows)] == [True]
    assert not (folder / grid.RUNS / ".removed-other-1").exists()


def test_a_study_without_its_inputs_cannot_tell_what_is_its_own(place):
    values = yaml.safe_load(TINY.read_text())
    values["data"]["images"] = "photos"
    with pytest.raises(UserError, match="can't be told, as inputs are missing: data.images"):
        find(study.load(values))


def sight(folder: Path, *arguments: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "sight_beyond_text.cli", "gc", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_the_command(place):
    folder, read = place
    before = everything(folder)
    told = sight(folder, "--study", "tiny.yaml")
    assert "--delete removes them, nothing was changed" in told and everything(folder) == before
    assert told.count("\n") == len(FOREIGN) and "photos-" not in told  # a line is the sum
    listed = json.loads(sight(folder, "--study", "tiny.yaml", "--json", "--downloads"))
    assert {row["path"] for row in listed["found"]} == set(FOREIGN)
    assert not json.loads(sight(folder, "--study", "tiny.yaml", "--json", "--days", "1"))["found"]
    refused = sight(folder, "--delete", status=2)
    assert refused.startswith("error: --delete: needs --study") and everything(folder) == before

    told = sight(folder, "--study", "tiny.yaml", "--delete")
    assert "Removed: " in told
    gone = {name for name, kind in FOREIGN.items() if kind != "download"}
    left = everything(folder)
    assert before - left == {
        name for name in before if any(name == path or name.startswith(f"{path}/") for path in gone)
    } | {"resources/imported/llava-11223344.json"}
    assert left <= before
    assert "Nothing is there" in sight(folder, "--study", "tiny.yaml", "--delete")
