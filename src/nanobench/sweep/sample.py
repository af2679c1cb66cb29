"""One prompt through several engines: what can be requested, and what they generated."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from nanobench.continuation import Continuation
from nanobench.errors import UserError
from nanobench.records import JsonObject, Status, Verdict
from nanobench.schema import BYTES, IDS, REFERENCE_DTYPE, Point, option
from nanobench.sweep.options import HOW, TOKENIZERS, WHAT, GateOptions, Options, TimedOptions, listed, same

if TYPE_CHECKING:
    from nanobench.sweep.executors.base import Executor


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """What sample accepts: one point without its lengths, and several engines."""

    model: str = same(Options, "model", "a built-in model or a dotted path like my_pkg.my_mod:build")
    prompt: str = option("", f"the text to continue; with --tokenizer {IDS} its token ids, like 1,2,3", WHAT, "TEXT")
    new_tokens: int = option(32, "tokens to generate", WHAT)
    tokenizer: str = option(BYTES, f"what makes tokens of the prompt: {TOKENIZERS}", WHAT)
    dtype: str = same(Options, "dtype")
    device: str = same(Options, "device")
    threads: str = same(Options, "threads", "CPU threads; auto: every core that the process may use")
    engine: str = listed("uncached,cached", "engines", HOW)
    sampler: str = option(
        "greedy",
        "the sampler; all engines and the reference start it from the same seed, so that they choose with the same random"
        " numbers; an engine that uses these in another order generates another text, and is reported as wrong",
        HOW,
    )
    seed: int = option(0, "seed of random weights and of the sampler", HOW)
    timeout: float = same(Options, "timeout")
    wait: bool = same(TimedOptions, "wait")
    json: bool = same(Options, "json")

    def validate(self) -> None:
        """Raises UserError for an empty prompt and for lists; `as_gates().validate()` checks the other options."""
        if not self.prompt:
            raise UserError("--prompt is empty; give the text to continue, like --prompt 'Once upon a time'")
        several = sorted(field for field, values in self.as_gates().axes.items() if len(values) > 1 and field != "engine")
        if several:
            raise UserError(f"sample continues one prompt with several engines; give one value for {', '.join(several)}")

    def as_gates(self) -> GateOptions:
        """The same point and engines for the gates: with a prompt of one token, because the length is not known yet."""
        own = {each.name for each in fields(self)} - {"tokenizer", "new_tokens"}
        given = {name: getattr(self, name) for name in own & {each.name for each in fields(GateOptions)}}
        return GateOptions(**given, batch="1", prompt_len="1", new_tokens=str(self.new_tokens))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt, and what the reference and each engine continue it with."""

    options: SampleOptions
    point: Point
    prompt: tuple[int, ...]
    """its tokens"""
    reference: Continuation
    engines: tuple[Continuation, ...]

    @property
    def reference_dtype(self) -> str:
        """The dtype of the reference."""
        return REFERENCE_DTYPE[self.point.dtype]

    @property
    def has_failed(self) -> bool:
        """Whether an engine differs where rounding cannot explain it, or came to no end. A skipped one has not failed."""
        return any(each.status not in (Status.OK, Status.SKIPPED) or each.wrong for each in self.engines)

    def to_json(self) -> JsonObject:
        """The sample as one document."""
        point = {name: getattr(self.point, name) for name in ("model", "dtype", "device", "threads", "new_tokens")}
        requested = {name: getattr(self.options, name) for name in ("prompt", "tokenizer", "sampler", "seed")}
        return {
            **point,
            **requested,
            "prompt_tokens": list(self.prompt),
            "reference_dtype": self.reference_dtype,
            "reference": document_of(self.reference),
            "engines": [document_of(each) for each in self.engines],
            "has_failed": self.has_failed,
        }


def document_of(found: Continuation) -> JsonObject:
    """A continuation as JSON data, with its verdict and its text in one piece."""
    facts = {name: value for name, value in asdict(found).items() if name != "parts"}
    return {**facts, "verdict": verdict_of(found), "text": None if found.parts is None else "".join(found.parts)}


def verdict_of(found: Continuation) -> Verdict | None:
    """The verdict on an engine; None where it has no tokens to compare."""
    if found.wrong or found.status is Status.WRONG:
        return Verdict.WRONG
    if found.status is not Status.OK:
        return None
    return Verdict.ROUNDING if found.first else Verdict.EXACT


def take(options: SampleOptions, executor: "Executor", folder: Path) -> Sample:
    """Continues the prompt in a worker. Raises UserError for a prompt that the model cannot read, and where the worker dies."""
    from nanobench.sweep.session import make

    plan, _ = make(options.as_gates(), executor)
    (point,) = plan.points
    request = {
        "point": asdict(point),
        "engines": [arm.engine for arm in plan.arms],
        "sampler": plan.arms[0].sampler,
        "prompt": options.prompt,
        "tokenizer": options.tokenizer,
        "seed": plan.seed,
        "memory_limit_bytes": plan.memory_limit_bytes,
    }
    log = folder / "sample.log"
    result = executor.run({"sample": request}, folder / "sample", log, options.timeout, progress=lambda report: None)
    if result.record is None:
        raise UserError(f"no sample of {point.model}: {result.reason}")
    if "user_error" in result.record:
        raise UserError(result.record["user_error"])
    return Sample(
        options=options,
        point=point,
        prompt=tuple(result.record["prompt"]),
        reference=Continuation.from_json(result.record["reference"]),
        engines=tuple(Continuation.from_json(each) for each in result.record["engines"]),
    )
