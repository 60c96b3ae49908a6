"""A study's cached tables: their layout, whether they are whole, archives of them. Light at import.

`layout.json` stands beside the tables (`figures/data/<study>/`) and is written last. It holds the
number of the layout, the SHA-256 of every table, the versions that made them, and what the tables
of claims and published values were made of, so that all that follows from the items can be made
again. Its own checksum tells whether somebody wrote in it.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import platform
import shutil
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import read_json, sha256, staged_folder, write_json

LAYOUT = 2
"""Number of the present layout: files, columns, what their values mean. 1 had no `layout.json`."""

FILE = "layout.json"
ROOT = Path("figures/data")
"""Where the workflow keeps each study's folder."""

_TABLES = (".csv", ".parquet")
_PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "statsmodels")


DERIVED = ("claims", "published")
"""What tables are made of besides runs, scores and items: keys of `grid.compare_spec`."""


def write_layout(folder: str | Path, study: str, derived: dict | None = None) -> None:
    """Writes `layout.json` for the tables that lie in a folder, all there.

    Args:
        folder: the study's tables.
        study: its name.
        derived: what `DERIVED` names.
    """
    folder = Path(folder)
    told = {
        "layout": LAYOUT,
        "study": study,
        "versions": _versions(),
        "derived": {key: (derived or {}).get(key, []) for key in DERIVED},
        "tables": {name: sha256(folder / name) for name in _found(folder)},
    }
    write_json(folder / FILE, {**told, "checksum": _checksum(told)})


def read_layout(folder: str | Path) -> dict:
    """The layout of a folder's tables, if this version can read them.

    Raises:
        UserError: there are none, or their layout is older, newer, or no longer what was written.
    """
    folder = Path(folder)
    if not folder.is_dir() or not _found(folder):
        raise UserError(
            f"{folder}: no tables; run the study without from_cache, or unpack an archive of them"
            " with `sight cache unpack`"
        )
    if not (folder / FILE).is_file():
        raise UserError(
            f"{folder}: tables of layout 1 (no {FILE}), this version reads {LAYOUT};"
            f" `sight cache migrate {folder}` makes them anew from their items"
        )
    layout = read_json(folder / FILE, "layout of cached tables")
    number = layout.get("layout") if isinstance(layout, dict) else None
    if not isinstance(number, int):
        raise UserError(f"{folder / FILE}: tells no layout; {_TAKE_AGAIN}")
    if number > LAYOUT:
        raise UserError(
            f"{folder}: tables of layout {number}, this version reads up to {LAYOUT};"
            " use the newer version that wrote them"
        )
    if number < LAYOUT:
        raise UserError(
            f"{folder}: tables of layout {number}, this version reads {LAYOUT};"
            f" `sight cache migrate {folder}` makes them anew from their items"
        )
    told = {key: value for key, value in layout.items() if key != "checksum"}
    whole = layout.get("checksum") == _checksum(told) and set(told) >= _KEYS
    if not whole or not all(_is_plain(name) for name in told["tables"]):
        raise UserError(f"{folder / FILE}: isn't as it was written; {_TAKE_AGAIN}")
    return layout


_KEYS = {"layout", "study", "versions", "derived", "tables"}
_TAKE_AGAIN = "take the tables again from where they came, or run `sight compare`"


def differences(folder: str | Path, layout: dict) -> list[str]:
    """One line for each table that is missing, not as it was written, or unknown to the layout."""
    folder, tables = Path(folder), layout["tables"]
    lines = []
    for name, expected in tables.items():
        if not (folder / name).is_file():
            lines.append(f"{folder / name}: missing; {_TAKE_AGAIN}")
        elif sha256(folder / name) != expected:
            lines.append(
                f"{folder / name}: isn't as it was written (its SHA-256 differs); {_TAKE_AGAIN}"
            )
    unknown = [name for name in _found(folder) if name not in tables]
    lines += [f"{folder / name}: {FILE} doesn't know of it; remove it" for name in unknown]
    return lines


def check(folder: str | Path) -> dict:
    """The layout of tables that can be drawn from: none is missing or was changed by hand.

    Raises:
        UserError: as `read_layout` and `differences` tell; the remedy stands in each line.
    """
    layout = read_layout(folder)
    lines = differences(folder, layout)
    if lines:
        raise UserError("\n".join(lines))
    return layout


def find(name: str | Path) -> Path:
    """The folder of tables that a name means: a folder itself, or a study of `figures/data/`.

    Raises:
        UserError: there is no such folder.
    """
    for folder in (Path(name), ROOT / name):
        if folder.is_dir():
            return folder
    known = sorted(path.name for path in ROOT.glob("*") if path.is_dir())
    has = f"it holds {', '.join(known)}" if known else "it holds none"
    raise UserError(f"{name}: neither a folder nor a study in {ROOT}/; {has}")


def pack(folder: str | Path, out: str | Path) -> dict:
    """Writes an archive of a folder of tables; the same tables give the same bytes.

    Args:
        folder: the tables.
        out: the archive, a plain tar (Parquet is compressed already): `<study>/<file>`.

    Returns:
        `{study, files, bytes}`.

    Raises:
        UserError: the tables aren't whole, or `out` doesn't end in .tar.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix != ".tar":
        raise UserError(f"{out}: an archive of tables ends in .tar")
    layout = check(folder)
    names = [FILE, *sorted(layout["tables"])]
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for name in names:
                    member = tarfile.TarInfo(f"{layout['study']}/{name}")
                    member.size, member.mode = (folder / name).stat().st_size, 0o644
                    with open(folder / name, "rb") as content:
                        archive.addfile(member, content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return {"study": layout["study"], "files": len(names), "bytes": out.stat().st_size}


def unpack(archive: str | Path, out: str | Path | None = None) -> Path:
    """Unpacks an archive of tables whose every byte is as `pack` wrote it.

    Args:
        archive: what `pack` wrote.
        out: the folder to make; `figures/data/<study>/` by default.

    Returns:
        The folder.

    Raises:
        UserError: the archive is broken, changed or of another layout; or the folder is there.
    """
    archive = Path(archive)
    with tempfile.TemporaryDirectory(prefix="sight-cache-") as temporary:
        packed = _unpacked(archive, Path(temporary))
        out = Path(out) if out is not None else ROOT / packed.name
        with staged_folder(out) as folder:
            for path in packed.iterdir():
                shutil.copyfile(path, folder / path.name)
    return out


def problems(path: str | Path) -> list[str]:
    """All that is wrong with an archive or a folder of tables, one line each."""
    path = Path(path)
    try:
        if path.is_file():
            with tempfile.TemporaryDirectory(prefix="sight-cache-") as temporary:
                folder = _unpacked(path, Path(temporary))
                return [_renamed(line, folder, path) for line in contradictions(folder)]
        folder = find(path)
        lines = differences(folder, read_layout(folder))
    except UserError as error:
        return str(error).splitlines()
    return lines or contradictions(folder)


def _unpacked(archive: Path, temporary: Path) -> Path:
    """Unpacks into a folder of `temporary`, once it is known that all is as it was packed."""
    from sight_beyond_text.resources.unpack import unpack as unpack_safely

    if not archive.is_file():
        raise UserError(f"{archive}: no such archive")
    unpack_safely(archive, temporary)
    folders = list(temporary.iterdir())
    if len(folders) != 1 or not (folders[0] / FILE).is_file():
        raise UserError(f"{archive}: no archive of tables; `sight cache pack` makes one")
    folder = folders[0]
    try:
        layout = check(folder)
    except UserError as error:
        told = [_renamed(line, folder, archive) for line in str(error).splitlines()]
        raise UserError("\n".join(told)) from None
    # The study's name becomes a folder's, here and where it is unpacked to.
    again = temporary / "again.tar"
    if layout["study"] == folder.name:
        pack(folder, again)
    if not again.is_file() or not filecmp.cmp(archive, again, shallow=False):
        raise UserError(f"{archive}: holds more than tables, or was changed; take it again")
    again.unlink()
    return folder


def _renamed(line: str, folder: Path, archive: Path) -> str:
    return line.replace(f"{folder}/", f"{archive}: ").replace(str(folder), str(archive))


def contradictions(folder: str | Path) -> list[str]:
    """What tables of one folder say against each other, or can't be read, one line each."""
    from sight_beyond_text.analysis.consistency import contradictions as found

    return found(folder)


def _found(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _is_plain(path.name))


def _is_plain(name: str) -> bool:
    """Whether a name is a table's, in the folder itself."""
    path = Path(name)
    return path.name == name and path.suffix in _TABLES and not name.startswith(".")


def _checksum(told: dict) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("sight-beyond-text", *_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # Comparing straight from a checkout needs no installation.
            continue
    return found
