"""Points whose rows share their prompt, and the engine that reads it once."""

from dataclasses import replace

import pytest
import torch

from conftest import SMALL
from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.engines.cached_shared_prompt import CachedSharedPrompt, first_row
from nanobench.errors import Skip
from nanobench.gates.generation import Reference, run_free
from nanobench.models import _lossy as lossy
from nanobench.records import MEASURED
from nanobench.results import finder
from nanobench.samplers.greedy import greedy
from nanobench.schema import BYTES, Arm, Point
from nanobench.worker.workloads import generate
from nanobench.worker.workloads.prompts import prompts_of

POINT = Point(
    model="llama-nano", dtype="float32", device="cpu", threads=1, batch_size=4, prompt_len=7, new_tokens=6, shared_prompt="on"
)


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


class Noisy:
    """A sampler whose rows differ where their prompts do not."""

    def __call__(self, logits_BV, generator):
        return (logits_BV.topk(4).indices.gather(1, torch.arange(len(logits_BV)).remainder(4)[:, None])).long()


@pytest.mark.parametrize("kv_cache", ["float", "int8"])
def test_it_generates_what_the_cached_engine_generates_with_rows_that_part(kv_cache):
    adapter = generate.load(POINT, seed=0)
    made = adapter if kv_cache == "float" else lossy.measured(adapter, Arm(kv_cache=kv_cache))
    prompt_BT = Reference(adapter, POINT, seed=0).prompt_BT
    assert (prompt_BT == prompt_BT[:1]).all()
    found = [
        run_free(registry.find("engines", name)(made, Noisy(), POINT, Compiler("off")), prompt_BT, POINT.new_tokens)
        for name in ("cached", "cached-shared-prompt")
    ]
    assert torch.equal(*found)
    assert len({tuple(row) for row in found[1].tolist()}) == 4


def test_the_prompt_is_read_by_one_row():
    adapter = generate.load(POINT, seed=0)
    seen, forward_cached = [], adapter.forward_cached
    adapter.forward_cached = lambda idx_BT, *rest: (seen.append(tuple(idx_BT.shape)), forward_cached(idx_BT, *rest))[1]
    engine = CachedSharedPrompt(adapter, greedy, POINT, Compiler("off"))
    run_free(engine, Reference(adapter, POINT, seed=0).prompt_BT, POINT.new_tokens)
    assert seen == [(1, 7)] + [(4, 1)] * 5
    assert engine.kv_access == "shared-prompt"


def test_the_first_row_of_a_cache_is_the_same_memory():
    cache = generate.load(POINT, seed=0).make_cache(4, 9, "static")
    row = first_row(cache)
    row.attend_to(3, masked=False)
    row.append(0, torch.ones(1, 2, 3, 16), torch.ones(1, 2, 3, 16), torch.arange(3))
    assert cache.keys_BKSD[0][0, :, :3].eq(1).all()
    assert cache.keys_BKSD[0][1:].eq(0).all()
    assert cache.attended_len == 9


def test_rows_with_prompts_of_their_own_are_skipped():
    adapter = generate.load(POINT, seed=0)
    with pytest.raises(Skip, match="measure it with --shared-prompt on"):
        CachedSharedPrompt(adapter, greedy, replace(POINT, shared_prompt="off"), Compiler("off"))


@pytest.mark.parametrize("text", [False, True])
def test_the_prompts_of_timed_calls_are_shared_and_differ_from_call_to_call(tmp_path, text):
    (tmp_path / "text.txt").write_bytes(bytes(range(256)))
    point = replace(POINT, data=str(tmp_path / "text.txt"), tokenizer=BYTES) if text else POINT
    prompts = prompts_of(generate.load(POINT, seed=0), point, torch.device("cpu"))
    prompt_BT, found = torch.empty((4, 7), dtype=torch.long), []
    for call in range(3):
        prompts.write(prompts.bases(5, 3), call, 17, prompt_BT)
        assert (prompt_BT == prompt_BT[:1]).all()
        found.append(tuple(prompt_BT[0].tolist()))
    assert len(set(found)) == 3


def test_a_sweep_compares_it_with_arms_over_the_same_prompts(nanobench_here, tmp_path):
    asked = ("--batch", 3, "--engine", "uncached,cached,cached-shared-prompt", "--shared-prompt", "off,on")
    nanobench_here("kv-sweep", *SMALL, *asked, "--launches", 1, "--out", "run", cwd=tmp_path, code=0)
    cells = finder.load(tmp_path / "run").set_index(["arm", "shared_prompt"])
    assert set(cells.loc[(slice(None), "on"), "status"]) <= set(MEASURED)
    assert set(cells.loc[(slice(None), "on"), "gate"]) == {"exact"}
    assert cells.loc[("cached-shared-prompt", "off"), "status"] == "skipped"
    assert cells.loc[("cached-shared-prompt", "on"), "checked_calls"] >= 1
    shared, plain = (cells.loc[(name, "on"), "kv_cache_bytes"] for name in ("cached-shared-prompt", "cached"))
    assert shared == plain
