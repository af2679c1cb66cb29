"""Calibrations: measured by a worker, kept once per machine, checked for drift before and after every trial of a sweep."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from nanobench.errors import UserError
from nanobench.results import user_cache
from nanobench.results.run_context import Calibration, Setting
from nanobench.schema import PROTOCOL, Arm, Point, unusual
from nanobench.sweep.executors.base import Executor

VERSION = 2
"""Rises when other limits are measured than before, or otherwise; an earlier calibration of the machine is not used then."""
TIMEOUT_S = 300.0
MOST_PRESSURE = 0.1


def settings(points: Iterable[Point], arms: Iterable[Arm] = ()) -> list[Setting]:
    """The settings of some points, each once: with float weights, and with those that arms have."""
    kinds = {"float", *(arm.weights for arm in arms)}
    return sorted({Setting.of(point, weights) for point in points for weights in kinds})


def file_of(identity: str, setting: Setting) -> Path:
    """The file of one machine's calibration."""
    name = setting.name.replace(" ", "-").replace(":", "")
    return user_cache.folder() / f"calibration-{PROTOCOL}.{VERSION}-{identity}-{name}.json"


def kept(identity: str, setting: Setting) -> Calibration | None:
    """A calibration of this machine; None where there is none that can be read and predicted from."""
    document = user_cache.read(file_of(identity, setting))
    try:
        found = None if document is None else Calibration.from_json(document)
    except (AttributeError, KeyError, TypeError):
        return None
    return None if found is None or found.limits.missing() else found


def full(
    executor: Executor, identity: str, setting: Setting, scratch: Path, fresh: bool, launch: int | None = None
) -> Calibration:
    """The calibration kept for this machine, or a new one, which is kept if it can be used again (`why_not_kept`).

    Raises UserError where the worker fails, and for a setting that would take too long.
    """
    if reason := why_slow(setting):
        raise UserError(reason)
    found = None if fresh else kept(identity, setting)
    if found is None:
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        found = replace(measured(executor, setting, scratch, False, launch), measured_at=stamp)
        if why_not_kept(found) is None:
            user_cache.write(file_of(identity, setting), found.to_json())
    return found


def why_slow(setting: Setting) -> str | None:
    """Why a setting is not calibrated; None if it is."""
    if setting.weights == "float" or setting.device != "cpu" or setting.dtype == "bfloat16":
        return None
    kernels = f"torch's kernels for {setting.weights} weights are made for bfloat16 on a CPU"
    return f"{setting.name} is not calibrated: {kernels}, and are very slow in {setting.dtype}; choose --dtype bfloat16"


def why_not_kept(calibration: Calibration) -> str | None:
    """Why a calibration is not used again: tasks waited for a core, or nothing can be predicted from it; None if it is."""
    waited = calibration.pressure_fraction or 0.0
    if waited > MOST_PRESSURE:
        return f"tasks waited for a core in {waited:.0%} of the time"
    return calibration.limits.missing()


def measured(executor: Executor, setting: Setting, scratch: Path, brief: bool, launch: int | None = None) -> Calibration:
    """Asks a worker, one of the round `launch` if that is given, for limits and what disturbed them.

    Raises UserError where it cannot measure them.
    """
    request = {"calibrate": {**unusual(setting), "brief": brief}, **({"launch": launch} if launch else {})}
    log = scratch / "calibrate.log"
    result = executor.run(request, scratch / "calibrate", log, TIMEOUT_S, lambda report: None)
    if result.record is None:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        reason = " ".join([str(result.reason), *tail])
        raise UserError(f"{setting.name} cannot be calibrated: {reason}; continue without predictions: --calibration off")
    return Calibration.from_json(result.record)
