"""The imports of a plug-in author: the contracts of models, engines and samplers, ready adapters, the arguments of build()."""

from nanobench.engines._black_box import black_box
from nanobench.engines._compiler import Compiler
from nanobench.engines.base import Engine, allocate_tokens, make_generator
from nanobench.errors import Skip, UserError
from nanobench.models._foreign import KwargCacheAdapter, PastKVAdapter, UncachedAdapter
from nanobench.models._module_shape import shape_of_module
from nanobench.models.base import Adapter
from nanobench.registry.arguments import Range
from nanobench.roofline.speculation import Drafting
from nanobench.samplers.base import Sampler
from nanobench.schema import Arm, GPTShape, Point
from nanobench.stats.drafts import DraftCounts

__all__ = [
    "Adapter",
    "Arm",
    "Compiler",
    "DraftCounts",
    "Drafting",
    "Engine",
    "GPTShape",
    "KwargCacheAdapter",
    "PastKVAdapter",
    "Point",
    "Range",
    "Sampler",
    "Skip",
    "UncachedAdapter",
    "UserError",
    "allocate_tokens",
    "black_box",
    "make_generator",
    "shape_of_module",
]
