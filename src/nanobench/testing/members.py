"""The contract of a member by its name: what `nanobench verify` requests from a worker."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from nanobench import registry
from nanobench.probes import memory
from nanobench.records import JsonObject
from nanobench.testing.check import Check
from nanobench.testing.engine import check_engine
from nanobench.testing.model import check_model
from nanobench.testing.optimizer import check_optimizer
from nanobench.testing.sampler import check_sampler

CHECKS: dict[str, Callable[..., tuple[Check, ...]]] = {
    "models": check_model,
    "engines": check_engine,
    "samplers": check_sampler,
    "optimizers": check_optimizer,
}
"""Family -> the checks of a member."""


def check_member(
    family: str, member: str, device: str, threads: int, memory_limit_bytes: int | None, model: str | None = None
) -> JsonObject:
    """The checks of a member as JSON data; an engine is checked with `model`."""
    torch.set_num_threads(threads)
    more: dict[str, Any] = {"model": registry.find("models", model)} if family == "engines" and model else {}
    with memory.limited(memory_limit_bytes):
        checks = CHECKS[family](registry.find(family, member), device=device, **more)
    return {"checks": [asdict(each) for each in checks]}
