"""transformers' GPT-2 (random weights) with its own caches: `nanobench kv-sweep --model huggingface_adapter:build`."""

import torch.nn.functional as F
from nanobench.schema import GPTShape
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache


class HuggingFace:
    def __init__(self, **arguments):
        self.module = GPT2LMHeadModel(config := GPT2Config(**arguments))
        sizes = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
        sizes |= {"n_kv_head": config.n_head, "block_size": config.n_positions, "n_params": self.module.num_parameters()}
        self.shape = GPTShape(architecture="huggingface-gpt2", **sizes)

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        logits = self.module(idx_BT, use_cache=False, logits_to_keep=int(last_only)).logits
        return logits if targets_BT is None else F.cross_entropy(logits.float().transpose(1, 2), targets_BT, ignore_index=-1)

    def make_cache(self, batch_size, max_len, kind):
        cache = StaticCache(self.module.config, max_len) if kind == "static" else {"cat": DynamicCache}[kind]()
        cache.early_initialization(batch_size, self.shape.n_head, self.shape.head_dim, self.module.dtype, self.module.device)
        return cache

    def forward_cached(self, idx_BT, pos_T, cache, last_only=True):
        for layer in cache.layers if isinstance(cache, StaticCache) else ():
            layer.cumulative_length.copy_(pos_T[0])  # it writes where its own count says, and would count on from the last call
        return self.module(idx_BT, past_key_values=cache, position_ids=pos_T[None], logits_to_keep=int(last_only)).logits, cache


build = HuggingFace
