"""Draws one figure of a study from its tables, and records what it was drawn from."""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sight_beyond_text.analysis import names
from sight_beyond_text.analysis.tables import table_hashes
from sight_beyond_text.analysis.tidy import Tables, read_tables
from sight_beyond_text.errors import UserError
from sight_beyond_text.figures import (
    claims,
    corruption_curves,
    effects,
    ethics_subsets,
    image_benchmarks,
    kinds,
    mmlu_groups,
    price,
    published,
    radar,
    robustness,
    sources,
    training_curves,
    truthfulness_ethics,
    tunings,
)
from sight_beyond_text.figures.style import FORMATS, FigureStyle, save, settle

FIGURES = {
    "claims": claims,
    "truthfulness_ethics": truthfulness_ethics,
    "effects": effects,
    "sources": sources,
    "tunings": tunings,
    "kinds": kinds,
    "price": price,
    "mmlu_groups": mmlu_groups,
    "ethics_subsets": ethics_subsets,
    "image_benchmarks": image_benchmarks,
    "radar": radar,
    "robustness": robustness,
    "corruption_curves": corruption_curves,
    "published": published,
    "training_curves": training_curves,
}
"""Every figure by name; each module has `draw`, `needs` and `CAPTION`."""

_PACKAGES = ("sight-beyond-text", "matplotlib", "seaborn", "pandas", "numpy")


def draw_figure(
    name: str,
    tables_dir: str | Path,
    out_stem: str | Path,
    formats: Iterable[str] = ("svg", "png", "pdf"),
    style: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Draws a figure and writes `<out_stem>.<format>` for each format.

    Args:
        name: One of `FIGURES`.
        tables_dir: Folder of the study's tables; `items.parquet` is not needed.
        out_stem: Path of the files without their suffix.
        formats: Among svg, png and pdf.
        style: Settings of `FigureStyle`.

    Returns:
        A record for the figure's json: figure, caption, notice (why nothing is drawn, else empty),
        files, tables (SHA-256 by name), versions, runs, items (distinct, summed over benchmarks).

    Raises:
        UserError: The name, a format, a setting or a table is not usable.
    """
    if name not in FIGURES:
        raise UserError(f"no figure {name!r}; choose from {', '.join(FIGURES)}")
    formats = list(dict.fromkeys(formats))
    unknown = [kind for kind in formats if kind not in FORMATS]
    if unknown or not formats:
        asked = repr(unknown[0]) if unknown else "nothing"
        raise UserError(f"figure {name}: asked for {asked}; formats are {', '.join(FORMATS)}")
    look = FigureStyle.from_dict(style)
    tables = read_tables(tables_dir, items=False)
    look = look.telling_apart([*tables.runs["source"], *tables.runs["tuning"]])
    module = FIGURES[name]
    figure = module.draw(tables, look)
    settle(figure, look)
    paths = [Path(f"{out_stem}.{kind}") for kind in formats]
    for path in paths:
        save(figure, path, look)
    return {
        "figure": name,
        "caption": module.CAPTION,
        "notice": module.needs(tables),
        "files": [path.name for path in paths],
        "tables": table_hashes(tables_dir),
        "versions": _versions(),
        "runs": int((tables.runs["kind"] == "run").sum()),
        "items": _items(tables),
    }


def _items(tables: Tables) -> int:
    own = tables.scores[tables.scores["benchmark"] != names.MACRO]
    return int(own.groupby(["suite", "benchmark"])["n"].max().sum())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # Drawing straight from a checkout needs no installation.
            continue
    return found
