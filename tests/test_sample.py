"""One prompt through several engines: where they differ from the reference, and what rounding explains."""

import io
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from rich.console import Console

import fakes
from nanobench.continuation import Continuation, TokenDifference
from nanobench.engines.cached import Cached
from nanobench.engines.uncached import Uncached
from nanobench.errors import Skip, UserError
from nanobench.gates import generation as generation_gate
from nanobench.models.gpt2 import build as build_gpt2
from nanobench.records import Status, Verdict
from nanobench.samplers.temperature import Temperature
from nanobench.schema import Point
from nanobench.sweep.sample import Sample, SampleOptions, verdict_of
from nanobench.views import sample as views
from nanobench.worker import sample
from nanobench.worker.workloads.generate import load

POINT = Point(model="fakes:tiny", dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=1, new_tokens=12)
PROMPT = "3,14,15,9,26"
TIE = 40
"""A token whose row of the embedding, and so of the lm_head, is that of the token after it."""


# Models and engines


def tied():
    """A model in which two tokens always have the same logit, which is the largest one."""
    adapter = build_gpt2(**fakes.TINY)
    with torch.no_grad():
        weights_VC = adapter.module.token_embedding.weight
        weights_VC[TIE] = 5 * weights_VC.abs().max() * torch.ones_like(weights_VC[TIE])
        weights_VC[TIE + 1] = weights_VC[TIE]
        adapter.module.norm.bias.fill_(1.0)
    return adapter


class LastOfTie(Uncached):
    """Of two tokens with the largest logit it takes the last one."""

    def _next(self, idx_BT):
        logits_BV = self.adapter.forward(idx_BT, last_only=True)[:, -1]
        return logits_BV, logits_BV.shape[1] - 1 - logits_BV.flip(1).argmax(-1, keepdim=True)


class LateError(LastOfTie):
    """The same, and its fourth token is the least likely one."""

    def _next(self, idx_BT):
        logits_BV, token_B1 = super()._next(idx_BT)
        return logits_BV, logits_BV.argmin(-1, keepdim=True) if idx_BT.shape[1] == len(PROMPT.split(",")) + 3 else token_B1


class OtherNumbers(Cached):
    """It uses a random number of its own before the first one."""

    def prefill(self, prompt_BT):
        torch.empty(1).uniform_(generator=self.generator)
        super().prefill(prompt_BT)


class NoToken(Uncached):
    """Its last token is one above the vocabulary."""

    def step(self):
        super().step()
        if self.length == self.tokens_BN.shape[1]:
            self.tokens_BN[:, -1] = 64
        return 1


class Failing(Uncached):
    """It raises an exception."""

    def step(self):
        raise ValueError("no step\nand a second line")


def no_cache(adapter, sampler, point, compiler):
    raise Skip("no cache of this kind")


last_of_tie, late_error, other_numbers, no_token, failing = map(
    fakes.engine, (LastOfTie, LateError, OtherNumbers, NoToken, Failing)
)


def taken(*engines, model="fakes:tiny", prompt=PROMPT, tokenizer="ids", sampler="greedy", seed=0, **changed):
    """What a worker answers."""
    request = {
        "point": asdict(replace(POINT, model=model, **changed)),
        "engines": engines,
        "sampler": sampler,
        "prompt": prompt,
        "tokenizer": tokenizer,
        "seed": seed,
        "memory_limit_bytes": None,
    }
    return json.loads(json.dumps(sample.take(request)))


def continuations(*engines, **changed):
    """The reference, and the engines."""
    record = taken(*engines, **changed)
    return [Continuation.from_json(each) for each in (record["reference"], *record["engines"])]


# The verdict


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_engines_that_are_right_continue_as_the_reference_does_up_to_rounding(dtype):
    reference, *engines = continuations("uncached", "cached", "cached-cat", dtype=dtype)
    assert len(reference.tokens) == 12
    assert {verdict_of(each) for each in engines} <= {Verdict.EXACT, Verdict.ROUNDING}
    if dtype == "float32":
        assert [each.tokens for each in engines] == [reference.tokens] * 3
        assert [each.first for each in engines] == [None] * 3


def plain_reference(model, tokens):
    """The logits of the float64 model after each of the tokens, from nothing of what is tested."""
    adapter = load(replace(POINT, model=model), seed=0)
    adapter.module.double()
    with torch.inference_mode():
        return adapter.forward(torch.tensor([tokens]))[0]


@pytest.mark.parametrize("engine", ["frozen", "frozen_embedding"])
def test_a_wrong_engine_is_wrong_where_it_first_differs(engine):
    """With a model whose output depends on what it reads; an untrained GPT-2 repeats a token whatever its position is."""
    reference, found = continuations(f"fakes:{engine}", model="zoo:lively", new_tokens=24)
    assert verdict_of(found) is Verdict.WRONG
    pairs = zip(reference.tokens, found.tokens, strict=True)
    place = next(place for place, (one, other) in enumerate(pairs) if one != other)
    logits_V = plain_reference("zoo:lively", [3, 14, 15, 9, 26, *found.tokens[:place]])[-1]
    largest, second = logits_V.topk(2).values.tolist()
    first = found.first
    assert (first.place, first.token, first.chosen) == (place, found.tokens[place], reference.tokens[place])
    assert first.margin == pytest.approx(largest - second)
    assert first.below == pytest.approx(largest - logits_V[first.token].item())
    assert found.wrong.below > found.tolerance > 0


def test_a_tie_is_rounding_and_what_follows_it_is_compared_too():
    model = "test_sample:tied"
    reference, both, late = continuations("test_sample:last_of_tie", "test_sample:late_error", model=model)
    assert set(reference.tokens) == {TIE}
    assert set(both.tokens) == {TIE + 1}
    assert verdict_of(both) is Verdict.ROUNDING
    assert (both.first.place, both.first.token, both.first.chosen, both.wrong) == (0, TIE + 1, TIE, None)
    assert both.first.margin <= 1e-12
    assert verdict_of(late) is Verdict.WRONG
    assert (late.first.place, late.first.is_rounding) == (0, True)
    assert (late.wrong.place, late.wrong.is_rounding) == (3, False)
    assert late.wrong.below > late.tolerance


def test_the_tolerance_is_that_of_the_gate():
    _, found = continuations("uncached", new_tokens=4)
    adapter = load(POINT, seed=0)
    sequence_1S, places = torch.tensor([[3, 14, 15, 9, 26, *found.tokens[:-1]]]), [0, 1, 2, 3]
    with torch.inference_mode():
        wide = generation_gate.cast(adapter, torch.float64)
        own, logits = (generation_gate.logits_at(each, sequence_1S, 5, places) for each in (adapter, wide))
        assert found.tolerance == generation_gate.tolerance(own, logits, "float32")


def test_what_has_no_tokens_to_compare_says_why():
    engines = [f"test_sample:{name}" for name in ("no_cache", "failing", "no_token")]
    _, skipped, failed, outside = continuations(*engines)
    assert (skipped.status, skipped.reason, verdict_of(skipped)) == ("skipped", "no cache of this kind", None)
    assert (failed.status, failed.reason, verdict_of(failed)) == ("error", "ValueError: no step", None)
    assert (outside.status, outside.reason) == ("wrong", "64 is not a token: the vocabulary is 64")
    assert verdict_of(outside) is Verdict.WRONG
    point = replace(POINT, prompt_len=5)
    for found, has_failed in ((skipped, False), (failed, True), (outside, True)):
        sampled = Sample(options=OPTIONS, point=point, prompt=(3,), reference=found, engines=(found,))
        assert sampled.has_failed is has_failed


# Samplers


@pytest.mark.parametrize("sampler", ["temperature", "top-k", "top-p-sort", "top-p-rejection"])
def test_engines_sample_with_the_same_random_numbers(sampler):
    reference, *engines = continuations("uncached", "cached", sampler=sampler, seed=5)
    assert [each.tokens for each in engines] == [reference.tokens] * 2
    other, _ = continuations("uncached", sampler=sampler, seed=6)
    assert other.tokens != reference.tokens


def test_an_engine_that_uses_other_random_numbers_is_wrong():
    _, found = continuations("test_sample:other_numbers", sampler="temperature")
    assert verdict_of(found) is Verdict.WRONG
    _, greedy = continuations("test_sample:other_numbers")
    assert verdict_of(greedy) is Verdict.EXACT


def judge_of(vocab_size, sampler, seed):
    """A judge for logits that a test makes up."""
    point = replace(POINT, prompt_len=1)
    judge = sample.Judge(None, None, "temperature", torch.zeros((1, 1), dtype=torch.long), point, seed)
    object.__setattr__(judge, "new_sampler", lambda: sampler)
    return judge, torch.zeros((1, vocab_size), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(8))
def test_a_sampled_token_is_explained_where_the_tolerance_moves_the_random_number_over_its_edge(seed):
    """Four equal logits. What a cumulative sum needs to reach a random number follows in closed form."""
    judge, logits_1V = judge_of(4, Temperature(1.0), seed)
    generator = judge.new_generator()
    before = generator.get_state()
    uniform = float(torch.empty((1, 1)).uniform_(generator=generator))
    chosen = int(4 * uniform)
    for token in {chosen - 1, chosen + 1} & {0, 1, 2, 3}:
        mass = (min(token, chosen) + 1) / 4
        needed = abs(math.log(uniform * (1 - mass) / (mass * (1 - uniform)))) / 2
        assert judge.may_choose(token, chosen, logits_1V, 1.01 * needed + 1e-6, before)
        assert not judge.may_choose(token, chosen, logits_1V, 0.99 * needed - 1e-6, before)


def test_a_token_that_the_whole_tolerance_would_jump_over_is_found_between():
    judge, logits_1V = judge_of(1000, Temperature(1.0), 0)
    before = judge.new_generator().get_state()
    chosen = int(judge.choose(judge.new_sampler(), logits_1V, judge.new_generator()))
    for token in (chosen - 3, chosen + 3):
        assert judge.may_choose(token, chosen, logits_1V, 1.0, before)
        assert not judge.may_choose(token, chosen, logits_1V, 1e-5, before)


def test_a_third_token_within_the_tolerance_keeps_no_other_from_being_chosen():
    def noisy(logits_BV, generator):
        return (logits_BV + torch.tensor([[0.0, 1.0, 0.9, 0.97]], dtype=logits_BV.dtype)).argmax(-1, keepdim=True)

    judge, logits_1V = judge_of(4, noisy, 0)
    before = judge.new_generator().get_state()
    assert judge.may_choose(2, 1, logits_1V, 0.06, before)
    assert not judge.may_choose(2, 1, logits_1V, 0.04, before)


def test_the_largest_of_noisy_logits_is_explained_by_two_of_them():
    def noisy(logits_BV, generator):
        noise_BV = torch.tensor([[0.0, 1.0, 0.9]], dtype=logits_BV.dtype)
        return (logits_BV + noise_BV).argmax(-1, keepdim=True)

    judge, logits_1V = judge_of(3, noisy, 0)
    before = judge.new_generator().get_state()
    assert judge.may_choose(2, 1, logits_1V, 0.06, before)
    assert not judge.may_choose(2, 1, logits_1V, 0.04, before)


# Prompts


def error_of(**changed):
    record = taken("cached", **changed)
    assert set(record) == {"user_error"}
    assert "\n" not in record["user_error"]
    return record["user_error"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": " , "}, "--prompt has no tokens"),
        ({"prompt": "1,64"}, "--prompt has token 64, but the vocabulary of fakes:tiny is 64"),
        ({"prompt": "to be", "tokenizer": "bytes"}, "--prompt has token 116, but"),
        ({"prompt": "1 " * 53}, "--prompt has 53 tokens; with 12 new ones that is more than block_size 64 of fakes:tiny"),
        ({"prompt": "1 " * 53}, "give --new-tokens 11 or less, or a prompt of 52 tokens or less"),
        ({"prompt": "1 " * 70}, "block_size 64 of fakes:tiny; give a prompt of 52 tokens or less"),
        ({"prompt": "1 x"}, "--prompt: 'x' is not a token id"),
        ({"tokenizer": "nowhere.json"}, "--tokenizer nowhere.json cannot be read"),
        ({"model": "fakes:broken"}, "model 'fakes:broken' cannot be sampled: RuntimeError: no weights here"),
    ],
)
def test_a_prompt_that_the_model_cannot_read_is_refused(changed, words):
    assert words in error_of(**changed)


def test_a_prompt_may_fill_the_block():
    reference, _ = continuations("cached", prompt="1 " * 52)
    assert len(reference.tokens) == 12


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": ""}, "--prompt is empty"),
        ({"model": "gpt2-nano,gpt2"}, "give one value for model"),
        ({"sampler": "greedy,top-k", "dtype": "float32,bfloat16"}, "give one value for dtype, sampler"),
    ],
)
def test_options_take_one_point_and_several_engines(changed, words):
    with pytest.raises(UserError, match=words):
        SampleOptions(**{"prompt": "x", **changed}).validate()
    SampleOptions(prompt="x", engine="uncached,cached,cached-cat").validate()


# The page

OPTIONS = SampleOptions(prompt="Once\nupon", model="fakes:tiny", new_tokens=12)
SHAPED = replace(POINT, prompt_len=9)
RIGHT = Continuation(engine="reference", tokens=(104, 101, 108), parts=("sun", "", ""), tolerance=0.01)
ROUNDED = TokenDifference(place=1, token=97, chosen=101, margin=0.002, below=0.002, is_rounding=True)
TOO_FAR = TokenDifference(place=2, token=98, chosen=108, margin=1.5, below=2.5, is_rounding=False)


def page(*engines, width=80, options=OPTIONS, reference=RIGHT, **terminal):
    found = Sample(options=options, point=SHAPED, prompt=tuple(range(9)), reference=reference, engines=engines)
    console = Console(width=width, file=io.StringIO(), highlight=False, markup=False, emoji=False, **terminal)
    console.print(views.page(found))
    return console.file.getvalue(), found


def test_the_page_names_the_point_and_shows_each_text_below_its_verdict():
    text, _ = page(replace(RIGHT, engine="cached"))
    assert [line.rstrip() for line in text.splitlines()] == [
        "fakes:tiny in float32 on cpu, greedy: 9 prompt tokens (bytes), 12 new",
        "prompt",
        r"  Once\nupon",
        "reference (float64, uncached)",
        "  sun",
        "cached: exact, every token is the reference's choice",
        "  sun",
    ]


def test_the_first_difference_stands_between_marks_with_its_margin():
    rounded = Continuation(engine="a", tokens=(104, 97, 108), parts=("h", "a", "l"), tolerance=0.01, first=ROUNDED)
    wrong = replace(rounded, tokens=(104, 97, 98), parts=("h", "a", "b"), wrong=TOO_FAR)
    text, found = page(rounded, replace(wrong, engine="b"))
    words = " ".join(text.split())
    assert text.count("h»a«") == 2
    assert (
        "a: rounding, token 2 is 97, the reference chooses 101; its two largest logits differ by 0.002, "
        "the logit of 97 is 0.002 below the largest: rounding can explain it (tolerance 0.01)"
    ) in words
    assert "token 3 is 98, the reference chooses 108; its two largest logits differ by 1.5" in words
    assert "the logit of 98 is 2.5 below the largest: rounding cannot explain it (tolerance 0.01)" in words
    assert found.has_failed
    assert max(map(len, text.splitlines())) <= 80


def test_tokens_that_are_no_text_are_shown_as_numbers():
    reference = replace(RIGHT, parts=None)
    differs = Continuation(engine="a", tokens=(104, 97, 108), parts=None, tolerance=0.01, first=ROUNDED)
    text, _ = page(differs, reference=reference)
    lines = [line.rstrip() for line in text.splitlines()]
    assert (lines[4], lines[-1]) == ("  104 101 108", "  104 »97« 108")


def test_what_a_model_puts_out_cannot_drive_the_terminal():
    text, _ = page(Continuation(engine="a", tokens=(27, 1), parts=("\x1b[31m\x07\u202e[red]", "", ""), tolerance=0.01))
    assert "\x1b" not in text
    assert r"  \x1b[31m\x07\u202e[red]" in text


def test_colours_are_left_out_where_nobody_wants_them():
    wrong = Continuation(engine="a", tokens=(1, 2, 98), parts=("x", "y", ""), tolerance=0.01, first=TOO_FAR, wrong=TOO_FAR)
    coloured, _ = page(wrong, force_terminal=True, color_system="standard", no_color=False)
    plain, _ = page(wrong, force_terminal=True, color_system="standard", no_color=True)
    assert "\x1b[1;31m»y«" in coloured
    assert "31m" not in plain
    assert "»y«" in plain


def test_the_document_has_text_verdict_and_differences_and_only_numbers_of_json():
    wrong = Continuation(engine="b", tokens=(1,), parts=("", "y", ""), first=replace(TOO_FAR, margin=None), wrong=TOO_FAR)
    _, found = page(replace(RIGHT, engine="a"), wrong, Continuation(engine="c", status=Status.SKIPPED, reason="no cache"))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (document["prompt"], document["prompt_tokens"]) == ("Once\nupon", list(range(9)))
    assert (document["model"], document["reference"]["text"], document["reference_dtype"]) == ("fakes:tiny", "sun", "float64")
    assert [each["verdict"] for each in document["engines"]] == ["exact", "wrong", None]
    assert document["engines"][1]["first"] == {**asdict(TOO_FAR), "margin": None}
    assert document["engines"][2]["reason"] == "no cache"
    assert document["has_failed"] is True


# The command


def test_the_command_prints_every_engine_and_one_document(nanobench_here, tmp_path):
    asked = ("--model", "gpt2-nano", "--prompt", "Once upon a time", "--new-tokens", 8, "--threads", 1, "--json")
    done = nanobench_here("sample", *asked, cwd=tmp_path, code=0)
    *page, last = done.stdout.strip().splitlines()
    document = json.loads(last)
    assert [each["engine"] for each in document["engines"]] == ["uncached", "cached"]
    assert {each["verdict"] for each in document["engines"]} == {"exact"}
    assert document["prompt_tokens"] == list(b"Once upon a time")
    assert len(document["engines"][0]["tokens"]) == 8
    assert page[0] == "gpt2-nano in float32 on cpu, greedy: 16 prompt tokens (bytes), 8 new"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_works_with_processes_too(nanobench, tmp_path):
    asked = ("--model", "gpt2-nano", "--prompt", "Once", "--new-tokens", 4, "--threads", 1, "--sampler", "top-k", "--seed", 3)
    done = nanobench("sample", *asked, cwd=tmp_path, code=0)
    assert "top-k with seed 3" in done.stdout
    assert done.stdout.count("exact") == 2


def test_a_wrong_engine_is_marked_and_the_exit_code_is_1(nanobench_here, tmp_path):
    asked = ("--model", "zoo:lively", "--prompt", "Once upon a time", "--new-tokens", 24, "--threads", 1)
    done = nanobench_here("sample", *asked, "--engine", "cached,fakes:frozen", cwd=tmp_path, code=1)
    assert "cached: exact" in done.stdout
    assert "fakes:frozen: wrong, token " in done.stdout
    assert "rounding cannot explain it" in " ".join(done.stdout.split())
    assert done.stdout.count("»") == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--prompt", ""), "--prompt is empty"),
        ((), "--prompt is empty"),
        (("--prompt", "\udcff"), "is not UTF-8"),
        (("--prompt", "x" * 300), "--prompt has 300 tokens; with 32 new ones that is more than block_size 256 of gpt2-nano"),
        (("--prompt", "x", "--engine", "cahced"), "unknown engine 'cahced'; did you mean 'cached'?"),
        (("--prompt", "x", "--engine", "no_such:build"), "'no_such:build' cannot be imported"),
        (("--prompt", "x", "--model", "fakes:tiny"), "token 120, but the vocabulary of fakes:tiny is 64"),
        (("--prompt", "x", "--new-tokens", 0), "--new-tokens 0 is below 1"),
        (("--prompt", "x", "--new-tokens", 256), "give --new-tokens 255 or less"),
        (("--prompt", "x", "--tokenizer", "nowhere.json"), "--tokenizer nowhere.json cannot be read"),
        (("--prompt", "x", "--tokenizer", "ids"), "--prompt: 'x' is not a token id"),
        (("--prompt", "x", "--seed", -1), "--seed -1 is not between"),
    ],
)
def test_a_mistake_gets_one_line(nanobench_here, tmp_path, asked, words):
    done = nanobench_here("sample", "--model", "gpt2-nano", *asked, cwd=tmp_path, code=2)
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
