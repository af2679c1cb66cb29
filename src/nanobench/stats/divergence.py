"""How far an approximation of a model is from the model itself, as numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Of the next-token distributions of a lossy arm from those of its float model in the same dtype. None if not measured."""

    kl_nats: float | None = None
    """mean over positions of KL(float model || arm)"""
    kl_max_nats: float | None = None
    """its largest value"""
    top1_agreement: float | None = None
    """share of positions at which both have the same most likely token"""
    matching_tokens: float | None = None
    """greedy tokens of a row before the first that the float model does not choose, mean over rows"""
    bits_per_byte: float | None = None
    """of a text; None without a text, and for a model that does not know it"""
    float_bits_per_byte: float | None = None
    """the same of the float model"""
