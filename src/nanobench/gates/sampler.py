"""The correctness gate of samplers: tests whether the frequencies of sampled tokens match the sampler's `probabilities`.

Rows of ten fixed distributions are sampled in one call, so that a dependence between rows is visible too. Pearson's chi-square
test compares the counts with the sampler's own `probabilities` in float64; cells with small expected counts are merged.
"""

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

VOCAB, ROWS = 64, 4096
MIN_P_VALUE = 1e-5
"""With ten distributions a correct sampler fails once in ten thousand gates; the seeds are fixed."""
MIN_EXPECTED = 5.0
"""Cells with a smaller expected count are merged."""


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


def judge(sampler: Sampler, gate: Gate, device: torch.device, compiler: Compiler) -> Gate:
    """The verdict `gate`, changed to `wrong` if the sampled frequencies do not match the sampler's probabilities.

    The sampler runs as in the arm: compiled if the arm is compiled, and then with torch's default generator. A sampler without
    `probabilities` is not gated; the note says so.
    """
    if not hasattr(sampler, "probabilities"):
        return replace(gate, note=f"{gate.note}; the sampler has no `probabilities`: its tokens are not gated")
    names, logits_DV = list(distributions()), torch.stack(list(distributions().values())).to(device)
    rows = torch.arange(len(names) * ROWS, device=device) % len(names)
    sample = compiler(sampler if isinstance(sampler, FunctionType) else sampler.__call__) if compiler.compiles else sampler
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        tokens_R = sample(logits_DV[rows], make_generator(logits_DV, compiler)).squeeze(1)
    counts_DV = torch.zeros(len(names), VOCAB, dtype=torch.long, device=device)
    counts_DV.index_put_((rows, tokens_R), torch.ones_like(tokens_R), accumulate=True)
    probs_DV = sampler.probabilities(logits_DV.double()).cpu()
    p_values = {name: p_value(*each) for name, *each in zip(names, counts_DV.cpu(), probs_DV, strict=True)}
    worst = min(p_values, key=lambda name: p_values[name])
    if p_values[worst] < MIN_P_VALUE:
        note = f"token frequencies do not match the probabilities of {worst!r}: chi-square p = {p_values[worst]:.1g}"
        return replace(gate, verdict=Verdict.WRONG, note=note)
    return replace(
        gate, note=f"{gate.note}; token frequencies match, smallest p {p_values[worst]:.2g} of {len(p_values)} distributions"
    )


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
