"""What run.json says of a run: what was requested and planned, and on which machine; and the journal of what came after.

run.json is written once, before the first trial. What is learned later is a line of JSON at the end of journal.jsonl, so that
a sweep that is killed leaves every line but perhaps the last one whole. Runs up to protocol 4 have all of it in run.json.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from nanobench.errors import UserError
from nanobench.records import Description, JsonObject
from nanobench.results.run_context import Calibration, DriftCheck, Machine
from nanobench.schema import PROTOCOL, Plan

NEEDED = ("plan", "started_at", "identity")
"""Keys without which a file is no run's."""
UNCOMPARED = ("hash", "memory_gib")
"""Facts of an identity that make no two runs unlike: the other facts say more, and memory may grow."""


def started_at(data: JsonObject) -> datetime:
    """When a sweep began, by its run.json. Raises KeyError, TypeError or ValueError for what is no run's."""
    if not all(isinstance(data[name], dict) for name in ("plan", "identity")):
        raise TypeError
    return datetime.fromisoformat(data["started_at"])


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run besides its raw files."""

    command: str
    requested: JsonObject
    """options that differ from their defaults"""
    plan: Plan
    description: Description
    started_at: str
    protocol: int = PROTOCOL
    finished_at: str | None = None
    wall_s: float = 0.0
    """seconds of measuring, over all sessions"""
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    """by the name of their setting"""
    calibration_note: str | None = None
    """why there is no calibration"""
    planned_s: float | None = None
    """seconds of measuring when the planned launches were finished"""
    stopped: str | None = None
    """why no more launches follow, where some would have been of use"""
    damaged: tuple[str, ...] = ()
    """raw files that could not be read when the sweep was resumed"""

    @classmethod
    def from_json(cls, data: JsonObject, path: object = "run.json") -> "RunInfo":
        """What a run.json says. Raises UserError where it is no run's."""
        missing = [name for name in NEEDED if name not in data]
        if missing:
            raise UserError(f"{path} is not a run's (it lacks {', '.join(missing)}); give a folder that a sweep wrote")
        return cls(
            command=data["command"],
            requested=data.get("requested") or data.get("asked") or {},
            plan=Plan.from_json(data["plan"]),
            description=Description.from_json(data),
            started_at=data["started_at"],
            protocol=data["protocol"],
            finished_at=data.get("finished_at"),
            wall_s=data.get("wall_s", 0.0),
            calibrations={name: Calibration.from_json(each) for name, each in data.get("calibrations", {}).items()},
            calibration_note=data.get("calibration_note"),
        )

    def to_json(self) -> JsonObject:
        """What run.json holds: nothing that is learned after the start."""
        return {
            "protocol": self.protocol,
            "command": self.command,
            "requested": dict(self.requested),
            "started_at": self.started_at,
            "plan": asdict(self.plan),
            **asdict(self.description),
        }

    @property
    def hardware(self) -> str:
        """The name of the GPU that was measured, or of the CPU."""
        identity = self.description.identity
        kind, _, index = self.description.device.partition(":")
        gpus = identity.get("gpus") or []
        return gpus[int(index or 0)] if kind == "cuda" and len(gpus) > int(index or 0) else identity.get("cpu") or ""

    @property
    def machine(self) -> Machine:
        """What predictions rest on."""
        return Machine.of(self.description.models, self.calibrations, self.hardware)

    @property
    def notes(self) -> list[str]:
        """Why launches or predictions are missing, where they are."""
        known = {
            "no further launches": self.stopped,
            "no predictions": self.calibration_note,
            "could not be read and were set aside": ", ".join(dict.fromkeys(self.damaged)),
        }
        return [f"{what}: {why}" for what, why in known.items() if why]

    def after(self, lines: Iterable[str]) -> "RunInfo":
        """With what the lines of a journal say. A line that is not whole says nothing: the process that wrote it was killed."""
        info = self
        for line in lines:
            if (event := event_in(line)) is not None:
                info = info.with_event(**event)
        return info

    def with_event(self, event: str, **facts: Any) -> "RunInfo":
        """With one event of the journal."""
        if event == "time":
            return replace(self, wall_s=self.wall_s + facts["wall_s"])
        if event == "finished":
            return replace(self, finished_at=facts["at"])
        if event == "calibration":
            return replace(self, calibrations={**self.calibrations, facts["setting"]: Calibration.from_json(facts)})
        if event == "drift_check":
            if facts["setting"] not in self.calibrations:  # the line with the calibration was damaged
                return self
            checked = self.calibrations[facts["setting"]].checked(DriftCheck.from_json(facts))
            return replace(self, calibrations={**self.calibrations, facts["setting"]: checked})
        if event == "no_calibration":
            return replace(self, calibration_note=facts["reason"])
        if event == "planned":
            return replace(self, planned_s=facts["wall_s"])
        if event == "stopped":
            return replace(self, stopped=facts["reason"])
        if event == "set_aside":
            return replace(self, damaged=(*self.damaged, facts["file"]))
        return self


def event_in(line: str) -> JsonObject | None:
    """The event of a line of a journal; None for a line that is not whole."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


def time_event(wall_s: float) -> JsonObject:
    """So many more seconds of measuring."""
    return {"event": "time", "wall_s": wall_s}


def planned_event(wall_s: float) -> JsonObject:
    """The planned launches are finished, after so many seconds of measuring."""
    return {"event": "planned", "wall_s": wall_s}


def stopped_event(reason: str | None) -> JsonObject:
    """No launch follows, and why not where one would have been of use."""
    return {"event": "stopped", "reason": reason}


def set_aside_event(file: str) -> JsonObject:
    """A raw file could not be read and was renamed, so that its trial counts as missing."""
    return {"event": "set_aside", "file": file}


def finished_event(at: str) -> JsonObject:
    """The sweep ended."""
    return {"event": "finished", "at": at}


def calibration_event(setting: str, calibration: Calibration) -> JsonObject:
    """A full calibration that the run uses."""
    return {"event": "calibration", "setting": setting, **calibration.to_json()}


def drift_check_event(setting: str, check: DriftCheck) -> JsonObject:
    """The brief calibrations around a trial."""
    return {"event": "drift_check", "setting": setting, **check.to_json()}


def no_calibration_event(reason: str) -> JsonObject:
    """Nothing can be predicted, and why."""
    return {"event": "no_calibration", "reason": reason}
