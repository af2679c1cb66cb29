"""Generation: a prefill of the prompt and a decode of `new_tokens`, timed from prompt to last token."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import randbelow
from typing import Any

import torch
from torch import Tensor

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.engines.base import Engine
from nanobench.errors import Skip
from nanobench.gates import divergence
from nanobench.gates import generation as generation_gate
from nanobench.gates import sampler as sampler_gate
from nanobench.gates.divergence import Lossy, Text
from nanobench.gates.generation import Reference
from nanobench.models import _packed_linear as packed_linear
from nanobench.models import _sdpa as sdpa
from nanobench.models.base import Adapter
from nanobench.probes import compilation, memory, profiler
from nanobench.probes.clock import Clock
from nanobench.records import Gate, Outcome, Repetition, Verdict
from nanobench.roofline import flops
from nanobench.samplers import greedy
from nanobench.schema import GRAPH_MODES, Arm, Point
from nanobench.stats.divergence import Divergence
from nanobench.worker.workloads.base import Block
from nanobench.worker.workloads.drafts import DraftMeter
from nanobench.worker.workloads.first_token import time_first_token
from nanobench.worker.workloads.outputs import Output, Outputs
from nanobench.worker.workloads.peak_memory import PeakMemoryMeter
from nanobench.worker.workloads.prompts import Bases, Prompts, RandomPrompts, poison, to_device
from nanobench.worker.workloads.timed import Timed

NEVER = 1 << 31
"""A token that no call reaches."""
PROFILED_STEPS = 8
"""Decode steps per profile, at most."""


@dataclass(frozen=True)
class Approximation:
    """What a lossy arm approximates, and how far from it the arm may be."""

    float_reference: Reference
    text: Text | None = None
    max_kl: float | None = None
    error: Exception | None = None
    """why there is no model for the arm"""


class Generate(Timed):
    """One generation arm: its engine, its timed calls and its gate."""

    def __init__(
        self,
        adapter: Adapter,
        reference: Reference,
        point: Point,
        arm: Arm,
        clock: Clock,
        nvtx: bool = False,
        keeps_outputs: bool = True,
        prompts: Prompts | None = None,
    ) -> None:
        self.prompt_BT = self.input_BT = reference.prompt_BT
        super().__init__(arm, clock, self.prompt_BT.device, nvtx)
        self.adapter, self.reference, self.point = adapter, reference, point
        self.sampler = registry.find("samplers", arm.sampler)()
        self.keeps_outputs, self.prompts = keeps_outputs, prompts or RandomPrompts(adapter, point)
        self.peaks_bytes: dict[str, int] = {}
        self.shifts: list[int] = []
        self.block: Block | None = None
        self.bases: Bases | None = None
        self.copies_CBN: Tensor | None = None
        self.outputs = Outputs()
        self.drafts = DraftMeter(None, clock)
        self.row: int | None = None
        self.place: int | None = None
        self.logits_V: Tensor | None = None
        self.run_call: Callable[[Tensor], None] | None = None
        self.steps_per_call: int | None = None
        """of an engine with steps"""
        self.approximates: Approximation | None = None
        self.divergence = Divergence()

    def prepare(self, known: Gate | None) -> Gate:
        """See Workload.prepare. The gate runs unless this launch generates the same tokens as one that passed it."""
        self.begin()
        self.apply_gate(generation_gate.digest(self.engine.tokens_BN), known)
        self.gate = self.drafts.labelled(self.gate)
        return self.gate

    def build(self) -> None:
        """See Timed.build. The engine allocates its tokens and its cache."""
        if self.approximates and self.approximates.error:
            raise self.approximates.error
        sdpa.check_request(self.arm.attention, self.device.type, self.adapter, self.compiler.compiles)
        with sdpa.use_backend(self.arm.attention):
            self.engine = self.build_engine(self.adapter, self.point)
        if self.arm.kv_cache != "float" and not self.cache_bytes():
            raise Skip(f"{self.arm.engine} has no KV cache that could be {self.arm.kv_cache}")
        with torch.inference_mode(False):
            # Like the gate's prompt no inference tensor: a compiled function would be compiled again for the other kind.
            self.input_BT = torch.empty_like(self.prompt_BT)
        tokens_BN = self.engine.tokens_BN
        if type(tokens_BN) is not Tensor:
            raise TypeError(f"the engine's tokens_BN is a {type(tokens_BN).__name__}; it must be a preallocated torch.Tensor")
        # Kept: a property of the engine must not be asked for the tokens after the clock has stopped.
        self.new_BN, self.tokens_address = tokens_BN[:, self.point.prompt_len :], tokens_BN.data_ptr()
        self.run_call = getattr(self.engine, "run_call", None)
        self.drafts = DraftMeter(self.engine, self.clock)

    def build_engine(self, adapter: Adapter, point: Point) -> Engine:
        """This arm's engine over any adapter and point. Raises Skip if the model lacks what the engine needs.

        At another point than the measured one it is not compiled, uses greedy sampling and torch's choice of attention
        kernel: there the gate compares tokens.
        """
        measured = point is self.point
        compiler, sampler = (self.compiler, self.sampler) if measured else (Compiler("off"), greedy.build())
        return registry.find("engines", self.arm.engine)(adapter, sampler, point, compiler)

    def judge(self, digest: str) -> None:
        """See Timed.judge. It also measures the memory peaks of the engine, so that they need no further run."""
        if self.run_call is not None and self.engine.logits_BV is not None:
            raise TypeError("an engine with run_call() shows logits, which the gate cannot check; set its logits_BV to None")
        of_model = self.arm.sampler == "greedy" and self.drafts.synthetic is None
        greedy_BN = self.engine.tokens_BN.clone() if of_model else None
        meter = PeakMemoryMeter(self.engine, self.arm.attention, self.device, last_step=self.point.new_tokens - 1)
        verdict = generation_gate.judge(self.reference, self.build_engine, meter, self.compiler.compiles)
        if verdict.verdict is not Verdict.WRONG and self.arm.sampler != "greedy":
            verdict = sampler_gate.judge(self.sampler, verdict, self.point, self.adapter.shape.vocab_size, self.compiler)
        if verdict.verdict is not Verdict.WRONG and self.approximates:
            verdict = self.judge_divergence(self.approximates, meter, greedy_BN, verdict)
        self.gate = replace(verdict, digest=digest)
        if not meter.complete:
            generation_gate.run_free(meter, self.prompt_BT, self.point.new_tokens)
        module, draft = self.adapter.module, getattr(self.engine, "draft", None)
        held_bytes = memory.tensor_bytes([module, draft]) + packed_linear.packed_bytes(module) + (self.cache_bytes() or 0)
        held_bytes += getattr(self.engine, "graph_bytes", 0)
        # What graphs of inductor hold is in their own memory: the allocator sees nothing of a replay.
        peaks_bytes = {} if self.compiler.mode in GRAPH_MODES else meter.peaks_bytes
        self.peaks_bytes = {phase: held_bytes + peak for phase, peak in peaks_bytes.items()}

    def judge_divergence(self, given: Approximation, engine: Engine, greedy_BN: Tensor | None, gate: Gate) -> Gate:
        """Measures how far a lossy arm is from its float model, and sets `divergence`."""
        self.divergence = divergence.measure(Lossy(engine, self.adapter, given.float_reference), greedy_BN, given.text)
        return divergence.judge(gate, self.divergence, given.max_kl)

    def warm_up(self) -> None:
        """See Workload.warm_up. The call of one token of an engine with `run_call` is warmed up too."""
        super().warm_up()
        if self.run_call is not None:
            with sdpa.use_backend(self.arm.attention):
                self.engine.prefill(self.prompt_BT)

    def profile(self, trace: Path | None) -> None:
        """See Workload.profile. Profiles a prefill and up to PROFILED_STEPS decode steps, but none of a whole call."""
        device = self.device
        with sdpa.use_backend(self.arm.attention):
            prefill = profiler.count(lambda: self.engine.prefill(self.prompt_BT), device)
        sdpa.check(self.arm.attention, prefill.names, self.compiler.compiles)
        self.dispatched = {"operations_prefill": prefill.operations}
        if self.run_call is not None and trace is not None:
            with sdpa.use_backend(self.arm.attention):
                profiler.count(self.engine.step, device, trace)
        elif self.run_call is None and self.point.new_tokens > 1:
            wrote: list[int] = []
            with sdpa.use_backend(self.arm.attention):
                found = profiler.count(lambda: self.decode_some(wrote), device, trace)
            steps = len(wrote)
            if not found.graph_launches:
                sdpa.check(self.arm.attention, found.names, self.compiler.compiles)
            self.dispatched |= {
                "operations_per_step": found.operations / steps,
                "kernels_per_step": found.kernels / steps,
                "graph_launches_per_step": found.graph_launches / steps,
                "gpu_busy_fraction": found.busy,
            }
            if self.arm.compile_mode in GRAPH_MODES and not found.graph_launches:
                raise RuntimeError(f"{self.arm.compile_mode} replayed no CUDA graph: {compilation.graph_skips()}")

    def decode_some(self, wrote: list[int]) -> None:
        """Up to PROFILED_STEPS decode steps, as far as the output goes; adds the tokens that each wrote to `wrote`."""
        while len(wrote) < PROFILED_STEPS and 1 + sum(wrote) < self.point.new_tokens:
            wrote.append(self.engine.step())

    def time(self, kind: str, repetition: int, block: Block | None) -> Repetition:
        """`calls` generate calls. The attention kernel is selected before the clock starts."""
        if block is None:
            self.lay_out(None)
        tokens = self.calls * self.point.batch_size * self.point.new_tokens
        seed = None if block is None else block.prompt_seed
        if block is not None and self.run_call is not None:
            block = replace(block, timestamped=False)
        with sdpa.use_backend(self.arm.attention):
            self.drafts.begin(block is not None and block.timestamped)
            timed = self.run(self.run_calls, block, kind=kind, repetition=repetition, tokens=tokens, prompt_seed=seed)
        return self.drafts.added_to(timed)

    def lay_out(self, block: Block | None) -> None:
        """See Workload.lay_out. Poisons the output, and makes room for the copies. In no block the gate's prompt is read."""
        self.keep_outputs()
        if block is not None and block.timestamped and self.run_call is not None and self.point.new_tokens > 1:
            self.phases.append(time_first_token(self, block))
        self.block, self.bases, self.shifts = block, None, []
        if block is not None:
            self.lay_out_prompts(block.prompt_seed)
            if self.keeps_outputs:
                self.copies_CBN = self.new_BN.new_empty((self.calls, *self.new_BN.shape))
        else:
            self.input_BT.copy_(self.prompt_BT)
            self.new_BN.zero_()

    def lay_out_prompts(self, seed: int) -> None:
        """Puts the bases of the next calls' prompts on the device, and random tokens where their output will be."""
        point, vocab_size = self.point, self.adapter.shape.vocab_size
        self.bases = to_device(self.prompts.bases(seed, self.calls), self.device)
        self.new_BN.copy_(poison(seed, point.batch_size, point.new_tokens, vocab_size))

    def clock_stopped(self) -> None:
        """See Timed.clock_stopped: the output of the last call is copied."""
        if self.copies_CBN is not None:
            self.copies_CBN[-1].copy_(self.new_BN)

    def keep_outputs(self) -> None:
        """Keeps the output of each call of the last repetition. Raises RuntimeError if the engine has changed its tokens."""
        if self.block is None or self.copies_CBN is None:
            return
        if self.engine.tokens_BN.data_ptr() != self.tokens_address:
            raise RuntimeError("the engine's tokens_BN is another tensor than at its start; it must be preallocated")
        calls, tokens_CBN = len(self.copies_CBN), self.copies_CBN.to("cpu", torch.int32)
        number, seed, places = self.block.number, self.block.prompt_seed, self.drafts.places_of(calls)
        outputs = [Output(number, n, calls, seed, self.shifts[n], tokens_CBN[n].clone(), places[n]) for n in range(calls)]
        if self.logits_V is not None:
            logits_V = self.logits_V.to("cpu", torch.float32, copy=True)
            outputs[-1] = replace(outputs[-1], row=self.row, place=self.place, logits_V=logits_V)
        self.outputs.keep(outputs)
        self.copies_CBN = None

    def draw_prompt(self, call: int) -> None:
        """Makes the prompt of a call from its base and a number that nobody knows before: an arm cannot work ahead. In no block
        the prompt is there already.

        It costs the clock some microseconds, the same in every arm. The prompt always lies at the same address.
        """
        if self.bases is not None:
            self.shifts.append(randbelow(self.prompts.numbers))
            self.prompts.write(self.bases, call, self.shifts[-1], self.input_BT)

    def run_calls(self, timestamps: list[Any], timestamped: bool) -> None:
        """Runs the generate calls: prompts and generated tokens stay on the device, nothing is copied to the host.

        Between two calls the output of the first is copied on the device; in the last call the logits of a random token are.
        """
        clock, engine, new_tokens = self.clock, self.engine, self.point.new_tokens
        for call in range(self.calls):
            if call and self.copies_CBN is not None:
                self.copies_CBN[call - 1].copy_(self.new_BN)
            if self.run_call is not None:
                with self.nvtx_range("call"):
                    self.draw_prompt(call)
                    self.run_call(self.input_BT)
                continue
            with self.nvtx_range("prefill"):
                self.draw_prompt(call)
                engine.prefill(self.input_BT)
            kept = self.draw_place() if call == self.calls - 1 else NEVER
            generated, steps = 1, 0
            if kept < generated:
                kept = self.keep_logits(generated - 1)
            if timestamped:
                timestamps.append(clock.timestamp())
            with self.nvtx_range("decode"):
                while generated < new_tokens:
                    new = engine.step()
                    generated, steps = generated + new, steps + 1
                    if kept < generated:
                        kept = self.keep_logits(generated - 1)
                    if timestamped:
                        timestamps.extend([clock.timestamp()] * new)
            self.steps_per_call = steps
            self.drafts.call_ended()

    def draw_place(self) -> int:
        """The token whose logits are kept; drawn inside the clock, so that no arm can know it. NEVER where none are."""
        self.row = self.place = self.logits_V = None
        return NEVER if self.copies_CBN is None else randbelow(self.point.new_tokens)

    def keep_logits(self, place: int) -> int:
        """Copies the logits of the newest token of a random row, on the device, where the engine shows them. Returns NEVER."""
        if type(logits_BV := self.engine.logits_BV) is Tensor:
            self.row, self.place = randbelow(self.point.batch_size), place
            self.logits_V = logits_BV[self.row].clone()
        return NEVER

    def save_outputs(self, path: Path) -> bool:
        """See Workload.save_outputs."""
        self.keep_outputs()
        if self.outputs.kept:
            self.outputs.save(path)
        return bool(self.outputs.kept)

    def cache_bytes(self) -> int | None:
        """Allocated bytes of the engine's cache; 0 for an engine without a cache, None for one without an attribute `cache`."""
        return memory.tensor_bytes(self.engine.cache) if hasattr(self.engine, "cache") else None

    def expected_cache_bytes(self) -> int | None:
        """Closed form: keys and values of every position of every row; 0 and None as in `cache_bytes`."""
        point = self.point
        per_row = flops.kv_bytes_per_token(self.adapter.shape, point.dtype, self.arm.kv_cache) * point.total_len
        return self.cache_bytes() and point.batch_size * per_row

    def outcome(self) -> Outcome:
        """See Workload.outcome."""
        build = next(phase for phase in self.phases if phase.kind == "build")
        return Outcome(
            **self.common_outcome(),
            **(vars(self.divergence) | self.drafts.outcome()),
            cache_alloc_s=build.wall_s,
            kv_cache_bytes=self.cache_bytes(),
            weight_bytes=memory.tensor_bytes(self.adapter.module),
            packed_bytes=packed_linear.packed_bytes(self.adapter.module),
            peak_memory_bytes=max(self.peaks_bytes.values(), default=None),
            prefill_peak_bytes=self.peaks_bytes.get("prefill"),
            decode_peak_bytes=self.peaks_bytes.get("decode"),
            kv_cache_expected_bytes=self.expected_cache_bytes(),
            kv_access=getattr(self.engine, "kv_access", None),
            graph_bytes=getattr(self.engine, "graph_bytes", None),
            steps_per_call=self.steps_per_call,
            **self.dispatched,
            **vars(self.compilation),
        )


def load(point: Point, seed: int) -> Adapter:
    """The model of a point on its device and in its dtype, ready for inference.

    Its weights are random from the seed, unless its build() loads weights.
    """
    torch.manual_seed(seed)
    adapter: Adapter = registry.find("models", point.model)()
    adapter.module.to(device=point.device, dtype=getattr(torch, point.dtype)).eval().requires_grad_(False)
    return adapter
