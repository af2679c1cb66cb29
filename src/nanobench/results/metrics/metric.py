"""A column: its name, its unit, how it is shown, which way is better, and its formula."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanobench.results.cell import Cell


@dataclass(frozen=True)
class Metric:
    """A column of cells.parquet."""

    name: str
    unit: str
    """s, B, Hz, W, J, C, tok/s, FLOP/s, ratio, count, tokens, logit, loss, flag or text"""
    title: str
    """how tables and axes call it"""
    better: str
    """higher, lower or empty"""
    formula: str
    compute: Callable[[Cell], Any]
