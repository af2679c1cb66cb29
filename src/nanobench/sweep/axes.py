"""The axes of a sweep: every field of a point or an arm with the values requested for it."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import fields

from nanobench import errors, registry
from nanobench.errors import UserError
from nanobench.registry import spec
from nanobench.schema import (
    ATTENTIONS,
    CHECKPOINTING,
    COMPILE_MODES,
    CROSS_ENTROPIES,
    DTYPES,
    KV_CACHES,
    OPTIMIZER_KERNELS,
    PARAM_DTYPES,
    PHASES,
    WEIGHTS,
    Arm,
    Point,
)
from nanobench.sweep.values import Value, at_commas, read_list

Axes = Mapping[str, list[Value]]
"""Field of Point or Arm -> the values requested, where `auto` is left to the device."""
AXES = {
    "model": "model",
    "batch": "batch_size",
    "dtype": "dtype",
    "window": "window",
    "threads": "threads",
    "prompt_len": "prompt_len",
    "new_tokens": "new_tokens",
    "shared_prompt": "shared_prompt",
    "engine": "engine",
    "draft_len": "draft_len",
    "compile_mode": "compile_mode",
    "attention": "attention",
    "sampler": "sampler",
    "weights": "weights",
    "kv_cache": "kv_cache",
    "seq_len": "seq_len",
    "phase": "phase",
    "data": "data",
    "prompts": "data",
    "tokenizer": "tokenizer",
    "optimizer": "optimizer",
    "grad_accum": "grad_accum",
    "nproc": "world_size",
    "checkpointing": "checkpointing",
    "cross_entropy": "cross_entropy",
    "param_dtype": "param_dtype",
    "optimizer_kernel": "optimizer_kernel",
}
"""Option -> the field of Point or Arm whose values it lists; `window` becomes an argument of the model, `draft_len` one of
engines."""
AUTOMATIC = ("model", "dtype", "threads", "batch_size", "new_tokens", "attention", "seq_len", "window", "draft_len")
"""Fields that accept `auto`."""
NUMBERS = {field.name for kind in (Point, Arm) for field in fields(kind) if field.type is int} | {"window", "draft_len"}
WORDS = {"window": ("auto", "none")}
"""Field with numbers -> the words that it accepts, too."""
DRAFTING = ("speculative",)
"""Engines that draft tokens. The engine of a plug-in takes its draft length as an argument in its text."""
FAMILIES = {"engine": "engines", "sampler": "samplers", "model": "models", "optimizer": "optimizers"}
"""Field -> the family whose members it names."""
CHOICES: dict[str, Iterable[str]] = {
    "dtype": DTYPES,
    "compile_mode": COMPILE_MODES,
    "attention": ATTENTIONS,
    "shared_prompt": ("off", "on"),
    "weights": WEIGHTS,
    "kv_cache": KV_CACHES,
    "phase": PHASES,
    "checkpointing": CHECKPOINTING,
    "cross_entropy": CROSS_ENTROPIES,
    "param_dtype": PARAM_DTYPES,
    "optimizer_kernel": OPTIMIZER_KERNELS,
}
"""Field -> its valid values."""


def read_axes(given: Mapping[str, str], more: Iterable[str]) -> Axes:
    """The axes of options (option -> LIST) and of `--axis FIELD=LIST`, which wins. Raises UserError for what is wrong."""
    lists = {AXES[name]: ("--" + name.replace("_", "-"), text) for name, text in given.items()}
    for text in more:
        field, values = split_axis(text)
        if field not in lists:
            raise errors.unknown("field", field, lists)
        lists[field] = f"--axis {field}", values
    return {field: read_axis(field, *named) for field, named in lists.items()}


def split_axis(text: str) -> tuple[str, str]:
    """The field and the LIST of FIELD=LIST."""
    field, equals, values = text.partition("=")
    if not equals:
        raise UserError(f"--axis {text!r} has no '='; write --axis FIELD=LIST, like --axis batch_size=1,4,8")
    return field.strip().replace("-", "_"), values


def read_axis(field: str, flag: str, text: str) -> list[Value]:
    """The values of one field."""
    split = spec.split if field in FAMILIES else at_commas
    values = read_list(flag, text, int if field in NUMBERS else str, split, WORDS.get(field, ("auto",)))
    if "auto" in values and field not in AUTOMATIC:
        raise UserError(f"{flag} does not accept auto (auto works for: {', '.join(AUTOMATIC)}); write the values")
    return values


def check_names(axes: Axes) -> None:
    """Raises UserError for a model, engine, ... that does not exist, and for a value that is not one of the choices."""
    for field, family in FAMILIES.items():
        for name in without_auto(axes, field):
            registry.check(family, name)
    for field, choices in CHOICES.items():
        for name in without_auto(axes, field):
            if name not in choices:
                raise errors.unknown(field.replace("_", " "), name, choices)
    refuse_double_windows(axes)
    engines_of(axes)


def without_auto(axes: Axes, field: str) -> list[str]:
    """The names requested for a field, without `auto`."""
    may_be_auto = field in AUTOMATIC
    return [str(name) for name in axes.get(field, ()) if not (may_be_auto and name == "auto")]


def models_of(axes: Axes, default: str) -> list[str]:
    """The models requested, each with each window; `default` is what `auto` means. Raises UserError for two windows of one."""
    names = [default if name == "auto" else str(name) for name in axes["model"]]
    pairs = itertools.product(names, axes.get("window", ["auto"]))
    return list(dict.fromkeys(name if window == "auto" else with_window(name, str(window)) for name, window in pairs))


def with_window(name: str, window: str) -> str:
    """A model whose windows are so many positions long. Raises UserError for a model in memory."""
    if name.startswith(f"{registry.IN_MEMORY}:"):
        raise UserError("--window is for models that are built from their name; give a model in memory its windows yourself")
    return spec.with_argument(name, registry.sources(), "window", window)


def engines_of(axes: Axes) -> list[str]:
    """The engines requested; those that draft tokens with each draft length. Raises UserError for lengths that none could have,
    and for two lengths of one engine.
    """
    names, lengths = [str(name) for name in axes.get("engine", ())], axes.get("draft_len", ["auto"])
    if lengths == ["auto"]:
        return names
    if not any(drafts(name) for name in names):
        what = f"--draft-len {','.join(map(str, lengths))} is for engines that draft tokens"
        raise UserError(f"{what}; add {' or '.join(DRAFTING)} to --engine")
    found = [with_draft_len(name, length) for name in names for length in (lengths if drafts(name) else ["auto"])]
    return list(dict.fromkeys(found))


def count_engines(axes: Axes) -> int:
    """How many engines these are, if no two lengths mean the same."""
    lengths = len(axes.get("draft_len", [""]))
    return sum(lengths if drafts(str(name)) else 1 for name in axes["engine"])


def drafts(name: str) -> bool:
    """Whether an engine drafts tokens."""
    return registry.parse("engines", name).name in DRAFTING


def with_draft_len(name: str, length: Value) -> str:
    """An engine that drafts so many tokens; `auto` is the length that it has."""
    return name if length == "auto" else spec.with_argument(name, (), "draft_len", length)


def refuse_double_windows(axes: Axes) -> None:
    """Raises UserError for windows of a model that has one in its arguments."""
    if axes.get("window", ["auto"]) != ["auto"]:
        models_of(axes, "auto")
