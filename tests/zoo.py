"""Arms that cheat while they are timed, each in one way, all honest in the gate: `--engine zoo:replay_after`.

They are small on purpose: what is tested is that each gets its verdict.
"""

import copy
import gc
import hashlib
import inspect
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch

from fakes import TINY, greedy_loop
from nanobench.engines import _black_box
from nanobench.engines.cached import Cached
from nanobench.engines.uncached import Uncached
from nanobench.gates.generation import Expected
from nanobench.models._gpt import GPTAdapter
from nanobench.models._quantized_linear import int8_grid
from nanobench.models.gpt2 import build as build_gpt2
from nanobench.models.nanochat import build as build_nanochat
from nanobench.probes import clock
from nanobench.samplers.temperature import Temperature
from nanobench.samplers.top_p_sort import TopP

HONEST_CALLS = 4
"""Calls of one engine until its first timed one: first call, gate, memory, warm-up."""


def lively():
    """A small model whose greedy output depends on its prompt; an untrained GPT-2 repeats a few tokens whatever it reads."""
    return build_nanochat(n_layer=2, n_head=2, n_kv_head=2, n_embd=32, vocab_size=256, block_size=64)


class Whole(Uncached):
    """Generates the whole output in the prefill; its steps only count. What it does in between is up to its kinds."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.calls, self.new_tokens, self.prompt_len = 0, arguments[2].new_tokens, arguments[2].prompt_len
        self.store = self.tokens_BN

    def prefill(self, prompt_BT):
        self.calls += 1
        self.answer(prompt_BT)

    def answer(self, prompt_BT):
        self.generate(prompt_BT)

    def generate(self, prompt_BT):
        """The honest work."""
        self.length = prompt_BT.shape[1]
        self.store[:, : self.length] = prompt_BT
        for _ in range(self.new_tokens):
            Uncached.step(self)

    def write(self, new_BN):
        self.tokens_BN[:, self.prompt_len :] = new_BN

    def new(self):
        return self.tokens_BN[:, self.prompt_len :].clone()

    def step(self):
        return 1


class BlackBox(Whole):
    """Shows no logits, so that it is gated by its tokens alone: the gate cannot force tokens on what is already written."""

    @property
    def logits_BV(self):
        return None

    @logits_BV.setter
    def logits_BV(self, value):
        pass


class ReplayAfter(Cached):
    """Honest for some calls; then it writes the last honest output again."""

    calls, kept = 0, None

    def prefill(self, prompt_BT):
        self.calls += 1
        if self.calls <= HONEST_CALLS:
            super().prefill(prompt_BT)
        else:
            self.tokens_BN.copy_(self.kept)

    def step(self):
        if self.calls <= HONEST_CALLS:
            super().step()
            self.kept = self.tokens_BN.clone()
        return 1


class IdleAfter(ReplayAfter):
    """Honest for some calls; then it does nothing at all."""

    def prefill(self, prompt_BT):
        self.calls += 1
        if self.calls <= HONEST_CALLS:
            Cached.prefill(self, prompt_BT)


class Memo(BlackBox):
    """Remembers outputs by some key of the prompt."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.known = {}

    def answer(self, prompt_BT):
        key = self.key(prompt_BT)
        if key in self.known:
            return self.write(self.known[key])
        self.generate(prompt_BT)
        self.known[key] = self.new()
        return None


class MemoByContent(Memo):
    def key(self, prompt_BT):
        return prompt_BT.numpy().tobytes()


class MemoByAddress(Memo):
    """The gate's prompts lie at other addresses each time that matters."""

    def key(self, prompt_BT):
        return prompt_BT.data_ptr() if self.calls > HONEST_CALLS else self.calls


class MemoByShape(Memo):
    def key(self, prompt_BT):
        return prompt_BT.shape if self.calls > 3 else self.calls


class WorkWhenRead(BlackBox):
    """Does its work when somebody reads the tokens, which is after the clock has stopped."""

    pending = None

    def prefill(self, prompt_BT):
        self.pending = prompt_BT
        # Otherwise a repetition would be thousands of calls, all of which are worked off when they are read.
        time.sleep(0.002)

    @property
    def tokens_BN(self):
        if self.pending is not None:
            prompt_BT, self.pending = self.pending, None
            self.generate(prompt_BT)
        return self.store

    @tokens_BN.setter
    def tokens_BN(self, value):
        self.store = value


class SideThread(BlackBox):
    """A thread does the work; who reads the tokens in the gate waits for it."""

    thread = None

    def prefill(self, prompt_BT):
        self.until = time.monotonic() + 0.1
        thread = threading.Thread(target=self.late, args=(prompt_BT,))
        thread.start()
        self.thread = thread

    def late(self, prompt_BT):
        with torch.inference_mode():
            time.sleep(0.002)
            while time.monotonic() < self.until:
                pass
            self.generate(prompt_BT)

    @property
    def tokens_BN(self):
        if self.thread is not None and threading.current_thread() is threading.main_thread():
            self.thread.join()
        return self.store

    @tokens_BN.setter
    def tokens_BN(self, value):
        self.store = value


class BusyThread(Cached):
    """Honest, but a thread of it keeps a core busy, which slows down every arm with more than one thread."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        os.environ[BUSY] = "1"
        threading.Thread(target=spin, daemon=True).start()


BUSY = "ZOO_BUSY"
"""A variable of the process: without it the threads of BusyThread end, which would disturb later tests in the same process."""


def spin():
    """Works without Python's lock, which would slow down the whole trial."""
    work = bytes(1 << 20)
    while BUSY in os.environ:
        hashlib.sha256(work)


class GateBuffers(Cached):
    """Takes the tokens and logits that the gate expects from the gate's own memory; outside of the gate it writes zeros."""

    def prefill(self, prompt_BT):
        super().prefill(prompt_BT)
        self.place = 0
        self.honest = len(prompt_BT) == 3 or any(frame.function == "run_forced" for frame in inspect.stack(0))
        if self.honest and len(prompt_BT) != 3:
            self.expected = next(each for each in gc.get_objects() if type(each) is Expected and len(each.logits_RPV) != 3)

    def step(self):
        if len(self.tokens_BN) == 3:
            return super().step()
        self.place, self.length = self.place + 1, self.length + 1
        if not self.honest:
            self.tokens_BN[:, self.length] = 0
            return 1
        if self.place in self.expected.positions:
            self.logits_BV = self.expected.logits_RPV[:, self.expected.positions.index(self.place)].float()
        return 1


class Detecting(Cached):
    """Honest where it thinks that it is gated; else every token is 0."""

    calls = 0

    def is_gated(self, prompt_BT):
        raise NotImplementedError

    def prefill(self, prompt_BT):
        self.calls += 1
        self.honest = self.is_gated(prompt_BT)
        if self.honest:
            return super().prefill(prompt_BT)
        self.length = prompt_BT.shape[1]
        self.tokens_BN[:, : self.length] = prompt_BT
        self.tokens_BN[:, self.length :] = 0
        return None

    def step(self):
        return super().step() if self.honest else 1


class ByCallCount(Detecting):
    def is_gated(self, prompt_BT):
        return self.calls <= HONEST_CALLS


class ByStack(Detecting):
    def is_gated(self, prompt_BT):
        return not any(frame.function == "repeat" for frame in inspect.stack(0))


class ByPrompt(Detecting):
    """The gate reads the prompt of the first call again."""

    first = None

    def is_gated(self, prompt_BT):
        if self.first is None:
            self.first = prompt_BT.clone()
        return len(prompt_BT) == 3 or torch.equal(prompt_BT[1:], self.first[1:])


class ByDtypeAndShape(Detecting):
    """Honest in float32 at the small shape of the gate, and for as many calls at the measured shape as a gate makes."""

    def is_gated(self, prompt_BT):
        small = next(self.adapter.module.parameters()).dtype == torch.float32 and len(prompt_BT) == 3
        return small or self.calls <= HONEST_CALLS


class SlowClock(Cached):
    """Once the gate is over, the clock runs at a tenth of its speed."""

    calls = 0

    def prefill(self, prompt_BT):
        super().prefill(prompt_BT)
        self.calls += 1
        if self.calls == HONEST_CALLS:
            real = time.perf_counter
            time.perf_counter = lambda: real() / 10
            clock.perf_counter = time.perf_counter


class NoSync(Cached):
    """Waiting for the device does nothing any more."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        torch.cuda.synchronize = lambda *_: None


class SharedWeights(Cached):
    """After the gate, it takes bits from the weights of the model that all arms share."""

    calls = 0

    def prefill(self, prompt_BT):
        self.calls += 1
        if self.calls == HONEST_CALLS:
            for parameter in self.own_module().parameters():
                parameter.copy_((parameter * 20).round() / 20)
        super().prefill(prompt_BT)

    def own_module(self):
        return self.adapter.module


class OtherWeights(SharedWeights):
    """The same with a copy of the model, which the others do not see."""

    def own_module(self):
        self.adapter = copy.deepcopy(self.adapter)
        return self.adapter.module


class SkippedRows(Cached):
    """After the gate, the second half of the rows are copies of the first."""

    calls = 0

    def prefill(self, prompt_BT):
        self.calls += 1
        super().prefill(prompt_BT)
        self.copy_rows()

    def copy_rows(self):
        half = len(self.tokens_BN) // 2
        if self.calls > HONEST_CALLS and half:
            self.tokens_BN[-half:, self.length :] = self.tokens_BN[:half, self.length :]

    def step(self):
        super().step()
        self.copy_rows()
        return 1


class EarlyStop(Cached):
    """After the gate, it says after half of the tokens that all are there."""

    calls = 0

    def prefill(self, prompt_BT):
        self.calls += 1
        super().prefill(prompt_BT)

    def step(self):
        super().step()
        late = self.length - self.prompt_T[-1] > self.max_len // 8
        return 1000 if self.calls > HONEST_CALLS and late else 1


class Constants(Cached):
    """A compiled step whose caller returns what an earlier call gave."""

    calls, kept = 0, None

    def prefill(self, prompt_BT):
        self.calls += 1
        super().prefill(prompt_BT)

    def step(self):
        if self.calls <= HONEST_CALLS:
            self.kept = None
        if self.kept is None:
            super().step()
            self.kept = self.tokens_BN[:, self.length].clone() if self.calls > HONEST_CALLS else None
            return 1
        self.length += 1
        self.tokens_BN[:, self.length] = self.kept
        return 1


class WholeCalls(_black_box.BlackBox):
    """An honest black box."""

    calls, firsts, kept_BN = 0, 0, None

    def __init__(self, adapter, sampler, point, compiler):
        super().__init__(greedy_loop, adapter, point)


class GuessedFirst(WholeCalls):
    """Guesses the token of the calls of one token, which give the time to the first token, once gate and warm-up are over."""

    def prefill(self, prompt_BT):
        self.firsts += 1
        if self.firsts <= 2:
            return super().prefill(prompt_BT)
        return self.write(prompt_BT, torch.zeros_like(prompt_BT[:, :1]))


class RepeatedCall(WholeCalls):
    """Once gate and warm-up are over, it returns an earlier output."""

    def run_call(self, prompt_BT):
        self.calls += 1
        if self.calls <= HONEST_CALLS:
            super().run_call(prompt_BT)
            self.kept_BN = self.tokens_BN.clone()
        self.tokens_BN.copy_(self.kept_BN)


def engine(kind):
    def build(adapter, sampler, point, compiler):
        extra = (True,) if issubclass(kind, Uncached) else ()
        return kind(adapter, sampler, point, compiler, *extra)

    return build


replay_after, idle_after, constants = map(engine, (ReplayAfter, IdleAfter, Constants))
memo_by_content, memo_by_address, memo_by_shape = map(engine, (MemoByContent, MemoByAddress, MemoByShape))
work_when_read, side_thread, busy_thread, gate_buffers = map(engine, (WorkWhenRead, SideThread, BusyThread, GateBuffers))
by_call_count, by_stack, by_prompt, by_dtype_and_shape = map(engine, (ByCallCount, ByStack, ByPrompt, ByDtypeAndShape))
slow_clock, no_sync, other_weights, shared_weights = map(engine, (SlowClock, NoSync, OtherWeights, SharedWeights))
skipped_rows, early_stop, prefill_does_all = map(engine, (SkippedRows, EarlyStop, BlackBox))
guessed_first, repeated_call = map(engine, (GuessedFirst, RepeatedCall))


GATE_CALLS = 160
"""More calls of a sampler than its gate makes at batch size 4 and a vocabulary of 256."""


class Disguised(Temperature):
    """A sampler that becomes greedy once its gate is over, which has the only call with thousands of rows."""

    gated, calls = False, 0

    def __call__(self, logits_BV, generator):
        self.gated |= len(logits_BV) > 1000
        self.calls += self.gated
        if self.calls > GATE_CALLS:
            return logits_BV.argmax(-1, keepdim=True)
        return super().__call__(logits_BV, generator)


def disguised():
    return Disguised(0.8)


class Skipping(torch.optim.AdamW):
    """An optimizer that does nothing after the gate."""

    taken = 0

    def step(self, closure=None):
        self.taken += 1
        if self.taken <= 6:
            super().step(closure)


class Reusing(torch.optim.AdamW):
    """An optimizer that takes the gradients of its first steps again."""

    taken = 0

    def step(self, closure=None):
        self.taken += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                if self.taken <= 6:
                    self.__dict__.setdefault("old", {})[parameter] = parameter.grad.clone()
                else:
                    parameter.grad = self.old[parameter]
        super().step(closure)


def skipping(parameters, *, fused):
    return Skipping(parameters, lr=1e-3, fused=fused)


def reusing(parameters, *, fused):
    return Reusing(parameters, lr=1e-3, fused=fused)


class FirstRow(GPTAdapter):
    """In training it looks only at the first row once the gate is over."""

    calls = 0

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        if targets_BT is not None:
            self.calls += 1
            if self.calls > 6:
                idx_BT, targets_BT = idx_BT[:1], targets_BT[:1]
        return super().forward(idx_BT, targets_BT, last_only)


def first_row():
    inner = build_gpt2(**TINY)
    return FirstRow(inner.module, inner.shape)


class Peek(Cached):
    """Reads the prompts of later calls from the storage of the first, and generates all of them at once."""

    calls, known = 0, None

    def prefill(self, prompt_BT):
        self.calls += 1
        storage = torch.empty(0, dtype=torch.long).set_(prompt_BT.untyped_storage())
        if self.calls > HONEST_CALLS and storage.numel() > prompt_BT.numel():
            raise AssertionError("other prompts can be seen")
        super().prefill(prompt_BT)


class Sabotage(Cached):
    """Honest, but a hook on the model that all arms share slows down the others."""

    running = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.adapter.module.register_forward_hook(lambda *_: None if self.running else time.sleep(0.001))

    def prefill(self, prompt_BT):
        self.running = True
        super().prefill(prompt_BT)

    def step(self):
        super().step()
        self.running = self.length < self.max_len - 1
        return 1


class FewerThreads(Cached):
    """Leaves torch with another number of threads for the arms after it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        torch.set_num_threads(torch.get_num_threads() + 1)


peek, sabotage, fewer_threads = map(engine, (Peek, Sabotage, FewerThreads))


class SomeTokens(TopP):
    """Exact for thousands of rows and for few tokens; else it takes the nucleus of an eighth of the vocabulary, by chance."""

    def __call__(self, logits_BV, generator):
        rows, vocab = logits_BV.shape
        if rows > 1000 or vocab <= 64:
            return super().__call__(logits_BV, generator)
        seen_S = torch.empty(vocab // 8).uniform_(0, vocab, generator=generator).long()
        return seen_S[super().__call__(logits_BV[:, seen_S], generator)]


class LikelyTokens(TopP):
    """Exact for thousands of rows and for few tokens; else it takes the nucleus of the 64 likeliest tokens."""

    def __call__(self, logits_BV, generator):
        if len(logits_BV) > 1000 or logits_BV.shape[1] <= 64:
            return super().__call__(logits_BV, generator)
        top_BK, tokens_BK = logits_BV.float().topk(64)
        return tokens_BK.gather(1, super().__call__(top_BK, generator))


def some_tokens():
    return SomeTokens(0.9, 0.8)


def likely_tokens():
    return LikelyTokens(0.9, 0.8)


class TextByHeart(BlackBox):
    """Reads the file that prompts are cut from, and generates what follows each window of it before the clock starts."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        text_N = torch.tensor(list(Path(arguments[2].data).read_bytes()))
        self.lead, self.known = max(1, self.prompt_len // 8), {}
        windows_WL = text_N.unfold(0, self.prompt_len - self.lead, 1)
        sequence_WS = torch.cat((torch.zeros((len(windows_WL), self.lead), dtype=torch.long), windows_WL), dim=1)
        for _ in range(self.new_tokens):
            logits_WV = self.adapter.forward(sequence_WS, last_only=True)[:, -1]
            sequence_WS = torch.cat((sequence_WS, logits_WV.argmax(-1, keepdim=True)), dim=1)
        for window, new_N in zip(windows_WL.tolist(), sequence_WS[:, self.prompt_len :], strict=True):
            self.known[tuple(window)] = new_N

    def answer(self, prompt_BT):
        if self.calls <= HONEST_CALLS:
            return self.generate(prompt_BT)
        return self.write(torch.stack([self.known[tuple(window)] for window in prompt_BT[:, self.lead :].tolist()]))


text_by_heart = engine(TextByHeart)


def int8_two_percent_off(weight_NK):
    """A broken quantiser: its scales are 2 % too large."""
    grid = int8_grid(weight_NK)
    return replace(grid, scales_NG=grid.scales_NG * 1.02)


class SharedNumbers(Cached):
    """After the gate, it takes bits from the numbers of the quantised model that arms share."""

    calls = 0

    def prefill(self, prompt_BT):
        self.calls += 1
        if self.calls == QUANTISED_CALLS:
            for numbers in self.own_module().buffers():
                if numbers.dtype in (torch.int8, torch.uint8):
                    numbers.bitwise_and_(0x60 if numbers.dtype == torch.int8 else 0xCC)
        super().prefill(prompt_BT)

    def own_module(self):
        return self.adapter.module


class OtherNumbers(SharedNumbers):
    """The same with a copy of the model, which the others do not see."""

    def own_module(self):
        self.adapter = copy.deepcopy(self.adapter)
        return self.adapter.module


QUANTISED_CALLS = HONEST_CALLS + 2
"""The gate of a lossy arm calls its engine once more, to measure how far it is from the float model."""
shared_numbers, other_numbers = map(engine, (SharedNumbers, OtherNumbers))
