"""Disturbed launches that undisturbed ones replace: they stay in the raw files, and their times do not count.

Only a recorded outside cause sets a launch aside, with all its arms, whatever its times are.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from nanobench.records import LaunchRecord
from nanobench.results import status
from nanobench.results.cell import Cell
from nanobench.schema import Point

INSIDE = ("aa_ratio",)
"""Disturbances that are seen in the times alone."""


def is_disturbed(launch: Sequence[LaunchRecord]) -> bool:
    """Whether a recorded outside cause disturbed one launch of a point, in any arm that finished."""
    cells = (Cell([record]) for record in launch if record.finished)
    return any(found.kind not in INSIDE for cell in cells for found in status.disturbances(cell))


def counted(launches: Iterable[LaunchRecord]) -> list[LaunchRecord]:
    """The same launches in the same order; those set aside have no timed repetitions.

    At a point with at least as many undisturbed launches as were planned, the disturbed ones are set aside. Elsewhere every
    launch counts.
    """
    launches = list(launches)
    by_point: dict[Point, dict[int, list[LaunchRecord]]] = defaultdict(lambda: defaultdict(list))
    for each in launches:
        by_point[each.point][each.launch].append(each)
    replaced = {(point, number) for point, found in by_point.items() for number in replaced_launches(found)}
    return [without_times(each) if (each.point, each.launch) in replaced else each for each in launches]


def replaced_launches(launches: dict[int, list[LaunchRecord]]) -> list[int]:
    """The numbers of a point's launches that are set aside."""
    finished = {number: found for number, found in launches.items() if any(each.finished for each in found)}
    planned = sum(not found[0].extra for found in finished.values())
    if planned == len(finished):
        return []
    disturbed = [number for number, found in finished.items() if is_disturbed(found)]
    return disturbed if len(finished) - len(disturbed) >= planned else []


def without_times(record: LaunchRecord) -> LaunchRecord:
    """A launch that is set aside."""
    kept = tuple(each for each in record.repetitions if each.kind != "steady")
    return replace(record, repetitions=kept, set_aside=True)
