"""Data cards: what a source gives to learn from, in numbers, examples and pictures."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from sight_beyond_text.data.checks import check_rows
from sight_beyond_text.data.images import BROKEN, inside, opened
from sight_beyond_text.data.prepare import drawn
from sight_beyond_text.data.templates import turns_of
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import write_json, write_text

EXAMPLES = 8
_THUMBNAIL = (320, 320)


def make_card(name: str, rows: Sequence[dict], told: Mapping[str, object] | None = None) -> dict:
    """The card of a source.

    Args:
        name: of the source.
        rows: its samples, as a run learns from them; at least one.
        told: what else to say of it (where it comes from), first on the card.

    Returns:
        `{name, told, samples, with_image, images, kinds, turns, questions, answers, doubles,
        double_ids, examples}`; lengths in characters, each with `least`, `median`, `mean`, `p95`,
        `most`, `sum`.
    """
    found = check_rows(rows)
    pairs = [turns_of(row["conversations"], str(row["id"])) for row in rows]
    chosen = sorted(drawn(len(rows), 0)[:EXAMPLES])
    return {
        "name": name,
        "told": dict(told or {}),
        "samples": len(rows),
        "with_image": sum("image" in row for row in rows),
        "images": found.images,
        "kinds": dict(Counter(str(row.get("kind", "not told")) for row in rows).most_common()),
        "turns": _spread([len(turns) for turns in pairs]),
        "questions": _spread([len(asked) for turns in pairs for asked, _ in turns]),
        "answers": _spread([len(said) for turns in pairs for _, said in turns]),
        "doubles": len(found.doubles),
        "double_ids": found.double_ids,
        "examples": [rows[place] for place in chosen],
    }


def _spread(values: list[int]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "least": ordered[0],
        "median": ordered[len(ordered) // 2],
        "mean": round(fmean(ordered), 1),
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "most": ordered[-1],
        "sum": sum(ordered),
    }


def write_card(card: dict, folder: str | Path, images: str | Path | None = None) -> list[Path]:
    """Writes a card as `<name>.json`, `<name>.md` and `<name>.html`.

    Args:
        card: what `make_card` gives.
        folder: where they go.
        images: folder of the images that the page shows, as small copies within it.

    Returns:
        The files.
    """
    stem = Path(folder) / card["name"]
    paths = [Path(f"{stem}.{kind}") for kind in ("json", "md", "html")]
    write_json(paths[0], card)
    write_text(paths[1], as_markdown(card))
    write_text(paths[2], as_page(card, images))
    return paths


def _facts(card: dict) -> list[tuple[str, str]]:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in card["kinds"].items())
    return [
        *((str(key), str(value)) for key, value in card["told"].items()),
        ("samples", f"{card['samples']:,}"),
        ("with an image", f"{card['with_image']:,} (of {card['images']:,} images)"),
        ("kinds", kinds),
        ("said twice of the same image", f"{card['doubles']:,}"),
        ("samples that share an id", f"{card['double_ids']:,}"),
    ]


_LENGTHS = ("turns", "questions", "answers")
_SPREAD = ("least", "median", "mean", "p95", "most", "sum")


def as_markdown(card: dict) -> str:
    """The card as Markdown."""
    lines = [f"# {card['name']}", ""]
    lines += [f"- {key}: {value}" for key, value in _facts(card)]
    lines += ["", f"| | {' | '.join(_SPREAD)} |", "|---|" + "---:|" * len(_SPREAD)]
    for name in _LENGTHS:
        cells = " | ".join(f"{card[name][key]:,}" for key in _SPREAD)
        lines.append(f"| {name}{'' if name == 'turns' else ', characters'} | {cells} |")
    for row in card["examples"]:
        lines += ["", f"**{_label(row)}**", ""]
        for turn in row["conversations"]:
            text = "\n".join(f"    {line}" for line in turn["value"].splitlines())
            lines += [f"{turn['from']}:", "", text, ""]
    return "\n".join(lines).rstrip() + "\n"


def _label(row: Mapping) -> str:
    parts = (row["id"], row.get("kind"), row.get("image"))
    return " | ".join(" ".join(str(part).split()) for part in parts if part)


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .7rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
section { display: flex; gap: 1rem; border-top: 1px solid #ccc; padding: 1rem 0; }
img { max-width: 20rem; align-self: flex-start; } p { margin: .2rem 0; white-space: pre-wrap; }
.gpt { background: #f0f4f8; } small { color: #555; }
"""


def as_page(card: dict, images: str | Path | None = None) -> str:
    """The card as one HTML page that needs nothing else; all texts are escaped."""
    title = escape(card["name"])
    out = [
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>',
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n<ul>",
        *(f"<li>{escape(key)}: {escape(value)}</li>" for key, value in _facts(card)),
        "</ul>\n<table>",
        f"<tr><th></th>{''.join(f'<th>{key}</th>' for key in _SPREAD)}</tr>",
    ]
    for name in _LENGTHS:
        cells = "".join(f"<td>{card[name][key]:,}</td>" for key in _SPREAD)
        what = name if name == "turns" else f"{name}, characters"
        out.append(f"<tr><td>{what}</td>{cells}</tr>")
    out.append("</table>")
    for row in card["examples"]:
        out.append("<section>")
        if "image" in row:
            out.append(_picture(row["image"], images))
        out.append(f"<div><small>{escape(_label(row))}</small>")
        for turn in row["conversations"]:
            role = "human" if turn["from"] == "human" else "gpt"
            out.append(f'<p class="{role}"><b>{role}</b> {escape(turn["value"])}</p>')
        out.append("</div></section>")
    return "\n".join(out) + "\n</html>\n"


def _picture(name: str, folder: str | Path | None) -> str:
    # A page is handed on: it may show nothing but the data's own pictures.
    try:
        path = inside(folder or "", name)
    except UserError:
        return f"<p>{escape(name)} leads out of the folder of images; not shown</p>"
    try:
        if folder is None:
            raise FileNotFoundError
        with opened(path) as image:
            small = image.convert("RGB")
        small.thumbnail(_THUMBNAIL)
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=80)
    except BROKEN:
        return f"<p>{escape(name)} can't be shown</p>"
    content = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{content}">'
