"""The contract of an optimizer: both of its kernels take the same steps, and all that it remembers is in its state."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nanobench.gates.training import SLACK, TOLERANCES, flatten, relative_error
from nanobench.testing.check import Broken, Check, Checks, seeded

STEPS = 3
SIZES = ((24, 16), (16,), (16, 24), (24,))
"""Of the parameters: matrices and vectors, as a network has them."""
KERNELS = {True: "fused", False: "foreach"}
BuildOptimizer = Callable[..., torch.optim.Optimizer]


def check_optimizer(build: BuildOptimizer, *, device: str = "cpu") -> tuple[Check, ...]:
    """Checks an optimizer against its contract, on a few parameters with given gradients."""
    checks = Checks()
    with seeded(device):
        contract = OptimizerContract(build, device)
        if checks.run("parameters", contract.parameters) is not None:
            for name, work in contract.checks():
                checks.run(name, work)
    return tuple(checks.found)


class OptimizerContract:
    """The checks of one optimizer."""

    def __init__(self, build: BuildOptimizer, device: str) -> None:
        self.build = build
        self.start = [torch.randn(size, device=device) for size in SIZES]
        self.gradients = [[torch.randn(size, device=device) for size in SIZES] for _ in range(STEPS)]

    def checks(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The name and the work of each check."""
        for fused, name in KERNELS.items():
            yield f"{name} kernel", partial(self.kernel, fused)
        yield "state", self.state
        yield "forgets", self.forgets

    def make(self, fused: bool, dtype: torch.dtype = torch.float32) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        """Parameters at the start, and an optimizer of them."""
        parameters = [nn.Parameter(each.to(dtype, copy=True)) for each in self.start]
        return parameters, self.build(parameters, fused=fused)

    def parameters(self) -> str:
        """Build() returns an optimizer of all parameters."""
        for fused in KERNELS:
            parameters, optimizer = self.make(fused)
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise Broken(f"build() returns a {type(optimizer).__name__}, and not a torch.optim.Optimizer")
            held = [id(each) for group in optimizer.param_groups for each in group["params"]]
            if sorted(held) != sorted(map(id, parameters)):
                raise Broken(f"it has {len(held)} parameters, and not each of the {len(parameters)} that it is given once")
        return ""

    def reference(self) -> Tensor:
        """The change of the weights in float64, without fusion."""
        return self.change(*self.make(False, torch.float64))

    def change(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Tensor:
        """The change of the weights over all steps, in one vector."""
        before = flatten(parameters)
        take(parameters, optimizer, self.gradients)
        return flatten(parameters) - before

    def kernel(self, fused: bool) -> str:
        """A kernel changes the weights as the list-wise operations in float64 do."""
        found, expected = self.change(*self.make(fused)), self.reference()
        if not expected.any():
            raise Broken("no step changes a weight")
        error = relative_error(found, expected)
        if not error <= self.tolerance(expected):
            raise Broken(f"after {STEPS} steps the change of the weights is off by {error:.2g}, compared with float64")
        return f"within {error:.1g} of float64"

    def tolerance(self, expected: Tensor) -> float:
        """Tolerance of the change of the weights; of an optimizer with `rounds` a multiple of its own error in float32."""
        parameters, optimizer = self.make(False)
        own = relative_error(self.change(parameters, optimizer), expected) if getattr(optimizer, "rounds", False) else 0.0
        return max(SLACK * own, TOLERANCES["weights"])

    def state(self) -> str:
        """A second optimizer continues from a copy of the state: all that one remembers is there."""
        parameters, first = self.make(False)
        take(parameters, first, self.gradients[:-1])
        state, weights = copy.deepcopy(first.state_dict()["state"]), [each.detach().clone() for each in parameters]
        take(parameters, first, self.gradients[-1:])
        copies = [nn.Parameter(each.clone()) for each in weights]
        second = self.build(copies, fused=False)
        second.load_state_dict({**second.state_dict(), "state": state})
        take(copies, second, self.gradients[-1:])
        before = flatten(weights)
        error = relative_error(flatten(copies) - before, flatten(parameters) - before)
        if not error <= TOLERANCES["weights"]:
            raise Broken(f"with its state in a second optimizer the next step is off by {error:.2g}: it remembers more")
        return ""

    def forgets(self) -> str:
        """Without its state it begins again."""
        parameters, optimizer = self.make(False)
        first = self.change(parameters, optimizer)
        for parameter, start in zip(parameters, self.start, strict=True):
            parameter.copy_(start)
        optimizer.state.clear()
        error = relative_error(self.change(parameters, optimizer), first)
        if not error <= TOLERANCES["weights"]:
            raise Broken(f"after its state was cleared its steps are off by {error:.2g}: it remembers more")
        return ""


def take(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, gradients: Sequence[Sequence[Tensor]]) -> None:
    """One step per list of gradients."""
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.to(parameter.dtype, copy=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
