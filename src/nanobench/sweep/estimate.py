"""How long a launch of a point will take, from a rough matmul rate."""

import math

from nanobench.records import Description
from nanobench.roofline.flops import rough_flops
from nanobench.schema import Arm, Plan, Point

START_S = 0.5
LEAST_TOKEN_S = 0.002
"""A generated token never takes less than this."""


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
    if arm.engine.startswith("cached"):
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
