"""A black box: an engine made of a plain function that generates a whole output and shows nothing in between.

A timed repetition is one call of the function per output, so nothing is measured between its tokens. The time to the first
token comes from calls that generate one token; see `Engine` in `base.py`.
"""

from collections.abc import Callable

from torch import Tensor, nn

from nanobench.engines._compiler import Compiler
from nanobench.engines.base import allocate_tokens
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler
from nanobench.samplers.greedy import greedy
from nanobench.schema import Point

Function = Callable[[nn.Module, Tensor, int], Tensor]


class BlackBox:
    """Copies what the function returns into the engine's own tokens. Shows no logits, so it is gated by its tokens alone."""

    logits_BV = None

    def __init__(self, function: Function, adapter: Adapter, point: Point) -> None:
        self.function, self.module, self.new_tokens = function, adapter.module, point.new_tokens
        self.tokens_BN = allocate_tokens(point, next(adapter.module.parameters()))
        self.prompt_BT = self.tokens_BN[:, : point.prompt_len]

    def prefill(self, prompt_BT: Tensor) -> None:
        """See Engine.prefill."""
        self.prompt_BT = prompt_BT
        self.write(prompt_BT, self.generate(prompt_BT, 1))

    def step(self) -> int:
        """See Engine.step: the whole call again, of which the first token is not written."""
        new_BN = self.generate(self.prompt_BT, self.new_tokens)
        self.tokens_BN[:, self.prompt_BT.shape[1] + 1 :] = new_BN[:, 1:]
        return self.new_tokens - 1

    def run_call(self, prompt_BT: Tensor) -> None:
        """See Engine.run_call."""
        self.write(prompt_BT, self.generate(prompt_BT, self.new_tokens))

    def generate(self, prompt_BT: Tensor, number: int) -> Tensor:
        """The new tokens [B, n] of the function. Raises ValueError if it returns something else than prompt and n tokens."""
        found = self.function(self.module, prompt_BT, number)
        rows, length = prompt_BT.shape
        if not isinstance(found, Tensor) or found.shape != (rows, length + number):
            what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ValueError(f"generate() returned {what}, not prompt and {number} new tokens, [{rows}, {length + number}]")
        return found[:, length:]

    def write(self, prompt_BT: Tensor, new_BN: Tensor) -> None:
        """Writes the prompt and new tokens after it."""
        length = prompt_BT.shape[1]
        self.tokens_BN[:, :length] = prompt_BT
        self.tokens_BN[:, length : length + new_BN.shape[1]] = new_BN


def black_box(generate: Function) -> Callable[[Adapter, Sampler, Point, Compiler], BlackBox]:
    """The build() of an engine from `generate(module, idx_BT, n)`, which returns prompt and n greedy tokens, [B, T + n].

    The module is the adapter's. An arm that is compiled or has another sampler than greedy is skipped: both are up to the
    function.
    """

    def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> BlackBox:
        if compiler.compiles:
            raise Skip("a black box is not compiled from outside; compile inside of generate() and name it as another engine")
        if sampler is not greedy:
            raise Skip("a black box chooses its tokens itself and is gated as greedy; use it with --sampler greedy")
        return BlackBox(generate, adapter, point)

    return build
