"""The contract of an engine: what it writes, what it forgets, and the gate of generation."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.engines.base import Engine
from nanobench.errors import Skip
from nanobench.gates import generation
from nanobench.gates.generation import Reference
from nanobench.models.base import Adapter
from nanobench.roofline.flops import KV_ACCESS
from nanobench.samplers import greedy
from nanobench.samplers.base import Sampler
from nanobench.schema import Point
from nanobench.testing.check import Broken, Check, Checks, NotChecked, seeded, skipped
from nanobench.testing.model import ROWS, gate, point_of, prepared

PROMPT_LEN, NEW_TOKENS = 7, 6
LONG_PROMPT = 37
"""Tokens of a prompt that is read in several parts, where an engine reads it in parts: no multiple of a usual size."""
TINY = "gpt2-nano"
"""The built-in model that engines are checked with by default."""
HOST_READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
)
BuildEngine = Callable[[Adapter, Sampler, Point, Compiler], Engine]


def check_engine(build: BuildEngine, model: Callable[[], Adapter] | None = None, *, device: str = "cpu") -> tuple[Check, ...]:
    """Checks an engine against its contract, with a small GPT-2, or with the model that `model()` builds."""
    checks = Checks()
    with seeded(device):
        adapter = checks.run("model", partial(prepared, model or registry.find("models", TINY), device))
        if adapter is not None:
            contract = EngineContract(build, adapter, device)
            if checks.run("parts", contract.parts) is not None:
                for name, work in contract.checks():
                    checks.run(name, work)
    return tuple(checks.found)


class HostReads(TorchDispatchMode):
    """Counts the operations that copy a value to the host, each of which would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in HOST_READS
        return func(*args, **(kwargs or {}))


class EngineContract:
    """The checks of one engine over one model."""

    def __init__(self, build: BuildEngine, adapter: Adapter, device: str) -> None:
        self.build, self.adapter, self.device = build, adapter, device
        half = max(1, adapter.shape.block_size // 2)
        self.point = point_of(device, min(PROMPT_LEN, half), min(NEW_TOKENS, half))
        self.vocab_size = adapter.shape.vocab_size
        self.prompt_BT = torch.randint(self.vocab_size, (ROWS, self.point.prompt_len), device=device)
        self.other_BT = (self.prompt_BT + 1) % self.vocab_size

    def checks(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The name and the work of each check."""
        yield "tokens", self.tokens
        yield "memory", self.memory
        yield "forgets", self.forgets
        yield "sampler", self.sampler
        yield "gate", self.gate
        yield "long prompt", self.long_prompt
        yield "host reads", self.host_reads
        yield "kv_access", self.kv_access
        yield "drafts", self.drafts

    def share_prompt(self) -> None:
        """Gives all rows the same prompt, for an engine that needs that."""
        self.point = replace(self.point, shared_prompt="on")
        self.prompt_BT, self.other_BT = (prompt_BT[:1].repeat(ROWS, 1) for prompt_BT in (self.prompt_BT, self.other_BT))

    def make(self, adapter: Adapter | None = None, point: Point | None = None, sampler: Sampler | None = None) -> Engine:
        """A new engine, without compilation."""
        at = point or self.point
        return self.build(adapter or self.adapter, sampler or greedy.build(), at, Compiler("off", self.device))

    def generate(self, engine: Engine, prompt_BT: Tensor) -> Tensor:
        """A copy of the prompt and the tokens that are generated after it."""
        with torch.inference_mode():
            return generation.run_free(engine, prompt_BT, self.point.new_tokens)

    def parts(self) -> str:
        """Build() returns an engine with its tokens allocated. Raises NotChecked where this device or model cannot have it."""
        with torch.inference_mode():
            try:
                engine = self.make()
            except Skip:
                self.share_prompt()
                engine = skipped(self.make)
        missing = [part for part in ("tokens_BN", "logits_BV", "prefill", "step") if not hasattr(engine, part)]
        if missing:
            raise Broken(f"build() returns a {type(engine).__name__} without {', '.join(missing)}")
        tokens_BN, shape = engine.tokens_BN, (ROWS, self.point.total_len)
        if type(tokens_BN) is not Tensor or tokens_BN.shape != shape or tokens_BN.dtype != torch.long:
            raise Broken(f"tokens_BN is {describe(tokens_BN)}, and not a preallocated torch.int64 tensor {list(shape)}")
        return f"tokens_BN {list(shape)}"

    def tokens(self) -> str:
        """Prefill() writes the prompt and a token after it; step() says how many it writes; none is written beyond the end."""
        engine, point, generated = self.make(), self.point, 1
        with torch.inference_mode():
            engine.prefill(self.prompt_BT)
            while generated < point.new_tokens:
                new = engine.step()
                if not isinstance(new, int) or new < 1:
                    raise Broken(f"step() returns {new!r}, and not the number of new tokens per row")
                generated += new
        if generated > point.new_tokens:
            raise Broken(f"it generates {generated} tokens per row where the point has {point.new_tokens}")
        if not torch.equal(engine.tokens_BN[:, : point.prompt_len], self.prompt_BT):
            raise Broken("tokens_BN does not begin with the prompt")
        if not ((engine.tokens_BN >= 0) & (engine.tokens_BN < self.vocab_size)).all():
            raise Broken("tokens_BN has tokens that are not in the vocabulary")
        if engine.logits_BV is None:
            return "it shows no logits: it is gated by its tokens alone"
        if engine.logits_BV.shape != (ROWS, self.vocab_size):
            raise Broken(f"logits_BV is {describe(engine.logits_BV)}, and not [{ROWS}, {self.vocab_size}]")
        return f"{generated} per row"

    def memory(self) -> str:
        """The tokens stay in the tensor that they are allocated in."""
        engine = self.make()
        # The tensor, not its address alone: a new one could be given the address of a freed one.
        before_BN = engine.tokens_BN
        self.generate(engine, self.prompt_BT)
        if engine.tokens_BN.data_ptr() != before_BN.data_ptr():
            raise Broken("tokens_BN is another tensor after a call; write into the one that is allocated in build()")
        return ""

    def forgets(self) -> str:
        """A second call generates the same as the first call of a new engine."""
        used = self.make()
        self.generate(used, self.other_BT)
        if not torch.equal(self.generate(used, self.prompt_BT), self.generate(self.make(), self.prompt_BT)):
            raise Broken("after another prompt it generates other tokens: prefill() keeps something of the last call")
        return ""

    def sampler(self) -> str:
        """Each new token is the one that the sampler chooses."""
        chosen = 1 % self.vocab_size

        def always(logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
            return torch.full_like(logits_BV[:, :1], chosen, dtype=torch.long)

        engine = skipped(lambda: self.make(sampler=always))
        tokens_BN = self.generate(engine, self.prompt_BT)
        if engine.logits_BV is None:
            raise NotChecked("it shows no logits")
        if not (tokens_BN[:, self.point.prompt_len :] == chosen).all():
            raise Broken("it writes other tokens than its sampler chooses")
        return ""

    def gate(self) -> str:
        """The gate of generation: tokens, independence of rows, logits under teacher forcing."""
        return gate(Reference(self.adapter, self.point, seed=0), self.make)

    def long_prompt(self) -> str:
        """The same after a longer prompt, for an engine that reads a prompt in parts."""
        point = replace(self.point, prompt_len=min(LONG_PROMPT, max(1, self.adapter.shape.block_size // 2)))
        note = gate(Reference(self.adapter, point, seed=0), self.make)
        return f"{point.prompt_len} tokens; {note}"

    def host_reads(self) -> str:
        """Neither prefill() nor step() reads a value on the host, as .item() does; calls of the model do not count."""
        engine = self.make()
        if reason := getattr(engine, "reads_host", None):
            raise NotChecked(str(reason))
        # Not in inference mode, where composite operations would hide the ones that are counted.
        with HostReads() as of_engine:
            generation.run_free(engine, self.prompt_BT, self.point.new_tokens)
        with HostReads() as of_model:
            self.adapter.forward(self.prompt_BT, last_only=True)
        if of_model.count:
            raise NotChecked("the model itself reads values on the host")
        if of_engine.count:
            raise Broken(f"it reads {of_engine.count} values on the host in a call, where a GPU would be waited for")
        return ""

    def kv_access(self) -> str:
        """It is a name that predictions know, or there is none."""
        engine = self.make()
        name, drafting = getattr(engine, "kv_access", None), getattr(engine, "drafting", None)
        if name is not None and name not in KV_ACCESS:
            raise Broken(f"kv_access {name!r} is unknown (available: {', '.join(KV_ACCESS)}); leave it out if none fits")
        if name is None and drafting is not None:
            return "it drafts: its time is predicted from that"
        return str(name) if name else "it does not say: its time is not predicted"

    def drafts(self) -> str:
        """What an engine counts of drafted tokens agrees with the tokens that it writes."""
        engine: Any = self.make()
        if not hasattr(engine, "draft_counts"):
            return "it drafts no tokens"
        engine.draft_counts()
        self.generate(engine, self.prompt_BT)
        counts, written = engine.draft_counts(), self.point.new_tokens - 1
        if engine.draft_counts().target_passes:
            raise Broken("draft_counts() counts again what it has returned before")
        drafted, accepted, kept = counts.drafted_by_position, counts.accepted_by_position, counts.kept_by_position
        if counts.target_passes + sum(kept) - written:
            raise Broken(f"{counts.target_passes} passes that keep {sum(kept):g} drafted tokens do not write {written}")
        if any(not 0 <= all_rows <= mean <= number for number, mean, all_rows in zip(drafted, accepted, kept, strict=True)):
            raise Broken("at some position more tokens are kept than accepted, or more accepted than drafted")
        return f"{counts.target_passes} passes keep {sum(kept):g} of {sum(drafted):g} drafted tokens"


def describe(value: Any) -> str:
    """A tensor's dtype and shape, or the type of another value."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
