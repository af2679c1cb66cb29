"""Engines whose truth is known: the uncached path once more, slower by a known share, or of a known duration.

`nanobench selftest` measures them as it would any other engine.
"""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from nanobench.engines import uncached
from nanobench.engines._compiler import Compiler
from nanobench.engines.base import Engine
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Point

STEP_S = 3e-3
"""What a prefill and a step of `steady_beat` last, whatever the work in them."""


class SlowedEngine:
    """Another engine, each of whose prefills and steps is made to last `lasts(seconds of its own work)` by a busy wait."""

    cache = None

    def __init__(self, engine: Engine, lasts: Callable[[float], float]) -> None:
        self.engine, self.lasts = engine, lasts

    @property
    def tokens_BN(self) -> Tensor:
        """See Engine.tokens_BN."""
        return self.engine.tokens_BN

    @property
    def logits_BV(self) -> Tensor | None:
        """See Engine.logits_BV."""
        return self.engine.logits_BV

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill."""
        self.slow_down(lambda: self.engine.prefill(prompt_BT))

    def step(self) -> int:
        """See Engine.step."""
        return self.slow_down(self.engine.step)

    def slow_down(self, work: Callable[[], Any]) -> Any:
        """Does the work, then waits without sleeping."""
        start = time.perf_counter()
        result = work()
        end = start + self.lasts(time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return result


def uncached_copy(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Engine:
    """The uncached engine under a second name."""
    return uncached.build(adapter, sampler, point, compiler)


def slowed(lasts: Callable[[float], float]) -> Callable[[Adapter, Sampler, Point, Compiler], Engine]:
    """A build() of the uncached engine, stretched. It raises Skip on CUDA, where a wait of the host need not delay the GPU."""

    def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Engine:
        if point.device != "cpu":
            raise Skip("a known delay needs work that is done when its call returns: CPU only")
        return SlowedEngine(uncached.build(adapter, sampler, point, compiler), lasts)

    return build


undelayed = slowed(lambda seconds: seconds)
"""What delays refer to: it waits for nothing but is watched in the same way, which costs about 0.3 us a step."""
delayed_2 = slowed(lambda seconds: 1.02 * seconds)
delayed_5 = slowed(lambda seconds: 1.05 * seconds)
fixed_duration = slowed(lambda seconds: STEP_S)
