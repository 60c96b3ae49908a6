"""Text that Markdown and LaTeX would take for their own marks, made safe for them."""

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
