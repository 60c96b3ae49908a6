"""What the report says, and that nothing in it becomes markup."""

import json

import pytest
from docutils.core import publish_parts

from sight_beyond_text import figure_names
from sight_beyond_text.errors import UserError
from sight_beyond_text.figures.page import write_page
from sight_beyond_text.reporting import FIGURES, Report, rst
from sight_beyond_text.study import read

NASTY = (
    "<script>alert(1)</script>",
    "`text <javascript:alert(1)>`_",
    ".. raw:: html\n\n   <b>bold</b>",
    ".. include:: /etc/passwd",
    "|name| *star* name_ __anon :role:`x` [1]_ ::",
    "- a list\n\n  of two",
    "back\\slash \\",
)


@pytest.mark.parametrize("text", NASTY)
def test_text_says_just_what_it_says(text) -> None:
    made = publish_parts(rst(text), writer="html", settings_overrides={"report_level": 1})
    shown = " ".join(text.split())
    for raw, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        shown = shown.replace(raw, entity)
    assert made["body"] == f"<p>{shown}</p>\n"


def test_every_figure_has_its_place() -> None:
    assert set(FIGURES) == set(figure_names.FIGURES)


def test_front_page_counts_what_the_tables_hold(repository, tmp_path) -> None:
    study = read(repository / "config.yaml")
    (tmp_path / "runs.csv").write_text("run,kind\na,run\nb,run\nc,base\n")
    made = Report(study, tmp_path, "figures/micro")
    assert made.runs == "2 tuned\\, 1 untuned"
    assert ("Seeds", "0") in made.lists and not any(n == "References" for n, _ in made.lists)
    assert Report(study, tmp_path / "nowhere", "figures/micro").runs == ""


def test_a_caption_is_the_records(repository, tmp_path) -> None:
    made = Report(read(repository / "config.yaml"), tmp_path, "figures/micro")
    record = tmp_path / "sources.json"
    assert "draw it again" in made.caption(record)
    record.write_text(json.dumps({"caption": "In points.", "notice": "No runs"}))
    assert made.caption(record) == "No runs\n\nIn points\\."


def test_a_table_becomes_a_page_and_its_words_stay_words(tmp_path) -> None:
    markdown, page = tmp_path / "table.md", tmp_path / "table.html"
    markdown.write_text("| a | b |\n|:--|--:|\n| <i>x</i> | **1.0** |\n\n[l](javascript:x) \\*\n")
    write_page(markdown, page, "a < b")
    made = page.read_text()
    assert "<title>a &lt; b</title>" in made and "<strong>1.0</strong>" in made
    assert "&lt;i&gt;x&lt;/i&gt;" in made and "<a" not in made and "<td" in made
    with pytest.raises(UserError, match="no such file"):
        write_page(tmp_path / "none.md", page, "none")
