"""The sizes that a model gives: what no GPT has is one line, whatever a plug-in returns."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from nanobench import registry
from nanobench.errors import UserError
from nanobench.schema import GPTShape
from nanobench.worker import model_shape

SIZES = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64, "vocab_size": 256, "block_size": 128, "n_params": 10**5}
SHAPE = GPTShape(architecture="own", **SIZES)


@dataclass
class Adapter:
    """As much of an adapter as is looked at."""

    shape: object
    module, forward, make_cache = None, None, None


def line(monkeypatch, build):
    """The one line that a model's build() is answered with."""
    monkeypatch.setattr(registry, "find", lambda family, name: build)
    with pytest.raises(UserError) as caught:
        model_shape.shape_of("lab:build")
    text = str(caught.value)
    assert text.startswith("model 'lab:build' ")
    assert text.isprintable()
    assert len(text) < 300
    return text


def test_a_right_shape_is_given_back(monkeypatch):
    full = replace(SHAPE, matmul_params=64 * 256 + 1, lookup_params=0)
    for shape in (SHAPE, full, replace(SHAPE, n_head=6, head_width=16)):
        monkeypatch.setattr(registry, "find", lambda family, name, shape=shape: lambda: Adapter(shape))
        assert model_shape.shape_of("lab:build") == shape


ODD = {
    "text": "12",
    "zero": 0,
    "negative": -1,
    "bool": True,
    "nan": float("nan"),
    "float": 2.0,
    "none": None,
    "list": [1],
    "large": 10**16,
    "huge": 10**5000,
    "surrogate": "\ud800",
    "bytes": b"x",
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("kind", ODD)
def test_a_size_that_is_no_count_is_named(monkeypatch, name, kind):
    text = line(monkeypatch, lambda: Adapter(replace(SHAPE, **{name: ODD[kind]})))
    assert f"{name} " in text
    assert "is not a whole number from 1 to 1e+15" in text


@pytest.mark.parametrize("name", ["matmul_params", "lookup_params", "head_width"])
@pytest.mark.parametrize("kind", [kind for kind in ODD if kind not in ("none", "zero")])
def test_a_size_that_may_be_missing_is_a_count_all_the_same(monkeypatch, name, kind):
    assert f"{name} " in line(monkeypatch, lambda: Adapter(replace(SHAPE, **{name: ODD[kind]})))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"n_head": 5}, "n_head 5 does not divide n_embd 64"),
        ({"n_head": 8, "n_kv_head": 3}, "n_kv_head 3 does not divide n_head 8"),
        ({"n_kv_head": 8}, "n_kv_head 8 does not divide n_head 4"),
        ({"matmul_params": 64 * 256}, "matmul_params 16384 is not above the 16384 of the lm_head"),
        ({"lookup_params": 10**5 + 1}, "lookup_params 100001 is above n_params 100000"),
        ({"architecture": ""}, "architecture '' is not a name"),
        ({"architecture": "\ud800"}, r"architecture '\ud800' is not a name"),
        ({"architecture": "a\nb"}, r"architecture 'a\nb' is not a name"),
        ({"architecture": 3}, "architecture 3 is not a name"),
        ({"architecture": "x" * 101}, "xxx... is not a name of 1 to 100 printable characters"),
    ],
)
def test_sizes_that_contradict_each_other_and_odd_names_are_named(monkeypatch, sizes, words):
    assert words in line(monkeypatch, lambda: Adapter(replace(SHAPE, **sizes)))


def test_whole_numbers_of_numpy_are_taken_as_such(monkeypatch):
    shape = replace(SHAPE, n_layer=np.int64(2), n_params=np.int32(10**5))
    monkeypatch.setattr(registry, "find", lambda family, name: lambda: Adapter(shape))
    found = model_shape.shape_of("lab:build")
    assert found == SHAPE
    assert {type(found.n_layer), type(found.n_params)} == {int}


@pytest.mark.parametrize("shape", [None, "gpt2", {"n_layer": 2}, vars(SHAPE), GPTShape])
def test_a_shape_of_another_type_is_named(monkeypatch, shape):
    assert "give a nanobench.plugins.GPTShape" in line(monkeypatch, lambda: Adapter(shape))


class Raising(GPTShape):
    """A shape whose sizes cannot be read."""

    def __getattribute__(self, name):
        if name in {each.name for each in fields(GPTShape)}:
            raise RuntimeError("not yet\nknown")
        return super().__getattribute__(name)


class RaisingAdapter(Adapter):
    """An adapter whose shape cannot be read."""

    @property
    def shape(self):
        raise ValueError("no shape here")

    @shape.setter
    def shape(self, value):
        pass


def test_a_shape_that_raises_is_one_line(monkeypatch):
    raising = Raising.__new__(Raising)
    assert "does not give its sizes: RuntimeError: not yet" in line(monkeypatch, lambda: Adapter(raising))
    assert "does not give its sizes: ValueError: no shape here" in line(monkeypatch, lambda: RaisingAdapter(None))


def test_a_build_that_needs_real_tensors_is_built_again_on_the_cpu(monkeypatch):
    import torch

    def build():
        assert torch.zeros(1).item() == 0
        return Adapter(SHAPE)

    monkeypatch.setattr(registry, "find", lambda family, name: build)
    assert model_shape.shape_of("lab:build") == SHAPE


def test_an_mlp_has_two_matmuls_or_three(monkeypatch):
    shape = replace(SHAPE, mlp_matmuls=3)
    monkeypatch.setattr(registry, "find", lambda family, name: lambda: Adapter(shape))
    assert model_shape.shape_of("lab:build") == shape
    text = line(monkeypatch, lambda: Adapter(replace(SHAPE, mlp_matmuls=4)))
    assert "mlp_matmuls 4 is not 2, or 3 for a gated MLP; correct the GPTShape in its build()" in text
