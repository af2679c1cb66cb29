"""What all arms of a trial share in one process: the model, torch, the interpreter. An arm that changes it changes others."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, overrides

TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class SharedState:
    """The state of some models and of the process, as it was when this was made."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules, self.parts = modules, [part for module in modules for part in parts_of(module)]
        self.readers: dict[str, Callable[[], Any]] = {
            "hooks of the model": self.hooks,
            "methods of the model": lambda: [vars(part).get("forward") for part in self.parts],
            "weights of the model": self.weights,
            "torch's number of threads": torch.get_num_threads,
            "the cores of the process": lambda: sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "torch's function and dispatch modes": modes,
            "interval timers": lambda: [signal.getitimer(each)[0] > 0 for each in TIMERS],
            "signal handlers": lambda: {each: signal.getsignal(each) for each in signal.valid_signals()},
            "the interpreter's profile and trace functions": lambda: (sys.getprofile(), sys.gettrace(), monitors()),
            "garbage collection": lambda: (gc.get_threshold(), len(gc.callbacks)),
        }
        self.kept = {name: read() for name, read in self.readers.items()}

    def hooks(self) -> list[Any]:
        """Identities of all hooks: of every part, and those of all modules together."""
        everywhere = torch.nn.modules.module
        shared = [getattr(everywhere, name) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")]
        own = [getattr(part, name) for part in self.parts for name in HOOKS]
        return [list(hooks) for hooks in (*shared, *own)]

    def weights(self) -> list[Any]:
        """Address of each weight, and how often it was changed in place."""
        every = (tensor for module in self.modules for tensor in weights_of(module))
        return [(each.data_ptr(), None if each.is_inference() else each._version) for each in every]

    def changed(self) -> str | None:
        """What differs from how it was kept, in words; it counts as kept from now on. Most of it is set back."""
        now = {name: read() for name, read in self.readers.items()}
        found = [name for name, value in now.items() if value != self.kept[name]]
        if not found:
            return None
        for part in self.parts if "hooks of the model" in found else ():
            for name in HOOKS:
                getattr(part, name).clear()
        self.set_back()
        self.kept = {name: read() for name, read in self.readers.items()}
        return ", ".join(found)

    def set_back(self) -> None:
        """Sets back what would slow down the other arms."""
        torch.set_num_threads(self.kept["torch's number of threads"])
        for each in TIMERS:
            signal.setitimer(each, 0)
        for number, handler in self.kept["signal handlers"].items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        profile, trace, _ = self.kept["the interpreter's profile and trace functions"]
        sys.setprofile(profile)
        sys.settrace(trace)
        thresholds, callbacks = self.kept["garbage collection"]
        gc.set_threshold(*thresholds)
        del gc.callbacks[callbacks:]
        while torch._C._len_torch_function_stack() > self.kept["torch's function and dispatch modes"][0]:
            overrides._pop_mode()


def parts_of(module: nn.Module) -> list[nn.Module]:
    """The parts of a model, and the layers that stand for several of them while they are fused."""
    parts = list(module.modules())
    fused = (getattr(part, "fused", None) for part in parts)
    return [*parts, *(each for each in fused if isinstance(each, nn.Module))]


def weights_of(module: nn.Module) -> list[Tensor]:
    """The parameters of a model and of its fused layers, and the numbers of quantised weights, which are buffers."""
    parameters = [each for part in parts_of(module) for each in part.parameters(recurse=False)]
    return [*parameters, *(each for each in module.buffers() if each.dtype in (torch.int8, torch.uint8))]


def modes() -> tuple[int, int]:
    """How many of torch's function modes and dispatch modes are active."""
    return torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()


def monitors() -> list[str | None]:
    """The tools that watch the interpreter (PEP 669); none before Python 3.12."""
    monitoring = getattr(sys, "monitoring", None)
    return [] if monitoring is None else [monitoring.get_tool(number) for number in range(6)]
