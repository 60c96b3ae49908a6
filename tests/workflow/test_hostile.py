"""Values of a study that would be commands if a shell read them, in real steps of the workflow."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from file_server import serving

from sight_beyond_text.files import write_json
from sight_beyond_text.micro.scenes import write_split

pytestmark = pytest.mark.workflow

HOSTILE = "a b; touch pwned; $(touch pwned) `touch pwned` 'x' \"y\" & touch pwned #*?~\\n\nz"
TOKEN = "hf_canaryCANARYcanaryCANARYcanaryCAN"


def is_clean(folder: Path) -> bool:
    return not list(folder.rglob("pwned*"))


@pytest.fixture
def study(fresh, monkeypatch):
    """A study of given files that lie in folders with such names."""
    import random

    from sight_beyond_text.micro.scenes import sample_scene

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    data = fresh.folder / HOSTILE
    rng = random.Random(0)
    write_split([sample_scene(rng) for _ in range(4)], data, "train", 0, 1)
    base = data / "base"
    write_json(base / "config.json", {"model_type": "llama"})
    photos = {"images": f"{HOSTILE}/images/train"}
    notes = f"{HOSTILE}/annotations"
    values = yaml.safe_load((fresh.folder / fresh.study("tiny")).read_text())
    values.pop("micro")
    values["data"] = {
        **photos,
        "captions": f"{notes}/captions_train.json",
        "instances": f"{notes}/instances_train.json",
    }
    values["tower"] = {"model": f"{HOSTILE}/base"}
    values["bases"] = {"base": {"model": f"{HOSTILE}/base", "label": HOSTILE}}
    values["sources"] = {"visual": {}}
    values["evaluation"] = {
        "text": {"boolq": {"path": HOSTILE, "task": HOSTILE}},
        "image": {
            "vqa": {
                "type": "vqa",
                **photos,
                "questions": f"{notes}/captions_train.json",
                "annotations": f"{notes}/captions_train.json",
                "prompt": "{question}" + HOSTILE,
            }
        },
    }
    values["figures"] = {"formats": ["svg"], "palette": {HOSTILE: HOSTILE}}
    path = fresh.folder / "hostile.yaml"

    def made(**changes) -> str:
        path.write_text(yaml.safe_dump({**values, **changes}))
        return str(path)

    return made


def test_no_value_of_a_study_is_run_by_a_shell(fresh, study):
    printed = fresh.snakemake("-n", "-p", "--configfile", study()).stdout
    assert "sight instructions" in printed and is_clean(fresh.folder)
    # The words of each command are those that were meant, whatever is in them.
    done = fresh.snakemake(
        "results/studies/tiny/inputs.ok", "--cores", "1", "--configfile", study(), check=False
    )
    assert "sight check" not in done.stdout or "error: " in done.stdout
    target = re.search(r"resources/instructions/[0-9a-f]{8}/instructions\.json", printed)[0]
    fresh.snakemake(target, "--cores", "1", "--configfile", study())
    made = json.loads((fresh.folder / target).read_text())
    assert len(made) >= 4
    assert is_clean(fresh.folder)


@pytest.mark.parametrize("where", ["base", "model"])
def test_a_base_that_is_a_command(fresh, study, where):
    base = {"model": "x; touch pwned"} if where == "model" else {"model": f"{HOSTILE}/base"}
    bases = {"x; touch pwned" if where == "base" else "x": base}
    done = fresh.snakemake("-n", "-p", "--configfile", study(bases=bases), check=False)
    assert done.returncode != 0 and "bases.x" in done.stdout
    assert "Traceback" not in done.stdout and is_clean(fresh.folder)


def test_a_login_is_in_nothing_that_is_written(fresh, study):
    with serving() as server:
        server.files.content["/photos.json"] = b"[1, 2, 3]"
        url = server.files.url("/photos.json")
        resources = {"photos": {"items": [{"url": url}]}, "gone": {"items": [{"url": f"{url}x"}]}}
        file = study(resources=resources)
        told = fresh.snakemake("fetch_all", "--cores", "1", "-k", "--configfile", file, check=False)
        logins = [login for _, login in server.files.logins]
    told = told.stdout + fresh.snakemake("-n", "-p", "--configfile", study()).stdout
    plan = [sys.executable, "-m", "sight_beyond_text.cli", "plan", "hostile.yaml", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(fresh.folder / "src")}
    done = subprocess.run(plan, cwd=fresh.folder, env=environment, capture_output=True, text=True)
    told += done.stdout + done.stderr
    assert "photos.json" in told and logins and set(logins) == {None}
    assert (fresh.folder / "resources/manifest.json").is_file()
    shutil.rmtree(fresh.folder / "src")
    written = [path for path in fresh.folder.rglob("*") if path.is_file()]
    assert any("logs" in path.parts for path in written)
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in told
