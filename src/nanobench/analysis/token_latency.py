"""How long each token took: by its position in the output, and as a distribution."""

from collections.abc import Hashable, Iterable

import numpy as np
import pandas as pd

from nanobench.records import MEASURED, LaunchRecord
from nanobench.results.cell import by_point_and_arm
from nanobench.results.derive import cells_of
from nanobench.results.repetitions import arm_of, point_of, split_calls, steady
from nanobench.results.set_aside import counted


def quartiles_s(cells: pd.DataFrame, launches: Iterable[LaunchRecord]) -> dict[Hashable, np.ndarray]:
    """Index of a measured cell -> quartiles [3, new_tokens - 1] over its timestamped calls of the gaps between tokens."""
    launches_of = by_point_and_arm(counted(launches))
    found: dict[Hashable, np.ndarray] = {}
    for index, cell in cells[cells["status"].isin(MEASURED) & cells["new_tokens"].gt(1)].iterrows():
        repetitions = (each for launch in launches_of.get((point_of(cell), arm_of(cell)), []) for each in steady(launch))
        gaps = [call.itl_s for each in repetitions if each.timestamped for call in split_calls(each)]
        if gaps:
            found[index] = np.percentile(gaps, (25, 50, 75), axis=0)
    return found


def gaps_s(cells: pd.DataFrame, launches: Iterable[LaunchRecord]) -> dict[Hashable, np.ndarray]:
    """Index of a measured cell -> its gaps between tokens, sorted: those that its percentiles are of."""
    made = {(cell.point, cell.arm): cell for cell in cells_of(launches)}
    found: dict[Hashable, np.ndarray] = {}
    for index, row in cells[cells["status"].isin(MEASURED)].iterrows():
        cell = made.get((point_of(row), arm_of(row)))
        if cell is not None and len(cell.gaps[0]):
            found[index] = np.sort(cell.gaps[0])
    return found
