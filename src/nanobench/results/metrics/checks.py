"""Columns about the check of outputs after each launch."""

from collections.abc import Callable

from nanobench.results.cell import Cell
from nanobench.results.metrics.metric import COUNT, HIGHER, LOWER, NEITHER, SECONDS, TEXT, Metric, outcome_first


def total(name: str) -> Callable[[Cell], float | None]:
    """A field of the outcomes, summed over the launches that have it."""

    def compute(cell: Cell) -> float | None:
        known = [value for each in cell.outcomes if (value := getattr(each, name)) is not None]
        return sum(known) if known else None

    return compute


METRICS = (
    Metric(
        "checked_calls",
        COUNT,
        HIGHER,
        "timed calls or steps whose outputs were checked, over all launches",
        total("checked_calls"),
    ),
    Metric(
        "check_s",
        SECONDS,
        LOWER,
        "what the checks of outputs took with their processes over all launches, for all arms together",
        total("check_s"),
    ),
    *outcome_first(TEXT, NEITHER, check_note="what a check of outputs found, or why there was none"),
    *outcome_first(COUNT, NEITHER, steps_per_call="decode steps of a call"),
)
