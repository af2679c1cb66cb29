"""How far a lossy arm is from its float model in the same dtype, measured on the gate's prompts and forced tokens.

The float model is its uncached pass with torch's own matmuls. The arm is its engine at the measured shape: kernels, cache and
all. An engine that shows no logits is measured by the uncached pass of its model.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobench.engines.base import Engine
from nanobench.gates.generation import Reference, logits_at, own_logits, run_forced
from nanobench.models.base import Adapter
from nanobench.records import Gate, Verdict
from nanobench.stats.divergence import Divergence

KNOWS = 0.9
"""A model whose loss on a text is above this share of a uniform guess's does not know the text."""


@dataclass(frozen=True)
class Text:
    """Rows of a text: a prompt of the measured length and what follows it."""

    tokens_RS: Tensor
    follow_bytes: int
    """of what follows the prompts, in all rows"""


@dataclass(frozen=True)
class Lossy:
    """A lossy arm: the engine, the model that it runs, and the float model that it approximates."""

    engine: Engine
    adapter: Adapter
    float_reference: Reference

    def logits_RPV(self) -> Tensor:
        """The arm's logits on the forced tokens."""
        reference = self.float_reference
        rows, positions = len(reference.sequence_RT), reference.positions
        found = run_forced(self.engine, reference.prompt_BT, reference.forced_BN, rows, positions)
        if found is None:
            return logits_at(self.adapter, reference.sequence_RT, reference.point.prompt_len, positions)
        return found


def measure(arm: Lossy, greedy_BN: Tensor | None, text: Text | None) -> Divergence:
    """The divergence of an arm. `greedy_BN` are prompts and greedy tokens that it generated; None with another sampler."""
    reference, prompt_len = arm.float_reference, arm.float_reference.point.prompt_len
    arm_RPV = arm.logits_RPV()
    float_RPV = own_logits(reference.adapter, reference.sequence_RT, prompt_len, reference.positions)
    kl_RP = kl(float_RPV, arm_RPV)
    found = Divergence(
        kl_nats=kl_RP.mean().item(),
        kl_max_nats=kl_RP.max().item(),
        top1_agreement=chooses(float_RPV, arm_RPV.argmax(-1)).double().mean().item(),
        matching_tokens=None if greedy_BN is None else matching(reference, greedy_BN[: len(arm_RPV)]),
    )
    return found if text is None else replace(found, **bits_per_byte(arm, text))


def judge(gate: Gate, found: Divergence, max_kl: float | None) -> Gate:
    """`lossy` for an arm that computes what its own model computes, and is no further from the float model than the limit."""
    if gate.verdict is Verdict.WRONG or found.kl_nats is None:
        return gate
    if not math.isfinite(found.kl_nats) or (max_kl is not None and found.kl_nats > max_kl):
        limit = "is not finite" if max_kl is None else f"is above --max-kl {max_kl:g}"
        note = f"KL divergence from the float model {found.kl_nats:.3g} nats {limit}"
        return replace(gate, verdict=Verdict.WRONG, note=note)
    note = f"KL from the float model {found.kl_nats:.2g} nats, {found.top1_agreement:.0%} of top tokens equal; {gate.note}"
    # Synthetic tokens are further from the float model than any rounding of its weights.
    verdict = gate.verdict if gate.verdict is Verdict.SYNTHETIC else Verdict.LOSSY
    return replace(gate, verdict=verdict, note=note)


def kl(float_RPV: Tensor, arm_RPV: Tensor) -> Tensor:
    """KL(float || arm) in nats [R, P], position by position, because float64 takes much memory."""
    columns = [kl_of(float_RPV[:, place], arm_RPV[:, place]) for place in range(float_RPV.shape[1])]
    return torch.stack(columns, dim=1)


def kl_of(float_RV: Tensor, arm_RV: Tensor) -> Tensor:
    """KL(float || arm) in nats [R]. Rounding can make it slightly negative: then it is 0."""
    log_float_RV, log_arm_RV = float_RV.double().log_softmax(-1), arm_RV.double().log_softmax(-1)
    terms_RV = torch.where(log_float_RV.isinf(), 0.0, log_float_RV.exp() * (log_float_RV - log_arm_RV))
    return terms_RV.sum(-1).clamp_min(0)


def chooses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Whether each token [...] is one of the most likely by its logits [..., V]. Equally likely tokens are equal choices."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) >= logits.amax(-1)


def matching(reference: Reference, tokens_RN: Tensor) -> float:
    """Greedy tokens before the first that is not the float model's choice, mean over rows.

    Up to there both have read the same tokens, so one pass of the float model over the arm's output shows it.
    """
    prompt_len, lengths = reference.point.prompt_len, []
    for row_N in tokens_RN:
        new_N = row_N[prompt_len:]
        logits_NV = own_logits(reference.adapter, row_N[None, :-1], prompt_len, list(range(len(new_N))))[0]
        lengths.append(int(chooses(logits_NV, new_N).int().cumprod(0).sum()))
    return sum(lengths) / len(lengths)


# A text
def bits_per_byte(arm: Lossy, text: Text) -> dict[str, float]:
    """Bits per byte of the arm and of the float model over the same tokens; empty if the float model does not know the text."""
    prompt_len, vocab_size = arm.float_reference.point.prompt_len, arm.adapter.shape.vocab_size
    float_nats = model_nats(arm.float_reference.adapter, text.tokens_RS, prompt_len)
    tokens = text.tokens_RS[:, prompt_len:].numel()
    if not text.follow_bytes or not float_nats < KNOWS * math.log(vocab_size) * tokens:
        return {}
    to_bits = 1 / (math.log(2) * text.follow_bytes)
    return {"bits_per_byte": to_bits * arm_nats(arm, text.tokens_RS), "float_bits_per_byte": to_bits * float_nats}


def arm_nats(arm: Lossy, tokens_RS: Tensor) -> float:
    """What follows the prompts, read by the engine token by token, as many rows at once as have prompts of their own."""
    rows = 1 if arm.float_reference.shares_prompt else len(arm.engine.tokens_BN)
    return sum(nats_of_rows(arm, part_RS) for part_RS in tokens_RS.split(rows))


def nats_of_rows(arm: Lossy, tokens_RS: Tensor) -> float:
    """The same of no more rows than the engine has; they are repeated to fill it."""
    engine, prompt_len, rows = arm.engine, arm.float_reference.point.prompt_len, len(tokens_RS)
    full_BS = tokens_RS[torch.arange(len(engine.tokens_BN), device=tokens_RS.device) % rows]
    with torch.inference_mode(False):
        # Like the gate's prompt no inference tensor: a compiled function would be compiled again for the other kind.
        prompt_BT = torch.empty_like(arm.float_reference.prompt_BT)
    engine.prefill(prompt_BT.copy_(full_BS[:, :prompt_len]))
    if engine.logits_BV is None:
        return model_nats(arm.adapter, tokens_RS, prompt_len)
    place, nats = prompt_len, 0.0
    while True:
        assert engine.logits_BV is not None
        nats += nats_of(engine.logits_BV[:rows], tokens_RS[:, place])
        if place + 1 >= tokens_RS.shape[1]:
            return nats
        engine.tokens_BN[:, place] = full_BS[:, place]
        if engine.step() != 1:
            return model_nats(arm.adapter, tokens_RS, prompt_len)
        place += 1


def model_nats(adapter: Adapter, tokens_RS: Tensor, prompt_len: int) -> float:
    """What follows the prompts, read by an uncached pass per row."""
    places = list(range(tokens_RS.shape[1] - prompt_len))
    return sum(nats_of(own_logits(adapter, row_S[None, :-1], prompt_len, places)[0], row_S[prompt_len:]) for row_S in tokens_RS)


def nats_of(logits_KV: Tensor, tokens_K: Tensor) -> float:
    """Negative log likelihood of tokens, in all."""
    log_probs_KV = logits_KV.double().log_softmax(-1)
    return -log_probs_KV.gather(1, tokens_K[:, None]).sum().item()
