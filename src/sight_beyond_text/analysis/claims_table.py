"""The claims of a study and their verdicts, as CSV, Markdown and LaTeX (booktabs)."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.analysis.markup import latex, latex_table, markdown
from sight_beyond_text.files import sha256, write_text

HEADS = ("claim", "verdict", "difference", "claimed", "p", "p (Holm)", "alone", "items", "why")
"""Columns of the table as readers see it."""

NOTE = (
    "Differences in points (per cent; CIDEr x 100), as the mean over all pairs that a claim is "
    "about, with their intervals (paired bootstrap, clustered): 95 %, and 90 % for claims of "
    "equivalence, which are judged by two one-sided tests at 5 %. Supported: the whole interval "
    "lies where the claim says; refuted: wholly outside; undecided: it reaches both. p: of the "
    "difference against the threshold, and adjusted for all claims by Holm's method. Alone: pairs "
    "that would support the claim by themselves. To decide: with a power of 80 % at the estimated "
    "difference."
)


def needed(row: Mapping[str, object]) -> str:
    """What would decide an undecided claim, in words."""
    told = []
    for key, what in (("needed_items", "items"), ("needed_seeds", "seeds")):
        if not pd.isna(row[key]):
            told.append(f"{_rounded(int(row[key])):,} {what}")
    if told:
        return f"{' or '.join(told)} would decide"
    return str(row["reason"]) or "more of the same would not decide"


def claims_table(claims: pd.DataFrame) -> pd.DataFrame:
    """Table `claims` in words, one row a claim, columns `HEADS`, all of them text."""
    rows = []
    for row in claims.to_dict("records"):
        tested = row["verdict"] != "untestable"
        factor = names.points(row["metric"]) if row["metric"] else 100.0
        why = needed(row) if row["verdict"] == "undecided" else row["reason"]
        rows.append(
            {
                "claim": row["text"],
                "verdict": row["verdict"],
                "difference": _difference(row, factor) if tested else "–",
                "claimed": claimed(row["kind"], row["threshold"] * factor),
                "p": _p(row["p"]),
                "p (Holm)": _p(row["p_holm"]),
                "alone": f"{row['pairs_alone']} of {row['pairs']}" if tested else "–",
                "items": f"{row['n']:,}" if tested else "–",
                "why": why,
            }
        )
    return pd.DataFrame(rows, columns=list(HEADS))


def claimed(kind: str, threshold: float) -> str:
    """A threshold in words: `≥ 10`, `≤ −2`, `> 0`, `within ±3`."""
    number = f"{abs(threshold):g}"
    if kind == "equivalence":
        return f"within ±{number}"
    if threshold == 0:
        return "> 0" if kind == "superiority" else "< 0"
    sign = "≥" if kind == "superiority" else "≤"
    return f"{sign} {'−' if threshold < 0 else ''}{number}"


def to_markdown(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown, the note below."""
    lines = [
        "| " + " | ".join(markdown(head) for head in table.columns) + " |",
        "|" + "|".join([":--"] * len(table.columns)) + "|",
    ]
    for row in table.to_dict("records"):
        cells = {head: markdown(text) for head, text in row.items()}
        cells["verdict"] = f"**{cells['verdict']}**"
        lines.append("| " + " | ".join(cells.values()) + " |")
    return "\n".join(lines) + f"\n\n{markdown(NOTE)}\n"


def to_latex(table: pd.DataFrame, label: str = "tab:claims") -> str:
    r"""The table as a LaTeX `table*`; needs `\usepackage{booktabs}`."""
    wide = {"claim": r"p{0.27\linewidth}", "why": r"p{0.15\linewidth}"}
    layout = "".join(wide.get(head, "l") for head in table.columns)
    rows = [" & ".join(map(latex, row)) + r" \\" for row in table.itertuples(index=False)]
    return latex_table(layout, map(latex, table.columns), rows, NOTE, label)


def write_claims_table(tables_dir: str | Path, out_stem: str | Path) -> dict[str, object]:
    """Writes `<out_stem>.csv`, `.md` and `.tex` from a study's table of claims alone.

    Returns:
        A record: name, caption, notice (where there are no claims), names of the files, hash of
        the table read, number of claims.

    Raises:
        UserError: The table is missing or broken.
    """
    claims = tidy.read_table(tables_dir, "claims")
    table = claims_table(claims)
    texts = {
        "csv": table.to_csv(index=False, lineterminator="\n"),
        "md": to_markdown(table),
        "tex": to_latex(table),
    }
    for suffix, text in texts.items():
        write_text(f"{out_stem}.{suffix}", text)
    name = tidy.FILES["claims"]
    return {
        "table": "claims_table",
        "caption": NOTE,
        "notice": "" if len(table) else "this study states no claims",
        "files": [f"{Path(out_stem).name}.{suffix}" for suffix in texts],
        "tables": {name: sha256(Path(tables_dir) / name)},
        "claims": len(table),
    }


def _difference(row: Mapping[str, object], factor: float) -> str:
    value, low, high = (_signed(row[key] * factor) for key in ("difference", "low", "high"))
    return f"{value} [{low}, {high}]"


def _signed(value: float) -> str:
    if pd.isna(value):
        return "–"
    rounded = round(value, 1) + 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.1f}"


def _p(value: float) -> str:
    if pd.isna(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _rounded(count: int) -> int:
    """Two digits: what is foretold is no more precise."""
    size = 10 ** max(0, len(str(count)) - 2)
    return -(-count // size) * size
