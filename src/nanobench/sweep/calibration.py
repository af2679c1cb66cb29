"""Calibrations: measured by a worker, kept once per machine, looked at again before and after every trial of a sweep."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nanobench.errors import UserError
from nanobench.results.run_context import setting
from nanobench.schema import PROTOCOL, Point
from nanobench.sweep import user_cache
from nanobench.sweep.executors.base import Executor

Row = dict[str, Any]
TIMEOUT_S = 300.0
MOST_PRESSURE = 0.1


@dataclass(frozen=True, order=True)
class Setting:
    """What a calibration holds for."""

    device: str
    dtype: str
    threads: int

    @classmethod
    def of(cls, point: Point) -> "Setting":
        """That of a point."""
        return cls(point.device, point.dtype, point.threads)

    @property
    def name(self) -> str:
        """How run.json calls it."""
        return setting(self.device, self.dtype, self.threads)


def settings(points: Iterable[Point]) -> list[Setting]:
    """Those of some points, each once."""
    return sorted({Setting.of(point) for point in points})


def file_of(identity: str, asked: Setting) -> Path:
    """The file of one machine's calibration."""
    return user_cache.folder() / f"calibration-{PROTOCOL}-{identity}-{asked.name.replace(' ', '-').replace(':', '')}.json"


def kept(identity: str, asked: Setting) -> Row | None:
    """A calibration of this machine; None where there is none that can be read."""
    found = user_cache.read(file_of(identity, asked))
    return None if found is None else {**found, "looks": {}}


def full(executor: Executor, identity: str, asked: Setting, scratch: Path, fresh: bool) -> Row:
    """The calibration kept for this machine, or a new one, which is kept unless something disturbed it.

    Raises UserError where the worker fails.
    """
    found = None if fresh else kept(identity, asked)
    if found is None:
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        found = {**measured(executor, asked, scratch, brief=False), "measured_at": stamp, "looks": {}}
        if not disturbed(found):
            user_cache.write(file_of(identity, asked), found)
    return found


def disturbed(calibration: Row) -> bool:
    """Whether tasks waited for a core so much of the time that the limits are not those of the machine alone."""
    return (calibration.get("pressure_fraction") or 0.0) > MOST_PRESSURE


def measured(executor: Executor, asked: Setting, scratch: Path, brief: bool) -> Row:
    """Asks a worker for limits and what disturbed them. Raises UserError where it cannot tell them."""
    question = {"device": asked.device, "dtype": asked.dtype, "threads": asked.threads, "brief": brief}
    log = scratch / "calibrate.log"
    result = executor.run({"calibrate": question}, scratch / "calibrate", log, TIMEOUT_S, lambda report: None)
    if result.record is None:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        raise UserError(
            f"{asked.name} cannot be calibrated: {result.reason} {' '.join(tail)}; go on without: --calibration off"
        )
    return result.record
