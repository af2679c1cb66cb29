"""The check of timed outputs: one uncached teacher-forced pass over prompt and output judges every generated token.

The logits of a random token of a row, where they were kept, must be the reference's within the tolerance. An untrained model
repeats itself, so tokens alone might be guessed.
A greedy token must be the reference's choice within the tolerance. A sampled token must be possible under the sampler's
probabilities, and all tokens together must be as frequent as these probabilities say: the place of a token in the cumulative
distribution, made continuous by a random number, is uniform (the randomized probability integral transform: Dunn & Smyth 1996,
"Randomized Quantile Residuals").
"""

from dataclasses import dataclass, field

import torch
from scipy import stats
from torch import Tensor

from nanobench.gates.generation import FLOOR, logits_at
from nanobench.models.base import Adapter
from nanobench.samplers.base import Sampler

SLACK = 2.5
"""How far below the largest logit a greedy token may be, as a multiple of the gate's tolerance: the two logits of the arm may
be off by the tolerance each, and those of the reference by a quarter of it each (gates.generation.SLACK).
"""
MOST_TOLERANCE = 20
"""The gate's tolerance counts up to this multiple of FLOOR: it comes from the process that is checked."""
MIN_P_VALUE = 1e-7
"""A correct sampler fails once in ten million checks."""


@dataclass(frozen=True)
class Sample:
    """Rows of timed outputs: prompts [R, T], generated tokens [R, N], and where each row comes from, in words.

    `logits` has a place in each row and the logits [V] of the token there, or None where none are known. `model_places` has the
    tokens of a row that the model chose, of an engine some of whose tokens are synthetic, or None where it chose all.
    """

    prompt_RT: Tensor
    tokens_RN: Tensor
    names: list[str]
    logits: list[tuple[int, Tensor] | None] = field(default_factory=list)
    model_places: list[tuple[int, ...] | None] = field(default_factory=list)

    @property
    def is_model_RN(self) -> Tensor:
        """Which tokens the model chose. Only these are checked."""
        chosen_RN = torch.ones_like(self.tokens_RN, dtype=torch.bool)
        for row, places in enumerate(self.model_places):
            if places is not None:
                chosen_RN[row] = False
                chosen_RN[row, list(places)] = True
        return chosen_RN


def judge(adapter: Adapter, sampler: Sampler | None, sample: Sample, dtype: str, gate_tolerance: float | None) -> str | None:
    """What is wrong with the sample, or None. `adapter` has the weights of the measured dtype in the dtype of the reference;
    `sampler` is None for greedy.
    """
    prompt_len, tokens_RN = sample.prompt_RT.shape[1], sample.tokens_RN
    sequence_RT = torch.cat((sample.prompt_RT, tokens_RN[:, :-1]), dim=1)
    logits_RNV = logits_at(adapter, sequence_RT, prompt_len, list(range(tokens_RN.shape[1]))).float()
    floor = FLOOR[dtype] * logits_RNV.abs().max().item()
    slack = SLACK * min(max(gate_tolerance or 0.0, floor), MOST_TOLERANCE * floor)
    wrong = judge_greedy(logits_RNV, sample, slack) if sampler is None else judge_sampled(logits_RNV, sampler, sample, slack)
    return wrong or judge_logits(logits_RNV, sample, slack)


def judge_logits(logits_RNV: Tensor, sample: Sample, slack: float) -> str | None:
    """What is wrong with the logits that were kept, or None."""
    for row, kept in enumerate(sample.logits):
        if kept is not None:
            place, logits_V = kept
            error = (logits_V.to(logits_RNV) - logits_RNV[row, place]).abs().max().item()
            if not error <= slack:
                return f"{sample.names[row]}: logits of token {place + 1} off by {error:.2g} (tolerance {slack:.2g})"
    return None


def judge_greedy(logits_RNV: Tensor, sample: Sample, slack: float) -> str | None:
    """What is wrong with greedy tokens, or None."""
    chosen_RN = logits_RNV.gather(-1, sample.tokens_RN.unsqueeze(-1)).squeeze(-1)
    below_RN = logits_RNV.amax(-1) - chosen_RN
    is_model_RN = sample.is_model_RN
    wrong_RN = ~(below_RN <= slack) & is_model_RN
    if not wrong_RN.any():
        return None
    row, token = (int(each) for each in wrong_RN.nonzero()[0])
    checked = int(is_model_RN.sum())
    return (
        f"{sample.names[row]}: token {token + 1} is not the reference's choice: its logit is {below_RN[row, token]:.2g} below "
        f"the largest (tolerance {slack:.2g}); {int(wrong_RN.sum()) / checked:.0%} of {checked} checked tokens are wrong"
    )


def judge_sampled(logits_RNV: Tensor, sampler: Sampler, sample: Sample, slack: float) -> str | None:
    """What is wrong with sampled tokens, or None; a sampler without `probabilities` is not checked."""
    if not hasattr(sampler, "probabilities"):
        return None
    is_model_RN = sample.is_model_RN
    tokens_K1, logits_KV = sample.tokens_RN[is_model_RN].unsqueeze(1), logits_RNV[is_model_RN]
    probs_KV = sampler.probabilities(logits_KV)
    # Rounding may push a token over the edge of a nucleus: impossible is what still is so with a logit raised by the slack.
    raised_KV = logits_KV.scatter_add(1, tokens_K1, torch.full_like(tokens_K1, slack, dtype=logits_KV.dtype))
    impossible_K = sampler.probabilities(raised_KV).gather(1, tokens_K1).squeeze(1) == 0
    if impossible_K.any():
        row, token = is_model_RN.nonzero()[int(impossible_K.nonzero()[0])].tolist()
        return f"{sample.names[row]}: token {token + 1} has probability 0 under the sampler"
    p_value = float(stats.kstest(places(probs_KV, tokens_K1).cpu().numpy(), "uniform").pvalue)
    if p_value < MIN_P_VALUE:
        return f"the frequencies of {len(tokens_K1)} sampled tokens do not match the sampler's probabilities: p = {p_value:.1g}"
    return None


def places(probs_KV: Tensor, tokens_K1: Tensor) -> Tensor:
    """The place [K] of each token in the cumulative distribution over the tokens in falling probability: uniform in 0..1 if the
    tokens have these probabilities.
    """
    chosen_K1 = probs_KV.gather(1, tokens_K1)
    above_K = probs_KV.masked_fill(probs_KV <= chosen_K1, 0.0).sum(-1)
    equal_K = probs_KV.masked_fill(probs_KV != chosen_K1, 0.0).sum(-1)
    generator = torch.Generator().manual_seed(0)
    uniform_K = torch.rand(len(probs_KV), dtype=probs_KV.dtype, generator=generator).to(probs_KV.device)
    return above_K + uniform_K * equal_K
