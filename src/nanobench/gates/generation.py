"""The correctness gate of generation: compares an arm with the model's uncached forward pass in a wider dtype.

The reference is in float64 for float32, and in float32 for the 16-bit types. Three checks, in order of cost: the arm
generates the reference's tokens at a small shape in float32; the rows of a batch are independent; its logits at the measured
shape are correct under teacher forcing.
The forced tokens are random: the greedy output of an untrained model soon repeats one token, and a wrong position would then
not be visible.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nanobench.engines.base import Engine
from nanobench.errors import Skip
from nanobench.models import _packed_linear as packed_linear
from nanobench.models.base import Adapter
from nanobench.records import Gate, Verdict
from nanobench.schema import REFERENCE_DTYPE, Point

MAX_ROWS, MAX_POSITIONS = 8, 32
"""Rows and positions whose logits are compared at the measured shape."""
CHUNK_BYTES = 512 << 20
"""Logits that the reference computes at once, at most."""
SMALL_ROWS, SMALL_PROMPT, SMALL_NEW = 3, 8, 8
FLOOR = {"float32": 1e-5, "bfloat16": 4e-3, "float16": 5e-4}
"""Minimum tolerance relative to the largest logit: about one rounding error of the result, in float32 of a few layers."""
SLACK = 4
"""Tolerance as a multiple of the largest error of the uncached forward pass in the measured dtype."""
BuildEngine = Callable[[Adapter, Point], Engine]


@dataclass(frozen=True)
class Expected:
    """The reference's logits [R, P, V] (rows, positions, vocabulary) and the absolute tolerance of a logit.

    `positions` are counted from the first generated token.
    """

    logits_RPV: Tensor
    positions: list[int]
    tolerance: float

    @property
    def top_RP(self) -> Tensor:
        """The reference's greedy tokens."""
        return self.logits_RPV.argmax(-1)

    @property
    def unambiguous_RP(self) -> Tensor:
        """Where the two largest logits differ by more than the tolerance: rounding cannot change the greedy token there."""
        best_RP2 = self.logits_RPV.topk(2, dim=-1).values
        return best_RP2[..., 0] - best_RP2[..., 1] > self.tolerance


class Reference:
    """The expected results of one point, shared by all its arms. Computed once: by `compute`, or at the first use.

    `prompt_BT` is the prompt at the measured shape; without it, that prompt is random tokens, as all others are.
    `make_truth` makes the model whose results are expected, in float32 or in the measured dtype; without it, it is `adapter`.
    """

    def __init__(
        self,
        adapter: Adapter,
        point: Point,
        seed: int,
        prompt_BT: Tensor | None = None,
        make_truth: Callable[[], Adapter] | None = None,
    ) -> None:
        self.adapter, self.point, self.make_truth = adapter, point, make_truth
        self.device = next(adapter.module.parameters()).device
        self.seed = seed
        random_BT = self.random_prompts(point.batch_size, point.prompt_len, stream=0)
        self.prompt_BT = random_BT if prompt_BT is None else prompt_BT.to(self.device)
        self.forced_BN = self.random_tokens(point.batch_size, point.new_tokens, stream=1)

    def compute(self) -> None:
        """Computes everything now, while the memory for the model in the wider dtype is free."""
        _ = self.small_expected, self.expected

    def results(self) -> dict[str, Tensor]:
        """What the model computes in the wider dtype, for a comparison with another model."""
        return {"logits": self.expected.logits_RPV, "logits of short prompts": self.small_expected[1].logits_RPV}

    def random_tokens(self, rows: int, length: int, stream: int) -> Tensor:
        """Seeded random tokens [rows, length]; rows differ."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + stream)
        return torch.randint(self.adapter.shape.vocab_size, (rows, length), generator=generator).to(self.device)

    def random_prompts(self, rows: int, length: int, stream: int) -> Tensor:
        """Seeded random prompts [rows, length]; rows differ, unless they share their prompt."""
        tokens_BT = self.random_tokens(rows, length, stream)
        return tokens_BT[:1].repeat(rows, 1) if self.shares_prompt else tokens_BT

    @property
    def shares_prompt(self) -> bool:
        """Whether all rows have the same prompt: then no single row can be given another."""
        return self.point.shared_prompt == "on"

    @cached_property
    def truth(self) -> Adapter:
        """The model whose results are expected."""
        return self.make_truth() if self.make_truth else self.adapter

    def in_dtype(self, dtype: str) -> Adapter:
        """That model in a dtype: itself if it has this dtype."""
        wanted = getattr(torch, dtype)
        return self.truth if next(self.truth.module.parameters()).dtype == wanted else cast(self.truth, wanted)

    @cached_property
    def float32_adapter(self) -> Adapter:
        """That model in float32."""
        return self.in_dtype("float32")

    @cached_property
    def small(self) -> Point:
        """The point of the check in float32; its lengths fit the model's block size."""
        half = self.adapter.shape.block_size // 2
        prompt_len, new_tokens = min(SMALL_PROMPT, half), min(SMALL_NEW, half)
        return replace(self.point, dtype="float32", batch_size=SMALL_ROWS, prompt_len=prompt_len, new_tokens=new_tokens)

    @cached_property
    def small_prompt_BT(self) -> Tensor:
        """The prompts [B, T] of the check in float32."""
        return self.random_prompts(self.small.batch_size, self.small.prompt_len, stream=2)

    @cached_property
    def small_expected(self) -> tuple[Tensor, Expected]:
        """Greedy tokens [B, T + N] of the float64 model at the small shape, and the logits that they come from."""
        wide, tokens_BN = cast(self.truth, torch.float64), self.small_prompt_BT
        rows = []
        for _ in range(self.small.new_tokens):
            rows.append(wide.forward(tokens_BN, last_only=True)[:, -1])
            tokens_BN = torch.cat((tokens_BN, rows[-1].argmax(-1, keepdim=True)), dim=1)
        logits_RPV = torch.stack(rows, dim=1)
        positions = list(range(self.small.new_tokens))
        own = own_logits(self.float32_adapter, tokens_BN[:, :-1], self.small.prompt_len, positions)
        return tokens_BN, Expected(logits_RPV, positions, tolerance(own, logits_RPV, "float32"))

    @cached_property
    def positions(self) -> list[int]:
        """The new tokens whose logits are compared, counted from 0."""
        return sorted({round(p) for p in torch.linspace(0, self.point.new_tokens - 1, MAX_POSITIONS).tolist()})

    @cached_property
    def sequence_RT(self) -> Tensor:
        """Prompts and forced tokens of the rows whose logits are compared."""
        rows = slice(0, min(MAX_ROWS, self.point.batch_size))
        return torch.cat((self.prompt_BT[rows], self.forced_BN[rows, :-1]), dim=1)

    @cached_property
    def expected(self) -> Expected:
        """The reference's logits on the forced tokens at the measured shape, for MAX_ROWS rows and MAX_POSITIONS positions."""
        point, sequence_RT = self.point, self.sequence_RT
        logits_RPV = logits_at(self.in_dtype(REFERENCE_DTYPE[point.dtype]), sequence_RT, point.prompt_len, self.positions)
        own = own_logits(self.in_dtype(point.dtype), sequence_RT, point.prompt_len, self.positions)
        return Expected(logits_RPV, self.positions, tolerance(own, logits_RPV, point.dtype))


def cast(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """A copy of the model with the same weights in another dtype."""
    wide = copy.deepcopy(adapter)
    wide.module.to(dtype)
    return wide


def tolerance(own_RPV: Tensor, wide_RPV: Tensor, dtype: str) -> float:
    """Absolute tolerance: SLACK times the uncached path's largest error, at least FLOOR times the largest logit."""
    error = (own_RPV.to(wide_RPV.dtype) - wide_RPV).abs().max().item()
    return max(SLACK * error, FLOOR[dtype] * wide_RPV.abs().max().item())


def own_logits(adapter: Adapter, sequence_RT: Tensor, prompt_len: int, positions: list[int]) -> Tensor:
    """As `logits_at`, with torch's own matmuls: the tolerance must not depend on the packed weights that the gate checks."""
    with packed_linear.unpacked(adapter.module):
        return logits_at(adapter, sequence_RT, prompt_len, positions)


def logits_at(adapter: Adapter, sequence_RT: Tensor, prompt_len: int, positions: list[int]) -> Tensor:
    """Logits [R, P, V] of one uncached pass, in chunks of rows that limit the memory of the logits of all positions."""
    last = torch.tensor([prompt_len - 1 + position for position in positions], device=sequence_RT.device)
    row_bytes = sequence_RT.shape[1] * adapter.shape.vocab_size * 8
    if row_bytes > CHUNK_BYTES and hasattr(adapter, "forward_at"):
        chosen: Tensor = adapter.forward_at(sequence_RT, last)
        return chosen
    if row_bytes > CHUNK_BYTES:
        one_by_one = [adapter.forward(sequence_RT[:, : end + 1], last_only=True) for end in last.tolist()]
        return torch.cat(one_by_one, dim=1)
    chunks = sequence_RT.split(max(1, CHUNK_BYTES // row_bytes))
    return torch.cat([adapter.forward(chunk)[:, last] for chunk in chunks])


def run_forced(engine: Engine, prompt_BT: Tensor, forced_BN: Tensor, rows: int, positions: list[int]) -> Tensor | None:
    """The engine's logits [R, P, V] under teacher forcing with `forced_BN`; None from an engine without logits."""
    engine.prefill(prompt_BT)
    if engine.logits_BV is None:
        return None
    prompt_len, logits, position = prompt_BT.shape[1], [], 0
    while True:
        if position in positions:
            logits.append(engine.logits_BV[:rows].clone())
        if position >= positions[-1]:
            return torch.stack(logits, dim=1)
        engine.tokens_BN[:, prompt_len + position] = forced_BN[:, position]
        position += engine.step()


def run_free(engine: Engine, prompt_BT: Tensor, new_tokens: int) -> Tensor:
    """Generates without forcing. Returns a copy of prompt and generated tokens, [B, prompt + new]."""
    engine.prefill(prompt_BT)
    generated = 1
    while generated < new_tokens:
        generated += engine.step()
    return engine.tokens_BN.clone()


def digest(tokens_BN: Tensor) -> str:
    """The first twelve hexadecimal digits of the SHA-256 of the tokens."""
    return hashlib.sha256(tokens_BN.cpu().numpy().tobytes()).hexdigest()[:12]


def judge(reference: Reference, build: BuildEngine, engine: Engine, compiled: bool) -> Gate:
    """The verdict on one arm.

    `engine` is the arm's engine at the measured shape, `build` makes the one of the small shape. A compiled arm is checked at
    the measured shape only: another shape would need another compilation and check another graph.
    Raises Skip for an arm that cannot be gated.
    """
    small = None if compiled else judge_small(reference, build)
    if small and small.verdict in (Verdict.WRONG, Verdict.SYNTHETIC):
        return small
    if engine.logits_BV is None:
        if small is None:
            raise Skip("a compiled engine without logits cannot be gated")
        return replace(small, note=f"black box, gated by its tokens alone: {small.note}")
    full = judge_forced(reference, engine)
    if full.verdict is not Verdict.WRONG and (compiled or reference.shares_prompt):
        full = judge_rows_forced(reference, engine, full)
    if full.verdict is Verdict.EXACT and small:
        return replace(full, verdict=small.verdict, note=f"{small.note}; {full.note}")
    return full


def judge_small(reference: Reference, build: BuildEngine) -> Gate:
    """Checks in float32 at the small shape: the reference's tokens, and the independence of rows."""
    expected_BN, expected = reference.small_expected
    engine = build(reference.float32_adapter, reference.small)
    prompt_BT, new_tokens = reference.small_prompt_BT, reference.small.new_tokens
    tokens_BN = run_free(engine, prompt_BT, new_tokens)
    if reason := getattr(engine, "synthetic", None):
        return judge_synthetic(reference, tokens_BN, reason, list(getattr(engine, "model_places", ())))
    gate = compare_tokens(tokens_BN, expected_BN, expected, prompt_BT.shape[1], "small float32 tokens")
    if gate.verdict is Verdict.WRONG or reference.shares_prompt:
        return gate
    other_BT = prompt_BT.clone()
    other_BT[0] = (other_BT[0] + 1) % reference.adapter.shape.vocab_size
    changed_BN = run_free(engine, other_BT, new_tokens)
    others = Expected(expected.logits_RPV[1:], expected.positions, expected.tolerance)
    rows = compare_tokens(changed_BN[1:], tokens_BN[1:], others, prompt_BT.shape[1], "tokens with a changed row 0")
    return rows if rows.verdict is Verdict.WRONG else gate


def judge_synthetic(reference: Reference, tokens_BN: Tensor, reason: str, places: list[int]) -> Gate:
    """The verdict on an engine some of whose tokens are not the model's: those at `places`, which the model chose, must be what
    the reference chooses after the same tokens.
    """
    prompt_len = reference.small.prompt_len
    what = f"{reason}: {len(places)} of {reference.small.new_tokens} small float32 tokens are the model's choice"
    if not places:
        return Gate(Verdict.WRONG, f"{what}, so nothing is compared")
    logits_RPV = logits_at(cast(reference.truth, torch.float64), tokens_BN[:, :-1], prompt_len, places)
    own = own_logits(reference.float32_adapter, tokens_BN[:, :-1], prompt_len, places)
    allowed = tolerance(own, logits_RPV, "float32")
    tokens_RP = tokens_BN[:, [prompt_len + place for place in places]]
    below_RP = logits_RPV.amax(-1) - logits_RPV.gather(-1, tokens_RP[..., None]).squeeze(-1)
    if not below_RP.max() <= allowed:
        row, place = (int(each) for each in (~(below_RP <= allowed)).nonzero()[0])
        return Gate(Verdict.WRONG, f"{what}, but row {row} differs at new token {places[place] + 1}", tolerance=allowed)
    return Gate(Verdict.SYNTHETIC, f"{what}, and the reference's", tolerance=allowed)


def compare_tokens(tokens_BN: Tensor, expected_BN: Tensor, expected: Expected, prompt_len: int, what: str) -> Gate:
    """The verdict on generated tokens: `wrong` if a row first differs where rounding cannot change the greedy token.

    After a difference that rounding can explain, the rest of the row is not compared.
    """
    differs_RP = tokens_BN[:, prompt_len:] != expected_BN[:, prompt_len:]
    if not differs_RP.any():
        return Gate(verdict=Verdict.EXACT, note=f"{what} equal", tolerance=expected.tolerance)
    for row in differs_RP.any(dim=1).nonzero().flatten().tolist():
        first = int(differs_RP[row].to(torch.int).argmax())
        if expected.unambiguous_RP[row, first]:
            note = f"{what}: row {row} differs at new token {first + 1}"
            return Gate(verdict=Verdict.WRONG, note=note, tolerance=expected.tolerance)
    return Gate(verdict=Verdict.ROUNDING, note=f"{what} differ only at ties", tolerance=expected.tolerance)


def judge_forced(reference: Reference, engine: Engine) -> Gate:
    """Checks the logits under teacher forcing at the measured dtype and shape."""
    expected = reference.expected
    rows = len(expected.logits_RPV)
    logits_RPV = run_forced(engine, reference.prompt_BT, reference.forced_BN, rows, expected.positions)
    assert logits_RPV is not None
    error_RP = (logits_RPV.to(expected.logits_RPV.dtype) - expected.logits_RPV).abs().amax(-1)
    error, differs_RP = error_RP.max().item(), logits_RPV.argmax(-1) != expected.top_RP
    where = f"{rows} rows x {len(expected.positions)} positions"
    if not error <= expected.tolerance:
        step = expected.positions[int((~(error_RP <= expected.tolerance)).any(dim=0).to(torch.int).argmax())]
        verdict, note = (
            Verdict.WRONG,
            f"forced logits off by {error:.2g} (tolerance {expected.tolerance:.2g}), first at new token {step + 1}",
        )
    elif differs_RP.any():
        verdict, note = Verdict.ROUNDING, f"forced tokens differ only at ties, {where}"
    else:
        verdict, note = Verdict.EXACT, f"forced logits within tolerance, {where}"
    return Gate(verdict=verdict, note=note, max_error=error, tolerance=expected.tolerance)


def judge_rows_forced(reference: Reference, engine: Engine, gate: Gate) -> Gate:
    """Checks the independence of rows at the measured shape: a change of row 0 (its prompt, or else its forced
    tokens) must not change the logits of other rows.
    """
    expected = reference.expected
    rows = len(expected.logits_RPV)
    if rows == 1:
        return gate
    other_BT, forced_BN = reference.prompt_BT.clone(), reference.forced_BN.clone()
    changed = forced_BN if reference.shares_prompt else other_BT
    changed[0] = (changed[0] + 1) % reference.adapter.shape.vocab_size
    logits_RPV = run_forced(engine, other_BT, forced_BN, rows, expected.positions)
    assert logits_RPV is not None
    change = (logits_RPV[1:].to(expected.logits_RPV.dtype) - expected.logits_RPV[1:]).abs().max().item()
    if change <= expected.tolerance:
        return gate
    return replace(gate, verdict=Verdict.WRONG, note=f"a change of row 0 changed the logits of another row by {change:.2g}")
