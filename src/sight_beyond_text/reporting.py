"""What the HTML report of a study says: its front page, captions, groups. Light, no pandas.

All text that comes from a study or a table is escaped for reStructuredText, which Snakemake turns
into HTML: nothing that a name holds becomes markup.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

from sight_beyond_text.study import Study

FIGURES = {
    "claims": ("Claims", "The study's claims, judged"),
    "truthfulness_ethics": ("Truthfulness and ethics", "Tuned against untuned"),
    "effects": ("Truthfulness and ethics", "All effects"),
    "sources": ("Truthfulness and ethics", "What stood for the image"),
    "tunings": ("Truthfulness and ethics", "Ways of tuning"),
    "kinds": ("Truthfulness and ethics", "Kinds of instruction"),
    "ethics_subsets": ("Truthfulness and ethics", "Subsets of ETHICS"),
    "price": ("Other abilities", "The price in other abilities"),
    "mmlu_groups": ("Other abilities", "Groups of MMLU"),
    "image_benchmarks": ("Images", "Image benchmarks"),
    "radar": ("Images", "Image benchmarks at a glance"),
    "robustness": ("Images", "Corrupted images by kind"),
    "corruption_curves": ("Images", "Corrupted images by severity"),
    "published": ("Truthfulness and ethics", "Published against reproduced"),
    "training_curves": ("Training", "Training losses"),
}
"""Where a figure stands in the report: its group, and its title there."""

TABLES = {
    "main_table": ("Tables", "All scores"),
    "claims_table": ("Claims", "The study's claims, judged"),
}
"""The same of tables for readers: their category, and their title."""

_KINDS = {"run": "tuned", "base": "untuned", "reference": "reference"}


class Report:
    """What captions and the front page are filled with, read when a report is made.

    Attributes:
        study: the study's name.
        lists: pairs of an axis or suite and what the study has of it.
    """

    def __init__(self, study: Study, tables: str | Path, drawings: str | Path):
        self._tables, self._drawings = Path(tables), Path(drawings)
        self.study = rst(study.name)
        lists = {
            "Base models": study.bases,
            "In place of the image": study.sources,
            "Tunings": study.tunings,
            "Seeds": study.seeds,
            "References": study.references,
            "Text benchmarks": study.evaluation.text,
            "Image benchmarks": study.evaluation.image,
        }
        self.lists = [(name, ", ".join(map(rst, own))) for name, own in lists.items() if own]

    @property
    def tables(self) -> str:
        """The folder of the tables."""
        return rst(f"{self._tables}/")

    @property
    def drawings(self) -> str:
        """The folder of figures and tables for readers."""
        return rst(f"{self._drawings}/")

    @property
    def runs(self) -> str:
        """How many subjects of each kind the tables hold, such as "20 tuned, 2 untuned"."""
        try:
            with open(self._tables / "runs.csv", encoding="utf-8", newline="") as stream:
                counts = Counter(row.get("kind") for row in csv.DictReader(stream))
        except OSError:
            return ""
        return rst(", ".join(f"{counts[kind]} {_KINDS[kind]}" for kind in _KINDS if counts[kind]))

    def caption(self, record: str | Path) -> str:
        """The caption that a figure's or table's record holds, with its notice where it has one."""
        try:
            told = json.loads(Path(record).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return rst(f"{record} tells the caption; it is not here: draw it again.")
        words = [told.get("notice"), told.get("caption")]
        return "\n\n".join(rst(word) for word in words if word)


def rst(text: str) -> str:
    """Any text as one paragraph of reStructuredText that says just that."""
    plain = " ".join(str(text).split())
    return "".join(c if c.isalnum() or c == " " else f"\\{c}" for c in plain)
