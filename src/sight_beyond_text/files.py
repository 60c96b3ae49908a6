"""Reading and writing small files so that nothing is ever half-written."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sight_beyond_text.errors import UserError

COMPLETE = "complete.json"
"""The record in a checkpoint's folder, written last."""

RESUME = "resume"
"""Folder of resume points in a checkpoint's folder, as long as its training isn't finished."""


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` atomically: the file is whole or it isn't there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        share(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def share(path: str | Path) -> None:
    """Gives a file, or a folder with all in it, the rights that the umask leaves to new ones.

    Temporary files and folders, and what safetensors writes, are for their owner alone. A folder
    keeps its setgid bit, by which what is made in it belongs to its group.
    """
    umask, path = _umask(), Path(path)
    inside = path.rglob("*") if path.is_dir() else ()
    for part in (path, *inside):
        if part.is_symlink():
            continue
        state = part.stat()
        whole = 0o777 if stat.S_ISDIR(state.st_mode) else 0o666
        wanted = (whole & ~umask) | (state.st_mode & stat.S_ISGID)
        if stat.S_IMODE(state.st_mode) != wanted and state.st_uid == os.getuid():
            os.chmod(part, wanted)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Writes `value` as JSON, atomically; keys keep their order."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def write_json_lines(path: str | Path, rows: list[dict]) -> None:
    """Writes one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@contextmanager
def staged_folder(out: str | Path) -> Iterator[Path]:
    """A folder to write in that becomes `out` at the end: `out` is whole or it isn't there.

    Raises:
        UserError: `out` is there already, and isn't an empty folder.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; remove it or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield temporary
        share(temporary)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_bytes(path: str | Path, what: str) -> bytes:
    """Reads a file, unpacked where it is gzipped; `what` names it in the error ("COCO captions").

    Raises:
        UserError: the file isn't there, can't be read or isn't whole.
    """
    try:
        content = Path(path).read_bytes()
        return _unpacked(content, path, what) if content.startswith(_GZIPPED) else content
    except FileNotFoundError:
        raise UserError(f"{path}: no such file ({what}); check the path in the study") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: {what}: can't be read ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: {what} can't be read: {error.strerror}") from None


# No text begins so.
_GZIPPED = b"\x1f\x8b"

SWELL = 100
"""How many times its size a packed file may hold; texts shrink to a twentieth at best."""

SMALL = 2**28
"""A packed file may hold so many bytes in any case."""


def _unpacked(content: bytes, path: str | Path, what: str) -> bytes:
    allowed = max(SMALL, SWELL * len(content))
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        out = stream.read(allowed + 1)
    if len(out) > allowed:
        raise UserError(
            f"{path}: {what}: {len(content):,} bytes that would become more than {allowed:,};"
            " refused"
        )
    return out


def _decoded(path: str | Path, what: str) -> str:
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {what}: not UTF-8 text at byte {error.start}") from None


def read_json(path: str | Path, what: str, without: Collection[str] = ()) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        what: names it in the error.
        without: keys of objects to leave out, so that they never fill the memory.

    Raises:
        UserError: the file is missing, or isn't whole JSON (the place is named).
    """

    def lean(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if key not in without}

    text = _decoded(path, what)
    try:
        return json.loads(text, object_pairs_hook=lean if without else None)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}:{error.colno}: {what}: broken JSON ({error.msg});"
            " fetch or write the file again"
        ) from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: {what}: {_too_much(error)}; refused") from None


def _too_much(error: Exception) -> str:
    """What whole JSON holds that no data do: Python reads neither."""
    return (
        "too deeply nested" if isinstance(error, RecursionError) else "a number of too many digits"
    )


def read_json_lines(path: str | Path, what: str) -> list[dict]:
    """Reads a JSON-lines file; blank lines are passed over.

    Raises:
        UserError: the file is missing, or a line isn't a JSON object (the line is named).
    """
    rows = []
    # Not splitlines(): strings in JSON may hold U+2028 and other ends of line as they are.
    for number, line in enumerate(_decoded(path, what).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}:{number}: {what}: broken JSON ({error.msg}); fetch the file again"
            ) from None
        except (RecursionError, ValueError) as error:
            raise UserError(f"{path}:{number}: {what}: {_too_much(error)}; refused") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: {what}: expected an object, found {line[:40]!r}")
        rows.append(row)
    return rows


def digest(recipe: Any) -> str:
    """8 hex digits of a JSON-able recipe; the order of keys doesn't matter."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
