"""Our architectures: equal to transformers' with the same weights, as large as published, and true to the Adapter contract."""

import copy

import pytest
import torch
import torch.nn.functional as F

from nanobench import registry
from nanobench.errors import Skip, UserError
from nanobench.models import gpt2, llama, nanochat
from nanobench.models._rotary import rotations

NANOS = [name for name in registry.presets() if name.endswith("-nano")]
CACHES = ("static", "cat")
PUBLISHED = {
    "gpt2": "124.4M",
    "gpt2-medium": "354.8M",
    "gpt2-large": "774.0M",
    "gpt2-xl": "1557.6M",
    "nanochat-d12": "178.5M",
    "nanochat-d20": "561.0M",
    "nanochat-d32": "1879.0M",
    "llama-110m": "109.5M",
}
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def stirred(adapter, dtype):
    """The adapter with every weight moved, so that biases and norms count too; as `dtype`, in eval mode."""
    for parameter in adapter.module.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    adapter.module.to(dtype).eval()
    return adapter


def nano(name):
    return stirred(registry.find("models", name)(), torch.float64)


def tokens(adapter, rows=2, length=16):
    return torch.randint(adapter.shape.vocab_size, (rows, length))


def assert_same(ours, theirs, tolerance):
    """Largest difference relative to the largest logit."""
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def their_gpt2(adapter):
    """transformers' GPT-2 with our weights. Its Conv1D keeps matrices the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape, module = adapter.shape, adapter.module
    theirs = GPT2LMHeadModel(
        GPT2Config(
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            vocab_size=shape.vocab_size,
            n_positions=shape.block_size,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    theirs.to(module.token_embedding.weight.dtype).eval()
    theirs.transformer.wte.weight.copy_(module.token_embedding.weight)
    theirs.transformer.wpe.weight.copy_(module.position_embedding.weight)
    theirs.transformer.ln_f.load_state_dict(module.norm.state_dict())
    for their_block, block in zip(theirs.transformer.h, module.blocks, strict=True):
        their_block.ln_1.load_state_dict(block.norm_1.state_dict())
        their_block.ln_2.load_state_dict(block.norm_2.state_dict())
        for their_linear, linear in (
            (their_block.attn.c_attn, block.attention.qkv),
            (their_block.attn.c_proj, block.attention.out),
            (their_block.mlp.c_fc, block.up),
            (their_block.mlp.c_proj, block.down),
        ):
            their_linear.weight.copy_(linear.weight.T)
            their_linear.bias.copy_(linear.bias)
    return theirs


def their_nanochat(adapter):
    """transformers' nanochat with our weights."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    shape, module = adapter.shape, adapter.module
    theirs = NanoChatForCausalLM(
        NanoChatConfig(
            num_hidden_layers=shape.n_layer,
            num_attention_heads=shape.n_head,
            num_key_value_heads=shape.n_kv_head,
            hidden_size=shape.n_embd,
            intermediate_size=4 * shape.n_embd,
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.block_size,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            final_logit_softcapping=15.0,
        )
    )
    theirs.to(module.head.weight.dtype).eval()
    theirs.model.embed_tokens.weight.copy_(module.token_embedding.weight)
    theirs.lm_head.weight.copy_(module.head.weight)
    for their_block, block in zip(theirs.model.layers, module.blocks, strict=True):
        their_block.self_attn.q_proj.weight.copy_(block.attention.query.weight)
        their_block.self_attn.k_proj.weight.copy_(block.attention.key.weight)
        their_block.self_attn.v_proj.weight.copy_(block.attention.value.weight)
        their_block.self_attn.o_proj.weight.copy_(block.attention.out.weight)
        their_block.mlp.fc1.weight.copy_(block.up.weight)
        their_block.mlp.fc2.weight.copy_(block.down.weight)
    return theirs


def their_llama(adapter, rotary_base):
    """transformers' Llama with our weights; with windows its Mistral, which differs from it in these alone."""
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    shape, module = adapter.shape, adapter.module
    tied = module.head.weight is module.token_embedding.weight
    config, model, more = LlamaConfig, LlamaForCausalLM, {}
    if shape.window is not None:
        config, model, more = MistralConfig, MistralForCausalLM, {"sliding_window": shape.window}
    theirs = model(
        config(
            **more,
            num_hidden_layers=shape.n_layer,
            num_attention_heads=shape.n_head,
            num_key_value_heads=shape.n_kv_head,
            hidden_size=shape.n_embd,
            intermediate_size=module.blocks[0].up.out_features,
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.block_size,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": rotary_base},
            tie_word_embeddings=tied,
        )
    )
    theirs.to(module.head.weight.dtype).eval()
    theirs.model.embed_tokens.weight.copy_(module.token_embedding.weight)
    theirs.model.norm.load_state_dict(module.norm.state_dict())
    assert (theirs.lm_head.weight is theirs.model.embed_tokens.weight) == tied
    if not tied:
        theirs.lm_head.weight.copy_(module.head.weight)
    for their_block, block in zip(theirs.model.layers, module.blocks, strict=True):
        their_block.input_layernorm.load_state_dict(block.norm_1.state_dict())
        their_block.post_attention_layernorm.load_state_dict(block.norm_2.state_dict())
        for name, linear in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "out")):
            getattr(their_block.self_attn, name).weight.copy_(getattr(block.attention, linear).weight)
        for name in ("gate", "up", "down"):
            getattr(their_block.mlp, f"{name}_proj").weight.copy_(getattr(block, name).weight)
    return theirs


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_gpt2_equals_transformers(dtype):
    ours = stirred(gpt2.build(n_layer=2, n_head=2, n_embd=32, vocab_size=61, block_size=24), dtype)
    theirs, idx_BT = their_gpt2(ours), tokens(ours, length=24)
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    assert_same(ours.forward(idx_BT), theirs(idx_BT).logits, TOLERANCES[dtype])


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_nanochat_equals_transformers(dtype, n_kv_head, monkeypatch):
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 61, "block_size": 24}
    ours = stirred(nanochat.build(n_kv_head=n_kv_head, **sizes), dtype)
    theirs, idx_BT = their_nanochat(ours), tokens(ours, length=24)
    if dtype == torch.float64:
        # Theirs computes norms and angles in float32 whatever the weights are.
        monkeypatch.setattr(type(theirs.model.norm), "forward", type(theirs.model.norm)._norm)
        cos_TD, sin_TD = ours.module.rotations_2NR.repeat(1, 1, 2)
        monkeypatch.setattr(theirs.model.rotary_emb, "forward", lambda x, position_ids: (cos_TD[None], sin_TD[None]))
    assert_same(ours.forward(idx_BT), theirs(idx_BT).logits, TOLERANCES[dtype])


LLAMAS = ({"n_kv_head": 1, "tied": True}, {"n_kv_head": 2}, {"rotary_base": 500_000.0}, {"n_kv_head": 2, "window": 5})


def two_llamas(dtype, monkeypatch, **variant):
    """Ours and transformers' with the same weights."""
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "mlp_width": 40, "vocab_size": 61, "block_size": 24}
    ours = stirred(llama.build(**sizes, **variant), dtype)
    theirs = their_llama(ours, variant.get("rotary_base", 10_000.0))
    if dtype == torch.float64:
        # Theirs computes norms and angles in float32 whatever the weights are.
        def normalise(self, x):
            return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

        cos_ND, sin_ND = ours.module.rotations_2NR.repeat(1, 1, 2)
        monkeypatch.setattr(type(theirs.model.norm), "forward", normalise)

        def angles(x, position_ids):
            return cos_ND[position_ids], -sin_ND[position_ids]

        monkeypatch.setattr(theirs.model.rotary_emb, "forward", angles)
    return ours, theirs


@pytest.mark.parametrize("variant", LLAMAS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_llama_equals_transformers(dtype, variant, monkeypatch):
    ours, theirs = two_llamas(dtype, monkeypatch, **variant)
    idx_BT = tokens(ours, length=24)
    assert_same(ours.forward(idx_BT), theirs(idx_BT).logits, TOLERANCES[dtype])


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("variant", LLAMAS, ids=str)
def test_llama_with_its_cache_equals_transformers_with_theirs(variant, kind, monkeypatch):
    from transformers import DynamicCache

    ours, theirs = two_llamas(torch.float64, monkeypatch, **variant)
    idx_BT, cache, their_cache = tokens(ours, length=24), ours.make_cache(2, 24, kind), DynamicCache()
    for pos_T in torch.arange(24).split([9, 1, 1, 5, 8]):
        logits_BTV, cache = ours.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
        their_logits_BTV = theirs(idx_BT[:, pos_T], past_key_values=their_cache, use_cache=True).logits
        assert_same(logits_BTV, their_logits_BTV, 1e-10)


def test_a_llama_whose_heads_have_no_pairs_is_refused():
    with pytest.raises(UserError, match=r"heads are 3 wide .*; change n_head"):
        llama.build(n_layer=1, n_head=4, n_embd=12, mlp_width=8, vocab_size=9, block_size=8)


def test_rotations_are_exact_to_float32_at_long_range():
    shape = registry.presets()["nanochat-d20"]
    head_dim = shape["n_embd"] // shape["n_head"]
    last = shape["block_size"] - 1
    cos_R, sin_R = rotations(shape["block_size"], head_dim, 10_000)[:, last].double()
    angles_R = torch.tensor([last / 10_000 ** (2 * i / head_dim) for i in range(head_dim // 2)], dtype=torch.float64)
    assert (cos_R - angles_R.cos()).abs().max() < 6e-8
    assert (sin_R - angles_R.sin()).abs().max() < 6e-8


@pytest.mark.parametrize("name", registry.presets())
def test_parameters_are_counted_in_closed_form(name):
    with torch.device("meta"):
        adapter = registry.find("models", name)()
    counted = sum(parameter.numel() for parameter in adapter.module.parameters())
    assert adapter.shape.n_params == counted
    assert PUBLISHED.get(name, f"{counted / 1e6:.1f}M") == f"{counted / 1e6:.1f}M"


def test_every_architecture_has_a_nano():
    architectures = {sizes["architecture"] for sizes in registry.presets().values()}
    assert {registry.presets()[name]["architecture"] for name in NANOS} == architectures


@pytest.mark.parametrize("kind", [*CACHES, "static told", "static told masked"])
@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("chunks", [[9, *[1] * 7], [3, 5, 1, 7], [16]], ids=str)
def test_cached_equals_the_whole_sequence(name, kind, chunks):
    adapter = nano(name)
    idx_BT = tokens(adapter)
    cache = adapter.make_cache(2, 20, kind.partition(" ")[0])
    seen = []
    for pos_T in torch.arange(16).split(chunks):
        if "told" in kind:
            cache.attend_to(len(pos_T) + int(pos_T[0]), masked="masked" in kind)
        logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
        seen.append(logits_BTV)
    assert_same(torch.cat(seen, dim=1), adapter.forward(idx_BT), 1e-10)


@pytest.mark.parametrize("name", NANOS)
def test_static_cache_forgets_the_last_call(name):
    adapter = nano(name)
    cache = adapter.make_cache(2, 20, "static")
    adapter.forward_cached(tokens(adapter, length=20), torch.arange(20), cache)
    idx_BT = tokens(adapter)
    adapter.forward_cached(idx_BT[:, :15], torch.arange(15), cache)
    logits_BTV, _ = adapter.forward_cached(idx_BT[:, 15:], torch.tensor([15]), cache)
    assert_same(logits_BTV, adapter.forward(idx_BT, last_only=True), 1e-10)


@pytest.mark.parametrize("name", NANOS)
def test_last_only_is_the_last_position(name):
    adapter = nano(name)
    idx_BT = tokens(adapter)
    whole_BTV = adapter.forward(idx_BT)
    assert_same(adapter.forward(idx_BT, last_only=True), whole_BTV[:, -1:], 1e-10)
    for kind in CACHES:
        logits_B1V, _ = adapter.forward_cached(idx_BT, torch.arange(16), adapter.make_cache(2, 16, kind))
        assert_same(logits_B1V, whole_BTV[:, -1:], 1e-10)


@pytest.mark.parametrize("name", NANOS)
def test_unknown_cache_is_skipped_with_the_choices(name):
    with pytest.raises(Skip, match=r"'paged'.*static, cat"):
        nano(name).make_cache(1, 8, "paged")


@pytest.mark.parametrize("name", NANOS)
def test_targets_give_the_mean_loss(name):
    adapter = stirred(registry.find("models", name)(), torch.float32)
    idx_BT, targets_BT = tokens(adapter), tokens(adapter)
    targets_BT[0, :5] = -1
    logits_BTV = adapter.forward(idx_BT)
    picked = F.log_softmax(logits_BTV, dim=2).gather(2, targets_BT.clamp(min=0)[..., None])[..., 0]
    assert torch.allclose(adapter.forward(idx_BT, targets_BT), -picked[targets_BT >= 0].mean())


@pytest.mark.parametrize("name", NANOS)
def test_rows_are_independent(name):
    adapter = nano(name)
    idx_BT = tokens(adapter, rows=3)
    assert_same(torch.cat([adapter.forward(row_1T) for row_1T in idx_BT.split(1)]), adapter.forward(idx_BT), 1e-10)


@pytest.mark.parametrize("name", NANOS)
def test_a_position_sees_nothing_behind_it(name):
    adapter = nano(name)
    idx_BT = tokens(adapter)
    changed_BT = idx_BT.clone()
    changed_BT[:, 9:] = (changed_BT[:, 9:] + 1) % adapter.shape.vocab_size
    assert_same(adapter.forward(changed_BT)[:, :9], adapter.forward(idx_BT)[:, :9], 1e-10)


@pytest.mark.parametrize("name", NANOS)
def test_a_double_copy_is_the_reference_of_the_model(name):
    adapter = stirred(registry.find("models", name)(), torch.float32)
    reference = copy.deepcopy(adapter)
    reference.module.to(torch.float64)
    idx_BT = tokens(adapter, length=adapter.shape.block_size)
    assert reference.forward(idx_BT).dtype == torch.float64
    assert_same(adapter.forward(idx_BT), reference.forward(idx_BT), TOLERANCES[torch.float32])
    adapter.module.to(torch.bfloat16)
    assert_same(adapter.forward(idx_BT), reference.forward(idx_BT), 0.05)


@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_static_cache_takes_the_bytes_of_the_closed_form(name, dtype):
    adapter = registry.find("models", name)()
    adapter.module.to(getattr(torch, dtype))
    cache = adapter.make_cache(3, 40, "static")
    allocated = sum(tensor.nbytes for tensor in cache.keys_BKSD + cache.values_BKSD)
    assert allocated == adapter.shape.kv_bytes_per_token(dtype) * 3 * 40
