import dataclasses

import pytest
import torch

import fakes
from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.gates import generation as generation_gate
from nanobench.records import Verdict
from nanobench.samplers.greedy import greedy
from nanobench.schema import Point

ENGINES = [name for name in registry.names("engines") if name != "cuda-graph"]
"""Those that a CPU has; test_cuda_graph.py has the other."""
NANOS = [name for name in registry.presets() if name.endswith("-nano")]
POINT = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=4, prompt_len=12, new_tokens=10)


def of_engine(name, **sizes):
    """The point that an engine is gated at: one of them needs a prompt that all rows share."""
    return dataclasses.replace(POINT, **sizes, **({"shared_prompt": "on"} if name == "cached-shared-prompt" else {}))


def judge(build, point=POINT, model="gpt2-nano", compiled=False):
    torch.manual_seed(0)
    adapter = registry.find("models", model)()
    adapter.module.to(getattr(torch, point.dtype)).eval()
    with torch.inference_mode():
        reference = generation_gate.Reference(adapter, point, seed=0)

        def build_any(adapter, point):
            return build(adapter, greedy, point, Compiler("off"))

        engine = build_any(adapter, point)
        generation_gate.run_free(engine, reference.prompt_BT, point.new_tokens)
        return generation_gate.judge(reference, build_any, engine, compiled)


@pytest.mark.parametrize("model", NANOS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_size", [1, 11])
def test_every_engine_is_exact_in_float32(engine, model, batch_size):
    verdict = judge(registry.find("engines", engine), of_engine(engine, batch_size=batch_size), model)
    assert verdict.verdict is Verdict.EXACT, verdict
    assert verdict.tolerance < 1e-3
    if engine != "speculative":  # shows no logits
        assert verdict.max_error <= verdict.tolerance


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("engine", ENGINES)
def test_half_types_are_exact_or_rounding_never_wrong(engine, dtype):
    verdict = judge(registry.find("engines", engine), of_engine(engine, dtype=dtype, batch_size=11))
    assert verdict.verdict in (Verdict.EXACT, Verdict.ROUNDING), verdict


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["frozen", "frozen_embedding", "leaky"])
def test_a_wrong_engine_is_wrong_by_the_full_gate_and_by_the_one_of_compiled_arms(name, compiled):
    verdict = judge(getattr(fakes, name), compiled=compiled)
    assert verdict.verdict is Verdict.WRONG
    assert verdict.note


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["frozen", "leaky"])
def test_a_wrong_engine_is_wrong_where_all_rows_share_their_prompt(name, compiled):
    verdict = judge(getattr(fakes, name), dataclasses.replace(POINT, shared_prompt="on"), compiled=compiled)
    assert verdict.verdict is Verdict.WRONG


def test_a_token_broadcast_is_wrong():
    verdict = judge(fakes.broadcast)
    assert verdict.verdict is Verdict.WRONG
    assert "row" in verdict.note


def test_bfloat16_precision_under_a_float32_label_is_wrong():
    assert judge(fakes.rounded).verdict is Verdict.WRONG


def test_a_slow_engine_is_exact():
    assert judge(fakes.slow).verdict is Verdict.EXACT


def test_a_black_box_is_gated_by_its_tokens_and_says_so():
    verdict = judge(fakes.black_box)
    assert verdict.verdict is Verdict.EXACT
    assert "tokens alone" in verdict.note


def test_a_single_new_token_can_be_gated():
    point = dataclasses.replace(POINT, new_tokens=1)
    assert judge(registry.find("engines", "cached"), point).verdict is Verdict.EXACT


def test_not_more_than_32_positions_and_8_rows_are_compared():
    point = dataclasses.replace(POINT, batch_size=9, new_tokens=100)
    verdict = judge(registry.find("engines", "cached"), point)
    assert verdict.verdict is Verdict.EXACT
    assert "8 rows x 32 positions" in verdict.note


def test_logits_in_chunks_equal_logits_at_once(monkeypatch):
    torch.manual_seed(0)
    adapter = registry.find("models", "gpt2-nano")()
    adapter.module.eval()
    sequence_RT = torch.randint(256, (5, 20))
    with torch.inference_mode():
        at_once = generation_gate.logits_at(adapter, sequence_RT, 8, [0, 3, 11])
        monkeypatch.setattr(generation_gate, "CHUNK_BYTES", 20 * 256 * 8 * 2)
        by_rows = generation_gate.logits_at(adapter, sequence_RT, 8, [0, 3, 11])
        monkeypatch.setattr(generation_gate, "CHUNK_BYTES", 1)
        by_positions = generation_gate.logits_at(adapter, sequence_RT, 8, [0, 3, 11])
    torch.testing.assert_close(by_rows, at_once)
    torch.testing.assert_close(by_positions, at_once)


def expected(logits):
    return generation_gate.Expected(torch.tensor(logits, dtype=torch.float64), [0, 1], tolerance=0.1)


def test_a_token_that_differs_at_a_tie_is_rounding_and_lets_the_row_go():
    tie_then_clear = expected([[[1.0, 0.95, 0.0], [5.0, 0.0, 0.0]]])
    got, want = torch.tensor([[7, 1, 2]]), torch.tensor([[7, 0, 0]])
    assert generation_gate.compare_tokens(got, want, tie_then_clear, 1, "tokens").verdict is Verdict.ROUNDING


def test_a_token_that_differs_where_the_margin_is_clear_is_wrong():
    clear_then_tie = expected([[[5.0, 0.0, 0.0], [1.0, 0.95, 0.0]]])
    got, want = torch.tensor([[7, 1, 0]]), torch.tensor([[7, 0, 0]])
    verdict = generation_gate.compare_tokens(got, want, clear_then_tie, 1, "tokens")
    assert verdict.verdict is Verdict.WRONG
    assert "row 0 differs at new token 1" in verdict.note


def test_the_digest_changes_with_any_token():
    tokens = torch.arange(12).reshape(3, 4)
    other = tokens.clone()
    other[2, 1] += 1
    assert generation_gate.digest(tokens) == generation_gate.digest(tokens.clone()) != generation_gate.digest(other)


def test_nan_logits_are_wrong():
    def build(adapter, sampler, point, compiler):
        class Nan(fakes.Uncached):
            def _next(self, idx_BT):
                logits_BV, token_B1 = super()._next(idx_BT)
                return logits_BV * float("nan"), token_B1

        return Nan(adapter, sampler, point, compiler, last_only=True)

    assert judge(build).verdict is Verdict.WRONG
