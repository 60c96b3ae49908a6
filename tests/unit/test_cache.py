"""Cached tables: layouts, what was changed by hand, archives. On a part of the default study's."""

import io
import json
import shutil
import tarfile

import pytest
from typer.testing import CliRunner

from sight_beyond_text import cache
from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.migrate import migrate
from sight_beyond_text.cli import app
from sight_beyond_text.errors import UserError


@pytest.fixture(scope="module")
def packed(repository, tmp_path_factory):
    """The committed tables of a few runs and benchmarks, and an archive of them."""
    root = tmp_path_factory.mktemp("cache")
    folder, committed = root / "micro", repository / "figures" / "data" / "micro"
    runs = tidy.read_table(committed, "runs")
    some = runs[(runs["base"] == "micro-chat") & runs["tuning"].isin(["", "lora"])]["run"]
    for table in ("runs", "scores", "items", "curves"):
        frame = tidy.read_table(committed, table)
        frame = frame[frame["run"].isin(some)]
        if "benchmark" in frame:
            frame = frame[frame["benchmark"].isin(["boolq", "vqa"])]
        write = tidy.write_parquet if table == "items" else tidy.write_csv
        write(frame, folder / tidy.FILES[table])
    migrate(folder)
    cache.pack(folder, root / "micro.tar")
    return folder, root / "micro.tar"


@pytest.fixture
def folder(packed, tmp_path):
    shutil.copytree(packed[0], tmp_path / "micro")
    return tmp_path / "micro"


def run(*arguments) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["cache", *map(str, arguments)])
    return done.exit_code, done.output


def rewrite(folder, **changes) -> None:
    """A layout that others wrote: as whole as ours."""
    told = json.loads((folder / cache.FILE).read_text())
    told.pop("checksum")
    told |= changes
    (folder / cache.FILE).write_text(json.dumps({**told, "checksum": cache._checksum(told)}))


def test_whole_tables_are_whole(packed) -> None:
    for path in packed:
        assert run("verify", path) == (0, f"{path}: whole, of layout {cache.LAYOUT}\n")


def test_the_committed_tables_are_whole(repository) -> None:
    assert cache.problems(repository / "figures" / "data" / "micro") == []


def test_the_layout_tells_what_was_made_and_by_what(packed) -> None:
    layout = cache.check(packed[0])
    assert layout["study"] == "micro" and set(tidy.FILES.values()) <= set(layout["tables"])
    assert {"python", "pandas", "scipy"} <= set(layout["versions"])


def test_an_archive_has_the_same_bytes_and_gives_the_same_files(packed, folder, tmp_path) -> None:
    for path in folder.iterdir():
        path.touch()
    code, told = run("pack", folder, "--out", tmp_path / "again.tar")
    assert code == 0 and "micro" in told
    assert (tmp_path / "again.tar").read_bytes() == packed[1].read_bytes()
    code, told = run("unpack", packed[1], "--out", tmp_path / "new")
    assert code == 0, told
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    for name in names:
        assert (tmp_path / "new" / name).read_bytes() == (folder / name).read_bytes()


def test_what_is_there_is_not_written_over(packed, folder) -> None:
    (folder / "scores.csv").write_text("mine")
    code, told = run("unpack", packed[1], "--out", folder)
    assert code == 2 and "is there already" in told
    assert (folder / "scores.csv").read_text() == "mine"


def test_a_study_is_found_by_its_name(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures" / "data").mkdir(parents=True)
    folder.rename(tmp_path / "figures" / "data" / "micro")
    assert run("verify", "micro")[0] == 0
    code, told = run("verify", "mikro")
    assert code == 1 and "it holds micro" in told


def test_tables_without_a_layout_are_refused_with_the_remedy(folder) -> None:
    (folder / cache.FILE).unlink()
    with pytest.raises(UserError, match=r"layout 1 .*sight cache migrate"):
        cache.check(folder)
    assert run("verify", folder)[0] == 1 and run("pack", folder, "--out", "x.tar")[0] == 2


@pytest.mark.parametrize(
    ("number", "told"), [(cache.LAYOUT + 1, "newer version"), (1, "sight cache migrate")]
)
def test_tables_of_another_layout_are_refused_by_name(folder, number, told) -> None:
    rewrite(folder, layout=number)
    (line,) = cache.problems(folder)
    assert f"layout {number}" in line and told in line


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"layout": "two"}', "{"])
def test_a_layout_that_is_none(folder, content) -> None:
    (folder / cache.FILE).write_text(content)
    (line,) = cache.problems(folder)
    assert cache.FILE in line


def test_a_layout_that_was_written_in(folder) -> None:
    text = (folder / cache.FILE).read_text()
    (folder / cache.FILE).write_text(text.replace('"pandas": "', '"pandas": "9'))
    (line,) = cache.problems(folder)
    assert "isn't as it was written" in line


def test_a_layout_that_points_elsewhere(folder, tmp_path) -> None:
    (tmp_path / "secret.csv").write_text("x\n")
    rewrite(folder, tables={"../secret.csv": "0"})
    with pytest.raises(UserError, match="isn't as it was written"):
        cache.pack(folder, tmp_path / "out.tar")


def test_each_changed_missing_or_unknown_table_is_named(folder, tmp_path) -> None:
    text = (folder / "effects.csv").read_text()
    (folder / "effects.csv").write_text(text.replace("0.1", "0.2", 1))
    (folder / "curves.csv").unlink()
    (folder / "more.csv").write_text("a\n")
    code, told = run("verify", folder)
    assert code == 1
    lines = sorted(told.strip().splitlines())
    assert [line.split(": ")[0].split("/")[-1] for line in lines] == [
        "curves.csv",
        "effects.csv",
        "more.csv",
    ]
    # A figure isn't drawn from them either, and says so in one line each.
    done = CliRunner().invoke(
        app,
        ["draw", "price", "--tables", str(folder), "--out", str(tmp_path / "price")]
        + ["--record", str(tmp_path / "price.json")],
    )
    assert done.exit_code == 2 and "effects.csv: isn't as it was written" in done.output
    assert not (tmp_path / "price.svg").exists()


def test_runs_that_contradict_each_other_are_named(folder) -> None:
    runs = tidy.read_table(folder, "runs")
    gone = runs["run"].iloc[3]
    tidy.write_csv(runs[runs["run"] != gone], folder / "runs.csv")
    scores = tidy.read_table(folder, "scores")
    lost = (scores["run"] == runs["run"].iloc[0]) & (scores["benchmark"] == "boolq")
    tidy.write_csv(scores[~lost], folder / "scores.csv")
    (folder / "images.parquet").write_bytes(b"PAR1")
    cache.write_layout(folder, "micro")
    lines = cache.problems(folder)
    assert any("images.parquet" in line for line in lines)
    for table in ("scores.csv", "items.parquet", "effects.csv", "intervals.csv", "curves.csv"):
        assert any(table in line and gone in line for line in lines), table
    assert any("items.parquet" in line and "boolq" in line for line in lines)


def test_what_follows_from_the_items_is_made_anew(packed, folder) -> None:
    for name in (cache.FILE, "effects.csv", "over_seeds.csv", "intervals.csv", "claims.csv"):
        (folder / name).unlink(missing_ok=True)
    code, told = run("migrate", folder)
    assert code == 0 and "made anew" in told, told
    assert run("verify", folder)[0] == 0
    for name in ("effects.csv", "over_seeds.csv", "intervals.csv"):
        assert (folder / name).read_bytes() == (packed[0] / name).read_bytes(), name
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, told = run("migrate", folder)
    assert code == 0 and "anew" not in told
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_claims_come_from_the_study_and_are_kept(repository, folder) -> None:
    (folder / cache.FILE).unlink()
    assert run("migrate", folder, "--study", repository / "config.yaml")[0] == 0
    claims = cache.check(folder)["derived"]["claims"]
    assert claims
    rewrite(folder, layout=1)
    assert run("migrate", folder)[0] == 0
    assert cache.check(folder)["derived"]["claims"] == claims


def test_what_was_changed_by_hand_is_made_anew_only_where_it_can_be(packed, folder) -> None:
    (folder / "effects.csv").write_text("contrast\n")
    assert run("migrate", folder)[0] == 0
    assert (folder / "effects.csv").read_bytes() == (packed[0] / "effects.csv").read_bytes()
    runs = (folder / "runs.csv").read_text()
    (folder / "runs.csv").write_text(runs.replace("micro-chat", "macro-chat"))
    code, told = run("migrate", folder)
    assert code == 2 and "runs.csv: isn't as it was written" in told


def test_a_newer_layout_is_not_migrated(folder) -> None:
    rewrite(folder, layout=cache.LAYOUT + 1)
    before = (folder / "effects.csv").read_bytes()
    code, told = run("migrate", folder)
    assert code == 2 and "newer version" in told
    assert (folder / "effects.csv").read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_flipped_bit_is_found(packed, tmp_path, share) -> None:
    content = bytearray(packed[1].read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    broken = tmp_path / "micro.tar"
    broken.write_bytes(content)
    code, told = run("verify", broken)
    assert code == 1 and told.strip() and "Traceback" not in told
    assert run("unpack", broken, "--out", tmp_path / "out")[0] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.99])
def test_a_truncated_archive_is_found(packed, tmp_path, share) -> None:
    content = packed[1].read_bytes()
    (tmp_path / "micro.tar").write_bytes(content[: int(share * len(content))])
    assert run("verify", tmp_path / "micro.tar")[0] == 1
    assert run("unpack", tmp_path / "micro.tar", "--out", tmp_path / "out")[0] == 2


def archive(path, members: dict[str, bytes], link: str | None = None) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo("micro/runs.csv")
            member.type, member.linkname = tarfile.SYMTYPE, link
            made.addfile(member)


def test_an_archive_never_writes_outside(packed, tmp_path) -> None:
    files = {f"micro/{path.name}": path.read_bytes() for path in packed[0].iterdir()}
    cases = {
        "up": {**files, "../out.csv": b"x"},
        "root": {**files, "/tmp/out.csv": b"x"},
        "more": {**files, "micro/more.txt": b"x"},
        "two": {**files, "other/runs.csv": b"x"},
        "none": {"micro/readme.txt": b"x"},
        "missing": {name: text for name, text in files.items() if "runs.csv" not in name},
    }
    for name, members in cases.items():
        path = tmp_path / f"{name}.tar"
        archive(path, members)
        code, told = run("unpack", path, "--out", tmp_path / "out")
        assert code == 2 and str(path) in told, name
        assert run("verify", path)[0] == 1, name
    archive(tmp_path / "link.tar", {}, "/etc/passwd")
    assert run("unpack", tmp_path / "link.tar", "--out", tmp_path / "out")[0] == 2
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.csv").exists()


def test_an_archive_is_a_tar(folder, tmp_path) -> None:
    code, told = run("pack", folder, "--out", tmp_path / "micro.zip")
    assert code == 2 and ".tar" in told
