"""How long each token took, by its position in the output."""

from collections.abc import Hashable

import numpy as np
import pandas as pd

from nanobench.records import MEASURED
from nanobench.results import repetitions as raw


def quartiles_s(cells: pd.DataFrame, raw_rows: list[raw.Row]) -> dict[Hashable, np.ndarray]:
    """Index of a measured cell -> quartiles [3, new_tokens - 1] over its marked calls of the gaps between tokens."""
    names = [*raw.POINT_FIELDS, *raw.ARM_FIELDS]
    rows_of = raw.by_key(raw_rows, *names)
    found: dict[Hashable, np.ndarray] = {}
    for index, cell in cells[cells["status"].isin(MEASURED) & cells["new_tokens"].gt(1)].iterrows():
        timestamped = [row for row in raw.steady_rows(rows_of.get(tuple(cell[names]), [])) if row["timestamped"]]
        gaps = [call.itl_s for row in timestamped for call in raw.split_calls(row)]
        if gaps:
            found[index] = np.percentile(gaps, (25, 50, 75), axis=0)
    return found
