"""How large a plan is, counted before it is expanded; and how long it will take, from a rough matmul rate."""

import math
from dataclasses import fields

from nanobench.errors import UserError
from nanobench.records import Description
from nanobench.roofline.flops import rough_flops
from nanobench.schema import Arm, Plan, Point
from nanobench.sweep.axes import Axes, count_engines

UNCONFIRMED, MOST = 1_000, 100_000
"""Cells, and trials, of a plan: so many need no --yes; more than so many are refused."""
UNCONFIRMED_HOURS = 24
ROUND_START_S = 3.0
"""The import of torch, once per round."""
START_S = 0.5
LEAST_TOKEN_S = 0.002
"""A generated token never takes less than this."""


def refuse_large(axes: Axes, launches: int, confirmed: bool) -> None:
    """Raises UserError for a plan with too many cells or trials. It only multiplies numbers of values: no point is made."""
    points, arms = combinations(axes, Point) * len(axes.get("window", [""])), combinations(axes, Arm)
    if "engine" in axes:
        arms = arms // len(axes["engine"]) * count_engines(axes)
    for what, factor, unit in (("cells", arms, "arms"), ("trials", launches, "launches")):
        size, limit = points * factor, MOST if confirmed else UNCONFIRMED
        if size > limit:
            fix = "" if size > MOST else ", or confirm the plan with --yes"
            counted = f"{points:,} points x {factor:,} {unit} = {size:,} {what}"
            raise UserError(f"{counted} are more than {limit:,}; give fewer values or launches{fix}")


def combinations(axes: Axes, kind: type) -> int:
    """How many points, or arms, the axes have, if no two values mean the same."""
    return math.prod(len(axes[field.name]) for field in fields(kind) if field.name in axes)


def refuse_long(total_s: float, confirmed: bool) -> None:
    """Raises UserError for a plan that would take more than a day."""
    hours = total_s / 3600
    if hours > UNCONFIRMED_HOURS and not confirmed:
        fix = "give fewer or smaller values or fewer launches, or confirm the plan with --yes"
        raise UserError(f"this plan takes about {hours:,.0f} hours, more than {UNCONFIRMED_HOURS}; {fix}")


def expected_total_s(plan: Plan, description: Description) -> float:
    """The approximate duration of a whole sweep: an import per round, and every launch of every point."""
    first, later = (sum(expected_s(plan, point, launch, description) for point in plan.points) for launch in (1, 2))
    return plan.launches * ROUND_START_S + first + (plan.launches - 1) * later


def expected_s(plan: Plan, point: Point, launch: int, description: Description) -> float:
    """The approximate duration of one launch of a point. The first launch also passes the gates."""
    shape = description.models[point.model]
    rate = (description.matmul_flops_per_s or math.inf) / 2
    if point.trains:
        return expected_training_s(plan, point, launch, rough_flops(point, shape) / rate)
    pass_s = 2 * shape.n_params * point.batch_size / rate
    round_s = sum(max(pass_s * positions_read(point, arm), LEAST_TOKEN_S * point.new_tokens) for arm in plan.arms)
    compile_s = compiled_arms(plan) * (30.0 if launch == 1 else 10.0)
    gates_s = 2 * round_s if launch == 1 else 0.0
    return START_S + compile_s + round_s + timed_s(plan, round_s) + gates_s


def positions_read(point: Point, arm: Arm) -> float:
    """Positions per row that an arm's forward passes process in one call."""
    if arm.engine.startswith(("cached", "speculative")):
        return point.total_len
    return point.new_tokens * (point.prompt_len + point.new_tokens / 2)


def compiled_arms(plan: Plan) -> int:
    """How many arms are compiled."""
    return sum(arm.compile_mode != "off" for arm in plan.arms)


def timed_s(plan: Plan, round_s: float) -> float:
    """Seconds of timed repetitions, where one repetition of all arms takes `round_s`."""
    return 0.0 if plan.gate_only else max(round_s, min(plan.max_seconds, 10 * round_s))


def expected_training_s(plan: Plan, point: Point, launch: int, step_s: float) -> float:
    """The same for training. The gates of the first launch run a reference loop, also in float64, and each arm."""
    steps, arms = 1 if point.phase == "pretrain" else 4, len(plan.arms)
    compile_s = compiled_arms(plan) * (25.0 if launch == 1 else 8.0)
    gates_s = (12 + 6 * arms) * step_s if launch == 1 else 0.0
    round_s = arms * steps * step_s
    return START_S + compile_s + gates_s + round_s + max(round_s, min(plan.max_seconds, 10 * round_s))
