"""Every cheat of the zoo gets its verdict through the command line, and no honest arm is accused."""

import os
import re

import pytest
import torch

import zoo
from conftest import SMALL, made_once
from fakes import TINY
from nanobench import registry
from nanobench.gates import outputs as output_gate
from nanobench.gates.generation import Reference
from nanobench.gates.outputs import Sample
from nanobench.models.gpt2 import build as build_gpt2
from nanobench.probes.clock import HostClock
from nanobench.records import MEASURED
from nanobench.results import finder
from nanobench.samplers.temperature import Temperature
from nanobench.schema import Arm, Point
from nanobench.worker import output_check
from nanobench.worker.workloads import generate
from nanobench.worker.workloads.base import Block
from nanobench.worker.workloads.generate import Generate
from nanobench.worker.workloads.outputs import Output, Outputs
from nanobench.worker.workloads.prompts import fresh_prompts

ONE = ("--model", "zoo:lively", *SMALL[2:], "--max-seconds", 0.4, "--launches", 1, "--out", "run")
NOT_THE_CHOICE = "is not the reference's choice"
CHEATS = {
    "replay_after": NOT_THE_CHOICE,
    "idle_after": "were not written",
    "memo_by_address": NOT_THE_CHOICE,
    "memo_by_shape": NOT_THE_CHOICE,
    "work_when_read": "were not written",
    "side_thread": "were not written|a thread that it started was still running|it used .* cores",
    "busy_thread": "a thread that it started was still running",
    "gate_buffers": NOT_THE_CHOICE,
    "by_call_count": NOT_THE_CHOICE,
    "by_stack": NOT_THE_CHOICE,
    "by_prompt": NOT_THE_CHOICE,
    "by_dtype_and_shape": NOT_THE_CHOICE,
    "slow_clock": "it replaced time.perf_counter",
    "no_sync": "it replaced torch.cuda.synchronize",
    "other_weights": NOT_THE_CHOICE,
    "shared_weights": "it changed what all arms share: weights of the model",
    "skipped_rows": NOT_THE_CHOICE,
    "early_stop": "were not written",
    "constants": NOT_THE_CHOICE,
    "guessed_first": NOT_THE_CHOICE,
    "repeated_call": NOT_THE_CHOICE,
    "sabotage": "it changed what all arms share: hooks of the model",
    "fewer_threads": "it changed what all arms share: torch's number of threads",
}

ALONE = {
    *("work_when_read", "side_thread", "busy_thread", "gate_buffers"),
    *("slow_clock", "no_sync", "shared_weights", "sabotage", "fewer_threads"),
}
"""Cheats that reach beyond their own arm."""


def cells_of(folder):
    return finder.load(folder / "run").set_index("arm")


def cheated(nanobench_here, folder, *cheats):
    """The cells of a sweep with these cheats; they share its time, and each needs enough to do more than its honest calls."""
    engines, seconds = ",".join(["uncached", *(f"zoo:{cheat}" for cheat in cheats)]), 0.4 * len(cheats)
    asked = ("--batch", 4, "--new-tokens", 12, "--max-seconds", seconds, "--engine", engines)
    try:
        nanobench_here("kv-sweep", *ONE, *asked, cwd=folder, code=1)
    finally:
        os.environ.pop(zoo.BUSY, None)
    return cells_of(folder)


@pytest.fixture(scope="session")
def side_by_side(nanobench_here, tmp_path_factory):
    """The cells of the cheats that leave each other alone, from one sweep."""
    cheats = [cheat for cheat in CHEATS if cheat not in ALONE]
    return cells_of(made_once(tmp_path_factory, "cheats", lambda folder: cheated(nanobench_here, folder, *cheats)))


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_wrong_without_numbers_and_exits_1(request, nanobench_here, tmp_path, cheat):
    cells = cheated(nanobench_here, tmp_path, cheat) if cheat in ALONE else request.getfixturevalue("side_by_side")
    cell = cells.loc[f"zoo:{cheat}"]
    assert cheat in ALONE or cells.loc["uncached", "status"] in MEASURED
    assert cell["status"] == "wrong", cell["reason"]
    assert re.search(CHEATS[cheat], cell["reason"])
    assert cell[["output_tok_s", "speedup", "ttft_s"]].isna().all()


def test_a_memory_of_prompts_does_not_help(nanobench_here, no_plots, tmp_path):
    nanobench_here("kv-sweep", *ONE, "--batch", 2, "--engine", "uncached,zoo:memo_by_content", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path)
    cell = cells.loc["zoo:memo_by_content"]
    nanobench_here("report", "run", cwd=tmp_path, code=0)
    number = int(cells["checked_calls"].sum())
    assert f"checked what {number} timed calls" in (tmp_path / "run" / "report.md").read_text()
    assert cell["status"] in MEASURED
    assert cell["checked_calls"] >= 2
    assert cell["speedup"] < 2


def test_no_prompt_can_be_seen_before_its_call(nanobench_here, tmp_path):
    """Base prompts lie apart from the tensor that a call reads, and the number that is added to them is drawn in the clock."""
    nanobench_here("kv-sweep", *ONE, "--batch", 2, "--engine", "uncached,zoo:peek", cwd=tmp_path, code=0)
    assert cells_of(tmp_path).loc["zoo:peek", "status"] in MEASURED


def test_a_prefill_that_does_all_the_work_shows_in_the_time_to_the_first_token(nanobench_here, tmp_path):
    nanobench_here("kv-sweep", *ONE, "--batch", 2, "--engine", "uncached,zoo:prefill_does_all", cwd=tmp_path, code=0)
    cell = cells_of(tmp_path).loc["zoo:prefill_does_all"]
    assert cell["status"] in MEASURED
    assert cell["ttft_s"] > 0.9 * cell["e2e_s"]


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_sampler_that_becomes_greedy_is_wrong(nanobench_here, nanobench, tmp_path, isolated):
    """Also in processes of their own, where the check imports nothing that has run before.

    On a slow machine the fewest timed calls are made: their tokens must be enough to show it.
    """
    run = nanobench if isolated else nanobench_here
    asked = ("--batch", 4, "--new-tokens", 24, "--sampler", "temperature,zoo:disguised")
    run("kv-sweep", *ONE, *asked, cwd=tmp_path, code=1)
    cells = cells_of(tmp_path)
    assert cells.loc["cached zoo:disguised", "status"] == "wrong"
    assert "do not match the sampler's probabilities" in cells.loc["cached zoo:disguised", "reason"]
    assert cells.loc["cached temperature", "status"] in MEASURED


def test_a_sampler_that_looks_at_some_tokens_at_the_measured_shape_is_wrong(nanobench_here, tmp_path):
    asked = ("kv-sweep", *ONE, "--batch", 4, "--sampler", "top-p-sort,zoo:some_tokens")
    nanobench_here(*asked, cwd=tmp_path, code=1)
    cells = cells_of(tmp_path)
    assert cells.loc["cached zoo:some_tokens", "status"] == "wrong"
    assert "sampled at batch size 4 and a vocabulary of 256" in cells.loc["cached zoo:some_tokens", "reason"]
    assert cells.loc["cached top-p-sort", "status"] in MEASURED


TRAIN = (
    "train-throughput",
    "--model",
    "fakes:tiny",
    "--seq-len",
    32,
    "--threads",
    1,
    "--batch",
    3,
    "--launches",
    1,
    "--max-seconds",
    0.2,
)
TRAINING_CHEATS = {
    ("fakes:tiny", "zoo:skipping"): "no weight changed, or a parameter was frozen, in timed repetition",
    ("fakes:tiny", "zoo:reusing"): "of a timed repetition off by",
    ("zoo:first_row", "adamw"): "loss of a timed repetition off by",
}


@pytest.mark.parametrize(("model", "optimizer"), TRAINING_CHEATS)
def test_a_cheat_in_training_is_wrong(nanobench_here, tmp_path, model, optimizer):
    asked = (*TRAIN, "--model", model, "--optimizer", optimizer, "--no-plot", "--out", "run")
    nanobench_here(*asked, cwd=tmp_path, code=1)
    (cell,) = finder.load(tmp_path / "run").to_dict("records")
    assert cell["status"] == "wrong", cell["reason"]
    assert TRAINING_CHEATS[model, optimizer] in cell["reason"]


SHARED = "cached-shared-prompt"
HONEST = {
    "engines": ("--engine", ",".join(name for name in registry.names("engines") if name not in ("cuda-graph", SHARED))),
    "shared prompts": ("--engine", f"uncached,cached,{SHARED}", "--shared-prompt", "on", "--sampler", "greedy,top-k"),
    "shared prompts of a text": ("--engine", f"uncached,{SHARED}", "--shared-prompt", "on", "--prompts", __file__),
    "samplers": ("--engine", "cached", "--sampler", ",".join(sorted({*registry.names("samplers")} - {"top-p-flashinfer"}))),
    "narrow": ("--dtype", "bfloat16", "--engine", "uncached,cached", "--sampler", "greedy,top-k"),
    "black boxes": ("--engine", "uncached,fakes:black_box,fakes:whole"),
    "models": ("--model", ",".join(name for name in registry.presets() if name.endswith("-nano"))),
}


QUICK = ("engines", "shared prompts", "samplers")
"""The others take seconds each."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in HONEST])
def test_no_honest_arm_is_accused(nanobench_here, tmp_path, name):
    nanobench_here("kv-sweep", *ONE, "--batch", "1,3", *HONEST[name], cwd=tmp_path, code=0)
    cells = cells_of(tmp_path)
    assert set(cells["status"]) <= set(MEASURED)
    assert (cells["checked_calls"] >= 2).all()
    assert cells["check_s"].gt(0).all()


@pytest.mark.parametrize("asked", [("--seed", 3), ("--dtype", "bfloat16"), ("--phase", "sft-dynamic", "--grad-accum", 2)])
def test_no_honest_training_arm_is_accused(nanobench_here, tmp_path, asked):
    nanobench_here(*TRAIN, "--checkpointing", "off,checkpointed", *asked, "--no-plot", "--out", "run", cwd=tmp_path, code=0)
    cells = finder.load(tmp_path / "run")
    assert set(cells["status"]) <= set(MEASURED)
    assert (cells["checked_calls"] >= 1).all()


def test_without_the_check_nothing_is_checked_and_the_row_says_so(nanobench_here, no_plots, tmp_path):
    nanobench_here("kv-sweep", *ONE, "--batch", 2, "--no-check", "--engine", "uncached,zoo:idle_after", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path)
    nanobench_here("report", "run", cwd=tmp_path, code=0)
    assert "the outputs of timed work were not checked" in (tmp_path / "run" / "report.md").read_text()
    assert cells["checked_calls"].isna().all()
    assert set(cells["status"]) <= set(MEASURED)


def test_prompts_differ_from_call_to_call_and_the_first_are_the_same_for_any_number():
    some, more = fresh_prompts(7, 3, 2, 50, 1000), fresh_prompts(7, 5, 2, 50, 1000)
    assert torch.equal(some, more[:3])
    assert len({tuple(prompt.flatten().tolist()) for prompt in more}) == 5
    assert not torch.equal(fresh_prompts(8, 1, 2, 50, 1000)[0], some[0])


def test_a_prompt_is_its_base_and_a_number_that_the_seed_does_not_tell():
    point = Point(**{**vars(POINT), "model": "zoo:lively"})
    adapter = generate.load(point, seed=0)
    with torch.inference_mode():
        arm = Generate(adapter, Reference(adapter, point, 0), point, Arm(engine="cached"), HostClock())
        arm.build()
        for number in range(4):
            arm.lay_out(Block(number, timestamped=False, prompt_seed=7))
            arm.time("steady", number, Block(number, timestamped=False, prompt_seed=7))
            base_BT = fresh_prompts(7, 1, point.batch_size, point.prompt_len, adapter.shape.vocab_size)[0]
            assert torch.equal(
                arm.engine.tokens_BN[:, : point.prompt_len], (base_BT + arm.shifts[0]) % adapter.shape.vocab_size
            )
        arm.keep_outputs()
    assert len({output.shift for output in arm.outputs}) > 1


def outputs(repetitions, calls=1, rows=2, tokens=3):
    kept = Outputs()
    for block in range(repetitions):
        new_BN = torch.full((rows, tokens), block, dtype=torch.int32)
        kept.keep([Output(block, call, calls, 100 + block, 7, new_BN) for call in range(calls)])
    return kept


def test_outputs_survive_a_file(tmp_path):
    kept = outputs(3, calls=2)
    kept.save(tmp_path / "outputs.pt")
    loaded = Outputs.load(tmp_path / "outputs.pt")
    assert [(each.block, each.call, each.calls, each.prompt_seed) for each in loaded] == [
        (block, call, 2, 100 + block) for block in range(3) for call in range(2)
    ]
    assert all(torch.equal(one.tokens_BN, other.tokens_BN) for one, other in zip(kept, loaded, strict=True))


def test_outputs_stay_below_their_limit_and_keep_the_first_and_the_last(monkeypatch):
    monkeypatch.setattr("nanobench.worker.workloads.outputs.MOST_BYTES", 10 * 2 * 3 * 4)
    kept = outputs(100)
    assert len(kept.kept) == 10
    assert (kept.kept[0].block, kept.kept[-1].block) == (0, 99)
    assert kept.nbytes <= 10 * 2 * 3 * 4


POINT = Point(model="fakes:tiny", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=8, new_tokens=4)


def test_the_choice_holds_the_first_the_last_and_one_inside_a_repetition():
    import random

    kept = list(outputs(4, calls=5))
    for secret in range(20):
        chosen = output_check.choose(kept, POINT, random.Random(secret))
        assert (chosen[0], chosen[-1]) == (kept[0], kept[-1])
        assert any(each.is_inside for each in chosen)
        assert len(chosen) == 20
    long = Point(**{**vars(POINT), "prompt_len": 400})
    assert len(output_check.choose(kept, long, random.Random(0))) == output_check.LEAST_CALLS
    few = [Output(0, 0, 1, 0, 0, torch.zeros(2, 4))]
    assert output_check.choose(few, POINT, random.Random(0)) == few


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    adapter = build_gpt2(**TINY)
    adapter.module.eval().requires_grad_(False)
    return adapter


def generated(adapter, sampler, rows=6, tokens=40, seed=0):
    """Prompts, and tokens that the model and the sampler choose one by one."""
    generator = torch.Generator().manual_seed(seed)
    sequence_RT = torch.randint(TINY["vocab_size"], (rows, 8), generator=generator)
    for _ in range(tokens):
        logits_RV = adapter.forward(sequence_RT, last_only=True)[:, -1]
        sequence_RT = torch.cat((sequence_RT, sampler(logits_RV, generator)), dim=1)
    return Sample(sequence_RT[:, :8], sequence_RT[:, 8:], [f"row {row}" for row in range(rows)])


def test_greedy_tokens_pass_and_one_other_does_not(reference):
    sample = generated(reference, lambda logits_BV, _: logits_BV.argmax(-1, keepdim=True))
    assert output_gate.judge(reference, None, sample, "float32", None) is None
    changed = sample.tokens_RN.clone()
    changed[3, 20] = (changed[3, 20] + 1) % TINY["vocab_size"]
    wrong = output_gate.judge(reference, None, Sample(sample.prompt_RT, changed, sample.names), "float32", None)
    assert wrong.startswith("row 3: token 21 is not the reference's choice")


def test_the_logits_that_were_kept_must_be_the_references(reference):
    """A row that only repeats what an untrained model repeats has the right tokens and the wrong logits."""
    sample = generated(reference, lambda logits_BV, _: logits_BV.argmax(-1, keepdim=True), rows=2)
    sequence_RT, place = torch.cat((sample.prompt_RT, sample.tokens_RN[:, :-1]), dim=1), 4
    logits_V = reference.forward(sequence_RT)[1, sample.prompt_RT.shape[1] - 1 + place]
    for shift, words in ((0.0, None), (0.1, "row 1: logits of token 5 off by 0.1")):
        kept = Sample(sample.prompt_RT, sample.tokens_RN, sample.names, [None, (place, logits_V + shift)])
        wrong = output_gate.judge(reference, None, kept, "float32", None)
        assert wrong is None if words is None else wrong.startswith(words)


def test_a_tolerance_from_the_checked_process_counts_only_up_to_a_limit(reference):
    sample = generated(reference, lambda logits_BV, _: logits_BV.argmin(-1, keepdim=True))
    assert output_gate.judge(reference, None, sample, "float32", 1e9) is not None


def test_sampled_tokens_pass_at_their_own_temperature_only(reference):
    """An honest sampler is not accused in any of 100 checks."""
    sharp, flat = Temperature(0.1), Temperature(3.0)
    many = generated(reference, flat, rows=200, tokens=10)
    for row in range(0, 200, 2):
        sample = Sample(many.prompt_RT[row : row + 2], many.tokens_RN[row : row + 2], ["", ""])
        assert output_gate.judge(reference, flat, sample, "float32", None) is None
    sample = generated(reference, sharp)
    assert output_gate.judge(reference, sharp, sample, "float32", None) is None
    greedy = generated(reference, lambda logits_BV, _: logits_BV.argmax(-1, keepdim=True))
    assert "do not match" in output_gate.judge(reference, flat, greedy, "float32", None)


def test_a_token_outside_of_the_nucleus_is_impossible(reference):
    sampler = registry.find("samplers", "top-k")(k=2)
    sample = generated(reference, lambda logits_BV, _: logits_BV.argmin(-1, keepdim=True))
    assert "has probability 0" in output_gate.judge(reference, sampler, sample, "float32", None)
