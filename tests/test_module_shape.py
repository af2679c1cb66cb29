"""The sizes of a module are those of its config and its layers. For what cannot be known there is one line."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nanobench import registry
from nanobench.errors import UserError
from nanobench.models import llama
from nanobench.plugins import shape_of_module

NANOS = [name for name in registry.presets() if name.endswith("-nano")]
SIZES = ("n_layer", "n_head", "n_kv_head", "n_embd", "vocab_size", "block_size")
UNSEEN = ("window", "windowed_layers", "latent_width", "gate_params", "lookup_width")
"""Sizes that are not seen in the layers."""
CONFIG = {"n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 11, "block_size": 16}
BLOCK = 8 * (3 * 8 + 8 + 2 * 32)
"""Weights of the matmuls of one block."""


class Block(nn.Module):
    """The layers of a GPT-2's block: nothing is computed here."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 32), nn.Linear(32, 8)


class Module(nn.Module):
    """Two such blocks, a table of tokens and a head."""

    def __init__(self, config=None, rows=11, head=True, tied=False):
        super().__init__()
        self.config = SimpleNamespace(**CONFIG) if config is None else config
        self.tokens = nn.Embedding(rows, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        if head:
            self.head = nn.Linear(8, rows, bias=False)
        if tied:
            self.head.weight = self.tokens.weight


def counts(shape):
    return shape.matmul_params, shape.lookup_params, shape.mlp_matmuls


@pytest.mark.parametrize("name", NANOS)
def test_our_own_modules_are_counted_as_their_closed_forms_say(name):
    with torch.device("meta"):
        adapter = registry.find("models", name)()
    known = adapter.shape
    sizes = {each: getattr(known, each) for each in (*SIZES, *UNSEEN)}
    assert shape_of_module(adapter.module, architecture=known.architecture, **sizes) == known


def test_heads_that_are_wider_than_their_share_of_the_width_are_read_from_the_config():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32, "head_dim": 16}
    config = Qwen3Config(**sizes, intermediate_size=48, vocab_size=61, max_position_embeddings=24)
    shape = shape_of_module(Qwen3ForCausalLM(config))
    assert (shape.head_width, shape.attention_width, shape.qkv_width, shape.mlp_width) == (16, 64, 128, 48)
    assert shape.mlp_matmuls == 3
    config.head_dim, config.intermediate_size = 16, 64
    assert shape_of_module(Qwen3ForCausalLM(config)).mlp_matmuls == 3
    config.head_dim = 8
    assert shape_of_module(Qwen3ForCausalLM(config)).head_width is None


def test_a_tied_head_counts_once_and_a_gate_is_seen():
    adapter = llama.build(n_layer=2, n_head=2, n_embd=12, mlp_width=20, vocab_size=50, block_size=9, tied=True)
    sizes = {each: getattr(adapter.shape, each) for each in SIZES}
    assert shape_of_module(adapter.module, architecture="llama", **sizes) == adapter.shape


def test_a_llama_of_transformers_is_as_large_as_ours():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
    others = {"intermediate_size": 48, "vocab_size": 61, "max_position_embeddings": 24}
    ours = llama.build(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, mlp_width=48, vocab_size=61, block_size=24).shape
    assert shape_of_module(LlamaForCausalLM(LlamaConfig(**sizes, **others)), architecture="llama") == ours


def test_a_gpt2_of_transformers_has_matrices_that_are_no_linear_layers():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=61, n_positions=24, bos_token_id=0, eos_token_id=0)
    ours = registry.find("models", "gpt2:n_layer=2,n_head=2,n_embd=32,vocab_size=61,block_size=24")().shape
    assert shape_of_module(GPT2LMHeadModel(config), architecture="gpt2") == ours


@pytest.mark.parametrize(
    ("config", "others"),
    [
        (SimpleNamespace(**CONFIG), {}),
        (CONFIG, {}),
        ({"num_hidden_layers": 2, "n_heads": 2, "hidden_size": 8, "vocab_size": 11, "max_position_embeddings": 16}, {}),
        (SimpleNamespace(n_layer=2, vocab_size=11), {"n_head": 2, "n_embd": 8, "block_size": 16}),
        (SimpleNamespace(**{**CONFIG, "n_layer": 99}), {"n_layer": 2}),
    ],
)
def test_sizes_come_from_the_config_or_are_given(config, others):
    shape = shape_of_module(Module(config), **others)
    assert {name: getattr(shape, name) for name in SIZES} == {**CONFIG, "n_kv_head": 2}
    assert shape.architecture == "Module"
    assert counts(shape) == (2 * BLOCK + 88, 88, 2)


def test_a_head_that_is_a_function_of_the_table_counts_as_head():
    assert counts(shape_of_module(Module(head=False))) == (2 * BLOCK + 88, 0, 2)


def test_a_padded_head_counts_as_if_it_was_not():
    for tied, looked_up in ((False, 64 * 8), (True, 0)):
        assert counts(shape_of_module(Module(rows=64, tied=tied))) == (2 * BLOCK + 88, looked_up, 2)


def test_a_table_of_positions_is_looked_up_also_as_a_bare_parameter():
    for table in (nn.Embedding(16, 8), nn.ParameterList([torch.zeros(1, 16, 8)])):
        module = Module()
        module.positions = table
        assert counts(shape_of_module(module)) == (2 * BLOCK + 88, 88 + 128, 2)


def test_the_attention_layer_of_torch_has_two_matrices():
    module = Module()
    for block in module.blocks:
        block.qkv = nn.Identity()
        block.out = nn.MultiheadAttention(8, 2)
    assert counts(shape_of_module(module)) == (2 * BLOCK + 88, 88, 2)


def test_what_is_given_is_not_counted():
    given = {"matmul_params": 1000, "lookup_params": 7, "mlp_matmuls": 3, "n_params": 5000}
    shape = shape_of_module(Module(), **given)
    assert {name: getattr(shape, name) for name in given} == given


def refused(module, **sizes):
    with pytest.raises(UserError) as caught:
        shape_of_module(module, **sizes)
    line = str(caught.value)
    assert line.isprintable()
    return line


@pytest.mark.parametrize("name", CONFIG)
def test_a_size_that_is_nowhere_is_named_with_how_to_give_it(name):
    config = {each: size for each, size in CONFIG.items() if each != name}
    line = refused(Module(config))
    assert re.fullmatch(rf"Module: its config has no {name} \(looked for {name}.*\); give it, like {name}=8", line)


def test_a_module_without_a_config_needs_every_size():
    module = Module()
    del module.config
    assert "has no n_layer" in refused(module)
    assert shape_of_module(module, **CONFIG).n_head == 2


def test_a_size_that_no_shape_has_is_refused_with_the_closest():
    assert "unknown size 'n_heads'; did you mean 'n_head'?" in refused(Module(), n_heads=2)


def test_a_module_without_a_head_is_refused_with_the_fix():
    line = refused(Module(), vocab_size=500)
    assert line == "Module: no nn.Linear or nn.Embedding of 8 x 500 is its lm_head; give matmul_params and lookup_params"


def test_a_matrix_that_no_layer_explains_is_refused_by_its_name():
    module = Module()
    module.blocks[0].experts = nn.Parameter(torch.zeros(4, 8, 8))
    line = refused(module)
    assert "whether its parameter blocks.0.experts is multiplied or looked up; give matmul_params and lookup_params" in line
    assert shape_of_module(module, matmul_params=9000, lookup_params=88).matmul_params == 9000


def test_a_small_parameter_is_left_out():
    module = Module()
    module.scales = nn.Parameter(torch.zeros(2, 2))
    assert counts(shape_of_module(module)) == (2 * BLOCK + 88, 88, 2)
