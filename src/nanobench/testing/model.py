"""The contract of a model: the parts of its Adapter, and the gate of generation with the built-in engines.

Most checks run in float64, where rounding hides nothing. Noise is added to all weights, so that a bias, a norm or an lm_head
that starts at zero counts too.
"""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.engines.base import Engine
from nanobench.gates import generation
from nanobench.gates.generation import Reference
from nanobench.models.base import Adapter
from nanobench.probes import memory
from nanobench.records import Verdict
from nanobench.samplers import greedy
from nanobench.schema import Point
from nanobench.testing.check import Broken, Check, Checks, NotChecked, compare, seeded, skipped
from nanobench.worker import model_shape

ROWS, LENGTH = 3, 12
"""Rows and tokens of each check; fewer tokens where the model has fewer positions."""
NOISE = 0.02
TOLERANCE = 1e-5
"""Of a logit in float64, relative to the largest. Some models compute a part in float32 in any case."""
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Of a logit in a narrower dtype: large enough for the rounding of deep models."""
MOST_OPERATIONS = 2e10
"""A pass over all positions is checked if it needs no more."""
MOST_COST_ERROR = 0.05
KINDS = ("static", "cat")
ENGINES = ("uncached", "cached", "cached-cat")


def check_model(build: Callable[[], Adapter], *, device: str = "cpu") -> tuple[Check, ...]:
    """Checks what build() returns against the contract of a model.

    A part that the model does not have is not checked: it raises Skip for a kind of cache, or for the loss.
    """
    checks = Checks()
    with seeded(device):
        adapter = checks.run("shape", partial(prepared, build, device))
        if adapter is not None:
            contract = ModelContract(adapter, device)
            for name, work in contract.checks():
                checks.run(name, work)
    return tuple(checks.found)


def prepared(build: Callable[[], Adapter], device: str) -> Adapter:
    """The model with noise in its weights, on a device in float32, ready for inference."""
    adapter = build()
    wrong = model_shape.problem(adapter)
    if wrong:
        raise Broken(f"the model {wrong}")
    adapter.module.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in adapter.module.parameters():
        if parameter.is_floating_point():
            parameter.add_(NOISE * torch.randn_like(parameter))
    return adapter


def gate(reference: Reference, build: Callable[[Adapter, Point], Engine]) -> str:
    """The note of the gate of generation on an engine. Raises Broken where its verdict is `wrong`."""
    with torch.inference_mode():
        engine = skipped(lambda: build(reference.adapter, reference.point))
        # The gate takes an engine that shows no logits after its first call for a black box.
        generation.run_free(engine, reference.prompt_BT, reference.point.new_tokens)
        verdict = generation.judge(reference, build, engine, compiled=False)
    if verdict.verdict is Verdict.WRONG:
        raise Broken(verdict.note)
    return verdict.note


class ModelContract:
    """The checks of one model, which go from float64 to narrower dtypes."""

    def __init__(self, adapter: Adapter, device: str) -> None:
        self.adapter, self.device, self.shape = adapter, device, adapter.shape
        self.length = min(LENGTH, self.shape.block_size)
        self.prompt_len = max(1, self.length // 2)
        self.idx_BT = torch.randint(self.shape.vocab_size, (ROWS, self.length), device=device)
        self.other_BT = (self.idx_BT + 1) % self.shape.vocab_size

    def checks(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The name and the work of each check, in the order in which they must run."""
        yield "parameters", self.parameters
        yield "costs", self.costs
        yield "float64", partial(self.convert, torch.float64)
        yield "logits", self.logits
        yield "last position", self.last_position
        yield "causality", self.causality
        yield "rows", self.rows
        yield "loss", self.loss
        for kind in KINDS:
            yield f"{kind} cache: logits", partial(self.cached_logits, kind)
            yield f"{kind} cache: growth", partial(self.growth, kind)
            yield f"{kind} cache: forgets", partial(self.forgets, kind)
        for dtype in TOLERANCES:
            yield str(dtype).removeprefix("torch."), partial(self.narrow, dtype)
            if dtype == torch.float32:
                yield "positions", self.positions
                for name in ENGINES:
                    yield f"gate with {name}", partial(self.gate, name)

    def parameters(self) -> str:
        """The shape counts the module's parameters."""
        count = sum(parameter.numel() for parameter in self.adapter.module.parameters())
        if self.shape.n_params != count:
            raise Broken(f"n_params {self.shape.n_params} is not the number of parameters, {count}; count a tied lm_head once")
        return f"{count:,}"

    def costs(self) -> str:
        """The shape counts the multiplications of a pass over one token; attention to one position hardly adds to them."""
        with FlopCounterMode(display=False) as counter:
            self.adapter.forward(self.idx_BT[:1, :1])
        counted, stated = counter.get_total_flops() / 2, self.shape.block_params + self.shape.head_params
        if not counted:
            raise NotChecked("no matmul was seen")
        if abs(counted / stated - 1) > MOST_COST_ERROR:
            fix = "give matmul_params in its shape, or predictions of its time are wrong"
            raise Broken(f"a token multiplies {counted:,.0f} weights, and its shape says {stated:,}; {fix}")
        return f"a token multiplies {counted:,.0f} weights"

    def convert(self, dtype: torch.dtype) -> str:
        """The module can be converted. From here on all checks use this dtype."""
        self.adapter.module.to(dtype)
        logits_BTV = self.forward(self.idx_BT)
        return "" if logits_BTV.dtype == dtype else f"its logits are {str(logits_BTV.dtype).removeprefix('torch.')}"

    def forward(self, idx_BT: Tensor) -> Tensor:
        """Logits of all positions, as in a worker."""
        with torch.inference_mode():
            return self.adapter.forward(idx_BT)

    def logits(self) -> str:
        """Their shape; they are finite, depend on the tokens, and are the same for tokens that are not contiguous."""
        logits_BTV, shape = self.forward(self.idx_BT), (ROWS, self.length, self.shape.vocab_size)
        if logits_BTV.shape != shape or not logits_BTV.is_floating_point():
            raise Broken(f"their shape is {list(logits_BTV.shape)} of {logits_BTV.dtype}, and not {list(shape)}")
        if not logits_BTV.isfinite().all():
            raise Broken("some are not finite")
        if torch.equal(self.forward(self.other_BT)[:, -1], logits_BTV[:, -1]):
            raise Broken("they do not depend on the tokens")
        sliced_BT = F.pad(self.idx_BT, (0, 1))[:, : self.length]
        return compare(self.forward(sliced_BT), logits_BTV, "logits of a slice of tokens", TOLERANCE)

    def last_position(self) -> str:
        """With `last_only` the logits are those of the last position."""
        with torch.inference_mode():
            last_B1V = self.adapter.forward(self.idx_BT, last_only=True)
        return compare(last_B1V, self.forward(self.idx_BT)[:, -1:], "logits with last_only", TOLERANCE)

    def causality(self) -> str:
        """A position sees nothing behind it."""
        middle = self.length // 2
        if not middle:
            raise NotChecked("it has one position")
        changed_BT = torch.cat((self.idx_BT[:, :middle], self.other_BT[:, middle:]), dim=1)
        before_BTV, after_BTV = (self.forward(each)[:, :middle] for each in (self.idx_BT, changed_BT))
        return compare(after_BTV, before_BTV, "logits before a changed token", TOLERANCE)

    def rows(self) -> str:
        """A row has the same logits alone."""
        alone_BTV = torch.cat([self.forward(row_1T) for row_1T in self.idx_BT.split(1)])
        return compare(alone_BTV, self.forward(self.idx_BT), "logits of rows that are computed one by one", TOLERANCE)

    def loss(self) -> str:
        """With targets it is the mean over those that are not -1, and it has gradients."""
        targets_BT = self.other_BT.clone()
        targets_BT[0, : max(1, self.length // 3)] = -1
        self.adapter.module.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = skipped(lambda: self.adapter.forward(self.idx_BT, targets_BT))
        finally:
            self.adapter.module.requires_grad_(False)
        if loss.shape:
            raise Broken(f"its shape is {list(loss.shape)}, and not that of a scalar; raise Skip if the model has no loss")
        logits_BTV = self.forward(self.idx_BT)
        expected = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-1).item()
        if not abs(loss.item() / expected - 1) <= TOLERANCE:
            raise Broken(f"it is {loss.item():.6g}, and the mean over the targets that are not -1 is {expected:.6g}")
        if not loss.requires_grad:
            raise Broken("it has no gradient")
        return f"{expected:.4g}"

    def cache(self, kind: str) -> Any:
        """An empty cache of a kind that the model has."""
        return skipped(lambda: self.adapter.make_cache(ROWS, self.length, kind))

    def chunks(self) -> tuple[Tensor, ...]:
        """The positions of a prompt, then one by one those of new tokens."""
        return torch.arange(self.length, device=self.device).split([self.prompt_len, *[1] * (self.length - self.prompt_len)])

    def through(self, cache: Any, idx_BT: Tensor) -> Iterator[tuple[Tensor, Any]]:
        """Logits [B, 1, V] of the prompt and of each later token, with the cache after it."""
        for pos_T in self.chunks():
            with torch.inference_mode():
                logits_B1V, cache = self.adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache)
            yield logits_B1V, cache

    def expect(self, cache: Any, idx_BT: Tensor, what: str) -> str:
        """Compares the logits through a cache with those of the uncached pass."""
        found = torch.cat([logits_B1V for logits_B1V, _ in self.through(cache, idx_BT)], dim=1)
        return compare(found, self.forward(idx_BT)[:, self.prompt_len - 1 :], what, TOLERANCE)

    def cached_logits(self, kind: str) -> str:
        """A prompt and single tokens through the cache give the logits of the uncached pass."""
        return self.expect(self.cache(kind), self.idx_BT, "logits through the cache")

    def growth(self, kind: str) -> str:
        """A static cache keeps the bytes that it is made with; another one grows by the same amount with every token."""
        cache = self.cache(kind)
        sizes = [memory.tensor_bytes(cache), *(memory.tensor_bytes(after) for _, after in self.through(cache, self.idx_BT))]
        if not sizes[-1]:
            raise NotChecked("no tensors were found in the cache")
        if kind == "static":
            if len({*sizes}) > 1:
                fix = "allocate all of it in make_cache"
                raise Broken(f"it has {sizes[0]} B when it is made and {sizes[-1]} B at the end; {fix}")
            per_token = sizes[-1] / ROWS / self.length
        else:
            # Not after the prompt, whose keys and values may still lie in the result of a joint projection.
            grown = [after - before for before, after in pairwise(sizes[2:])]
            if not grown:
                raise NotChecked("the model has too few positions")
            if len({*grown}) > 1 or grown[0] <= 0:
                raise Broken(f"with each token it grows by {', '.join(map(str, grown))} B, and not by the same amount")
            per_token = grown[0] / ROWS
        return f"{per_token:,.0f} B per token and row; its shape says {self.shape.kv_bytes_per_token('float64'):,}"

    def forgets(self, kind: str) -> str:
        """A second call has the logits of its own tokens: on the same static cache, on a new one of another kind."""
        first = self.cache(kind)
        for _ in self.through(first, self.other_BT):
            pass
        second = first if kind == "static" else self.cache(kind)
        return self.expect(second, self.idx_BT, "logits of a second call")

    def narrow(self, dtype: torch.dtype) -> str:
        """In a narrower dtype the logits are about the same. From here on all checks use this dtype."""
        wide_BTV = self.forward(self.idx_BT)
        self.adapter.module.to(dtype)
        return compare(self.forward(self.idx_BT), wide_BTV, "its logits", TOLERANCES[dtype])

    def positions(self) -> str:
        """It can take as many tokens as its block size."""
        count = self.shape.block_size
        operations = 2.0 * count * (self.shape.block_params + self.shape.head_params)
        if operations > MOST_OPERATIONS:
            raise NotChecked(f"a pass over {count:,} tokens needs {operations:.1g} operations")
        idx_1T = torch.randint(self.shape.vocab_size, (1, count), device=self.device)
        with torch.inference_mode():
            if not self.adapter.forward(idx_1T, last_only=True).isfinite().all():
                raise Broken(f"the logits after {count:,} tokens are not finite")
        return f"{count:,} tokens"

    @cached_property
    def reference(self) -> Reference:
        """What the gate expects of every engine."""
        return Reference(self.adapter, point_of(self.device, self.prompt_len, self.length - self.prompt_len), seed=0)

    def gate(self, name: str) -> str:
        """The gate of generation with a built-in engine: tokens, independence of rows, logits under teacher forcing."""
        if self.length < 2:
            raise NotChecked("it has one position")
        build, compiler = registry.find("engines", name), Compiler("off", self.device)
        return gate(self.reference, lambda adapter, point: build(adapter, greedy.build(), point, compiler))


def point_of(device: str, prompt_len: int, new_tokens: int) -> Point:
    """A point of generation in float32."""
    return Point(
        model="",
        dtype="float32",
        device=device,
        threads=torch.get_num_threads(),
        batch_size=ROWS,
        prompt_len=prompt_len,
        new_tokens=new_tokens,
    )
