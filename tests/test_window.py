"""Sliding windows of the built-in models: what a token sees, the option --window, and cells of models with and without."""

import copy
import json

import pytest
import torch

from conftest import SMALL
from nanobench import registry
from nanobench.errors import UserError
from nanobench.registry import spec
from nanobench.sweep.axes import models_of
from nanobench.sweep.options import GateOptions, SweepOptions, TrainOptions
from nanobench.sweep.plan import describe_request, requested

WINDOW = 5
FAMILIES = ["gpt2-nano:n_layer=1", "gpt2-nano:n_layer=1,n_kv_head=1", "gpt2-mla-nano:n_layer=1", "llama-nano:n_layer=1"]
FAMILIES += ["nanochat-nano:n_layer=1"]
"""Of one layer, so that a token sees no further than its window."""


def built(name):
    """In float64, with every weight moved."""
    torch.manual_seed(0)
    adapter = registry.find("models", name)()
    with torch.no_grad():
        for parameter in adapter.module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    adapter.module.to(torch.float64).eval()
    return adapter


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_token_sees_the_last_tokens_of_its_window_and_no_others(name):
    adapter = built(f"{name},window={WINDOW}")
    idx_1T = torch.randint(256, (1, 12))
    before_V = adapter.forward(idx_1T)[0, -1]
    seen = []
    for position in range(12):
        changed_1T = idx_1T.clone()
        changed_1T[0, position] = (changed_1T[0, position] + 1) % 256
        seen.append(bool((adapter.forward(changed_1T)[0, -1] - before_V).abs().max() > 1e-9))
    assert seen == [False] * 7 + [True] * 5


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_window_as_long_as_the_sequence_hides_nothing(name):
    adapter, idx_BT = built(name), torch.randint(256, (2, 12))
    with_window = copy.deepcopy(adapter)
    with_window.module.windows = [12] * adapter.shape.n_layer
    assert torch.equal(with_window.forward(idx_BT), adapter.forward(idx_BT))


@pytest.mark.parametrize("kind", ["static", "cat", "static told", "static told masked"])
@pytest.mark.parametrize("name", ["gpt2-nano", "gpt2-nano:n_kv_head=1", "gpt2-mla-nano", "llama-nano", "nanochat-nano"])
@torch.no_grad()
def test_cached_logits_are_those_of_the_whole_sequence(name, kind):
    adapter = built(name + (",window=5" if ":" in name else ":window=5"))
    idx_BT, found = torch.randint(256, (2, 16)), []
    cache = adapter.make_cache(2, 20, kind.partition(" ")[0])
    for pos_T in torch.arange(16).split([3, 1, 1, 7, 1, 1, 1, 1]):
        if "told" in kind:
            cache.attend_to(len(pos_T) + int(pos_T[0]), masked="masked" in kind)
        logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
        found.append(logits_BTV)
    expected_BTV = adapter.forward(idx_BT)
    assert (torch.cat(found, dim=1) - expected_BTV).abs().max() <= 1e-10 * expected_BTV.abs().max()


# The option


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", "gpt2:window=64"),
        ("gpt2:n_layer=2", "gpt2:n_layer=2,window=64"),
        ("my_gpt:build", "my_gpt:build:window=64"),
        ("my_gpt:build:width=3", "my_gpt:build:width=3,window=64"),
        ("nanogpt:out/ckpt.pt", "nanogpt:out/ckpt.pt?window=64"),
        ("hf:gpt2?random", "hf:gpt2?random,window=64"),
    ],
)
def test_an_argument_is_added_to_every_way_of_writing_a_member(text, expected):
    assert spec.with_argument(text, registry.sources(), "window", 64) == expected
    assert registry.parse("models", expected).arguments["window"] == 64


def test_each_model_is_run_with_each_window():
    options = GateOptions(model="gpt2-nano,llama-nano:n_layer=2", window="auto,none,16-32*2")
    names = ["gpt2-nano", "gpt2-nano:window=none", "gpt2-nano:window=16", "gpt2-nano:window=32"]
    names += [f"llama-nano:n_layer=2{end}" for end in ("", ",window=none", ",window=16", ",window=32")]
    assert describe_request(options)["models"]["cpu"] == names
    points, _ = requested(options, "cpu")
    assert list(dict.fromkeys(point.model for point in points)) == names


@pytest.mark.parametrize("kind", [SweepOptions, TrainOptions])
def test_the_model_of_the_device_gets_the_window(kind):
    options = kind(window="64")
    assert describe_request(options)["models"] == {
        device: [f"{defaults.model}:window=64"] for device, defaults in kind.defaults.items()
    }


def test_without_the_option_models_stay_as_they_are():
    assert models_of({"model": ["auto", "gpt2:window=3"], "window": ["auto"]}, "gpt2-mini") == ["gpt2-mini", "gpt2:window=3"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"window": "0"}, "--window 0 is below 1"),
        ({"window": "wide"}, "--window 'wide' is not a whole number"),
        ({"window": "64", "model": "gpt2:window=32"}, "'gpt2:window=32' gives window already"),
        ({"window": "1-500", "model": "gpt2"}, "--window '1-500' is not a whole number"),
        ({"window": "1-900+1"}, "are more than 1,000"),
    ],
)
def test_a_wrong_window_is_one_line(asked, words):
    with pytest.raises(UserError) as caught:
        describe_request(SweepOptions(**asked))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_over_windows_has_a_cell_for_each(nanobench_here, tmp_path):
    arms = ("--engine", "cached,cached-cat", "--window", "none,5", "--batch", "2", "--quick", "--json")
    done = nanobench_here("kv-sweep", *SMALL, *arms, "--out", "run", cwd=tmp_path, code=0)
    cells = json.loads(done.stdout.strip().splitlines()[-1])["cells"]
    assert {(cell["model"], cell["arm"]): cell["window"] for cell in cells} == {
        **dict.fromkeys([("gpt2-nano:window=none", "cached"), ("gpt2-nano:window=none", "cached-cat")]),
        **dict.fromkeys([("gpt2-nano:window=5", "cached"), ("gpt2-nano:window=5", "cached-cat")], 5),
    }
    assert {cell["gate"] for cell in cells} == {"exact"}


def test_a_model_without_the_argument_is_one_line(nanobench_here, tmp_path):
    done = nanobench_here("kv-sweep", "--model", "fakes:tiny", "--window", "5", "--dry-run", cwd=tmp_path, code=2)
    assert "unknown argument 'window'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
