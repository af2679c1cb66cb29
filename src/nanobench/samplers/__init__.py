"""Samplers: they choose the next token from logits; one file per sampler."""
