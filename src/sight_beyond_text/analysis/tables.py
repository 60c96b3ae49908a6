"""The main table of a study, as CSV, Markdown and LaTeX (booktabs)."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.analysis.markup import latex, latex_table, markdown
from sight_beyond_text.analysis.tidy import Tables, atomic_path, read_tables
from sight_beyond_text.errors import UserError

PARTS = ("value", "half_width", "best", "second", "differs")
"""What every cell of the main table consists of."""

ALPHA = 0.05
"""Level of Holm-adjusted p values below which a difference is marked."""

_LEFT_OUT = frozenset((*names.ETHICS, *names.MEANS.values()))
_FIRST = (*names.HEADLINE, "mmlu", "gsm8k", "mathqa", "boolq", "squadv2", "vqa", "pope", "captions")


_HEADS = ("", " half width", " best", " second best", " differs from base")


def main_table(tables: Tables) -> pd.DataFrame:
    """One row a run, untuned bases and references included; one column a benchmark.

    Values are in points (per cent; CIDEr times 100), each with half its 95 % interval.

    Returns:
        Index: base, tuning, source, and seed and instructions where the study varies them. Columns
        in two levels: the benchmark's name, then `PARTS`: value, half_width (NaN where there is no
        interval), best (highest of its base, the untuned one included; at the one decimal that is
        shown), second (the next lower of its base) and differs (from the untuned base: Holm's p is
        below `ALPHA`).

    Raises:
        UserError: There are no scores.
    """
    values = tidy.scored(tables)
    if values.empty:
        raise UserError("scores.csv holds no scores, so there is no table to make; evaluate a run")
    columns = _columns(values)
    rows = _rows(tables.runs[tables.runs["run"].isin(values["run"])])
    signs = tables.scores.groupby(["benchmark", "metric"])["higher_is_better"].first()
    against = tables.effects[tables.effects["contrast"] == "tuned - base"]
    blocks = {}
    for suite, benchmark, metric, title in columns:
        found = _one(values, suite, benchmark, metric).reindex(rows["run"])
        factor = names.points(metric)
        block = pd.DataFrame(index=rows.index)
        block["value"] = (found["value"] * factor).to_numpy()
        block["half_width"] = ((found["high"] - found["low"]) / 2 * factor).to_numpy()
        sign = 1 if signs.get((benchmark, metric), True) else -1
        shown = (block["value"] * sign).round(1)
        competes = shown.where(rows["kind"] != "reference")
        top = competes.groupby(rows["base"]).transform("max")
        block["best"] = (competes == top).astype(bool)
        others = competes.where(competes < top)
        block["second"] = (others == others.groupby(rows["base"]).transform("max")).astype(bool)
        effects = _one(against, suite, benchmark, metric).reindex(rows["run"])
        block["differs"] = (effects["p_holm"] < ALPHA).to_numpy()
        blocks[title] = block
    table = pd.concat(blocks, axis=1)
    table.index = _index(tables, rows)
    return table


def note(tables: Tables) -> str:
    """What a reader must know about the main table: units, marks, protocol, sizes."""
    scores = tables.scores
    by_suite = scores.groupby("suite")["protocol"].agg(lambda column: sorted(set(column)))
    protocols = "; ".join(f"{suite}: {', '.join(found)}" for suite, found in by_suite.items())
    sizes, sums = [], ""
    for suite, benchmark, metric, title in _columns(tidy.scored(tables)):
        if metric in names.MME_SUMS:
            sums = "MME: sums over subtasks of 200 each. "
        asked = _one(tidy.scored(tables), suite, benchmark, metric)["n"]
        low, high = int(asked.min()), int(asked.max())
        sizes.append(f"{title} {low}" if low == high else f"{title} {low}-{high}")
    return (
        "Points (per cent; CIDEr x 100) ± half of the 95 % interval (bootstrap over items, "
        "clustered). Bold: best of its base, untuned included; italic or underlined: second best. "
        "*: differs from the untuned base on the same items, p < 0.05 after Holm's correction "
        "within the study's changes on the main metrics of the suite. "
        "ETHICS: mean of its five subsets. TruthfulQA mc2: probability on the true answers. "
        f"{sums}"
        f"Protocol: {protocols}. Items: {', '.join(sizes)}."
    )


def to_csv(table: pd.DataFrame, protocol: str) -> str:
    """The main table as CSV: per benchmark the value, its half width, and the three marks (0/1).

    Every row names the protocol, for want of a caption.
    """
    suffixes = dict(zip(PARTS, _HEADS, strict=True))
    flat = table.copy()
    for column in flat.columns:
        if column[1] in ("best", "second", "differs"):
            flat[column] = flat[column].astype(int)
    flat.columns = [f"{title}{suffixes[part]}" for title, part in flat.columns]
    flat = flat.reset_index()
    flat.insert(table.index.nlevels, "protocol", protocol)
    return flat.to_csv(index=False, float_format="%.2f", lineterminator="\n")


def to_markdown(table: pd.DataFrame, caption: str = "") -> str:
    """The main table in GitHub's Markdown, the caption below."""
    heads = [*table.index.names, *_titles(table)]
    lines = [
        "| " + " | ".join(markdown(head) for head in heads) + " |",
        "|" + "|".join([":--"] * table.index.nlevels + ["--:"] * len(_titles(table))) + "|",
    ]
    for keys, row in _iterate(table):
        cells = []
        for title in _titles(table):
            text, mark = _cell(row[title], " ± ")
            cells.append(_ranked(text, row[title], "**{}**", "*{}*") + ("\\*" if mark else ""))
        lines.append("| " + " | ".join([*(markdown(key) for key in keys), *cells]) + " |")
    return "\n".join(lines) + "\n" + (f"\n{markdown(caption)}\n" if caption else "")


def to_latex(table: pd.DataFrame, caption: str = "", label: str = "tab:main") -> str:
    r"""The main table as a LaTeX `table*`; needs `\usepackage{booktabs}`."""
    titles = _titles(table)
    lines = []
    previous = None
    for keys, row in _iterate(table):
        if previous not in (None, keys[0]):
            lines.append(r"\midrule")
        shown = ("" if keys[0] == previous else keys[0], *keys[1:])
        previous = keys[0]
        cells = []
        for title in titles:
            text, mark = _cell(row[title], r"\,$\pm$\,")
            text = text.replace("–", "--")
            text = _ranked(text, row[title], r"\textbf{{{}}}", r"\underline{{{}}}")
            cells.append(text + ("$^{*}$" if mark else ""))
        lines.append(" & ".join([*(latex(key) for key in shown), *cells]) + r" \\")
    layout = "l" * table.index.nlevels + "r" * len(titles)
    heads = [*map(latex, table.index.names), *map(_stacked, titles)]
    return latex_table(layout, heads, lines, caption, label)


def write_main_table(tables_dir: str | Path, out_stem: str | Path) -> dict[str, object]:
    """Writes `<out_stem>.csv`, `.md` and `.tex` from the tables of one study.

    Returns:
        A record: name, caption, names of the files, hashes of the tables read, numbers of runs and
        benchmarks.
    """
    tables = read_tables(tables_dir, items=False)
    table, caption = main_table(tables), note(tables)
    protocols = sorted(set(tables.scores["protocol"]))
    texts = {
        "csv": to_csv(table, ", ".join(protocols)),
        "md": to_markdown(table, caption),
        "tex": to_latex(table, caption),
    }
    files = []
    for suffix, text in texts.items():
        path = Path(f"{out_stem}.{suffix}")
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
        files.append(path.name)
    return {
        "table": "main_table",
        "caption": caption,
        "files": files,
        "tables": table_hashes(tables_dir),
        "runs": len(table),
        "benchmarks": len(_titles(table)),
    }


def table_hashes(tables_dir: str | Path) -> dict[str, str]:
    """SHA-256 of the tables that figures and the main table are made from (all but the items)."""
    return {
        name: hashlib.sha256((Path(tables_dir) / name).read_bytes()).hexdigest()
        for table, name in tidy.FILES.items()
        if table != "items"
    }


def _columns(values: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """(suite, benchmark, metric, title) of what is shown; no ETHICS subsets, none corrupted."""
    found = []
    shown = values[~values["benchmark"].isin(_LEFT_OUT)]
    for suite in ("text", "image"):
        own = shown[shown["suite"] == suite]
        for benchmark in names.ordered(own["benchmark"], _FIRST):
            label = names.benchmark_label(benchmark)
            for metric in names.table_metrics(own.loc[own["benchmark"] == benchmark, "metric"]):
                plain = metric in ("acc", "accuracy")
                title = label if plain else f"{label} {names.metric_label(metric)}"
                found.append((suite, benchmark, metric, title))
    return found


def _one(frame: pd.DataFrame, suite: str, benchmark: str, metric: str) -> pd.DataFrame:
    here = (frame["suite"] == suite) & (frame["benchmark"] == benchmark)
    return frame[here & (frame["metric"] == metric)].set_index("run")


def _rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs in reading order: per base the untuned one, then its runs; references last."""
    order = {
        "kind": ("base", "run"),
        "tuning": ("", *names.TUNINGS),
        "source": ("", *names.SOURCES),
    }
    ranks = pd.DataFrame(
        {
            name: runs[name].map(
                {value: place for place, value in enumerate(names.ordered(runs[name], first))}
            )
            for name, first in order.items()
        }
    )
    ranks["reference"] = runs["kind"] == "reference"
    ranks["base"] = runs["base"]
    ranks["seed"] = runs["seed"].fillna(-1)
    ranks["run"] = runs["run"]
    by = ["reference", "base", "kind", "tuning", "source", "seed", "run"]
    return runs.loc[ranks.sort_values(by).index].reset_index(drop=True)


def _index(tables: Tables, rows: pd.DataFrame) -> pd.MultiIndex:
    labels = names.base_labels(tables.runs)
    trained = rows["kind"] == "run"
    reference = rows["kind"] == "reference"
    levels = {
        "base": rows["base"]
        .map(labels)
        .where(~reference, rows["label"].where(rows["label"] != "", rows["run"])),
        "tuning": rows["tuning"]
        .replace(names.TUNING_LABELS)
        .where(trained, np.where(reference, "reference", "untuned")),
        "source": rows["source"].where(trained, ""),
    }
    if rows.loc[trained, "seed"].nunique() > 1:
        levels["seed"] = (
            rows["seed"].astype("str").replace("<NA>", "").where(trained, "").fillna("")
        )
    if rows.loc[trained, "instruction_kinds"].nunique() > 1:
        levels["instructions"] = rows["instruction_kinds"].where(trained, "")
    return pd.MultiIndex.from_frame(pd.DataFrame(levels))


def _titles(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(title for title, _ in table.columns))


def _iterate(table: pd.DataFrame):
    for keys, (_, row) in zip(table.index, table.iterrows(), strict=True):
        yield tuple(str(key) for key in keys), row


def _cell(cell: pd.Series, between: str) -> tuple[str, bool]:
    if pd.isna(cell["value"]):
        return "–", False
    text = f"{cell['value']:.1f}"
    if not pd.isna(cell["half_width"]):
        text += f"{between}{cell['half_width']:.1f}"
    return text, bool(cell["differs"])


def _ranked(text: str, cell: pd.Series, best: str, second: str) -> str:
    """The text of a cell in the form of the best or the second best."""
    if cell["best"]:
        return best.format(text)
    return second.format(text) if cell["second"] else text


def _stacked(title: str) -> str:
    """A column's head on two lines, the benchmark's name above."""
    lines = r"\\".join(latex(part) for part in title.split(" ", 1))
    return rf"\shortstack[r]{{{lines}}}"
