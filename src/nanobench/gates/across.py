"""The gate across the two sides of an A/B comparison: NEW, with the weights of BASE, must compute what BASE computes.

BASE leaves its weights and the results of its reference in a file. NEW takes the weights whose names and shapes it has too, and
compares the results of its own reference. Both references are in a wide dtype, so that only a change of what is computed shows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanobench.models.base import Adapter
from nanobench.records import Gate, Verdict
from nanobench.schema import Trial

SAME = {torch.float64: 1e-9, torch.float32: 3e-6}
"""Dtype of a result -> the largest relative error of results that are the same: the order of operations may differ."""
ROUNDING = {"float32": 1e-5, "bfloat16": 4e-3, "float16": 5e-4}
"""Measured dtype -> the largest relative error that its own rounding hides."""
SHOWN = 2


@dataclass(frozen=True)
class Taken:
    """What became of the weights of BASE."""

    tensors: int
    """that NEW has too"""
    missing: tuple[str, ...]
    """that NEW lacks or has in another shape, and tensors of NEW that BASE lacks"""

    def __str__(self) -> str:
        if not self.missing:
            return f"all {self.tensors} tensors of BASE's weights were taken"
        more = f" and {len(self.missing) - SHOWN} more" if len(self.missing) > SHOWN else ""
        return f"weights differ in name or shape: {', '.join(self.missing[:SHOWN])}{more}; {self.tensors} tensors were taken"


def leave(path: Path, adapter: Adapter, results: Mapping[str, Tensor]) -> None:
    """Writes the weights of BASE and the results of its reference."""
    state = {name: tensor.cpu() for name, tensor in adapter.module.state_dict().items()}
    part = path.with_suffix(".part")
    torch.save({"state": state, "results": {name: tensor.cpu() for name, tensor in results.items()}}, part)
    part.rename(path)


def take_from(trial: Trial, adapter: Adapter) -> Taken | None:
    """Gives the model of a trial the weights of BASE; None where the trial has no other side, or is BASE itself."""
    return take(Path(trial.weights_from), adapter) if trial.weights_from else None


def exchange(
    trial: Trial, adapter: Adapter, taken: Taken | None, gated: bool, results: Callable[[], Mapping[str, Tensor]]
) -> Gate | None:
    """What a side does once its reference can be computed: BASE leaves its file; NEW is judged, where it was not before."""
    if trial.weights_to and not Path(trial.weights_to).exists():
        leave(Path(trial.weights_to), adapter, results())
    return None if taken is None or gated else judge(Path(trial.weights_from), results(), trial.point.dtype, taken)


def take(path: Path, adapter: Adapter) -> Taken:
    """Gives NEW the weights of BASE whose names and shapes it has."""
    base = torch.load(path, weights_only=True, mmap=True)["state"]
    own = adapter.module.state_dict()
    common = {name: tensor for name, tensor in base.items() if name in own and own[name].shape == tensor.shape}
    adapter.module.load_state_dict(common, strict=False)
    return Taken(len(common), tuple(name for name in {**base, **own} if name not in common))


def judge(path: Path, results: Mapping[str, Tensor], dtype: str, taken: Taken) -> Gate:
    """Whether the results of NEW's reference are those of BASE's: `exact`, `rounding`, or `wrong` for different outputs."""
    base = torch.load(path, weights_only=True)["results"]
    tolerance = ROUNDING[dtype]
    errors = {}
    for name, tensor in results.items():
        if name not in base or base[name].shape != tensor.shape:
            return Gate(Verdict.WRONG, f"different outputs: {name} have another shape; {taken}", None, tolerance)
        errors[name] = relative(tensor.cpu(), base[name])
    where, worst = max(errors.items(), key=lambda pair: pair[1])
    if not worst <= tolerance:
        note = f"different outputs: {where} off by {worst:.2g} (tolerance {tolerance:.0e}); {taken}"
        return Gate(Verdict.WRONG, note, worst, tolerance)
    if all(errors[name] <= SAME.get(tensor.dtype, tolerance) for name, tensor in results.items()):
        return Gate(Verdict.EXACT, f"same outputs: {where} within {worst:.1g}; {taken}", worst, tolerance)
    return Gate(Verdict.ROUNDING, f"outputs differ by rounding: {where} within {worst:.1g}; {taken}", worst, tolerance)


def relative(values: Tensor, base: Tensor) -> float:
    """The largest difference over the largest value of BASE; infinite where a value is not finite."""
    difference = float((values.double() - base.double()).abs().max() / base.double().abs().max().clamp_min(1e-30))
    return difference if difference == difference else float("inf")
