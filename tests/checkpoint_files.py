"""Writes small checkpoints as nanoGPT and nanochat do, and computes their logits from the tensors, without our networks."""

import json
import zipfile
from collections import OrderedDict

import torch
import torch.nn.functional as F

NANOGPT = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 24, "bias": True, "vocab_size": 61, "dropout": 0.0}
NANOCHAT = {"sequence_len": 24, "vocab_size": 61, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 16}
EPSILON = 1e-6


# nanoGPT
def nanogpt_tensors(settings=NANOGPT):
    """Random tensors under nanoGPT's names; the head is the same tensor as the embedding."""
    width, tensors = settings["n_embd"], OrderedDict()

    def add(name, *shape):
        tensors[f"transformer.{name}.weight"] = 0.3 * torch.randn(shape) + (len(shape) == 1)
        if settings["bias"] and not name.startswith("w"):
            tensors[f"transformer.{name}.bias"] = 0.3 * torch.randn(shape[0])

    add("wte", settings["vocab_size"], width)
    add("wpe", settings["block_size"], width)
    for layer in range(settings["n_layer"]):
        add(f"h.{layer}.ln_1", width)
        add(f"h.{layer}.attn.c_attn", 3 * width, width)
        add(f"h.{layer}.attn.c_proj", width, width)
        add(f"h.{layer}.ln_2", width)
        add(f"h.{layer}.mlp.c_fc", 4 * width, width)
        add(f"h.{layer}.mlp.c_proj", width, 4 * width)
    add("ln_f", width)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    return tensors


def nanogpt_content(tensors=None, settings=NANOGPT):
    """What nanoGPT's train.py saves."""
    tensors = nanogpt_tensors(settings) if tensors is None else tensors
    state = {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}
    group = {"lr": 1e-3, "betas": (0.9, 0.95), "fused": None, "params": [0]}
    return {
        "model": tensors,
        "optimizer": {"state": state, "param_groups": [group]},
        "model_args": dict(settings),
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out", "compile": True, "learning_rate": 1e-3},
    }


def nanogpt_logits(tensors, idx_BT, n_head=2, gelu="none"):
    """Logits [B, T, V] in float64, from nanoGPT's equations."""
    weights = {name: tensor.double() for name, tensor in tensors.items()}

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    length = idx_BT.shape[1]
    x = weights["transformer.wte.weight"][idx_BT] + weights["transformer.wpe.weight"][:length]
    for block in (f"transformer.h.{layer}" for layer in range(NANOGPT["n_layer"])):
        parts = linear(f"{block}.attn.c_attn", norm(f"{block}.ln_1", x)).chunk(3, dim=-1)
        x = x + linear(f"{block}.attn.c_proj", attend(*(heads(part, n_head) for part in parts)))
        x = x + linear(f"{block}.mlp.c_proj", F.gelu(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x)), approximate=gelu))
    return norm("transformer.ln_f", x) @ weights["transformer.wte.weight"].T


def heads(x_BTC, number):
    """[B, T, C] -> [B, H, T, D]"""
    return x_BTC.unflatten(2, (number, -1)).transpose(1, 2)


def attend(q, k, v):
    """Causal attention written out: [B, H, T, D] -> [B, T, C]."""
    scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
    later = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(later, float("-inf")).softmax(3) @ v).transpose(1, 2).flatten(2)


# nanochat
def nanochat_tensors(settings=NANOCHAT, rows=None):
    """Random tensors under nanochat's names."""
    width, rows = settings["n_embd"], rows or settings["vocab_size"]
    kv_width = width // settings["n_head"] * settings["n_kv_head"]
    tensors = OrderedDict({"transformer.wte.weight": torch.randn(rows, width).bfloat16()})
    for block in (f"transformer.h.{layer}" for layer in range(settings["n_layer"])):
        for name, rows_out in (("q", width), ("k", kv_width), ("v", kv_width), ("proj", width)):
            tensors[f"{block}.attn.c_{name}.weight"] = 0.3 * torch.randn(rows_out, width)
        tensors[f"{block}.mlp.c_fc.weight"] = 0.3 * torch.randn(4 * width, width)
        tensors[f"{block}.mlp.c_proj.weight"] = 0.3 * torch.randn(width, 4 * width)
    tensors["lm_head.weight"] = torch.randn(rows, width)
    return tensors


def save_nanochat(folder, step=7, tensors=None, settings=NANOCHAT, **changes):
    """A checkpoint as nanochat's save_checkpoint() writes it; `changes` are of its settings."""
    folder.mkdir(exist_ok=True)
    tensors = nanochat_tensors(settings) if tensors is None else tensors
    torch.save(tensors, folder / f"model_{step:06d}.pt")
    meta = {"step": step, "val_bpb": 1.2, "model_config": {**settings, **changes}, "user_config": {}}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta))
    return tensors


def nanochat_logits(tensors, idx_BT, settings=NANOCHAT):
    """Logits [B, T, V] in float64, from the equations of nanochat in autumn 2025, with its rotations in bfloat16."""
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    n_head, n_kv_head, length = settings["n_head"], settings["n_kv_head"], idx_BT.shape[1]
    half = settings["n_embd"] // n_head // 2
    angles = torch.arange(length).float()[:, None] * 10_000.0 ** -(torch.arange(half).float() / half)
    turns = torch.complex(angles.cos().bfloat16().double(), -angles.sin().bfloat16().double())

    def norm(x):
        return x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()

    def rotated(x):
        turned = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * turns
        return norm(torch.cat((turned.real, turned.imag), dim=-1))

    x = norm(weights["transformer.wte.weight"][idx_BT])
    for block in (f"transformer.h.{layer}" for layer in range(settings["n_layer"])):
        q, k, v = (norm(x) @ weights[f"{block}.attn.c_{name}.weight"].T for name in "qkv")
        repeats = n_head // n_kv_head
        k, v = (heads(each, n_kv_head).repeat_interleave(repeats, dim=1) for each in (k, v))
        x = x + attend(rotated(heads(q, n_head)), rotated(k), v) @ weights[f"{block}.attn.c_proj.weight"].T
        hidden = (norm(x) @ weights[f"{block}.mlp.c_fc.weight"].T).relu().square()
        x = x + hidden @ weights[f"{block}.mlp.c_proj.weight"].T
    logits = norm(x) @ weights["lm_head.weight"].T
    return 15 * torch.tanh(logits[..., : settings["vocab_size"]] / 15)


# Files that are made to do harm
def packed_again(path, compression=zipfile.ZIP_STORED, **replaced):
    """Writes a file of torch.save again, with other entries: name below its folder -> bytes, or None to leave it out."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    folder = next(iter(entries)).partition("/")[0]
    entries.update({f"{folder}/{name}": data for name, data in replaced.items()})
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            if data is not None:
                archive.writestr(name, data)


def claim(path, size):
    """Changes the size of the first entry in the directory of a zip file."""
    packed_again(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)
