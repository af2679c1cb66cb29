"""nanoGPT's own generate(): `nanobench kv-sweep --model nanogpt_adapter:build --engine uncached,black_box:build`."""

from nanobench.plugins import black_box


def generate(module, idx_BT, n):
    return module.generate(idx_BT, n, top_k=1)  # the most probable token: the gate compares with greedy tokens


build = black_box(generate)
