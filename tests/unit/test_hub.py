"""Exports go to the hub and imports come from it; a small server here stands for it."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tiny_runs import make_world

COMMIT = "0123456789" * 4
SECRET = "hf_secret"


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub's that one upload and one download ask for."""

    def log_message(self, *_):
        """Quiet."""

    def answer(self, value, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, text in {**given, **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def do_POST(self):
        """Takes repositories and files."""
        content, hub = self.content(), self.server
        if hub.refuses:
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            hub.created.append(json.loads(content))
            self.answer({"url": f"{hub.address}/owner/name", "name": "owner/name"})
        elif "/preupload/" in self.path:
            asked = json.loads(content)["files"]
            chosen = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": file["path"], **chosen} for file in asked]})
        elif "/commit/" in self.path:
            for line in content.splitlines():
                if (row := json.loads(line))["key"] == "file":
                    hub.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            address = f"{hub.address}/owner/name/commit/{COMMIT}"
            self.answer({"commitUrl": address, "commitOid": COMMIT, "success": True})
        else:
            self.answer({})

    def do_GET(self):
        """Gives files, and the list of them."""
        hub = self.server
        name = self.path.split(f"/resolve/{COMMIT}/")[-1]
        if name in hub.files:
            self.answer(hub.files[name], ETag=f'"{name}"', X_Repo_Commit=COMMIT)
        elif self.path.startswith("/api/models/owner/name/tree/"):
            sizes = {name: len(content) for name, content in hub.files.items()}
            made = [{"path": n, "type": "file", "size": s, "oid": n} for n, s in sizes.items()]
            self.answer(made)
        elif self.path.startswith("/api/models/owner/name"):
            hub.asked.append(self.path)
            listed = [{"rfilename": name} for name in hub.files]
            self.answer({"id": "owner/name", "sha": COMMIT, "siblings": listed})
        else:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.files, server.created, server.asked, server.refuses = {}, [], [], False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_world(tmp_path_factory.mktemp("world"))
    state = {
        "model.mm_projector.weight": torch.ones(64, 32),
        "model.mm_projector.bias": torch.ones(64),
    }
    torch.save(state, folder / "mm_projector.bin")
    return folder


@pytest.fixture
def sight(repository, hub, tmp_path):
    def run(*arguments: str | Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sight_beyond_text.cli", *map(str, arguments)]
        given = {
            "PYTHONPATH": str(repository / "src"),
            "NO_COLOR": "1",
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": SECRET,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return subprocess.run(
            command, env=os.environ | given, capture_output=True, text=True, timeout=200
        )

    return run


@pytest.mark.slow
def test_an_import_from_the_hub_and_an_export_to_it(sight, hub, world, tmp_path):
    hub.files["mm_projector.bin"] = (world / "mm_projector.bin").read_bytes()
    hub.files["config.json"] = json.dumps({"model_type": "llava"}).encode()
    hub.files["evil.py"] = b"raise SystemExit"
    options = ("--base", world / "base", "--tower", world / "tower", "--revision", "v1")
    imported = tmp_path / "imported"
    done = sight("import", "owner/name", "--out", imported, *options)
    assert done.returncode == 0, done.stderr
    record = json.loads((imported / "complete.json").read_text())
    assert record["imported"]["source"] == f"owner/name@{COMMIT}"
    assert record["imported"]["revision"] == "v1"
    assert any("/revision/v1" in path for path in hub.asked)
    assert not list((tmp_path / "home").rglob("evil.py"))

    hub.files.clear()
    out = tmp_path / "exported"
    options = ("--out", out, "--part", "language", "--push", "owner/name")
    done = sight("export", imported, *options)
    assert done.returncode == 0, done.stderr
    assert hub.created[0]["visibility"] == "private"
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir()}
    assert f"uploaded to {hub.address}/owner/name" in done.stdout
    assert SECRET not in done.stdout + done.stderr

    hub.refuses = True
    done = sight("export", imported, "--out", tmp_path / "again", *options[2:])
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: owner/name: not uploaded (") and "hf upload owner/name" in line
    assert SECRET not in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "again" / "config.json").is_file()


def test_a_hub_id_that_is_not_there(sight, world, tmp_path):
    done = sight("import", "owner/gone", "--out", tmp_path / "out", "--base", world / "base")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: owner/gone: not fetched from the hub: ")
