"""A checkpoint of nanochat: the folder with model_*.pt and meta_*.json that its checkpoint_manager.py writes.

It becomes our own nanochat with the same weights. Two architectures are read: that of autumn 2025, and that since March 2026,
whose settings have a `window_pattern` and whose tensors have a smear. One between them has parts that neither has, and is
refused. Names of tensors are those of karpathy/nanochat.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanobench.errors import UserError
from nanobench.models import _torch_file, nanochat, nanochat_2026
from nanobench.models._checkpoint import Settings, Slot, fill, is_meta, named, read_json, shown, take
from nanobench.models._gpt import GPTAdapter

MODEL = re.compile(r"model_([0-9]+)\.pt")
SIZES = ("n_layer", "n_head", "n_kv_head", "n_embd", "vocab_size")
PATTERN = "window_pattern"
SETTINGS = (*SIZES, "sequence_len", PATTERN)
LONGEST = 2**20
"""Positions: their rotations are computed, not read, so the file does not limit them."""
PADDED_TO = 64
"""nanochat pads the vocabulary to a multiple of this since December 2025, and cuts the logits."""
SHOWN = 5
"""So many steps are named in a message."""
TABLE, HEAD, SMEAR = "transformer.wte.weight", "lm_head.weight", "smear_gate.weight"
AGES = "only nanochat's architectures of autumn 2025 and since March 2026 are read"
REASON = f"{AGES}, and this one has none of this name"


def build(location: str, *, step: object = None) -> GPTAdapter:
    """A nanochat with the weights of a checkpoint: those of a step, or of the newest one."""
    path, meta = files_of(location, step)
    settings = settings_of(meta)
    settings.refuse_unknown(SETTINGS, REASON)
    sizes, block_size = settings.sizes(*SIZES), block_size_of(settings)
    settings.refuse_remainder("n_head", "n_embd")
    settings.refuse_remainder("n_kv_head", "n_head")
    if sizes["n_embd"] // sizes["n_head"] % 2:
        raise UserError(f"{settings.where}: n_embd / n_head is odd, but rotary positions turn pairs of dimensions")
    tensors = named(_torch_file.read(path), path)
    if PATTERN in settings.values:
        return since_march_2026(sizes, block_size, settings, tensors, path)
    return of_autumn_2025(sizes, block_size, tensors, path)


def of_autumn_2025(sizes: Mapping[str, int], block_size: int, tensors: Mapping[str, Any], path: Path) -> GPTAdapter:
    """The network with its weights, and with nanochat's own rotations, which are no weights: rounded to bfloat16."""
    weights = take(tensors, slots(sizes, rows_of(tensors.get(TABLE), sizes["vocab_size"])), path, REASON)
    for name in ("token_embedding.weight", "head.weight"):
        weights[name] = weights[name][: sizes["vocab_size"]]
    with torch.device("meta"):
        adapter = nanochat.build(**sizes, block_size=block_size)
    fill(adapter.module, weights)
    if not is_meta():
        found_2NR = rotations(block_size, sizes["n_embd"] // sizes["n_head"], nanochat.ROTARY_BASE)
        adapter.module.rotations_2NR = found_2NR.bfloat16().float()
    return adapter


def since_march_2026(
    sizes: Mapping[str, int], block_size: int, settings: Settings, tensors: Mapping[str, Any], path: Path
) -> GPTAdapter:
    """The network with its weights, and with nanochat's own rotations, which it keeps in the dtype that it computes in."""
    if SMEAR not in tensors:
        raise UserError(f"{path} has no tensor {SMEAR}, so it is from before March 2026; {AGES}")
    pattern = settings.values[PATTERN]
    if not isinstance(pattern, str):
        raise UserError(f"{settings.where}: {PATTERN} {shown(pattern)} is no text like SSSL")
    weights = take(tensors, new_slots(sizes), path, REASON)
    window = nanochat_2026.short_window(block_size)
    with torch.device("meta"):
        adapter = nanochat_2026.build(**sizes, block_size=block_size, window=window, window_pattern=pattern)
    fill(adapter.module, weights)
    if not is_meta():
        adapter.module.rotations_2NR = rotations(block_size, adapter.shape.head_dim, nanochat_2026.ROTARY_BASE)
    return adapter


def rotations(block_size: int, head_dim: int, base: int) -> Tensor:
    """Cosine and sine [2, block_size, R] as nanochat has them: from angles in float32. It trains with these."""
    frequencies_R = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles_TR = torch.outer(torch.arange(block_size, dtype=torch.float32), frequencies_R)
    return torch.stack((angles_TR.cos(), angles_TR.sin()))


def files_of(location: str, step: object) -> tuple[Path, Path]:
    """The file of the weights and that of the settings. Raises UserError for a folder without, and for an unknown step."""
    try:
        steps = {int(match[1]): each for each in Path(location).iterdir() if (match := MODEL.fullmatch(each.name))}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{location} is no folder of nanochat's checkpoints ({_torch_file.first_line(error)}); "
            "give the folder that holds model_*.pt and meta_*.json"
        ) from error
    if not steps:
        raise UserError(f"{location} holds no model_*.pt; give the folder of one model in nanochat's base_checkpoints")
    newest = max(steps) if step is None else step
    if type(newest) is not int or newest not in steps:
        last = ", ".join(map(str, sorted(steps)[-SHOWN:]))
        raise UserError(f"{location} has no step {shown(step)} (the last ones: {last}); write it like ?step={max(steps)}")
    path = steps[newest]
    if not path.is_file():
        raise UserError(f"{path} is no file")
    return path, path.with_name(path.name.replace("model", "meta")).with_suffix(".json")


def settings_of(meta: Path) -> Settings:
    """The settings of the network. Raises UserError where a meta file has none."""
    content = Settings.of(read_json(meta), str(meta))
    if "model_config" not in content.values:
        raise UserError(f"{meta} has no 'model_config'; give a folder that nanochat wrote")
    return Settings.of(content.values["model_config"], f"model_config of {meta}")


def block_size_of(settings: Settings) -> int:
    """The number of positions. Raises UserError for more than their rotations can be computed for."""
    positions = settings.size("sequence_len")
    if positions > LONGEST:
        raise UserError(f"{settings.where}: sequence_len {positions} is above {LONGEST}")
    return positions


def rows_of(table: Any, vocab_size: int) -> int:
    """Rows of the embedding and of the lm_head: the vocabulary, or the vocabulary padded where the file has it so."""
    padded = -(-vocab_size // PADDED_TO) * PADDED_TO
    return padded if isinstance(table, Tensor) and table.dim() == 2 and len(table) == padded else vocab_size


def slots(sizes: Mapping[str, int], rows: int) -> Iterator[Slot]:
    """Every tensor of a nanochat of these sizes."""
    width = sizes["n_embd"]
    kv_width = width // sizes["n_head"] * sizes["n_kv_head"]
    yield Slot(TABLE, "token_embedding.weight", (rows, width))
    for layer in range(sizes["n_layer"]):
        for theirs, ours, shape in (
            ("attn.c_q", "attention.query", (width, width)),
            ("attn.c_k", "attention.key", (kv_width, width)),
            ("attn.c_v", "attention.value", (kv_width, width)),
            ("attn.c_proj", "attention.out", (width, width)),
            ("mlp.c_fc", "up", (4 * width, width)),
            ("mlp.c_proj", "down", (width, 4 * width)),
        ):
            yield Slot(f"transformer.h.{layer}.{theirs}.weight", f"blocks.{layer}.{ours}.weight", shape)
    yield Slot(HEAD, "head.weight", (rows, width))


def new_slots(sizes: Mapping[str, int]) -> Iterator[Slot]:
    """Every tensor of a nanochat since March 2026: those of autumn 2025 with padded rows, and its own."""
    layers, rows = sizes["n_layer"], -(-sizes["vocab_size"] // PADDED_TO) * PADDED_TO
    yield from slots(sizes, rows)
    yield Slot(SMEAR, "smear_gate.weight", (1, nanochat_2026.SMEAR_CHANNELS))
    yield Slot("smear_lambda", "smear_scale", (1,))
    yield Slot("backout_lambda", "backout_scale", (1,))
    yield Slot("resid_lambdas", "residual_scales", (layers,))
    yield Slot("x0_lambdas", "first_scales", (layers,))
    kv_width = sizes["n_embd"] // sizes["n_head"] * sizes["n_kv_head"]
    for layer in filter(lambda each: nanochat_2026.has_value_embedding(each, layers), range(layers)):
        ours = f"blocks.{layer}.attention"
        yield Slot(f"value_embeds.{layer}.weight", f"{ours}.value_embedding.weight", (rows, kv_width))
        gate = (sizes["n_kv_head"], nanochat_2026.VALUE_GATE_CHANNELS)
        yield Slot(f"transformer.h.{layer}.attn.ve_gate.weight", f"{ours}.value_gate.weight", gate)
