"""What all arms of a trial share in one process: the model, the threads, the cores. An arm that changes it changes others."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class SharedState:
    """The state of a model and of the process, as it was when this was made."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.parts = module, list(module.modules())
        self.readers: dict[str, Callable[[], Any]] = {
            "hooks of the model": self.hooks,
            "methods of the model": lambda: [vars(part).get("forward") for part in self.parts],
            "weights of the model": self.weights,
            "torch's number of threads": torch.get_num_threads,
            "the cores of the process": lambda: sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        }
        self.kept = {name: read() for name, read in self.readers.items()}

    def hooks(self) -> list[Any]:
        """Identities of all hooks: of every part, and those of all modules together."""
        everywhere = torch.nn.modules.module
        shared = [getattr(everywhere, name) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")]
        own = [getattr(part, name) for part in self.parts for name in HOOKS]
        return [list(hooks) for hooks in (*shared, *own)]

    def weights(self) -> list[Any]:
        """Address of each parameter, and how often it was changed in place."""
        return [(each.data_ptr(), None if each.is_inference() else each._version) for each in self.module.parameters()]

    def changed(self) -> str | None:
        """What differs from how it was kept, in words; it counts as kept from now on. Hooks and threads are set back."""
        now = {name: read() for name, read in self.readers.items()}
        found = [name for name, value in now.items() if value != self.kept[name]]
        if not found:
            return None
        for part in self.parts if "hooks of the model" in found else ():
            for name in HOOKS:
                getattr(part, name).clear()
        if "torch's number of threads" in found:
            torch.set_num_threads(self.kept["torch's number of threads"])
        self.kept = {name: read() for name, read in self.readers.items()}
        return ", ".join(found)
