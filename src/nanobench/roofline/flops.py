"""Operations and bytes of generation and training, in closed form from a GPT's sizes, per forward pass.

Operations are counted as in Kaplan et al. 2020 ("Scaling Laws for Neural Language Models", section 2.1): the matmul of an
[m, k] and a [k, n] matrix has 2 m k n of them. Norms, activations and additions count no operations, only bytes.
*Executed* operations are those that an engine performs, including padding, masked positions and repeated prefixes. *Useful*
operations are the minimum for the same tokens: each token is processed once, attends to its true context, and only generated
tokens need logits.

In a layer with a window of W positions a single new token attends to the last W. A pass over several tokens attends to all of
them, and a mask hides those outside of the window: they count as executed, not as useful.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

from nanobench.schema import DTYPE_BYTES, GPTShape, Point

BUCKET = 512
"""The number of attended positions of a captured step is a multiple of this."""
INT4_GROUPS = (128, 64, 32)
"""Inputs of a layer that share a scale and a zero point of int4 weights: the first that divides the width."""


@dataclass(frozen=True)
class Pass:
    """One forward pass over `rows` sequences: each has `tokens` new tokens, which attend to `context` positions each."""

    rows: int
    tokens: int
    context: int
    """in layers without a window"""
    logits_positions: int
    """positions of each row for which logits are computed"""
    kv_read: int = 0
    """positions of each row whose keys and values are read from a cache, in layers without a window"""
    kv_written: int = 0
    """positions of each row whose keys and values are written to a cache"""
    gathers: bool = False
    """whether the positions of a window are copied out of the cache before they are read: where a step is compiled or captured,
    it has no view of them"""
    sampled_positions: int = 1
    """positions of each row whose logits are read to choose tokens"""

    def attended(self, window: int | None) -> int:
        """Positions that a token attends to in layers with a window; masked ones count."""
        return min(self.context, window) if window is not None and self.tokens == 1 else self.context

    def gathered(self, window: int | None) -> int:
        """Positions that are copied out of the cache in layers with a window."""
        return self.attended(window) if self.gathers and self.attended(window) < self.context else 0

    def kv_attended(self, window: int | None) -> int:
        """As `kv_read` in layers with a window; the context where no cache is read."""
        return (self.kv_read or self.context) - self.context + self.attended(window)

    def kv_moved(self, window: int | None) -> int:
        """Positions whose keys and values are read from or written to a cache in layers with a window."""
        read = self.kv_attended(window) if self.kv_read else 0
        return read + self.kv_written + 2 * self.gathered(window)


@dataclass(frozen=True)
class Cost:
    """Executed operations and moved bytes of a pass or a sum of passes."""

    matmul_flops: float
    """matmuls with weights"""
    attention_flops: float
    weight_bytes: float
    """parameters that are read; of embedding tables only the rows that are looked up"""
    kv_bytes: float
    """cached keys and values, read and written"""
    matmul_io_bytes: float
    """inputs and outputs of matmuls and attention, without weights and cache"""
    elementwise_bytes: float
    """inputs and outputs of norms, activations and additions"""
    logits_bytes: float
    """all logits when they are written, and those that are read to choose tokens"""

    @property
    def flops(self) -> float:
        """All operations."""
        return self.matmul_flops + self.attention_flops

    @property
    def bytes(self) -> float:
        """All bytes; an operand counts once per operation that reads or writes it."""
        return self.weight_bytes + self.kv_bytes + self.matmul_io_bytes + self.elementwise_bytes + self.logits_bytes

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


NOTHING = Cost(*[0.0] * len(fields(Cost)))


def weight_width(shape: GPTShape, dtype: str, weights: str = "float") -> float:
    """Bytes of a weight of a matmul, with its share of the scales: one per output of int8, two per group of int4.

    Scales count as if every matmul had `n_embd` inputs.
    """
    size = DTYPE_BYTES[dtype]
    if weights == "float":
        return size
    group = next((each for each in INT4_GROUPS if shape.n_embd % each == 0), INT4_GROUPS[-1])
    return 1 + size / shape.n_embd if weights == "int8" else 0.5 + 2 * size / group


def read_bytes(shape: GPTShape, dtype: str, weights: str = "float") -> float:
    """Bytes of the parameters that every pass reads; the weights of matmuls may be narrower than the dtype."""
    size, matmul_params = DTYPE_BYTES[dtype], shape.block_params + shape.head_params
    return size * shape.read_params - (size - weight_width(shape, dtype, weights)) * matmul_params


def head_bytes(shape: GPTShape, dtype: str, weights: str = "float") -> float:
    """Bytes of the weights of lm_head."""
    return weight_width(shape, dtype, weights) * shape.head_params


def cost(shape: GPTShape, dtype: str, one: Pass, weights: str = "float") -> Cost:
    """Operations and bytes of one pass.

    Each operation of a block reads its input and writes its output once. With width C, joint width Q of query, key and value
    and the latent of MLA, width A of the output of all heads (mostly C), and width M of the MLP, matmuls and attention move
    (C + Q) + (Q + A) + (A + C) values per token and layer, and C + M for each matmul of the MLP; two norms, two additions
    and the activation 4 C + 6 C + 2 M, and the multiplication by a gate 3 M.
    """
    size, tokens = DTYPE_BYTES[dtype], one.rows * one.tokens
    width, layers, matmuls = shape.n_embd, shape.n_layer, shape.mlp_matmuls
    joined = shape.attention_width + shape.qkv_width + (shape.latent_width or 0)
    logits = one.rows * (one.logits_positions + one.sampled_positions) * (shape.vocab_rows or shape.vocab_size)
    attentions = layer_attentions(shape, dtype, one)
    return Cost(
        matmul_flops=2.0 * (tokens * shape.block_params + one.rows * one.logits_positions * shape.head_params),
        attention_flops=sum(each.flops for each in attentions),
        weight_bytes=read_bytes(shape, dtype, weights)
        + size * tokens * (width if shape.lookup_width is None else shape.lookup_width),
        kv_bytes=sum(each.kv_bytes for each in attentions),
        matmul_io_bytes=size * tokens * layers * (2 * (width + joined) + matmuls * (width + shape.mlp_width)),
        elementwise_bytes=size * tokens * layers * (10 * width + (3 * matmuls - 4) * shape.mlp_width),
        logits_bytes=float(size * logits),
    )


class LayerAttention(NamedTuple):
    """The attention of all layers that have the same window, in one pass."""

    flops: float
    kv_bytes: float
    """cached keys and values, read and written"""
    read_bytes: float
    """keys and values that attention reads, cached or not"""
    layer_bytes: float
    """the same in one layer, with what a growing cache reads to copy it"""


def windows(shape: GPTShape) -> list[tuple[int, int | None]]:
    """How many layers have which window; None: they attend to all positions."""
    windowed = 0 if shape.window is None else shape.n_layer if shape.windowed_layers is None else shape.windowed_layers
    return [pair for pair in ((shape.n_layer - windowed, None), (windowed, shape.window)) if pair[0]]


def layer_attentions(shape: GPTShape, dtype: str, one: Pass) -> list[LayerAttention]:
    """The attention of one pass, by window. A single token over a cache of latents attends to these themselves."""
    over_latents = shape.latent_width is not None and one.tokens == 1 and one.kv_read > 0
    width = shape.n_head * (shape.latent_width or 0) if over_latents else shape.attention_width
    row_bytes = one.rows * shape.kv_width * DTYPE_BYTES[dtype]
    return [
        LayerAttention(
            flops=4.0 * one.rows * one.tokens * one.attended(window) * layers * width,
            kv_bytes=float(row_bytes * layers * one.kv_moved(window)),
            read_bytes=float(row_bytes * layers * one.attended(window)),
            layer_bytes=float(row_bytes * one.kv_attended(window)),
        )
        for layers, window in windows(shape)
    ]


def cache_copy_bytes(one: Pass, shape: GPTShape, dtype: str) -> float:
    """Bytes read and written to copy a cache that grows by a copy, or a window out of a cache; 0 where nothing is copied."""
    grown = max(0, one.kv_written - one.tokens)
    copied = sum(layers * (grown + one.gathered(window)) for layers, window in windows(shape))
    return 2.0 * one.rows * copied * shape.kv_width * DTYPE_BYTES[dtype]


def matrix_bytes(shape: GPTShape, dtype: str, weights: str = "float") -> float:
    """Mean bytes of the weights of a matmul in a block; query, key and value count as one."""
    return weight_width(shape, dtype, weights) * shape.block_params / shape.n_layer / (2 + shape.mlp_matmuls)


def kv_bytes_per_token(shape: GPTShape, dtype: str, kv_cache: str = "float") -> int:
    """Bytes of keys and values that one token of one row adds to a cache; in an int8 cache with a scale for each head."""
    if kv_cache == "float":
        return shape.kv_bytes_per_token(dtype)
    return 2 * shape.n_layer * shape.n_kv_head * (shape.head_dim + DTYPE_BYTES[dtype])


def uncached(point: Point, last_only: bool = True) -> list[Pass]:
    """Every step processes the whole sequence again."""
    lengths = range(point.prompt_len, point.total_len)
    return [Pass(point.batch_size, length, length, 1 if last_only else length) for length in lengths]


def prefix(point: Point) -> list[Pass]:
    """A preallocated cache: every step attends to its filled positions."""
    lengths = range(point.prompt_len + 1, point.total_len)
    return [prompt(point), *[Pass(point.batch_size, 1, length, 1, kv_read=length, kv_written=1) for length in lengths]]


def static(point: Point) -> list[Pass]:
    """A preallocated cache: every step attends to all positions, with empty ones masked; in a window to copies of them."""
    total = point.total_len
    step = Pass(point.batch_size, 1, total, 1, kv_read=total, kv_written=1, gathers=True)
    return [prompt(point), *[step] * (point.new_tokens - 1)]


def buckets(point: Point) -> list[Pass]:
    """A preallocated cache: every step attends to its filled positions, rounded up to a bucket, with empty ones masked."""
    lengths = [bucket(length, point.total_len) for length in range(point.prompt_len + 1, point.total_len)]
    steps = [Pass(point.batch_size, 1, each, 1, kv_read=each, kv_written=1, gathers=True) for each in lengths]
    return [prompt(point), *steps]


def bucket(length: int, maximum: int) -> int:
    """A length rounded up to a multiple of BUCKET, but at most `maximum`."""
    return min(maximum, -(-length // BUCKET) * BUCKET)


def cat(point: Point) -> list[Pass]:
    """A cache grown by torch.cat: every step copies the filled positions once and attends to them."""
    lengths = range(point.prompt_len + 1, point.total_len)
    steps = [Pass(point.batch_size, 1, length, 1, kv_read=2 * length - 1, kv_written=length) for length in lengths]
    return [prompt(point), *steps]


def shared_prompt(point: Point, steps: Callable[[Point], list[Pass]]) -> list[Pass]:
    """Steps of another way, after a prompt that is read once: its keys and values are copied to all other rows."""
    length = point.prompt_len
    first = Pass(1, length, length, 1, kv_read=length, kv_written=point.batch_size * length)
    return [first, *steps(point)[1:]]


def prompt(point: Point) -> Pass:
    """The prefill of a prompt into an empty cache."""
    length = point.prompt_len
    return Pass(point.batch_size, length, length, 1, kv_read=length, kv_written=length)


KV_ACCESS: dict[str, Callable[[Point], list[Pass]]] = {
    "uncached": uncached,
    "uncached-full-logits": lambda point: uncached(point, last_only=False),
    "prefix": prefix,
    "buckets": buckets,
    "static": static,
    "cat": cat,
    "shared-prompt": lambda point: shared_prompt(point, prefix),
    "shared-prompt-static": lambda point: shared_prompt(point, static),
}
"""How an engine reads keys and values -> the passes of a call. An engine has its name in the attribute `kv_access`."""


def useful_flops(shape: GPTShape, point: Point) -> float:
    """The minimum operations of a call: each token processed once, attention over true contexts, logits of new tokens only. A
    prompt that all rows share is processed once.
    """
    read = point.total_len - 1
    per_row = 2.0 * (read * shape.block_params + point.new_tokens * shape.head_params)
    again = 0.0
    if point.shared_prompt == "on":
        length = point.prompt_len
        prompt_flops = 2.0 * (length * shape.block_params + shape.head_params)
        again = (point.batch_size - 1) * (prompt_flops + 4.0 * useful_positions(shape, length) * shape.attention_width)
    return point.batch_size * (per_row + 4.0 * useful_positions(shape, read) * shape.attention_width) - again


def useful_positions(shape: GPTShape, length: int) -> int:
    """The positions that all tokens of a row attend to together, without masked ones, over all layers."""
    return sum(layers * in_window(length, window) for layers, window in windows(shape))


def in_window(length: int, window: int | None) -> int:
    """The positions that all tokens of a row attend to together, in a layer with this window."""
    whole = length if window is None else min(length, window)
    return whole * (whole + 1) // 2 + (length - whole) * whole


def naive_speedup(point: Point, reference: str = "uncached", kv_access: str = "static") -> float:
    """The speedup of one `kv_access` over another if time were proportional to the processed tokens."""
    return tokens_processed(reference, point) / tokens_processed(kv_access, point)


def tokens_processed(kv_access: str, point: Point) -> int:
    """Processed tokens of a row in a call, as usually quoted: with a cache each token counts once, including the last."""
    return sum(one.tokens for one in KV_ACCESS[kv_access](point)) if kv_access.startswith("uncached") else point.total_len


def training_flops(
    shape: GPTShape, tokens: int, attended_positions: int, recomputed: bool = False, recomputed_logits: bool = False
) -> float:
    """Operations of the forward and backward pass over `tokens` with `attended_positions` in total; backward is twice forward.

    With checkpointing (`recomputed`) the forward pass of the blocks runs twice, the second time without its last matmul, whose
    output is not needed. With a chunked cross entropy (`recomputed_logits`) the logits are computed twice.
    """
    attention = 4.0 * attended_positions * shape.n_layer * shape.attention_width
    forward = 2.0 * tokens * (shape.block_params + shape.head_params) + attention
    last_matmuls = shape.n_layer * shape.n_embd * shape.mlp_width
    recomputation = 2.0 * tokens * (shape.block_params - last_matmuls) + attention
    logits = 2.0 * tokens * shape.head_params
    return 3 * forward + (recomputation if recomputed else 0.0) + (logits if recomputed_logits else 0.0)


def rough_flops(point: Point, shape: GPTShape) -> float:
    """A rough count of a point's operations, to order points by expected time; not used in results."""
    if point.trains:
        return 6.0 * shape.n_params * point.step_tokens
    return 2.0 * shape.n_params * point.batch_size * point.total_len * point.new_tokens
