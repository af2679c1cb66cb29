"""karpathy/nanochat with the cache of its Engine. In a checkout of it: `nanobench kv-sweep --model nanochat_adapter:build`."""

import torch
from nanobench.plugins import KwargCacheAdapter
from nanochat import gpt
from nanochat.engine import KVCache


def call(module, idx_BT, last_only, **cache):
    gpt.COMPUTE_DTYPE = module.cos.dtype  # nanochat computes in one dtype per process, but the gate needs another one too
    return module(idx_BT, **cache)


def make_cache(module, batch_size, max_len, device, dtype):
    c = module.config
    return KVCache(batch_size, c.n_kv_head, max_len, c.n_embd // c.n_head, c.n_layer, device, dtype)


def build(**config):
    module = gpt.GPT(gpt.GPTConfig(**config))
    module.init_weights()
    with torch.no_grad():
        for weight in module.parameters():  # nanochat begins with projections of zero, through which no gate sees the cache
            weight += 0.02 * torch.randn_like(weight)
    return KwargCacheAdapter(module, make_cache, reset=KVCache.reset, call=call, architecture="nanochat-2026")
