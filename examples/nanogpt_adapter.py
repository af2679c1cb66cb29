"""karpathy/nanoGPT. With its model.py on PYTHONPATH: `nanobench kv-sweep --model nanogpt_adapter:build`."""

from model import GPT, GPTConfig
from nanobench.plugins import UncachedAdapter


def call(module, idx_BT, last_only):
    # nanoGPT gives logits at every position only along with a loss, which is thrown away; it views the targets as flat.
    return module(idx_BT, None if last_only else idx_BT.contiguous())


def loss(module, idx_BT, targets_BT):
    return module(idx_BT, targets_BT)[1]


def build(**config):
    return UncachedAdapter(GPT(GPTConfig(**config)), call=call, loss=loss, architecture="nanogpt")
