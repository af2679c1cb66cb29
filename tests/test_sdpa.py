"""Attention kernels as an axis: each computes the same, is refused where it can't run, and is never another in disguise."""

import pytest
import torch
import torch.nn.functional as F

from nanobench.errors import Skip
from nanobench.models import _sdpa as sdpa
from nanobench.schema import ATTENTIONS
from test_kv_sweep import SMALL, cells_of


def test_every_listed_choice_has_a_kernel():
    assert {*sdpa.KERNELS, "auto", "flex"} == set(ATTENTIONS)


@pytest.mark.parametrize("choice", ["auto", *sdpa.KERNELS])
def test_what_a_cpu_has_not_is_refused(choice):
    if choice in ("auto", *sdpa.ON_CPU):
        sdpa.check_request(choice, "cpu", None, False)
    else:
        with pytest.raises(Skip, match=f"{choice} needs a CUDA device; a CPU has sdpa-math and sdpa-flash"):
            sdpa.check_request(choice, "cpu", None, False)
    sdpa.check_request(choice, "cuda", None, False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["aten::_scaled_dot_product_attention_math"], "sdpa-flash was requested, but the model ran sdpa-math"),
        (
            ["aten::_scaled_dot_product_attention_math", "aten::_scaled_dot_product_flash_attention_for_cpu"],
            "ran sdpa-flash and sdpa-math",
        ),
        (["aten::bmm"], "the model calls no scaled_dot_product_attention"),
    ],
)
def test_another_kernel_than_the_one_asked_for_is_an_error(names, message):
    with pytest.raises(RuntimeError, match=message):
        sdpa.check("sdpa-flash", frozenset(names), compiled=False)
    sdpa.check("auto", frozenset(names), compiled=False)


def test_a_compiler_may_replace_an_operator_but_not_by_that_of_another_choice():
    sdpa.check("sdpa-math", frozenset(["aten::bmm"]), compiled=True)
    with pytest.raises(RuntimeError, match="ran sdpa-flash"):
        sdpa.check("sdpa-math", frozenset(["aten::_scaled_dot_product_flash_attention"]), compiled=True)


def test_what_a_backend_has_no_kernel_for_is_skipped_with_the_reason():
    q, other = torch.ones(1, 2, 4, 8), torch.ones(1, 2, 4, 8, dtype=torch.float64)
    reason = "sdpa-efficient has no kernel for this arm's masks, heads or dtype"
    with pytest.raises(Skip, match=reason), sdpa.use_backend("sdpa-efficient"):
        F.scaled_dot_product_attention(q, q, q)
    with pytest.raises(RuntimeError, match="dtype"), sdpa.use_backend("sdpa-flash"):
        F.scaled_dot_product_attention(q, other, q)


def test_the_kernel_asked_for_is_recognised_on_either_device():
    for name in ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_flash_attention"):
        sdpa.check("sdpa-flash", frozenset([name, "aten::addmm"]), compiled=False)


def test_attention_is_an_axis_gated_and_refused_with_the_reason(nanobench_here, tmp_path):
    choices = ("--attention", "auto,sdpa-math,sdpa-flash,sdpa-cudnn", "--batch", 2, "--launches", 1)
    nanobench_here("kv-sweep", *SMALL, *choices, "--out", "run", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path / "run").reset_index()
    assert cells["gate"].value_counts().to_dict() == {"exact": 6}
    refused = cells[cells["attention"] == "sdpa-cudnn"]
    assert set(refused["status"]) == {"skipped"}
    assert set(refused["reason"]) == {"sdpa-cudnn needs a CUDA device; a CPU has sdpa-math and sdpa-flash"}
    assert "cached sdpa-flash" in set(cells["arm"])


def test_a_model_that_does_its_own_attention_is_an_error_under_a_named_kernel(nanobench_here, tmp_path):
    (tmp_path / "own.py").write_text(
        "from nanobench import registry\n"
        "def matmuls(q, k, v, attn_mask=None, is_causal=False, enable_gqa=False):\n"
        "    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5\n"
        "    if is_causal:\n"
        "        attn_mask = scores.new_full(scores.shape[-2:], float('-inf')).triu(1)\n"
        "    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v\n"
        "def build():\n"
        "    adapter = registry.find('models', 'gpt2-nano')()\n"
        "    for block in adapter.module.blocks:\n"
        "        block.attention.sdpa = matmuls\n"
        "    return adapter\n"
    )
    asked = ("--model", "own:build", "--attention", "auto,sdpa-math", "--engine", "cached", "--batch", 2, "--launches", 1)
    nanobench_here("kv-sweep", *SMALL[2:], *asked, "--out", "run", cwd=tmp_path, code=0)
    plain, named = cells_of(tmp_path / "run").reset_index().to_dict("records")
    assert plain["status"] in ("ok", "imprecise", "unstable", "no_steady_state")
    assert named["status"] == "error"
    assert "sdpa-math was requested, but the model calls no scaled_dot_product_attention" in named["reason"]


def test_auto_does_not_choose_cudnn_and_its_own_choice_still_runs_it():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        sdpa.avoid_cudnn()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        with sdpa.use_backend("auto"):
            assert not torch.backends.cuda.cudnn_sdp_enabled()
        with sdpa.use_backend("sdpa-cudnn"):
            assert torch.backends.cuda.cudnn_sdp_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize("words", ["cuDNN Frontend error: [cudnn_frontend]", "No execution plans support the graph."])
def test_what_cudnn_has_no_plan_for_is_skipped(words):
    with pytest.raises(Skip, match="has no kernel"), sdpa.use_backend("sdpa-cudnn"):
        raise RuntimeError(words)
