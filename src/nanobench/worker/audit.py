"""How published scripts measured: each function is one faulty method, and returns what it would publish.

Only the method is faulty: model and machine are those of our own sweep. Where ours cannot be read from that sweep, a function
returns it too. Sources of the faults: docs/audit.md.

Shapes: B rows, T tokens, V vocabulary.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.engines.base import Engine
from nanobench.engines.cached import Cached
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.records import JsonObject
from nanobench.samplers.base import Sampler
from nanobench.schema import Point
from nanobench.worker.workloads.generate import load

BLOCKS = 8
"""Repetitions of a method that repeats."""
WARM_UP_TOKENS = 5
"""Tokens of the prompt with which scripts warm up."""
Choose = Callable[[Tensor], Tensor]
"""Logits [B, V] -> tokens [B, 1]."""


def argmax(logits_BV: Tensor) -> Tensor:
    """The most probable tokens."""
    return logits_BV.argmax(-1, keepdim=True)


def sample(logits_BV: Tensor) -> Tensor:
    """Tokens at temperature 1."""
    return torch.multinomial(F.softmax(logits_BV.float(), -1), 1)


def prompt_of(adapter: Adapter, rows: int, length: int) -> Tensor:
    """Random tokens [B, T]."""
    tokens = torch.randint(adapter.shape.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    return tokens.to(next(adapter.module.parameters()).device)


def synchronize(tensor: Tensor) -> None:
    """Waits for the device."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def uncached_call(adapter: Adapter, tokens_BT: Tensor, new: int, choose: Choose = argmax, waits: bool = False) -> None:
    """Reads the whole sequence for each token."""
    for _ in range(new):
        logits_BV = adapter.forward(tokens_BT, last_only=True)[:, -1]
        tokens_BT = torch.cat((tokens_BT, choose(logits_BV)), dim=1)
        if waits:
            synchronize(tokens_BT)


def cached_call(
    adapter: Adapter, tokens_BT: Tensor, new: int, choose: Choose = argmax, waits: bool = False, lag: int = 0
) -> None:
    """Reads each token once. With `lag`, positions stay that much behind from the second step on."""
    length = tokens_BT.shape[1]
    cache = adapter.make_cache(len(tokens_BT), length + new, "cat")
    pos_N = torch.arange(length + new, device=tokens_BT.device)
    logits, cache = adapter.forward_cached(tokens_BT, pos_N[:length], cache)
    for step in range(new - 1):
        token_B1 = choose(logits[:, -1])
        position = length + step - (lag if step else 0)
        logits, cache = adapter.forward_cached(token_B1, pos_N[position : position + 1], cache)
        if waits:
            synchronize(token_B1)
    choose(logits[:, -1])


def seconds(call: Callable[[], None], tensor: Tensor) -> float:
    """The wall time of a call, until the device is idle."""
    synchronize(tensor)
    start = time.perf_counter()
    call()
    synchronize(tensor)
    return time.perf_counter() - start


class Script:
    """A script's model and prompt."""

    def __init__(self, point: JsonObject) -> None:
        self.point = Point(**point)
        torch.set_num_threads(self.point.threads)
        self.adapter = load(self.point, seed=0)
        self.prompt_BT = prompt_of(self.adapter, self.point.batch_size, self.point.prompt_len)
        self.new = self.point.new_tokens

    def uncached(self, **how: Any) -> float:
        """Seconds of an uncached call."""
        return seconds(lambda: uncached_call(self.adapter, self.prompt_BT, self.new, **how), self.prompt_BT)

    def cached(self, **how: Any) -> float:
        """Seconds of a cached call."""
        return seconds(lambda: cached_call(self.adapter, self.prompt_BT, self.new, **how), self.prompt_BT)


@torch.inference_mode()
def other_warm_up(point: JsonObject) -> JsonObject:
    """Warms up one short row, then runs each arm once at the measured shape."""
    script = Script(point)
    short_1T = script.prompt_BT[:1, :WARM_UP_TOKENS]
    uncached_call(script.adapter, short_1T, 2)
    cached_call(script.adapter, short_1T, 2)
    return {"published": script.uncached() / script.cached()}


@torch.inference_mode()
def one_run(point: JsonObject) -> JsonObject:
    """Warms up at the measured shape, then runs each arm once, uncached first."""
    script = Script(point)
    script.uncached()
    script.cached()
    return {"published": script.uncached() / script.cached()}


@torch.inference_mode()
def last_token_ttft(point: JsonObject) -> JsonObject:
    """The stamp of the first token is set in each step of an uncached loop, because its branch asks for an empty cache; ours:
    that of the first step.
    """
    script = Script(point)
    script.uncached()
    first_s, last_s = [], []
    for _ in range(BLOCKS):
        tokens_BT, stamps_s = script.prompt_BT, []
        for _ in range(script.new):
            start = time.perf_counter()
            logits_BV = script.adapter.forward(tokens_BT, last_only=True)[:, -1]
            synchronize(tokens_BT)
            stamps_s.append(time.perf_counter() - start)
            tokens_BT = torch.cat((tokens_BT, argmax(logits_BV)), dim=1)
        first_s.append(stamps_s[0])
        last_s.append(stamps_s[-1])
    return {"published": median(last_s), "ours": first_s}


@torch.inference_mode()
def sampling_in_one_arm(point: JsonObject) -> JsonObject:
    """The uncached arm takes the most probable token, the cached arm samples: the median ratio of interleaved calls."""
    script = Script(point)
    script.uncached()
    script.cached(choose=sample)
    return {"published": median(script.uncached() / script.cached(choose=sample) for _ in range(BLOCKS))}


@torch.inference_mode()
def autocast_per_run(point: JsonObject) -> JsonObject:
    """TTFT in a new context of autocast in each run, which converts all weights; ours: in one that was kept."""
    script = Script(point)
    if script.point.dtype != "float32":
        raise Skip("autocast converts float32 weights: needs --dtype float32")
    published, ours = [], []

    def prefill() -> None:
        script.adapter.forward(script.prompt_BT, last_only=True)

    for _ in range(BLOCKS + 1):
        with torch.autocast(script.prompt_BT.device.type, torch.bfloat16):
            published.append(seconds(prefill, script.prompt_BT))
            ours.append(seconds(prefill, script.prompt_BT))
    return {"published": median(published[1:]), "ours": ours[1:]}


@torch.inference_mode()
def wait_per_token(point: JsonObject) -> JsonObject:
    """Waits for the device after each token, so that no step is prepared while the one before runs."""
    script = cuda_script(point)
    script.cached(waits=True)
    return {"published": median(script.cached(waits=True) for _ in range(BLOCKS))}


@torch.inference_mode()
def no_wait(point: JsonObject) -> JsonObject:
    """Stops the clock while the device still works."""
    script = cuda_script(point)
    script.uncached()
    start = time.perf_counter()
    uncached_call(script.adapter, script.prompt_BT, script.new)
    published = time.perf_counter() - start
    synchronize(script.prompt_BT)
    return {"published": published}


def cuda_script(point: JsonObject) -> Script:
    """A script on a GPU. Raises Skip on a CPU, where each call returns when its work is done."""
    if point["device"] == "cpu":
        raise Skip("on a CPU each call returns when its work is done: needs --device cuda")
    return Script(point)


def no_optimizer(point: JsonObject) -> JsonObject:
    """Bytes of a training step without the optimizer's state, as a search for a batch size counts them; ours: with it."""
    script = Script(point)
    module = script.adapter.module.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(module.parameters())
    script.adapter.forward(script.prompt_BT, script.prompt_BT).backward()
    weights = [each for each in module.parameters() if each.grad is not None]
    published = sum(each.nbytes + each.grad.nbytes for each in weights if each.grad is not None)
    optimizer.step()
    state = [tensor for each in optimizer.state.values() for tensor in each.values() if isinstance(tensor, Tensor)]
    return {"published": published, "ours": [published + sum(each.nbytes for each in state)]}


@torch.inference_mode()
def other_work(point: JsonObject) -> JsonObject:
    """The cached arm embeds each token at the position of the one before: the median ratio of interleaved calls."""
    script = Script(point)
    script.uncached()
    script.cached(lag=1)
    return {"published": median(script.uncached() / script.cached(lag=1) for _ in range(BLOCKS))}


@torch.inference_mode()
def blocks(point: JsonObject) -> JsonObject:
    """Two equal arms, all calls of the first before all calls of the second."""
    script = Script(point)
    script.uncached()
    first = [script.uncached() for _ in range(BLOCKS)]
    second = [script.uncached() for _ in range(BLOCKS)]
    return {"published": (sum(first) / BLOCKS) / (sum(second) / BLOCKS)}


class LaggingPosition(Cached):
    """The engine of `other_work`: after the first step it embeds each token at the position of the one before."""

    def _decode(self) -> Tensor:
        token_B1 = self.tokens_BN.index_select(1, self.pos_1)
        is_first = self.pos_1 == self.prompt_T[-1:] + 1
        position = torch.where(is_first, self.pos_1, self.pos_1 - 1)
        logits_B1V, self.cache = self.adapter.forward_cached(token_B1, position, self.cache)
        self.pos_1 += 1
        self.tokens_BN.index_copy_(1, self.pos_1, self.sampler(logits_B1V[:, -1], self.generator))
        return logits_B1V[:, -1]


def lagging_position(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> Engine:
    """The engine whose positions lag."""
    return LaggingPosition(adapter, sampler, point, compiler)


METHODS: dict[str, Callable[[JsonObject], JsonObject]] = {
    method.__name__.replace("_", "-"): method
    for method in (
        other_warm_up,
        one_run,
        last_token_ttft,
        sampling_in_one_arm,
        autocast_per_run,
        wait_per_token,
        no_wait,
        no_optimizer,
        other_work,
        blocks,
    )
}
"""Name -> the method."""


def publish(name: str, point: JsonObject) -> JsonObject:
    """What a method would publish; the reason where it cannot be tried here."""
    try:
        return METHODS[name](point)
    except Skip as error:
        return {"skipped": str(error)}
