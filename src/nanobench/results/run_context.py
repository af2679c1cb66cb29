"""What is known of a run besides its rows: the sizes of its models, what its machine reached, and what its maker promises."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanobench.roofline import datasheet
from nanobench.roofline.datasheet import Datasheet
from nanobench.roofline.limits import Limits
from nanobench.schema import GPTShape, Point


@dataclass(frozen=True)
class Machine:
    """Everything that predictions rest on. Empty where a run says nothing of it."""

    shapes: Mapping[str, GPTShape] = field(default_factory=dict)
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """by `setting`, as they stood in the run"""
    sheet: Datasheet | None = None
    limits_at: Mapping[Point, Limits] = field(default_factory=dict)
    """as they stood around the trials of a point"""

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Machine":
        """From a run's `run.json`, or from the description that a plan was made from."""
        shapes = {name: GPTShape(**shape) for name, shape in about.get("models", {}).items()}
        limits: dict[str, Limits] = {}
        limits_at: dict[Point, Limits] = {}
        for name, calibration in about.get("calibrations", {}).items():
            found = Limits.from_json(calibration["limits"])
            looks = looks_by_point(calibration)
            limits[name] = found.moved([look for each in looks.values() for look in each])
            limits_at |= {point: found.moved(each) for point, each in looks.items()}
        return cls(shapes, limits, datasheet.find(hardware(about)), limits_at)

    def limits_of(self, point: Point) -> Limits | None:
        """The limits that hold for a point; None where none were measured."""
        return self.limits_at.get(point) or self.limits_of_run(point)

    def limits_of_run(self, point: Point) -> Limits | None:
        """As they stood over the whole run; None where none were measured."""
        return self.limits.get(setting(point.device, point.dtype, point.threads))


def looks_by_point(calibration: Mapping[str, Any]) -> dict[Point, list[Limits]]:
    """The brief calibrations around the trials of each point."""
    found: dict[Point, list[Limits]] = defaultdict(list)
    for looks in calibration["looks"].values():
        found[Point(**looks["point"])] += [Limits.from_json(looks[when]) for when in ("before", "after")]
    return found


def setting(device: str, dtype: str, threads: int) -> str:
    """What a calibration holds for."""
    return f"{device} {dtype} {threads}"


def hardware(about: Mapping[str, Any]) -> str:
    """The name of the GPU that was measured, or of the CPU."""
    identity, device = about.get("identity", {}), about.get("device", "cpu")
    kind, _, index = device.partition(":")
    gpus = identity.get("gpus") or []
    return gpus[int(index or 0)] if kind == "cuda" and len(gpus) > int(index or 0) else identity.get("cpu") or ""
