"""The cells of a sweep that runs: those of a point are derived again when somebody looks, not after each of its launches."""

from collections.abc import Callable, Iterable
from itertools import chain

from nanobench.results import derive
from nanobench.results.derive import CellRow
from nanobench.results.repetitions import point_of
from nanobench.schema import Point


class LiveCells:
    """`derive_at` gives the cells of a point as they are now."""

    def __init__(self, derive_at: Callable[[Point], list[CellRow]]) -> None:
        self.derive_at = derive_at
        self.by_point: dict[Point, list[CellRow]] = {}
        self.changed: set[Point] = set()
        self.seen: list[CellRow] = []
        """what the last look saw, for another thread"""

    def replace(self, cells: Iterable[CellRow]) -> list[CellRow]:
        """Takes all cells, as they are now."""
        self.by_point, self.changed, self.seen = {}, set(), list(cells)
        for cell in self.seen:
            self.by_point.setdefault(point_of(cell), []).append(cell)
        return self.seen

    def change(self, point: Point) -> None:
        """A point has another launch."""
        self.changed.add(point)

    def look(self) -> list[CellRow]:
        """All cells, in the order of point and arm."""
        if self.changed:
            for point in self.changed:
                self.by_point[point] = self.derive_at(point)
            self.changed = set()
            self.seen = derive.corrected(derive.in_order(list(chain.from_iterable(self.by_point.values()))))
        return self.seen
