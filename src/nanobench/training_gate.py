"""The correctness gate of training: no arm is timed until a few of its steps were shown to do what a plain loop does.

The plain loop is written out here: logits of the whole batch, cross entropy over the positions that carry loss and no other,
clip, an optimizer step without fusion; in float64. From the same weights both take the same batches, and then must agree in
three things: the loss of every step, the first step's gradients, and how far all steps moved the weights.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench import lookup
from nanobench.batches import IGNORED, Batch
from nanobench.models.base import Adapter
from nanobench.record import Gate, Verdict
from nanobench.trainer import CLIP, Recipe, Trainer

STEPS = 3
SLACK = 4
"""Tolerance: so many times the plain loop's own error in the arm's dtype."""
FLOOR = {
    "float32": {"loss": 1e-5, "gradients": 1e-4, "weights": 1e-2},
    "bfloat16": {"loss": 1e-2, "gradients": 5e-2, "weights": 2e-1},
    "float16": {"loss": 2e-3, "gradients": 1e-2, "weights": 1e-1},
}
"""Least tolerances. Weights are the widest: AdamW turns a gradient near zero into a whole step of either sign."""


@dataclass(frozen=True)
class Course:
    """What a few steps did."""

    losses: list[float]
    gradients: Tensor
    """of the first step, clipped, all in one vector"""
    moved: Tensor
    """weights behind the last step less those before the first, all in one vector"""

    def off(self, wide: "Course") -> dict[str, float]:
        """Relative errors against another course."""
        losses = [abs(loss - right) / abs(right) for loss, right in zip(self.losses, wide.losses, strict=True)]
        return {
            "loss": max(losses),
            "gradients": distance(self.gradients, wide.gradients),
            "weights": distance(self.moved, wide.moved),
        }


def distance(vector: Tensor, right: Tensor) -> float:
    """Length of the difference over the length of the right one; infinite where either is not finite."""
    off = float((vector.double() - right.double()).norm() / right.double().norm())
    return off if off == off else float("inf")


def joined(tensors: Sequence[Tensor | None]) -> Tensor:
    """All values in one vector, a copy."""
    return torch.cat([tensor.detach().flatten().clone() for tensor in tensors if tensor is not None])


def plain(adapter: Adapter, batches: Sequence[Batch], recipe: Recipe, dtype: torch.dtype) -> Course:
    """The steps of a plain loop over a copy of the model, in a dtype or, where it is narrower than float32, under autocast."""
    model = copy.deepcopy(adapter)
    narrow = dtype in (torch.bfloat16, torch.float16)
    model.module.to(torch.float32 if narrow else dtype).train().requires_grad_(True)
    parameters = list(model.module.parameters())
    optimizer = lookup.find("optimizers", recipe.optimizer)(parameters, fused=False)
    before, losses, gradients = joined(parameters), [], None
    for batch in batches:
        kept_BT = batch.targets_BT != IGNORED
        with torch.autocast(batch.tokens_BT.device.type, dtype=dtype if narrow else torch.bfloat16, enabled=narrow):
            logits_BTV = model.forward(batch.tokens_BT)
            loss = F.cross_entropy(logits_BTV[kept_BT].to(torch.promote_types(dtype, torch.float32)), batch.targets_BT[kept_BT])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        gradients = joined([each.grad for each in parameters]) if gradients is None else gradients
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert gradients is not None
    return Course(losses, gradients, joined(parameters) - before)


def taken(trainer: Trainer, batches: Sequence[Batch]) -> Course:
    """The steps of a trainer. Afterwards its weights are what they were, and its optimizer has seen nothing."""
    seen: list[Tensor] = []
    hook = trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(joined([each.grad for each in trainer.parameters])) if not seen else None
    )
    before = [each.detach().clone() for each in trainer.parameters]
    losses = [trainer.step(batch).item() for batch in batches]
    hook.remove()
    moved = joined(trainer.parameters) - joined(before)
    with torch.no_grad():
        for each, old in zip(trainer.parameters, before, strict=True):
            each.copy_(old)
    trainer.optimizer.state.clear()
    return Course(losses, seen[0] if seen else torch.full_like(moved, float("nan")), moved)


@dataclass(frozen=True)
class Expected:
    """The plain loop's course in float64, and how far another may be from it."""

    course: Course
    tolerances: dict[str, float]


def expect(adapter: Adapter, batches: Sequence[Batch], recipe: Recipe) -> Expected:
    """What every arm of a point is held against."""
    wide = plain(adapter, batches, recipe, torch.float64)
    own = plain(adapter, batches, recipe, getattr(torch, recipe.dtype)).off(wide)
    return Expected(wide, {name: max(SLACK * own[name], floor) for name, floor in FLOOR[recipe.dtype].items()})


def judge(trainer: Trainer, batches: Sequence[Batch], expected: Expected) -> Gate:
    """The verdict on one arm: exact within tolerance, or wrong with the first thing that is off."""
    off = taken(trainer, batches).off(expected.course)
    for name, error in off.items():
        if not error <= expected.tolerances[name]:
            note = f"{name} off by {error:.2g} of the plain loop's over {len(batches)} steps"
            return Gate(Verdict.WRONG, note, error, expected.tolerances[name])
    told = ", ".join(f"{name} within {error:.1g}" for name, error in off.items())
    note = f"{len(batches)} steps as a plain loop's: {told}"
    return Gate(Verdict.EXACT, note, off["gradients"], expected.tolerances["gradients"])
