"""Speculative decoding: the tokens of plain decoding, the distribution of plain sampling, and caches that stay in step."""

import pytest
import torch
from scipy import stats

from nanobench.engines import _drafts as drafts
from nanobench.engines import speculative
from nanobench.engines._acceptance import SampledPass
from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import build as build_cached
from nanobench.errors import Skip, UserError
from nanobench.gates.generation import run_free
from nanobench.models.gpt2 import build as gpt2
from nanobench.records import MEASURED
from nanobench.results import finder
from nanobench.samplers import greedy, temperature
from nanobench.schema import Point

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 61, "block_size": 64}
OFF = Compiler("off")


def point_of(rows, new_tokens=24, prompt_len=8):
    names = {"model": "gpt2", "dtype": "float32", "device": "cpu", "threads": 1}
    return Point(**names, batch_size=rows, prompt_len=prompt_len, new_tokens=new_tokens)


def model(seed=0, scale=1.0, **sizes):
    torch.manual_seed(seed)
    adapter = gpt2(**{**SIZES, **sizes})
    with torch.no_grad():
        for weight in adapter.module.parameters():
            weight.mul_(scale)
    adapter.module.eval().requires_grad_(False)
    return adapter


@pytest.fixture
def near(monkeypatch):
    """A draft that is the target with slightly other weights: it is often right."""

    def build():
        adapter = model(scale=3.0)
        with torch.no_grad():
            for weight in adapter.module.parameters():
                weight += 0.03 * torch.randn_like(weight)
        return adapter

    find = drafts.registry.find
    monkeypatch.setattr(drafts.registry, "check", lambda family, name: None)
    monkeypatch.setattr(drafts.registry, "find", lambda family, name: build if name == "near" else find(family, name))


def accepted(*facts):
    """The new tokens by the rejection rule, of rows that advance together."""
    verified = SampledPass(*facts)
    kept = int(verified.accepted_B.min())
    return torch.cat((facts[1][:, :kept], verified.next_token(kept)), dim=1)


def counted(engine, prompt_BT, new_tokens):
    """The tokens of a call and what each step wrote."""
    engine.prefill(prompt_BT)
    wrote = [1]
    while sum(wrote) < new_tokens:
        wrote.append(engine.step())
    return engine.tokens_BN.clone(), wrote


@pytest.mark.parametrize("draft_len", [1, 4, 64])
@pytest.mark.parametrize("draft", ["lookup", "near"])
@torch.inference_mode()
def test_greedy_tokens_are_those_of_plain_decoding(near, draft, draft_len):
    """Three prompts one by one, and twelve together; some of the drafted tokens are accepted and some are not."""
    target, lengths = model(scale=3.0), set()
    prompts_BT = torch.randint(61, (12, 8), generator=torch.Generator().manual_seed(5))
    prompts_BT[::2, 4:] = prompts_BT[::2, :4]
    for rows in (*prompts_BT[:3].split(1), prompts_BT):
        point = point_of(len(rows))
        plain_BN = run_free(build_cached(target, greedy.build(), point, OFF), rows, point.new_tokens)
        engine = speculative.build(target, greedy.build(), point, OFF, draft=draft, draft_len=draft_len)
        for _ in range(2):
            tokens_BN, wrote = counted(engine, rows, point.new_tokens)
            assert torch.equal(tokens_BN, plain_BN)
            assert sum(wrote) == point.new_tokens
            assert max(wrote) <= draft_len + 1
        lengths |= set(wrote)
    assert len(lengths) > 1


@pytest.mark.parametrize("draft", ["lookup", "near"])
@torch.inference_mode()
def test_greedy_tokens_of_two_hundred_prompts_are_those_of_plain_decoding(near, draft):
    """In float64, where no two logits are as close as rounding; forty prompts one by one, and the others four at a time."""
    target, new_tokens = model(scale=3.0), 12
    target.module.double()
    prompts_BT = torch.randint(61, (200, 8), generator=torch.Generator().manual_seed(9))
    prompts_BT[::2, 4:] = prompts_BT[::2, :4]
    kept = 0
    for rows, part_BT in ((1, prompts_BT[:40]), (4, prompts_BT[40:])):
        point = point_of(rows, new_tokens)
        plain = build_cached(target, greedy.build(), point, OFF)
        engine = speculative.build(target, greedy.build(), point, OFF, draft=draft, draft_len=3)
        for prompt_BT in part_BT.split(rows):
            tokens_BN, wrote = counted(engine, prompt_BT, new_tokens)
            assert torch.equal(tokens_BN, run_free(plain, prompt_BT, new_tokens))
            kept += new_tokens - len(wrote)
    assert kept > 50


@torch.inference_mode()
def test_a_lookup_proposes_what_followed_before():
    tokens_BN = torch.tensor([[1, 2, 3, 4, 1, 2, 0, 0], [5, 6, 7, 8, 9, 10, 0, 0], [3, 3, 3, 3, 3, 3, 0, 0]])
    drafted_BK, probs = drafts.Lookup().propose(tokens_BN, 5, 3)
    assert drafted_BK.tolist() == [[3, 4, 1], [10, 10, 10], [3, 3, 3]]
    assert probs is None


@torch.inference_mode()
def test_a_draft_model_proposes_its_own_greedy_tokens_whatever_was_rejected(near):
    """Its cache is rolled back: what it proposes later is what it proposes from the start."""
    target = model(scale=3.0)
    point = point_of(2)
    made = drafts.make_draft("near", target, greedy.build(), point, None)
    tokens_BN = torch.randint(61, (2, point.total_len), generator=torch.Generator().manual_seed(2))
    made.begin(tokens_BN[:, :8])
    tokens_BN[:, 9:10] = made.propose(tokens_BN, 8, 5)[0][:, :1]
    made.keep(10)
    proposed_BK, _ = made.propose(tokens_BN, 10, 4)
    fresh = drafts.make_draft("near", target, greedy.build(), point, None)
    fresh.adapter.module.load_state_dict(made.adapter.module.state_dict())
    fresh.begin(tokens_BN[:, :10])
    expected_BK, _ = fresh.propose(tokens_BN, 10, 4)
    assert torch.equal(proposed_BK, expected_BK)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("text", [False, True])
def test_sampled_tokens_have_the_targets_distribution(seed, text):
    """Chi-square over ten pairs of distributions. Each row sees another draft of the same distributions."""
    rows, words = 40_000, 7
    generator = torch.Generator().manual_seed(seed)
    target_V, draft_V = (torch.softmax(2 * torch.randn(words, generator=generator), 0) for _ in range(2))
    drafted_B1 = torch.multinomial(draft_V, rows, replacement=True, generator=generator)[:, None]
    if text:
        drafted_B1[:] = 3
    probs = None if text else draft_V.expand(rows, 1, words)
    new_BN = accepted(target_V.expand(rows, 2, words), drafted_B1, probs, generator)
    counts = torch.bincount(new_BN[:, 0], minlength=words).double()
    assert stats.chisquare(counts, rows * target_V.double() / target_V.double().sum()).pvalue > 1e-5


def test_a_wrong_rule_would_be_found():
    """The same test sees an acceptance that ignores what the draft offered."""
    rows, words = 40_000, 7
    generator = torch.Generator().manual_seed(0)
    target_V, draft_V = (torch.softmax(2 * torch.randn(words, generator=generator), 0) for _ in range(2))
    drafted_B1 = torch.multinomial(draft_V, rows, replacement=True, generator=generator)[:, None]
    even_B1V = torch.full((rows, 1, words), 1 / words)
    new_BN = accepted(target_V.expand(rows, 2, words), drafted_B1, even_B1V, generator)
    counts = torch.bincount(new_BN[:, 0], minlength=words).double()
    assert stats.chisquare(counts, rows * target_V.double() / target_V.double().sum()).pvalue < 1e-5


def test_with_an_equal_draft_every_token_is_accepted():
    generator = torch.Generator().manual_seed(0)
    probs_BKV = torch.softmax(torch.randn(4, 3, 9, generator=generator), -1)
    drafted_BK = torch.multinomial(probs_BKV.flatten(0, 1), 1, generator=generator).view(4, 3)
    target_BTV = torch.cat((probs_BKV, probs_BKV[:, :1]), dim=1)
    new_BN = accepted(target_BTV, drafted_BK, probs_BKV, generator)
    assert torch.equal(new_BN[:, :3], drafted_BK)
    assert new_BN.shape == (4, 4)


@torch.inference_mode()
def test_sampled_calls_end_at_their_length(near):
    target, point = model(scale=3.0), point_of(3, new_tokens=9)
    for draft in ("lookup", "near"):
        engine = speculative.build(target, temperature.build(), point, OFF, draft=draft, draft_len=5)
        tokens_BN, wrote = counted(engine, torch.randint(61, (3, 8)), 9)
        assert sum(wrote) == 9
        assert ((tokens_BN >= 0) & (tokens_BN < 61)).all()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"draft": "gpt2-nano"}, "draft gpt2-nano has a vocabulary of"),
    ],
)
def test_what_cannot_draft_is_skipped_with_its_reason(options, reason):
    with pytest.raises(Skip, match=reason):
        speculative.build(model(), greedy.build(), point_of(1), OFF, **options)


def test_what_cannot_sample_or_compile_is_skipped():
    with pytest.raises(Skip, match="is not compiled"):
        speculative.build(model(), greedy.build(), point_of(1), Compiler("default"))
    with pytest.raises(Skip, match="needs the probabilities of a sampler"):
        speculative.build(model(), lambda logits_BV, generator: logits_BV.argmax(-1, keepdim=True), point_of(1), OFF)
    with pytest.raises(UserError, match="unknown model 'nobody'"):
        speculative.build(model(), greedy.build(), point_of(1), OFF, draft="nobody")


def test_the_command_measures_it_and_no_step_is_beyond_the_output(nanobench_here, tmp_path):
    """Its profile too: the output of random weights repeats itself, so a step writes several tokens."""
    engines = "uncached,cached,speculative,speculative:draft=gpt2-nano:n_layer=1"
    asked = ("--model", "gpt2-nano", "--batch", 2, "--prompt-len", 8, "--new-tokens", 9, "--threads", 1, "--launches", 1)
    more = ("--max-seconds", 0.1, "--calibration", "off", "--no-plot", "--sampler", "greedy,temperature", "--out", "run")
    nanobench_here("kv-sweep", *asked, *more, "--engine", engines, cwd=tmp_path, code=0)
    cells = finder.load(tmp_path / "run").set_index("arm")
    mine = cells[cells.index.str.startswith("speculative")]
    assert len(mine) == 4
    assert set(mine["status"]) <= set(MEASURED)
    assert set(mine["gate"]) == {"exact"}
    assert mine["checked_calls"].ge(1).all()
    assert cells.loc["speculative", "steps_per_call"] < 8
