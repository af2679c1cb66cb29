"""How members of families are written: names, functions, locations and arguments, and LISTs of them."""

import pytest

from nanobench import registry
from nanobench.errors import UserError
from nanobench.registry.spec import Spec, parse, split

SOURCES = ("hf", "nanogpt")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("gpt2", Spec("gpt2")),
        ("gpt2:n_layer=6,n_kv_head=4", Spec("gpt2", None, {"n_layer": 6, "n_kv_head": 4})),
        ("my_pkg.my_mod:build", Spec("my_pkg.my_mod:build")),
        ("my_mod:build:width=64,name=x", Spec("my_mod:build", None, {"width": 64, "name": "x"})),
        ("nanogpt:out/ckpt.pt", Spec("nanogpt", "out/ckpt.pt")),
        ("nanogpt:C:/odd=name,really", Spec("nanogpt", "C:/odd=name,really")),
        ("hf:gpt2?random", Spec("hf", "gpt2", {"random": True})),
        ("hf:org/name?random,n_layer=2", Spec("hf", "org/name", {"random": True, "n_layer": 2})),
        ("top-k:k=5,temperature=0.5", Spec("top-k", None, {"k": 5, "temperature": 0.5})),
    ],
)
def test_a_member_is_read_from_its_text(text, spec):
    assert parse(text, SOURCES) == spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2", -2),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("None", None),
        ("word", "word"),
        ("[1]", "[1]"),
        ("1_000", 1000),
    ],
)
def test_values_are_numbers_truth_values_or_words(text, value):
    found = parse(f"x:a={text}").arguments["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:b:c", "'c' is not key=value"),
        ("a:x=1,2", "'2' is not key=value"),
        ("a:x=", "'x=' is not key=value"),
        ("a:x=1,x=2", "gives x twice"),
        ("hf:", "'hf:' names no location"),
        ("hf:?random", "names no location"),
        ("a.:b", "'a.:b' is not module:function"),
        (":b", "is not module:function"),
        ("a:", "is not module:function"),
        ("a:1b", "is not module:function"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, message):
    with pytest.raises(UserError) as caught:
        parse(text, SOURCES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gpt2,gpt2-mini", ["gpt2", "gpt2-mini"]),
        ("gpt2:n_layer=6,n_head=4,gpt2-mini", ["gpt2:n_layer=6,n_head=4", "gpt2-mini"]),
        ("a:b,c:d:x=1, y=2,e", ["a:b", "c:d:x=1, y=2", "e"]),
        ("hf:gpt2?random,n_layer=2,gpt2", ["hf:gpt2?random,n_layer=2", "gpt2"]),
        ("x=1", ["x=1"]),
    ],
)
def test_arguments_stay_with_the_member_before_them(text, parts):
    assert split(text) == parts


# Through the registry


def test_arguments_of_a_preset_replace_its_sizes():
    build = registry.find("models", "gpt2-nano:n_layer=1,n_kv_head=1")
    adapter = build()
    assert (adapter.shape.n_layer, adapter.shape.n_head, adapter.shape.n_kv_head) == (1, 2, 1)
    assert sum(parameter.numel() for parameter in adapter.module.parameters()) == adapter.shape.n_params


def test_arguments_of_a_sampler_reach_it():
    assert registry.find("samplers", "top-k:k=3")().k == 3
    assert registry.find("samplers", "temperature:temperature=2")().temperature == 2


@pytest.mark.parametrize(
    ("family", "text", "message"),
    [
        ("models", "gpt2-nano:n_layers=2", "unknown argument 'n_layers' of model 'gpt2-nano'; did you mean 'n_layer'?"),
        ("samplers", "greedy:k=2", "unknown argument 'k' of sampler 'greedy'"),
        ("engines", "cached:adapter=2", "unknown argument 'adapter' of engine 'cached'"),
        ("models", "gpt3:n_layer=2", "unknown model 'gpt3'"),
    ],
)
def test_an_argument_that_build_does_not_have_is_one_line(family, text, message):
    with pytest.raises(UserError) as caught:
        registry.find(family, text)
    assert message in str(caught.value)


def test_an_engine_keeps_its_own_arguments_and_takes_those_of_the_worker():
    build = registry.find("engines", "cached")
    assert build is registry.find("engines", "cached")
    assert registry.module_of("engines", "cached") is None
    assert registry.module_of("models", "my_mod:build:width=3") == "my_mod"


@pytest.mark.parametrize(
    "text",
    ["gpt2-nano:n_head=3", "gpt2-nano:n_embd=0", "gpt2-nano:vocab_size=0", "gpt2-nano:n_layer=word", "gpt2-nano:gelu=odd"],
)
def test_sizes_that_no_model_has_are_one_line(nanobench_here, tmp_path, text):
    done = nanobench_here("verify", "--model", text, "--batch", "1", cwd=tmp_path, code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert "gpt2-nano" in done.stderr


def test_a_sweep_over_models_with_arguments_names_them(nanobench_here, tmp_path):
    from conftest import SMALL

    models = "gpt2-nano:n_layer=1,n_kv_head=1,gpt2-nano"
    done = nanobench_here(
        "kv-sweep", *SMALL, "--model", models, "--batch", "1", "--quick", "--out", "run", cwd=tmp_path, code=0
    )
    assert "gpt2-nano:n_layer=1,n_kv_head=1" in done.stdout
    import pandas as pd

    cells = pd.read_parquet(tmp_path / "run" / "cells.parquet")
    assert set(cells["model"]) == {"gpt2-nano:n_layer=1,n_kv_head=1", "gpt2-nano"}
    assert set(cells["gate"]) == {"exact"}
