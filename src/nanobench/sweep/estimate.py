"""How long a launch of a point will take, from a rough matmul rate."""

from nanobench.records import Description
from nanobench.roofline.flops import rough_flops
from nanobench.schema import Plan, Point


def expected_s(plan: Plan, point: Point, launch: int, description: Description) -> float:
    """About how long a launch of a point takes, from a rough matmul rate: at half of it, never faster than 2 ms per token.

    The first launch passes the gates besides.
    """
    rate = (description.matmul_flops_per_s or float("inf")) / 2
    if point.trains:
        return expected_training_s(plan, point, launch, rough_flops(point, description.models[point.model]) / rate)
    flops_per_token = 2 * description.models[point.model].n_params * point.batch_size
    round_s = compile_s = 0.0
    for arm in plan.arms:
        read = (
            point.total_len if arm.engine.startswith("cached") else point.new_tokens * (point.prompt_len + point.new_tokens / 2)
        )
        round_s += max(flops_per_token * read / rate, 0.002 * point.new_tokens)
        compile_s += 0.0 if arm.compile_mode == "off" else (30.0 if launch == 1 else 10.0)
    pairs_s = 0.0 if plan.gate_only else max(round_s, min(plan.max_seconds, 10 * round_s))
    return 0.5 + compile_s + round_s + pairs_s + (2 * round_s if launch == 1 else 0.0)


def expected_training_s(plan: Plan, point: Point, launch: int, step_s: float) -> float:
    """The same of training: in the first launch a plain loop's steps, in float64 too, and each arm's beside them."""
    steps, arms = 1 if point.phase == "pretrain" else 4, len(plan.arms)
    compiling = sum(arm.compile_mode != "off" for arm in plan.arms) * (25.0 if launch == 1 else 8.0)
    gates_s = (12 + 6 * arms) * step_s if launch == 1 else 0.0
    round_s = arms * steps * step_s
    return 0.5 + compiling + gates_s + round_s + max(round_s, min(plan.max_seconds, 10 * round_s))
