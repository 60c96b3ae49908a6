"""Files come whole or not at all, whatever the line does."""

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from file_server import serving

from sight_beyond_text.errors import UserError
from sight_beyond_text.resources.download import download

CONTENT = random.Random(0).randbytes(3_000_000)
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def files():
    with serving() as server:
        server.files.content["/a.bin"] = CONTENT
        yield server.files


def get(files, target: Path, **settings) -> dict:
    return download(files.url("/a.bin"), target, **{"wait": 0, **settings})


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [None, SHA, MD5, SHA.upper().replace("SHA256", "sha256")])
def test_a_file_comes_once(files, tmp_path: Path, checksum: str | None) -> None:
    target = tmp_path / "new" / "a.bin"
    told = get(files, target, size=len(CONTENT), checksum=checksum)
    assert target.read_bytes() == CONTENT and left(target.parent) == ["a.bin"]
    assert told == {
        "url": files.url("/a.bin"),
        "bytes": len(CONTENT),
        "sha256": SHA[7:],
        "fetched": True,
    }
    assert not get(files, target, checksum=checksum)["fetched"]
    assert len(files.asked) == 1


def test_a_cut_line_is_taken_up_where_it_broke(files, tmp_path: Path) -> None:
    files.cuts["/a.bin"] = [1_000_000, 500_000, 0, 700_000]
    get(files, tmp_path / "a.bin", checksum=SHA)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and left(tmp_path) == ["a.bin"]
    starts = [int(part[6:-1]) if part else 0 for part in files.sent("/a.bin")]
    assert starts == [0, 1_000_000, 1_500_000, 1_500_000, 2_200_000]


def test_a_line_that_stays_cut_is_told_and_the_next_start_goes_on(files, tmp_path: Path) -> None:
    files.cuts["/a.bin"] = [1_000_000] + [0] * 20
    with pytest.raises(UserError) as error:
        get(files, tmp_path / "a.bin", attempts=3)
    assert "the line was cut 3 times in a row without progress" in str(error.value)
    assert "1,000,000 bytes are kept" in str(error.value) and "\n" not in str(error.value)
    assert left(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    files.cuts.clear()
    files.asked.clear()
    get(files, tmp_path / "a.bin", checksum=SHA)
    assert files.sent("/a.bin") == ["bytes=1000000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_from(files, tmp_path: Path) -> None:
    files.cuts["/a.bin"] = [2_000_000]
    with pytest.raises(UserError):
        get(files, tmp_path / "a.bin", attempts=1)
    # A kill in the middle of writing leaves fewer bytes than came.
    os.truncate(tmp_path / "a.bin.part", 1_234_567)
    get(files, tmp_path / "a.bin", checksum=SHA)
    assert files.sent("/a.bin")[-1] == "bytes=1234567-"


@pytest.mark.parametrize("what", ["tags", "ranges"])
def test_without_a_way_to_go_on_it_begins_anew(files, tmp_path: Path, what: str) -> None:
    setattr(files, what, False)
    files.cuts["/a.bin"] = [1_000_000, 2_000_000]
    get(files, tmp_path / "a.bin", checksum=SHA)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_that_was_changed_meanwhile_is_fetched_anew(files, tmp_path: Path) -> None:
    files.cuts["/a.bin"] = [1_000_000]
    with pytest.raises(UserError):
        get(files, tmp_path / "a.bin", attempts=1)
    files.content["/a.bin"] = CONTENT[::-1]
    get(files, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_one_corrupt_byte_is_seen(files, tmp_path: Path) -> None:
    bad = bytearray(CONTENT)
    bad[1_500_000] ^= 1
    files.content["/a.bin"] = bytes(bad)
    with pytest.raises(UserError) as error:
        get(files, tmp_path / "a.bin", checksum=SHA)
    assert f"should be {SHA[7:]}; it was removed" in str(error.value)
    assert left(tmp_path) == []
    files.content["/a.bin"] = CONTENT
    get(files, tmp_path / "a.bin", checksum=SHA)


def test_another_size_is_told_before_anything_comes(files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the file has 3,000,000 bytes there, 5 were expected"):
        get(files, tmp_path / "a.bin", size=5)
    assert left(tmp_path) == []


def test_a_file_that_is_there_but_wrong_is_never_believed(files, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="2,999,999 bytes of .* 3,000,000 were expected; remove it"):
        get(files, tmp_path / "a.bin", size=len(CONTENT))
    with pytest.raises(UserError, match="should be"):
        get(files, tmp_path / "a.bin", checksum=SHA)


def test_servers_that_refuse(files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none: the server says 404 Not Found; check the address"):
        download(files.url("/none"), tmp_path / "none")
    assert files.sent("/none") == [None]  # asked once: no further attempt could mend it
    files.statuses["/a.bin"] = [503, 500, 429]
    get(files, tmp_path / "a.bin", checksum=SHA)
    assert len(files.sent("/a.bin")) == 4


@pytest.mark.parametrize("code", [401, 403])
def test_what_wants_a_login_is_told(files, tmp_path: Path, code: int) -> None:
    files.statuses["/a.bin"] = [code]
    with pytest.raises(UserError, match=f"the server says {code} .*; log in with an account"):
        get(files, tmp_path / "a.bin")


def test_a_login_goes_to_no_other_server(files, tmp_path: Path) -> None:
    with serving() as other:
        other.files.content["/b.bin"] = CONTENT
        files.moved = {"/old": files.url("/here"), "/here": other.files.url("/b.bin")}
        login = {"Authorization": "Bearer secret"}
        download(files.url("/old"), tmp_path / "a.bin", checksum=SHA, headers=login)
        assert files.logins == [("/old", "Bearer secret"), ("/here", "Bearer secret")]
        assert other.files.logins == [("/b.bin", None)]


def test_no_server_at_all(tmp_path: Path) -> None:
    with serving() as server:
        url = server.files.url("/a.bin")
    with pytest.raises(UserError, match="the line was cut 2 times in a row"):
        download(url, tmp_path / "a.bin", attempts=2, wait=0)
    with pytest.raises(UserError, match="not an http or https address"):
        download("file:///etc/passwd", tmp_path / "a.bin")


def test_a_full_disk_is_foreseen(files, small: Path) -> None:
    with pytest.raises(UserError, match=r"needs 3,000,000 more bytes, 2,097,152 are free; make"):
        get(files, small / "a.bin")
    assert not (small / "a.bin").exists()


def test_a_disk_that_fills_meanwhile_keeps_what_came(files, small: Path, monkeypatch) -> None:
    """Where the server doesn't tell a length, or others write too."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 10**12))
    with pytest.raises(UserError) as error:
        get(files, small / "a.bin", checksum=SHA)
    assert str(error.value).startswith(f"{small}: the disk is full; ")
    kept = (small / "a.bin.part").stat().st_size
    assert 1_000_000 < kept < 2_200_000 and not (small / "a.bin").exists()
    # With room, the next start goes on from there.
    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    files.asked.clear()
    get(files, small / "a.bin", checksum=SHA)
    assert files.sent("/a.bin") == [f"bytes={kept}-"]
    assert (small / "a.bin").read_bytes() == CONTENT
