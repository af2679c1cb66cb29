"""Checkpoints of nanoGPT and nanochat: the logits are those of their equations, and no file can run code or leave a trace."""

import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

import checkpoint_files as files
from checkpoint_files import NANOGPT
from conftest import SMALL
from nanobench import load, registry
from nanobench.errors import UserError
from nanobench.models import gpt2
from nanobench.schema import Arm, Point
from nanobench.sweep import code
from nanobench.worker import model_shape

POINT = Point(model="", dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=8, new_tokens=4)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder; random tensors are the same every time."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    with torch.no_grad():
        yield tmp_path


def built(name, dtype=torch.float64):
    """A model as a worker loads it."""
    adapter = registry.find("models", name)()
    adapter.module.to(dtype).eval()
    return adapter


def idx():
    return torch.randint(61, (2, 24))


def assert_same(ours, theirs, tolerance=1e-10):
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


# nanoGPT
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_nanogpt_gives_the_logits_of_its_equations(prefix, bias):
    settings = {**NANOGPT, "bias": bias}
    tensors = files.nanogpt_tensors(settings)
    torch.save(files.nanogpt_content({prefix + name: each for name, each in tensors.items()}, settings), "ckpt.pt")
    idx_BT = idx()
    assert_same(built("nanogpt:ckpt.pt").forward(idx_BT), files.nanogpt_logits(tensors, idx_BT))
    assert_same(built("nanogpt:ckpt.pt", torch.float32).forward(idx_BT), files.nanogpt_logits(tensors, idx_BT), 1e-5)


def test_nanogpt_before_may_2023_has_the_other_gelu_and_masks(here):
    tensors = files.nanogpt_tensors()
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 24, 24).tril() for layer in range(2)}
    old = {name: value for name, value in NANOGPT.items() if name != "bias"}
    torch.save(files.nanogpt_content({**tensors, **masks}, old), here / "ckpt.pt")
    idx_BT = idx()
    exact, approximate = (files.nanogpt_logits(tensors, idx_BT, gelu=gelu) for gelu in ("none", "tanh"))
    assert (exact - approximate).abs().max() > 1e-5
    assert_same(built("nanogpt:ckpt.pt?gelu=tanh").forward(idx_BT), approximate)
    for name in ("nanogpt:ckpt.pt?gelu=none", "nanogpt:ckpt.pt", "nanogpt:.", f"nanogpt:{here}"):
        assert_same(built(name).forward(idx_BT), exact)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("kept", ["lm_head.weight", "transformer.wte.weight"])
def test_nanogpt_is_read_from_a_folder_with_safetensors(here, kept, nested):
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = files.nanogpt_tensors()
    other = next(name for name in ("lm_head.weight", "transformer.wte.weight") if name != kept)
    save_file({name: each for name, each in tensors.items() if name != other}, here / "model.safetensors")
    (here / "config.json").write_text(json.dumps({"model_args": NANOGPT} if nested else NANOGPT))
    idx_BT = idx()
    assert_same(built("nanogpt:.").forward(idx_BT), files.nanogpt_logits(tensors, idx_BT))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_read_in_their_own_dtype(dtype):
    tensors = {name: each.to(dtype) for name, each in files.nanogpt_tensors().items() if name != "lm_head.weight"}
    torch.save(files.nanogpt_content(tensors), "ckpt.pt")
    adapter = registry.find("models", "nanogpt:ckpt.pt")()
    assert {parameter.dtype for parameter in adapter.module.parameters()} == {dtype}
    assert torch.equal(adapter.module.blocks[1].down.weight, tensors["transformer.h.1.mlp.c_proj.weight"])


def test_the_network_can_be_trained_and_its_head_stays_tied():
    torch.save(files.nanogpt_content(), "ckpt.pt")
    adapter = built("nanogpt:ckpt.pt", torch.float32)
    module = adapter.module
    assert module.head.weight is module.token_embedding.weight
    assert sum(parameter.numel() for parameter in module.parameters()) == adapter.shape.n_params
    with torch.enable_grad():
        adapter.forward(idx(), idx()).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_weights_are_a_copy_that_does_not_follow_the_file(here):
    torch.save(files.nanogpt_content(), "ckpt.pt")
    adapter, idx_BT = built("nanogpt:ckpt.pt"), idx()
    before = adapter.forward(idx_BT)
    with (here / "ckpt.pt").open("r+b") as file:
        file.write(bytes((here / "ckpt.pt").stat().st_size))
    assert torch.equal(adapter.forward(idx_BT), before)


def test_greedy_tokens_with_a_cache_are_those_of_the_equations():
    tensors = files.nanogpt_tensors()
    torch.save(files.nanogpt_content(tensors), "ckpt.pt")
    adapter = built("nanogpt:ckpt.pt")
    tokens_BN = ours_BN = idx()[:, :4]
    cache, position = adapter.make_cache(2, 24, "static"), 0
    while ours_BN.shape[1] < 24:
        new_BT = ours_BN[:, position:]
        logits_B1V, cache = adapter.forward_cached(new_BT, torch.arange(position, ours_BN.shape[1]), cache)
        position = ours_BN.shape[1]
        ours_BN = torch.cat((ours_BN, logits_B1V[:, -1:].argmax(2)), dim=1)
        tokens_BN = torch.cat((tokens_BN, files.nanogpt_logits(tensors, tokens_BN)[:, -1:].argmax(2)), dim=1)
    assert torch.equal(ours_BN, tokens_BN)
    assert len(tokens_BN[0].unique()) > 4


def test_the_sizes_are_found_without_reading_weights():
    torch.save(files.nanogpt_content(), "ckpt.pt")
    sizes = {name: value for name, value in NANOGPT.items() if name != "dropout"}
    assert model_shape.shape_of("nanogpt:ckpt.pt") == gpt2.build(**sizes).shape
    with torch.device("meta"):
        adapter = registry.find("models", "nanogpt:ckpt.pt")()
    assert all(parameter.is_meta for parameter in adapter.module.parameters())


# nanochat
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("rows", [61, 64])
def test_nanochat_gives_the_logits_of_its_equations(here, prefix, rows):
    tensors = files.nanochat_tensors(rows=rows)
    files.save_nanochat(here / "d2", tensors={prefix + name: each for name, each in tensors.items()})
    adapter, idx_BT = built("nanochat:d2"), idx()
    assert_same(adapter.forward(idx_BT), files.nanochat_logits(tensors, idx_BT))
    assert sum(parameter.numel() for parameter in adapter.module.parameters()) == adapter.shape.n_params
    assert not any(tensor.is_meta for tensor in (*adapter.module.parameters(), *adapter.module.buffers()))


def test_nanochat_reads_the_newest_step_or_the_one_that_is_named(here):
    first, second = (files.save_nanochat(here / "d2", step) for step in (9, 10))
    idx_BT = idx()
    for name, tensors in (("", second), ("?step=10", second), ("?step=9", first)):
        assert_same(built(f"nanochat:d2{name}").forward(idx_BT), files.nanochat_logits(tensors, idx_BT))


def test_nanochats_sizes_are_found_without_reading_weights(here):
    files.save_nanochat(here / "d2")
    shape = model_shape.shape_of("nanochat:d2")
    assert (shape.architecture, shape.n_kv_head, shape.block_size, shape.vocab_size) == ("nanochat", 2, 24, 61)
    with torch.device("meta"):
        adapter = registry.find("models", "nanochat:d2")()
    assert all(tensor.is_meta for tensor in (*adapter.module.parameters(), *adapter.module.buffers()))


# The identity of a run
def files_of(model):
    """The files of the location that count, with their hashes."""
    found = code.code_of([Point(**{**vars(POINT), "model": model})], [Arm()])
    return {name: value for key, source in found.items() if key != "nanobench" for name, value in source.files.items()}


def test_the_file_of_a_checkpoint_belongs_to_the_identity_of_a_run(here):
    torch.save(files.nanogpt_content(), "ckpt.pt")
    before = files_of("nanogpt:ckpt.pt")
    assert list(before) == ["ckpt.pt"]
    assert files_of("nanogpt:ckpt.pt?gelu=tanh") == before
    torch.save(files.nanogpt_content(), "ckpt.pt")
    assert files_of("nanogpt:ckpt.pt") != before


def test_so_do_the_settings_in_the_folder_of_a_checkpoint(here):
    files.save_nanochat(here / "d2")
    before = files_of("nanochat:d2")
    assert list(before) == ["d2/meta_000007.json", "d2/model_000007.pt"]
    meta = here / "d2" / "meta_000007.json"
    meta.write_text(meta.read_text().replace('"n_head": 4', '"n_head": 2'))
    assert {name for name, value in files_of("nanochat:d2").items() if value != before[name]} == {"d2/meta_000007.json"}


# Files that are wrong, or made to do harm
class Calls:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch():
    return Calls(os.system, "touch ran")


def saved(change=lambda content: content, **options):
    """Writes ckpt.pt with a changed content."""

    def write(folder):
        content = files.nanogpt_content()
        torch.save(change(content) or content, folder / "ckpt.pt", **options)

    return write


def setting(**changes):
    """Writes ckpt.pt with other settings; None removes one."""

    def change(content):
        args = {**content["model_args"], **changes}
        content["model_args"] = {name: value for name, value in args.items() if value is not None}

    return saved(change)


def tensor(name, value):
    """Writes ckpt.pt with another tensor, or with one more."""
    return saved(lambda content: content["model"].update({name: value}))


def pickled(value, protocol):
    """Writes ckpt.pt as a pickle that is no file of torch.save."""
    return lambda folder: (folder / "ckpt.pt").write_bytes(pickle.dumps(value, protocol))


def raw(data):
    return lambda folder: (folder / "ckpt.pt").write_bytes(data)


def cut(folder):
    saved()(folder)
    data = (folder / "ckpt.pt").read_bytes()
    (folder / "ckpt.pt").write_bytes(data[: len(data) // 2])


def again(**replaced):
    """Writes ckpt.pt, then changes the entries of the zip file."""

    def write(folder):
        saved()(folder)
        compression = replaced.pop("compression", zipfile.ZIP_STORED)
        entries = {name.replace("_", "/", 1): data for name, data in replaced.items()}
        files.packed_again(folder / "ckpt.pt", compression, **entries)

    return write


def claims(folder):
    saved()(folder)
    files.claim(folder / "ckpt.pt", 2**31 - 1)


def two_pickles(folder):
    with zipfile.ZipFile(folder / "ckpt.pt", "w") as archive:
        for name in ("a/data.pkl", "b/data.pkl"):
            archive.writestr(name, pickle.dumps({}, 2))


def huge(content):
    content["model_args"]["vocab_size"] = 10**8
    content["model"].pop("lm_head.weight")
    content["model"]["transformer.wte.weight"] = torch.zeros(1, 1).expand(10**8, 16)


def both(content):
    content["model"]["_orig_mod.transformer.wpe.weight"] = content["model"]["transformer.wpe.weight"]


PATH = "transformer.h.1.mlp.c_proj.weight"
NANOGPT_HARM = {
    "os.system": (saved(lambda content: content.update(config=touch())), "wants to run posix.system"),
    "os.system as weights": (saved(lambda content: {"model": touch()}), "wants to run posix.system"),
    "eval": (saved(lambda content: [Calls(eval, "open('ran', 'w')")]), "wants to run builtins.eval"),
    "memory": (saved(lambda content: [Calls(bytearray, 10**13)]), "wants to run builtins.bytearray"),
    "protocol 4": (saved(lambda content: [touch()], pickle_protocol=4), "wants to run posix.system"),
    "protocol 4 without a call": (saved(pickle_protocol=4), "its pickle is none of torch.save"),
    "a module": (saved(lambda content: nn.Linear(1, 1)), "wants to run torch.nn.modules.linear.Linear"),
    "pickle 0": (pickled(touch(), 0), "wants to run posix.system"),
    "pickle 2": (pickled([1, touch()], 2), "wants to run posix.system"),
    "pickle 5": (pickled({"model": touch()}, 5), "wants to run posix.system"),
    "the format before torch 1.6": (saved(_use_new_zipfile_serialization=False), "since torch 1.6 a zip file"),
    "plain pickle": (pickled({"model": 1}, 2), "is no file of torch.save"),
    "empty": (raw(b""), "ckpt.pt is empty"),
    "text": (raw(b"#!/bin/sh\ntouch ran\n"), "is no file of torch.save"),
    "zip of another kind": (raw(b"PK\x05\x06" + bytes(18)), "does not hold one data.pkl"),
    "truncated": (cut, "is truncated"),
    "compressed": (again(compression=zipfile.ZIP_DEFLATED), "its entries are compressed"),
    "sizes above the file's": (claims, "its entries claim 2147"),
    "no data": (again(data_3=None), "ckpt.pt is damaged"),
    "damaged pickle": (again(**{"data.pkl": b"\x80\x02}q\x00\xff"}), "ckpt.pt is damaged"),
    "pickle cut off": (again(**{"data.pkl": b"\x80\x02}q\x00"}), "ckpt.pt is damaged"),
    "two pickles": (two_pickles, "does not hold one data.pkl"),
    "nothing": (lambda folder: None, "ckpt.pt does not exist"),
    "folder": (lambda folder: (folder / "ckpt.pt").mkdir(), "holds no ckpt.pt and no model.safetensors"),
    "pipe": (lambda folder: os.mkfifo(folder / "ckpt.pt"), "ckpt.pt is no file"),
    "list": (saved(lambda content: [1, 2]), "has no 'model_args'"),
    "no settings": (saved(lambda content: {"model": {}}), "has no 'model_args'"),
    "no tensors": (saved(lambda content: {"model_args": {}}), "has no 'model'"),
    "settings as a list": (saved(lambda content: content.update(model_args=[1])), "is no table of settings, it is of type"),
    "tensors as a list": (saved(lambda content: content.update(model=[1])), "holds no tensors by name"),
    "tensors by number": (saved(lambda content: content["model"].update({3: torch.ones(1)})), "holds no tensors by name"),
    "no n_layer": (setting(n_layer=None), "has no setting n_layer"),
    "n_layer as text": (setting(n_layer="2"), "n_layer '2' is not a whole number from 1 to 1e+09"),
    "n_layer as a tensor": (setting(n_layer=torch.ones(1)), "n_layer of type Tensor is not a whole number"),
    "n_head true": (setting(n_head=True), "n_head True is not a whole number"),
    "n_head 3": (setting(n_head=3), "n_head 3 does not divide n_embd 16"),
    "vocabulary of 0": (setting(vocab_size=0), "vocab_size 0 is not a whole number"),
    "huge width": (setting(n_embd=10**400), "n_embd (a number of 1329 bits) is not a whole number"),
    "bias 1": (setting(bias=1), "bias 1 is not True or False"),
    "a setting of a fork": (setting(rope=True), "has the setting 'rope'; nanoGPT has none of this name"),
    "an unprintable setting": (setting(**{"a\nb\ud800": 1}), r"has the setting 'a\nb\ud800'"),
    "too few layers": (setting(n_layer=3), "has no tensor transformer.h.2.ln_1.weight, which its settings need"),
    "far too few layers": (setting(n_layer=10**9), "has no tensor transformer.h.2.ln_1.weight"),
    "too many layers": (setting(n_layer=1), "has the tensor 'transformer.h.1.ln_1.weight'; nanoGPT has none"),
    "biases without bias": (setting(bias=False), "has the tensor 'transformer.h.0.ln_1.bias'"),
    "another vocabulary": (setting(vocab_size=50304), "wte.weight has the shape [61, 16], but its settings need [50304, 16]"),
    "another shape": (tensor(PATH, torch.ones(64, 16)), f"{PATH} has the shape [64, 16], but its settings need [16, 64]"),
    "whole numbers": (tensor(PATH, torch.ones(16, 64).long()), f"tensor {PATH} is int64, but weights are one of float32"),
    "complex numbers": (tensor(PATH, torch.ones(16, 64) + 0j), f"tensor {PATH} is complex64"),
    "text for a tensor": (tensor(PATH, "x" * 10**6), f"{PATH} is no tensor, it is 'xxx"),
    "list for a tensor": (tensor(PATH, [1]), f"{PATH} is no tensor, it is of type list"),
    "a tensor of a fork": (tensor("transformer.h.0.gate", torch.ones(1)), "has the tensor 'transformer.h.0.gate'"),
    "another head": (tensor("lm_head.weight", torch.ones(61, 16)), "lm_head.weight is not the same tensor"),
    "head of another shape": (tensor("lm_head.weight", torch.ones(1)), "lm_head.weight is not the same tensor"),
    "head that is no tensor": (tensor("lm_head.weight", 3), "lm_head.weight is not the same tensor"),
    "one number for all weights": (saved(huge), "its tensors claim 64000"),
    "with and without prefix": (saved(both), "both with and without the prefix _orig_mod."),
}


def refusal(model, *words):
    """The one line with which a model is refused. It leaves nothing behind and runs nothing."""
    before = sorted(os.listdir())
    with pytest.raises(UserError) as caught:
        model_shape.shape_of(model)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(f"model {model!r}: ")
    assert len(text) < 500
    for word in words:
        assert word in text
    assert sorted(os.listdir()) == before
    assert "ran" not in before
    return text


@pytest.mark.parametrize("name", NANOGPT_HARM)
def test_a_wrong_file_of_nanogpt_is_one_line_and_runs_nothing(here, name):
    write, words = NANOGPT_HARM[name]
    write(here)
    refusal("nanogpt:ckpt.pt", words)


def test_the_file_that_does_harm_would_do_it(here):
    saved(lambda content: content.update(config=touch()))(here)
    torch.load("ckpt.pt", weights_only=False)
    assert (here / "ran").exists()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../" * 40 + "etc/passwd", "is no file of torch.save"),
        ("a\0b", "does not exist"),
        ("x" * 300, "cannot be read: OSError: [Errno 36] File name too long"),
        ("/dev/zero", "is no file"),
        ("model.safetensors", "has its settings in the config.json of its folder; give the folder"),
        ("ckpt.pt?gelu=quick", "unknown gelu 'quick' of a nanoGPT checkpoint (available: none, tanh)"),
    ],
)
def test_a_wrong_location_is_one_line(location, words):
    with pytest.raises(UserError) as caught:
        model_shape.shape_of(f"nanogpt:{location}")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        (b"", None, "config.json cannot be read: FileNotFoundError"),
        (b"", "{", "config.json cannot be read: JSONDecodeError"),
        (b"", "[" * 100_000, "config.json cannot be read: RecursionError"),
        (b"", '"\udcff"', "config.json cannot be read: UnicodeDecodeError"),
        (b"", "3", "config.json is no table of settings, it is 3"),
        (b"", '{"model_args": 3}', "model_args of config.json is no table of settings"),
        (b"", json.dumps(NANOGPT), "model.safetensors is no safetensors file, or is damaged"),
        (b"\xff" * 8, json.dumps(NANOGPT), "model.safetensors is no safetensors file, or is damaged"),
        (
            b"Z\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[999999999999],"data_offsets":[0,3999999999996]}}'.ljust(90),
            json.dumps(NANOGPT),
            "model.safetensors is no safetensors file, or is damaged",
        ),
    ],
)
def test_a_wrong_folder_with_safetensors_is_one_line(here, data, settings, words):
    pytest.importorskip("safetensors")
    (here / "model.safetensors").write_bytes(data)
    if settings is not None:
        (here / "config.json").write_bytes(settings.encode(errors="surrogateescape"))
    refusal("nanogpt:.", words)


def test_settings_that_are_too_long_are_not_read(here, monkeypatch):
    from nanobench.models import _checkpoint

    monkeypatch.setattr(_checkpoint, "LONGEST_JSON", 10)
    (here / "model.safetensors").write_bytes(b"")
    (here / "config.json").write_text(json.dumps(NANOGPT))
    refusal("nanogpt:.", "config.json has ", " bytes, which is too long for settings")


def chat(step=7, **changes):
    """Writes a checkpoint of nanochat with other settings."""
    return lambda folder: files.save_nanochat(folder, step, **changes)


def more(name, value):
    """Writes a checkpoint of nanochat with one more tensor, or another one."""
    return lambda folder: files.save_nanochat(folder, tensors={**files.nanochat_tensors(), name: value})


def without_meta(folder):
    files.save_nanochat(folder)
    (folder / "meta_000007.json").unlink()


def other_meta(text):
    """Writes a checkpoint of nanochat with another meta file."""

    def write(folder):
        files.save_nanochat(folder)
        (folder / "meta_000007.json").write_text(text)

    return write


AGES = "only nanochat's architectures of autumn 2025 and since March 2026 are read"
NANOCHAT_HARM = {
    "no folder": ("", lambda folder: None, "d2 is no folder of nanochat's checkpoints (FileNotFoundError"),
    "file": ("", lambda folder: folder.write_text(""), "d2 is no folder of nanochat's checkpoints (NotADirectoryError"),
    "empty folder": ("", lambda folder: folder.mkdir(), "d2 holds no model_*.pt"),
    "unknown step": ("?step=8", chat(), "d2 has no step 8 (the last ones: 7); write it like ?step=7"),
    "step as text": ("?step=../../x", chat(), "d2 has no step '../../x'"),
    "step as a flag": ("?step", chat(step=1), "d2 has no step True"),
    "step as a fraction": ("?step=1.0", chat(step=1), "d2 has no step 1.0"),
    "no meta": ("", without_meta, "meta_000007.json cannot be read: FileNotFoundError"),
    "broken meta": ("", other_meta("{"), "meta_000007.json cannot be read: JSONDecodeError"),
    "meta as a list": ("", other_meta("[]"), "meta_000007.json is no table of settings"),
    "meta without settings": ("", other_meta("{}"), "meta_000007.json has no 'model_config'"),
    "windows": ("", chat(window_pattern="SSSL"), f"has no tensor smear_gate.weight, so it is from before March 2026; {AGES}"),
    "lambdas": ("", more("resid_lambdas", torch.ones(2)), f"has the tensor 'resid_lambdas'; {AGES}"),
    "value embeddings": ("", more("value_embeds.1.weight", torch.ones(1)), f"has the tensor 'value_embeds.1.weight'; {AGES}"),
    "heads": ("", chat(n_head=3), "n_head 3 does not divide n_embd 16"),
    "KV heads": ("", chat(n_kv_head=3), "n_kv_head 3 does not divide n_head 4"),
    "odd heads": ("", chat(n_head=16, n_kv_head=16), "n_embd / n_head is odd"),
    "no positions": ("", chat(sequence_len=0), "sequence_len 0 is not a whole number"),
    "too many positions": ("", chat(sequence_len=10**9), "sequence_len 1000000000 is above 1048576"),
    "whole numbers": ("", more("lm_head.weight", torch.ones(61, 16).int()), "tensor lm_head.weight is int32"),
    "another vocabulary": ("", chat(vocab_size=65536), "wte.weight has the shape [61, 16], but its settings need [65536, 16]"),
    "os.system": ("", more("lm_head.weight", touch()), "wants to run posix.system"),
}


@pytest.mark.parametrize("name", NANOCHAT_HARM)
def test_a_wrong_checkpoint_of_nanochat_is_one_line_and_runs_nothing(here, name):
    step, write, words = NANOCHAT_HARM[name]
    write(here / "d2")
    refusal(f"nanochat:d2{step}", words)


# The command line
@pytest.mark.parametrize(("write", "words"), [(saved(lambda content: [touch()]), "posix.system"), (cut, "is truncated")])
def test_a_sweep_of_a_wrong_file_is_one_line_and_leaves_nothing(nanobench_here, here, write, words):
    write(here)
    before = sorted(here.rglob("*"))
    done = nanobench_here("kv-sweep", "--model", "nanogpt:ckpt.pt", cwd=here, code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["nanogpt", "nanochat"])
def test_a_source_without_a_location_is_answered_with_how_to_write_it(nanobench_here, here, name):
    done = nanobench_here("kv-sweep", "--model", name, cwd=here, code=2)
    assert f"write it like {name}:" in done.stderr


def test_a_checkpoint_is_measured_like_any_model(nanobench_here, here):
    torch.save(files.nanogpt_content(), "ckpt.pt")
    files.save_nanochat(here / "d2")
    models = "nanogpt:ckpt.pt,nanochat:d2?step=7"
    nanobench_here(
        "kv-sweep", "--model", models, *SMALL[2:], "--batch", "2", "--launches", "1", "--out", "run", cwd=here, code=0
    )
    cells = load(here / "run")
    assert set(cells["model"]) == set(models.split(","))
    assert set(cells["gate"]) == {"exact"}
    assert len(cells) == 4


def test_the_list_of_models_says_what_a_location_is(nanobench_here, here):
    listed = nanobench_here("list", "models", cwd=here, code=0).stdout
    assert "nanogpt:PATH" in listed
    assert "nanochat:DIR" in listed
