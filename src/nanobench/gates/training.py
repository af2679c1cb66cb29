"""The correctness gate of training: compares a few steps of an arm with a reference loop in float64.

The reference loop is in this file: logits of the whole batch, cross entropy over the positions that contribute to the loss,
gradient clipping, an optimizer step without fusion. Both start from the same weights and take the same batches. Three results
must agree: the loss of every step, the gradients of the first step, and the change of the weights over all steps.
A timed repetition is replayed in the same way, from the weights and the optimizer state before it; its loss and the change of
its weights must agree.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench import registry
from nanobench.models.base import Adapter
from nanobench.probes import memory
from nanobench.records import Gate, Verdict
from nanobench.schema import Point
from nanobench.training.data import IGNORED, Batch, Step
from nanobench.training.parameters import trainable
from nanobench.training.trainer import CLIP, Trainer, autocast

STEPS = 3
ROWS = 4
"""Rows that the reference loop computes at once: float64 needs twice the memory."""
CHUNK = 1 << 20
"""Values that are compared at once."""
TOLERANCES = {"loss": 1e-5, "gradients": 1e-4, "weights": 1e-2}
"""Tolerances in float32. The one of the weights is the largest: for a gradient near zero, AdamW takes a full step of either
sign.
"""
SLACK = 4
"""Tolerance in a narrower dtype, as a multiple of the reference loop's own error in that dtype; at least TOLERANCES."""


REPLAY_TOLERANCES = {"loss": 1e-4, "weights": 5e-2}
"""Tolerances of a replay in float32, where the reference has rounding errors of its own."""


@dataclass(frozen=True)
class Recording:
    """The state of an arm around one timed repetition, on the host."""

    numbers: list[int]
    """of its optimizer steps"""
    loss: float
    """of the last step, over all ranks"""
    before: Tensor
    """all weights in one vector"""
    after: Tensor
    optimizer: dict[str, Any]
    """state of the optimizer before the repetition: the part `state` of its state_dict"""


@dataclass(frozen=True)
class Trajectory:
    """The results of a few optimizer steps."""

    losses: list[float]
    gradients: Tensor
    """of the first step, clipped, all parameters in one vector"""
    weight_change: Tensor
    """weights after the last step minus weights before the first, all parameters in one vector"""

    def on_disk(self) -> "Trajectory":
        """A copy whose vectors are in files, outside the private memory of the process."""
        return Trajectory(self.losses, memory.on_disk(self.gradients), memory.on_disk(self.weight_change))

    def relative_errors(self, reference: "Trajectory") -> dict[str, float]:
        """Relative errors compared with a reference: the largest of the losses, and those of both vectors."""
        losses = [abs(loss - true) / abs(true) for loss, true in zip(self.losses, reference.losses, strict=True)]
        return {
            "loss": max(losses),
            "gradients": relative_error(self.gradients, reference.gradients),
            "weights": relative_error(self.weight_change, reference.weight_change),
        }


def relative_error(vector: Tensor, reference: Tensor) -> float:
    """L2 norm of the difference over the L2 norm of the reference; infinite if a value is not finite.

    In chunks: float64 copies of whole vectors would need more memory than a step.
    """
    error = norm = torch.zeros((), dtype=torch.float64)
    for chunk, true in zip(vector.split(CHUNK), reference.split(CHUNK), strict=True):
        error = error + (chunk.double() - true.double()).square().sum()
        norm = norm + true.double().square().sum()
    ratio = float((error / norm).sqrt())
    return ratio if ratio == ratio else float("inf")


def flatten(tensors: Sequence[Tensor | None]) -> Tensor:
    """A copy of all values in one float32 vector on the host."""
    return torch.cat([tensor.detach().flatten().to("cpu", torch.float32) for tensor in tensors if tensor is not None])


def reference_loop(
    adapter: Adapter, steps: Sequence[Step], point: Point, dtype: str, start: Recording | None = None
) -> Trajectory:
    """The steps of the reference loop over a copy of the model, in a dtype; under autocast if it is narrower than float32.

    They start from the weights of the model and an empty optimizer state, or from the state before a recorded repetition.
    """
    model = copy.deepcopy(adapter)
    narrow = dtype in ("bfloat16", "float16")
    model.module.to(torch.float32 if narrow else getattr(torch, dtype))
    parameters = trainable(model)
    optimizer = registry.find("optimizers", point.optimizer)(parameters, fused=False)
    if start is not None:
        # A copy: the parameters become views of the vector.
        nn.utils.vector_to_parameters(start.before.to(parameters[0], copy=True), parameters)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": start.optimizer})
    before, losses, gradients = flatten(parameters), [], None
    for step in steps:
        useful = sum(int((batch.targets_BT != IGNORED).sum()) for batch in step.batches)
        total = 0.0
        for tokens_BT, targets_BT in split_rows(step.batches):
            useful_BT = targets_BT != IGNORED
            with autocast(tokens_BT.device.type, dtype if narrow else "float32"):
                logits_KV = model.forward(tokens_BT)[useful_BT]
            wide = torch.promote_types(logits_KV.dtype, torch.float32)
            loss = F.cross_entropy(logits_KV.to(wide), targets_BT[useful_BT], reduction="sum") / useful
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        gradients = flatten([each.grad for each in parameters]) if gradients is None else gradients
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    assert gradients is not None
    return Trajectory(losses, gradients, flatten(parameters).sub_(before))


def split_rows(batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and targets of all batches, ROWS rows at a time."""
    for batch in batches:
        yield from zip(batch.tokens_BT.split(ROWS), batch.targets_BT.split(ROWS), strict=True)


def run_steps(trainer: Trainer, steps: Sequence[Step], start: Adapter) -> Trajectory:
    """The steps of a trainer, from the weights of `start`."""
    trainer.reset(start)
    gradients: list[Tensor] = []
    hook = trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(flatten([each.grad for each in trainer.parameters])) if not gradients else None
    )
    losses = [sum(trainer.world.all_gather(trainer.step(step).item())) for step in steps]
    hook.remove()
    change = flatten(trainer.parameters)
    sizes = [parameter.numel() for parameter in trainer.parameters]
    for part, initial in zip(change.split(sizes), start.module.parameters(), strict=True):
        part -= initial.detach().flatten().to(part)
    return Trajectory(losses, gradients[0] if gradients else torch.full_like(change, float("nan")), change)


@dataclass(frozen=True)
class Expected:
    """The reference loop's trajectory in float64, and the tolerances of an arm's relative errors."""

    trajectory: Trajectory
    tolerances: dict[str, float]


def expect(adapter: Adapter, steps: Sequence[Step], point: Point) -> Expected:
    """The expected results of a point; `steps` have the batches of all ranks."""
    reference = reference_loop(adapter, steps, point, "float64").on_disk()
    if point.dtype == "float32" and not optimizer_rounds(point.optimizer):
        return Expected(reference, TOLERANCES)
    errors = reference_loop(adapter, steps, point, point.dtype).relative_errors(reference)
    return Expected(reference, {name: max(SLACK * errors[name], minimum) for name, minimum in TOLERANCES.items()})


def optimizer_rounds(name: str) -> bool:
    """Whether an optimizer says that its steps are rounded more coarsely than the weights."""
    some = [nn.Parameter(torch.zeros(2, 2))]
    return bool(getattr(registry.find("optimizers", name)(some, fused=False), "rounds", False))


def judge(trajectory: Trajectory, expected: Expected) -> Gate:
    """The verdict on an arm's trajectory: `exact` within the tolerances, else `wrong` with the first error above one."""
    errors = trajectory.relative_errors(expected.trajectory)
    for name, error in errors.items():
        if not error <= expected.tolerances[name]:
            note = f"{name} off by {error:.2g} relative to the reference loop over {len(trajectory.losses)} steps"
            return Gate(Verdict.WRONG, note, error, expected.tolerances[name])
    within = ", ".join(f"{name} within {error:.1g}" for name, error in errors.items())
    note = f"{len(trajectory.losses)} steps match the reference loop: {within}"
    return Gate(Verdict.EXACT, note, errors["gradients"], expected.tolerances["gradients"])


def judge_replay(adapter: Adapter, steps: Sequence[Step], point: Point, recording: Recording) -> str | None:
    """What is wrong with a timed repetition, or None: its steps are taken again by the reference loop from the same state."""
    reference = reference_loop(adapter, steps, point, "float32", recording)
    tolerances = REPLAY_TOLERANCES
    if point.dtype != "float32" or optimizer_rounds(point.optimizer):
        other = "float64" if point.dtype == "float32" else point.dtype
        own = reference_loop(adapter, steps, point, other, recording).relative_errors(reference)
        tolerances = {name: max(SLACK * own[name], minimum) for name, minimum in REPLAY_TOLERANCES.items()}
    loss_error = abs(recording.loss - reference.losses[-1]) / abs(reference.losses[-1])
    errors = {"loss": loss_error, "weights": relative_error(recording.after - recording.before, reference.weight_change)}
    for name, error in errors.items():
        if not error <= tolerances[name]:
            limit = f"tolerance {tolerances[name]:.2g}"
            return f"{name} of a timed repetition off by {error:.2g} relative to its replay by the reference loop ({limit})"
    return None
