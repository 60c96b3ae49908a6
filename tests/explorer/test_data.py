"""What the explorer's page is made of, without a browser."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from sight_beyond_text.analysis import tidy
from sight_beyond_text.cli import app
from sight_beyond_text.errors import UserError
from sight_beyond_text.explorer import pictures
from sight_beyond_text.explorer.blocks import pack, unpack
from sight_beyond_text.explorer.build import build
from sight_beyond_text.explorer.data import NONE, explored

from .small import write_small


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_small(folder, seeds=(0,))
    return folder


def test_blocks_hold_what_they_were_given():
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.integers(-32768, 32767, 7).astype(np.int16),
        "b": rng.integers(-(2**31), 2**31, 5).astype(np.int32),
        "c": np.array([0.1, np.nan, np.inf, -0.0], np.float32),
        "none": np.array([], np.float32),
        "d": np.arange(3, dtype=np.uint8),
    }
    header, found = unpack(pack({"texts": ["\u2028 é", None], "broken": "\ud800"}, arrays))
    assert header == {"texts": ["\u2028 é", None], "broken": "?"}
    assert list(found) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)


def test_every_score_and_answer_is_in_the_blocks(tables):
    made = explored(tables, "study")
    items = pd.read_parquet(tables / "items.parquet").set_index(["run", "benchmark", "item"])
    seen = 0
    for number, task in enumerate(made.index["tasks"]):
        facts, fixed = unpack(made.blocks[f"items-{number}"])
        for at in task["runs"]:
            run = made.index["runs"][at]["run"]
            scores = unpack(made.blocks[f"scores-{at}"])[1][str(number)]
            header, arrays = unpack(made.blocks[f"answers-{at}-{number}"])
            place = 0
            for position, item in enumerate(facts["item"]):
                row = items.loc[(run, task["benchmark"], item)]
                assert scores[position] == np.float32(row["score"])
                code, count = arrays["said"][position], fixed["choice_count"][position]
                if code >= 0:
                    assert header["texts"][code] == row["prediction"]
                else:
                    assert facts["choices"][position][-2 - code] == row["prediction"]
                if count:
                    kept = arrays["loglikelihoods"][place : place + count] * header["step"]
                    given = json.loads(row["details"])["loglikelihoods"]
                    assert np.abs(kept - given).max() <= 0.0051
                place += count
                seen += 1
    assert seen == len(items)


def test_items_that_a_run_lacks_and_very_unlikely_choices(tables, tmp_path):
    items = pd.read_parquet(tables / "items.parquet")
    run = items["run"].iloc[-1]
    of = (items["run"] == run) & (items["benchmark"] == "mmlu")
    missing = items.index[of][:3]
    items = items.drop(missing).reset_index(drop=True)
    first = items.index[(items["run"] == run) & (items["benchmark"] == "mmlu")][0]
    details = json.loads(items.loc[first, "details"])
    details |= {"loglikelihoods": [-9e4, float("nan"), None], "choices": ["x", "y", "z"]}
    items.loc[first, "details"] = json.dumps(details)
    items.loc[first, "prediction"] = "y"
    items.loc[first + 1, "details"] = "no JSON"
    for path in tables.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tidy.write_parquet(items, tmp_path / "items.parquet")
    made = explored(tmp_path, "study")
    number = [task["benchmark"] for task in made.index["tasks"]].index("mmlu")
    at = [told["run"] for told in made.index["runs"]].index(run)
    facts = unpack(made.blocks[f"items-{number}"])[0]
    scores = unpack(made.blocks[f"scores-{at}"])[1][str(number)]
    assert np.isnan(scores).sum() == 3
    header, arrays = unpack(made.blocks[f"answers-{at}-{number}"])
    position = facts["item"].index(items.loc[first, "item"])
    assert header["choices"] == {str(position): ["x", "y", "z"]}
    assert arrays["said"][position] == -3
    known = arrays["loglikelihoods"][arrays["loglikelihoods"] != NONE]
    assert known.min() * header["step"] == pytest.approx(-9e4, rel=1e-3)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda items: pd.concat([items.iloc[:1], items]), "twice"),
        (lambda items: items.assign(run="nobody").iloc[:5], "nobody is unknown in runs.csv"),
        (lambda items: items.drop(columns="details"), r"lacks the column\(s\) details"),
    ],
)
def test_items_that_are_none_are_refused(tables, tmp_path, spoil, told):
    for path in tables.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(pd.read_parquet(tables / "items.parquet")).to_parquet(tmp_path / "items.parquet")
    with pytest.raises(UserError, match=told):
        explored(tmp_path, "study")
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="items.parquet: not readable as Parquet"):
        explored(tmp_path, "study")
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(UserError, match="items.parquet: no such file"):
        explored(tmp_path, "study")


def test_the_same_tables_give_the_same_bytes(tables, tmp_path):
    for name in ("one", "two"):
        build(tables, tmp_path / f"{name}.html", "study")
        build(tables, tmp_path / name / "page.html", "study", inside=0)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    sides = [sorted((tmp_path / name).rglob("*.*")) for name in ("one", "two")]
    assert len(sides[0]) == len(sides[1]) > 10
    for left, right in zip(*sides, strict=True):
        assert left.name == right.name
        assert left.is_dir() or left.read_bytes() == right.read_bytes()


def test_the_page_is_whole_and_names_nothing_elsewhere(tables, tmp_path):
    build(tables, tmp_path / "page.html", "a & b </title>")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "@@" not in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    assert str(tables) not in text
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "nonce" not in policy


def test_data_go_beside_the_page_and_away_again(tables, tmp_path):
    page = tmp_path / "page.html"
    assert build(tables, page, inside=0)["beside"] == "page-data"
    assert {path.suffix for path in (tmp_path / "page-data").iterdir()} == {".js"}
    large = page.stat().st_size
    assert build(tables, page)["beside"] is None
    assert not (tmp_path / "page-data").exists() and page.stat().st_size > large
    # What isn't the page's own is never removed.
    (tmp_path / "page-data").mkdir()
    (tmp_path / "page-data" / "thesis.js").write_text("years")
    build(tables, page)
    assert (tmp_path / "page-data" / "thesis.js").read_text() == "years"
    with pytest.raises(UserError, match="page-data: is there already"):
        build(tables, page, inside=0)


def test_the_command(tables, tmp_path):
    out, record = tmp_path / "made" / "page.html", tmp_path / "record.json"
    given = ["--tables", str(tables), "--out", str(out), "--record", str(record)]
    done = CliRunner().invoke(app, ["explore", *given])
    assert done.exit_code == 0, done.output
    told = json.loads(record.read_text())
    assert told["runs"] == 5 and told["pictures"] > 0 and told["bytes"] == out.stat().st_size
    done = CliRunner().invoke(app, ["explore", "--tables", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 2 and "no such file" in done.output
    done = CliRunner().invoke(app, ["pictures", "{}", "--tables", str(tables)])
    assert done.exit_code == 2 and "no spec of pictures" in done.output


def pictured(folder: Path, names: dict[str, list[str]]) -> None:
    """Items whose images are named, by benchmark."""
    rows = [
        {"benchmark": benchmark, "item": str(n), "details": json.dumps({"image": name})}
        for benchmark, own in names.items()
        for n, name in enumerate(own)
    ]
    pd.DataFrame(rows).to_parquet(folder / "items.parquet")


def test_pictures_are_small_and_few_enough(tmp_path):
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for n in range(8):
        noise = rng.integers(0, 255, (300, 500, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{n}.png")
    named = [f"{n}.png" for n in range(8)]
    pictured(tmp_path, {"pope": named[:4], "vqa": named[2:]})
    spec = {"folders": {"pope": str(images), "vqa": str(images)}, "pixels": 100, "mib": 9.0}
    pictures.gather_pictures(spec, tmp_path)
    found = pictures.read_pictures(tmp_path)
    assert len(found) == 10
    assert found["pope", "3.png"] == found["vqa", "3.png"]
    (tmp_path / "one.webp").write_bytes(found["pope", "3.png"])
    with Image.open(tmp_path / "one.webp") as image:
        assert image.size == (100, 60)
    size = len(found["pope", "3.png"])
    pictures.gather_pictures({**spec, "mib": 4.5 * size / 2**20}, tmp_path)
    kept = {name for _, name in pictures.read_pictures(tmp_path)}
    assert kept == {"0.png", "1.png", "2.png", "3.png"}  # the first of each benchmark
    first = (tmp_path / "images.parquet").read_bytes()
    pictures.gather_pictures({**spec, "mib": 4.5 * size / 2**20}, tmp_path)
    assert (tmp_path / "images.parquet").read_bytes() == first
    pictures.gather_pictures({**spec, "folders": {}}, tmp_path)
    assert pictures.read_pictures(tmp_path) == {}


def test_images_that_cannot_be_shown_are_left_out(tmp_path, monkeypatch, caplog):
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(images / "clear.png")
    Image.new("RGB", (400, 400)).save(images / "huge.png")
    (images / "broken.png").write_bytes((images / "huge.png").read_bytes()[:60])
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    names = ["clear.png", "huge.png", "broken.png", "gone.png", "../secret.png"]
    pictured(tmp_path, {"vqa": [*names, str(tmp_path / "secret.png")]})
    monkeypatch.setattr(pictures, "PIXELS", 10_000)
    spec = {"folders": {"vqa": str(images)}, "pixels": 64, "mib": 1.0}
    pictures.gather_pictures(spec, tmp_path)
    assert set(pictures.read_pictures(tmp_path)) == {("vqa", "clear.png")}
    told = caplog.text
    assert "more than 10000 pixels" in told and "gone.png can't be read" in told
    assert told.count("leads out of the folder") == 2


def test_a_table_of_pictures_that_is_none(tmp_path):
    path = tmp_path / "images.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="images.parquet: not readable as Parquet"):
        pictures.read_pictures(tmp_path)
    pd.DataFrame({"benchmark": ["vqa"], "image": ["a"], "data": [b"<svg>"]}).to_parquet(path)
    with pytest.raises(UserError, match="'a' is no WebP image"):
        pictures.read_pictures(tmp_path)
    pd.DataFrame({"benchmark": ["vqa"]}).to_parquet(path)
    with pytest.raises(UserError, match="lacks the column"):
        pictures.read_pictures(tmp_path)
