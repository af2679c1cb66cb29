"""Engines with a known true result: a copy of the uncached engine, one slower by a known share, one of a known duration.

`nanobench selftest` measures them like any other engine and compares the results with the known values.
"""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from nanobench.engines import uncached
from nanobench.engines._compiler import Compiler
from nanobench.engines.base import Engine, EngineWrapper
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Point

STEP_S = 3e-3
"""Seconds of each prefill and each step of `fixed_duration`."""


class SlowedEngine(EngineWrapper):
    """Wraps an engine. A busy wait extends each prefill and each step to `duration_of(seconds of the wrapped call)` seconds."""

    cache = None

    def __init__(self, engine: Engine, duration_of: Callable[[float], float]) -> None:
        super().__init__(engine)
        self.duration_of = duration_of

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill."""
        self.slow_down(lambda: self.engine.prefill(prompt_BT))

    def step(self) -> int:
        """See Engine.step."""
        return self.slow_down(self.engine.step)

    def slow_down(self, work: Callable[[], Any]) -> Any:
        """Does the work, then waits in a loop without sleeping."""
        start = time.perf_counter()
        result = work()
        end = start + self.duration_of(time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return result


def uncached_copy(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Engine:
    """The uncached engine under a second name."""
    return uncached.build(adapter, sampler, point, compiler)


def slowed(duration_of: Callable[[float], float]) -> Callable[[Adapter, Sampler, Point, Compiler], Engine]:
    """A build() of a slowed uncached engine. It raises Skip on CUDA, where a wait of the host does not delay the GPU."""

    def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Engine:
        if point.device != "cpu":
            raise Skip("a known delay needs an engine whose calls return after their work is done: CPU only")
        return SlowedEngine(uncached.build(adapter, sampler, point, compiler), duration_of)

    return build


undelayed = slowed(lambda seconds: seconds)
"""The reference of the delays: it adds no wait, only the same timer calls, about 0.3 us per step."""
delayed_2 = slowed(lambda seconds: 1.02 * seconds)
delayed_5 = slowed(lambda seconds: 1.05 * seconds)
fixed_duration = slowed(lambda seconds: STEP_S)
