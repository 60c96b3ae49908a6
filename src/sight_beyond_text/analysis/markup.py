"""Tables for LaTeX; text that Markdown and LaTeX would take for their own marks, made safe."""

from collections.abc import Iterable

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": r"$-$",
    "–": "--",
}


def latex(text: str) -> str:
    """Text for LaTeX, with its signs in their mathematical form."""
    return "".join(_LATEX.get(character, character) for character in text)


def markdown(text: str) -> str:
    """Text for GitHub's Markdown, in a table too."""
    for character in "\\|*_<`":
        text = text.replace(character, "\\" + character)
    return text


def latex_table(
    layout: str, heads: Iterable[str], rows: Iterable[str], caption: str, label: str
) -> str:
    r"""A LaTeX `table*`; needs `\usepackage{booktabs}`.

    Args:
        layout: of the columns, such as `llr`.
        heads: of the columns, in LaTeX.
        rows: lines of the table, in LaTeX.
        caption: as plain text; none where it is empty.
        label: to refer to it.
    """
    lines = [
        r"\begin{table*}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if caption:
        lines.append(rf"\caption{{{latex(caption)}}}")
    return "\n".join([*lines, rf"\label{{{label}}}", r"\end{table*}"]) + "\n"
