"""What predictions need besides the cells: the sizes of the models, the measured limits of the machine, and its datasheet."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from nanobench.records import JsonObject
from nanobench.roofline import datasheet
from nanobench.roofline.datasheet import Datasheet
from nanobench.roofline.limits import Limits
from nanobench.schema import GPTShape, Point

FLOAT_WORDS = 3
"""Words in the name of a setting with float weights."""


@dataclass(frozen=True, order=True)
class Setting:
    """What a calibration holds for."""

    device: str
    dtype: str
    threads: int
    weights: str = "float"

    @classmethod
    def of(cls, point: Point, weights: str = "float") -> "Setting":
        """That of a point with such weights."""
        return cls(point.device, point.dtype, point.threads, weights)

    @property
    def name(self) -> str:
        """How files and messages name it."""
        return " ".join([self.device, self.dtype, str(self.threads), *([self.weights] if self.weights != "float" else [])])


@dataclass(frozen=True)
class DriftCheck:
    """The brief calibrations before and after one trial: how the machine moved since the full one."""

    point: Point
    before: Limits
    after: Limits

    @classmethod
    def from_json(cls, data: JsonObject) -> "DriftCheck":
        """The check whose `to_json` this is."""
        return cls(Point(**data["point"]), Limits.from_json(data["before"]), Limits.from_json(data["after"]))

    def to_json(self) -> JsonObject:
        """As plain values."""
        return {"point": asdict(self.point), "before": self.before.to_json(), "after": self.after.to_json()}


@dataclass(frozen=True)
class Calibration:
    """The measured limits of a machine in one setting."""

    limits: Limits
    pressure_fraction: float | None = None
    """share of the time in which tasks waited for a core meanwhile"""
    measured_at: str | None = None
    drift_checks: tuple[DriftCheck, ...] = ()

    @classmethod
    def from_json(cls, data: JsonObject) -> "Calibration":
        """The calibration whose `to_json` this is; up to protocol 4 drift checks were called looks.

        Raises AttributeError, KeyError or TypeError for what is no calibration.
        """
        checks = data.get("drift_checks") or list(data.get("looks", {}).values())
        return cls(
            Limits.from_json(data["limits"]),
            data.get("pressure_fraction"),
            data.get("measured_at"),
            tuple(DriftCheck.from_json(check) for check in checks),
        )

    def to_json(self) -> JsonObject:
        """As plain values, without drift checks."""
        return {
            "limits": self.limits.to_json(),
            "pressure_fraction": self.pressure_fraction,
            "measured_at": self.measured_at,
        }

    def checked(self, check: DriftCheck) -> "Calibration":
        """With one more drift check."""
        return replace(self, drift_checks=(*self.drift_checks, check))


@dataclass(frozen=True)
class Machine:
    """Everything that predictions rest on. Empty where a run says nothing of it."""

    shapes: Mapping[str, GPTShape] = field(default_factory=dict)
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """by the name of their setting, as they stood in the run"""
    sheet: Datasheet | None = None
    limits_at: Mapping[tuple[Point, str], Limits] = field(default_factory=dict)
    """as they stood around the trials of a point, by the kind of weights"""

    @classmethod
    def of(cls, shapes: Mapping[str, GPTShape], calibrations: Mapping[str, Calibration], hardware: str) -> "Machine":
        """From the models, the calibrations and the name of the GPU, or of the CPU, of a run."""
        limits: dict[str, Limits] = {}
        limits_at: dict[tuple[Point, str], Limits] = {}
        for name, calibration in calibrations.items():
            # Drift checks are made with float weights: they move the limits of all kinds alike.
            of_float, weights = (name, "float") if len(name.split()) == FLOAT_WORDS else name.rsplit(" ", 1)
            drift_checks = calibrations.get(of_float, calibration).drift_checks
            limits[name] = moved(calibration.limits, drift_checks)
            at: dict[Point, list[DriftCheck]] = defaultdict(list)
            for check in drift_checks:
                at[check.point].append(check)
            limits_at |= {(point, weights): moved(calibration.limits, checks) for point, checks in at.items()}
        return cls(shapes, limits, datasheet.find(hardware), limits_at)

    def limits_of(self, point: Point, weights: str = "float") -> Limits | None:
        """The limits that hold for a point with such weights; None where none were measured."""
        return self.limits_at.get((point, weights)) or self.limits_of_run(point, weights)

    def limits_of_run(self, point: Point, weights: str = "float") -> Limits | None:
        """As they stood over the whole run; None where none were measured."""
        return self.limits.get(Setting.of(point, weights).name)


def moved(limits: Limits, checks: Iterable[DriftCheck]) -> Limits:
    """Limits as drift checks saw them later."""
    return limits.moved([limits for check in checks for limits in (check.before, check.after)])
