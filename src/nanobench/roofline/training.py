"""The predicted time of one optimizer step, from the same limits as generation.

The backward pass is twice the forward pass, as for operations (Kaplan et al. 2020, section 2.1); that of attention is 2.5
times, because it computes the scores again (Dao 2023, "FlashAttention-2", section 3.1). The loss reads and writes the logits
twice. The optimizer reads each parameter, its gradient and its state, and writes parameter and state; clipping reads the
gradients twice and writes them once. Neither communication between ranks nor the arithmetic of an optimizer is in it.
"""

from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limits
from nanobench.roofline.prediction import Time, device_parts, moving_time, operation_time, overlapped, total
from nanobench.schema import DTYPE_BYTES, Arm, GPTShape, Point

STATE = {"adamw": 2, "sgd": 0}
"""Optimizer -> the values that it keeps per parameter."""
FLOAT_BYTES = DTYPE_BYTES["float32"]
"""Of a logit of the loss, and of a parameter under autocast."""


def state_values(point: Point) -> int | None:
    """The values that a point's optimizer keeps per parameter; None for one whose work is not known."""
    return STATE.get(point.optimizer.partition(":")[0])


def why_not(point: Point, arm: Arm) -> str | None:
    """Why the steps of an arm at a point are not predicted; None where they are."""
    if arm.attention == "flex":
        return "FlexAttention is not calibrated"
    if arm.param_dtype not in ("float32", point.dtype):
        return f"{arm.param_dtype} parameters do not compute in {point.dtype}"
    if point.phase == "sft-dynamic":
        return "lengths change from step to step"
    if point.world_size > 1:
        return "communication between ranks is not predicted"
    if state_values(point) is None:
        return f"the work of the optimizer {point.optimizer} is not known"
    return None


def predict_step(shape: GPTShape, point: Point, arm: Arm, limits: Limits, operations: float) -> Time:
    """The time of one step whose host dispatches so many operations. Needs a point that `why_not` has nothing against.

    Raises KeyError for limits that lack what a prediction needs (`Limits.missing`).
    """
    device = total([*[batch_time(shape, point, arm, limits)] * point.grad_accum, update_time(shape, point, arm, limits)])
    host = operation_time(shape, point.dtype, "float", limits, operations)
    return overlapped(host, device) if point.device != "cpu" else host + device


def batch_time(shape: GPTShape, point: Point, arm: Arm, limits: Limits) -> Time:
    """The device's time of a micro-batch: forward pass, loss and backward pass."""
    one = Pass(point.batch_size, point.seq_len, point.seq_len, point.seq_len)
    parts = device_parts(shape, point.dtype, "float", one, limits)
    again = 1 if arm.checkpointing != "off" else 0
    passes = {"lm_head": 3 + (arm.cross_entropy != "full"), "attention": 3.5 + again}
    computed = [parts[kind].times(passes.get(kind, 3 + again)) for kind in parts if kind != "argmax"]
    logits = point.batch_size * point.seq_len * (shape.vocab_rows or shape.vocab_size)
    loss = moving_time(4.0 * logits * FLOAT_BYTES, limits.reading("copy"))
    return total([*computed, loss, cast_time(shape, point, arm, limits)])


def cast_time(shape: GPTShape, point: Point, arm: Arm, limits: Limits) -> Time:
    """Under autocast: weights to the narrower dtype, gradients back."""
    if point.dtype == arm.param_dtype:
        return Time()
    return moving_time(2.0 * (FLOAT_BYTES + DTYPE_BYTES[point.dtype]) * shape.read_params, limits.reading("copy"))


def update_time(shape: GPTShape, point: Point, arm: Arm, limits: Limits) -> Time:
    """The device's time of clipping and of the optimizer."""
    values = 3 + 2 * (state_values(point) or 0) + 3
    return moving_time(float(values * DTYPE_BYTES[arm.param_dtype] * shape.n_params), limits.reading("copy"))
