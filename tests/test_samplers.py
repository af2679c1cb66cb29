"""Samplers: what they draw from, how often, and row by row."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import zoo
from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip
from nanobench.gates import sampler as sampler_gate
from nanobench.records import Gate, Verdict
from nanobench.samplers import base, greedy, top_p_flashinfer
from nanobench.schema import Point

EXACT = Gate(verdict=Verdict.EXACT, note="exact", tolerance=1.0)
RANDOM = [name for name in registry.names("samplers") if name not in ("greedy", "top-p-flashinfer")]
COMPILED = [pytest.param(name, marks=[pytest.mark.slow] * (name == "top-p-rejection")) for name in RANDOM]
"""The rejection sampler takes the compiler ten seconds."""
POINT = Point(model="none", dtype="float32", device="cpu", threads=1, batch_size=3, prompt_len=8, new_tokens=4)
VOCAB = 1000
EAGER = Compiler("off")


def build(name, **arguments):
    return registry.find("samplers", name)(**arguments)


@pytest.mark.parametrize("name", RANDOM)
def test_every_sampler_passes_its_gate(name):
    verdict = sampler_gate.judge(build(name), EXACT, POINT, VOCAB, EAGER)
    assert verdict.verdict is Verdict.EXACT, verdict.note
    assert "10 distributions" in verdict.note


@pytest.mark.parametrize("name", COMPILED)
def test_every_sampler_passes_its_gate_compiled_where_it_takes_other_ways(name):
    with torch.inference_mode():
        verdict = sampler_gate.judge(build(name), EXACT, POINT, VOCAB, Compiler("default"))
    assert verdict.verdict is Verdict.EXACT, verdict.note


@pytest.fixture
def flashinfer(monkeypatch):
    """A stand-in of the package whose kernel samples on a CPU. Returns the seeds that it was called with."""
    seeds = []

    def kernel(probs_BV, p, *, seed, offset):
        assert (seed.shape, offset.tolist()) == ((1,), [0])
        seeds.append(seed.item())
        return base.sample(base.nucleus(probs_BV, p), torch.Generator().manual_seed(seed.item())).flatten().int()

    module = SimpleNamespace(top_p_sampling_from_probs=kernel)
    monkeypatch.setitem(sys.modules, "flashinfer", SimpleNamespace(sampling=module))
    monkeypatch.setitem(sys.modules, "flashinfer.sampling", module)
    return seeds


def test_flashinfers_sampler_passes_the_gate_and_has_another_seed_in_each_call(flashinfer, monkeypatch):
    monkeypatch.setattr(top_p_flashinfer, "runs_on", lambda logits_BV: True)
    verdict = sampler_gate.judge(build("top-p-flashinfer"), EXACT, POINT, VOCAB, EAGER)
    assert verdict.verdict is Verdict.EXACT, verdict.note
    assert len(set(flashinfer)) >= 100


def test_flashinfers_sampler_is_skipped_where_it_cannot_run(flashinfer, monkeypatch):
    with pytest.raises(Skip, match="top-p-flashinfer needs a CUDA device, not cpu"):
        build("top-p-flashinfer")(torch.zeros(2, 5), None)
    monkeypatch.setitem(sys.modules, "flashinfer.sampling", None)
    with pytest.raises(Skip, match="needs the package flashinfer, which is not installed; install it with: pip"):
        build("top-p-flashinfer")


@pytest.mark.parametrize("name", RANDOM)
def test_every_sampler_is_compiled_where_the_number_of_rows_is_a_symbol_too(name):
    def chosen(logits_BV):
        return sampler(logits_BV, None)

    sampler, logits_BV = build(name), torch.full((5, 9), -30.0)
    logits_BV[torch.arange(5), torch.arange(5)] = 30.0
    with torch.inference_mode():
        run = torch.compile(chosen, dynamic=True, backend="eager")
        for rows in (5, 3):
            assert run(logits_BV[:rows]).flatten().tolist() == list(range(rows))


@pytest.mark.parametrize("name", ["top-p-sort", "top-p-rejection"])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_both_top_p_samplers_draw_from_the_nucleus_at_every_p(name, p, temperature):
    verdict = sampler_gate.judge(build(name, p=p, temperature=temperature), EXACT, POINT, VOCAB, EAGER)
    assert verdict.verdict is Verdict.EXACT, verdict.note


class Broken:
    """A temperature sampler with one fault."""

    def __init__(self, fault):
        self.right, self.fault = build("temperature", temperature=1.0), fault

    def probabilities(self, logits_BV):
        return self.right.probabilities(logits_BV)

    def __call__(self, logits_BV, generator):
        return self.fault(self.right, logits_BV, generator)


FAULTS = {
    "the first row's token for all": lambda right, x, g: right(x, g)[:1].expand(len(x), 1),
    "the neighbour's logits": lambda right, x, g: right(x.roll(1, 0), g),
    "one chance for all rows": lambda right, x, g: torch.searchsorted(
        torch.softmax(x, -1).cumsum(-1), torch.rand(1, 1, generator=g).expand(len(x), 1).contiguous()
    ).clamp(max=x.shape[1] - 1),
    "slightly too hot": lambda right, x, g: right(x / 1.1, g),
    "greedy": lambda right, x, g: x.argmax(-1, keepdim=True),
    "impossible tokens": lambda right, x, g: right(x.clamp(min=-3.0), g),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_sampler_is_wrong(fault):
    verdict = sampler_gate.judge(Broken(FAULTS[fault]), EXACT, POINT, VOCAB, EAGER)
    assert verdict.verdict is Verdict.WRONG
    assert "chi-square p = " in verdict.note


def test_a_sampler_that_is_wrong_only_when_compiled_is_wrong():
    def fault(right, x, generator):
        return x.argmax(-1, keepdim=True) if torch.compiler.is_compiling() else right(x, generator)

    assert sampler_gate.judge(Broken(fault), EXACT, POINT, VOCAB, EAGER).verdict is Verdict.EXACT
    with torch.inference_mode():
        assert sampler_gate.judge(Broken(fault), EXACT, POINT, VOCAB, Compiler("default")).verdict is Verdict.WRONG


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("cheat", ["some_tokens", "likely_tokens"])
@pytest.mark.parametrize("vocab", [256, 50_257])
def test_a_sampler_that_is_wrong_only_at_the_measured_shape_is_wrong(cheat, batch_size, vocab):
    point = replace(POINT, batch_size=batch_size)
    verdict = sampler_gate.judge(getattr(zoo, cheat)(), EXACT, point, vocab, EAGER)
    assert verdict.verdict is Verdict.WRONG
    assert f"at batch size {batch_size} and a vocabulary of {vocab}" in verdict.note


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize(("dtype", "vocab"), [("float32", 2), ("bfloat16", 17), ("float32", 65), ("bfloat16", 600)])
def test_every_sampler_passes_its_gate_at_every_vocabulary_and_seed(monkeypatch, name, dtype, vocab):
    """The smallest of the p values is that of as many uniform numbers."""
    point, found = replace(POINT, dtype=dtype, batch_size=93), []
    for seed in range(4):
        monkeypatch.setattr(sampler_gate, "make_generator", lambda *_, seed=seed: torch.Generator().manual_seed(seed))
        sampler = build(name)
        found += sampler_gate.measured_p_values(sampler.probabilities, sampler, point, vocab, EAGER).values()
    assert min(found) > 1e-4 / len(found)


def test_a_large_vocabulary_and_a_large_batch_take_few_calls():
    calls = sampler_gate.number_of_calls
    assert [calls(1, 50_257), calls(93, 50_257), calls(500, 50_257)] == [99, 1, 1]
    assert [calls(1, 256), calls(93, 256), calls(1, 20_000)] == [600, 6, 250]


def test_a_sampler_that_states_no_probabilities_is_not_gated_and_the_note_says_so():
    verdict = sampler_gate.judge(greedy.build(), EXACT, POINT, VOCAB, EAGER)
    assert verdict.verdict is Verdict.EXACT
    assert "has no `probabilities`" in verdict.note


def test_a_nucleus_is_the_fewest_likeliest_tokens_that_reach_p():
    probs_BV = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert base.nucleus(probs_BV, 0.5).tolist()[0] == pytest.approx([0.0, 0.5, 0.0, 0.0])
    assert base.nucleus(probs_BV, 0.51).tolist()[0] == pytest.approx([0.0, 0.5, 0.0, 0.25])
    assert base.nucleus(probs_BV, 1.0).tolist()[0] == pytest.approx([0.1, 0.5, 0.15, 0.25])


def test_equally_likely_tokens_stay_in_a_nucleus_or_go_together():
    probs_BV = torch.tensor([[0.2, 0.4, 0.2, 0.2]])
    assert base.nucleus(probs_BV, 0.5).count_nonzero() == 4
    assert base.nucleus(probs_BV, 0.4).count_nonzero() == 1


@pytest.mark.parametrize("name", ["top-p-sort", "top-p-rejection"])
@pytest.mark.parametrize("vocab", [1, 2, 50_257])
def test_a_nucleus_of_one_token_is_that_token(name, vocab):
    logits_BV = torch.zeros(5, vocab)
    at = torch.arange(5) * 10_007 % vocab
    logits_BV[torch.arange(5), at] = 40.0
    assert build(name)(logits_BV, torch.Generator().manual_seed(0)).squeeze(1).tolist() == at.tolist()


def test_over_a_large_vocabulary_both_top_p_samplers_draw_alike():
    ranks_V = torch.arange(50_257, dtype=torch.float32)
    logits_BV = (-1.1 * torch.log1p(ranks_V)).expand(1000, -1)
    chances_V = build("top-p-sort").probabilities(logits_BV[:1].double())[0]
    groups_V = torch.log2(ranks_V + 1).long()
    expected = torch.zeros(17, dtype=torch.double).index_add_(0, groups_V, chances_V)
    for name in ("top-p-sort", "top-p-rejection"):
        tokens = build(name)(logits_BV, torch.Generator().manual_seed(1)).squeeze(1)
        counts = torch.bincount(groups_V[tokens], minlength=17)
        assert sampler_gate.p_value(counts, expected) > 1e-4


def test_top_k_draws_from_the_k_likeliest_and_those_as_likely_as_the_last():
    logits_BV = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]])
    found = build("top-k", k=2, temperature=1.0).probabilities(logits_BV)[0]
    weights = [math.exp(3), 0, math.exp(2), math.exp(2), 0]
    assert found.tolist() == pytest.approx([weight / sum(weights) for weight in weights])
    assert build("top-k", k=99).probabilities(logits_BV).count_nonzero() == 5


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_seed_draws_the_same_tokens_and_another_others(name):
    logits_BV = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    sampler = build(name)
    once, again, other = (sampler(logits_BV, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert once.shape == (64, 1)
    assert once.equal(again)
    assert not once.equal(other)


@pytest.mark.parametrize("name", RANDOM)
def test_an_impossible_token_is_never_drawn(name):
    logits_BV = torch.zeros(20_000, 5)
    logits_BV[:, [0, 4]] = float("-inf")
    assert set(build(name)(logits_BV, None).flatten().tolist()) == {1, 2, 3}


class OnGpu(torch.Tensor):
    """Weights that say that they lie on a GPU."""

    is_cuda = True


def test_a_parallel_sum_that_rounds_draws_no_token_without_weight(monkeypatch):
    """On a GPU sums may grow by a rounding over a weight of 0."""
    weights_BV = torch.tensor([[0.5, 0.0, 0.25, 0.0]]).as_subclass(OnGpu)
    for drawn, token in ((0, 0), (1, 0), (2, 2), (3, 0)):
        monkeypatch.setattr(torch, "searchsorted", lambda *given, drawn=drawn, **more: torch.tensor([[drawn]]))
        assert base.sample(weights_BV, None).tolist() == [[token]]


@pytest.mark.parametrize(("chance", "token"), [(0.0, 1), (1.0, 2)])
def test_the_ends_of_the_chances_hit_possible_tokens(monkeypatch, chance, token):
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, generator: self.fill_(chance))
    assert base.sample(torch.tensor([[0.0, 0.3, 0.7, 0.0]]), None).item() == token


def test_counts_as_expected_have_a_large_p_and_others_a_small_one():
    chances = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.double)
    assert sampler_gate.p_value(torch.tensor([500, 300, 200, 0]), chances) == pytest.approx(1.0)
    assert sampler_gate.p_value(torch.tensor([400, 300, 300, 0]), chances) < 1e-10
    assert sampler_gate.p_value(torch.tensor([500, 300, 199, 1]), chances) == 0.0


def test_sparse_cells_are_joined():
    chances = torch.tensor([0.98, 0.01, 0.01], dtype=torch.double)
    # 98, 1 and 1 expected: the two sparse ones count as one, which is still too sparse to count alone.
    assert sampler_gate.p_value(torch.tensor([98, 2, 0]), chances) == 1.0
    assert sampler_gate.p_value(torch.tensor([980, 20, 0]), chances) < 1e-4


def test_the_rounds_of_a_host_that_may_not_ask_draw_as_they_should(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for p in (0.3, 0.9):
        verdict = sampler_gate.judge(build("top-p-rejection", p=p), EXACT, POINT, VOCAB, EAGER)
        assert verdict.verdict is Verdict.EXACT, verdict.note
