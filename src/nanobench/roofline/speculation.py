"""The predicted time of speculative decoding: the expected number of each pass of draft and model, times its predicted time.

With K drafted tokens of which the model accepts each with probability a, a pass of the model writes
(1 - a^(K+1)) / (1 - a) tokens on average (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
equation 1). B rows that advance together keep a token only if all of them accept it: a^B takes the place of a.
The last passes of a call draft fewer tokens than the others, as many as are of use. So passes are counted one by one.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from nanobench.roofline import flops
from nanobench.roofline.flops import Pass
from nanobench.roofline.limits import Limits
from nanobench.roofline.prediction import Operations, Prediction, Time, operation_s, pass_time, total
from nanobench.schema import GPTShape, Point


@dataclass(frozen=True)
class Drafting:
    """How an engine drafts tokens."""

    length: int
    """tokens that are drafted before a pass of the model, at most"""
    draft: GPTShape | None = None
    """the model that drafts; None for what drafts without a pass"""
    accept: float | None = None
    """the probability of synthetic acceptance; None where the model decides"""

    def kept(self, rows: int) -> tuple[float, ...] | None:
        """The probabilities that so many rows keep the first drafted token, the first two, ...; None if not known before."""
        if self.accept is None:
            return None
        return tuple(float(self.accept) ** (rows * place) for place in range(1, self.length + 1))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Drafting":
        """The drafting whose `to_json` this is."""
        draft = data.get("draft")
        return cls(data["length"], GPTShape(**draft) if draft else None, data.get("accept"))


@dataclass(frozen=True)
class SpeculativePrediction(Prediction):
    """The predicted time of a call whose tokens are drafted. `steps` are tokens: a time per step is one per token."""

    passes: float = 0.0
    """expected passes of the model after the prefill"""
    draft_s: float = 0.0
    """in drafts, of the decode time"""
    plain_s: float = 0.0
    """a pass of the model over one token, halfway through the output: the step of plain decoding"""

    @property
    def draft_cost(self) -> float | None:
        """Plain steps that the drafts of a pass take."""
        return self.draft_s / self.passes / self.plain_s if self.passes and self.plain_s else None

    @property
    def verification_cost(self) -> float | None:
        """Plain steps that a pass of the model over the drafted tokens takes."""
        verification_s = self.decode.total_s - self.draft_s
        return verification_s / self.passes / self.plain_s if self.passes and self.plain_s else None


def expected_tokens(accept: float, length: int) -> float:
    """Tokens that a pass of the model writes on average, if it accepts each of `length` drafted ones with this probability."""
    return length + 1.0 if accept == 1 else (1 - accept ** (length + 1)) / (1 - accept)


@dataclass(frozen=True)
class ExpectedPasses:
    """How often each pass is expected in a call, without the prefills."""

    target: Mapping[Pass, float]
    draft: Mapping[Pass, float]

    @property
    def steps(self) -> float:
        """Expected passes of the model."""
        return sum(self.target.values())

    @property
    def drafts(self) -> float:
        """Expected passes of the draft per pass of the model."""
        return sum(self.draft.values()) / self.steps if self.steps else 0.0


def expected_passes(point: Point, drafting: Drafting, kept: Sequence[float]) -> ExpectedPasses:
    """The passes of a call, where all rows keep the first i drafted tokens with probability `kept[i - 1]`.

    Goes from the first state of a call to the last: a state is how many tokens are left to write, and whether the draft has
    not read its own last token, as after a pass that kept all of them.
    """
    target: dict[Pass, float] = defaultdict(float)
    draft: dict[Pass, float] = defaultdict(float)
    chances: dict[tuple[int, bool], float] = defaultdict(float, {(point.new_tokens - 1, False): 1.0})
    for left in range(point.new_tokens - 1, 0, -1):
        number, known = min(drafting.length, left - 1), point.total_len - left
        for lags in (False, True):
            chance = chances[left, lags]
            if not chance:
                continue
            target[verification(point, known, number)] += chance
            if drafting.draft is not None:
                for one in draft_passes(point, known, number, lags):
                    draft[one] += chance
            for accepted, share in enumerate(shares(kept[:number])):
                chances[left - accepted - 1, accepted == number > 0] += chance * share
    return ExpectedPasses(target, draft)


def shares(kept: Sequence[float]) -> list[float]:
    """The probabilities that exactly 0, 1, ... drafted tokens are kept, from those that at least 1, 2, ... are."""
    at_least = [1.0, *kept, 0.0]
    return [here - more for here, more in pairwise(at_least)]


def verification(point: Point, known: int, number: int) -> Pass:
    """The pass of the model over the newest of `known` tokens and the `number` drafted ones after it."""
    end, tokens = known + number, number + 1
    return Pass(point.batch_size, tokens, end, tokens, kv_read=end, kv_written=tokens, sampled_positions=tokens)


def draft_passes(point: Point, known: int, number: int, lags: bool) -> Iterator[Pass]:
    """The passes of a draft model after `known` tokens, one for each drafted token; the first reads two if it lags."""
    for end in range(known, known + number):
        tokens = 2 if lags and end == known else 1
        yield Pass(point.batch_size, tokens, end, 1, kv_read=end, kv_written=tokens)


def predict(
    shape: GPTShape,
    point: Point,
    drafting: Drafting,
    kept: Sequence[float],
    limits: Limits,
    operations: Operations,
    weights: str = "float",
) -> SpeculativePrediction:
    """The prediction for a call of a point. A draft model has float weights, so the limits must be those of float weights, too.

    The operations that were counted are divided among the passes of model and draft by their layers.
    Raises KeyError for limits that lack what a prediction needs.
    """
    found, overlaps = expected_passes(point, drafting, kept), point.device != "cpu"
    layers = 0 if drafting.draft is None else drafting.draft.n_layer
    of_prefill = operations.prefill / (shape.n_layer + layers)
    of_step = operations.step / (shape.n_layer + layers * found.drafts)

    @cache
    def target_time(one: Pass, per_layer: float) -> Time:
        return pass_time(shape, point.dtype, weights, one, limits, per_layer * shape.n_layer, overlaps)

    @cache
    def draft_time(one: Pass, per_layer: float) -> Time:
        assert drafting.draft is not None
        return pass_time(drafting.draft, point.dtype, "float", one, limits, per_layer * layers, overlaps)

    prompt, middle = flops.prompt(point), point.prompt_len + point.new_tokens // 2
    prefill = target_time(prompt, of_prefill)
    if drafting.draft is not None:
        prefill = prefill + draft_time(prompt, of_prefill)
    drafts = total(count * draft_time(one, of_step) for one, count in found.draft.items())
    checks = total(count * target_time(one, of_step) for one, count in found.target.items())
    tokens = point.new_tokens - 1
    floor_s = operations.step * operation_s(shape, point.dtype, weights, limits).value * found.steps / max(1, tokens)
    plain = target_time(Pass(point.batch_size, 1, middle, 1, kv_read=middle, kv_written=1), of_step)
    return SpeculativePrediction(
        prefill, drafts + checks, tokens, floor_s, passes=found.steps, draft_s=drafts.total_s, plain_s=plain.total_s
    )
