"""The contract checks of the members that a plan names, each in a worker process of its own."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanobench.schema import Plan
from nanobench.sweep.executors.base import Executor

CHECK_MEMBER = "nanobench.testing.members:check_member"
"""The function that a worker calls."""


@dataclass(frozen=True)
class MemberCheck:
    """One part of the contract of a member, and whether the member keeps it."""

    family: str
    member: str
    name: str
    passed: bool
    note: str


def check(plan: Plan, executor: Executor, folder: Path) -> list[MemberCheck]:
    """The checks of the models, engines and samplers of a plan. Engines are checked with the first model."""
    return [each for family, member in members_of(plan) for each in check_member(family, member, plan, executor, folder)]


def members_of(plan: Plan) -> list[tuple[str, str]]:
    """The family and the name of each member, models first."""
    models = [("models", point.model) for point in plan.points]
    engines, samplers = (
        [("engines", arm.engine) for arm in plan.arms],
        [("samplers", arm.sampler) for arm in plan.arms],
    )
    return list(dict.fromkeys([*models, *engines, *samplers]))


def check_member(family: str, member: str, plan: Plan, executor: Executor, folder: Path) -> list[MemberCheck]:
    """The checks of one member. Where the process dies, that is the only check, and it fails."""
    point = plan.points[0]
    arguments: dict[str, Any] = {
        "family": family,
        "member": member,
        "device": point.device,
        "threads": point.threads,
        "memory_limit_bytes": plan.memory_limit_bytes,
        "model": point.model,
    }
    request = {"call": {"function": CHECK_MEMBER, "arguments": arguments}}
    result = executor.run(request, folder / "contract", folder / "contract.log", plan.timeout_s, lambda report: None)
    if result.record is None:
        return [MemberCheck(family, member, "all", False, result.reason or "the worker gave no answer")]
    return [MemberCheck(family, member, **each) for each in result.record["checks"]]


def to_json(checks: list[MemberCheck]) -> list[dict[str, Any]]:
    """The checks as JSON data."""
    return [asdict(each) for each in checks]
