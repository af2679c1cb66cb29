"""The twin of a colour for a dark ground: greys change places, and other colours keep their hue and become light enough.

Computed in Oklab (Ottosson 2020), in which equal steps of lightness look equal.
"""

import math
from functools import cache

PAPER, INK = 0.24, 0.96
"""Lightness of white and black on a dark ground."""
BEND = 0.8
"""Exponent of the darkness of a grey: with less than 1, what has a contrast of 3 on white has it on a dark ground too."""
GREY = 0.04
"""Colours with less chroma than this are greys."""
LEAST, SPAN = 0.45, 0.5
"""Lightness of other colours on a dark ground: from this on, and how much more the lightest have."""
TO_CONE = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
FROM_LAB = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
FROM_CONE = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)
Triple = tuple[float, ...]
Matrix = tuple[Triple, ...]


@cache
def on_dark(colour: str) -> str:
    """The twin of a colour like #0072b2."""
    lightness, a, b = lab_of(colour)
    is_grey = math.hypot(a, b) < GREY
    darkness = max(0.0, 1 - lightness) ** BEND
    return hex_of((PAPER + darkness * (INK - PAPER) if is_grey else LEAST + SPAN * lightness, a, b))


def lab_of(colour: str) -> Triple:
    """A colour in Oklab."""
    linear = tuple(to_linear(int(colour[start : start + 2], 16) / 255) for start in (1, 3, 5))
    return times(TO_LAB, tuple(math.cbrt(each) for each in times(TO_CONE, linear)))


def hex_of(lab: Triple) -> str:
    """A colour of Oklab as #0072b2; what a screen cannot show is cut."""
    linear = times(FROM_CONE, tuple(each**3 for each in times(FROM_LAB, lab)))
    return "#" + "".join(f"{round(255 * from_linear(min(1.0, max(0.0, each)))):02x}" for each in linear)


def times(matrix: Matrix, vector: Triple) -> Triple:
    """Their matrix product."""
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours like #0072b2 (WCAG 2): from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    red, green, blue = (to_linear(int(colour[start : start + 2], 16) / 255) for start in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def to_linear(share: float) -> float:
    """A share of sRGB as a share of light."""
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)


def from_linear(light: float) -> float:
    """A share of light as a share of sRGB."""
    return 12.92 * light if light <= 0.0031308 else float(1.055 * light ** (1 / 2.4) - 0.055)
