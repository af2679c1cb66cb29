"""Arms that share a process, and what follows for them from how it ended."""

from typing import NamedTuple

from nanobench.records import ArmRecord, Outcome, Status
from nanobench.schema import Arm
from nanobench.sweep.executors.base import WorkerResult

ArmGroup = tuple[Arm, ...]
"""Arms that run in one process."""


class Split(NamedTuple):
    """What follows from how one process of a trial ended."""

    done: ArmGroup
    """arms whose records are final"""
    next: tuple[ArmGroup, ...] = ()
    """groups to run before all others"""
    last: tuple[ArmGroup, ...] = ()
    """groups to run after all others"""


def split(group: ArmGroup, result: WorkerResult) -> Split:
    """An arm that ran out of memory beside others is tried once more alone; an arm that crashed the process leaves the
    group, and the others are run again without it.
    """
    if result.record is None and result.running is not None:
        broken = group[result.running]
        rest = tuple(arm for arm in group if arm != broken)
        if rest and result.status is Status.OOM:
            return Split((), (rest,), ((broken,),))
        return Split((broken,), (rest,) if rest else ())
    if result.record is not None and len(group) > 1:
        crowded = tuple(each.arm for each in records_of(group, result) if each.outcome.status is Status.OOM)
        return Split(tuple(arm for arm in group if arm not in crowded), (), tuple((arm,) for arm in crowded))
    return Split(group)


def records_of(group: ArmGroup, result: WorkerResult) -> list[ArmRecord]:
    """What one process says of these arms; if it died, what its end says."""
    if result.record is not None:
        records = [ArmRecord.from_json(record) for record in result.record["arms"]]
        return [record for record in records if record.arm in group]
    return [ArmRecord(arm=arm, outcome=Outcome(status=result.status, reason=result.reason)) for arm in group]
