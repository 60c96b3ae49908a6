"""A study's resources come once, are recorded, and are kept to; models go to the hub's cache."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from file_server import Hub, serving

from sight_beyond_text import grid, study
from sight_beyond_text.errors import UserError
from sight_beyond_text.resources.fetch import fetch
from sight_beyond_text.resources.hub import choose
from sight_beyond_text.study import Item

ONE, TWO = "1" * 40, "2" * 40
BIG = os.urandom(50_000)


def zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def resource(*items: dict, name: str = "data") -> dict:
    made = [Item(**item).model_dump() for item in items]
    return {"name": name, "folder": f"resources/fetched/{name}-x", "items": made}


def bring(made: dict) -> dict:
    record = Path(f"resources/fetched/{made['name'].replace('/', '--')}-x.json")
    return fetch(made, record, Path("resources/manifest.json"))


def manifest() -> dict:
    return json.loads(Path("resources/manifest.json").read_text())


def found(folder: str = "resources/fetched/data-x") -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    named = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {name: content for name, content in named.items() if not name.startswith(".cache")}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def files():
    with serving() as server:
        server.files.content |= {
            "/rows.json": b"[1]",
            "/photos.zip": zip_of({"train/1.jpg": b"one", "train/2.jpg": b"two"}),
        }
        yield server.files


def test_a_resource_comes_once_and_is_recorded(files) -> None:
    made = resource(
        {"url": files.url("/rows.json?x=1")},
        {"url": files.url("/photos.zip"), "unpack": True, "inside": "train"},
    )
    record = bring(made)
    assert found() == {"rows.json": b"[1]", "1.jpg": b"one", "2.jpg": b"two"}
    assert record["files"] == 3 and record["bytes"] == 9
    assert [item["sha256"] for item in record["items"]] == [
        hashlib.sha256(files.content[path]).hexdigest() for path in ("/rows.json", "/photos.zip")
    ]
    assert record["items"][1]["unpacked"] == {"files": 2, "bytes": 6}
    assert manifest() == {"data-x": record} and record["when"].startswith("20")
    # Snakemake deletes declared outputs; that costs no second download.
    Path("resources/fetched/data-x.json").unlink()
    files.asked.clear()
    assert bring(made) == record and files.asked == []
    assert json.loads(Path("resources/fetched/data-x.json").read_text()) == record


def test_what_was_lost_is_brought_again_and_nothing_else(files) -> None:
    made = resource({"url": files.url("/rows.json")}, {"url": files.url("/photos.zip")})
    bring(made)
    Path("resources/fetched/data-x/photos.zip").unlink()
    files.asked.clear()
    bring(made)
    assert [path for _, path, _ in files.asked] == ["/photos.zip"]


def test_a_file_that_was_changed_since_is_refused(files) -> None:
    made = resource({"url": files.url("/rows.json")})
    bring(made)
    Path("resources/fetched/data-x/rows.json").unlink()
    files.content["/rows.json"] = b"[2]"
    with pytest.raises(UserError, match="its sha256 is .* should be .* it was removed"):
        bring(made)
    assert found() == {}
    files.content["/rows.json"] = b"[1]"
    bring(made)


def test_nothing_half_fetched_has_a_record(files) -> None:
    made = resource({"url": files.url("/rows.json")}, {"url": files.url("/none.zip")})
    with pytest.raises(UserError, match="404"):
        bring(made)
    record = Path("resources/fetched/data-x.json")
    assert not record.exists() and "when" not in manifest()["data-x"]
    # What came is kept to: it may not change until all is there.
    files.content["/rows.json"] = b"[2]"
    files.content["/none.zip"] = b"x"
    Path("resources/fetched/data-x/rows.json").unlink()
    with pytest.raises(UserError, match="should be"):
        bring(made)
    files.content["/rows.json"] = b"[1]"
    files.asked.clear()
    bring(made)
    assert record.is_file() and {path for _, path, _ in files.asked} == {"/rows.json", "/none.zip"}


def test_an_archive_that_escapes_leaves_no_record(files) -> None:
    files.content["/evil.zip"] = zip_of({"../../../evil.txt": b"evil"})
    made = resource({"url": files.url("/evil.zip"), "unpack": True})
    with pytest.raises(UserError, match="leads out of the folder; refused"):
        bring(made)
    assert not Path("resources/fetched/data-x.json").exists()
    assert not list(Path().rglob("evil.txt"))


@pytest.mark.parametrize("path", ["/", "/..", "/a/%2e%2e", "/a/%2f"])
def test_addresses_that_name_no_file_are_refused(files, path: str) -> None:
    with pytest.raises(UserError, match="the address names no file"):
        bring(resource({"url": files.url(path)}))


def test_a_name_in_an_address_stays_in_its_folder(files) -> None:
    files.content["/%2e%2e%2f%2e%2e%2fa%20b.json"] = b"[]"
    bring(resource({"url": files.url("/%2e%2e%2f%2e%2e%2fa%20b.json")}))
    assert found() == {"a b.json": b"[]"}


def test_a_cut_and_a_corrupt_download_are_mended_by_the_next_start(files) -> None:
    good = zip_of({"train/1.jpg": BIG})
    sha = f"sha256:{hashlib.sha256(good).hexdigest()}"
    files.content["/photos.zip"] = good[:1000] + b"!" + good[1001:]
    item = {"url": files.url("/photos.zip"), "unpack": True, "checksum": sha}
    with pytest.raises(UserError, match="it was removed; type the same again"):
        bring(resource(item))
    assert found() == {} and not Path("resources/fetched/data-x.json").exists()
    files.content["/photos.zip"] = good
    files.cuts["/photos.zip"] = [20_000]
    bring(resource(item))
    assert found() == {"train/1.jpg": BIG}


def test_the_command_brings_all_of_a_study_or_some(files) -> None:
    values = {
        **VALUES,
        "resources": {
            "gone": {"items": [{"url": files.url("/gone.json")}]},
            "rows": {"items": [{"url": files.url("/rows.json")}]},
            "photos": {"items": [{"url": files.url("/photos.zip"), "unpack": True}]},
        },
        "data": {
            "images": "resource:photos/train",
            "captions": "resource:gone/gone.json",
            "instructions": "resource:rows/rows.json",
            "alignment": "resource:rows/rows.json",
        },
        "tower": {"model": "."},
        "bases": {"one": {"model": "."}},
    }
    Path("study.yaml").write_text(json.dumps(values))

    def fetched(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sight_beyond_text.cli", "fetch", "study.yaml"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True)

    done = fetched("--only", "rows")
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "rows")
    assert {path for _, path, _ in files.asked} == {"/rows.json"}
    done = fetched("--only", "cows")
    assert done.returncode == 2
    assert done.stderr == "error: study.yaml: no resource 'cows'; there are: gone, rows, photos\n"
    # What can't be had doesn't keep the rest away, and is told at the end.
    done = fetched()
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["rows", "photos"]
    assert done.stderr.startswith(f"error: gone: {files.url('/gone.json')}: the server says 404")
    assert {entry["name"] for entry in manifest().values()} == {"rows", "photos"}


# The hub


@contextmanager
def hub_of(files: dict[str, bytes]):
    with serving(Hub, repo="owner/name", commits={"main": ONE}, repos={ONE: files}) as server:
        server.damaged = {}
        yield server


@pytest.fixture
def hub(here: Path):
    """A hub with one repository, and the environment of processes that use it."""
    files = {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": BIG,
        "pytorch_model.bin": BIG,
        "onnx/model.onnx": BIG,
        "README.md": b"read me",
    }
    with hub_of(files) as server:
        server.environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",  # as in all jobs; `sight fetch` alone goes out
            "HF_ENDPOINT": server.files.address,
            "HF_HOME": str(here / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        yield server


def fetching(made: dict) -> list[str]:
    named = {**made, "record": f"resources/fetched/{made['name'].replace('/', '--')}-x.json"}
    return [sys.executable, "-m", "sight_beyond_text.cli", "fetch", "--spec", json.dumps(named)]


def sight_fetch(server, made: dict) -> subprocess.CompletedProcess:
    return subprocess.run(fetching(made), env=server.environment, capture_output=True, text=True)


def offline(server, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=server.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MODEL = {"repo": "owner/name", "kind": "model"}
CACHED = (
    "from huggingface_hub import hf_hub_download as get;"
    "print(get('owner/name', 'model.safetensors', local_files_only=True))"
)


def model(**changes) -> dict:
    made = resource({**MODEL, **changes}, name="owner/name")
    return {**made, "folder": None}


def test_a_model_comes_into_the_hubs_cache_and_jobs_find_it_offline(hub) -> None:
    done = sight_fetch(hub, model())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("owner/name: 2 files, 50,023 bytes in the hub's cache")
    (item,) = manifest()["owner--name-x"]["items"]
    assert item["revision"] == ONE and item["asked"] is None
    assert item["files"] == {"config.json": 23, "model.safetensors": 50_000}
    hub.files.asked.clear()
    code = "from transformers import AutoConfig; print(AutoConfig.from_pretrained('owner/name'))"
    assert "llama" in offline(hub, code)
    assert hub.files.asked == []


def test_a_branch_that_moved_on_changes_nothing(hub) -> None:
    assert sight_fetch(hub, model()).returncode == 0
    hub.repos[TWO] = {**hub.repos[ONE], "config.json": b'{"model_type": "gpt2"}'}
    hub.commits["main"] = TWO
    Path("resources/fetched/owner--name-x.json").unlink()
    assert sight_fetch(hub, model()).returncode == 0
    assert manifest()["owner--name-x"]["items"][0]["revision"] == ONE
    # A cache that was emptied is filled with the same commit, found under the same name.
    subprocess.run(["rm", "-r", "cache"], check=True)
    Path("resources/fetched/owner--name-x.json").unlink()
    assert sight_fetch(hub, model()).returncode == 0
    assert Path(offline(hub, CACHED).strip()).parent.name == ONE


def test_a_pinned_commit_that_is_gone_is_told(hub) -> None:
    done = sight_fetch(hub, model(revision=TWO))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: owner/name: owner/name@{TWO}: not fetched from the hub")
    assert not Path("resources/fetched/owner--name-x.json").exists()


WEIGHTS_OF_ONE = f"/owner/name/resolve/{ONE}/model.safetensors"


@pytest.mark.parametrize("made", [model(), resource(MODEL)], ids=["model", "data"])
def test_a_fetch_from_the_hub_that_is_killed_is_taken_up_where_it_was(hub, made: dict) -> None:
    hub.files.cuts["model.safetensors"] = [20_000]
    with subprocess.Popen(fetching(made), env=hub.environment, stderr=subprocess.PIPE) as process:
        # It waits before it asks again; the kill comes meanwhile.
        assert b"going on from 20,000 bytes" in process.stderr.readline()
        process.kill()
    assert not Path(f"resources/fetched/{made['name'].replace('/', '--')}-x.json").exists()
    if made["folder"] is not None:
        # Another file may have become whole at that very moment.
        Path(made["folder"], "config.json.part.json").write_text("{}")
    hub.files.asked.clear()
    done = sight_fetch(hub, made)
    assert done.returncode == 0, done.stderr
    assert [part for part in hub.files.sent(WEIGHTS_OF_ONE) if part] == ["bytes=20000-"]
    if made["folder"] is None:
        assert Path(offline(hub, CACHED).strip()).read_bytes() == BIG
    else:
        assert found()["model.safetensors"] == BIG
    assert not list(Path().rglob("*.part*"))


def test_a_disk_too_small_for_a_repository_is_foreseen(hub, small: Path) -> None:
    hub.repos[ONE]["model.safetensors"] = os.urandom(2_500_000)
    hub.environment["HF_HOME"] = str(small / "cache")
    done = sight_fetch(hub, model())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "owner/name needs 2,500,023 more bytes, 2,0" in done.stderr
    assert not hub.files.sent(WEIGHTS_OF_ONE) and not list(small.rglob("*.safetensors"))
    # What came of it already needs no room any more.
    subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
    assert sight_fetch(hub, model()).returncode == 0
    Path("resources/fetched/owner--name-x.json").unlink()
    assert sight_fetch(hub, model()).returncode == 0


def test_a_disk_that_fills_while_the_hub_gives_keeps_what_came(hub, small: Path) -> None:
    """Others may write meanwhile."""
    hub.repos[ONE] = {"rows.json": os.urandom(1_500_000)}
    made = {**resource({"repo": "owner/name"}), "folder": str(small / "data")}
    others = "import shutil; shutil.disk_usage = lambda _: shutil._ntuple_diskusage(0, 0, 10**12)"
    Path("sitecustomize.py").write_text(others)
    (small / "others").write_bytes(bytes(1_000_000))
    own = os.environ.get("PYTHONPATH", "")
    environment = {**hub.environment, "PYTHONPATH": f"{Path.cwd()}:{own}"}
    done = subprocess.run(fetching(made), env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{small / 'data'}: the disk is full; " in done.stderr
    assert not Path("resources/fetched/data-x.json").exists()
    (small / "others").unlink()
    hub.files.asked.clear()
    assert sight_fetch(hub, made).returncode == 0
    assert (small / "data" / "rows.json").read_bytes() == hub.repos[ONE]["rows.json"]
    assert hub.files.sent(f"/datasets/owner/name/resolve/{ONE}/rows.json")[0] is not None


def test_a_corrupt_byte_from_the_hub_is_seen(hub) -> None:
    hub.damaged["model.safetensors"] = BIG[:-1] + bytes([BIG[-1] ^ 1])
    done = sight_fetch(hub, model())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "model.safetensors has the sha256" in done.stderr and "removed" in done.stderr
    assert not Path("resources/fetched/owner--name-x.json").exists()
    hub.damaged.clear()
    done = sight_fetch(hub, model())
    assert done.returncode == 0, done.stderr
    hub.damaged["config.json"] = b'{"model_type": "LLAMA"}'
    subprocess.run(["rm", "-r", "cache"], check=True)
    done = sight_fetch(hub, model())
    assert done.returncode == 2 and "config.json has the hash" in done.stderr


def test_a_hubs_names_stay_in_the_folder(hub) -> None:
    hub.repos[ONE] = {"../../evil.json": b"[]"}
    done = sight_fetch(hub, resource({"repo": "owner/name", "revision": ONE}))
    assert done.returncode == 2 and "leads out of the folder; refused" in done.stderr
    assert not list(Path().rglob("evil.json"))


def test_archives_on_the_hub_are_unpacked_beside_files(hub) -> None:
    hub.repos[ONE] = {"images.zip": zip_of({"a.jpg": BIG}), "chat.json": b"[]", "other": b"x"}
    made = resource(
        {"repo": "owner/name", "files": ["images.zip"], "unpack": True, "revision": ONE},
        {"repo": "owner/name", "files": ["*.json"], "revision": ONE},
    )
    done = sight_fetch(hub, made)
    assert done.returncode == 0, done.stderr
    assert found() == {"a.jpg": BIG, "chat.json": b"[]"}
    hub.files.asked.clear()
    Path("resources/fetched/data-x.json").unlink()
    assert sight_fetch(hub, made).returncode == 0 and hub.files.asked == []
    done = sight_fetch(hub, resource({"repo": "owner/name", "files": ["no*"]}, name="none"))
    assert done.returncode == 2 and "no file of the repository is ['no*']" in done.stderr


def test_of_a_model_one_form_of_its_weights_is_fetched() -> None:
    other = ["README.md", "config.json", "tokenizer.model", "flax_model.msgpack", "a.gguf"]
    weights = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    bins = ["pytorch_model.bin", "training_args.bin", "original/consolidated.00.bin"]
    assert choose([*other, *weights, *bins], None, "model") == other[1:3] + weights
    assert choose([*other, *bins], None, "model") == [*other[1:3], "pytorch_model.bin"]
    assert choose([".gitattributes", "a", "b/c"], None, "dataset") == ["a", "b/c"]
    assert choose(["a.json", "b/c.json", "d"], ["*.json"], "model") == ["a.json", "b/c.json"]


# The study


VALUES = {
    "name": "x",
    "resources": {
        "coco": {"items": [{"url": "http://a.b/c.zip", "unpack": True}]},
        "own": {"local": "/data/own", "items": [{"repo": "a/b"}]},
    },
    "data": {
        "images": "resource:coco/train",
        "captions": "resource:own/captions.json",
        "instructions": "resource:coco/rows.json",
        "alignment": "resource:coco/pairs.json",
    },
    "tower": {"model": "a/tower", "revision": "1"},
    "bases": {"one": {"model": "a/base"}, "two": {"model": "a/base", "template": "v0"}},
    "sources": {"visual": {}},
    "alignment": {"learning_rate": 1, "batch_size": 2},
    "tunings": {"full": {"learning_rate": 1, "batch_size": 2}},
}


def loaded(**changes) -> study.Study:
    values = json.loads(json.dumps(VALUES))
    for key, value in changes.items():
        here = values
        *parents, last = key.split("__")
        for part in parents:
            here = here[part]
        here[last] = value
    return study.load(values)


def test_resources_lie_in_folders_named_after_what_they_are_made_of() -> None:
    read = loaded()
    run = grid.run_specs(read)[0]
    folder = read.resource_folder("coco")
    assert folder.startswith("resources/fetched/coco-")
    assert run["data"]["instructions"] == f"{folder}/rows.json"
    assert run["data"]["captions"] == "/data/own/captions.json"
    names = {spec["name"]: spec for spec in grid.resource_specs(read)}
    assert set(names) == {"coco", "a/tower", "a/base"}  # own isn't fetched, a/base once
    assert names["coco"]["record"] == f"{folder}.json"
    assert names["a/tower"]["items"][0]["revision"] == "1" and names["a/tower"]["folder"] is None
    other = loaded(resources__coco={"items": [{"url": "http://a.b/d.zip", "unpack": True}]})
    assert grid.run_specs(other)[0]["id"] != run["id"]
    # Only what isn't fetched must be there.
    assert grid.missing_inputs(read) == [
        "data.captions: /data/own/captions.json: no such file or folder; mend the path or fetch"
        " the data"
    ]


def test_identities_are_the_same_before_and_after_fetching(here: Path) -> None:
    before = [run["id"] for run in grid.run_specs(loaded())]
    folder = Path(loaded().resource_folder("coco"))
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text("[]")
    assert [run["id"] for run in grid.run_specs(loaded())] == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__images": "resource:cocoa/x"}, "no such resource; there are: coco, own"),
        ({"resources__coco": {}}, "needs items to fetch, or local"),
        ({"resources__coco": {"items": [{}]}}, "needs either url or repo"),
        (
            {"resources__coco": {"items": [{"url": "http://a", "repo": "a/b"}]}},
            "needs either url or repo",
        ),
        (
            {"resources__coco": {"items": [{"url": "http://a", "revision": "1"}]}},
            "revision is for repo; remove it",
        ),
        (
            {"resources__coco": {"items": [{"repo": "a/b", "checksum": "md5:" + "0" * 32}]}},
            "checksum is for url; remove it",
        ),
        (
            {"resources__coco": {"items": [{"url": "http://a", "inside": "x"}]}},
            "inside needs unpack: true",
        ),
        ({"resources__coco": {"items": [{"url": "ftp://a"}]}}, "found 'ftp://a'"),
        (
            {"resources__coco": {"items": [{"url": "http://a", "checksum": "sha256:1"}]}},
            "found 'sha256:1'",
        ),
    ],
)
def test_resources_that_mean_nothing_are_refused(changes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        loaded(**changes)
