"""What generating and training cost, in closed form from a GPT's sizes: operations and bytes, pass by pass.

Operations are counted as in Kaplan et al. 2020 (appendix of "Scaling Laws for Neural Language Models"): a product of an
[m, k] and a [k, n] matrix is 2 m k n of them; norms, activations and additions count as none, their bytes are counted instead.
*Executed* is what an engine really does, padding, masked positions and repeated prefixes included; *useful* is the least
that the same tokens need: every token read once, attention over true contexts, logits for the tokens that are made.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from nanobench.schema import DTYPE_BYTES, GPTShape, Point

BUCKET = 512
"""Positions by which the view of a captured step grows."""


@dataclass(frozen=True)
class Pass:
    """One forward pass: `rows` sequences, each with `tokens` new tokens that look at `context` positions each."""

    rows: int
    tokens: int
    context: int
    logits_positions: int
    """positions of each row for which logits are computed"""
    kv_read: int = 0
    """positions of each row whose keys and values are read from a cache"""
    kv_written: int = 0
    """positions of each row whose keys and values are written to a cache"""


@dataclass(frozen=True)
class Cost:
    """What one pass, or a sum of passes, executes and moves."""

    matmul_flops: float
    """products with weights"""
    attention_flops: float
    weight_bytes: float
    """parameters that are read, of embedding tables the rows that are looked up"""
    kv_bytes: float
    """cached keys and values, read and written"""
    matmul_io_bytes: float
    """what products and attention read and write besides weights and cache"""
    elementwise_bytes: float
    """what norms, activations and additions read and write"""
    logits_bytes: float
    """logits as they are written, and those of the last position as the sampler reads them"""

    @property
    def flops(self) -> float:
        """All operations."""
        return self.matmul_flops + self.attention_flops

    @property
    def bytes(self) -> float:
        """All bytes, each operand counted as often as an operation reads or writes it."""
        return self.weight_bytes + self.kv_bytes + self.matmul_io_bytes + self.elementwise_bytes + self.logits_bytes

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


NOTHING = Cost(*[0.0] * len(fields(Cost)))


def cost(shape: GPTShape, dtype: str, one: Pass) -> Cost:
    """Operations and bytes of one pass.

    Each operation of a block reads its input and writes its output once. With width C, joined width Q of query, key and value
    and width M of the MLP, products and attention move (C + Q) + (Q + C) + 2 C + (C + M) + (M + C) values per token and layer;
    two norms, two additions and the activation 4 C + 6 C + 2 M.
    """
    size, tokens = DTYPE_BYTES[dtype], one.rows * one.tokens
    width, layers = shape.n_embd, shape.n_layer
    logits = one.rows * (one.logits_positions + 1) * shape.vocab_size
    return Cost(
        matmul_flops=2.0 * (tokens * shape.block_params + one.rows * one.logits_positions * shape.head_params),
        attention_flops=4.0 * tokens * one.context * shape.n_layer * shape.n_head * shape.head_dim,
        weight_bytes=size * (shape.read_params + tokens * width),
        kv_bytes=one.rows * (one.kv_read + one.kv_written) * shape.kv_bytes_per_token(dtype),
        matmul_io_bytes=size * tokens * layers * (6 * width + 2 * shape.qkv_width + 2 * shape.mlp_width),
        elementwise_bytes=size * tokens * layers * (10 * width + 2 * shape.mlp_width),
        logits_bytes=float(size * logits),
    )


def matrix_bytes(shape: GPTShape, dtype: str) -> float:
    """Bytes of the weights of one product in a block, four of which a block of a GPT-2 has."""
    return DTYPE_BYTES[dtype] * shape.block_params / shape.n_layer / 4


def attended_kv_bytes(shape: GPTShape, dtype: str, one: Pass) -> float:
    """Bytes of the keys and values that one attention looks at, cached or not."""
    return one.rows * (one.kv_read or one.context) * shape.kv_bytes_per_token(dtype) / shape.n_layer


def uncached(point: Point, last_only: bool = True) -> list[Pass]:
    """Every token reads the whole sequence again."""
    lengths = range(point.prompt_len, point.total_len)
    return [Pass(point.batch_size, length, length, 1 if last_only else length) for length in lengths]


def prefix(point: Point) -> list[Pass]:
    """A preallocated cache: every pass looks at its filled positions."""
    lengths = range(point.prompt_len + 1, point.total_len)
    return [prompt(point), *[Pass(point.batch_size, 1, length, 1, kv_read=length, kv_written=1) for length in lengths]]


def static(point: Point) -> list[Pass]:
    """A preallocated cache: every step looks at all of its positions, the empty ones masked."""
    whole = point.total_len
    return [prompt(point), *[Pass(point.batch_size, 1, whole, 1, kv_read=whole, kv_written=1)] * (point.new_tokens - 1)]


def buckets(point: Point) -> list[Pass]:
    """A preallocated cache: every step looks at its filled positions rounded up, the empty ones masked."""
    seen = [bucket(length, point.total_len) for length in range(point.prompt_len + 1, point.total_len)]
    return [prompt(point), *[Pass(point.batch_size, 1, each, 1, kv_read=each, kv_written=1) for each in seen]]


def bucket(length: int, most: int) -> int:
    """A length rounded up to a multiple of BUCKET, but at most `most`."""
    return min(most, -(-length // BUCKET) * BUCKET)


def cat(point: Point) -> list[Pass]:
    """A cache grown with torch.cat: every pass looks at the filled positions, and copies all of them once."""
    lengths = range(point.prompt_len + 1, point.total_len)
    steps = [Pass(point.batch_size, 1, length, 1, kv_read=2 * length - 1, kv_written=length) for length in lengths]
    return [prompt(point), *steps]


def prompt(point: Point) -> Pass:
    """The pass over a prompt into an empty cache."""
    length = point.prompt_len
    return Pass(point.batch_size, length, length, 1, kv_read=length, kv_written=length)


KV_ACCESS: dict[str, Callable[[Point], list[Pass]]] = {
    "uncached": uncached,
    "uncached-full-logits": lambda point: uncached(point, last_only=False),
    "prefix": prefix,
    "buckets": buckets,
    "static": static,
    "cat": cat,
}
"""How an engine walks through a point; an engine names its own."""


def useful_flops(shape: GPTShape, point: Point) -> float:
    """The least for the point's tokens: each read once, attention over true contexts, logits for the new tokens alone."""
    read = point.total_len - 1
    attended_positions = read * (read + 1) / 2
    per_row = 2.0 * (read * shape.block_params + point.new_tokens * shape.head_params)
    return point.batch_size * (per_row + 4.0 * attended_positions * shape.n_layer * shape.n_head * shape.head_dim)


def naive_speedup(point: Point, reference: str = "uncached", kv_access: str = "static") -> float:
    """How much faster a path would be than another if time were tokens processed."""
    return tokens_processed(reference, point) / tokens_processed(kv_access, point)


def tokens_processed(kv_access: str, point: Point) -> int:
    """Tokens of a row in all passes, as operation counts are quoted: with a cache each token once, the last included."""
    return sum(one.tokens for one in KV_ACCESS[kv_access](point)) if kv_access.startswith("uncached") else point.total_len


@dataclass(frozen=True)
class TrainingStep:
    """Operations and bytes of one optimizer step on one device, without recomputation."""

    forward_flops: float
    backward_flops: float
    """twice the forward pass: gradients of inputs and of weights"""
    optimizer_bytes: float
    """AdamW reads parameters, gradients and both moments, and writes all but the gradients: seven times the parameters"""
    logits_bytes: float
    """written, and read by the loss, at every position"""


def training_step(shape: GPTShape, dtype: str, batch_size: int, seq_len: int) -> TrainingStep:
    """Costs of a step on `batch_size` rows of `seq_len` tokens; the optimizer's state in float32, causal attention in full."""
    whole = cost(shape, dtype, Pass(batch_size, seq_len, seq_len, seq_len))
    logits = batch_size * seq_len * shape.vocab_size
    return TrainingStep(
        forward_flops=whole.flops,
        backward_flops=2 * whole.flops,
        optimizer_bytes=7 * DTYPE_BYTES["float32"] * shape.n_params,
        logits_bytes=2 * DTYPE_BYTES[dtype] * logits,
    )


def training_flops(shape: GPTShape, tokens: int, attended_positions: int, recomputed: bool = False) -> float:
    """Operations of forward and backward passes over tokens that look at so many positions together.

    Where blocks are `recomputed` their forward pass is done twice, without its last product: nobody reads that one's output.
    """
    seen = 4.0 * attended_positions * shape.n_layer * shape.n_head * shape.head_dim
    forward = 2.0 * tokens * (shape.block_params + shape.head_params) + seen
    last_products = shape.n_layer * shape.n_embd * shape.mlp_width
    again = 2.0 * tokens * (shape.block_params - last_products) + seen
    return 3 * forward + (again if recomputed else 0.0)


def rough_flops(point: Point, shape: GPTShape) -> float:
    """Operations of a point, roughly: what grows faster comes later."""
    if point.trains:
        return 6.0 * shape.n_params * point.step_tokens
    return 2.0 * shape.n_params * point.batch_size * point.total_len * point.new_tokens
