"""Archives of strangers: nothing gets outside, nothing swells, nothing links."""

import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from sight_beyond_text.errors import UserError
from sight_beyond_text.resources import unpack as module
from sight_beyond_text.resources.unpack import unpack

GOOD = {"train/1.jpg": b"one" * 1000, "train/sub/2.jpg": b"two", "other/3.jpg": b""}


def zipped(path: Path, files: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return path


def tarred(path: Path, files: dict[str, bytes], kinds: dict[str, bytes] | None = None) -> Path:
    mode = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            if info.type == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content.decode()
            archive.addfile(info, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_archives_are_unpacked(tmp_path: Path, name: str) -> None:
    make = zipped if name.endswith("zip") else tarred
    archive = make(tmp_path / name, GOOD)
    told = unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == GOOD
    assert told == {"files": 3, "bytes": 3003}
    told = unpack(archive, tmp_path / "inside", inside="train")
    assert contents(tmp_path / "inside") == {
        "1.jpg": GOOD["train/1.jpg"],
        "sub/2.jpg": b"two",
    }
    with pytest.raises(UserError, match="no files in 'val'"):
        unpack(archive, tmp_path / "none", inside="val")


def test_two_archives_fill_one_folder(tmp_path: Path) -> None:
    unpack(zipped(tmp_path / "a.zip", {"x/a": b"a"}), tmp_path / "out", inside="x")
    unpack(zipped(tmp_path / "b.zip", {"b": b"b"}), tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": b"a", "b": b"b"}


NAMES = ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "a/b/../../../out", "C:/x"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_names_that_lead_outside_are_refused_before_anything_is_written(
    tmp_path: Path, make, name: str
) -> None:
    archive = make(tmp_path / "evil", {"good.txt": b"good", name: b"evil"})
    out = tmp_path / "deep" / "out"
    with pytest.raises(UserError, match="refused"):
        unpack(archive, out)
    assert not out.exists() or contents(out) == {}
    assert contents(tmp_path).keys() == {"evil"}


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    for number, kind in enumerate(kinds):
        files = {"good": b"x", "link": b"/etc/passwd"}
        archive = tarred(tmp_path / f"{number}.tar", files, {"link": kind})
        with pytest.raises(UserError, match="'link' is a link or a device; refused"):
            unpack(archive, tmp_path / "out")
    mode = {"link": stat.S_IFLNK | 0o777}
    archive = zipped(tmp_path / "a.zip", {"good": b"x", "link": b"/etc"}, mode)
    with pytest.raises(UserError, match="'link' is a link; refused"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "one")
        archive.writestr("a", "two")
    with pytest.raises(UserError, match="'a' is there twice; refused"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_bombs_are_refused_before_they_swell(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SMALL", 10_000)
    archive = zipped(tmp_path / "bomb.zip", {"a": bytes(5_000_000)})
    assert archive.stat().st_size < 10_000
    with pytest.raises(UserError, match="bytes that would become more than .* refused"):
        unpack(archive, tmp_path / "out")
    archive = tarred(tmp_path / "bomb.tar.gz", {"a": bytes(5_000_000)})
    with pytest.raises(UserError, match="bytes that would become more than"):
        unpack(archive, tmp_path / "out")
    monkeypatch.setattr(module, "MOST", 10)
    archive = zipped(tmp_path / "many.zip", {str(number): b"" for number in range(11)})
    with pytest.raises(UserError, match="10 files; refused"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_that_lies_about_its_size_is_cut_short(tmp_path: Path) -> None:
    """The directory says 10 bytes, the content has a million."""
    archive = zipped(tmp_path / "a.zip", {"a": bytes(1_000_000)})
    content = archive.read_bytes()
    size = struct.pack("<I", 1_000_000)
    assert content.count(size) >= 2
    archive.write_bytes(content.replace(size, struct.pack("<I", 10)))
    with pytest.raises(UserError, match="a broken archive"):
        unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_broken_archives(tmp_path: Path) -> None:
    good = zipped(tmp_path / "a.zip", {"a": os.urandom(100_000)})
    whole = good.read_bytes()
    good.write_bytes(whole[:-30])
    with pytest.raises(UserError, match="neither a zip nor a tar archive"):
        unpack(good, tmp_path / "out")
    bad = bytearray(whole)
    bad[50_000] ^= 1
    good.write_bytes(bad)
    with pytest.raises(UserError, match=r"a broken archive \(Bad CRC-32 for file 'a'\)"):
        unpack(good, tmp_path / "out")
    tar = tarred(tmp_path / "a.tar.gz", {"a": os.urandom(100_000), "b": b"b"})
    tar.write_bytes(tar.read_bytes()[:60_000])
    with pytest.raises(UserError, match="a broken archive"):
        unpack(tar, tmp_path / "out")
    assert contents(tmp_path / "out") == {}
    (tmp_path / "text").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="neither a zip nor a tar archive; remove it"):
        unpack(tmp_path / "text", tmp_path / "out")


def test_unpacking_goes_on_where_it_stopped_and_mends_what_is_damaged(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", GOOD)
    out = tmp_path / "out"
    unpack(archive, out)
    before = (out / "train/1.jpg").stat().st_mtime_ns
    (out / "train/sub/2.jpg").write_bytes(b"TWO")
    (out / "other/3.jpg").unlink()
    unpack(archive, out)
    assert contents(out) == GOOD
    assert (out / "train/1.jpg").stat().st_mtime_ns == before


def test_no_room_is_foreseen(tmp_path: Path, monkeypatch) -> None:
    archive = zipped(tmp_path / "a.zip", GOOD)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 3002))
    with pytest.raises(UserError, match=r"a.zip needs 3,003 bytes, 3,002 are free; make room"):
        unpack(archive, tmp_path / "out")


THREE = {f"{number}.bin": os.urandom(500_000) for number in range(3)}


@pytest.mark.parametrize("make", [zipped, tarred])
def test_what_is_there_already_needs_no_room(tmp_path: Path, small: Path, make) -> None:
    archive = make(tmp_path / "three", THREE)
    unpack(archive, small)
    (small / "1.bin").unlink()
    unpack(archive, small)
    assert contents(small) == THREE


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_disk_that_fills_meanwhile_keeps_whole_files_alone(
    tmp_path: Path, small: Path, make, monkeypatch
) -> None:
    archive = make(tmp_path / "six", THREE | {f"more/{n}": c for n, c in THREE.items()})
    with pytest.raises(UserError, match="needs 3,000,000 bytes, 2,097,152 are free"):
        unpack(archive, small)
    assert contents(small) == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 10**12))
    with pytest.raises(UserError) as error:
        unpack(archive, small)
    assert str(error.value).startswith(f"{small}: the disk is full; what was unpacked of six")
    kept = contents(small)
    assert len(kept) == 4 and all(kept[name] == THREE[Path(name).name] for name in kept)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    unpack(archive, small)
    assert len(contents(small)) == 6


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("place", [-6, 0.5])
def test_a_damaged_compressed_tar_is_told(tmp_path: Path, suffix: str, place: float) -> None:
    archive = tarred(tmp_path / f"a.tar{suffix}", THREE)
    content = bytearray(archive.read_bytes())
    content[place if place < 0 else int(place * len(content))] ^= 255
    archive.write_bytes(content)
    with pytest.raises(UserError) as error:
        unpack(archive, tmp_path / "out")
    told = str(error.value)
    assert told.startswith(f"{archive}: ") and told.endswith("remove it and fetch it again")
    assert not any(path.name.endswith(".part") for path in tmp_path.rglob("*"))


def test_encrypted_files_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"a": b"a" * 100})
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # in the file's own header
    at = content.index(b"PK\x01\x02") + 8  # and in the directory
    content[at] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="'a' is encrypted; refused"):
        unpack(archive, tmp_path / "out")
