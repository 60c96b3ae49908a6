"""The studies of this repository plan without a line, and what they need is fetched first."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from file_server import Hub, serving

from sight_beyond_text import grid, study
from sight_beyond_text.plan import plan

pytestmark = pytest.mark.workflow

SIZES = {
    # runs, alignments, subjects on text, subjects on images, resources, models of the hub, jobs
    "paper": (60, 6, 82, 82, 17, 23, 311),
    "modern": (54, 6, 63, 60, 17, 10, 232),
    "laptop": (14, 2, 16, 16, 7, 3, 80),
}


def of(repository, name: str):
    return repository / "workflow" / "studies" / f"{name}.yaml"


@pytest.mark.parametrize("name", SIZES)
def test_a_study_is_as_large_as_it_says(repository, name: str) -> None:
    read = study.read(of(repository, name))
    runs, alignments, text, image, resources, models, jobs = SIZES[name]
    specs = grid.resource_specs(read)
    assert len(grid.run_specs(read)) == runs and len(grid.align_specs(read)) == alignments
    suites = [spec["suite"] for spec in grid.evaluation_specs(read)]
    assert (suites.count("text"), suites.count("image")) == (text, image)
    assert sum(spec["folder"] is not None for spec in specs) == resources
    assert sum(spec["folder"] is None for spec in specs) == models
    told = of(repository, name).read_text().split("\nname:")[0].replace("\n# ", " ")
    assert f"{runs} runs and {alignments} alignments, {text} subjects scored" in told
    assert f", {jobs} jobs." in told
    (row,) = [line for line in page(repository) if f"[`{name}.yaml`]" in line]
    assert [cell.strip() for cell in row.split("|")][2:5] == [str(runs), str(text), str(jobs)]


@pytest.mark.parametrize("name", SIZES)
def test_what_a_study_takes_is_as_it_says(repository, name: str) -> None:
    """As `sight plan` foretells it, to a tenth; in the study's head and in docs/data.md."""
    read = study.read(of(repository, name))
    planned = plan(read)
    assert all(row["bytes"] for row in planned["resources"])
    asked = sum(row["bytes"] for row in planned["resources"]) / 2**30
    kept = planned["left"]["disk"] / 2**30
    told = of(repository, name).read_text().split("\nname:")[0].replace("\n# ", " ")
    fetched, checkpoints = told.split("To fetch: ")[1].split("to keep all checkpoints: ")
    said = sum(float(number) for number in re.findall(r"([\d.]+) GiB", fetched))
    assert said == pytest.approx(asked, rel=0.1)
    assert float(checkpoints.split(" GiB")[0]) == pytest.approx(kept, rel=0.1)
    (row,) = [line for line in page(repository) if f"[`{name}.yaml`]" in line]
    numbers = [float(cell.split(" GiB")[0]) for cell in row.split("|") if " GiB" in cell][:2]
    assert numbers == [pytest.approx(said, abs=1), pytest.approx(kept, rel=0.1)]


def page(repository) -> list[str]:
    return (repository / "docs" / "data.md").read_text().splitlines()


@pytest.mark.parametrize("name", SIZES)
def test_a_step_can_be_told_what_to_do(repository, name: str) -> None:
    """Linux takes no argument of a command of 128 KiB or more."""
    read = study.read(of(repository, name))
    specs = [*grid.evaluation_specs(read), *grid.features_specs(read), grid.leaks_spec(read)]
    specs += [grid.check_spec(read), grid.compare_spec(read), *grid.run_specs(read)]
    assert max(len(str(spec)) for spec in specs) < 100_000


def test_what_comes_from_the_hub_is_pinned_or_said_not_to_be(repository) -> None:
    for name in SIZES:
        lines = of(repository, name).read_text().splitlines()
        for number, line in enumerate(lines):
            if not re.match(r"\s*-? ?(repo|model): \S+/\S+", line) or "resource:" in line:
                continue
            pinned = any("revision: " in lines[n] for n in (number, number + 1))
            assert pinned or "the first that comes is kept to" in line, f"{name}: {line}"


@pytest.mark.parametrize("name", SIZES)
def test_a_study_plans_at_once_without_torch(repository, name: str, tmp_path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['sight', 'plan', '--configfile', {str(of(repository, name))!r}]\n"
        "from sight_beyond_text.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert processor_seconds(before) < 5
    assert done.stdout.startswith(f"Study {name}: {SIZES[name][0]} runs, ")
    assert "To fetch: " in done.stdout


def processor_seconds(before: resource.struct_rusage) -> float:
    """What children took since; others may keep the processor busy meanwhile."""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(path: Path, count: int, size: int, turns: int) -> None:
    """LLaVA-style samples of about some bytes each, a thousand of them over and over."""
    texts = ("<image>\nWhat?", "word " * max(1, (size - 99 - 122 * turns) // 5 // turns))
    said = [
        {"from": who, "value": text}
        for _ in range(turns)
        for who, text in zip(("human", "gpt"), texts, strict=True)
    ]
    several = [
        {"id": f"{number:012d}", "image": f"{number:012d}.jpg", "conversations": said}
        for number in range(1000)
    ]
    block = json.dumps(several, indent=2)[1:-2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        stream.write("[" + ",".join([block] * (count // 1000)))
        rest = json.dumps(several[: count % 1000], indent=2)[1:-2]
        stream.write(f",{rest}\n]" if count % 1000 else "\n]")


def test_the_published_grid_plans_at_once_with_its_data_here(repository, tmp_path) -> None:
    """80,000 conversations and 595,375 pairs, as large as the published files."""
    paper = study.read(of(repository, "paper"))
    folder = tmp_path / paper.resource_folder("llava")
    rows(folder / "llava_instruct_80k.json", 80_000, 1640, 4)
    rows(folder / "chat.json", 595_375, 354, 1)
    command = [sys.executable, "-m", "sight_beyond_text.cli", "plan", "--json"]
    command += ["--configfile", str(of(repository, "paper"))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert processor_seconds(before) < 5
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20 < 2, "GiB"
    planned = json.loads(done.stdout)
    aligned = next(row for row in planned["alignments"] if row["base"] == "llama-7b")
    assert aligned["steps"] == -(-595_375 // 128)
    run = next(row for row in planned["runs"] if row["base"] == "llama-7b")
    assert run["steps"] == 80_000 // 8
    # 256 positions of the image, about 30 of the template, and the words.
    words = (1640 - 99 - 122 * 4) / 4.2
    assert run["tokens"] == pytest.approx(80_000 * (256 + 60 + words), rel=0.1)


@pytest.mark.parametrize("name", SIZES)
def test_the_workflow_plans_without_a_line(fresh, name: str) -> None:
    path = f"workflow/studies/{name}.yaml"
    runs, alignments, text, image, resources, models, jobs = SIZES[name]
    planned = fresh.planned("--configfile", path)
    assert planned["fetch"] == resources + models
    assert (planned["tune"], planned["align"]) == (runs, alignments)
    assert planned["evaluate"] == text + image and sum(planned.values()) == jobs
    told = fresh.planned("fetch_all", "--configfile", path)
    assert told == {"fetch": resources + models, "fetch_all": 1}
    # With everything there, nothing is fetched, and no run has another id.
    read = study.read(fresh.folder / path)
    for spec in grid.resource_specs(read):
        record = fresh.folder / spec["record"]
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text("{}")
        (fresh.folder / (spec["folder"] or "resources")).mkdir(exist_ok=True)
    again = fresh.planned("--configfile", path)
    assert "fetch" not in again
    assert again == {rule: count for rule, count in planned.items() if rule != "fetch"}


def test_the_default_study_is_as_large_as_the_page_says(fresh, repository) -> None:
    (row,) = [line for line in page(repository) if "[`config.yaml`]" in line]
    read = study.read(fresh.folder / "config.yaml")
    sizes = (len(grid.run_specs(read)), len(grid.subjects(read)), sum(fresh.planned().values()))
    assert [int(cell) for cell in row.split("|")[2:5]] == list(sizes)


@pytest.mark.slow
def test_fetched_once_everything_runs_without_a_line(fresh, monkeypatch) -> None:
    """A base from the hub, data from a server: trained when both are gone."""
    tiny = fresh.study("tiny")
    made = study.read(tiny).world
    models = [f"{made}/models/{name}.json" for name in ("base", "tower")]
    fresh.snakemake(*models, "--cores", "2", "--configfile", tiny)
    world = fresh.folder / made
    model = {p.name: p.read_bytes() for p in (world / "models" / "base").iterdir()}
    rows = json.dumps(
        [
            {
                "id": str(number),
                "image": image.name,
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat is there?"},
                    {"from": "gpt", "value": f"Scene {number}."},
                ],
            }
            for number, image in enumerate(sorted((world / "images" / "train").iterdir())[:8])
        ]
    )
    commit = "1" * 40
    monkeypatch.setenv("HF_HOME", str(fresh.folder / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with (
        serving() as files,
        serving(Hub, repo="owner/name", commits={"main": commit}, repos={commit: model}) as hub,
    ):
        hub.damaged = {}
        files.files.content["/rows.json"] = rows.encode()
        monkeypatch.setenv("HF_ENDPOINT", hub.files.address)
        path = fresh.study(
            "fetched",
            resources={"rows": {"items": [{"url": files.files.url("/rows.json")}]}},
            bases={"hubbed": {"model": "owner/name", "template": "chat"}},
            micro=None,
            data={
                "images": str(world / "images" / "train"),
                "instructions": "resource:rows/rows.json",
                "alignment": "resource:rows/rows.json",
            },
            tower={"model": str(world / "models" / "tower")},
            sources={"visual": {}},
            tunings__full={"mode": "frozen", "learning_rate": 1e-3, "batch_size": 4, **CPU},
            tunings__lora={"mode": "frozen", "learning_rate": 1e-2, "batch_size": 4, **CPU},
            evaluation={},
        )
        values = yaml.safe_load(open(path))
        del values["micro"]
        open(path, "w").write(yaml.safe_dump(values, sort_keys=False))
        assert fresh.planned("fetch_all", "--configfile", path) == {"fetch": 2, "fetch_all": 1}
        fresh.snakemake("fetch_all", "--cores", "2", "--configfile", path)
    manifest = json.loads((fresh.folder / "resources" / "manifest.json").read_text())
    assert {entry["name"] for entry in manifest.values()} == {"rows", "owner/name"}
    fresh.snakemake("train_all", "--cores", "2", "--configfile", path)
    records = list((fresh.folder / "results" / "runs").glob("*/train.json"))
    assert len(records) == 2
    assert json.loads(records[0].read_text())["samples"] == 8


CPU = {"precision": "fp32", "max_length": 512, "gradient_checkpointing": False}
