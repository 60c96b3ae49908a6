"""Bringing a study's resources: each once, whole, checked, and recorded.

A resource is a folder. Its record beside it is written last, and nothing reads the folder without
it. What came when, and what it was then, stands in the manifest, which no workflow removes: where a
study doesn't pin a file or a commit, the first one that came is kept to.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json, write_json
from sight_beyond_text.resources.download import download
from sight_beyond_text.resources.hub import fetch_repo
from sight_beyond_text.resources.unpack import unpack

_ARCHIVES = ".archives"
"""Folder within a resource's, of what is still to be unpacked."""


def fetch(resource: Mapping, record: str | Path, manifest: str | Path) -> dict:
    """Fetches what a resource is made of, or finds that it is there.

    Args:
        resource: `{name, folder, items}` (`grid.resource_specs`); without a folder, its items are
            models that go to the hub's cache.
        record: gets the record, last.
        manifest: the record of all resources that ever came.

    Returns:
        The record: `{name, folder, items, files, bytes, when}`.

    Raises:
        UserError: an item couldn't be fetched, isn't what it must be, or was changed since.
    """
    key, folder = Path(record).stem, resource["folder"]
    known = _known(manifest).get(key, {})
    if folder is not None and known and _is_whole(Path(folder), known):
        write_json(record, known)
        return known
    pins = known.get("items") or [{}] * len(resource["items"])
    items = []
    for item, pin in zip(resource["items"], pins, strict=True):
        made = _fetch_item(item, pin, folder and Path(folder))
        items.append(made)
        # Known from now on, even if a later item fails.
        _remember(manifest, key, {**known, "name": resource["name"], "items": _pins(items, pins)})
    out = {
        "name": resource["name"],
        "folder": folder,
        "items": items,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if folder is not None:
        shutil.rmtree(Path(folder) / _ARCHIVES, ignore_errors=True)
        out |= _measured(Path(folder))
    else:
        sizes = [size for item in items for size in item["files"].values()]
        out |= {"files": len(sizes), "bytes": sum(sizes)}
    _remember(manifest, key, out)
    write_json(record, out)
    return out


def _pins(items: list[dict], pins: list[dict]) -> list[dict]:
    return [*items, *pins[len(items) :]]


def _fetch_item(item: Mapping, pin: Mapping, folder: Path | None) -> dict:
    into = folder / _ARCHIVES if folder is not None and item["unpack"] else folder
    if item["url"] is not None:
        name = _file_name(item["url"])
        checksum = item["checksum"] or (f"sha256:{pin['sha256']}" if "sha256" in pin else None)
        made = download(item["url"], into / name, item["size"], checksum)
        made.pop("fetched")
        archives = [into / name]
    else:
        # A branch may move on; the commit that came first is kept to.
        commit = pin.get("revision")
        made = fetch_repo(item["repo"], item["kind"], item["revision"], item["files"], into, commit)
        archives = [into / name for name in made["files"]] if into is not None else []
    if item["unpack"]:
        unpacked = [unpack(archive, folder, item["inside"]) for archive in archives]
        made["unpacked"] = {key: sum(one[key] for one in unpacked) for key in ("files", "bytes")}
    return made


def _file_name(url: str) -> str:
    """What a file at an address is called.

    Raises:
        UserError: the address names none.
    """
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if name in ("", ".", "..") or "\0" in name:
        raise UserError(f"{url}: the address names no file")
    return name


def _measured(folder: Path) -> dict:
    """How many files a folder has, and bytes; what the hub's library notes there isn't counted."""
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in (".cache", _ARCHIVES)
    ]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _is_whole(folder: Path, known: Mapping) -> bool:
    """Whether a folder is as it was when its record was written."""
    if "when" not in known or not folder.is_dir():
        return False
    return _measured(folder) == {key: known[key] for key in ("files", "bytes")}


def _known(manifest: str | Path) -> dict:
    path = Path(manifest)
    return read_json(path, "manifest of resources") if path.is_file() else {}


def _remember(manifest: str | Path, key: str, entry: Mapping) -> None:
    """Writes one resource's entry; several jobs may do so at once."""
    with _locked(Path(manifest)):
        write_json(manifest, dict(sorted({**_known(manifest), key: dict(entry)}.items())))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def told(record: Mapping) -> str:
    """A record in one line."""
    where = record["folder"] or "the hub's cache"
    return f"{record['name']}: {record['files']:,} files, {record['bytes']:,} bytes in {where}"


def parse(text: str) -> dict:
    """A resource's spec from a command's argument.

    Raises:
        UserError: it isn't one.
    """
    try:
        made = json.loads(text)
    except json.JSONDecodeError:
        made = None
    if not isinstance(made, dict) or not {"name", "folder", "items"} <= made.keys():
        raise UserError(f"not a resource: {text[:40]!r}")
    return made
