"""What is asked, as frozen dataclasses: a model's sizes, a point, an arm, a trial."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

PROTOCOL = 4
"""Rises whenever the way of measuring changes, so that numbers of two protocols are never compared."""
DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
DTYPES = ("float32", "bfloat16", "float16")
REFERENCE_DTYPE = {"float32": "float64", "bfloat16": "float32", "float16": "float32"}
"""In which dtype the correctness reference of a measured dtype is computed."""
COMPILE_MODES: dict[str, dict[str, Any] | None] = {
    "off": None,
    "default": {},
    "dynamic": {"dynamic": True},
    "freeze": {"options": {"freezing": True}},
    "reduce-overhead": {"mode": "reduce-overhead"},
    "max-autotune": {"mode": "max-autotune"},
    "max-autotune-no-cudagraphs": {"mode": "max-autotune-no-cudagraphs"},
}
"""Name -> arguments of torch.compile; None runs the functions as they are. `freeze` takes the weights for constants, which
inductor may lay out anew: for inference only."""
ATTENTIONS = ("auto", "sdpa-math", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn")
"""Kernels of scaled_dot_product_attention; `auto` is torch's own choice."""
GRAPH_MODES = ("reduce-overhead", "max-autotune")
"""Modes that capture CUDA graphs."""
PHASES = ("pretrain", "sft-dynamic", "sft-padded")
"""Rows of full length; conversations padded to the batch's longest; conversations padded to the full length."""
CHECKPOINTING = ("off", "checkpointed")
"""Whether a block's activations are computed again in the backward pass instead of kept."""
OPTIMIZER_KERNELS = ("fused", "foreach")
"""One kernel over all parameters, or torch's list-wise operations."""
SYNTHETIC = "synthetic"
"""Training data that is drawn, not read."""


@dataclass(frozen=True, kw_only=True)
class GPTShape:
    """The sizes of a GPT, from which all costs follow. `n_params` counts a tied head once."""

    architecture: str
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    vocab_size: int
    block_size: int
    n_params: int
    matmul_params: int | None = None
    """weights of all matrix products, the head's included; None for a GPT-2's, whose MLP is four times as wide as the stream"""
    lookup_params: int | None = None
    """parameters of tables that are only looked up, a row at a time; None for all that are in no product"""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def qkv_width(self) -> int:
        """Width of a token's query, key and value together."""
        return (self.n_head + 2 * self.n_kv_head) * self.head_dim

    @property
    def head_params(self) -> int:
        """Weights of the product that gives the logits, tied to the embedding or not."""
        return self.n_embd * self.vocab_size

    @property
    def block_params(self) -> int:
        """Weights of the products in all blocks."""
        if self.matmul_params is not None:
            return self.matmul_params - self.head_params
        return self.n_layer * self.n_embd * (self.qkv_width + self.n_head * self.head_dim + 8 * self.n_embd)

    @property
    def mlp_width(self) -> float:
        """Width of an MLP of two products that has as many weights as this one."""
        return (self.block_params / self.n_layer / self.n_embd - self.qkv_width - self.n_head * self.head_dim) / 2

    @property
    def read_params(self) -> int:
        """Parameters that a pass reads whatever its tokens are: all but the tables that are looked up."""
        if self.lookup_params is not None:
            return self.n_params - self.lookup_params
        return min(self.n_params, self.block_params + self.head_params)

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of keys and values that one token of one row adds to a cache: 2 * layers * kv heads * head width * itemsize."""
        return 2 * self.n_layer * self.n_kv_head * self.head_dim * DTYPE_BYTES[dtype]

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all parameters."""
        return self.n_params * DTYPE_BYTES[dtype]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is run. Every field is an axis of the sweep, a column and a part of the resume key.

    A point is generation or training; the fields of the other are left at their defaults.
    """

    model: str
    """built-in name or dotted path"""
    dtype: str
    device: str
    threads: int
    """CPU threads of the worker"""
    batch_size: int
    """rows; in training of one rank's part of an accumulated batch"""
    prompt_len: int = 0
    """prompt tokens per row"""
    new_tokens: int = 0
    """tokens generated per row"""
    seq_len: int = 0
    """tokens per full row of a training batch"""
    phase: str = ""
    """one of PHASES"""
    data: str = ""
    """synthetic, or the path of a text"""
    tokenizer: str = ""
    """bytes, or the name of one of tiktoken's encodings; empty for synthetic data"""
    optimizer: str = ""
    grad_accum: int = 1
    """batches whose gradients are added up before the optimizer's step"""
    world_size: int = 1
    """processes that train together"""

    @property
    def trains(self) -> bool:
        """Whether this is training."""
        return self.seq_len > 0

    @property
    def total_len(self) -> int:
        """Tokens per row at the end of a call: prompt and output."""
        return self.prompt_len + self.new_tokens

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step over all ranks, if all rows are full."""
        return self.batch_size * self.seq_len * self.grad_accum * self.world_size


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How a point is run. An engine is for generation, checkpointing and the optimizer's kernel for training."""

    engine: str = ""
    compile_mode: str = "off"
    attention: str = "auto"
    sampler: str = "greedy"
    checkpointing: str = "off"
    optimizer_kernel: str = "fused"

    @property
    def label(self) -> str:
        """How tables and plots name the arm: the engine, or eager or compiled, then whatever differs from the plain way."""
        name = self.engine or ("eager" if self.compile_mode == "off" else "compiled")
        return " ".join([name, *unusual(self, but=("engine",)).values()])


def unusual(config_class: Any, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, or have none."""
    plain = {field.name: field.default for field in fields(config_class)}
    return {
        name: value
        for name, value in vars(config_class).items()
        if name not in but and (plain[name] is MISSING or value != plain[name])
    }


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point with all its arms, measured interleaved in one fresh process.

    Its JSON is the worker's input, its hash the resume key.
    """

    point: Point
    arms: tuple[Arm, ...]
    launch: int
    seed: int
    target_ci: float
    max_seconds: float
    memory_limit_bytes: int | None = None
    gate_only: bool = False
    trace: bool = False
    """keep a trace of a few steps of each arm"""
    nvtx: bool = False
    """name the phases for Nsight"""
    identity: str | None = None
    """of machine, software, model and threads: figures of two identities are not compared"""
    protocol: int = PROTOCOL

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that name this trial and no other; what is at its default names nothing."""
        asked = {**unusual(self), "point": unusual(self.point), "arms": [unusual(arm) for arm in self.arms]}
        asked["protocol"] = self.protocol
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Trial":
        """The trial whose `asdict` this is."""
        return cls(**{**data, "point": Point(**data["point"]), "arms": tuple(Arm(**arm) for arm in data["arms"])})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be run, with nothing left to decide; the points in rising cost."""

    points: tuple[Point, ...]
    arms: tuple[Arm, ...]
    launches: int
    seed: int
    target_ci: float
    max_seconds: float
    memory_limit_bytes: int | None
    timeout_s: float
    isolation: str
    gate_only: bool = False
    trace: bool = False
    nvtx: bool = False
    calibration: str = "auto"
    identities: tuple[str, ...] = ()
    """one per point, in their order"""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """The plan whose `asdict` this is."""
        points = tuple(Point(**point) for point in data["points"])
        arms = tuple(Arm(**arm) for arm in data["arms"])
        return cls(**{**data, "points": points, "arms": arms, "identities": tuple(data.get("identities", ()))})

    def rounds(self) -> Iterator[list[Trial]]:
        """The trials of each round of launches.

        The first round goes in rising cost, as the points stand, so that what runs out of memory is found cheaply;
        the later ones go at random.
        """
        for launch in range(1, self.launches + 1):
            order = list(self.points)
            if launch > 1:
                random.Random(f"{self.seed} {launch}").shuffle(order)
            yield [self.trial(point, launch) for point in order]

    def trial(self, point: Point, launch: int) -> Trial:
        """One launch of one point."""
        return Trial(
            point=point,
            arms=self.arms,
            launch=launch,
            seed=self.seed,
            target_ci=self.target_ci,
            max_seconds=self.max_seconds,
            memory_limit_bytes=self.memory_limit_bytes,
            gate_only=self.gate_only,
            trace=self.trace,
            nvtx=self.nvtx,
            identity=dict(zip(self.points, self.identities, strict=False)).get(point),
        )
