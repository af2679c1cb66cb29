"""The correctness gate of training: compares a few steps of an arm with a reference loop in float64.

The reference loop is in this file: logits of the whole batch, cross entropy over the positions that contribute to the loss,
gradient clipping, an optimizer step without fusion. Both start from the same weights and take the same batches. Three results
must agree: the loss of every step, the gradients of the first step, and the change of the weights over all steps.
A timed repetition is replayed in the same way, from the weights and the optimizer state before it; its loss and the change of
its weights must agree.
For an arm with narrower parameters the loop rounds weights and optimizer state to their dtype after each step, and computes in
the wide one. Such an arm is `lossy`: its note says how far it is from float32 parameters.
"""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
NARROW_TOLERANCES = {"loss": 2e-3, "gradients": 2e-2, "weights": 5e-2}
"""The least tolerances with bfloat16 parameters: two losses may agree by chance to more digits than a bfloat16 pass has."""
MOST_WEIGHTS_TOLERANCE = 0.5
"""Unless the reference loop's own error is near it."""
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
    adapter: Adapter,
    steps: Sequence[Step],
    point: Point,
    dtype: str,
    start: Recording | None = None,
    param_dtype: str = "float32",
) -> Trajectory:
    """The steps of the reference loop over a copy of the model, in a dtype; under autocast if it is narrower than float32 and
    the parameters are not.

    They start from the weights of the model and an empty optimizer state, or from the state before a recorded repetition.
    """
    model, stored = copy.deepcopy(adapter), getattr(torch, param_dtype)
    narrow = dtype in ("bfloat16", "float16") and param_dtype == "float32"
    model.module.to(torch.float32 if narrow else getattr(torch, dtype))
    parameters = trainable(model)
    optimizer = registry.find("optimizers", point.optimizer)(parameters, fused=False)
    if start is not None:
        # Copies: parameters become views of the vector, and the optimizer changes tensors that need no cast in place.
        nn.utils.vector_to_parameters(start.before.to(parameters[0], copy=True), parameters)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": copy.deepcopy(start.optimizer)})
    narrowed = narrow_state(point.optimizer, stored)
    round_to(stored, parameters, optimizer, narrowed)
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
        round_to(stored, parameters, optimizer, narrowed)
        losses.append(total)
    assert gradients is not None
    return Trajectory(losses, gradients, flatten(parameters).sub_(before))


def narrow_state(name: str, dtype: torch.dtype) -> set[str]:
    """The parts of an optimizer's state that it keeps in the dtype of narrower parameters. Empty for float32."""
    if dtype == torch.float32:
        return set()
    some = [nn.Parameter(torch.ones(2, 2, dtype=dtype)), nn.Parameter(torch.ones(2, dtype=dtype))]
    optimizer = registry.find("optimizers", name)(some, fused=False)
    for each in some:
        each.grad = torch.ones_like(each)
    optimizer.step()
    state = [item for kept in optimizer.state.values() for item in kept.items()]
    return {name for name, value in state if isinstance(value, Tensor) and value.dtype == dtype}


def round_to(
    dtype: torch.dtype, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, narrowed: Collection[str]
) -> None:
    """Rounds weights, and the parts of the optimizer's state that are `narrowed`, to a narrower dtype, in place."""
    if dtype == torch.float32:
        return
    kept = optimizer.state.values()
    state = [value for each in kept for name, value in each.items() if name in narrowed and isinstance(value, Tensor)]
    with torch.no_grad():
        for each in (*parameters, *state):
            each.copy_(each.to(dtype))


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
    stored = trainer.parameters[0].dtype
    for part, initial in zip(change.split(sizes), start.module.parameters(), strict=True):
        part -= initial.detach().to(stored).flatten().to(part)
    return Trajectory(losses, gradients[0] if gradients else torch.full_like(change, float("nan")), change)


@dataclass(frozen=True)
class Expected:
    """The reference loop's trajectory in float64, and the tolerances of an arm's relative errors."""

    trajectory: Trajectory
    tolerances: dict[str, float]


def expect(adapter: Adapter, steps: Sequence[Step], point: Point, param_dtype: str = "float32") -> Expected:
    """The expected results of a point; `steps` have the batches of all ranks."""
    reference = reference_loop(adapter, steps, point, "float64", param_dtype=param_dtype).on_disk()
    if point.dtype == "float32" and not optimizer_rounds(point.optimizer):
        return Expected(reference, TOLERANCES)
    errors = reference_loop(adapter, steps, point, point.dtype, param_dtype=param_dtype).relative_errors(reference)
    return Expected(reference, tolerances_of(errors, TOLERANCES if param_dtype == "float32" else NARROW_TOLERANCES))


def tolerances_of(own: Mapping[str, float], least: Mapping[str, float]) -> dict[str, float]:
    """Tolerances from the reference loop's own errors in the narrower dtype.

    An arm that does not change its weights is off by 1. So the tolerance of the weights stays below that, and above the loop's
    own error.
    """
    found = {name: max(SLACK * own[name], minimum) for name, minimum in least.items()}
    most = max(MOST_WEIGHTS_TOLERANCE, min(0.9, 1.5 * own["weights"]))
    return {**found, "weights": min(found["weights"], most)}


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


def judge_lossy(gate: Gate, trajectory: Trajectory, float32: Trajectory) -> Gate:
    """`lossy` for an arm with narrower parameters that matches its own reference loop, with its distance from float32's."""
    if gate.verdict is Verdict.WRONG:
        return gate
    far = trajectory.relative_errors(float32)
    note = f"from float32 parameters: losses within {far['loss']:.2g}, change of the weights off by {far['weights']:.2g}"
    return replace(gate, verdict=Verdict.LOSSY, note=f"{note}; {gate.note}")


def judge_replay(
    adapter: Adapter, steps: Sequence[Step], point: Point, recording: Recording, param_dtype: str = "float32"
) -> str | None:
    """What is wrong with a timed repetition, or None: its steps are taken again by the reference loop from the same state."""
    reference = reference_loop(adapter, steps, point, "float32", recording, param_dtype)
    tolerances = REPLAY_TOLERANCES
    if point.dtype != "float32" or optimizer_rounds(point.optimizer):
        other = "float64" if point.dtype == "float32" else point.dtype
        own = reference_loop(adapter, steps, point, other, recording, param_dtype).relative_errors(reference)
        tolerances = tolerances_of(own, REPLAY_TOLERANCES if param_dtype == "float32" else NARROW_TOLERANCES)
    loss_error = abs(recording.loss - reference.losses[-1]) / abs(reference.losses[-1])
    errors = {"loss": loss_error, "weights": relative_error(recording.after - recording.before, reference.weight_change)}
    for name, error in errors.items():
        if not error <= tolerances[name]:
            limit = f"tolerance {tolerances[name]:.2g}"
            return f"{name} of a timed repetition off by {error:.2g} relative to its replay by the reference loop ({limit})"
    return None
