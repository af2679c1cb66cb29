"""karpathy/nanoGPT. With its model.py on PYTHONPATH: `nanobench kv-sweep --model nanogpt_adapter:build`."""

from model import GPT, GPTConfig
from nanobench.errors import Skip
from nanobench.schema import GPTShape


class NanoGPT:
    def __init__(self, config):
        self.module = GPT(config)
        sizes = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")}
        n_params = sum(parameter.numel() for parameter in self.module.parameters())
        self.shape = GPTShape(architecture="nanogpt", n_kv_head=config.n_head, n_params=n_params, **sizes)

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        if targets_BT is not None:
            return self.module(idx_BT, targets_BT)[1]
        # nanoGPT gives logits at every position only along with a loss, which is thrown away; it views the targets as flat.
        return self.module(idx_BT, None if last_only else idx_BT.contiguous())[0]

    def make_cache(self, batch_size, max_len, kind):
        raise Skip("nanoGPT's GPT has no key-value cache")


def build(**config):
    return NanoGPT(GPTConfig(**config))
