"""The compiler that engines and the trainer use."""

import itertools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanobench.errors import Skip
from nanobench.schema import COMPILE_MODES, GRAPH_MODES


class Compiler:
    """Compiles functions in one mode, each with a new code object.

    Dynamo stores compiled graphs and the recompile limit per code object: two arms with a shared one would evict each other's
    graphs, and the last arm would silently run eagerly.
    """

    _serial = itertools.count()

    def __init__(self, mode: str, device: str = "cpu") -> None:
        self.mode, self.device = mode, device
        self.code_names: set[str] = set()

    @property
    def compiles(self) -> bool:
        """Whether this mode compiles at all."""
        return COMPILE_MODES[self.mode] is not None

    def __call__(self, function: Callable[..., Any], *, dynamic: bool | None = False) -> Callable[..., Any]:
        """The function or bound method, compiled in this mode; `dynamic` as in torch.compile.

        Raises Skip for a mode that equals another one on this device.
        """
        arguments = COMPILE_MODES[self.mode]
        if arguments is None:
            return function
        if self.mode in GRAPH_MODES and self.device == "cpu":
            other = "default" if self.mode == "reduce-overhead" else "max-autotune-no-cudagraphs"
            raise Skip(f"{self.mode} captures CUDA graphs, which a CPU does not have: it would equal {other}")
        # Otherwise a function that reaches the recompile limit runs eagerly from then on, with only a message in the log.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        plain = function.__func__ if isinstance(function, types.MethodType) else function
        assert isinstance(plain, types.FunctionType)
        code = plain.__code__.replace(co_name=f"{plain.__name__}_{next(self._serial)}")
        self.code_names.add(code.co_name)
        own = types.FunctionType(code, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__)
        bound = types.MethodType(own, function.__self__) if isinstance(function, types.MethodType) else own
        return torch.compile(bound, **{"dynamic": dynamic, **arguments})

    def mark_static(self, *tensors: Tensor) -> None:
        """Marks the addresses of tensors as static: otherwise inductor captures no graph of a function that writes to them."""
        if self.mode in GRAPH_MODES:
            for tensor in tensors:
                torch._dynamo.mark_static_address(tensor)
