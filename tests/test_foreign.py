"""The ready adapters over small modules in the style of other projects: true to the Adapter contract, and gated by it."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import Cached
from nanobench.engines.cached_cat import CachedCat
from nanobench.errors import Skip, UserError
from nanobench.gates import generation as generation_gate
from nanobench.plugins import KwargCacheAdapter, PastKVAdapter, UncachedAdapter
from nanobench.records import Verdict
from nanobench.samplers.greedy import greedy
from nanobench.schema import GPTShape, Point

POINT = Point(model="", dtype="float32", device="cpu", threads=1, batch_size=4, prompt_len=12, new_tokens=10)
CHUNKS = ([9, *[1] * 7], [1] * 16, [8, 8], [3, 5, 1, 7], [16])


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


class Sums(nn.Module):
    """A module whose hidden state is a function of the sum of all embeddings so far, so that a cache is one vector per row."""

    def __init__(self):
        super().__init__()
        self.config = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 11, "block_size": 32}
        self.tokens = nn.Embedding(11, 8)
        self.up, self.down, self.head = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(8, 11)

    def logits(self, idx_BT, before_B1C=0.0):
        """Logits, and the sums after each token."""
        sums_BTC = before_B1C + self.tokens(idx_BT).cumsum(1)
        return self.head(sums_BTC + self.down(torch.sin(self.up(sums_BTC)))), sums_BTC

    def forward(self, idx_BT):
        return self.logits(idx_BT)[0]


class Pairs(Sums):
    def forward(self, idx_BT):
        return self.logits(idx_BT)[0], None


class Objects(Sums):
    def forward(self, idx_BT):
        return SimpleNamespace(logits=self.logits(idx_BT)[0])


class Sum:
    """A cache: the sum so far, and how many tokens are in it."""

    def __init__(self, rows, dtype):
        self.sum_B1C, self.length = torch.zeros(rows, 1, 8, dtype=dtype), 0

    def clear(self):
        self.sum_B1C.zero_()
        self.length = 0


class WithCache(Sums):
    """Takes a cache object of its own."""

    def forward(self, idx_BT, kv_cache=None):
        logits_BTV, sums_BTC = self.logits(idx_BT, 0.0 if kv_cache is None else kv_cache.sum_B1C)
        if kv_cache is not None:
            kv_cache.sum_B1C.copy_(sums_BTC[:, -1:])
            kv_cache.length += idx_BT.shape[1]
        return logits_BTV


class Slots(Sums):
    """Takes the positions of its tokens, and a preallocated cache with a place for each of them."""

    def forward(self, idx_BT, slots=None, at=None):
        if slots is None:
            return self.logits(idx_BT)[0]
        slots.index_copy_(1, at, self.tokens(idx_BT))
        # A step reads all places; a mask hides those after each token.
        seen_TN = (torch.arange(slots.shape[1])[None] <= at[:, None]).to(slots)
        sums_BTC = torch.einsum("tn,bnc->btc", seen_TN, slots)
        return self.head(sums_BTC + self.down(torch.sin(self.up(sums_BTC))))


class Past(Sums):
    """Takes a tuple of what it knows, one part per layer, and returns a new one."""

    def forward(self, idx_BT, past_key_values=None):
        logits_BTV, sums_BTC = self.logits(idx_BT, past_key_values[0][0] if past_key_values else 0.0)
        return logits_BTV, ((sums_BTC[:, -1:],),)


def make(module, batch_size, max_len, device, dtype):
    return Sum(batch_size, dtype)


def make_slots(module, batch_size, max_len, device, dtype):
    return torch.zeros(batch_size, max_len, module.config["n_embd"], device=device, dtype=dtype)


def forget(slots, pos_T):
    slots[:, pos_T[0] :] = 0


STATIC = {
    "reset": lambda module: KwargCacheAdapter(module, make, reset=Sum.clear),
    "positions": lambda module: KwargCacheAdapter(module, make_slots, keyword="slots", positions="at", reads_all=True),
    "seek": lambda module: KwargCacheAdapter(module, make_slots, keyword="slots", positions="at", seek=forget),
}
MODULES = {"reset": WithCache, "positions": Slots, "seek": Slots}
CAT = {
    "past": lambda module: PastKVAdapter(module),
    "object": lambda module: KwargCacheAdapter(module, make, kind="cat"),
    "split": lambda module: PastKVAdapter(module, split=lambda output: output),
}


def test_sizes_beside_a_shape_are_no_silent_mistake():
    shape = GPTShape(architecture="a", n_layer=1, n_head=2, n_kv_head=2, n_embd=8, vocab_size=61, block_size=32, n_params=9)
    with pytest.raises(UserError, match=r"shape= has all sizes, so architecture, reads_al would be ignored"):
        KwargCacheAdapter(WithCache(), make, reset=Sum.clear, shape=shape, architecture="b", reads_al=True)


class OnGpu(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True


def test_a_cache_that_is_emptied_and_read_whole_is_refused_on_a_gpu():
    """Each step would wait for the device."""
    adapter = KwargCacheAdapter(WithCache(), make, reset=Sum.clear, reads_all=True)
    cache = adapter.make_cache(1, 8, "static")
    assert cache.begins(torch.zeros(1, dtype=torch.long))
    assert not cache.begins(torch.ones(1, dtype=torch.long))
    with pytest.raises(UserError, match="give seek= or positions="):
        cache.begins(SimpleNamespace(is_cuda=True))
    prefix = KwargCacheAdapter(WithCache(), make, reset=Sum.clear).make_cache(1, 8, "static")
    assert prefix.begins(torch.zeros(1).as_subclass(OnGpu))


def wide(adapter):
    adapter.module.to(torch.float64).eval()
    return adapter


def static(name):
    return wide(STATIC[name](MODULES[name]()))


def cat(name):
    return wide(CAT[name](WithCache() if name == "object" else Past()))


ADAPTERS = {
    **{kind.__name__: lambda kind=kind: wide(UncachedAdapter(kind())) for kind in (Sums, Pairs, Objects)},
    **{f"static {name}": lambda name=name: static(name) for name in STATIC},
    **{f"cat {name}": lambda name=name: cat(name) for name in CAT},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_last_position_and_loss_are_those_of_the_contract(name):
    adapter = ADAPTERS[name]()
    idx_BT, targets_BT = torch.randint(11, (2, 2, 16))
    logits_BTV = adapter.forward(idx_BT)
    torch.testing.assert_close(logits_BTV, adapter.module.logits(idx_BT)[0])
    torch.testing.assert_close(adapter.forward(idx_BT, last_only=True), logits_BTV[:, -1:])
    torch.testing.assert_close(adapter.forward(idx_BT[:, :1], last_only=True), logits_BTV[:, :1])
    targets_BT[0, :5] = -1
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-1)
    torch.testing.assert_close(adapter.forward(idx_BT, targets_BT).double(), loss, rtol=1e-6, atol=0)


def test_a_module_may_have_a_loss_of_its_own():
    adapter = UncachedAdapter(Sums(), loss=lambda module, idx_BT, targets_BT: module.head.weight.sum() + targets_BT.sum())
    idx_BT = torch.ones(1, 3, dtype=torch.long)
    assert adapter.forward(idx_BT, idx_BT) == adapter.module.head.weight.sum() + 3


def test_without_a_cache_its_arms_are_skipped_with_the_reason():
    adapter = UncachedAdapter(Sums(), architecture="sums")
    for work in (lambda: adapter.make_cache(1, 8, "static"), lambda: adapter.forward_cached(None, None, None)):
        with pytest.raises(Skip, match=r"^sums has no key-value cache$"):
            work()


@pytest.mark.parametrize(("adapter", "kind", "own"), [(static("reset"), "cat", "static"), (cat("past"), "static", "cat")])
def test_a_cache_of_the_other_kind_is_skipped_with_the_reason(adapter, kind, own):
    with pytest.raises(Skip, match=f"of kind '{own}'; there is none of kind '{kind}'"):
        adapter.make_cache(1, 8, kind)


def test_what_is_no_logits_is_an_error_that_says_what_came():
    with pytest.raises(ValueError, match=r"the module returns a dict, not logits \[B, T, V\]; give the adapter a call="):
        UncachedAdapter(Sums(), call=lambda module, idx_BT, last_only: {}).forward(torch.zeros(1, 4, dtype=torch.long))


def test_a_module_that_gives_too_few_positions_is_an_error_with_the_fix():
    adapter = UncachedAdapter(Sums(), call=lambda module, idx_BT, last_only: module(idx_BT)[:, -1:])
    idx_BT = torch.zeros(1, 4, dtype=torch.long)
    assert adapter.forward(idx_BT, last_only=True).shape == (1, 1, 11)
    with pytest.raises(ValueError, match="logits at 1 of 4 positions"):
        adapter.forward(idx_BT)


def test_call_knows_whether_all_positions_are_needed():
    seen = []

    def call(module, idx_BT, last_only):
        seen.append(last_only)
        return module(idx_BT)

    adapter = UncachedAdapter(Sums(), call=call)
    idx_BT = torch.zeros(1, 4, dtype=torch.long)
    adapter.forward(idx_BT, last_only=True)
    adapter.forward(idx_BT)
    adapter.forward(idx_BT, idx_BT)
    assert seen == [True, False, False]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("name", STATIC)
def test_a_static_cache_equals_the_whole_sequence_and_forgets_the_last_call(name, chunks, told):
    adapter = static(name)
    cache = adapter.make_cache(2, 20, "static")
    for idx_BT in torch.randint(11, (3, 2, 16)):
        seen = []
        for pos_T in torch.arange(16).split(chunks):
            if told and hasattr(cache, "attend_to"):
                cache.attend_to(int(pos_T[-1]) + 1, masked=False)
            logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
            seen.append(logits_BTV)
        torch.testing.assert_close(torch.cat(seen, dim=1), adapter.forward(idx_BT), rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("name", CAT)
def test_a_grown_cache_equals_the_whole_sequence(name, chunks):
    adapter = cat(name)
    for idx_BT in torch.randint(11, (2, 2, 16)):
        cache, seen = adapter.make_cache(2, 20, "cat"), []
        for pos_T in torch.arange(16).split(chunks):
            logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
            seen.append(logits_BTV)
        torch.testing.assert_close(torch.cat(seen, dim=1), adapter.forward(idx_BT), rtol=0, atol=1e-10)


def verdict_on(adapter, kind, **lengths):
    """The gate's verdict on our own engine over this adapter, and the engine."""
    adapter.module.to(torch.float32).eval()
    point = Point(**{**vars(POINT), **lengths})
    with torch.inference_mode():
        reference = generation_gate.Reference(adapter, point, seed=0)

        def build(adapter, point):
            return kind(adapter, greedy, point, Compiler("off"))

        engine = build(adapter, point)
        return generation_gate.judge(reference, build, engine, False), engine


@pytest.mark.parametrize("lengths", [{}, {"prompt_len": 1}, {"new_tokens": 1}], ids=str)
@pytest.mark.parametrize("name", STATIC)
def test_our_engine_over_a_static_cache_of_its_own_passes_the_gate(name, lengths):
    verdict, engine = verdict_on(static(name), Cached, **lengths)
    assert verdict.verdict is Verdict.EXACT, verdict
    assert engine.kv_access == ("static" if name == "positions" else "prefix")


@pytest.mark.parametrize("name", CAT)
def test_our_engine_over_a_grown_cache_of_its_own_passes_the_gate(name):
    verdict, _ = verdict_on(cat(name), CachedCat)
    assert verdict.verdict is Verdict.EXACT, verdict


def test_a_cache_that_is_not_emptied_is_wrong():
    adapter = KwargCacheAdapter(WithCache(), make, reset=lambda cache: None)
    assert verdict_on(adapter, Cached)[0].verdict is Verdict.WRONG


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_a_model_of_transformers_passes_the_gate_with_the_past_that_it_returns(model):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "vocab_size": 31}
    if model == "llama":
        module = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=24, max_position_embeddings=32))
    else:
        module = GPT2LMHeadModel(GPT2Config(**sizes, n_positions=32, bos_token_id=0, eos_token_id=0))
    for parameter in module.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    verdict, _ = verdict_on(PastKVAdapter(module), CachedCat)
    assert verdict.verdict is not Verdict.WRONG, verdict


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_copy_in_another_dtype_is_a_copy(name):
    """The gate's reference: functions of an adapter must use the module that they are called with."""
    adapter = ADAPTERS[name]()
    other = copy.deepcopy(adapter)
    other.module.to(torch.float32)
    idx_BT = torch.zeros(1, 4, dtype=torch.long)
    assert (adapter.forward(idx_BT).dtype, other.forward(idx_BT).dtype) == (torch.float64, torch.float32)


@pytest.mark.parametrize("name", ["call", "loss", "make", "reset", "seek", "split"])
def test_a_function_that_keeps_a_module_is_refused(name):
    module = Sums()

    def function(*_):
        return module

    given = {"make": make, "reset": Sum.clear, name: function}
    with pytest.raises(UserError, match=f"{name} of an adapter uses a module from around it"):
        PastKVAdapter(Past(), split=function) if name == "split" else KwargCacheAdapter(WithCache(), **given)


def test_a_static_cache_that_nothing_empties_is_refused():
    with pytest.raises(UserError, match="the static cache of WithCache is never emptied; give reset=, seek= or positions="):
        KwargCacheAdapter(WithCache(), make)
    with pytest.raises(UserError, match="'paged' is not a kind of cache"):
        KwargCacheAdapter(WithCache(), make, kind="paged")


def test_a_shape_may_be_given_whole():
    shape = UncachedAdapter(Sums()).shape
    module = Sums()
    del module.config
    assert UncachedAdapter(module, shape=shape).shape is shape
    with pytest.raises(UserError, match="unknown size 'n_layers'"):
        UncachedAdapter(Sums(), n_layers=1)
