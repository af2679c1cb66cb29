"""The function of a figure, and the decorators that list it."""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from nanobench.views.figures.layout import Launches

Plot = Callable[[pd.DataFrame, Launches], Figure]
"""Draws the cells and the raw launches of a run. Raises UserError where these do not allow the figure."""
FIGURES: list[Plot] = []
"""The functions that are decorated, as they are imported."""
OF_EVERY_ARM: list[Plot] = []
"""Those of them that get the cells of all arms, however many they are."""


def plot(draw: Plot) -> Plot:
    """Lists a figure under the name of its function, for `nanobench plot NAME` and the report.

    The first line of the function's docstring says what it shows.
    """
    FIGURES.append(draw)
    return draw


def of_every_arm(draw: Plot) -> Plot:
    """Marks a figure that can show more arms than lines with a legend could."""
    OF_EVERY_ARM.append(draw)
    return draw
