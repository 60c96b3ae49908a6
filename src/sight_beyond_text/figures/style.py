"""The look that all figures share, and how they are saved without a trace of when.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and line styles
repeat what colours say, for print in grey.
"""

import io
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure

from sight_beyond_text.analysis.tidy import atomic_path
from sight_beyond_text.errors import UserError

PALETTE = {
    "visual": "#0072B2",
    "caption": "#E69F00",
    "text": "#009E73",
    "full": "#000000",
    "lora": "#D55E00",
    "qlora": "#56B4E9",
    "frozen": "#CC79A7",
    "base": "#595959",
    "published": "#000000",
    "reproduced": "#0072B2",
}
"""Colours of sources, tunings, the untuned base, and of whose a value is."""

MARKERS = {
    "visual": "o",
    "caption": "s",
    "text": "^",
    "full": "o",
    "lora": "s",
    "qlora": "D",
    "frozen": "v",
    "base": "D",
    "published": "D",
    "reproduced": "o",
}
LINES = {
    "full": "-",
    "lora": (0, (4, 1.5)),
    "qlora": (0, (1.2, 1.2)),
    "frozen": (0, (5, 1.2, 1.2, 1.2)),
}
FORMATS = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
"""File formats, each with the metadata that would make two equal figures differ."""

OTHER = ("#882255", "#44AA99", "#999933", "#332288", "#AA4499")
OTHER_MARKERS = ("P", "X", "<", ">", "p")
"""Colours and markers of names that have none of their own."""

_GREY = "#595959"


@dataclass(frozen=True)
class FigureStyle:
    """What a study may set about its figures.

    Attributes:
        palette: Colours that replace those of `PALETTE`, by source, tuning or "base".
        width: Of a figure, in inches: 3.3 fits one column of a paper, 6.75 two.
        dpi: Of PNG files.
        font_size: In points.
        font: Family. The default ships with matplotlib, so figures look the same everywhere.
    """

    palette: Mapping[str, str] = field(default_factory=dict)
    width: float = 6.75
    dpi: int = 300
    font_size: float = 8.0
    font: str = "DejaVu Sans"

    def __post_init__(self) -> None:
        for name, colour in self.palette.items():
            if not is_color_like(colour):
                raise UserError(
                    f"figure style: palette.{name} is {colour!r}, which is no colour; "
                    "write it as '#0072B2'"
                )
        for name, low, high in (("width", 2.5, 20), ("dpi", 30, 1200), ("font_size", 4, 24)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise UserError(
                    f"figure style: {name} is {value!r}; set a number from {low} to {high}"
                )

    @classmethod
    def from_dict(cls, settings: Mapping[str, object] | None) -> "FigureStyle":
        """Builds a style from plain settings, refusing what it doesn't know.

        Raises:
            UserError: A setting is unknown, out of range, or no colour.
        """
        settings = dict(settings or {})
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(set(settings).difference(known))
        if unknown:
            raise UserError(f"figure style: unknown {unknown[0]!r}; known are {', '.join(known)}")
        if not isinstance(settings.get("palette", {}), Mapping):
            raise UserError("figure style: palette must map names to colours")
        return cls(**settings)

    def telling_apart(self, names: Iterable[str]) -> "FigureStyle":
        """The same look, in which names without a colour of their own get different ones."""
        unknown = sorted({*names} - {"", *PALETTE, *self.palette})
        others = {name: OTHER[place % len(OTHER)] for place, name in enumerate(unknown)}
        return replace(self, palette={**self.palette, **others})

    def colour(self, name: str) -> str:
        """Colour of a source, a tuning or "base"; names without one share a few others."""
        chosen = {**PALETTE, **self.palette}
        return chosen.get(name, OTHER[sum(map(ord, name)) % len(OTHER)])

    def marker(self, name: str) -> str:
        """Marker of a source or tuning; names without one have their colour's."""
        colour = self.colour(name)
        other = OTHER_MARKERS[OTHER.index(colour)] if colour in OTHER else "o"
        return MARKERS.get(name, other)

    @property
    def small(self) -> float:
        """Font size of ticks and notes, in points."""
        return self.font_size * 0.875

    @property
    def narrow(self) -> bool:
        """Whether the figure stands in one column of a paper."""
        return self.width < 4.5

    def rc(self) -> dict[str, object]:
        """Settings of matplotlib under which figures are both drawn and saved."""
        return {
            "text.color": "#262626",
            "axes.axisbelow": True,
            "font.family": [self.font],
            "font.size": self.font_size,
            "axes.titlesize": self.font_size,
            "axes.labelsize": self.font_size,
            "xtick.labelsize": self.small,
            "ytick.labelsize": self.small,
            "legend.fontsize": self.small,
            "figure.titlesize": self.font_size,
            "axes.linewidth": 0.6,
            "axes.edgecolor": "#333333",
            "axes.labelcolor": "#1a1a1a",
            "xtick.color": "#333333",
            "ytick.color": "#333333",
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.minor.width": 0.4,
            "ytick.minor.width": 0.4,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "xtick.minor.size": 1.5,
            "ytick.minor.size": 1.5,
            "xtick.major.pad": 2,
            "ytick.major.pad": 2,
            "axes.labelpad": 2.5,
            "legend.frameon": False,
            "lines.solid_capstyle": "butt",
            "figure.constrained_layout.h_pad": 0.03,
            "figure.constrained_layout.w_pad": 0.03,
            "axes.unicode_minus": True,
            # Dollar signs in names are no formulas.
            "text.parse_math": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "sight-beyond-text",
            "pdf.fonttype": 42,
            "ps.fonttype": 42,
            "savefig.bbox": "standard",
            "savefig.facecolor": "white",
            "path.simplify": False,
        }


def new_figure(style: FigureStyle, height: float) -> Figure:
    """A figure of the style's width and a height in inches, outside pyplot's global state."""
    figure = Figure(figsize=(style.width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def notice(style: FigureStyle, text: str) -> Figure:
    """A figure that says in one sentence why there is nothing to draw."""
    with mpl.rc_context(style.rc()):
        figure = new_figure(style, 1.0)
        wrapped = textwrap.fill(text, int(style.width * 72 / style.font_size / 0.62))
        figure.text(0.5, 0.5, wrapped, ha="center", va="center", color=_GREY, wrap=False)
    return figure


def settle(figure: Figure, style: FigureStyle) -> None:
    """Lays a figure out once and for all, so that files in several formats needn't do it anew."""
    with mpl.rc_context(style.rc()):
        # Letters are as wide as whole dots make them.
        figure.set_dpi(style.dpi)
        # Once more, for labels that only find their room after the panels have found theirs.
        for _ in range(2):
            figure.get_layout_engine().execute(figure)
        # With an engine, even one that does nothing, each file would be drawn twice.
        figure.set_layout_engine(None)


def save(figure: Figure, path: Path, style: FigureStyle) -> None:
    """Writes a figure; the format is the suffix (svg, pdf, png). Same figure, same bytes.

    Raises:
        UserError: The format is another one.
    """
    kind = path.suffix.lstrip(".")
    if kind not in FORMATS:
        raise UserError(f"figures can't be written as {kind!r}; choose from {', '.join(FORMATS)}")
    buffer = io.BytesIO()
    with mpl.rc_context(style.rc()):
        figure.savefig(buffer, format=kind, dpi=style.dpi, metadata=FORMATS[kind])
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
