"""Columns of lossy arms: how far their next-token distributions are from those of the float model in the same dtype."""

from nanobench.results.metrics.metric import BITS_PER_BYTE, HIGHER, LOWER, NATS, NEITHER, RATIO, TOKENS, outcome_first

METRICS = (
    *outcome_first(
        NATS,
        LOWER,
        kl_nats="mean of KL(float model || arm) over the positions that the gate compares; lossy arms only, as all of these",
        kl_max_nats="its largest value",
    ),
    *outcome_first(RATIO, HIGHER, top1_agreement="share of these positions where the most likely token is the float model's"),
    *outcome_first(
        TOKENS,
        HIGHER,
        matching_tokens="greedy tokens before the first that the float model does not choose, mean over at most 8 rows",
    ),
    *outcome_first(
        BITS_PER_BYTE,
        LOWER,
        bits_per_byte="of what follows prompts in the text of --prompts; null for a model that does not know the text",
    ),
    *outcome_first(BITS_PER_BYTE, NEITHER, float_bits_per_byte="the same of the float model"),
)
