"""What tune accepts. Nothing heavy is imported here, so that --help is quick."""

from dataclasses import dataclass, fields

from nanobench import errors
from nanobench.errors import UserError
from nanobench.schema import SYNTHETIC, option
from nanobench.sweep.axes import AXES
from nanobench.sweep.options import (
    HOW,
    MEASURING,
    OUTPUT,
    WHAT,
    GateOptions,
    Options,
    SweepOptions,
    TimedOptions,
    listed,
    same,
)
from nanobench.sweep.values import read_memory_limit, read_minutes

GOALS = ("throughput", "latency")
WORKLOAD = ("model", "prompt_len", "new_tokens", "prompts", "tokenizer", "shared_prompt", "sampler")
"""Options with one value each."""
LIMITS = "Limits"
"""Panel of --help."""
COLUMNS = {"max_ttft": "ttft_s", "max_tpot": "tpot_s", "max_memory": "peak_memory_bytes"}
"""Option -> the column that it limits."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What tune accepts: the lists whose combinations are the candidates, the goal and the limits."""

    model: str = same(Options, "model", "the model: a built-in model or a dotted path like my_pkg.my_mod:build")
    goal: str = option("throughput", "throughput (most tokens per second over all rows) or latency (most for each row)", WHAT)
    batch: str = listed("1,8,32", "batch sizes to try", WHAT)
    dtype: str = same(Options, "dtype", "dtypes to try")
    device: str = same(Options, "device")
    threads: str = same(Options, "threads", "CPU thread counts to try")
    prompt_len: str = same(GateOptions, "prompt_len", "prompt length in tokens")
    new_tokens: str = same(GateOptions, "new_tokens", "output length in tokens")
    prompts: str = same(GateOptions, "prompts", f"{SYNTHETIC} (random tokens), or the path of a file with text or token ids")
    tokenizer: str = same(GateOptions, "tokenizer", "what reads the file of --prompts")
    shared_prompt: str = same(GateOptions, "shared_prompt")
    engine: str = listed("cached,cached-cat,uncached", "engines to try", HOW)
    sampler: str = same(GateOptions, "sampler", "the sampler")
    compile_mode: str = listed("off,default", "compile modes to try", HOW)
    attention: str = same(Options, "attention", "attention kernels to try")
    weights: str = same(GateOptions, "weights")
    kv_cache: str = same(GateOptions, "kv_cache")
    draft_len: str = same(GateOptions, "draft_len")
    max_ttft: float | None = option(None, "leave out settings with a longer TTFT", LIMITS, "SECONDS")
    max_tpot: float | None = option(None, "leave out settings with a longer TPOT", LIMITS, "SECONDS")
    max_memory: str = option("", "leave out settings with a higher peak memory, like 500MiB", LIMITS, "SIZE")
    max_kl: str = option("none", "leave out lossy settings with a larger mean KL from the float model", LIMITS, "NATS")
    launches: int = option(6, "most launches of a setting", MEASURING)
    max_seconds: str = option("2", "timed seconds per launch of a point", MEASURING)
    max_minutes: str = option("10", "minutes after which no launch begins, except the first one of a setting", MEASURING)
    memory_limit: str = same(Options, "memory_limit")
    timeout: float = same(Options, "timeout")
    isolation: str = same(Options, "isolation")
    seed: int = same(Options, "seed")
    yes: bool = same(Options, "yes")
    no_check: bool = same(TimedOptions, "no_check")
    wait: bool = same(TimedOptions, "wait")
    out: str = same(TimedOptions, "out")
    quiet: bool = option(False, "print the answer alone: no plan and no progress", OUTPUT)
    json: bool = same(Options, "json")

    def as_sweep(self) -> SweepOptions:
        """The full grid of the candidates."""
        shared = {each.name for each in fields(SweepOptions)} & {each.name for each in fields(self)}
        return SweepOptions(**{name: getattr(self, name) for name in shared}, calibration="off")

    def refuse(self) -> None:
        """Raises UserError for everything that is wrong whatever the machine is."""
        sweep = self.as_sweep()
        sweep.validate()
        if self.goal not in GOALS:
            raise errors.unknown("goal", self.goal, GOALS)
        for name in WORKLOAD:
            if len(sweep.axes[AXES[name]]) > 1:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag}: tune searches the fastest setting of one workload; give one value")
        self.limits()
        self.limit_s()

    def limit_s(self) -> float:
        """Seconds after which no launch begins."""
        return 60 * read_minutes(self.max_minutes)

    def limits(self) -> dict[str, float]:
        """Column -> its largest value. Raises UserError for a limit that is not above 0."""
        memory = read_memory_limit(self.max_memory, None, "max-memory") if self.max_memory else None
        given = {"max_ttft": self.max_ttft, "max_tpot": self.max_tpot, "max_memory": memory}
        for name, value in given.items():
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} {value:g} is not above 0; give seconds, like 0.05")
        return {COLUMNS[name]: float(value) for name, value in given.items() if value is not None}
