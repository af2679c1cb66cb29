"""The function of a figure, and the decorator that lists it."""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from nanobench.views.figures.layout import Launches

Plot = Callable[[pd.DataFrame, Launches], Figure]
"""Draws the cells and the raw launches of a run. Raises UserError where these do not allow the figure."""
FIGURES: list[Plot] = []
"""The functions that are decorated, as they are imported."""


def plot(draw: Plot) -> Plot:
    """Lists a figure under the name of its function, for `nanobench plot NAME` and the report.

    The first line of the function's docstring says what it shows.
    """
    FIGURES.append(draw)
    return draw
