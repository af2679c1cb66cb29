"""Models of transformers: every family computes what transformers does, with every cache; what cannot be built is one line."""

import copy
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip, UserError
from nanobench.gates.generation import Reference, judge
from nanobench.records import Verdict
from nanobench.registry import hub
from nanobench.roofline import flops
from nanobench.roofline.flops import Pass
from nanobench.samplers import greedy
from nanobench.schema import Point
from nanobench.worker.model_shape import shape_of

transformers = pytest.importorskip("transformers")

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 61, "block_size": 64}
WINDOW = {"sliding_window": 6}
FAMILIES = {
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 48},
    "llama": {"n_kv_head": 2, "intermediate_size": 48},
    "mistral": {"n_kv_head": 2, "intermediate_size": 48, **WINDOW},
    "qwen2": {"n_kv_head": 2, "intermediate_size": 48},
    "qwen3": {"n_kv_head": 2, "intermediate_size": 48, "head_dim": 16},
    "gemma": {"n_kv_head": 1, "intermediate_size": 48, "head_dim": 16},
    "gemma2": {"n_kv_head": 2, "intermediate_size": 48, "head_dim": 16, **WINDOW},
    "gemma3_text": {"n_kv_head": 2, "intermediate_size": 48, "head_dim": 16, **WINDOW},
    "phi3": {"n_kv_head": 2, "intermediate_size": 48, "pad_token_id": None},
}
LARGEST_ERROR = 1e-5
"""Relative to the largest logit: norms and rotations of most families are computed in float32, whatever the weights are."""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """The local cache of the hub is a folder of the test; nothing needs gradients."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def text(location, *flags, **arguments):
    """The model as it is written on the command line."""
    return f"hf:{location}?{','.join([*flags, *(f'{name}={value}' for name, value in arguments.items())])}"


def tiny(kind, **more):
    return text(kind, "random", **{**SIZES, **FAMILIES[kind], **more})


def build(written):
    return registry.find("models", written)()


def stirred(kind, dtype=torch.float64):
    """A family's adapter with every weight moved, so that biases and norms count too."""
    adapter = build(tiny(kind))
    for parameter in adapter.module.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    adapter.module.to(dtype).eval()
    return adapter


def tokens(rows=2, length=16):
    return torch.randint(SIZES["vocab_size"], (rows, length))


def assert_same(ours, theirs, tolerance=LARGEST_ERROR):
    assert theirs.std() > 1e-3
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def refusal(written, largest=500):
    """The one line that describes why a model cannot be built."""
    with pytest.raises(UserError) as caught:
        shape_of(written)
    line = str(caught.value)
    assert line.startswith(f"model {written!r}: ")
    assert line.isprintable()
    assert len(line) < largest
    return line


def save(folder, kind="llama", **more):
    """A folder as save_pretrained() writes it, and the model that is in it."""
    model = build(tiny(kind)).module.model
    model.save_pretrained(folder, **more)
    return model


def edit(folder, **values):
    """Sets values in a folder's config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# What is computed


@pytest.mark.parametrize("kind", FAMILIES)
def test_it_computes_what_transformers_does(kind):
    adapter, idx_BT = stirred(kind, torch.float32), tokens()
    theirs = transformers.AutoModelForCausalLM.from_config(adapter.config).eval()
    theirs.load_state_dict(adapter.module.model.state_dict())
    expected_BTV = theirs(idx_BT).logits
    assert expected_BTV.shape == (2, 16, 61)
    assert_same(adapter.forward(idx_BT), expected_BTV, 0)
    assert_same(adapter.forward(idx_BT, last_only=True), expected_BTV[:, -1:])
    assert_same(adapter.forward(F.pad(idx_BT, (0, 4))[:, :16]), expected_BTV)  # engines pass a slice, which is not contiguous


@pytest.mark.parametrize("kind", FAMILIES)
def test_targets_give_the_mean_loss(kind):
    adapter, idx_BT, targets_BT = stirred(kind, torch.float32), tokens(), tokens()
    targets_BT[0, :5] = -1
    log_probs_BTV = F.log_softmax(adapter.forward(idx_BT), dim=2)
    picked_BT = log_probs_BTV.gather(2, targets_BT.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(adapter.forward(idx_BT, targets_BT), -picked_BT[targets_BT >= 0].mean())


@pytest.mark.parametrize("chunks", [[9, *[1] * 7], [3, 5, 1, 7]], ids=str)
@pytest.mark.parametrize("cache_kind", ["static", "cat"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_cached_equals_the_whole_sequence(kind, cache_kind, chunks):
    adapter = stirred(kind)
    cache = adapter.make_cache(2, 20, cache_kind)
    for idx_BT in (tokens(), tokens()):  # two calls in succession on one static cache, as an engine makes them
        if cache_kind == "cat":
            cache = adapter.make_cache(2, 20, cache_kind)
        seen = []
        for pos_T in torch.arange(16).split(chunks):
            logits_BTV, cache = adapter.forward_cached(idx_BT[:, pos_T], pos_T, cache, last_only=False)
            seen.append(logits_BTV)
        assert_same(torch.cat(seen, dim=1), adapter.forward(idx_BT))
    logits_B1V, _ = adapter.forward_cached(idx_BT, torch.arange(16), adapter.make_cache(2, 20, cache_kind))
    assert_same(logits_B1V, adapter.forward(idx_BT)[:, -1:])


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text"])
def test_a_window_hides_what_is_outside_of_it(kind):
    adapter, wide = stirred(kind), build(tiny(kind, sliding_window=64))
    wide.module.to(torch.float64).load_state_dict(adapter.module.state_dict())
    idx_BT = tokens()
    short, long = (model.forward(idx_BT) for model in (adapter, wide))
    assert_same(short[:, :6], long[:, :6])
    assert (short[:, 6:] - long[:, 6:]).abs().amax(dim=(0, 2)).min() > 1e-4 * long.abs().max()


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_arm_of_every_family_passes_the_gate(kind):
    def engine(adapter, point):
        return registry.find("engines", arm)(adapter, greedy.build(), point, Compiler("off"))

    sizes = {"batch_size": 2, "prompt_len": 8, "new_tokens": 4}
    point = Point(model=tiny(kind), dtype="float32", device="cpu", threads=1, **sizes)
    adapter = stirred(kind, torch.float32)
    reference = Reference(adapter, point, seed=0)
    for arm in ("uncached", "cached", "cached-cat", "uncached-full-logits"):
        gate = judge(reference, engine, engine(adapter, point), compiled=False)
        assert gate.verdict is Verdict.EXACT, f"{arm}: {gate.note}"


def test_the_command_line_gates_every_arm(nanobench_here, tmp_path):
    save(tmp_path / "tiny", "qwen3")
    shape = ("--batch", 2, "--prompt-len", 8, "--new-tokens", 4, "--threads", 1, "--engine", "uncached,cached,cached-cat")
    done = nanobench_here("verify", "--model", "hf:tiny,hf:tiny?random,n_layer=1", *shape, "--json", cwd=tmp_path, code=0)
    cells = json.loads(done.stdout.strip().splitlines()[-1])["cells"]
    assert {cell["model"] for cell in cells} == {"hf:tiny", "hf:tiny?random,n_layer=1"}
    assert [(cell["gate"], cell["reason"]) for cell in cells] == [("exact", None)] * 6
    for cell in cells:
        if cell["arm"] == "cached":
            assert cell["kv_cache_bytes"] == cell["kv_cache_expected_bytes"] > 0


# Sizes


@pytest.mark.parametrize("kind", FAMILIES)
def test_torch_counts_the_operations_that_the_shape_gives(kind):
    adapter = build(tiny(kind))
    assert adapter.shape.architecture == f"{kind} (transformers {transformers.__version__})"
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        adapter.forward(tokens(rows=3))
    expected = flops.cost(adapter.shape, "float32", Pass(rows=3, tokens=16, context=16, logits_positions=16))
    # Older versions of transformers compute the angles of rotary positions as a matmul.
    angles = sum(sum(each.values()) for name, each in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    assert counter.get_total_flops() - angles == expected.flops


@pytest.mark.parametrize("kind", FAMILIES)
def test_parameters_are_those_of_the_module(kind):
    adapter = build(tiny(kind))
    shape, parameters = adapter.shape, dict(adapter.module.named_parameters())
    assert shape.n_params == sum(parameter.numel() for parameter in parameters.values())
    positions = 64 * 32 if kind == "gpt2" else 0
    tied = adapter.config.tie_word_embeddings
    assert shape.lookup_params == positions + (0 if tied else 61 * 32)
    assert tied == (kind.startswith("g") and kind != "gpt_neox")


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_static_cache_is_allocated_at_once(kind):
    adapter = build(tiny(kind))
    layers = adapter.make_cache(3, 40, "static").layers
    allocated = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert allocated == adapter.shape.kv_bytes_per_token("float32") * 3 * 40
    assert adapter.shape.head_dim == FAMILIES[kind].get("head_dim", 8)
    assert adapter.shape.n_kv_head == FAMILIES[kind].get("n_kv_head", 4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_sizes_are_found_without_weights(kind):
    assert shape_of(tiny(kind)) == build(tiny(kind)).shape
    with torch.device("meta"):
        assert {parameter.device.type for parameter in build(tiny(kind)).module.parameters()} == {"meta"}


def test_a_model_type_has_the_sizes_that_transformers_gives_it():
    shape = shape_of("hf:gpt2?random")
    assert (shape.n_params, shape.n_layer, shape.n_embd, shape.block_size) == (124_439_808, 12, 768, 1024)
    assert (shape.n_kv_head, shape.head_dim, shape.head_width) == (12, 64, None)


# Weights


def test_random_weights_come_from_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in build(tiny("llama")).module.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"])
def test_a_folder_gives_its_weights(tmp_path, max_shard_size):
    model = save(tmp_path / "tiny", max_shard_size=max_shard_size)
    assert (tmp_path / "tiny" / "model.safetensors").exists() == (max_shard_size == "1GB")
    adapter = build(f"hf:{tmp_path / 'tiny'}")
    for name, parameter in model.named_parameters():
        assert torch.equal(adapter.module.model.get_parameter(name), parameter)
    assert shape_of(f"hf:{tmp_path / 'tiny'}") == adapter.shape
    assert registry.location_of("models", f"hf:{tmp_path / 'tiny'}") == tmp_path / "tiny"


def test_pickled_weights_are_read(tmp_path):
    model = save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert shape_of(f"hf:{tmp_path}").n_layer == 2
    assert torch.equal(build(f"hf:{tmp_path}").module.model.lm_head.weight, model.lm_head.weight)


def test_narrow_weights_are_measured_in_any_dtype(tmp_path):
    model = build(tiny("llama")).module.model.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    adapter = build(f"hf:{tmp_path}")
    assert adapter.module.model.lm_head.weight.dtype == torch.bfloat16
    adapter.module.to(torch.float32)
    assert torch.equal(adapter.module.model.lm_head.weight, model.lm_head.weight.float())


def test_random_reads_nothing_but_the_config(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    assert build(text(tmp_path, "random")).shape == shape_of(tiny("llama"))


def test_arguments_replace_values_of_the_config_and_what_follows_from_them(tmp_path):
    save(tmp_path, "gemma2")
    model = save(tmp_path / "llama")
    shape = shape_of(text(tmp_path, "random", n_layer=5, num_attention_heads=2))
    assert (shape.n_layer, shape.n_head, shape.n_kv_head, shape.head_dim) == (5, 2, 2, 16)
    shape = shape_of(text(tmp_path / "llama", "random", hidden_size=64))
    assert (shape.n_embd, shape.head_dim, shape.n_kv_head) == (64, 16, 2)
    first = build(text(tmp_path / "llama", n_layer=1))
    assert first.shape.n_layer == 1
    assert torch.equal(first.module.model.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)


def test_rotary_frequencies_stay_in_float32():
    adapter = build(tiny("llama"))
    rotary = adapter.module.model.model.rotary_emb
    before = rotary.inv_freq.clone()
    wide = copy.deepcopy(adapter)
    adapter.module.to(torch.bfloat16)
    wide.module.to(torch.float64)
    assert adapter.module.model.lm_head.weight.dtype == torch.bfloat16
    assert wide.module.model.lm_head.weight.dtype == torch.float64
    assert not torch.equal(before.bfloat16().float(), before)
    for each in (adapter, wide):
        assert torch.equal(each.module.model.model.rotary_emb.inv_freq, before)


def test_dropout_is_off_unless_it_is_an_argument():
    adapter, idx_BT = build(tiny("gpt2")), tokens()
    adapter.module.train()
    assert torch.equal(adapter.forward(idx_BT), adapter.forward(idx_BT))
    dropping = build(tiny("gpt2", resid_pdrop=0.5))
    dropping.module.train()
    assert not torch.equal(dropping.forward(idx_BT), dropping.forward(idx_BT))


def test_attention_can_be_chosen():
    assert build(tiny("llama")).config._attn_implementation == "sdpa"
    assert build(tiny("llama", attn_implementation="eager")).config._attn_implementation == "eager"
    assert "unknown attn_implementation 'sdp'; did you mean 'sdpa'?" in refusal(tiny("llama", attn_implementation="sdp"))


# Caches that a model does not have


def test_other_states_than_keys_and_values_are_skipped():
    adapter = build(tiny("qwen3"))
    adapter.config.layer_types = ["full_attention", "linear_attention"]
    for kind in ("static", "cat"):
        with pytest.raises(Skip, match="qwen3 has layers of type linear_attention"):
            adapter.make_cache(1, 8, kind)
    with pytest.raises(Skip, match=r"llama has no cache of kind 'paged' \(it has: static, cat\)"):
        build(tiny("llama")).make_cache(1, 8, "paged")


# The local cache, and downloads


def cache(name, kind="llama"):
    """A model in the local cache, as huggingface_hub lays it out."""
    model = hub.folder() / f"models--{name.replace('/', '--')}"
    folder = model / "snapshots" / "0123abc"
    with torch.device("cpu"):  # also where a description builds on the meta device
        save(folder, kind)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abc")
    return folder


def test_a_name_is_found_in_the_local_cache(tmp_path):
    assert hub.folder() == tmp_path / "hf-home" / "hub"
    assert registry.location_of("models", "hf:lab/tiny") is None
    folder = cache("lab/tiny")
    assert registry.location_of("models", "hf:lab/tiny?random") == folder
    assert shape_of("hf:lab/tiny") == build("hf:lab/tiny").shape == shape_of(tiny("llama"))
    assert registry.location_of("models", "gpt2") is None


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "$ONE/b", "ONE": "/one"}, "/one/b"),
        ({"HF_HOME": "/c"}, "/c/hub"),
        ({"HF_HOME": "", "XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({"HF_HOME": "", "XDG_CACHE_HOME": "", "HOME": "/e"}, "/e/.cache/huggingface/hub"),
    ],
)
def test_the_local_cache_is_where_the_hub_puts_it(monkeypatch, variables, folder):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub.folder() == Path(folder)


@pytest.mark.parametrize("name", ["..", "../x", "a/b/c", "a/../b", "", "lab/tiny"])
def test_what_is_no_name_of_the_cache_is_not_found(name):
    assert hub.snapshot(name) is None


def test_nothing_is_downloaded_unless_that_is_requested(monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    def fetch(name, allow_patterns, ignore_patterns):
        assert not constants.HF_HUB_OFFLINE
        asked.append((name, allow_patterns, ignore_patterns))
        return str(cache(name))

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    line = refusal("hf:lab/tiny")
    assert "'lab/tiny' is no folder here and not in the local cache" in line
    assert "hf:lab/tiny?online=true" in line
    assert "or a model type such as gpt2" in refusal("hf:lab/tiny?random")
    assert asked == []
    assert shape_of("hf:lab/tiny?online=true").n_layer == 2
    assert asked == [("lab/tiny", ["*.json", "*.safetensors"], ["*/*"])]
    shape_of("hf:lab/tiny?online=true")
    assert len(asked) == 1, "what is in the cache is not downloaded again"
    assert constants.HF_HUB_OFFLINE is False


def test_a_failed_download_is_one_line(monkeypatch):
    import huggingface_hub

    def fetch(name, **patterns):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert "'lab/tiny' cannot be downloaded: OSError: no route to host; check" in refusal("hf:lab/tiny?online=true")


# What cannot be built


def test_transformers_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refusal("hf:gpt2?random").endswith("pip install transformers, or pip install '.[hf]' in a checkout")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"n_layers": 3}, "unknown argument 'n_layers' of model type 'llama'; did you mean 'n_layer'?"),
        ({"n_layer": 0}, "has 0 layers; give 1 to 10000"),
        ({"n_layer": 10**9}, "has 1000000000 layers; give 1 to 10000"),
        ({"n_layer": "two"}, "'num_hidden_layers'"),
        ({"n_head": 5}, "is not a multiple of the number of attention heads"),
        ({"n_kv_head": 3}, "n_kv_head 3 does not divide n_head 4"),
        ({"hidden_act": "nothing"}, "nothing"),
    ],
)
def test_values_that_no_model_has_are_one_line(more, words):
    written = tiny("llama", **more)
    with pytest.raises(UserError) as caught:
        shape_of(written)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_no_vocabulary_is_one_line():
    with pytest.raises(UserError, match="vocab_size 0 is not a whole number from 1"):
        shape_of(tiny("llama", vocab_size=0))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("t5", "no causal language model"),
        ("mixtral", "is a mixture of experts"),
        ("mamba", "has no num_attention_heads"),
        ("llava", "no causal language model|reads more than text"),
    ],
)
def test_models_of_another_kind_are_one_line(kind, words):
    with pytest.raises(UserError, match=words):
        shape_of(f"hf:{kind}?random")


def test_folders_without_a_model_are_one_line(tmp_path):
    assert "is a folder without config.json" in refusal(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    assert "its config cannot be used: OSError" in refusal(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("[1]")
    assert "its config cannot be used" in refusal(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "gpt9"}')
    assert "has no model_type 'gpt9'" in refusal(f"hf:{tmp_path}")
    assert "is a file; give a folder" in refusal(f"hf:{tmp_path / 'config.json'}")


def test_a_folder_without_weights_is_one_line(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "has no weights (model.safetensors or pytorch_model.bin)" in refusal(f"hf:{tmp_path}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../other.safetensors"}}))
    assert "names '../other.safetensors', which is no file beside it" in refusal(f"hf:{tmp_path}")


def test_a_truncated_file_is_named(tmp_path):
    save(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} cannot be read: SafetensorError" in refusal(f"hf:{tmp_path}")


def test_a_tensor_of_another_shape_is_named(tmp_path):
    save(tmp_path)
    edit(tmp_path, intermediate_size=40)
    line = refusal(f"hf:{tmp_path}")
    assert "model.layers.0.mlp.down_proj.weight is [32, 48] and should be [32, 40]" in line
    assert "and 3 more" in line
    with pytest.raises(UserError, match=r"model.layers.0.mlp.down_proj.weight is \[32, 48\] and should be \[32, 40\]"):
        build(f"hf:{tmp_path}")


def test_missing_weights_are_named_not_made_random(tmp_path):
    save(tmp_path)
    words = "has no weights for model.layers.2.input_layernorm.weight"
    assert words in refusal(text(tmp_path, n_layer=3))
    with pytest.raises(UserError, match=f"{words}.*and 6 more"):
        build(text(tmp_path, n_layer=3))


class Evil:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("as_zip", [True, False])
def test_pickled_weights_that_want_to_run_code_are_refused(tmp_path, as_zip):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weights = {"lm_head.weight": Evil(tmp_path / "marker")}
    torch.save(weights, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=as_zip)
    line = refusal(f"hf:{tmp_path}")
    assert "pytorch_model.bin wants to use posix.mkdir" in line
    assert "nothing of it was run: give safetensors" in line
    assert not (tmp_path / "marker").exists()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    assert "pytorch_model.bin cannot be read" in refusal(f"hf:{tmp_path}")


CONFIGURATION = "from transformers import LlamaConfig\n\n\nclass Own(LlamaConfig):\n    model_type = 'own_llama'\n"
MODELING = """from pathlib import Path
from transformers import LlamaForCausalLM
from .configuration_own import Own

Path({marker!r}).touch()


class OwnModel(LlamaForCausalLM):
    config_class = Own
"""


def test_python_code_of_a_checkpoint_runs_only_if_it_is_trusted(tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder, marker = tmp_path / "own", tmp_path / "marker"
    model = save(folder)
    code = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    edit(folder, model_type="own_llama", auto_map=code)
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODELING.format(marker=str(marker)))
    assert "wants to run Python code of its own" in refusal(f"hf:{folder}")
    assert "allow it with trust=true" in refusal(f"hf:{folder}?random")
    assert not marker.exists()
    adapter = build(f"hf:{folder}?trust=true")
    assert marker.exists()
    assert torch.equal(adapter.module.model.lm_head.weight, model.lm_head.weight)
    assert type(build(f"hf:{folder}?random,trust=true").module.model).__name__ == "OwnModel"


def test_other_quantities_of_weights_are_refused(tmp_path):
    save(tmp_path)
    edit(tmp_path, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "has quantised weights" in refusal(f"hf:{tmp_path}?random")


def test_the_command_ends_with_one_line_and_code_2(nanobench_here, tmp_path):
    done = nanobench_here("verify", "--model", "hf:lab/tiny", cwd=tmp_path, code=2)
    assert "Traceback" not in done.stdout + done.stderr
    assert "not in the local cache of Hugging Face" in " ".join((done.stdout + done.stderr).split())
