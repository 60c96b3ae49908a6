"""The HTML report, made for real of the cached tables of the default study, without a network."""

import json
import shutil

import pytest
from checkouts import Checkout, copy

from sight_beyond_text import figure_names, reporting
from sight_beyond_text.study import read

CACHED = ("--config", "from_cache=true")


@pytest.fixture(scope="module")
def drawn(repository, tmp_path_factory) -> Checkout:
    """A fresh clone in which all was drawn from the committed tables."""
    checkout = copy(repository, tmp_path_factory.mktemp("report") / "clone")
    shutil.rmtree(checkout.folder / "figures" / "micro")
    checkout.snakemake("figures", "--cores", "2", *CACHED)
    return checkout


def embedded(page: str, name: str):
    """What the report's page holds under a name."""
    start = page.index(f"var {name} = ", page.index('<script id="workflow-desc">'))
    return json.JSONDecoder().raw_decode(page, page.index("=", start) + 2)[0]


@pytest.mark.slow
@pytest.mark.workflow
def test_the_report_holds_all_with_its_caption(repository, drawn, monkeypatch) -> None:
    # Whatever the report would fetch fails at once.
    monkeypatch.setenv("https_proxy", "http://localhost:9")
    monkeypatch.setenv("http_proxy", "http://localhost:9")
    drawn.snakemake("--report", "report.html", *CACHED)
    page = (drawn.folder / "report.html").read_text(encoding="utf-8")
    results = embedded(page, "results")
    figures = figure_names.figures(read(repository / "config.yaml"))
    titles = {reporting.FIGURES[name][1] for name in figures}
    assert {made["labels"].get("figure") for made in results.values()} - {None} == titles
    records = drawn.folder / "results" / "studies" / "micro"
    for path, made in results.items():
        assert made["data_uri"].startswith(f"data:{made['mime_type']}"), path
        stem = path.rsplit("/", 1)[1].rsplit(".", 1)[0]
        told = json.loads((records / f"{stem}.json").read_text())
        # Up to where HTML writes it otherwise.
        start = told.get("caption", "The grid as a table").split("(")[0].split("<")[0].strip()
        assert start and start in " ".join(made["caption"].split()), path
    for name in figures:
        assert f"figures/micro/{name}.svg" in results
        assert not {f"figures/micro/{name}.{kind}" for kind in ("png", "pdf")} & set(results)
    categories = embedded(page, "categories")
    assert set(categories) == {"Figures", "Tables", "Claims", "Explorer"}
    assert set(categories["Figures"]) == {reporting.FIGURES[name][0] for name in figures}
    front = embedded(page, "workflow_desc")
    assert "Study micro" in front and "20 tuned, 2 untuned" in front and "truthfulqa_mc2" in front
    assert "system-message" not in page.replace(".system-message", "")


@pytest.mark.slow
@pytest.mark.workflow
def test_the_cache_gives_the_committed_figures(repository, drawn) -> None:
    """The same versions give the same bytes; test_environment.py sees that they are the same."""
    committed = repository / "figures" / "micro"
    made = drawn.folder / "figures" / "micro"
    compared = [path.name for kind in ("svg", "csv") for path in committed.glob(f"*.{kind}")]
    assert len(compared) > 6
    for name in compared:
        assert (made / name).read_bytes() == (committed / name).read_bytes(), name


@pytest.mark.workflow
def test_an_older_cache_is_refused_by_name(fresh) -> None:
    (fresh.folder / "figures" / "data" / "micro" / "layout.json").unlink()
    done = fresh.snakemake("-n", "figures", *CACHED, check=False)
    assert done.returncode != 0 and "sight cache migrate figures/data/micro" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.workflow
def test_no_cache_is_said_to_be_none(fresh) -> None:
    shutil.rmtree(fresh.folder / "figures" / "data" / "micro")
    done = fresh.snakemake("-n", "figures", *CACHED, check=False)
    assert done.returncode != 0 and "figures/data/micro: no tables" in done.stdout
