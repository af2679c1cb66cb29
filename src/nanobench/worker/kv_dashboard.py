"""What attention reads while a model generates: queries, cached keys and values, weights, bytes and operations, step by step.

Every call of `scaled_dot_product_attention` is recorded, whatever the model is: the calls of one pass are its layers in order.

Shapes: B rows, T tokens, H heads, K key-value heads, D head width, S tokens that are attended to.
"""

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from nanobench.errors import Skip, UserError
from nanobench.models.base import Adapter
from nanobench.probes import memory
from nanobench.records import JsonObject
from nanobench.schema import Point
from nanobench.training import tokenizer as tokenizers
from nanobench.training.tokenizer import Tokenizer
from nanobench.worker.arms import outcome_of
from nanobench.worker.sample import prompt_of
from nanobench.worker.workloads.generate import load

CACHES = ("static", "cat")
"""Kinds of caches that are tried, in this order."""
ARGUMENTS = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in {
            **dict.fromkeys(("query", "key", "value"), inspect.Parameter.empty),
            **{"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False},
        }.items()
    ]
)
"""The parameters of scaled_dot_product_attention, which is built in and has no signature."""


@dataclass(frozen=True)
class Attended:
    """What the newest token's query of one head attends to, in the first row."""

    query_D: Tensor
    keys_SD: Tensor
    values_SD: Tensor
    weights_S: Tensor


class Recorder(TorchFunctionMode):
    """Keeps the arguments of each call of scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls the function, and keeps what it reads."""
        if function is F.scaled_dot_product_attention:
            self.calls.append(dict(ARGUMENTS.bind(*args, **(kwargs or {})).arguments))
        return function(*args, **(kwargs or {}))


def attended(call: Mapping[str, Any], head: int, n_head: int) -> Attended:
    """The part of a call that concerns the newest token of the first row."""
    q_HTD, k_KSD, v_KSD = (call[name][0] for name in ("query", "key", "value"))
    if len(q_HTD) != n_head:
        # The query heads of a group as the rows of one query: a decode step of a model with grouped heads.
        q_HTD = q_HTD.reshape(n_head, 1, -1)
    of_group = head // (n_head // len(k_KSD))
    query_D, keys_SD, values_SD = q_HTD[head, -1].double(), k_KSD[of_group].double(), v_KSD[of_group].double()
    scale = call.get("scale") or q_HTD.shape[-1] ** -0.5
    scores_S = scale * keys_SD @ query_D
    mask = call.get("attn_mask")
    if mask is not None:
        last_S = mask_of(mask, head)
        scores_S = scores_S.masked_fill(~last_S, float("-inf")) if last_S.dtype == torch.bool else scores_S + last_S
    elif call.get("is_causal"):
        scores_S[q_HTD.shape[1] :] = float("-inf")
    seen_S = scores_S > float("-inf")
    return Attended(query_D, keys_SD[seen_S], values_SD[seen_S], torch.softmax(scores_S[seen_S], 0))


def mask_of(mask: Tensor, head: int) -> Tensor:
    """The mask [S] of the newest token of the first row."""
    while mask.dim() > 3:
        mask = mask[0]
    if mask.dim() == 3:
        mask = mask[min(head, len(mask) - 1)]
    return mask[-1]


@dataclass
class Generating:
    """A model that generates greedily, with its cache where it has one."""

    adapter: Adapter
    tokens_BS: Tensor
    total: int
    """tokens of the prompt and new ones"""
    cache: Any = None
    read: int = 0
    """tokens that the cache holds"""

    def __post_init__(self) -> None:
        for kind in CACHES:
            try:
                self.cache = self.adapter.make_cache(len(self.tokens_BS), self.total, kind)
                return
            except Skip:
                continue

    @property
    def is_cached(self) -> bool:
        """Whether the model has a cache."""
        return self.cache is not None

    def step(self) -> None:
        """One pass: over the tokens that the cache does not hold; over all of them without a cache. Adds a token."""
        if self.is_cached:
            new_BT = self.tokens_BS[:, self.read :]
            pos_T = torch.arange(self.read, self.tokens_BS.shape[1], device=new_BT.device)
            logits, self.cache = self.adapter.forward_cached(new_BT, pos_T, self.cache)
            self.read = self.tokens_BS.shape[1]
        else:
            logits = self.adapter.forward(self.tokens_BS, last_only=True)
        self.tokens_BS = torch.cat((self.tokens_BS, logits[:, -1].argmax(-1, keepdim=True)), dim=1)


def record(request: JsonObject) -> JsonObject:
    """What was requested, and whether the weights are random. A mistake of the user is returned as `user_error`."""
    point = Point(**request["point"])
    torch.set_num_threads(point.threads)
    try:
        with memory.limited(request["memory_limit_bytes"]), torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
            found = KINDS[request["what"]](request, point)
            return {**found, "random_weights": has_random_weights(point, request["seed"])}
    except UserError as error:
        return {"user_error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"user_error": f"model {point.model!r} cannot be recorded: {outcome_of(error).reason}"}


def has_random_weights(point: Point, seed: int) -> bool:
    """Whether another seed gives other weights; those of a checkpoint stay."""
    first, second = (weight_sums(point, each) for each in (seed, seed + 1))
    return first != second


def weight_sums(point: Point, seed: int) -> list[float]:
    """The sum of each parameter of the model that a seed gives."""
    return [float(each.double().sum()) for each in load(point, seed).module.parameters()]


def begin(request: JsonObject, point: Point, rows: int = 1) -> tuple[Generating, Tokenizer]:
    """The model behind its prompt."""
    tokenizer, adapter = tokenizers.find(request["tokenizer"]), load(point, request["seed"])
    prompt_1T = prompt_of(request["prompt"], tokenizer, adapter.shape, point).to(point.device)
    return Generating(adapter, prompt_1T.repeat(rows, 1), prompt_1T.shape[1] + point.new_tokens), tokenizer


def recorded_pass(running: Generating, request: JsonObject) -> list[dict[str, Any]]:
    """The calls of one pass. Raises UserError where there are none, or not those of the requested layer and head."""
    with Recorder() as recorder:
        running.step()
    layers, heads, model = len(recorder.calls), running.adapter.shape.n_head, request["point"]["model"]
    if not layers:
        what = f"model {model!r} calls no scaled_dot_product_attention, so its attention cannot be recorded"
        raise UserError(f"{what}; give another model, or let it call torch.nn.functional.scaled_dot_product_attention")
    for name, most in (("layer", layers), ("head", heads)):
        if not 0 <= request[name] < most:
            raise UserError(f"--{name} {request[name]} is not in model {model!r}; give 0 to {most - 1}")
    return recorder.calls


def attention(request: JsonObject, point: Point) -> JsonObject:
    """One layer and head: the query of each step, what it attends to, and with which weights. `first` is the position of the
    first token that is attended to: with a window, the last ones are.
    """
    running, tokenizer = begin(request, point)
    prompt, steps = running.tokens_BS[0].tolist(), list[JsonObject]()
    for _ in range(point.new_tokens):
        newest = int(running.tokens_BS[0, -1])
        calls = recorded_pass(running, request)
        found = attended(calls[request["layer"]], request["head"], running.adapter.shape.n_head)
        steps.append(
            {
                "token": newest,
                "query": found.query_D.tolist(),
                "keys": found.keys_SD.tolist(),
                "values": found.values_SD.tolist(),
                "weights": found.weights_S.tolist(),
                "first": len(prompt) + len(steps) - len(found.weights_S),
            }
        )
    tokens = running.tokens_BS[0].tolist()
    texts = [tokenizer.decode([token]) for token in tokens]
    return {"prompt_len": len(prompt), "tokens": tokens, "texts": texts, "cached": running.is_cached, "steps": steps}


def work(request: JsonObject, point: Point) -> JsonObject:
    """Operations and bytes of keys and values, with the cache and without, step by step."""
    running, _ = begin(request, point)
    plain, _ = begin(request, point)
    if not running.is_cached:
        raise UserError(f"model {point.model!r} has no cache to compare with; give a model with one, or --what attention")
    plain.cache, steps = None, []
    for _ in range(point.new_tokens):
        cached, uncached = counted(running, request), counted(plain, request)
        steps.append({"cached": cached, "uncached": uncached})
    return {"prompt_len": plain.tokens_BS.shape[1] - point.new_tokens, "steps": steps}


def counted(running: Generating, request: JsonObject) -> JsonObject:
    """Operations of one pass, and bytes of the keys and values that its attention reads, over all layers."""
    counter = FlopCounterMode(display=False)
    before = running.read
    with counter:
        calls = recorded_pass(running, request)
    n_head, computed = running.adapter.shape.n_head, running.tokens_BS.shape[1] - 1 - before
    return {
        "flops": counter.get_total_flops(),
        "kv_bytes": kv_bytes(calls, n_head),
        "new_kv_bytes": kv_bytes(calls, n_head, computed),
    }


def kv_bytes(calls: list[dict[str, Any]], n_head: int, last: int | None = None) -> int:
    """Bytes of the keys and values that the newest token attends to, of all rows, layers and key-value heads; of the `last`
    tokens alone, where that is given.
    """
    total = 0
    for call in calls:
        key, value = call["key"], call["value"]
        length = len(attended(call, 0, n_head).weights_S)
        length = length if last is None else min(length, last)
        # The latents of multi-head latent attention are keys and values at once.
        parts = (key,) if value is key else (key, value)
        total += sum(each[:, :, :length].numel() for each in parts) * key.element_size()
    return total


def batch(request: JsonObject, point: Point) -> JsonObject:
    """Bytes that the last decode step reads at several batch sizes: the weights once, keys and values of every row."""
    sizes = []
    for rows in request["batch"]:
        running, _ = begin(request, point, rows)
        calls: list[dict[str, Any]] = []
        for _ in range(point.new_tokens):
            calls = recorded_pass(running, request)
        shape = running.adapter.shape
        weights = running.adapter.shape.read_params * next(running.adapter.module.parameters()).element_size()
        sizes.append({"batch": rows, "weight_bytes": weights, "kv_bytes": kv_bytes(calls, shape.n_head)})
    return {"sizes": sizes, "attended": max(len(attended(call, 0, shape.n_head).weights_S) for call in calls)}


KINDS: Mapping[str, Callable[[JsonObject, Point], JsonObject]] = {"attention": attention, "memory": work, "batch": batch}
"""What can be recorded."""
