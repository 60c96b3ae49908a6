"""What strangers wrote is data: it runs nothing, gets nowhere else, and fills no memory."""

import gzip
import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_runs import make_world, run_spec

from sight_beyond_text import files
from sight_beyond_text.data.checks import check_file
from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import sha256, write_json
from sight_beyond_text.models.building import load_language_model
from sight_beyond_text.models.features import Features
from sight_beyond_text.study import read


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.fixture
def trap(tmp_path) -> Path:
    """What a pickle makes if it is ever unpickled; it does so when asked for."""
    path = tmp_path / "was-here"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()
    path.rmdir()
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def test_a_pickled_base_runs_nothing(world, trap, tmp_path):
    base = shutil.copytree(world / "base", tmp_path / "base")
    (base / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Bomb(trap)}, base / "pytorch_model.bin")
    with pytest.raises(UserError, match="base"):
        load_language_model({"model": str(base), "revision": None}, torch.float32)
    assert not trap.exists()


@pytest.mark.parametrize(
    "name", ["mm_projector.bin", "pytorch_model.bin", "non_lora_trainables.bin"]
)
def test_a_pickle_that_is_imported_runs_nothing(world, trap, tmp_path, name):
    from sight_beyond_text.models.published import import_checkpoint

    folder = tmp_path / "llava"
    write_json(folder / "config.json", {"model_type": "llava", "mm_projector_type": "linear"})
    torch.save({"model.mm_projector.weight": Bomb(trap)}, folder / name)
    base = {"model": str(world / "base"), "revision": None}
    with pytest.raises(UserError):
        import_checkpoint(str(folder), tmp_path / "made", base)
    assert not trap.exists() and not (tmp_path / "made").exists()


@pytest.fixture(scope="module")
def interrupted(world, tmp_path_factory) -> dict:
    """A training of three steps that ended after its resume point."""
    from sight_beyond_text.training import train

    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    spec = run_spec(world, "lora", save_steps=2, epochs=1, checkpoint=str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.train(spec, folder.parent / "train.json")
    return spec


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_resume_point_of_somebody_else_runs_nothing(interrupted, trap, tmp_path, name):
    from sight_beyond_text.training import train

    folder = shutil.copytree(interrupted["checkpoint"], tmp_path / "run" / "checkpoint")
    point = max((folder / "resume").glob("checkpoint-*"))
    torch.save({"state": Bomb(trap)}, point / name)
    record = json.loads((point / "resume.json").read_text())
    record["files"][name] = sha256(point / name)  # whoever writes the point writes its record
    write_json(point / "resume.json", record)
    refused = pytest.raises(Exception, match="(?i)weights.only|unpickl")
    with refused if name != "rng_state.pth" else suppress(Exception):
        train.train({**interrupted, "checkpoint": str(folder)}, tmp_path / "train.json")
    assert not trap.exists()


def test_features_with_objects_run_nothing(trap, tmp_path):
    np.save(tmp_path / "features.npy", np.array([Bomb(trap)], dtype=object), allow_pickle=True)
    hashed = sha256(tmp_path / "features.npy")
    write_json(tmp_path / "features.json", {"names": ["a.png"], "hash": hashed})
    with pytest.raises(UserError, match="not readable"):
        Features(tmp_path)
    assert not trap.exists()


def test_features_that_were_changed_are_refused(tmp_path):
    np.save(tmp_path / "features.npy", np.zeros((1, 2, 3), np.float32))
    hashed = sha256(tmp_path / "features.npy")
    write_json(tmp_path / "features.json", {"names": ["a.png"], "hash": hashed})
    assert Features(tmp_path)("a.png").shape == (2, 3)
    content = bytearray((tmp_path / "features.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "features.npy").write_bytes(content)
    with pytest.raises(UserError, match="not as written"):
        Features(tmp_path)


def test_a_table_runs_nothing(trap, tmp_path):
    marks = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(trap)),
    }
    field = pa.field("question", pa.binary(), metadata=marks)
    table = pa.table([pa.array([pickle.dumps(Bomb(trap))])], schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "items.parquet")
    pd.read_parquet(tmp_path / "items.parquet")
    assert not trap.exists()


def test_nothing_else_unpickles(repository):
    """Every place that could is known, and is one of those that are tested above."""
    found = set()
    for path in (repository / "src").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            code = line.partition("#")[0]
            if any(word in code for word in ("torch.load(", "np.load(", "pickle.load", "joblib")):
                found.add((path.name, "weights_only=True" in code or "allow_pickle=False" in code))
    assert found == {("published.py", True), ("features.py", True)}


def test_tags_in_a_study_make_nothing(trap, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{trap}']\n")
    with pytest.raises(UserError, match=r"study\.yaml:1: not YAML: could not determine a constr"):
        read(path)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", ".x", "x\n", "x; touch y", "$(x)", ""])
@pytest.mark.parametrize("key", ["name", "bases", "sources", "tunings", "references", "text"])
def test_names_that_would_be_more_than_a_name_are_refused(name, key, repository):
    import yaml

    from sight_beyond_text.study import load

    values = yaml.safe_load((repository / "tests/workflow/tiny.yaml").read_text())
    if key == "name":
        values["name"] = name
    else:
        axis = values["evaluation"] if key == "text" else values
        axis[key] = {name: next(iter(axis.get(key, values["bases"]).values()))}
    with pytest.raises(UserError):
        load(values)


def test_a_revision_leads_nowhere():
    from sight_beyond_text.resources.hub import fetch_repo

    for revision in ("../../x", "/x", "refs/../../x"):
        with pytest.raises(UserError, match="no commit, tag or branch"):
            fetch_repo("owner/name", "model", revision)


def png(width: int, height: int) -> bytes:
    """A PNG of a single colour, as small as one can be, and whole."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    packer, rows = zlib.compressobj(9), []
    for _ in range(min(height, 1000)):
        rows.append(packer.compress(bytes(1 + width // 8)))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"".join(rows) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(was-here) (w) file closefile
showpage
%%EOF
"""


@pytest.fixture(scope="module")
def pixels(world):
    from sight_beyond_text.models.building import load_processor

    tower = {"model": str(world / "tower"), "revision": None, "preparation": "crop"}
    return lambda folder: Pixels(str(folder), load_processor(tower), 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("huge.png", png(60_000, 60_000)),
        ("cut.png", png(100, 100)[:-20]),
        ("program.jpg", EPS),
        ("empty.jpg", b""),
        ("text.png", b"<svg onload='x'/>"),
    ],
)
def test_images_that_are_none_or_too_large_are_told(pixels, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=f"{name}: not a readable image") as told:
        pixels(tmp_path)(name)
    assert "\n" not in str(told.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize("name", ["../secret.png", "/{}/secret.png", "a/../../secret.png"])
def test_images_outside_of_their_folder_are_never_read(pixels, tmp_path, name):
    inside = tmp_path / "images"
    inside.mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    name = name.format(tmp_path)
    with pytest.raises(UserError, match="leads out of the folder; refused"):
        pixels(inside)(name)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    rows = [{"id": "1", "image": name, "conversations": turns}]
    write_json(tmp_path / "rows.json", rows)
    found = check_file(tmp_path / "rows.json", inside)
    assert any("leads out of the folder" in line for line in found.lines("rows.json"))


@pytest.mark.parametrize(
    ("content", "why"),
    [("[" * 100_000 + "]" * 100_000, "too deeply nested"), (f"[{'9' * 5000}]", "too many digits")],
)
def test_json_that_no_data_are_is_refused_in_a_line(tmp_path, content, why):
    path = tmp_path / "x.json"
    path.write_text(content)
    for way in (files.read_json, files.read_json_lines):
        with pytest.raises(UserError, match=f"(?s)x.json.*: things: .*{why}.*refused") as told:
            way(path, "things")
        assert "\n" not in str(told.value)


def test_a_packed_file_that_swells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SMALL", 2**20)
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as packed:
        for _ in range(200):
            packed.write(bytes(2**20))
    (tmp_path / "x.json.gz").write_bytes(stream.getvalue())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="would become more than .*; refused"):
        files.read_json(tmp_path / "x.json.gz", "things")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120 * 1024  # KiB


def test_code_of_a_base_runs_only_if_the_study_says_so(world, trap, tmp_path):
    base = shutil.copytree(world / "base", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"},
    }
    (base / "config.json").write_text(json.dumps(config))
    (base / "own.py").write_text(
        f"import os\nos.mkdir({str(trap)!r})\nfrom transformers import LlamaConfig,"
        " LlamaForCausalLM\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    code = (
        "import sys, torch\nfrom sight_beyond_text.session import session\n"
        "from sight_beyond_text.models.building import load_language_model\n"
        "with session():\n    load_language_model({'model': sys.argv[1], 'revision': None,"
        " 'remote_code': sys.argv[2] == 'yes'}, torch.float32)\n"
    )
    cache = {"HF_HOME": str(tmp_path / "hub")}

    def load(allowed: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, str(base), allowed]
        return subprocess.run(
            command, env={**os.environ, **cache}, input="y\n", capture_output=True, text=True
        )

    refused = load("no")
    assert refused.returncode == 2 and "remote_code" in refused.stderr, refused.stderr
    assert not trap.exists()
    load("yes")
    assert trap.exists()
