"""The correctness gate of training: no arm is timed until a few of its steps were shown to do what a plain loop does.

The plain loop is written out here: logits of the whole batch, cross entropy over the positions that carry loss and no other,
clip, an optimizer step without fusion; in float64. From the same weights both take the same batches, and then must agree in
three things: the loss of every step, the first step's gradients, and how far all steps moved the weights.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench import registry
from nanobench.models.base import Adapter
from nanobench.probes import memory
from nanobench.records import Gate, Verdict
from nanobench.schema import Point
from nanobench.training.data import IGNORED, Batch, Step
from nanobench.training.trainer import CLIP, Trainer, precision

STEPS = 3
ROWS = 4
"""Rows that the plain loop holds at once: float64 asks for twice the memory."""
PIECE = 1 << 20
"""Values that are compared at once."""
LEAST_OFF = {"loss": 1e-5, "gradients": 1e-4, "weights": 1e-2}
"""Tolerances in float32. Weights have the widest: AdamW turns a gradient near zero into a whole step of either sign."""
SLACK = 4
"""In a narrower dtype: so many times the plain loop's own error, or LEAST_OFF."""


@dataclass(frozen=True)
class Trajectory:
    """What a few steps did."""

    losses: list[float]
    gradients: Tensor
    """of the first step, clipped, all in one vector"""
    moved: Tensor
    """weights behind the last step less those before the first, all in one vector"""

    def on_disk(self) -> "Trajectory":
        """The same, where it takes nothing from what else runs."""
        return Trajectory(self.losses, memory.on_disk(self.gradients), memory.on_disk(self.moved))

    def off(self, wide: "Trajectory") -> dict[str, float]:
        """Relative errors against another course."""
        losses = [abs(loss - right) / abs(right) for loss, right in zip(self.losses, wide.losses, strict=True)]
        return {
            "loss": max(losses),
            "gradients": distance(self.gradients, wide.gradients),
            "weights": distance(self.moved, wide.moved),
        }


def distance(vector: Tensor, right: Tensor) -> float:
    """Length of the difference over the length of the right one; infinite where either is not finite.

    Piece by piece: float64 copies of the whole would be more than a step holds.
    """
    off = length = torch.zeros((), dtype=torch.float64)
    for piece, truth in zip(vector.split(PIECE), right.split(PIECE), strict=True):
        off = off + (piece.double() - truth.double()).square().sum()
        length = length + truth.double().square().sum()
    ratio = float((off / length).sqrt())
    return ratio if ratio == ratio else float("inf")


def joined(tensors: Sequence[Tensor | None]) -> Tensor:
    """All values in one float32 vector on the host, a copy."""
    return torch.cat([tensor.detach().flatten().to("cpu", torch.float32) for tensor in tensors if tensor is not None])


def reference_loop(adapter: Adapter, steps: Sequence[Step], point: Point, dtype: str) -> Trajectory:
    """The steps of a plain loop over a copy of the model, in a dtype or, where it is narrower than float32, under autocast."""
    model = copy.deepcopy(adapter)
    narrow = dtype in ("bfloat16", "float16")
    model.module.to(torch.float32 if narrow else getattr(torch, dtype)).train().requires_grad_(True)
    parameters = list(model.module.parameters())
    optimizer = registry.find("optimizers", point.optimizer)(parameters, fused=False)
    before, losses, gradients = joined(parameters), [], None
    for step in steps:
        useful = sum(int((batch.targets_BT != IGNORED).sum()) for batch in step.batches)
        total = 0.0
        for tokens_BT, targets_BT in few_rows(step.batches):
            kept_BT = targets_BT != IGNORED
            with precision(tokens_BT.device.type, dtype if narrow else "float32"):
                logits_KV = model.forward(tokens_BT)[kept_BT]
            wide = torch.promote_types(logits_KV.dtype, torch.float32)
            loss = F.cross_entropy(logits_KV.to(wide), targets_BT[kept_BT], reduction="sum") / useful
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        gradients = joined([each.grad for each in parameters]) if gradients is None else gradients
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    assert gradients is not None
    return Trajectory(losses, gradients, joined(parameters).sub_(before))


def few_rows(batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and targets of all batches, a few rows at a time."""
    for batch in batches:
        yield from zip(batch.tokens_BT.split(ROWS), batch.targets_BT.split(ROWS), strict=True)


def run_steps(trainer: Trainer, steps: Sequence[Step], start: Adapter) -> Trajectory:
    """The steps of a trainer from a model's weights on."""
    trainer.reset(start)
    seen: list[Tensor] = []
    hook = trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(joined([each.grad for each in trainer.parameters])) if not seen else None
    )
    losses = [sum(trainer.world.all_gather(trainer.step(step).item())) for step in steps]
    hook.remove()
    moved = joined(trainer.parameters)
    for part, first in zip(moved.split([each.numel() for each in trainer.parameters]), start.module.parameters(), strict=True):
        part -= first.detach().flatten().to(part)
    return Trajectory(losses, seen[0] if seen else torch.full_like(moved, float("nan")), moved)


@dataclass(frozen=True)
class Expected:
    """The plain loop's course in float64, and how far another may be from it."""

    trajectory: Trajectory
    tolerances: dict[str, float]


def expect(adapter: Adapter, steps: Sequence[Step], point: Point) -> Expected:
    """What every arm of a point is held against; `steps` are whole, of all ranks."""
    wide = reference_loop(adapter, steps, point, "float64").on_disk()
    if point.dtype == "float32":
        return Expected(wide, LEAST_OFF)
    own = reference_loop(adapter, steps, point, point.dtype).off(wide)
    return Expected(wide, {name: max(SLACK * own[name], least) for name, least in LEAST_OFF.items()})


def judge(trajectory: Trajectory, expected: Expected) -> Gate:
    """The verdict on one arm's course: exact within tolerance, or wrong with the first thing that is off."""
    off = trajectory.off(expected.trajectory)
    for name, error in off.items():
        if not error <= expected.tolerances[name]:
            note = f"{name} off by {error:.2g} of the plain loop's over {len(trajectory.losses)} steps"
            return Gate(Verdict.WRONG, note, error, expected.tolerances[name])
    told = ", ".join(f"{name} within {error:.1g}" for name, error in off.items())
    note = f"{len(trajectory.losses)} steps as a plain loop's: {told}"
    return Gate(Verdict.EXACT, note, off["gradients"], expected.tolerances["gradients"])
