"""The gate of samplers: whether tokens are drawn as often as they should be, each row for itself.

Rows of ten fixed distributions are sampled in one call, so that a row which listens to another shows too. Counts are held
against the sampler's own `probabilities` in float64 by Pearson's chi-square, sparse cells joined.
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
LEAST_P = 1e-5
"""Ten distributions are asked: a right sampler fails once in ten thousand gates, and seeds are fixed."""
LEAST_EXPECTED = 5.0


@cache
def distributions() -> dict[str, Tensor]:
    """Name -> logits [V]: flat, peaked, heavy and light tails, ties, impossible tokens."""
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
    """The gate's verdict with the sampler's: wrong where its tokens are not those of its probabilities.

    It draws as the arm does: compiled where the arm is, and then from torch's own generator. One that states no probabilities
    is judged by nothing here, and the note says so.
    """
    if not hasattr(sampler, "probabilities"):
        return replace(gate, note=f"{gate.note}; the sampler states no probabilities: what it draws is not gated")
    names, logits_DV = list(distributions()), torch.stack(list(distributions().values())).to(device)
    rows = torch.arange(len(names) * ROWS, device=device) % len(names)
    draw = compiler(sampler if isinstance(sampler, FunctionType) else sampler.__call__) if compiler.compiles else sampler
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        tokens_R = draw(logits_DV[rows], make_generator(logits_DV, compiler)).squeeze(1)
    counts_DV = torch.zeros(len(names), VOCAB, dtype=torch.long, device=device)
    counts_DV.index_put_((rows, tokens_R), torch.ones_like(tokens_R), accumulate=True)
    chances_DV = sampler.probabilities(logits_DV.double()).cpu()
    found = {name: p_value(*each) for name, *each in zip(names, counts_DV.cpu(), chances_DV, strict=True)}
    worst = min(found, key=lambda name: found[name])
    if found[worst] < LEAST_P:
        note = f"tokens are not drawn as they should be from {worst!r}: chi-square p = {found[worst]:.1g}"
        return replace(gate, verdict=Verdict.WRONG, note=note)
    return replace(gate, note=f"{gate.note}; drawn as they should be, least p {found[worst]:.2g} of {len(found)} distributions")


def p_value(counts_V: Tensor, chances_V: Tensor) -> float:
    """Pearson's chi-square of counts against chances; 0 where an impossible token was drawn."""
    expected_V = chances_V * counts_V.sum()
    if counts_V[expected_V == 0].any():
        return 0.0
    order = expected_V.argsort()
    counts_V, expected_V = counts_V[order], expected_V[order]
    sparse = expected_V < LEAST_EXPECTED
    seen = [float(counts_V[sparse].sum()), *counts_V[~sparse].tolist()]
    wanted = [float(expected_V[sparse].sum()), *expected_V[~sparse].tolist()]
    if wanted[0] < LEAST_EXPECTED and len(wanted) > 1:
        seen[:2], wanted[:2] = [seen[0] + seen[1]], [wanted[0] + wanted[1]]
    if len(wanted) == 1:
        return 1.0
    statistic = sum((got - want) ** 2 / want for got, want in zip(seen, wanted, strict=True))
    return float(stats.chi2.sf(statistic, len(wanted) - 1))
