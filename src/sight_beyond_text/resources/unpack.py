"""Unpacking archives that strangers made: nothing gets outside, nothing swells, nothing links."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from sight_beyond_text.errors import UserError

SWELL = 100
"""How many times its size an archive may hold; texts shrink to a twentieth at best."""

SMALL = 2**30
"""An archive may hold so many bytes in any case."""

MOST = 5_000_000
"""Files that an archive may hold."""

_CHUNK = 1 << 20

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    NotImplementedError,
)


class Entry(NamedTuple):
    """A file in an archive: its name, bytes, and CRC-32 where the archive tells it."""

    name: str
    size: int
    crc: int | None


def unpack(archive: str | Path, folder: str | Path, inside: str | None = None) -> dict:
    """Unpacks a zip or tar archive; all of it is looked at before anything is written.

    Each file is written under another name first, so that none is ever there in part. What is
    there already, whole (as a zip's CRC tells), isn't written again.

    Args:
        archive: zip, or tar with or without compression.
        folder: gets the files; others may be there.
        inside: unpack only this folder of the archive, without its name.

    Returns:
        `{files, bytes}` of what was unpacked.

    Raises:
        UserError: the archive is broken, or holds names that lead outside, links, devices, a name
            twice, far more than its size, or more than the disk has room for.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with _opened(archive) as opened:
            entries = _checked(archive, opened.entries())
            chosen = _chosen(archive, entries, inside)
            _make_sure_of_room(archive, folder, chosen.values(), inside)
            for stream, entry in opened.contents():
                if entry.name in chosen:
                    _write(stream, entry, folder / chosen_name(entry.name, inside))
    except _BROKEN as error:
        told = f"{archive}: a broken archive ({error}); remove it and fetch it again"
        raise UserError(told) from None
    except OSError as error:
        raise UserError(_told(error, archive, folder)) from None
    return {"files": len(chosen), "bytes": sum(entry.size for entry in chosen.values())}


def _told(error: OSError, archive: Path, folder: Path) -> str:
    if error.errno is None:  # so says bzip2 of broken data
        return f"{archive}: a broken archive ({error}); remove it and fetch it again"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{folder}: the disk is full; what was unpacked of {archive.name} is kept: make room"
            " and type the same again"
        )
    return f"{error.filename or folder}: {error.strerror}; mend that and type the same again"


class _Zip:
    def __init__(self, path: Path):
        self.file = zipfile.ZipFile(path)

    def entries(self) -> Iterator[Entry]:
        for info in self.file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & 1:
                raise UserError(f"{self.file.filename}: {info.filename!r} is encrypted; refused")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{self.file.filename}: {info.filename!r} is a link; refused")
            if not info.is_dir():
                yield Entry(info.filename, info.file_size, info.CRC)

    def contents(self) -> Iterator[tuple[IO[bytes], Entry]]:
        for info in self.file.infolist():
            if not info.is_dir():
                with self.file.open(info) as stream:
                    yield stream, Entry(info.filename, info.file_size, info.CRC)

    def __enter__(self) -> _Zip:
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


class _Tar:
    def __init__(self, path: Path):
        self.path = path

    def entries(self) -> Iterator[Entry]:
        with tarfile.open(self.path) as file:
            for member in file:
                if not (member.isreg() or member.isdir()):
                    raise UserError(f"{self.path}: {member.name!r} is a link or a device; refused")
                if member.isreg():
                    yield Entry(member.name, member.size, None)
            self._read_to_the_end(file.fileobj)

    def _read_to_the_end(self, stream: IO[bytes]) -> None:
        """Compression keeps its checksum behind what a tar reads of it."""
        for _ in range(SMALL // _CHUNK):
            if not stream.read(_CHUNK):
                return
        raise UserError(
            f"{self.path}: goes on for more than {SMALL:,} bytes after its end; refused"
        )

    def contents(self) -> Iterator[tuple[IO[bytes], Entry]]:
        with tarfile.open(self.path) as file:
            for member in file:
                if member.isreg():
                    yield file.extractfile(member), Entry(member.name, member.size, None)

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, *_) -> None:
        pass


def _opened(archive: Path) -> _Zip | _Tar:
    if zipfile.is_zipfile(archive):
        return _Zip(archive)
    if tarfile.is_tarfile(archive):
        return _Tar(archive)
    raise UserError(f"{archive}: neither a zip nor a tar archive; remove it and fetch it again")


def _checked(archive: Path, entries: Iterable[Entry]) -> list[Entry]:
    """The entries, if all are harmless; stops at the first that isn't."""
    allowed = max(SMALL, SWELL * archive.stat().st_size)
    out: list[Entry] = []
    names: set[str] = set()
    total = 0
    for entry in entries:
        parts = PurePosixPath(entry.name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in entry.name:
            raise UserError(f"{archive}: {entry.name!r} leads out of the folder; refused")
        if "\0" in entry.name or parts[0].endswith(":"):
            raise UserError(f"{archive}: {entry.name!r} is no name of a file; refused")
        normal = "/".join(parts)
        if normal in names:
            raise UserError(f"{archive}: {entry.name!r} is there twice; refused")
        names.add(normal)
        total += entry.size
        if total > allowed or len(names) > MOST:
            raise UserError(
                f"{archive}: {archive.stat().st_size:,} bytes that would become more than"
                f" {allowed:,}, or {MOST:,} files; refused"
            )
        out.append(entry)
    return out


def _chosen(archive: Path, entries: Iterable[Entry], inside: str | None) -> dict[str, Entry]:
    chosen = {e.name: e for e in entries if chosen_name(e.name, inside) is not None}
    if not chosen:
        what = f"no files in {inside!r}" if inside else "no files"
        raise UserError(f"{archive}: {what}; is this the right archive?")
    return chosen


def chosen_name(name: str, inside: str | None) -> str | None:
    """A file's path below the folder to unpack into; None for what lies elsewhere."""
    path = PurePosixPath(name)
    if inside is None:
        return str(path)
    within = PurePosixPath(inside)
    return str(path.relative_to(within)) if path.is_relative_to(within) else None


def _make_sure_of_room(
    archive: Path, folder: Path, entries: Iterable[Entry], inside: str | None
) -> None:
    """Sees that there is room for what isn't there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(
        entry.size
        for entry in entries
        if not _has_size(folder / chosen_name(entry.name, inside), entry.size)
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {archive.name} needs {needed:,} bytes, {free:,} are free; make room and"
            " type the same again"
        )


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write(stream: IO[bytes], entry: Entry, path: Path) -> None:
    if entry.crc is not None and _has_size(path, entry.size) and _crc(path) == entry.crc:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as out:
            shutil.copyfileobj(stream, out, _CHUNK)
        if partial.stat().st_size != entry.size:
            raise EOFError(f"{entry.name} ends too early")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
