"""Files of the Hugging Face hub: one commit of a repository, each file checked against the hub."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import write_text
from sight_beyond_text.resources.download import clear_up, digest, download

_AT_ONCE = 4
"""Files that come at the same time; one connection seldom fills a line."""

MODEL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "tokenizer*")
"""What of a model's repository is read besides its weights."""

WEIGHTS = ("*.safetensors", "*.bin")
"""Weights, the better form first."""


def fetch_repo(
    repo: str,
    kind: str,
    revision: str | None,
    files: Sequence[str] | None = None,
    folder: str | Path | None = None,
    commit: str | None = None,
) -> dict:
    """Fetches files of one commit of a repository, or finds that they are there.

    The hub's own library throws away what came of a file when the line is cut for good, or the
    process ends; so the files come by `download`, which goes on from there.

    Args:
        repo: "owner/name".
        kind: "model" or "dataset".
        revision: commit, tag or branch; None is "main".
        files: patterns; None takes all of a data set, and of a model what transformers reads, with
            weights in one form only.
        folder: where they go; None is the hub's own cache, from which models are loaded by name.
        commit: the one to keep to, whatever the revision means by now.

    Returns:
        `{repo, kind, asked, revision, files: {name: bytes}}`; `revision` is the commit.

    Raises:
        UserError: no such repository or revision, no permission, no line, no room, or a file that
            isn't what the hub says (it is then removed).
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import httpx

    where = f"{repo}@{revision or 'main'}"
    if any(part in ("", ".", "..") for part in (revision or "main").split("/")):
        raise UserError(f"{where}: no commit, tag or branch is called so; mend `revision`")
    try:
        api = HfApi()
        commit = commit or api.repo_info(repo, repo_type=kind, revision=revision).sha
        tree = api.list_repo_tree(repo, repo_type=kind, revision=commit, recursive=True)
        listed = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        chosen = choose(list(listed), files, kind)
        if not chosen:
            raise UserError(f"{where}: no file of the repository is {files}; mend `files`")
        for name in chosen:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise UserError(f"{where}: {name!r} leads out of the folder; refused")
        wanted = {name: listed[name] for name in chosen}
        if folder is not None:
            made = folder
            _bring(repo, kind, commit, {Path(folder) / n: file for n, file in wanted.items()})
        else:
            # The cache keeps contents by their hashes; the library then links the names to them.
            blobs = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind) / "blobs"
            _bring(repo, kind, commit, {blobs / _hash_of(file): file for file in wanted.values()})
            made = snapshot_download(
                repo,
                repo_type=kind,
                revision=commit,
                allow_patterns=[_literally(name) for name in chosen],
            )
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{where}: not fetched from the hub: {reason}") from None
    for name in chosen:
        _check(Path(made) / name, listed[name], where)
    if folder is None and revision != commit:
        # So that the cache finds it under the name by which a study asks for it, without a line.
        write_text(Path(made).parents[1] / "refs" / (revision or "main"), commit)
    return {
        "repo": repo,
        "kind": kind,
        "asked": revision,
        "revision": commit,
        "files": {name: listed[name].size for name in chosen},
    }


def _bring(repo: str, kind: str, commit: str, files: Mapping[Path, object]) -> None:
    """Downloads what isn't there yet; `files` says where each of the hub's goes.

    Raises:
        UserError: there isn't room for all of them, or one couldn't be fetched.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    missing = {path: file for path, file in files.items() if not path.exists()}
    for path in files.keys() - missing.keys():
        clear_up(path)
    if not missing:
        return
    folder = next(iter(missing)).parent
    folder.mkdir(parents=True, exist_ok=True)
    parts = [path.with_name(f"{path.name}.part") for path in missing]
    came = sum(part.stat().st_size for part in parts if part.is_file())
    needed = sum(file.size for file in missing.values()) - came
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {repo} needs {needed:,} more bytes, {free:,} are free; make room and type"
            " the same again"
        )
    known = {k: v for k, v in build_hf_headers().items() if k.lower() == "authorization"}

    def bring(path: Path, file) -> None:
        url = hf_hub_url(repo, file.path, repo_type=kind, revision=commit)
        download(url, path, file.size, headers=known)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done in [pool.submit(bring, path, file) for path, file in missing.items()]:
            done.result()


def choose(names: Sequence[str], files: Sequence[str] | None, kind: str) -> list[str]:
    """The files to fetch of a repository's; see `fetch_repo`."""
    if files is not None:
        return [name for name in names if any(fnmatch.fnmatchcase(name, f) for f in files)]
    if kind != "model":
        return [name for name in names if name != ".gitattributes"]
    # Below the top lie other forms of the same weights.
    top = [name for name in names if "/" not in name]
    chosen = {name for name in top for form in MODEL_FILES if fnmatch.fnmatchcase(name, form)}
    for form in WEIGHTS:
        weights = {
            name
            for name in top
            if fnmatch.fnmatchcase(name, form)
            and not name.startswith(("training_args", "optimizer", "consolidated"))
        }
        if weights:
            return [name for name in top if name in chosen | weights]
    return [name for name in top if name in chosen]


def _literally(name: str) -> str:
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def _check(path: Path, listed, where: str) -> None:
    """Compares a file with what the hub says of it; a wrong one is removed.

    Raises:
        UserError: another size or another hash.
    """
    wanted, wrong = listed.size, None
    if not path.is_file():
        raise UserError(f"{where}: {listed.path} didn't come; type the same again")
    if path.stat().st_size != wanted:
        wrong = f"has {path.stat().st_size:,} bytes, the hub says {wanted:,}"
    else:
        got = _blob(path) if listed.lfs is None else digest(path, "sha256")
        if got != _hash_of(listed):
            kind = "hash" if listed.lfs is None else "sha256"
            wrong = f"has the {kind} {got}, the hub says {_hash_of(listed)}"
    if wrong is not None:
        # In the hub's cache the name is a link to the content.
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise UserError(
            f"{where}: {listed.path} {wrong}; it was removed: type the same again to fetch it anew"
        )


def _hash_of(listed) -> str:
    told = listed.blob_id if listed.lfs is None else listed.lfs.sha256
    # It becomes the name of a file.
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", told):
        raise UserError(f"{listed.path}: the hub tells {told[:80]!r} for its hash; refused")
    return told


def _blob(path: Path) -> str:
    """The hash by which git knows a file."""
    made = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            made.update(chunk)
    return made.hexdigest()
