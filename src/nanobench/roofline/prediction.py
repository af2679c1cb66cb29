"""The predicted time of a point and what bounds it, from a model's costs and a machine's measured limits.

A roofline (Williams et al. 2009, "Roofline: An Insightful Visual Performance Model") per kind of work: each has the rate that
the calibration measured at that number of rows. On a CPU a call returns when its work is done, so the times of dispatch and
work add up. A GPU works in parallel with its host, and the slower of the two determines the time of each pass. Nothing here
is fitted to a measured cell.

A prediction is as uncertain as the limits that it uses: the mean of their uncertainties, each weighted with its share of the
predicted time. This is the case that all limits are wrong in the same direction, as on a machine that changes its speed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nanobench.roofline import flops
from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limits, Reading
from nanobench.schema import GPTShape, Point

ROWS_FACTOR = 4
"""The factor on rows that tests whether a matmul waits for its weights: if so, more rows take almost no more time."""


@dataclass(frozen=True)
class Time:
    """Predicted seconds, by cause."""

    host_s: float = 0.0
    """dispatch of operations by the host"""
    bandwidth_s: float = 0.0
    """memory traffic"""
    compute_s: float = 0.0
    """arithmetic"""
    uncertain_s: float = 0.0
    """by how many seconds the total may be wrong, because the limits are uncertain"""
    notes: frozenset[str] = frozenset()
    """for which unresolved limits another one stands in"""

    @property
    def total_s(self) -> float:
        """The sum of the three."""
        return self.host_s + self.bandwidth_s + self.compute_s

    @property
    def uncertainty(self) -> float:
        """The total lies between total / (1 + uncertainty) and total * (1 + uncertainty), as far as the limits decide it."""
        return self.uncertain_s / self.total_s if self.total_s else 0.0

    @property
    def parts_s(self) -> dict[str, float]:
        """What may limit a pass -> its seconds."""
        return {"host": self.host_s, "bandwidth": self.bandwidth_s, "compute": self.compute_s}

    @property
    def bound_by(self) -> str:
        """The largest of the three: 'host', 'bandwidth' or 'compute'."""
        parts_s = self.parts_s
        return max(parts_s, key=lambda name: parts_s[name])

    @property
    def bound_share(self) -> float | None:
        """The share of the largest of the three in their sum; None where nothing takes time."""
        return self.parts_s[self.bound_by] / self.total_s if self.total_s else None

    def times(self, factor: float) -> "Time":
        """So many times this time, as uncertain as one."""
        host_s, bandwidth_s, compute_s = (factor * each for each in (self.host_s, self.bandwidth_s, self.compute_s))
        return Time(host_s, bandwidth_s, compute_s, factor * self.uncertain_s, self.notes)

    def __add__(self, other: "Time") -> "Time":
        return Time(
            self.host_s + other.host_s,
            self.bandwidth_s + other.bandwidth_s,
            self.compute_s + other.compute_s,
            self.uncertain_s + other.uncertain_s,
            self.notes | other.notes,
        )

    def __rmul__(self, count: float) -> "Time":
        parts = ("host_s", "bandwidth_s", "compute_s", "uncertain_s")
        return replace(self, **{name: count * getattr(self, name) for name in parts})


@dataclass(frozen=True)
class Operations:
    """Operations dispatched by the host, as counted by the profiler, in the prefill and per step."""

    prefill: float
    step: float


@dataclass(frozen=True)
class Prediction:
    """The predicted time of one generate call."""

    prefill: Time
    decode: Time
    """all decode steps together"""
    steps: int
    host_floor_s: float
    """the minimum time of a step: dispatch of its operations"""

    @property
    def call(self) -> Time:
        """The whole call, from the start to the last token."""
        return self.prefill + self.decode

    @property
    def step(self) -> Time:
        """What binds a step is read from this: all decode steps; the prefill for a call without them."""
        return self.decode if self.steps else self.prefill

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per decode step; None for a call without decode steps."""
        return self.decode.total_s / self.steps if self.steps else None

    @property
    def uncertainty(self) -> float:
        """That of the time of a step; of the prefill for a call without decode steps."""
        return self.step.uncertainty

    @property
    def notes(self) -> list[str]:
        """For which unresolved limits another one stands in."""
        return sorted(self.call.notes)


def predict(
    shape: GPTShape, point: Point, kv_access: str, limits: Limits, operations: Operations, weights: str = "float"
) -> Prediction:
    """The prediction for a call of a point by an engine with this `kv_access` (a key of flops.KV_ACCESS). The limits are those
    of these weights.

    Raises KeyError for an unknown `kv_access`, and for limits that lack what a prediction needs (`Limits.missing`).
    """
    first, *others = flops.KV_ACCESS[kv_access](point)
    overlaps, width = point.device != "cpu", (point.dtype, weights)
    prefill = pass_time(shape, *width, first, limits, operations.prefill, overlaps)
    times = {each: pass_time(shape, *width, each, limits, operations.step, overlaps) for each in set(others)}
    floor_s = operations.step * operation_s(shape, *width, limits).value
    return Prediction(prefill, total(times[each] for each in others), len(others), floor_s)


def total(times: Iterable[Time]) -> Time:
    """The sum of times."""
    return sum(times, Time())


def by_one_limit(time: Time, limit: Reading) -> Time:
    """A time that follows from one limit, with the uncertainty of this limit."""
    notes = frozenset([limit.note] if limit.note and time.total_s else [])
    return replace(time, uncertain_s=time.total_s * limit.uncertainty, notes=notes)


def operation_s(shape: GPTShape, dtype: str, weights: str, limits: Limits) -> Reading:
    """Dispatch time per operation in seconds, in a pass that reads all weights of the model."""
    return limits.reading("operation", set_bytes=flops.read_bytes(shape, dtype, weights))


def pass_time(shape: GPTShape, dtype: str, weights: str, one: Pass, limits: Limits, operations: float, overlaps: bool) -> Time:
    """The time of one forward pass; `overlaps` if the device works in parallel with its host."""
    host = operation_time(shape, dtype, weights, limits, operations)
    device = total(device_parts(shape, dtype, weights, one, limits).values())
    return overlapped(host, device) if overlaps else host + device


def operation_time(shape: GPTShape, dtype: str, weights: str, limits: Limits, operations: float) -> Time:
    """The host's time to dispatch operations."""
    dispatch = operation_s(shape, dtype, weights, limits)
    return by_one_limit(Time(host_s=operations * dispatch.value), dispatch)


def overlapped(host: Time, device: Time) -> Time:
    """The time of a host and a device that work in parallel: that of the slower."""
    slower = host if host.total_s > device.total_s else device
    return replace(slower, notes=host.notes | device.notes)


def device_parts(shape: GPTShape, dtype: str, weights: str, one: Pass, limits: Limits) -> dict[str, Time]:
    """The device's time of a pass by kind of work, each at the rate measured for its rows and bytes."""
    cost, rows = flops.cost(shape, dtype, one, weights), one.rows * one.tokens
    head_flops = 2.0 * one.rows * one.logits_positions * shape.head_params
    head_bytes = float(flops.head_bytes(shape, dtype, weights))
    matrix_bytes, attentions = flops.matrix_bytes(shape, dtype, weights), flops.layer_attentions(shape, dtype, one)
    block_bytes = cost.weight_bytes - head_bytes
    attention = [
        matmul_time(limits, "attention", each.flops, each.kv_bytes, one.tokens, each.layer_bytes) for each in attentions
    ]
    return {
        "matmul": matmul_time(limits, "matmul", cost.matmul_flops - head_flops, block_bytes, rows, matrix_bytes),
        "lm_head": matmul_time(limits, "lm_head", head_flops, head_bytes, one.rows * one.logits_positions, head_bytes),
        "attention": total(attention),
        "copy": moving_time(flops.cache_copy_bytes(one, shape, dtype), limits.reading("copy")),
        "elementwise": moving_time(cost.elementwise_bytes, limits.reading("elementwise", rows, matrix_bytes)),
        "argmax": moving_time(cost.logits_bytes, limits.reading("argmax")),
    }


def moving_time(moved_bytes: float, rate: Reading) -> Time:
    """The time to move bytes at a rate."""
    return by_one_limit(Time(bandwidth_s=moved_bytes / rate.value), rate)


def matmul_time(limits: Limits, kind: str, flops: float, moved_bytes: float, rows: int, set_bytes: float) -> Time:
    """The time of matmuls or attention at the rate measured for this number of rows.

    It counts as bandwidth if the bytes would take longer at the best read rate than the operations at the best matmul rate, or
    if ROWS_FACTOR times the rows take less than ROWS_FACTOR / 2 times the time. Else it counts as compute.
    """
    rate = limits.reading(kind, rows, set_bytes)
    more_rows = limits.reading(kind, ROWS_FACTOR * rows, set_bytes)
    is_weight_bound = more_rows.value > rate.value * ROWS_FACTOR / 2
    read, best = limits.reading("read").value, limits.best(limits.source("matmul") or "matmul")
    is_bandwidth = is_weight_bound or moved_bytes / read > flops / best
    seconds = flops / rate.value
    return by_one_limit(Time(bandwidth_s=seconds) if is_bandwidth else Time(compute_s=seconds), rate)
