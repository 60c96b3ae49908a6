"""Builds the explorer's page: one HTML file that needs no server and no network.

The data lie in the page; those of a big study lie beside it, as scripts that the page loads when
they are looked at (a page that was opened from a disk may load scripts, but fetch nothing else).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

from sight_beyond_text.explorer.data import Explored, explored
from sight_beyond_text.files import staged_folder, write_text

INSIDE = 24.0
"""MiB that a page may weigh before its data go beside it."""

SCRIPTS = (
    "blocks.js",
    "state.js",
    "dom.js",
    "grid.js",
    "pair.js",
    "items.js",
    "detail.js",
    "main.js",
)
"""Parts of the page's one script, in order."""


def build(
    tables: str | Path, out: str | Path, study: str | None = None, inside: float = INSIDE
) -> dict:
    """Writes the page, and `<its name>-data/` beside it where it would weigh too much.

    The same tables give the same bytes.

    Args:
        tables: the study's folder of tables.
        out: the HTML file.
        study: the study's name; that of the folder by default.
        inside: MiB that the page may weigh with all data inside.

    Returns:
        A record: the page, its bytes, and of how many runs, items and pictures it tells.

    Raises:
        UserError: a table is missing or broken.
    """
    tables, out = Path(tables), Path(out)
    made = explored(tables, study or tables.resolve().name)
    beside = out.with_name(f"{out.stem}-data")
    encoded = {name: base64.b64encode(block).decode() for name, block in made.blocks.items()}
    apart = sum(map(len, encoded.values())) > inside * 2**20
    _remove(beside)
    if apart:
        _write_beside(beside, encoded)
    text = _page(made, {} if apart else encoded, beside.name if apart else None)
    write_text(out, text)
    return {
        "page": out.name,
        "bytes": len(text.encode()),
        "beside": beside.name if apart else None,
        "runs": len(made.index["runs"]),
        "items": sum(task["n"] for task in made.index["tasks"]),
        "pictures": made.index["pictures"]["kept"],
    }


def _page(made: Explored, encoded: dict[str, str], beside: str | None) -> str:
    """The page's text; all its scripts are allowed by hash, those beside it by a nonce."""
    source = files("sight_beyond_text.explorer") / "page"
    parts = [(source / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    style = (source / "style.css").read_text(encoding="utf-8")
    index = _inert(
        json.dumps({**made.index, "beside": beside}, ensure_ascii=False, allow_nan=False)
    )
    allowed = _hash(script)
    if beside is not None:
        nonce = hashlib.sha256((script + index).encode()).hexdigest()[:32]
        allowed += f" 'nonce-{nonce}'"
        script_tag = f'<script nonce="{nonce}">'
    else:
        script_tag = "<script>"
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    blocks = "\n".join(
        f'<script type="text/plain" id="{name}">{text}</script>' for name, text in encoded.items()
    )
    filled = {
        "POLICY": policy,
        "STYLE": style,
        "INDEX": index,
        "BLOCKS": blocks,
        "SCRIPT": f"{script_tag}{script}</script>",
    }
    pieces = (source / "page.html").read_text(encoding="utf-8").split("@@")
    # Every second piece names what stands there; what was filled in is never looked at again.
    return "".join(filled[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _write_beside(folder: Path, encoded: dict[str, str]) -> None:
    files_of: dict[str, dict[str, str]] = {}
    for name, text in encoded.items():
        # All answers of a run share a file: answers-<run>-<task> lies in answers-<run>.
        file = "-".join(name.split("-")[:2])
        files_of.setdefault(file, {})[name] = text
    with staged_folder(folder) as staged:
        for file, held in files_of.items():
            write_text(staged / f"{file}.js", f"explorerBlocks({json.dumps(held)});\n")


def _remove(folder: Path) -> None:
    """Removes what an earlier page had beside it, and nothing else."""
    made = list(folder.iterdir()) if folder.is_dir() else []
    if made and all(_BESIDE.fullmatch(path.name) for path in made):
        shutil.rmtree(folder)


_BESIDE = re.compile(r"(effects|(items|answers|scores|pictures)-\d+)\.js")


def _inert(text: str) -> str:
    """JSON that nothing in an HTML page takes for markup or for the end of a line."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
