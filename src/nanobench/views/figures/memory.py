"""What is held in memory, and what a call or step takes beside it."""

import pandas as pd
from matplotlib.figure import Figure

from nanobench.errors import UserError
from nanobench.views.figures.by_batch import Quantity, byte_unit, stack
from nanobench.views.figures.layout import Launches
from nanobench.views.figures.plot import plot


@plot
def memory(cells: pd.DataFrame, launches: Launches) -> Figure:
    """Peak memory of each arm, by batch size; dashed, in closed form, what is held between calls: weights, cache, optimizer."""
    if cells["peak_memory_bytes"].isna().all():
        raise UserError("memory needs cells whose peak memory was measured and this run has none; measure it again")
    name, size = byte_unit(cells["peak_memory_bytes"])
    quantities = (
        Quantity("peak_memory_bytes", f"peak memory ({name})", size, closed_form="held_bytes"),
        Quantity("kv_cache_bytes", f"KV cache ({name})", size, closed_form="kv_cache_expected_bytes"),
        Quantity("activation_bytes", f"forward pass ({name})", size),
    )
    known = [each for each in quantities if cells[each.name].max() > 0]
    return stack(cells, known, 2.1, "Peak memory, and what is held", *notes(cells))


def notes(cells: pd.DataFrame) -> list[str]:
    """How to read the distance between the lines, or why there is only one of them."""
    if cells["held_bytes"].isna().all():
        return ["what is held is not known: the sizes of weights or cache were not stored"]
    return ["between dashed line and points: what a call or step allocates and frees, which has no closed form"]
