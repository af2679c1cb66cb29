"""The correctness gate of samplers: tests whether the frequencies of sampled tokens match the sampler's `probabilities`.

Rows of ten fixed distributions are sampled in one call, so that a dependence between rows is visible too. Pearson's chi-square
test compares the counts with the sampler's own `probabilities` in float64; cells with small expected counts are merged.

Then the sampler draws at the measured batch size, vocabulary and dtype: a sampler may look at the shape. Parts of the
distributions lie at random tokens there; all others look like an untrained model's, far below. A slow sampler allows only some
hundred draws, too few for counts per token: the places of the tokens in the cumulative distribution are pooled, and a
Kolmogorov-Smirnov test, exact for any number of draws, compares them with the uniform distribution (see gates.outputs).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import FunctionType

import torch
from scipy import stats
from torch import Tensor

from nanobench.engines._compiler import Compiler
from nanobench.engines.base import make_generator
from nanobench.records import Gate, Verdict
from nanobench.samplers.base import Sampler
from nanobench.schema import Point

VOCAB, ROWS = 64, 4096
MIN_P_VALUE = 1e-5
"""With ten distributions a correct sampler fails once in ten thousand gates; the seeds are fixed."""
MIN_EXPECTED = 5.0
"""Cells with a smaller expected count are merged."""
ENTRIES, LEAST_DRAWS, MOST_DRAWS = 5_000_000, 96, 600
"""Draws at the measured shape: as many as have ENTRIES logits, between the two limits, in whole calls."""
MIN_MEASURED_P_VALUE = 1e-7
"""With four tests at the measured shape a correct sampler fails once in 2.5 million gates."""
PEAK, SPREAD = 30.0, 0.5
"""How far the scattered tokens are above the others, and the standard deviation of these."""
ROUNDING = 1.0
"""A sampled token is impossible if it has probability 0 with its logit raised by this: rounding moves the edge of a nucleus."""
Draw = Callable[[Tensor, torch.Generator | None], Tensor]
Probabilities = Callable[[Tensor], Tensor]


@cache
def distributions() -> dict[str, Tensor]:
    """Name -> logits [V]: flat, peaked, heavy and light tails, ties, tokens of probability 0."""
    generator = torch.Generator().manual_seed(0)
    ranks_V = torch.arange(VOCAB, dtype=torch.float32)
    normal_V = torch.randn(VOCAB, generator=generator)
    impossible_V = normal_V.clone()
    impossible_V[::3] = float("-inf")
    return {
        "uniform": torch.zeros(VOCAB),
        "normal": normal_V,
        "sharp": 4 * normal_V,
        "one certain": torch.where(ranks_V == 17, 30.0, 0.0),
        "two halves": torch.where(ranks_V % 2 == 0, 1.0, 0.0),
        "geometric": -0.3 * ranks_V,
        "Zipf": -torch.log1p(ranks_V),
        "near-zero tail": torch.where(ranks_V < 8, 0.1 * ranks_V, -30.0),
        "ties": (ranks_V // 6).flip(0) / 2,
        "impossible tokens": impossible_V,
    }


def judge(sampler: Sampler, gate: Gate, point: Point, vocab_size: int, compiler: Compiler) -> Gate:
    """The verdict `gate`, changed to `wrong` if the sampled frequencies do not match the sampler's probabilities.

    The sampler runs as in the arm: compiled if the arm is compiled, and then with torch's default generator. A sampler without
    `probabilities` is not gated; the note says so.
    """
    if not hasattr(sampler, "probabilities"):
        return replace(gate, note=f"{gate.note}; the sampler has no `probabilities`: its tokens are not gated")
    probabilities: Probabilities = sampler.probabilities
    draw: Draw = compiler(sampler if isinstance(sampler, FunctionType) else sampler.__call__) if compiler.compiles else sampler
    device = torch.device(point.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        p_values = small_p_values(probabilities, draw, device, compiler)
        worst = min(p_values, key=lambda name: p_values[name])
        if p_values[worst] < MIN_P_VALUE:
            note = f"token frequencies do not match the probabilities of {worst!r}: chi-square p = {p_values[worst]:.1g}"
            return replace(gate, verdict=Verdict.WRONG, note=note)
        measured = measured_p_values(probabilities, draw, point, vocab_size, compiler)
    least = min(measured, key=lambda name: measured[name])
    if measured[least] < MIN_MEASURED_P_VALUE:
        shape = f"batch size {point.batch_size} and a vocabulary of {vocab_size}"
        note = f"tokens sampled at {shape} do not match the probabilities: {least}, p = {measured[least]:.1g}"
        return replace(gate, verdict=Verdict.WRONG, note=note)
    found = f"token frequencies match, smallest p {p_values[worst]:.2g} of {len(p_values)} distributions"
    return replace(gate, note=f"{gate.note}; {found} and {measured[least]:.2g} at the measured shape")


def small_p_values(probabilities: Probabilities, draw: Draw, device: torch.device, compiler: Compiler) -> dict[str, float]:
    """The name of each distribution -> the p value of the counts of its tokens, all drawn in one call."""
    names, logits_DV = list(distributions()), torch.stack(list(distributions().values())).to(device)
    rows = torch.arange(len(names) * ROWS, device=device) % len(names)
    tokens_R = draw(logits_DV[rows], make_generator(logits_DV, compiler)).squeeze(1)
    counts_DV = torch.zeros(len(names), VOCAB, dtype=torch.long, device=device)
    counts_DV.index_put_((rows, tokens_R), torch.ones_like(tokens_R), accumulate=True)
    probs_DV = probabilities(logits_DV.double()).cpu()
    return {name: p_value(*each) for name, *each in zip(names, counts_DV.cpu(), probs_DV, strict=True)}


def p_value(counts_V: Tensor, probs_V: Tensor) -> float:
    """The p value of Pearson's chi-square test of counts [V] for probabilities [V]; 0 if an impossible token was sampled."""
    expected_V = probs_V * counts_V.sum()
    if counts_V[expected_V == 0].any():
        return 0.0
    order = expected_V.argsort()
    counts_V, expected_V = counts_V[order], expected_V[order]
    sparse = expected_V < MIN_EXPECTED
    observed = [float(counts_V[sparse].sum()), *counts_V[~sparse].tolist()]
    expected = [float(expected_V[sparse].sum()), *expected_V[~sparse].tolist()]
    if expected[0] < MIN_EXPECTED and len(expected) > 1:
        observed[:2], expected[:2] = [observed[0] + observed[1]], [expected[0] + expected[1]]
    if len(expected) == 1:
        return 1.0
    statistic = sum((count - mean) ** 2 / mean for count, mean in zip(observed, expected, strict=True))
    return float(stats.chi2.sf(statistic, len(expected) - 1))


def measured_p_values(
    probabilities: Probabilities, draw: Draw, point: Point, vocab_size: int, compiler: Compiler
) -> dict[str, float]:
    """Words for each test -> its p value, of tokens drawn at the measured batch size, vocabulary and dtype."""
    logits_DV = measured_logits(vocab_size).to(point.device, getattr(torch, point.dtype))
    generator, calls = make_generator(logits_DV, compiler), number_of_calls(point.batch_size, vocab_size)
    which_K = torch.arange(calls * point.batch_size, device=logits_DV.device) % len(logits_DV)
    tokens_K = torch.cat([draw(logits_DV[each_B], generator).squeeze(1).cpu() for each_B in which_K.split(point.batch_size)])
    which_K, logits_DV = which_K.cpu(), logits_DV.double()
    probs_DV = probabilities(logits_DV).cpu()
    if any_impossible(probabilities, logits_DV, probs_DV, which_K, tokens_K):
        return {"an impossible token": 0.0}
    uniform_K = torch.rand(len(which_K), dtype=torch.double, generator=torch.Generator().manual_seed(0))
    kinds = {"scattered tokens": which_K < len(distributions()), "all tokens": which_K >= len(distributions())}
    found = {}
    for order, intervals in (("by probability", by_probability), ("by number", by_number)):
        starts_DV, widths_DV = (torch.stack(each) for each in zip(*(intervals(probs_V) for probs_V in probs_DV), strict=True))
        places_K = starts_DV[which_K, tokens_K] + uniform_K * widths_DV[which_K, tokens_K]
        for kind, chosen_K in kinds.items():
            if chosen_K.any():
                found[f"{kind} in order {order}"] = float(stats.kstest(places_K[chosen_K].numpy(), "uniform").pvalue)
    return found


def any_impossible(
    probabilities: Probabilities, logits_DV: Tensor, probs_DV: Tensor, which_K: Tensor, tokens_K: Tensor
) -> bool:
    """Whether a token of probability 0 was drawn, and not only because of rounding; the first of them are looked at."""
    zero_Z = (probs_DV[which_K, tokens_K] == 0).nonzero().squeeze(1)[:LEAST_DRAWS]
    if not len(zero_Z):
        return False
    rows_Z, tokens_Z = torch.arange(len(zero_Z)), tokens_K[zero_Z]
    raised_ZV = logits_DV.cpu()[which_K[zero_Z]]
    raised_ZV[rows_Z, tokens_Z] += ROUNDING
    probs_ZV = probabilities(raised_ZV.to(logits_DV.device)).cpu()
    return bool((probs_ZV[rows_Z, tokens_Z] == 0).any())


def number_of_calls(batch_size: int, vocab_size: int) -> int:
    """How often the sampler is called at the measured shape."""
    return max(1, min(MOST_DRAWS, max(LEAST_DRAWS, ENTRIES // vocab_size)) // batch_size)


@cache
def measured_logits(vocab_size: int) -> Tensor:
    """Logits [D, V]: a quarter of each distribution at the same random tokens, PEAK above the others; and others alone, twice.

    The tokens are few and in every row the same, so that a look at some hundred tokens usually shows none of them.
    """
    generator = torch.Generator().manual_seed(0)
    logits_DV = SPREAD * torch.randn(len(distributions()) + 2, vocab_size, generator=generator)
    places_S = torch.randperm(vocab_size, generator=generator)[: VOCAB // 4]
    for row_V, peak_V in zip(logits_DV, distributions().values(), strict=False):
        row_V[places_S] = PEAK + peak_V[1::4][: len(places_S)]
    return logits_DV


def by_probability(probs_V: Tensor) -> tuple[Tensor, Tensor]:
    """The start [V] of each token's interval in the cumulative distribution, and its width [V], with the tokens in falling
    order of probability; equal tokens share one interval.
    """
    values_U, which_V = probs_V.unique(return_inverse=True)
    widths_U = torch.zeros_like(values_U).index_add_(0, which_V, probs_V)
    starts_U = widths_U.flip(0).cumsum(0).flip(0) - widths_U
    return starts_U[which_V], widths_U[which_V]


def by_number(probs_V: Tensor) -> tuple[Tensor, Tensor]:
    """The same with the tokens in the order of the vocabulary."""
    return probs_V.cumsum(0) - probs_V, probs_V
