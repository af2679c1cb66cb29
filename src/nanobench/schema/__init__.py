"""What is requested, as frozen dataclasses: a model's sizes, a point, an arm, a trial. And how an option is declared."""

import functools
import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType
from typing import Any, get_args

from nanobench.schema.shape import DTYPE_BYTES as DTYPE_BYTES
from nanobench.schema.shape import GPTShape as GPTShape

PROTOCOL = 5
"""Increases whenever the way of measuring changes, so that numbers of two protocols are never compared."""
DTYPES = ("float32", "bfloat16", "float16")
REFERENCE_DTYPE = {"float32": "float64", "bfloat16": "float32", "float16": "float32"}
"""Measured dtype -> the dtype in which its correctness reference is computed."""
COMPILE_MODES: Mapping[str, Mapping[str, Any] | None] = {
    "off": None,
    "default": {},
    "dynamic": {"dynamic": True},
    "freeze": {"options": {"freezing": True}},
    "reduce-overhead": {"mode": "reduce-overhead"},
    "max-autotune": {"mode": "max-autotune"},
    "max-autotune-no-cudagraphs": {"mode": "max-autotune-no-cudagraphs"},
}
"""Name -> arguments of torch.compile; None runs the functions eagerly. `freeze` treats the weights as constants, whose
layout inductor may change: for inference only."""
ATTENTIONS = ("auto", "sdpa-math", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "flex")
"""Kernels of scaled_dot_product_attention, of which `auto` lets torch choose; and FlexAttention, which is compiled."""
WEIGHTS = ("float", "int8", "int4")
"""How the weights of matmuls are stored: in the dtype, or quantised to so many bits with scales."""
KV_CACHES = ("float", "int8")
"""How a cache stores keys and values: in the dtype, or as int8 with a scale per token and head."""
GRAPH_MODES = ("reduce-overhead", "max-autotune")
"""Modes that capture CUDA graphs."""
PHASES = ("pretrain", "sft-dynamic", "sft-padded")
"""Rows of full length; conversations padded to the longest of the batch; conversations padded to the full length."""
CHECKPOINTING = ("off", "checkpointed")
"""Whether the activations of a block are recomputed in the backward pass instead of kept."""
CROSS_ENTROPIES = ("full", "chunked")
"""Whether the loss is computed from the logits of the whole batch, or in chunks whose logits are computed twice."""
PARAM_DTYPES = ("float32", "bfloat16")
"""The dtype of parameters, gradients and optimizer state in training. In bfloat16 small changes of a weight are lost."""
OPTIMIZER_KERNELS = ("fused", "foreach")
"""One kernel over all parameters, or torch's list-wise operations."""
LOOKUP = "lookup"
"""The draft of speculative decoding that is no model."""
SYNTHETIC = "synthetic"
"""Input that is generated at random, not read from a file."""
WARM_UP_TURN = {"warm_up": True}
"""The message to a worker to run once more, untimed, before it takes turns with another."""
BYTES, IDS, TOKENIZER_FILE = "bytes", "ids", ".json"
"""Tokenizers: a token per byte; a file that holds token ids already; and how the name of a tokenizer in a file ends."""


def option(default: Any, help: str, panel: str, metavar: str | None = None) -> Any:
    """A dataclass field that is an option of the command line, shown under `panel` of --help."""
    return field(default=default, metadata={"help": help, "panel": panel, "metavar": metavar})


def argument(default: Any, help: str, metavar: str) -> Any:
    """A dataclass field that is a positional argument of the command line."""
    return field(default=default, metadata={"help": help, "panel": None, "metavar": metavar, "positional": True})


def type_of(option: Field[Any]) -> type:
    """The type of an option's values: that of its default, or `float` for `float | None`."""
    kinds = [each for each in get_args(option.type) if each is not NoneType]
    kind: type = kinds[0] if option.default is None else type(option.default)
    return kind


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is run. Every field is an axis of the sweep, a column and part of the resume key.

    A point is either generation or training; the fields of the other kind stay at their defaults.
    """

    model: str
    """built-in name or dotted path"""
    dtype: str
    device: str
    threads: int
    """CPU threads of the worker"""
    batch_size: int
    """rows; in training, the rows of one rank in one micro-batch"""
    prompt_len: int = 0
    """prompt tokens per row"""
    new_tokens: int = 0
    """tokens generated per row"""
    shared_prompt: str = "off"
    """whether all rows of a call have the same prompt: off or on"""
    seq_len: int = 0
    """tokens per full row of a training batch"""
    phase: str = ""
    """one of PHASES"""
    data: str = ""
    """synthetic, or the path of a text; empty for the random prompts of a sweep that has no others"""
    tokenizer: str = ""
    """bytes, ids, the path of a tokenizer.json, or the name of one of tiktoken's encodings; empty for synthetic data"""
    optimizer: str = ""
    grad_accum: int = 1
    """micro-batches whose gradients are accumulated before the optimizer steps"""
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
        """Tokens of one optimizer step over all ranks when all rows are full."""
        return self.batch_size * self.seq_len * self.grad_accum * self.world_size


OF_FIELD = {"kv_cache": "-kv", "cross_entropy": "-loss", "param_dtype": "-params"}
"""Field of Arm -> what follows its value in a label, where the value alone does not say what it is of."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How a point is run. An engine is for generation, checkpointing and the optimizer's kernel for training."""

    engine: str = ""
    compile_mode: str = "off"
    attention: str = "auto"
    sampler: str = "greedy"
    weights: str = "float"
    """one of WEIGHTS"""
    kv_cache: str = "float"
    """one of KV_CACHES"""
    checkpointing: str = "off"
    cross_entropy: str = "full"
    """one of CROSS_ENTROPIES"""
    param_dtype: str = "float32"
    """of PARAM_DTYPES"""
    optimizer_kernel: str = "fused"
    side: str = ""
    """of an A/B comparison: what the arm's code or environment is"""

    @property
    def is_lossy(self) -> bool:
        """Whether the arm computes an approximation of the model: it is compared with the float model, and never `exact`."""
        return (self.weights, self.kv_cache, self.param_dtype) != ("float", "float", "float32")

    @property
    def label(self) -> str:
        """The arm's name in tables and plots: the engine, or eager or compiled, then all fields that are not default."""
        name = self.engine or ("eager" if self.compile_mode == "off" else "compiled")
        more = unusual(self, but=("engine",)).items()
        return " ".join([name, *(f"{value}{OF_FIELD.get(field, '')}" for field, value in more)])


def unusual(instance: Any, but: tuple[str, ...] = ()) -> dict[str, object]:
    """The fields of a dataclass instance that differ from their defaults or have no default."""
    defaults = {each.name: each.default for each in fields(instance)}
    return {
        name: value
        for name, value in vars(instance).items()
        if name not in but and (defaults[name] is MISSING or value != defaults[name])
    }


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point with all its arms, measured in turns in one fresh process.

    Its JSON is the worker's input. Its hash is the resume key.
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
    """name the phases of a trial for Nsight"""
    check: bool = True
    """keep what timed work put out, for the check after the launch"""
    extra: bool = False
    """a launch beyond the planned ones"""
    turns: bool = False
    """the control process gives the arm its turns: another process runs the arm that it is compared with"""
    weights_to: str = ""
    """file in which the first side of an A/B comparison leaves its weights and the results of its reference"""
    weights_from: str = ""
    """such a file, whose weights the model takes"""
    sustain: bool = True
    """run each arm for some seconds more in its first launch, if a probe needs it"""
    max_kl: float | None = None
    """nats: a lossy arm whose mean KL divergence is above this is wrong; None for no limit"""
    identity: str | None = None
    """of machine, software, model and threads, and of the source code; results of two identities are never mixed"""
    protocol: int = PROTOCOL

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that identify this trial. Fields at their defaults do not enter the hash."""
        facts = {**unusual(self), "point": unusual(self.point), "arms": [unusual(arm) for arm in self.arms]}
        facts["protocol"] = self.protocol
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """The trial that `asdict` turned into this document."""
        return cls(**{**data, "point": Point(**data["point"]), "arms": tuple(Arm(**arm) for arm in data["arms"])})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be run, with nothing left to decide. The points are in rising cost."""

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
    check: bool = True
    calibration: str = "auto"
    extra_launches: bool = False
    """launch disturbed and imprecise points again after the planned launches"""
    max_minutes: float | None = None
    """of the sweep, after which no launch begins but those of the first round; None: half of the planned launches' time more"""
    adaptive: bool = False
    """the batch sizes are candidates, of which the sweep chooses what to measure"""
    sustain: bool = True
    """see Trial.sustain"""
    max_kl: float | None = None
    """see Trial.max_kl"""
    identities: tuple[str, ...] = ()
    """one per point, in their order"""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """The plan that `asdict` turned into this document."""
        points = tuple(Point(**point) for point in data["points"])
        arms = tuple(Arm(**arm) for arm in data["arms"])
        return cls(**{**data, "points": points, "arms": arms, "identities": tuple(data.get("identities", ()))})

    def rounds(self) -> Iterator[list[Trial]]:
        """The trials of each planned round of launches."""
        for launch in range(1, self.launches + 1):
            yield [self.trial(point, launch) for point in self.order(launch)]

    def order(self, launch: int) -> list[Point]:
        """The points in the order of a round.

        The first round runs them in rising cost, so that running out of memory is found early; later rounds in random order.
        """
        points = list(self.points)
        if launch > 1:
            random.Random(f"{self.seed} {launch}").shuffle(points)
        return points

    @functools.cached_property
    def identity_of(self) -> Mapping[Point, str]:
        """Point -> its identity."""
        return dict(zip(self.points, self.identities, strict=False))

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
            check=self.check,
            extra=launch > self.launches,
            sustain=self.sustain,
            max_kl=self.max_kl,
            identity=self.identity_of.get(point),
        )
