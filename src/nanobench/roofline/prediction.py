"""How long a point should take, from a model's costs and a machine's measured limits, and what bounds it.

A roofline (Williams et al. 2009) per kind of work: each is as fast as the calibration saw it at that many rows. On a CPU a
call returns when its work is done, so dispatch and work add up; a GPU works while its host goes on, and in each pass the
slower of the two decides. Nothing here is fitted to a measured cell.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nanobench.roofline import flops
from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limits
from nanobench.schema import DTYPE_BYTES, GPTShape, Point

ROWS_FACTOR = 4
"""Rows are multiplied by so much to see whether a product waits for its weights: then more rows come almost free."""


@dataclass(frozen=True)
class Time:
    """Predicted seconds, by what they are spent on."""

    host_s: float = 0.0
    """dispatching operations, one by one"""
    bandwidth_s: float = 0.0
    """moving bytes"""
    compute_s: float = 0.0
    """multiplying"""

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.host_s + self.bandwidth_s + self.compute_s

    @property
    def bound_by(self) -> str:
        """host, bandwidth or compute: whichever takes most."""
        parts = {"host": self.host_s, "bandwidth": self.bandwidth_s, "compute": self.compute_s}
        return max(parts, key=lambda name: parts[name])

    def __add__(self, other: "Time") -> "Time":
        return Time(self.host_s + other.host_s, self.bandwidth_s + other.bandwidth_s, self.compute_s + other.compute_s)


@dataclass(frozen=True)
class Operations:
    """Operations that the host dispatches, as the profiler counted them."""

    prefill: float
    step: float


@dataclass(frozen=True)
class Prediction:
    """How long one call should take."""

    prefill: Time
    decode: Time
    """all steps behind the prefill together"""
    steps: int
    host_floor_s: float
    """a step's operations, dispatched one by one"""

    @property
    def call(self) -> Time:
        """From the start to the last token."""
        return self.prefill + self.decode

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds of a step; None for a call without steps."""
        return self.decode.total_s / self.steps if self.steps else None


def predict(shape: GPTShape, point: Point, kv_access: str, limits: Limits, operations: Operations) -> Prediction:
    """A call of a point along one of `costs.PATHS`. Raises KeyError for a path that is not there."""
    first, *others = flops.KV_ACCESS[kv_access](point)
    overlaps = point.device != "cpu"
    prefill = pass_time(shape, point.dtype, first, limits, operations.prefill, overlaps)
    times = {each: pass_time(shape, point.dtype, each, limits, operations.step, overlaps) for each in set(others)}
    floor_s = operations.step * operation_s(shape, point.dtype, limits)
    return Prediction(prefill, total(times[each] for each in others), len(others), floor_s)


def total(times: Iterable[Time]) -> Time:
    """Their sum."""
    return sum(times, Time())


def operation_s(shape: GPTShape, dtype: str, limits: Limits) -> float:
    """Seconds of the host per operation of a pass over the model's weights."""
    return limits.at("operation", set_bytes=shape.read_params * DTYPE_BYTES[dtype])


def pass_time(shape: GPTShape, dtype: str, one: Pass, limits: Limits, operations: float, overlaps: bool) -> Time:
    """One forward pass."""
    host = Time(host_s=operations * operation_s(shape, dtype, limits))
    device = device_time(shape, dtype, one, limits)
    if not overlaps:
        return host + device
    return host if host.total_s > device.total_s else device


def device_time(shape: GPTShape, dtype: str, one: Pass, limits: Limits) -> Time:
    """The work of a pass, each kind at the rate measured for as many rows and operands as large."""
    cost, rows = flops.cost(shape, dtype, one), one.rows * one.tokens
    head_flops = 2.0 * one.rows * one.logits_positions * shape.head_params
    head_bytes = float(shape.head_params * DTYPE_BYTES[dtype])
    matrix, seen = flops.matrix_bytes(shape, dtype), flops.attended_kv_bytes(shape, dtype, one)
    block_bytes = cost.weight_bytes - head_bytes
    return total(
        (
            matmul_time(limits, "matmul", cost.matmul_flops - head_flops, block_bytes, rows, matrix),
            matmul_time(limits, "head", head_flops, head_bytes, one.rows * one.logits_positions, head_bytes),
            matmul_time(limits, "attention", cost.attention_flops, cost.kv_bytes, one.tokens, seen),
            Time(bandwidth_s=cache_copy_bytes(one, shape, dtype) / limits.at("copy")),
            Time(bandwidth_s=cost.elementwise_bytes / limits.at("elementwise", rows, matrix)),
            Time(bandwidth_s=cost.logits_bytes / limits.at("pick")),
        )
    )


def matmul_time(limits: Limits, kind: str, flops: float, moved_bytes: float, rows: int, set_bytes: float) -> Time:
    """The time of products at the rate measured for so many rows. It is bandwidth's where the bytes alone would take longer,
    at the best rate seen, than the operations at theirs; or where ROWS_FACTOR the rows take less than half as much longer.
    """
    rate = limits.at(kind, rows, set_bytes)
    seconds = flops / rate
    rows_come_free = limits.at(kind, ROWS_FACTOR * rows, set_bytes) > rate * ROWS_FACTOR / 2
    moves = rows_come_free or moved_bytes / limits.at("read") > flops / limits.best("matmul")
    return Time(bandwidth_s=seconds) if moves else Time(compute_s=seconds)


def cache_copy_bytes(one: Pass, shape: GPTShape, dtype: str) -> float:
    """Bytes read and written to move a cache that grows by a copy; 0 for one that stays in place."""
    moved = one.kv_written - one.tokens
    return 2.0 * one.rows * moved * shape.kv_bytes_per_token(dtype) if moved > 0 else 0.0
