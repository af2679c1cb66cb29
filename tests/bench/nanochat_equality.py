"""Our nanochat of 2026 compared with karpathy/nanochat's own GPT: the same random weights, the largest difference of a logit.

    python tests/bench/nanochat_equality.py CHECKOUT        some seconds

CHECKOUT is a checkout of karpathy/nanochat; tried with commit 92d63d4 of July 2026. Its GPT gets random weights, with gates and
scalars that are not zero, and its own format of checkpoints carries them into ours (`nanochat:DIR`).
Logits are compared without a cache, and with each cache: a prompt, then token by token. Its engine generates greedy tokens, and
so do we. The prompt is longer than the window, so windows count.

The last lines are a control: by how much do the logits change when one part of ours is switched off?
No time is measured.
"""

import copy
import importlib
import json
import os
import sys
import tempfile
import types
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch

from nanobench import registry

ROWS, PROMPT, LENGTH, NEW = 3, 160, 200, 24
CONFIG = {
    "sequence_len": 256,
    "vocab_size": 300,
    "n_layer": 8,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 64,
    "window_pattern": "SSSL",
}
"""A window of 129 tokens; 300 tokens are padded to 320 rows."""
HEAD_DIM = CONFIG["n_embd"] // CONFIG["n_head"]
PARTS = {
    "windows": lambda module: setattr(module, "windows", [None] * len(module.windows)),
    "value embeddings": lambda module: [
        each.value_embedding.weight.zero_() for each in (block.attention for block in module.blocks) if each.has_values
    ],
    "value gates": lambda module: [
        each.value_gate.weight.zero_() for each in (block.attention for block in module.blocks) if each.has_values
    ],
    "smear": lambda module: module.smear_scale.zero_(),
    "gate of the smear": lambda module: module.smear_gate.weight.zero_(),
    "scaled residuals": lambda module: module.residual_scales.fill_(1.0),
    "first embedding": lambda module: module.first_scales.zero_(),
    "backout": lambda module: module.backout_scale.zero_(),
}
"""A part -> how it is switched off."""


class NoTokenizer:
    """nanochat's engine asks for special tokens: there are none here."""

    def encode_special(self, text):
        return -1

    def get_bos_token_id(self):
        return -1


def their_modules(checkout: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """nanochat.gpt and nanochat.engine, without what only loads its checkpoints and tokenizers."""
    os.environ["NANOCHAT_DTYPE"] = "float32"
    sys.path.insert(0, str(checkout))
    stand_in = types.ModuleType("nanochat.checkpoint_manager")
    stand_in.load_model = None
    sys.modules["nanochat.checkpoint_manager"] = stand_in
    return importlib.import_module("nanochat.gpt"), importlib.import_module("nanochat.engine")


def random_weights(module: torch.nn.Module) -> None:
    """Weights that preserve the scale of activations; scalars around 0.5."""
    for parameter in module.parameters():
        if parameter.dim() == 2:
            parameter.normal_(std=parameter.shape[1] ** -0.5)
        else:
            parameter.uniform_(0.3, 0.9)


def theirs_and_ours(gpt: types.ModuleType, folder: Path):
    """nanochat's GPT with random weights, and our adapter, which has read them from a checkpoint."""
    theirs = gpt.GPT(gpt.GPTConfig(**CONFIG))
    theirs.init_weights()
    random_weights(theirs)
    torch.save(theirs.state_dict(), folder / "model_000001.pt")
    (folder / "meta_000001.json").write_text(json.dumps({"model_config": CONFIG}))
    return theirs.eval(), registry.find("models", f"nanochat:{folder}")()


def in_dtype(theirs, ours, modules, dtype):
    """Copies of both in a dtype, in which nanochat computes, too."""
    theirs, ours = copy.deepcopy(theirs).to(dtype), copy.deepcopy(ours)
    ours.module.to(dtype).eval()
    for module in modules:
        module.COMPUTE_DTYPE = dtype
    theirs.cos, theirs.sin = theirs._precompute_rotary_embeddings(theirs.rotary_seq_len, HEAD_DIM)
    return theirs, ours


def chunks() -> tuple[torch.Tensor, ...]:
    """The positions of the prompt, then one by one."""
    return torch.arange(LENGTH).split([PROMPT, *[1] * (LENGTH - PROMPT)])


def their_cache(engine, rows: int, dtype: torch.dtype):
    """An empty KVCache of nanochat."""
    sizes = {"num_heads": CONFIG["n_kv_head"], "head_dim": HEAD_DIM, "num_layers": CONFIG["n_layer"]}
    return engine.KVCache(batch_size=rows, seq_len=LENGTH, device=torch.device("cpu"), dtype=dtype, **sizes)


def cached_logits(ours, idx_BT, kind: str, masked: bool) -> torch.Tensor:
    """Our logits behind the prompt and each later token, through a cache."""
    cache, found = ours.make_cache(ROWS, LENGTH, kind), []
    for pos_T in chunks():
        if kind == "static" and not masked:
            cache.attend_to(int(pos_T[-1]) + 1, masked=False)
        logits_B1V, cache = ours.forward_cached(idx_BT[:, pos_T], pos_T, cache)
        found.append(logits_B1V)
    return torch.cat(found, dim=1)


def greedy_tokens(ours, prompt_1T) -> list[int]:
    """Our greedy tokens with a cache."""
    cache, tokens = ours.make_cache(1, LENGTH, "static"), prompt_1T
    for position in range(PROMPT - 1, PROMPT + NEW - 1):
        pos_T = torch.arange(PROMPT) if position == PROMPT - 1 else torch.tensor([position])
        cache.attend_to(position + 1, masked=False)
        logits_B1V, cache = ours.forward_cached(tokens[:, pos_T], pos_T, cache)
        tokens = torch.cat((tokens, logits_B1V[:, -1:].argmax(-1)), dim=1)
    return tokens[0].tolist()


def difference(ours_BTV, theirs_BTV) -> str:
    """The largest difference, beside the largest logit."""
    found = (ours_BTV.double() - theirs_BTV.double()).abs().max().item()
    return f"{found:.2g} (largest logit {theirs_BTV.abs().max().item():.3g})"


def compare(theirs, ours, engine, dtype: torch.dtype) -> None:
    """Prints the differences in one dtype."""
    idx_BT = torch.randint(CONFIG["vocab_size"], (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    # nanochat converts its logits to float32, also from float64.
    with patch.object(torch.Tensor, "float", torch.Tensor.double) if dtype == torch.float64 else nullcontext():
        whole_BTV = theirs(idx_BT)
        their_kv = their_cache(engine, ROWS, dtype)
        steps_BTV = torch.cat([theirs(idx_BT[:, pos_T], kv_cache=their_kv)[:, -1:] for pos_T in chunks()], dim=1)
        generated, _ = engine.Engine(theirs, NoTokenizer()).generate_batch(
            idx_BT[0, :PROMPT].tolist(), num_samples=ROWS, max_tokens=NEW, temperature=0.0
        )
    name = str(dtype).removeprefix("torch.")
    print(f"{name}, no cache: {difference(ours.forward(idx_BT), whole_BTV)}")
    for kind, masked in (("static", False), ("static", True), ("cat", False)):
        label = f"{kind}{', with a mask' if masked else ''}"
        print(f"{name}, {label} cache, step by step: {difference(cached_logits(ours, idx_BT, kind, masked), steps_BTV)}")
    tokens = greedy_tokens(ours, idx_BT[:1, :PROMPT])
    same = "equal" if generated == [tokens] * ROWS else "DIFFERENT"
    print(f"{name}, {NEW} greedy tokens of its engine in {ROWS} rows: {same}")
    if dtype == torch.float64:
        for part, switch_off in PARTS.items():
            without = copy.deepcopy(ours)
            switch_off(without.module)
            print(f"control, without {part}: {difference(without.forward(idx_BT), whole_BTV)}")


def main(checkout: Path) -> None:
    """Prints the differences in both dtypes."""
    torch.manual_seed(0)
    gpt, engine = their_modules(checkout)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        theirs, ours = theirs_and_ours(gpt, Path(folder))
        for dtype in (torch.float32, torch.float64):
            compare(*in_dtype(theirs, ours, (gpt, engine), dtype), engine, dtype)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
