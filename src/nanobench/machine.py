"""What is known of a run besides its rows: the sizes of its models, what its machine reached, and what its maker promises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanobench import datasheet
from nanobench.datasheet import Sheet
from nanobench.limits import Limits
from nanobench.schema import GPTShape


@dataclass(frozen=True)
class Machine:
    """Everything that predictions rest on. Empty where a run says nothing of it."""

    shapes: Mapping[str, GPTShape] = field(default_factory=dict)
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """by `setting`"""
    sheet: Sheet | None = None

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Machine":
        """From a run's `run.json`, or from the description that a plan was made from."""
        shapes = {name: GPTShape(**shape) for name, shape in about.get("models", {}).items()}
        limits = {name: Limits.today(found) for name, found in about.get("calibrations", {}).items()}
        return cls(shapes, limits, datasheet.find(hardware(about)))


def setting(device: str, dtype: str, threads: int) -> str:
    """What a calibration holds for."""
    return f"{device} {dtype} {threads}"


def hardware(about: Mapping[str, Any]) -> str:
    """The name of the GPU that was measured, or of the CPU."""
    identity, device = about.get("identity", {}), about.get("device", "cpu")
    kind, _, index = device.partition(":")
    gpus = identity.get("gpus") or []
    return gpus[int(index or 0)] if kind == "cuda" and len(gpus) > int(index or 0) else identity.get("cpu") or ""
