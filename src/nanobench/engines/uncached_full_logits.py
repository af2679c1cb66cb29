"""Uncached generation with logits at every position, of which only the last are used, as in many published scripts."""

from nanobench.engines._compiler import Compiler
from nanobench.engines.uncached import Uncached
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Point


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Uncached:
    """Its time compared with `uncached` is the cost of the unused logits."""
    return Uncached(adapter, sampler, point, compiler, last_only=False)
