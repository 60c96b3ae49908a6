"""A real HTTP server for tests, whose files can be cut off, changed, and refused."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What the server gives, and how it misbehaves.

    Attributes:
        content: bytes by path.
        cuts: by path, after how many bytes of an answer the line is cut, one request after another.
        statuses: by path, statuses to refuse with, one request after another.
        tags: whether answers have an ETag; ranges: whether parts are served.
        asked: (method, path, Range) of all requests.
        moved: by path, the address that it is redirected to.
        logins: (path, Authorization) of all requests.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    tags: bool = True
    ranges: bool = True
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    logins: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"{self.address}{path}"

    def sent(self, path: str) -> list[str | None]:
        """The ranges in which a path was asked for."""
        return [part for method, asked, part in self.asked if (method, asked) == ("GET", path)]


class Handler(BaseHTTPRequestHandler):
    """Answers out of `Files`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Quiet."""

    @property
    def files(self) -> Files:
        """What is served."""
        return self.server.files

    def do_GET(self):
        """Gives a file, or a part of it."""
        path = self.path.partition("?")[0]
        self.files.asked.append((self.command, path, self.headers.get("Range")))
        self.files.logins.append((path, self.headers.get("Authorization")))
        if waiting := self.files.statuses.get(path):
            self.answer(waiting.pop(0), b"")
        elif path in self.files.moved:
            self.answer(302, b"", {"Location": self.files.moved[path]})
        elif path not in self.files.content:
            self.answer(404, b"no such file")
        else:
            content = self.files.content[path]
            self.give(path, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

    do_HEAD = do_GET

    def give(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        """Answers with content, in part if that was asked for and the file is the same."""
        if not self.files.tags:
            headers = {name: value for name, value in headers.items() if name != "ETag"}
        start, asked = 0, self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, headers.get("ETag"))
        if asked and self.files.ranges and same:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            last = len(content) - 1
            headers = {**headers, "Content-Range": f"bytes {start}-{last}/{len(content)}"}
        self.answer(206 if "Content-Range" in headers else 200, content[start:], headers, path)

    def answer(self, status: int, content: bytes, headers: dict | None = None, path="") -> None:
        """Sends an answer, up to where the line is to be cut."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.files.cuts.get(path)
        if cuts:
            self.wfile.write(content[: cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        else:
            self.wfile.write(content)


class Hub(Handler):
    """As much of the Hugging Face hub's protocol as its library asks for to fetch a repository.

    Attributes:
        commits: on the server, by revision name, the commit; and `repos`, by commit, files by name.
    """

    def do_GET(self):
        """Tells of a repository, lists its files, or gives one."""
        path = self.path.partition("?")[0]
        self.files.asked.append((self.command, path, self.headers.get("Range")))
        api, _, rest = path.removeprefix("/api/").partition("/")
        if path.startswith("/api/") and api in ("models", "datasets"):
            self.tell("/".join(rest.split("/")[:2]), rest.split("/")[2:])
        else:
            repo, _, file = path.removeprefix("/datasets").lstrip("/").partition("/resolve/")
            revision, _, name = file.partition("/")
            self.resolve(repo, revision, name)

    do_HEAD = do_GET

    def tell(self, repo: str, rest: list[str]) -> None:
        """What the API says of a repository."""
        server = self.server
        what, revision = (rest + ["main"])[:2] if rest else ("revision", "main")
        commit = server.commits.get(revision, revision)
        if repo != server.repo:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif commit not in server.repos:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif what == "tree":
            made = [self.listed(name, data) for name, data in server.repos[commit].items()]
            self.answer(200, json.dumps(made).encode(), {"Content-Type": "application/json"})
        else:
            told = {"id": repo, "sha": commit, "siblings": []}
            self.answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def listed(self, name: str, data: bytes) -> dict:
        """A file as the tree tells of it; large ones are in LFS."""
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        told = {"path": name, "type": "file", "size": len(data), "oid": blob}
        if len(data) > 1000:
            lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
            told["lfs"] = lfs
        return told

    def resolve(self, repo: str, revision: str, name: str) -> None:
        """Gives a file of a commit."""
        commit = self.server.commits.get(revision, revision)
        data = self.server.repos.get(commit, {}).get(name)
        if repo != self.server.repo or data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        listed = self.listed(name, data)
        tag = listed.get("lfs", {}).get("oid", listed["oid"])
        given = self.server.damaged.get(name, data)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit}
        self.give(name, given, headers)


@contextmanager
def serving(handler=Handler, **attributes):
    """A server in a thread of this process, for the time of a `with`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.files = Files(address=f"http://127.0.0.1:{server.server_port}")
    for name, value in attributes.items():
        setattr(server, name, value)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
