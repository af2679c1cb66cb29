"""Chunked prefill: reads the prompt in chunks through a static cache, then decodes token by token."""

import torch
from nanobench.plugins import allocate_tokens, make_generator


class ChunkedPrefill:
    kv_access = "static"

    def __init__(self, adapter, sampler, point, compiler, chunk):
        weights = next(adapter.module.parameters())
        self.adapter, self.sampler, self.chunk = adapter, sampler, chunk
        self.cache = adapter.make_cache(point.batch_size, point.total_len, "static")
        self.tokens_BN, self.logits_BV, self.length = allocate_tokens(point, weights), None, 0
        self.positions_N = torch.arange(point.total_len, device=weights.device)
        self.generator = make_generator(weights, compiler)
        self.read_chunk = compiler(self._read_chunk, dynamic=True)

    def _read_chunk(self, idx_BT, pos_T):
        logits_B1V, self.cache = self.adapter.forward_cached(idx_BT, pos_T, self.cache)
        return logits_B1V[:, -1]

    def prefill(self, prompt_BT):
        prompt_len, self.length = prompt_BT.shape[1], 0
        self.tokens_BN[:, :prompt_len] = prompt_BT
        while self.length < prompt_len:
            self.read(min(self.length + self.chunk, prompt_len))
        self.write()

    def step(self):
        self.read(self.length + 1)
        self.write()
        return 1

    def read(self, end):
        """Reads the tokens up to a position into the cache."""
        new = slice(self.length, end)
        self.logits_BV = self.read_chunk(self.tokens_BN[:, new], self.positions_N[new])
        self.length = end

    def write(self):
        """Writes the next token."""
        self.tokens_BN[:, self.length : self.length + 1] = self.sampler(self.logits_BV, self.generator)


def build(adapter, sampler, point, compiler, *, chunk=16):
    return ChunkedPrefill(adapter, sampler, point, compiler, chunk)
