"""Downloading one file over HTTP: resumed when the line is cut, checked before it is believed."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from sight_beyond_text import __version__
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json, write_json

_CHUNK = 1 << 20
_AGENT = f"sight-beyond-text/{__version__}"


def download(
    url: str,
    target: str | Path,
    size: int | None = None,
    checksum: str | None = None,
    attempts: int = 6,
    wait: float = 2.0,
    timeout: float = 60.0,
    headers: Mapping[str, str] | None = None,
) -> dict:
    """Fetches a file, unless it is there already and as it should be.

    What came is kept in `<target>.part` until it is whole and checked. A later call goes on from
    there, as long as the server says that the file is still the same (ETag or date).

    Args:
        url: http or https.
        target: where the file goes.
        size: bytes that it must have.
        checksum: "sha256:..." or "md5:..." that it must have.
        attempts: how often to try after the line was cut, in a row without any progress.
        wait: seconds before the second attempt; twice as long before each further one.
        timeout: seconds without a byte after which the line is taken for cut.
        headers: what else to ask with; `Authorization` goes to no other server than the first.

    Returns:
        `{url, bytes, sha256, fetched}`; `fetched` is false where the file was there.

    Raises:
        UserError: the server refuses, the line stays cut, the disk is full, or size or checksum
            aren't what they must be (what came is then removed).
    """
    target = Path(target)
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: not an http or https address")
    if target.is_file():
        _check(target, url, size, checksum, "remove it, or mend size or checksum in the study")
        clear_up(target)
        return {**_told(url, target), "fetched": False}
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    failures, last = 0, -1
    while True:
        try:
            _go_on(url, part, size, timeout, headers or {})
            break
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            _refuse_hopeless(error, url, part)
            have = part.stat().st_size if part.is_file() else 0
            failures, last = (failures + 1 if have <= last else 1), max(have, last)
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
            if failures >= attempts:
                raise UserError(
                    f"{url}: the line was cut {failures} times in a row without progress"
                    f" ({reason}); {have:,} bytes are kept in {part}: type the same again to go on"
                ) from None
            print(f"{url}: {reason}; going on from {have:,} bytes", file=sys.stderr)
            time.sleep(wait * 2 ** (failures - 1))
    try:
        _check(part, url, size, checksum, "it was removed; type the same again to fetch it anew")
    except UserError:
        _remove(part)
        raise
    os.replace(part, target)
    clear_up(target)
    return {**_told(url, target), "fetched": True}


def clear_up(target: Path) -> None:
    """Removes what a whole file's download left, had it been killed at its very end."""
    _state_of(target.with_name(f"{target.name}.part")).unlink(missing_ok=True)


def _told(url: str, path: Path) -> dict:
    return {"url": url, "bytes": path.stat().st_size, "sha256": digest(path, "sha256")}


def _state_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_of(part).unlink(missing_ok=True)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            made.remove_header("Authorization")
        return made


_OPENER = urllib.request.build_opener(_Redirects)


def _go_on(
    url: str, part: Path, size: int | None, timeout: float, further: Mapping[str, str]
) -> None:
    """One request for what is still missing; returns when the file is as long as it should be."""
    have, known = 0, None
    if part.is_file() and _state_of(part).is_file():
        state = read_json(_state_of(part), "state of a download")
        if state.get("url") == url and state.get("same"):
            have, known = part.stat().st_size, state
    headers = {**further, "User-Agent": _AGENT, "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["same"]}
    try:
        answer = _OPENER.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if have == known.get("total"):
            return  # it was whole when the line was cut
        _remove(part)
        raise ConnectionError("the server has no bytes from there on") from None
    with answer:
        start = have if answer.status == 206 else 0
        total = _total(answer, start)
        if answer.status == 206 and _begins(answer) != have:
            _remove(part)
            raise ConnectionError("the server sent another part than was asked for")
        if size is not None and total is not None and total != size:
            raise UserError(
                f"{url}: the file has {total:,} bytes there, {size:,} were expected; it was changed"
                " or the address is another's: check it, then mend size and checksum in the study"
            )
        _make_sure_of_room(part, url, (total or size or 0) - start)
        same = _validator(answer)
        if same is None:
            _state_of(part).unlink(missing_ok=True)
        else:
            write_json(_state_of(part), {"url": url, "same": same, "total": total})
        with part.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            _copy(answer, stream)
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"{part.stat().st_size:,} of {total:,} bytes came")


def _copy(answer: http.client.HTTPResponse, stream: BinaryIO) -> None:
    try:
        while chunk := answer.read(_CHUNK):
            stream.write(chunk)
    except http.client.IncompleteRead as error:
        stream.write(error.partial)
        raise


def _total(answer: http.client.HTTPResponse, start: int) -> int | None:
    whole = (answer.headers.get("Content-Range") or "").rpartition("/")[2]
    if answer.status == 206 and whole.isdecimal():
        return int(whole)
    length = answer.headers.get("Content-Length")
    return None if length is None else start + int(length)


def _begins(answer: http.client.HTTPResponse) -> int | None:
    told = (answer.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(told) if told.isdecimal() else None


def _validator(answer: http.client.HTTPResponse) -> str | None:
    """What tells that a file is the same: a strong ETag, or else its date."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _refuse_hopeless(error: Exception, url: str, part: Path) -> None:
    """Raises what no further attempt can mend."""
    refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
    if refused and error.code not in (408, 416, 429):
        remedy = "check the address, or give a local path"
        if error.code in (401, 403):
            remedy = "log in with an account that may have it (the hub: `hf auth login`)"
        raise UserError(f"{url}: the server says {error.code} {error.reason}; {remedy}") from None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        have = part.stat().st_size if part.is_file() else 0
        raise UserError(
            f"{part.parent}: the disk is full; {have:,} bytes of {url} are kept: make room and"
            " type the same again"
        ) from None
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        raise UserError(f"{part.parent}: can't be written ({error.strerror})") from None


def _make_sure_of_room(part: Path, url: str, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise UserError(
            f"{part.parent}: {url} needs {needed:,} more bytes, {free:,} are free; make room and"
            " type the same again"
        )


def _check(path: Path, url: str, size: int | None, checksum: str | None, remedy: str) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise UserError(f"{path}: {found:,} bytes of {url}, {size:,} were expected; {remedy}")
    if checksum is not None:
        kind, _, wanted = checksum.partition(":")
        got = digest(path, kind)
        if got != wanted.lower():
            raise UserError(
                f"{path}: its {kind} is {got}, that of {url} should be {wanted}; {remedy}"
            )


def digest(path: str | Path, kind: str) -> str:
    """A file's hash in hex; `kind` is "sha256" or "md5"."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
