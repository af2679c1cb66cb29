"""Uncached generation with logits at every position, of which all but the last are thrown away: what copied scripts time."""

from nanobench.engines._compiler import Compiler
from nanobench.engines.uncached import Uncached
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Point


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Uncached:
    """Its ratio to `uncached` is the price of the unused logits."""
    return Uncached(adapter, sampler, point, compiler, last_only=False)
