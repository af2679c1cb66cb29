"""nanobench from Python: the command line's cells, options as keywords, and models that are functions or objects in memory."""

import functools
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from matplotlib.figure import Figure
from nbclient import NotebookClient
from rich.console import Console
from torch import nn

import fakes
import in_process
import nanobench
from conftest import environment, own_locks
from nanobench import registry
from nanobench.errors import Skip, UserError
from nanobench.models import gpt2
from nanobench.models import object as in_memory
from nanobench.registry import importable
from nanobench.results import store
from nanobench.schema import GPTShape, Point
from nanobench.sweep import autobatch, code, keywords, plan
from nanobench.sweep.autobatch_options import AutobatchOptions
from nanobench.sweep.batch_search import SearchConfig
from nanobench.sweep.executors import local
from nanobench.sweep.objects import renamed
from nanobench.sweep.options import SweepOptions, TrainOptions
from nanobench.views.progress import Screen

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
QUICK = {"prompt_len": 8, "new_tokens": 4, "threads": 1, "max_seconds": 0.1, "calibration": "off", "quick": True}
WORDS = [word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value)) if word != "True"]
NAME = re.compile(r"object:(fakes\.)?\w+-[0-9a-f]{12}")


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An empty current folder, where workers answer in this process."""
    monkeypatch.setattr(local, "build", in_process.InProcess)
    monkeypatch.setenv("NANOBENCH_LOCKS", own_locks())
    monkeypatch.setenv("NANOBENCH_CACHE", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_workers(monkeypatch):
    """No worker may start."""

    def build(*arguments):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(local, "build", build)


def tiny(seed=0):
    """A small model in memory, with the weights that a worker gives fakes:tiny from this seed."""
    torch.manual_seed(seed)
    return fakes.tiny()


def refusal(call, *arguments, **options):
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def digests(folder):
    """What the arms of a run generated, by batch size."""
    return {each.point.batch_size: each.outcome.digest for each in store.Run(Path(folder)).read_raw()}


# Sweeps


def test_a_sweep_returns_the_cells_of_the_command_and_prints_nothing(here, nanobench_here, capsys):
    cells = nanobench.kv_sweep("fakes:tiny", [1, 2], out="python", **QUICK)
    assert capsys.readouterr() == ("", "")
    words = ("--model", "fakes:tiny", "--batch", "1,2", "--no-plot", "--out", "typed")
    nanobench_here("kv-sweep", *words, *WORDS, cwd=here, code=0)
    typed = nanobench.load("typed")
    assert list(cells.columns) == list(typed.columns)
    same = ["model", "batch_size", "prompt_len", "new_tokens", "threads", "arm", "gate", "launches_ok", "identity"]
    pd.testing.assert_frame_equal(cells[same], typed[same])
    pd.testing.assert_frame_equal(cells, nanobench.load("python"))
    assert Path(cells.attrs["run"]) == here / "python"
    python, command = (store.Run(here / name).info() for name in ("python", "typed"))
    assert python.command == command.command == "kv-sweep"
    assert {**python.requested, "out": "typed", "no_plot": True} == command.requested


def test_training_returns_its_cells(here):
    cells = nanobench.train_throughput("fakes:tiny", 2, seq_len=16, threads=1, max_seconds=0.1, quick=True, out="run")
    assert list(cells["arm"]) == ["eager"]
    assert cells.loc[0, "gate"] in ("exact", "rounding")
    assert cells.loc[0, "train_tok_s"] > 0


def test_a_batch_size_is_searched_for_kept_and_written(here, nanobench_here, capsys):
    asked = {"mode": "generate", "most": 2, "prompt_len": 8, "new_tokens": 4, "threads": 1, "memory_limit": "1GiB"}
    answer = nanobench.autobatch("fakes:tiny", out="found", **asked)
    assert (answer.largest_batch_size, answer.cached) == (2, False)
    written = json.loads((here / "found" / "autobatch.json").read_text())
    assert written.pop("title") == "fakes:tiny, cached"
    assert written == json.loads(json.dumps(answer.to_json()))
    again = nanobench.autobatch("fakes:tiny", **asked)
    assert again.cached
    assert again.curve == answer.curve
    assert list(pd.DataFrame(again.curve)["batch_size"]) == [1, 2]
    assert capsys.readouterr() == ("", "")
    words = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = nanobench_here(
        "autobatch", "--model", "fakes:tiny", *words, "--json", cwd=here, code=0, env={"NANOBENCH_CACHE": str(here / "kept")}
    )
    assert json.loads(done.stdout.strip().splitlines()[-1]) == json.loads(json.dumps(again.to_json()))


def test_progress_is_shown_beside_the_output(here, capsys):
    nanobench.kv_sweep("fakes:tiny", 1, progress=True, **QUICK)
    out, err = capsys.readouterr()
    assert out == ""
    assert "[1/1] launch 1, fakes:tiny, batch 1, prompt 8, new 4: uncached" in err
    nanobench.autobatch("fakes:tiny", mode="generate", most=1, prompt_len=8, new_tokens=4, threads=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("batch 1: ")


def test_in_a_notebook_one_line_is_written_again_and_again(monkeypatch, small_run):
    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    monkeypatch.setattr("IPython.display.display", lambda data, raw, display_id: shown.append(data["text/plain"]) or handle)
    made = store.Run(small_run[0]).info().plan
    progress = {"trial": made.trial(made.points[0], 1), "total": 4, "left_s": 5.0, "cells": []}
    with Screen(Console(force_jupyter=True)) as screen:
        screen.show(SimpleNamespace(**progress, done=0, report={"phase": "warm-up", "arm": "cached"}))
        screen.show(SimpleNamespace(**progress, done=4, report=None))
    assert len(shown) == 2
    assert shown[0].startswith("░" * 24 + " 0/4  ")
    assert "left  launch 1, gpt2-nano, batch 1" in shown[0]
    assert "warm-up cached" in shown[0]
    assert shown[1].startswith("█" * 24 + " 4/4")


class Interrupted(in_process.InProcess):
    """Someone presses Ctrl-C in the second trial."""

    def run(self, request, *arguments, **named):
        if "trial" in request and request["trial"]["point"]["batch_size"] == 2:
            raise KeyboardInterrupt
        return super().run(request, *arguments, **named)


def test_an_interrupt_is_raised_again_and_the_run_can_be_resumed(here, monkeypatch):
    monkeypatch.setattr(local, "build", Interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        nanobench.kv_sweep(tiny(), [1, 2], out="run", **QUICK)
    assert caught.value.__notes__ == ["finished trials are kept in run; resume='run' measures the others"]
    assert len(nanobench.load("run")) == 2
    monkeypatch.setattr(local, "build", in_process.InProcess)
    assert "drop --model" in refusal(nanobench.kv_sweep, tiny(seed=1), resume="run")
    assert "measure it there" in refusal(nanobench.kv_sweep, resume="run")
    assert len(nanobench.kv_sweep(tiny(), resume="run")) == 4


# Options


@pytest.mark.parametrize(
    ("kind", "given", "options"),
    [
        (SweepOptions, {"batch": [1, 4]}, {"batch": "1,4"}),
        (SweepOptions, {"batch": "1-16*2"}, {"batch": "1-16*2"}),
        (SweepOptions, {"batch": 4, "threads": "auto"}, {"batch": "4", "threads": "auto"}),
        (SweepOptions, {"batch": range(1, 4)}, {"batch": "1,2,3"}),
        (SweepOptions, {"batch": (1, "auto")}, {"batch": "1,auto"}),
        (SweepOptions, {"batch": np.array([1, 8]), "seed": np.int64(3)}, {"batch": "1,8", "seed": 3}),
        (SweepOptions, {"batch": pd.Series([2, 3])}, {"batch": "2,3"}),
        (SweepOptions, {"target_ci": 0.01, "max_minutes": 5}, {"target_ci": "0.01", "max_minutes": "5"}),
        (SweepOptions, {"timeout": 60, "compile": True, "out": Path("a/b")}, {"timeout": 60.0, "compile": True, "out": "a/b"}),
        (SweepOptions, {"axis": "batch_size=1,4"}, {"axis": ["batch_size=1,4"]}),
        (SweepOptions, {"axis": ["dtype=float32", "seed=1"]}, {"axis": ["dtype=float32", "seed=1"]}),
        (TrainOptions, {"batch": None, "nproc": [1, 2]}, {"nproc": "1,2"}),
        (AutobatchOptions, {"margin": 1, "fresh": True}, {"margin": 1.0, "fresh": True}),
    ],
    ids=repr,
)
def test_a_keyword_means_what_the_option_means(kind, given, options):
    assert keywords.read(kind, "kv_sweep", given) == kind(**options)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bacth": 1}, "unknown option 'bacth' of kv_sweep; did you mean 'batch'? (available: model, batch, "),
        ({"json": True}, "json is an option of the command line alone: the cells are returned; leave it out"),
        ({"no_plot": True}, "nanobench.plot draws a figure"),
        ({"dry_run": True}, "nothing is printed"),
        ({"launches": "5"}, "launches='5' is not of type int; write launches=5"),
        ({"launches": True}, "launches=True is not of type int"),
        ({"compile": "yes"}, "compile='yes' is not of type bool; write compile=True"),
        ({"timeout": "x"}, "timeout='x' is not of type float; write timeout=0.5"),
        ({"batch": {1: 2}}, "batch={1: 2} is not of type str; write batch='auto' or a list"),
        ({"batch": [[1]]}, "batch=[1] is not of type str"),
        ({"batch": True}, "batch=True is not of type str"),
        ({"axis": 3}, "axis=3 is not of type list; write axis=['batch_size=1,4']"),
        ({"batch": "x" * 1000 + "\n"}, "--batch"),
        ({"batch": 0}, "--batch 0 is below 1"),
        ({"model": []}, "contains an empty value"),
        ({"model": "gtp2"}, "did you mean 'gpt2'"),
    ],
    ids=repr,
)
def test_a_mistake_is_one_line_before_a_worker_starts(no_workers, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(nanobench.kv_sweep, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_answered_before_weights_are_written(no_workers, monkeypatch):
    monkeypatch.setattr(in_memory, "save", lambda *arguments: pytest.fail("weights were written"))
    assert "--batch 0" in refusal(nanobench.kv_sweep, tiny(), 0)
    assert "unknown option 'bacth'" in refusal(nanobench.autobatch, tiny(), bacth=2)


# Functions


def test_a_function_is_named_by_its_module():
    assert importable.text_of(fakes.tiny) == "fakes:tiny"
    assert importable.text_of(fakes.Slow) == "fakes:Slow"
    assert importable.text_of(fakes.failing) == "fakes:failing"
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 32, "vocab_size": 64, "block_size": 64, "bias": False, "gelu": "tanh"}
    text = importable.text_of(functools.partial(gpt2.build, **sizes))
    assert text.startswith("nanobench.models.gpt2:build:n_layer=1,")
    assert registry.find("models", text)().shape == gpt2.build(**sizes).shape
    assert importable.text_of(functools.partial(fakes.tiny)) == "fakes:tiny"


def test_models_may_be_mixed_in_a_list(here):
    partial = functools.partial(gpt2.build, n_layer=1, n_head=1, n_embd=16, vocab_size=32, block_size=32)
    models = ["fakes:tiny", fakes.failing, partial, tiny()]
    cells = nanobench.kv_sweep(models, 1, engine="uncached", out="run", **QUICK)
    assert list(cells["model"].str.partition(":")[0]) == ["fakes", "fakes", "nanobench.models.gpt2", "object"]
    assert list(cells["gate"]) == ["exact"] * 4


def in_main():
    return fakes.tiny()


in_main.__module__ = "__main__"


class Holder:
    def build(self):
        return fakes.tiny()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: fakes.tiny(), "is a lambda; workers are new processes: put it into a file, like my_gpt.py"),
        (functools.partial(lambda: fakes.tiny()), "is a lambda"),
        (in_main, "build 'in_main' is defined in a script or notebook (__main__); workers are new processes"),
        (Holder().build, "build 'Holder.build' is a method;"),
        (Holder.build, "build 'Holder.build' is not found by its name in test_api"),
        (functools.partial(gpt2.build, n_layer=[1]), "build 'build' has the argument n_layer=[1]; give numbers"),
        (functools.partial(gpt2.build, gelu="a,b"), "has the argument gelu='a,b'"),
        (functools.partial(gpt2.build, gelu="none"), "has the argument gelu='none'"),
        (functools.partial(gpt2.build, 3), "has the argument 3;"),
        (type("GPT", (nn.Module,), {"__module__": "__main__"})(), "class 'GPT' is defined in a script or notebook"),
        (3, "an object of class int is no model: it has no module, shape, forward, make_cache; give a name"),
        (nn.Linear(2, 2), "an object of class Linear is no model: it has no module, shape, make_cache; give a name"),
        (SimpleNamespace(module=3, shape=3, forward=3, make_cache=3), "it has no torch module as its part `module`"),
        (SimpleNamespace(_orig_mod=3), "the model is compiled; give the module itself"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_model_that_no_worker_could_have_is_refused_before_one_starts(no_workers, tmp_path, monkeypatch, build, words):
    monkeypatch.chdir(tmp_path)
    if type(build).__module__ == "__main__":
        build.shape = tiny().shape
    assert words in refusal(nanobench.kv_sweep, build)
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_a_worker_would_find_elsewhere_is_refused(no_workers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fakes.py").write_text("")
    message = refusal(nanobench.kv_sweep, fakes.tiny)
    assert message.startswith(f"build 'tiny' is in {fakes.__file__}, but a worker would import {tmp_path / 'fakes.py'}")
    assert "class 'Failing' is in" in refusal(nanobench.kv_sweep, fakes.failing())


# Objects in memory


class Watching(in_process.InProcess):
    """Looks at the files that workers are given."""

    seen = ()

    def run(self, request, *arguments, **named):
        text = json.dumps(request)
        for path, sha256 in re.findall(r"object:([^?\"]+)\?sha256=([0-9a-f]{64})", text):
            modes = [place.stat().st_mode & 0o777 for place in (Path(path), Path(path).parent)]
            Watching.seen.append((Path(path), modes, hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256))
        return super().run(request, *arguments, **named)


def test_an_object_is_measured_with_its_weights_and_its_file_is_private_and_gone(here, monkeypatch):
    monkeypatch.setattr(local, "build", Watching)
    monkeypatch.setattr(Watching, "seen", [])
    model = tiny()
    cells = nanobench.kv_sweep(model, [1, 2], out="object", **QUICK)
    assert set(cells["gate"]) == {"exact"}
    (name,) = set(cells["model"])
    assert re.fullmatch(r"object:GPT2-[0-9a-f]{12}", name)
    paths, modes, same = zip(*Watching.seen, strict=True)
    assert len(paths) >= 3
    assert len(set(paths)) == 1
    assert modes == ([0o600, 0o700],) * len(paths)
    assert all(same)
    assert not paths[0].parent.exists()
    run = store.Run(here / "object")
    assert str(paths[0].parent) not in run.info_file.read_text() + run.journal.read_text()
    assert list(run.info().description.models) == [name]
    nanobench.kv_sweep("fakes:tiny", [1, 2], out="named", **QUICK)
    assert digests("object") == digests("named")
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter += 0.5
    other = nanobench.kv_sweep(model, 1, out="other", **QUICK)
    assert other.loc[0, "model"] != name


@dataclass(frozen=True)
class UpToTwo(SearchConfig):
    """Memory is not limited here, so a search ends early."""

    most: int = 2


def test_an_object_trains_at_the_batch_size_that_is_found_for_it(here, monkeypatch):
    monkeypatch.setattr(autobatch, "SearchConfig", UpToTwo)
    asked = {"threads": 1, "memory_limit": "1GiB", "seq_len": 16}
    cells = nanobench.train_throughput(tiny(), "auto", max_seconds=0.1, quick=True, out="run", **asked)
    assert list(cells["batch_size"]) == [1]
    assert cells.loc[0, "gate"] in ("exact", "rounding")
    known = nanobench.autobatch(tiny(), most=2, **asked)
    assert (known.batch_size, known.largest_batch_size, known.cached) == (1, 2, True)
    assert not nanobench.autobatch(tiny(seed=1), most=2, **asked).cached


def test_what_is_wrong_with_an_object_is_said_of_its_name(here):
    message = refusal(nanobench.kv_sweep, fakes.shapeless())
    assert re.match(r"model 'object:GPT2-[0-9a-f]{12}' gives a wrong shape: n_head 'two'", message)


def fingerprint(adapter):
    with in_memory.in_training_mode(adapter.module):
        return in_memory.fingerprint(adapter)


class Odd(nn.Module):
    """Its content would be written in another order, or with other references, in another process."""

    def __init__(self):
        super().__init__()
        names = [f"name {number}" for number in range(20)]
        self.names, self.copies = set(names), [*names, *names, *("".join(name) for name in names)]
        for name in "abc":
            self.register_buffer(name, torch.arange(3), persistent=False)


def test_the_same_content_has_the_same_name_in_every_process_and_other_content_another():
    script = "import test_api\nfrom nanobench.models.object import fingerprint\n"
    script += "print(fingerprint(test_api.tiny()), fingerprint(test_api.Odd()))"
    env = {**environment(), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout.split() == [in_memory.fingerprint(tiny()), in_memory.fingerprint(Odd())], done.stderr
    model = tiny()
    known = {fingerprint(model)}
    model.module.eval().requires_grad_(False)
    assert {fingerprint(model)} == known
    assert {fingerprint(pickle.loads(pickle.dumps(model)))} == known
    model.module.blocks[0].gelu = "none"
    known.add(fingerprint(model))
    model.module.to(torch.bfloat16)
    known.add(fingerprint(model))
    known.add(fingerprint(tiny(seed=1)))
    assert len(known) == 4


def test_the_mode_of_a_module_comes_back(tmp_path):
    model = tiny()
    model.module.eval()
    model.module.norm.train()
    in_memory.save(model, tmp_path)
    assert [part.training for part in (model.module, model.module.norm, model.module.blocks[0])] == [False, True, False]


def test_the_source_code_of_the_class_is_part_of_the_run(here, tmp_path):
    saved = in_memory.save(fakes.failing(), tmp_path)
    assert re.fullmatch(r"object:fakes\.Failing-[0-9a-f]{12}", saved.name)
    assert registry.module_of("models", saved.name) == "fakes"
    point = Point(model=saved.name, dtype="float32", device="cpu", threads=1, batch_size=1, prompt_len=8, new_tokens=4)
    assert {"fakes.py", "virtual_device.py"} <= set(code.code_of([point], [])["fakes"].files)
    assert registry.module_of("models", in_memory.save(tiny(), tmp_path).name) is None


class Hostile:
    """Runs a program when it is read."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_pickle_is_read_only_where_the_text_has_its_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Hostile(), tmp_path / "model.pt")
    right = hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    for arguments, words in (
        ("", "it was an object in the memory of a Python process; measure it there"),
        ("?sha256=" + "f" * 64, "model.pt has another SHA-256 than ffff"),
        ("?sha256=" + right[:12], "has another SHA-256"),
    ):
        assert words in refusal(registry.find("models", f"object:model.pt{arguments}"))
    assert "none.pt cannot be read: No such file" in refusal(registry.find("models", f"object:none.pt?sha256={right}"))
    assert not (tmp_path / "executed").exists()
    registry.find("models", f"object:model.pt?sha256={right}")()
    assert (tmp_path / "executed").exists()


def test_the_name_of_an_object_on_the_command_line_is_one_line(nanobench_here, tmp_path):
    done = nanobench_here("kv-sweep", "--model", "object:GPT2-0123456789ab", cwd=tmp_path, code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert "measure it there: nanobench.kv_sweep(model=...)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_pickled_is_one_line(no_workers):
    model = tiny()
    model.generator = (each for each in ())
    message = refusal(nanobench.kv_sweep, model)
    assert message.startswith("model GPT2 cannot be written for the workers: TypeError: ")
    assert message.endswith("give a build function instead")
    model = tiny()
    model.hook = lambda: 3
    assert "is defined inside a function, or is a lambda" in refusal(nanobench.kv_sweep, model)


class Parts(nn.Module):
    """A module that has the parts of an Adapter, except `module`."""

    shape = GPTShape(architecture="parts", n_layer=1, n_head=1, n_kv_head=1, n_embd=4, vocab_size=8, block_size=8, n_params=32)

    def forward(self, idx, targets=None, last_only=False):
        return idx, targets, last_only


def test_a_module_with_the_parts_of_an_adapter_becomes_one():
    module = Parts()
    adapter = in_memory.adapter_of(module)
    assert (adapter.module, adapter.shape) == (module, Parts.shape)
    assert adapter.forward(1, last_only=True) == (1, None, True)
    with pytest.raises(Skip, match="Parts has no key-value cache"):
        adapter.make_cache(1, 8, "static")
    module.make_cache = lambda *arguments: arguments
    module.forward_cached = lambda *arguments: arguments
    assert adapter.make_cache(1, 8, "static") == (1, 8, "static")
    assert adapter.forward_cached(1, 2, 3) == (1, 2, 3, True)
    assert in_memory.class_name(adapter) == "test_api.Parts"


def test_a_ready_adapter_is_asked_for_a_module_that_it_knows(monkeypatch):
    monkeypatch.setattr(in_memory, "READY", (lambda module: None, lambda module: (module, "adapted")))
    module = nn.Linear(2, 2)
    assert in_memory.adapter_of(module) == (module, "adapted")


def test_names_are_replaced_wherever_a_text_contains_them():
    names = {"object:A-1": "object:/x/a.pt?sha256=0"}
    request = {"trial": {"point": {"model": "object:A-1", "batch_size": 2}, "arms": ({"engine": "cached"},)}}
    expected = {"trial": {"point": {"model": "object:/x/a.pt?sha256=0", "batch_size": 2}, "arms": [{"engine": "cached"}]}}
    assert renamed(request, names) == expected
    answer, shown = ({"models": {name: {"n_layer": 1}}, "reason": None} for name in ("object:/x/a.pt?sha256=0", "object:A-1"))
    assert renamed(answer, {file: name for name, file in names.items()}) == shown


# Reading


def test_a_run_that_is_loaded_knows_its_folder_and_several_know_none(small_run, tmp_path):
    folder, _ = small_run
    assert nanobench.load(folder).attrs["run"] == str(folder)
    assert nanobench.load(str(folder.parent)).attrs["run"] == str(folder)
    for name in ("one", "two"):
        shutil.copytree(folder, tmp_path / name)
    cells = nanobench.load(tmp_path)
    assert set(cells["run"]) == {"one", "two"}
    assert not cells.attrs


@pytest.mark.parametrize("name", ["speedup_vs_batch", "token_latency"])
def test_a_figure_is_drawn_from_cells_a_folder_or_the_newest_run_below(small_run, name):
    folder, _ = small_run
    cells = nanobench.load(folder)
    for results in (cells, cells[cells["batch_size"] == 3], folder, str(folder.parent)):
        assert isinstance(nanobench.plot(name, results), Figure)


def test_a_figure_that_the_data_does_not_allow_is_one_line(small_run):
    cells = nanobench.load(small_run[0])
    assert "did you mean 'speedup_vs_batch'" in refusal(nanobench.plot, "speedup_vs_bacth", cells)
    assert "training_vs_batch" in refusal(nanobench.plot, "training_vs_batch", cells)
    cells.attrs.clear()
    assert "token_latency needs repetitions" in refusal(nanobench.plot, "token_latency", cells)
    assert "no run in nowhere" in refusal(nanobench.plot, "token_latency", "nowhere")


# The page


def test_the_examples_of_the_page_run_in_their_order(here, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    monkeypatch.syspath_prepend(here)
    # Tests run side by side: an idle core would be shared.
    monkeypatch.setattr(plan, "usable_cores", lambda: 1)
    shown, names = [], {"__name__": "__main__"}
    for block in blocks:
        if named := re.match(r"# (\w+\.py)\n", block):
            (here / named[1]).write_text(block)
            continue
        *lines, last = block.strip().splitlines()
        exec("\n".join(lines), names)
        if re.match(r"\w+ = ", last):
            exec(last, names)
        else:
            shown.append(eval(last, names))
    sys.modules.pop("my_gpt", None)
    generated, objects, (batch_size, largest, curve) = shown
    assert set(generated["gate"]) == {"exact"}
    assert list(objects["status"].iloc[1:]) == ["skipped"]
    assert "a bigram model needs no cache" in objects["reason"].iloc[1]
    assert re.fullmatch(r"object:my_gpt\.Bigram-[0-9a-f]{12}", objects["model"].iloc[0])
    assert (batch_size, largest, len(curve)) == (6, 8, 4)
    assert isinstance(names["figure"], Figure)
    assert len(names["again"]) == 4


# Real processes


MODEL = """
from nanobench.models._gpt import GPTAdapter
from nanobench.models.gpt2 import build as gpt2

class Tiny(GPTAdapter):
    def __init__(self):
        inner = gpt2(n_layer=1, n_head=2, n_embd=32, vocab_size=64, block_size=64)
        super().__init__(inner.module, inner.shape)
"""
SCRIPT = f"""
import sys
import nanobench
assert not {{"torch", "pandas", "matplotlib"}} & set(sys.modules)
from lab_gpt import Tiny
launches = int(sys.argv[1])
more = {QUICK} if launches == 1 else {{**{QUICK}, "quick": False, "launches": launches}}
cells = nanobench.kv_sweep([Tiny(), Tiny], batch=[1, 2], out="run", **more)
print(len(cells), *sorted(set(cells["gate"])))
"""


@pytest.fixture
def beside(tmp_path):
    """A script, and a module beside it; both are in another folder than the current one."""
    for name in ("code", "elsewhere", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "lab_gpt.py").write_text(MODEL)
    (tmp_path / "code" / "script.py").write_text(SCRIPT)

    def start(*arguments):
        command = [sys.executable, tmp_path / "code" / "script.py", *map(str, arguments)]
        env = {**environment(), "TMPDIR": str(tmp_path / "temporary"), "NANOBENCH_LOCKS": own_locks()}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path / "elsewhere", env=env, **pipes)

    start.folder = tmp_path
    return start


def test_a_script_needs_no_guard_prints_nothing_and_leaves_no_weights(beside):
    out, err = beside(1).communicate(timeout=300)
    assert (out, err) == ("8 exact\n", "")
    cells = nanobench.load(beside.folder / "elsewhere" / "run")
    assert sorted({name.partition("-")[0] for name in cells["model"]}) == ["lab_gpt:Tiny", "object:lab_gpt.Tiny"]
    assert list((beside.folder / "temporary").rglob("*.pt")) == []


@pytest.mark.slow
def test_control_c_in_a_script_keeps_the_run_and_ends_the_workers(beside):
    script = beside(3)
    raw, deadline = beside.folder / "elsewhere" / "run" / "raw", time.monotonic() + 120
    while time.monotonic() < deadline and not (raw.exists() and list(raw.glob("*.parquet"))):
        time.sleep(0.05)
    workers = psutil.Process(script.pid).children(recursive=True)
    assert workers
    script.send_signal(signal.SIGINT)
    _, err = script.communicate(timeout=60)
    assert script.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    assert "finished trials are kept in run; resume='run' measures the others" in err
    assert len(nanobench.load(raw.parent)) >= 2
    assert list((beside.folder / "temporary").rglob("*.pt")) == []
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_a_notebook_measures_an_object_and_shows_a_bar(beside, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    folder = beside.folder / "code"
    cells = [
        "import nanobench\nfrom nanobench.errors import UserError\nfrom lab_gpt import Tiny\nmodel = Tiny()",
        f"cells = nanobench.kv_sweep(model, 1, progress=True, **{QUICK})\nlen(cells), set(cells['gate'])",
        "class Mine(Tiny): pass\ntry:\n    nanobench.kv_sweep(Mine())\nexcept UserError as error:\n    print(error)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    bar, result = notebook.cells[1]["outputs"]
    assert bar["data"]["text/plain"].startswith("█" * 24 + " 1/1  0 s left  launch 1, object:lab_gpt.Tiny-")
    assert result["data"]["text/plain"] == "(2, {'exact'})"
    assert "class 'Mine' is defined in a script or notebook (__main__)" in notebook.cells[2]["outputs"][0]["text"]
