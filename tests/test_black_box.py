"""A black box: an engine from a plain function. What is timed, what is null, and what the gate and the check still see."""

import dataclasses

import pytest
import torch

import fakes
from conftest import SMALL
from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip
from nanobench.gates import generation as generation_gate
from nanobench.models import gpt2
from nanobench.plugins import black_box
from nanobench.probes.clock import HostClock
from nanobench.records import MEASURED, Verdict
from nanobench.results import finder
from nanobench.samplers.greedy import greedy
from nanobench.schema import Arm, Point
from nanobench.worker import output_check
from nanobench.worker.workloads.base import Block
from nanobench.worker.workloads.generate import Generate

NANOS = [name for name in registry.presets() if name.endswith("-nano")]
POINT = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=4, prompt_len=12, new_tokens=10)
TINY = dataclasses.replace(POINT, model="fakes:tiny", batch_size=2, prompt_len=8, new_tokens=4)


def verdict_on(function, model="gpt2-nano", point=POINT):
    torch.manual_seed(0)
    adapter = registry.find("models", model)()
    adapter.module.eval()
    build_any = black_box(function)
    with torch.inference_mode():
        reference = generation_gate.Reference(adapter, point, seed=0)

        def build(adapter, point):
            return build_any(adapter, greedy, point, Compiler("off"))

        return generation_gate.judge(reference, build, build(adapter, point), False)


@pytest.mark.parametrize("model", NANOS)
def test_an_honest_loop_is_exact_by_its_tokens(model):
    verdict = verdict_on(fakes.greedy_loop, model)
    assert verdict.verdict is Verdict.EXACT, verdict
    assert "black box, gated by its tokens alone" in verdict.note


def test_a_single_new_token_can_be_gated():
    assert verdict_on(fakes.greedy_loop, point=dataclasses.replace(POINT, new_tokens=1)).verdict is Verdict.EXACT


def first_is_wrong(module, idx_BT, n):
    found_BN = fakes.greedy_loop(module, idx_BT, n)
    if n == 1:
        found_BN[:, -1] = (found_BN[:, -1] + 1) % 256
    return found_BN


def later_are_wrong(module, idx_BT, n):
    found_BN = fakes.greedy_loop(module, idx_BT, 1)
    return torch.cat((found_BN, found_BN[:, -1:].expand(-1, n - 1)), dim=1)


def rows_are_mixed(module, idx_BT, n):
    return fakes.greedy_loop(module, idx_BT[:1].expand_as(idx_BT), n)


WRONG = (first_is_wrong, later_are_wrong, rows_are_mixed)


@pytest.mark.parametrize("function", WRONG)
def test_what_generates_other_tokens_is_wrong(function):
    """Over a model whose greedy output depends on its prompt; an untrained GPT-2 repeats a few tokens."""
    assert verdict_on(function, "nanochat-nano").verdict is Verdict.WRONG


def built(function=fakes.greedy_loop, point=TINY, sampler=greedy, mode="off"):
    adapter = gpt2.build(**fakes.TINY)
    adapter.module.eval()
    return black_box(function)(adapter, sampler, point, Compiler(mode))


def test_a_whole_call_and_a_call_of_one_token_write_the_same_first_token():
    engine, prompt_BT = built(), torch.randint(64, (2, 8))
    with torch.inference_mode():
        engine.prefill(prompt_BT)
        first_BN = engine.tokens_BN.clone()
        assert engine.step() == 3
        stepped_BN = engine.tokens_BN.clone()
        engine.tokens_BN.zero_()
        engine.run_call(prompt_BT)
        expected_BN = fakes.greedy_loop(engine.module, prompt_BT, 4)
    assert torch.equal(first_BN[:, :9], expected_BN[:, :9])
    assert (first_BN[:, 9:] == 0).all()
    assert torch.equal(stepped_BN, expected_BN)
    assert torch.equal(engine.tokens_BN, expected_BN)
    assert engine.logits_BV is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"mode": "default"}, "a black box is not compiled from outside"),
        ({"sampler": torch.argmax}, "use it with --sampler greedy"),
    ],
)
def test_what_is_up_to_the_function_is_skipped_with_the_reason(given, reason):
    with pytest.raises(Skip, match=reason):
        built(**given)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda module, idx_BT, n: idx_BT, r"a tensor of shape \[2, 8\]"),
        (lambda module, idx_BT, n: idx_BT.tolist(), "a list"),
    ],
)
def test_another_result_than_prompt_and_new_tokens_is_an_error_that_says_what_came(function, what):
    with pytest.raises(ValueError, match=rf"generate\(\) returned {what}, not prompt and 4 new tokens, \[2, 12\]"):
        built(function).run_call(torch.zeros(2, 8, dtype=torch.long))


def workload_of(point=TINY, engine="fakes:whole", **others):
    adapter = gpt2.build(**fakes.TINY)
    adapter.module.eval()
    workload = Generate(adapter, generation_gate.Reference(adapter, point, 0), point, Arm(engine=engine), HostClock(), **others)
    workload.begin()
    workload.calls = 3
    return workload


def repeat(workload, number, timestamped=True):
    block = Block(number, timestamped=timestamped, prompt_seed=7 + number)
    workload.lay_out(block)
    return workload.repeat(number, block)


def first_tokens(workload):
    return [each for each in workload.phases if each.kind == "first_token"]


def test_a_timed_repetition_is_whole_calls_and_the_first_token_is_timed_beside_it():
    with torch.inference_mode():
        workload = workload_of()
        timed = [repeat(workload, number) for number in range(2)]
    for number, (whole, first) in enumerate(zip(timed, first_tokens(workload), strict=True)):
        assert (whole.kind, whole.block, whole.calls, whole.tokens) == ("steady", number, 3, 3 * 2 * 4)
        assert (first.block, first.calls, first.tokens) == (number, 3, 3 * 2)
        assert (whole.timestamped, whole.token_times_s) == (first.timestamped, first.token_times_s) == (False, None)
        assert whole.prompt_seed != first.prompt_seed
        assert whole.wall_s > 0 < first.wall_s


def test_only_blocks_that_would_have_timestamps_time_the_first_token():
    with torch.inference_mode():
        workload = workload_of()
        for number in range(4):
            repeat(workload, number, timestamped=number == 2)
    assert [each.block for each in first_tokens(workload)] == [2]


def test_of_a_single_token_the_whole_call_is_the_call_of_one_token():
    with torch.inference_mode():
        workload = workload_of(dataclasses.replace(TINY, new_tokens=1))
        repeat(workload, 0)
    assert first_tokens(workload) == []


def test_the_outputs_of_both_kinds_of_calls_are_kept_and_are_what_the_prompts_give():
    with torch.inference_mode():
        workload = workload_of()
        for number in range(2):
            repeat(workload, number)
        workload.keep_outputs()
        whole, ones = output_check.by_length(workload.outputs)
        assert [(each.block, each.call) for each in whole] == [(block, call) for block in range(2) for call in range(3)]
        assert [(each.block, each.call) for each in ones] == [(0, 2), (1, 2)]
        for output in (*whole, *ones):
            prompt_BT = output_check.prompt_of(output, TINY, workload.prompts)
            number = output.tokens_BN.shape[1]
            expected_BN = fakes.greedy_loop(workload.adapter.module, prompt_BT, number)
            assert torch.equal(output.tokens_BN.long(), expected_BN[:, 8:])
    assert output_check.not_written(workload.outputs, TINY, 64) is None


def test_without_the_check_no_output_is_kept():
    with torch.inference_mode():
        workload = workload_of(keeps_outputs=False)
        repeat(workload, 0)
    assert list(workload.outputs) == []
    assert len(first_tokens(workload)) == 1


def test_memory_is_that_of_a_whole_call_and_no_step_is_profiled():
    with torch.inference_mode():
        workload = workload_of()
        workload.judge("digest")
        workload.profile(None)
        outcome = workload.outcome()
    assert outcome.peak_memory_bytes > outcome.prefill_peak_bytes > 0
    assert outcome.operations_prefill > 0
    unknown = (outcome.decode_peak_bytes, outcome.operations_per_step, outcome.steps_per_call, outcome.kv_cache_bytes)
    assert unknown == (None, None, None, None)


def test_an_engine_with_whole_calls_may_show_no_logits():
    with torch.inference_mode():
        workload = workload_of()
        workload.engine.logits_BV = torch.zeros(2, 64)
        with pytest.raises(TypeError, match=r"run_call\(\) shows logits, which the gate cannot check"):
            workload.judge("digest")


def test_a_sweep_measures_it_and_leaves_what_it_cannot_know_null(nanobench_here, tmp_path):
    asked = ("kv-sweep", "--model", "zoo:lively", *SMALL[2:], "--engine", "uncached,fakes:whole", "--batch", "1,3")
    nanobench_here(*asked, "--launches", 2, "--out", "run", cwd=tmp_path, code=0)
    cells = finder.load(tmp_path / "run").set_index(["batch_size", "arm"])
    whole, uncached = (cells.xs(arm, level="arm") for arm in ("fakes:whole", "uncached"))
    assert set(whole["status"]) <= set(MEASURED)
    assert set(whole["gate"]) == {"exact"}
    assert (whole[["output_tok_s", "ttft_s", "e2e_s", "prefill_tok_s", "speedup", "speedup_lo"]] > 0).all().all()
    assert (whole["checked_calls"] >= 2).all()
    unknown = ["tpot_s", "itl_p50_s", "itl_positions", "decode_speedup", "decode_tok_s", "decode_peak_bytes", "steps_per_call"]
    assert whole[unknown].isna().all().all()
    assert uncached[["tpot_s", "decode_tok_s"]].notna().all().all()
