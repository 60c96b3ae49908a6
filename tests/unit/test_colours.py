"""What stands together in a figure is told apart: by colour, by colour-blind eyes, in grey.

Distances are those of CAM02-UCS (Luo, Cui and Li 2006), in which 1 can just be seen; colour
blindness is that of Machado, Oliveira and Fernandes 2009, at its full severity.
"""

import itertools

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE
from matplotlib.colors import to_rgb

from sight_beyond_text.figures.style import (
    LINES,
    MARKERS,
    OTHER,
    OTHER_MARKERS,
    PALETTE,
    FigureStyle,
)

TOGETHER = {
    "sources": ("visual", "caption", "text", "base"),
    "tunings": ("full", "lora", "qlora", "frozen"),
    "published": ("published", "reproduced"),
}
EYES = ("normal", "deuteranomaly", "protanomaly", "tritanomaly")
CLEAR = 10.0
"""Ten times what can just be seen."""


def seen(colour: str, eyes: str) -> np.ndarray:
    """A colour (sRGB, 0..1) as such eyes see it; `grey` as a printer without colour gives it."""
    rgb = np.array(to_rgb(colour))
    if eyes == "normal":
        return rgb
    if eyes == "grey":
        lightness = cspace_convert(rgb, "sRGB1", "CAM02-UCS")[0]
        return cspace_convert([lightness, 0, 0], "CAM02-UCS", "sRGB1")
    space = {"name": "sRGB1+CVD", "cvd_type": eyes, "severity": 100}
    return np.clip(cspace_convert(rgb, space, "sRGB1"), 0, 1)


def closest(colours: list[str], eyes: str) -> float:
    pairs = itertools.combinations([seen(colour, eyes) for colour in colours], 2)
    return min(float(deltaE(one, two, "sRGB1")) for one, two in pairs)


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_colours_that_stand_together_differ(names, eyes):
    assert closest([PALETTE[name] for name in names], eyes) > CLEAR


def test_the_measure_sees_what_colour_blind_eyes_do_not():
    assert closest(["#d62728", "#7a7a00"], "normal") > CLEAR
    assert closest(["#d62728", "#7a7a00"], "deuteranomaly") < CLEAR


@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_grey_is_helped_by_markers(names):
    # Not four colours of equal clarity in grey: what is too near there has another marker.
    style = FigureStyle()
    for one, two in itertools.combinations(names, 2):
        apart = closest([PALETTE[one], PALETTE[two]], "grey") > CLEAR
        assert apart or style.marker(one) != style.marker(two)
    assert len({MARKERS[name] for name in names}) == len(names)


def test_lines_differ_by_tuning():
    assert len({str(look) for look in LINES.values()}) == len(LINES) == 4


def test_names_without_a_look_get_one_each():
    strangers = [f"source {number}" for number in range(len(OTHER))]
    style = FigureStyle(palette={"visual": "#123456"}).telling_apart([*strangers, "visual", ""])
    assert [style.colour(name) for name in strangers] == list(OTHER)
    assert [style.marker(name) for name in strangers] == list(OTHER_MARKERS)
    assert style.colour("visual") == "#123456"
    assert not {*OTHER_MARKERS} & {*MARKERS.values()}


@pytest.mark.parametrize("eyes", [*EYES, "grey"])
def test_both_ends_of_the_heat_map_are_far_from_its_middle(eyes):
    # In grey the ends look alike: there the signs in the cells tell them apart.
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    low, middle, high = (to_hex(mpl.colormaps["RdBu"](share)) for share in (0.0, 0.5, 1.0))
    assert closest([low, middle], eyes) > 4 * CLEAR and closest([high, middle], eyes) > 4 * CLEAR
    assert eyes == "grey" or closest([low, high], eyes) > CLEAR
