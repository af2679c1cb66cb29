"""The compiler that an engine is handed."""

import itertools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanobench.errors import Skip
from nanobench.schema import COMPILE_MODES, GRAPH_MODES


class Compiler:
    """Compiles an engine's functions in one mode, each on a code object of its own.

    Dynamo keeps its compiled graphs and its recompile limit per code object: two arms that shared one
    would push each other out and the last would silently run eagerly.
    """

    _serial = itertools.count()

    def __init__(self, mode: str, device: str = "cpu") -> None:
        self.mode, self.device = mode, device
        self.code_names: set[str] = set()

    @property
    def compiles(self) -> bool:
        """Whether this mode compiles anything."""
        return COMPILE_MODES[self.mode] is not None

    def __call__(self, function: Callable[..., Any], *, dynamic: bool | None = False) -> Callable[..., Any]:
        """The function or bound method, compiled in this mode; `dynamic` where its shapes grow from call to call.

        Raises Skip for a mode that would be another one on this device.
        """
        arguments = COMPILE_MODES[self.mode]
        if arguments is None:
            return function
        if self.mode in GRAPH_MODES and self.device == "cpu":
            other = "default" if self.mode == "reduce-overhead" else "max-autotune-no-cudagraphs"
            raise Skip(f"{self.mode} captures CUDA graphs, which a CPU has not: it would be {other}")
        # Else a function that meets its limit of recompilations runs eagerly from then on, and only a log says so.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        plain = function.__func__ if isinstance(function, types.MethodType) else function
        assert isinstance(plain, types.FunctionType)
        code = plain.__code__.replace(co_name=f"{plain.__name__}_{next(self._serial)}")
        self.code_names.add(code.co_name)
        own = types.FunctionType(code, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__)
        bound = types.MethodType(own, function.__self__) if isinstance(function, types.MethodType) else own
        return torch.compile(bound, **{"dynamic": dynamic, **arguments})

    def fix(self, *tensors: Tensor) -> None:
        """Says that these tensors stay where they are. Else inductor captures no graph of a function that writes into them."""
        if self.mode in GRAPH_MODES:
            for tensor in tensors:
                torch._dynamo.mark_static_address(tensor)
