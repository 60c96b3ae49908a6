"""A table in Markdown as one HTML page, for readers of the report."""

from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import write_text

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 12px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 1.5rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
thead th {{ border-top: 2px solid; border-bottom: 1px solid; vertical-align: bottom; }}
th, td {{ padding: .15rem .45rem; }}
td {{ white-space: nowrap; }}
tbody tr:nth-child(even) {{ background: #f4f4f4; }}
tbody tr:last-child td {{ border-bottom: 2px solid; }}
p {{ max-width: 50rem; }}
</style>
</head>
<body>
{body}</body>
</html>
"""


def write_page(markdown: str | Path, page: str | Path, title: str) -> None:
    """Writes a Markdown file (GitHub's tables) as an HTML page; HTML in it is shown, not obeyed.

    Raises:
        UserError: the Markdown file isn't there.
    """
    markdown = Path(markdown)
    try:
        text = markdown.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{markdown}: no such file; write the table first") from None
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link"])
    write_text(page, _PAGE.format(title=escape(title), body=parser.render(text)))
