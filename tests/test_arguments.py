"""Arguments of members: an unknown name and a value that an annotation does not allow are one line, before any measurement."""

import functools
from typing import Annotated

import pytest

from nanobench import registry
from nanobench.errors import UserError
from nanobench.registry import spec
from nanobench.registry.arguments import Count, Range, refuse_wrong

REFUSED = {
    "samplers": [
        ("top-k:k=0", "k=0 of sampler 'top-k' is not allowed; give a whole number (at least 1)"),
        ("top-k:k=2.5", "k=2.5"),
        ("top-k:k=true", "k=True"),
        ("top-k:k=many", "k=many"),
        ("temperature:temperature=0", "temperature=0 of sampler 'temperature' is not allowed; give a number (above 0)"),
        ("temperature-gumbel:temperature=-1", "temperature=-1"),
        ("top-p-sort:p=0", "give a number (above 0 and at most 1)"),
        ("top-p-rejection:p=1.01", "p=1.01"),
        ("top-p-flashinfer:p=9", "p=9"),
    ],
    "engines": [
        ("speculative:draft_len=0", "give a whole number (at least 1 and at most 64)"),
        ("speculative:draft_len=65", "draft_len=65"),
        ("speculative:accept=1.5", "give a number (at least 0 and at most 1) or none"),
        ("speculative:accept=often", "accept=often"),
    ],
    "optimizers": [("adamw:lr=0", "lr=0"), ("muon:adamw_lr=-1", "adamw_lr=-1"), ("sgd:lr=fast", "lr=fast")],
    "models": [
        ("gpt2-nano:window=0", "window=0 of model 'gpt2-nano' is not allowed; give a whole number (at least 1) or none"),
        ("gpt2-nano:latent_width=1.5", "latent_width=1.5"),
        ("gpt2-nano:n_layer=many", "n_layer=many of model 'gpt2-nano' is not allowed; give a whole number"),
        ("gpt2-nano:bias=7", "give true or false"),
    ],
}


@pytest.mark.parametrize(("family", "text", "words"), [(family, *each) for family, all_ in REFUSED.items() for each in all_])
def test_a_value_that_is_not_allowed_is_one_line_with_the_allowed_ones(family, text, words):
    with pytest.raises(UserError) as caught:
        registry.find(family, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("samplers", "top-k:k=1,temperature=2"),
        ("samplers", "top-p-sort:p=1"),
        ("engines", "speculative:accept=none,draft_len=64"),
        ("engines", "speculative:accept=0"),
        ("models", "gpt2-nano:window=none,gelu=none,bias=false"),
        ("executors", "slurm:account=123,time=01:00:00"),
    ],
)
def test_the_limits_themselves_are_allowed(family, text):
    assert registry.find(family, text).keywords


def ours(adapter, *, chunk: Count = 16, share: Annotated[float, Range(above=0)] | None = None, free=None, text: str = ""):
    """A build() of somebody else."""


def from_the_future(*, chunk: "int" = 1, other: "Unknown" = 1):  # noqa: F821
    """One whose annotations are texts, and one of them says nothing."""


class Built:
    """A class as build()."""

    def __init__(self, width: int, **more: object) -> None: ...


@pytest.mark.parametrize(
    ("build", "arguments", "words"),
    [
        (ours, "chunk=0", "chunk=0"),
        (ours, "share=0", "give a number (above 0) or none"),
        (ours, "adapter=3", "unknown argument 'adapter' of engine 'm:build' (available: chunk, share, free, text)"),
        (functools.partial(ours, share=1), "chunk=0", "chunk=0"),
        (Built, "width=wide", "give a whole number"),
        (ours, "chunk=64,share=none,free=anything,text=7", None),
        (from_the_future, "chunk=x,other=2", None),
        (Built, "width=3,colour=red", None),
        (dict, "anything=1", None),
    ],
)
def test_the_annotations_of_a_plug_in_decide(build, arguments, words):
    found = spec.parse(f"m:build:{arguments}")
    if words is None:
        refuse_wrong("engines", found, build, ("adapter",))
        return
    with pytest.raises(UserError) as caught:
        refuse_wrong("engines", found, build, ("adapter",))
    assert words in str(caught.value)
