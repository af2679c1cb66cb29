"""FlexAttention: reads only the blocks that are attended to, gives the logits of other kernels, and says where it cannot."""

import pytest
import torch

from conftest import SMALL
from nanobench import registry
from nanobench.errors import Skip
from nanobench.models import _sdpa as sdpa
from nanobench.models._flex import BLOCK, block_mask
from test_kv_sweep import cells_of
from test_window import built


@pytest.mark.parametrize("window", [None, 1, 100, 128, 129, 300, 5_000])
@pytest.mark.parametrize(
    ("start", "tokens", "length"),
    [(0, 300, 300), (0, 7, 520), (0, 1, 1), (127, 1, 520), (128, 1, 520), (519, 1, 520), (5, 300, 305), (505, 128, 633)],
)
def test_the_blocks_that_are_read_are_those_with_a_position_that_is_attended_to(start, tokens, length, window):
    pos_T = torch.arange(start, start + tokens)
    found = block_mask(pos_T, length, window)
    distance_TS = pos_T[:, None] - torch.arange(length)
    attended_TS = (distance_TS >= 0) & (distance_TS < (window or length + 1))
    rows, columns = -(-tokens // BLOCK), -(-length // BLOCK)
    padded = torch.zeros(rows * BLOCK, columns * BLOCK, dtype=torch.bool)
    padded[:tokens, :length] = attended_TS
    blocks = padded.view(rows, BLOCK, columns, BLOCK)
    assert torch.equal(found.to_dense()[0, 0].bool(), blocks.any(3).any(1))
    for row, number in enumerate(found.full_kv_num_blocks[0, 0]):
        full = found.full_kv_indices[0, 0, row, :number]
        assert blocks[row, : tokens - row * BLOCK, full].all(), "a block without a mask has a position that is hidden"
    assert (found.kv_num_blocks <= 4).all(), "only blocks at the two ends have a mask"
    query_T1, key_S = torch.arange(tokens)[:, None], torch.arange(length)
    assert torch.equal(found.mask_mod(0, 0, query_T1, key_S), attended_TS)
    if not start:
        assert torch.equal(block_mask(pos_T, length, window, from_zero=True).mask_mod(0, 0, query_T1, key_S), attended_TS)


@pytest.fixture
def by_flex():
    """Selects FlexAttention; without a compiler it has another kernel, with the same result."""
    torch._dynamo.reset()
    with sdpa.use_backend("flex"):
        yield
    torch._dynamo.reset()


NAMES = ["gpt2-nano", "gpt2-nano:n_kv_head=1", "llama-nano:window=5", "nanochat-nano:window=5", "nanochat-2026-nano"]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits_are_those_of_the_other_kernels_with_and_without_a_cache(name, by_flex):
    adapter, idx_BT, found = built(name), torch.randint(256, (2, 16)), []
    with sdpa.use_backend("sdpa-math"):
        expected_BTV = adapter.forward(idx_BT)
    limit = 1e-10 * expected_BTV.abs().max()
    assert (adapter.forward(idx_BT) - expected_BTV).abs().max() <= limit
    cache = adapter.make_cache(2, 20, "static")
    for pos_T in torch.arange(16).split([3, 1, 1, 7, 1, 1, 1, 1]):
        logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
        found.append(logits_BTV)
    assert (torch.cat(found, dim=1) - expected_BTV).abs().max() <= limit


def test_a_choice_lasts_as_long_as_its_context():
    with sdpa.use_backend("flex"):
        assert sdpa.chosen == "flex"
        with pytest.raises(RuntimeError, match=r"^sdpa-math$"), sdpa.use_backend("sdpa-math"):
            raise RuntimeError(sdpa.chosen)
        assert sdpa.chosen == "flex"
    assert sdpa.chosen == "auto"


REFUSED = [
    ("gpt2-nano", "cpu", False, False, "give a --compile-mode other than off"),
    ("gpt2-mla-nano", "cpu", True, False, "with keys and values per head"),
    ("gpt2-nano", "cpu", True, True, "no backward pass on a CPU"),
    ("gpt2-nano:n_head=8", "cuda", True, False, "heads of at least 16 dimensions; these have 8"),
]


@pytest.mark.parametrize(("name", "device", "compiled", "trains", "reason"), REFUSED)
def test_what_it_cannot_do_is_refused_with_the_reason(name, device, compiled, trains, reason):
    adapter = registry.find("models", name)()
    with pytest.raises(Skip, match=reason):
        sdpa.check_request("flex", device, adapter, compiled, trains)


def test_what_it_can_do_is_not_refused():
    adapter = registry.find("models", "gpt2-nano")()
    sdpa.check_request("flex", "cpu", adapter, compiled=True)
    sdpa.check_request("flex", "cuda", adapter, compiled=True, trains=True)
    with pytest.raises(Skip, match="for the built-in models"):
        sdpa.check_request("flex", "cuda", object(), compiled=True)


def test_a_cache_that_grows_is_refused(by_flex):
    with pytest.raises(Skip, match="each length would be compiled again"):
        registry.find("models", "gpt2-nano")().make_cache(1, 8, "cat")


ARMS = ("--engine", "uncached,cached,cached-cat", "--compile-mode", "off,default", "--attention", "auto,flex")


def check(cells):
    """Eight arms of which four are refused; what is compiled is exact and not predicted."""
    flex = cells[cells["attention"] == "flex"].set_index("arm")
    refused = flex[flex["status"] == "skipped"]
    assert set(refused.index) == {"uncached flex", "cached flex", "cached-cat flex", "cached-cat default flex"}
    run = flex.drop(refused.index)
    assert set(run.index) == {"uncached default flex", "cached default flex"}
    assert set(run["gate"]) == {"exact"}
    return run


def test_it_is_an_arm_that_is_gated_and_is_not_predicted(nanobench_here, compile_with, tmp_path):
    compile_with("eager")
    asked = (*SMALL[2:], *ARMS, "--model", "gpt2-nano:window=6", "--batch", 2, "--launches", 1)
    nanobench_here("kv-sweep", *asked, "--out", "run", cwd=tmp_path, code=0)
    run = check(cells_of(tmp_path / "run").reset_index())
    assert set(run["prediction_note"]) == {"FlexAttention is not calibrated"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["gpt2-nano:window=6", "llama-nano", "gpt2-nano:block_size=1024", "llama-nano:block_size=1024"]
)
def test_inductors_kernel_is_exact(nanobench_here, tmp_path, model):
    """On a CPU a step over 512 positions or more has a kernel of its own."""
    asked = (
        "--engine",
        "uncached,cached",
        "--compile-mode",
        "default",
        "--attention",
        "flex",
        "--new-tokens",
        3,
        "--launches",
        1,
    )
    asked += ("--model", model, "--prompt-len", 600 if "block_size" in model else 140, "--batch", 1)
    nanobench_here("kv-sweep", *SMALL[6:], *asked, "--out", "run", cwd=tmp_path, code=0)
    assert cells_of(tmp_path / "run")["gate"].tolist() == ["exact", "exact"]
