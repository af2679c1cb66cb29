"""The imports of a plug-in author: the contracts of models, engines and samplers, and the arguments of their build()."""

from nanobench.engines._compiler import Compiler
from nanobench.engines.base import Engine, allocate_tokens, make_generator
from nanobench.errors import Skip, UserError
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.schema import Arm, GPTShape, Point

__all__ = [
    "Adapter",
    "Arm",
    "Compiler",
    "Engine",
    "GPTShape",
    "Point",
    "Sampler",
    "Skip",
    "UserError",
    "allocate_tokens",
    "make_generator",
]
