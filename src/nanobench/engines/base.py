"""The contract of an engine, and helpers for engines."""

from typing import Protocol

import torch
from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.schema import Point


class Engine(Protocol):
    """Generates tokens. `build(adapter, sampler, point, compiler)` makes one and allocates all its memory.

    An optional attribute `kv_access` names how the engine reads keys and values (one of `roofline.flops.KV_ACCESS`); without it
    the engine's time cannot be predicted.

    An optional attribute `reads_host` says why a step has to read values on the host, where it waits for a GPU. Engines without
    it never do.

    An engine that drafts tokens and accepts a part of them has the optional attribute `drafting`, from which its time is
    predicted, and the optional method `draft_counts()`, which returns what became of drafted tokens since its last call. If it
    has an attribute `part_begins`, the worker replaces it by a function that takes timestamps. The engine calls it with `draft`
    and with `verification` where these parts of a step begin, so it needs no clock.

    An engine some of whose tokens are not the model's, by design, says why in the optional attribute `synthetic`. Its verdict
    is `synthetic`, and only the tokens that the model chose are checked: those at `model_places`, a list of the last call's
    new tokens, counted from 0.

    An engine that only generates whole outputs has the optional method `run_call(prompt_BT)`: the work of a call from the
    prompt to the last token. It shows no logits. Each timed call is then one `run_call`. There are no times between its tokens,
    and the columns that need them are null. The time to the first token comes from calls of `prefill` alone. They run before
    the repetitions that would have a timestamp per token, and are no part of them, because `run_call` does not continue what
    `prefill` began. So every block has whole calls of every arm, also with a clock that takes timestamps in every block.
    The gate uses `prefill` and `step`; such a `step` writes all tokens after the first.
    """

    @property
    def tokens_BN(self) -> Tensor:
        """Prompt and generated tokens [B, N], preallocated. The engine reads its next input here: the gate can force tokens."""
        ...

    @property
    def logits_BV(self) -> Tensor | None:
        """Logits [B, V] of the newest token; None from an engine that does not show them and is gated by its tokens only."""
        ...

    def prefill(self, prompt_BT: Tensor) -> None:
        """Starts a new call: processes the prompt [B, T] and writes the first generated token of every row after it."""
        ...

    def step(self) -> int:
        """Writes the next tokens of every row and returns their number per row."""
        ...


class EngineWrapper:
    """Shows the tokens and the logits of another engine. A subclass adds something to its calls."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def tokens_BN(self) -> Tensor:
        """See Engine.tokens_BN."""
        return self.engine.tokens_BN

    @property
    def logits_BV(self) -> Tensor | None:
        """See Engine.logits_BV."""
        return self.engine.logits_BV


def allocate_tokens(point: Point, like: Tensor) -> Tensor:
    """Zeros [B, N] for prompt and generated tokens, on the device of `like`."""
    return torch.zeros((point.batch_size, point.total_len), dtype=torch.long, device=like.device)


def make_generator(like: Tensor, compiler: Compiler) -> torch.Generator | None:
    """A seeded generator on the device of `like`; None (torch's default one) if compiled, where it would break the graph, and
    on the meta device, which has no random numbers.
    """
    return None if compiler.compiles or like.device.type == "meta" else torch.Generator(device=like.device).manual_seed(0)


def part_ignored(part: str) -> None:
    """What an engine calls where a part of a step begins, if nobody wants to know."""
