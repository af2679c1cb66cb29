"""The contract of a sampler: its tokens, their frequencies, and that it waits for nothing."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from nanobench.engines._compiler import Compiler
from nanobench.gates import sampler as sampler_gate
from nanobench.records import Gate, Verdict
from nanobench.registry.plug_in import one_line
from nanobench.samplers.base import Sampler
from nanobench.testing.check import Broken, Check, Checks, NotChecked, seeded, skipped
from nanobench.testing.model import point_of

ROWS, VOCAB = 64, 97
DTYPES = (torch.float32, torch.bfloat16)
GATED_VOCAB = 1000
"""Vocabulary of the gate's second half, which draws as in a measurement."""
MOST_SUM_ERROR = 1e-6


def check_sampler(build: Callable[[], Sampler], *, device: str = "cpu") -> tuple[Check, ...]:
    """Checks what build() returns against the contract of a sampler."""
    checks = Checks()
    with seeded(device), torch.inference_mode():
        sampler = checks.run("build", partial(built, build))
        if sampler is not None:
            for name, work in SamplerContract(sampler, device).checks():
                checks.run(name, work)
    return tuple(checks.found)


def built(build: Callable[[], Sampler]) -> Sampler:
    """The sampler."""
    sampler = skipped(build)
    if not callable(sampler):
        raise Broken(f"build() returns a {type(sampler).__name__}, and not a function")
    return sampler


class SamplerContract:
    """The checks of one sampler."""

    def __init__(self, sampler: Sampler, device: str) -> None:
        self.sampler, self.device = sampler, device
        self.logits_BV = 2 * torch.randn(ROWS, VOCAB, device=device)

    def checks(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The name and the work of each check."""
        yield "tokens", self.tokens
        yield "possible tokens", self.possible_tokens
        yield "logits", self.logits
        yield "generator", self.generator
        yield "probabilities", self.probabilities
        yield "frequencies", self.frequencies
        yield "device", self.on_device

    def draw(self, logits_BV: Tensor, seed: int = 0) -> Tensor:
        """Tokens [B, 1] with a generator of this seed."""
        return self.sampler(logits_BV, torch.Generator(device=self.device).manual_seed(seed))

    def tokens(self) -> str:
        """One token of the vocabulary per row, for logits of every dtype."""
        for dtype in DTYPES:
            tokens_B1 = self.draw(self.logits_BV.to(dtype))
            if tokens_B1.shape != (ROWS, 1) or tokens_B1.dtype != torch.long:
                raise Broken(f"for {dtype} logits it returns {tokens_B1.dtype} {list(tokens_B1.shape)}, not torch.int64 [B, 1]")
            if not ((tokens_B1 >= 0) & (tokens_B1 < VOCAB)).all():
                raise Broken(f"for {dtype} logits it returns tokens that are not in the vocabulary")
        return ""

    def possible_tokens(self) -> str:
        """A row whose logits allow one token gets it."""
        only_B1 = torch.arange(ROWS, device=self.device)[:, None] % VOCAB
        logits_BV = torch.full_like(self.logits_BV, float("-inf")).scatter_(1, only_B1, 0.0)
        if not torch.equal(self.draw(logits_BV), only_B1):
            raise Broken("it chooses tokens whose logits are -inf")
        return ""

    def logits(self) -> str:
        """They are left as they are: the gate compares them afterwards."""
        given_BV = self.logits_BV.clone()
        self.draw(given_BV)
        if not torch.equal(given_BV, self.logits_BV):
            raise Broken("it changes the logits that it is given")
        return ""

    def generator(self) -> str:
        """The same seed gives the same tokens."""
        if not torch.equal(self.draw(self.logits_BV), self.draw(self.logits_BV)):
            raise Broken("the same seed gives other tokens: it does not use the generator that it is given")
        return "it is random" if not torch.equal(self.draw(self.logits_BV), self.draw(self.logits_BV, seed=1)) else ""

    def stated(self) -> Callable[[Tensor], Tensor]:
        """The method `probabilities`."""
        if not hasattr(self.sampler, "probabilities"):
            raise NotChecked("it has no method `probabilities`")
        return self.sampler.probabilities

    def probabilities(self) -> str:
        """They are a distribution over the vocabulary for every row."""
        probs_BV = self.stated()(self.logits_BV.double())
        if probs_BV.shape != (ROWS, VOCAB) or not (probs_BV >= 0).all():
            raise Broken(f"they have the shape {list(probs_BV.shape)}, and not [B, V], or some are negative")
        error = (probs_BV.sum(-1) - 1).abs().max().item()
        if not error <= MOST_SUM_ERROR:
            raise Broken(f"they do not add up to 1: the sum of a row is off by {error:.2g}")
        return ""

    def frequencies(self) -> str:
        """The gate of samplers: the frequencies of its tokens match its probabilities."""
        self.stated()
        point, start = point_of(self.device, 1, 1), Gate(verdict=Verdict.EXACT, note="")
        verdict = sampler_gate.judge(self.sampler, start, point, GATED_VOCAB, Compiler("off", self.device))
        if verdict.verdict is Verdict.WRONG:
            raise Broken(verdict.note)
        return verdict.note.removeprefix("; ")

    def on_device(self) -> str:
        """On a GPU it waits for no value, and its tokens stay there. The device is simulated: its tensors have no values."""
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                tokens_B1 = self.sampler(torch.empty(ROWS, VOCAB, device="meta"), None)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Broken(f"on a GPU it waits for the result of {error.func}") from None
        except Exception as error:
            if "devices" in str(error):
                raise Broken(f"on a GPU it mixes tensors of the GPU and of the CPU: {one_line(error)}") from None
            raise NotChecked(f"it cannot be traced: {one_line(error)}") from None
        if tokens_B1.device.type != "meta":
            raise Broken("its tokens leave the GPU")
        return ""
