"""The command line and its workers in this process: for sweeps whose rows are what a test looks at, and for one-line errors.

Nothing here can be killed, limited in memory, or differ from launch to launch: tests of those take processes of their own.
"""

import contextlib
import functools
import gc
import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nanobench import source_code
from nanobench.cli import app
from nanobench.probes import environment, memory
from nanobench.sweep.executors import base, local
from nanobench.worker import __main__ as worker
from nanobench.worker import batch_trial
from nanobench.worker.workloads import timed

TESTS = Path(__file__).parent
PLUGINS = ("fakes", "zoo", "zoo_beside", "virtual_device")
"""Modules that every request imports anew, because they count calls."""
OWN_CODE = functools.cache(source_code.of_nanobench)
"""Nothing changes this package while the tests run; modules of plug-ins are read each time."""


class InProcess:
    """Meets sweep.executors.base.Executor, and answers every request here."""

    def __init__(self, isolation, seed, cache, interpreter=None):
        self.cache = cache

    def run(self, request, folder, log, timeout_s, progress):
        assert local.ranks_of(request) == 1, "ranks need processes"
        folder.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        for name in ("record.json", "failure.json", "running"):
            (folder / name).unlink(missing_ok=True)
        (folder / "trial.json").write_text(json.dumps(request))
        terminal, code = sys.stdout, 0

        def report(message):
            with contextlib.redirect_stdout(terminal):
                progress(json.loads(json.dumps(message)))

        with restored(self.cache), log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                worker.run(folder / "trial.json", folder, report)
            except Exception:
                traceback.print_exc()
                code = 1
        return base.result(folder, log, code, None)

    def close(self):
        pass


@contextlib.contextmanager
def restored(cache):
    """As it is in a new process: plug-ins are imported anew, and what torch and the interpreter were set to comes back."""
    threads, collects, known, path = torch.get_num_threads(), gc.isenabled(), set(sys.modules), list(sys.path)
    kept = {name: sys.modules.pop(name) for name in PLUGINS if name in sys.modules}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        # The limit holds for the whole process; half seconds per description, warm-up and batch size are for real ones.
        patch.setattr(memory, "limited", lambda limit_bytes: contextlib.nullcontext())
        patch.setattr(environment, "BUSY_S", 0.0)
        patch.setattr(environment, "matmul_flops_per_s", lambda device: 1e11)
        patch.setattr(timed, "WARMUP_S", 0.01)
        patch.setattr(batch_trial, "TIMED_S", 0.01)
        try:
            yield
        finally:
            gc.unfreeze()
            (gc.enable if collects else gc.disable)()
            torch.set_num_threads(threads)
            sys.path[:] = path
            for name in set(sys.modules) - known:
                if is_below(sys.modules[name], Path.cwd()):
                    del sys.modules[name]
            for name in PLUGINS:
                sys.modules.pop(name, None)
            sys.modules.update(kept)


def is_below(module, folder):
    """Whether a module comes from a test's own folder."""
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


@dataclass(frozen=True)
class Done:
    """As subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments, cwd, timeout=None, code=None, env=None):
    """Runs the command line in `cwd`, with the interface of the fixture that starts a process."""
    words = [str(argument) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "build", InProcess)
        patch.setattr(source_code, "of_nanobench", OWN_CODE)
        patch.setattr(sys, "argv", ["nanobench", *words])
        patch.setattr(sys, "path", [str(TESTS), *sys.path])
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        done = CliRunner().invoke(app, words, prog_name="nanobench")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    found = Done(done.exit_code, done.stdout, done.stderr)
    if code is not None:
        assert found.returncode == code, found.stdout + found.stderr
    return found
