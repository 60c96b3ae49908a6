"""What stands for a subject's weights, before and after they are fetched."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789" * 4
CONFIG = json.dumps({"model_type": "llama"}).encode()

TOLD = """
import json
from sight_beyond_text.evaluation.weights import identity_of

def told(revision):
    base = {"model": "some/base", "revision": revision}
    subject = {"base": base, "mode": None, "precision": "fp32", "checkpoint": None}
    return identity_of(subject)["base"]

print(json.dumps([told(None), told("main"), told("f" * 40)]))
"""


class Hub(BaseHTTPRequestHandler):
    """The hub's answers about one file of one repository."""

    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        known = self.path == "/some/base/resolve/main/config.json"
        content = CONFIG if known else b""
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(content)))
        if known:
            self.send_header("ETag", '"one"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET


def told(cache, address):
    settings = {"HF_HOME": str(cache), "HF_ENDPOINT": address, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", TOLD]
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(command, env=env | settings, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_base_of_the_hub_is_known_by_its_commit_before_it_is_fetched_and_after(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    expected = [f"some/base@{COMMIT}"] * 2 + [f"some/base@{'f' * 40}"]
    try:
        first = told(tmp_path, address)
        again = told(tmp_path, address)
    finally:
        server.shutdown()
        server.server_close()
    assert first == again == expected
    # Without a network, what was fetched is still known.
    assert told(tmp_path, address) == expected
    assert told(tmp_path / "nothing", address)[0] == "some/base@main"


def test_answers_of_another_engine_are_not_believed(tmp_path, monkeypatch):
    from sight_beyond_text.evaluation import text

    (tmp_path / "config.json").touch()
    base = {"model": str(tmp_path), "revision": None}
    subject = {"base": base, "mode": None, "precision": "fp32", "checkpoint": None}
    spec = {"subject": subject, "protocol": "current"}
    first = text._identity(spec)
    monkeypatch.setattr(text, "ENGINE_VERSION", text.ENGINE_VERSION + 1)
    assert text._identity(spec) != first
