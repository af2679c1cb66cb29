"""The config of a transformers model: from a folder, a name in the local cache, or a model type; with arguments on top.

Nothing is downloaded unless that is requested, and no code of a checkpoint runs unless it is trusted.
"""

import importlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from nanobench.errors import UserError, unknown
from nanobench.registry import hub, one_line

CONFIG = "config.json"
OUR_NAMES = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_embd": "hidden_size",
    "block_size": "max_position_embeddings",
}
"""Our names of sizes -> those of transformers. A config maps these to its own where it has others."""
INSTALL = "pip install transformers, or pip install '.[hf]' in a checkout"
MOST_LAYERS = 10_000
MOST_CHARACTERS = 240
"""of what transformers says about an error"""


def library() -> Any:
    """transformers, imported now. Raises UserError if that fails."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        why = f"which cannot be imported ({one_line(error)})"
        raise UserError(f"models of Hugging Face need transformers, {why}; {INSTALL}") from error


@contextmanager
def explained(what: str, fix: str, *passing: type[Exception]) -> Iterator[None]:
    """Turns an exception into one line, except those of `passing`. A MemoryError is no mistake of the user."""
    passed: tuple[type[Exception], ...] = (UserError, MemoryError, *passing)
    try:
        yield
    except passed:
        raise
    except Exception as error:
        raise UserError(f"{what}: {shorten(one_line(error), MOST_CHARACTERS, placeholder=' ...')}; {fix}") from error


@contextmanager
def offline() -> Iterator[None]:
    """Within the context, huggingface_hub sends no request. The environment of the process stays as it is."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    was, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was


def is_model_type(name: str) -> bool:
    """Whether transformers has a config of this type, such as gpt2 or llama."""
    return name in library().CONFIG_MAPPING


# Where a model is
def folder_of(location: str, *, weights: bool, online: bool, trust: bool) -> Path | None:
    """The folder with the files of a model; None for a model type, of which only random weights exist.

    A folder here comes first, then the local cache, then a model type. Raises UserError for what is none of these.
    """
    path, is_type = Path(location), not weights and is_model_type(location)
    if (path / CONFIG).is_file():
        return path
    if path.exists() and not is_type:
        kind = f"is a folder without {CONFIG}" if path.is_dir() else "is a file"
        raise UserError(f"{location} {kind}; give a folder that was written by save_pretrained()")
    found = hub.snapshot(location)
    if online and not (found and is_complete(found, weights)):
        found = download(location, weights, trust)
    if found and (found / CONFIG).is_file():
        return found
    if is_type:
        return None
    types = "" if weights else ", or a model type such as gpt2, llama or qwen3"
    raise UserError(
        f"{location!r} is no folder here and not in the local cache of Hugging Face ({hub.folder()}); nothing is downloaded "
        f"unless online=true is given (hf:{location}?{'' if weights else 'random,'}online=true); or give a folder{types}"
    )


def is_complete(folder: Path, weights: bool) -> bool:
    """Whether a folder of the cache has a config and, if they are needed, weights."""
    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    return (folder / CONFIG).is_file() and (has_weights or not weights)


def download(name: str, weights: bool, trust: bool) -> Path:
    """Downloads a model into the local cache: safetensors if there are any, else pickled weights; Python files if trusted."""
    code = ["*.py"] if trust else []
    with explained(f"{name!r} cannot be downloaded", "check the name and the connection, or give a folder"):
        fetch = importlib.import_module("huggingface_hub").snapshot_download
        files = ["*.json", "*.safetensors"] if weights else [CONFIG]
        wanted = {"ignore_patterns": ["*/*"], "allow_patterns": [*files, *code]}
        folder = Path(fetch(name, **wanted))
        if weights and not any(folder.glob("*.safetensors")):
            fetch(name, **{**wanted, "allow_patterns": ["*.bin"]})
    return folder


# What a model is
def config_of(location: str, folder: Path | None, arguments: Mapping[str, Any], attention: str | None, trust: bool) -> Any:
    """The config of a model with the arguments on top, and without dropout unless that is an argument.

    Raises UserError for a config that transformers refuses, that wants to run code, or that is no causal language model.
    """
    with explained(f"{location}: its config cannot be used", f"correct {CONFIG} or the arguments"):
        config = typed(location, arguments) if folder is None else read(folder, arguments, trust)
        if attention is not None:
            config._attn_implementation = attention
        refuse_unsupported(location, config, trust)
        return without_dropout(config, arguments)


def typed(name: str, arguments: Mapping[str, Any]) -> Any:
    """The config that transformers gives to a model type, with the arguments on top."""
    kind = library().CONFIG_MAPPING[name]
    return kind(**renamed(arguments, kind()))


def read(folder: Path, arguments: Mapping[str, Any], trust: bool) -> Any:
    """The config in a folder, with the arguments on top."""
    transformers = library()
    raw, _ = transformers.PretrainedConfig.get_config_dict(str(folder), local_files_only=True)
    kind = raw.get("model_type")
    if "auto_map" in raw and not trust and kind not in transformers.CONFIG_MAPPING:
        raise wants_code(folder)
    if "auto_map" not in raw and kind not in transformers.CONFIG_MAPPING:
        raise UserError(f"{folder / CONFIG}: transformers {transformers.__version__} has no model_type {kind!r}; upgrade it")
    config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust)
    if not arguments:
        return config
    return type(config).from_dict({**merged(raw, config, renamed(arguments, config)), "name_or_path": str(folder)})


def wants_code(location: object) -> UserError:
    """The error for a checkpoint that comes with Python files, which were not run."""
    return UserError(f"{location} wants to run Python code of its own; read that code, and allow it with trust=true")


def renamed(arguments: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The arguments under the names of a config, which may be written as ours or as those that most configs have.

    Raises UserError for a value that the config does not have.
    """
    aliases, own = type(config).attribute_map, values_of(config)
    known = [*OUR_NAMES, *aliases, *own]
    found = {}
    for name, value in arguments.items():
        usual = name if name in own or name in aliases else OUR_NAMES.get(name, name)
        target = aliases.get(usual, usual)
        if target not in own:
            raise unknown("argument", name, dict.fromkeys(known), where=f" of model type {config.model_type!r}")
        found[target] = value
    return found


def values_of(config: Any) -> list[str]:
    """The names of a config's values that a line of text can give, without those that every config has."""
    common = vars(library().PretrainedConfig())
    plain = (int, float, str, type(None))
    return [name for name, value in vars(config).items() if name not in common and name[0] != "_" and isinstance(value, plain)]


def merged(raw: Mapping[str, Any], config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """A config's document with the given values, and with what follows from them: a head's width, KV heads, lists per layer.

    `config` is the document as transformers reads it.
    """
    aliases = type(config).attribute_map

    def value(name: str) -> Any:
        return given.get(aliases.get(name, name), getattr(config, name))

    found = {name: each for name, each in raw.items() if aliases.get(name, name) not in given}
    width, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    if found.get("head_dim") == width // heads:
        found["head_dim"] = value("hidden_size") // value("num_attention_heads")
    if found.get("num_key_value_heads") == heads:
        found["num_key_value_heads"] = value("num_attention_heads")
    per_layer = [name for name, each in found.items() if "layer" in name and isinstance(each, list)]
    for name in per_layer if value("num_hidden_layers") != layers else ():
        each = found.pop(name)
        if value("num_hidden_layers") < layers:
            found[name] = each[: value("num_hidden_layers")]
    return {**found, **given}


def refuse_unsupported(location: str, config: Any, trust: bool) -> None:
    """Raises UserError for a model that nanobench cannot build or count, before anything is allocated."""
    if type(config) not in library().MODEL_FOR_CAUSAL_LM_MAPPING:
        if "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
            raise UserError(f"{location} is of type {config.model_type!r}, which is no causal language model of transformers")
        if not trust:
            raise wants_code(location)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"{location} has quantised weights, which nanobench does not support; give a model that has none")
    if "/" in str(getattr(config, "_attn_implementation", None)):
        raise UserError(f"{location} wants to download a kernel; give attn_implementation=sdpa or attn_implementation=eager")
    if config.get_text_config(decoder=True) is not config:
        raise UserError(f"{location} is of type {config.model_type!r}, which reads more than text; give a model of text alone")
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        if (getattr(config, name, None) or 0) > 1:
            raise UserError(f"{location} is a mixture of experts, whose costs nanobench cannot count; write an adapter")
    if not 0 < config.num_hidden_layers <= MOST_LAYERS:
        raise UserError(f"{location} has {config.num_hidden_layers} layers; give 1 to {MOST_LAYERS}")


def without_dropout(config: Any, given: Collection[str]) -> Any:
    """The config with all dropout at 0, so that two arms compute the same in training; given values are kept."""
    for name, value in vars(config).items():
        if "drop" in name and name not in given and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, 0.0)
    return config
