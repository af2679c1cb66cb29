"""Every cheat that reaches beyond its own calls gets its verdict through the command line, and what it changed is set back."""

import gc
import re
import signal
import sys

import pytest
import torch

from nanobench.records import MEASURED
from nanobench.results import finder
from test_zoo import ONE, TRAIN

SHARED = "it changed what all arms share: "
CHEATS = {
    "alarm": f"{SHARED}interval timers, signal handlers",
    "profile": f"{SHARED}the interpreter's profile and trace functions",
    "mode": f"{SHARED}torch's function and dispatch modes",
    "collect": f"{SHARED}garbage collection",
    "detached": "a process that it started used .* s of CPU time",
    "late_logits": r"logits of token \d+ off by",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_beside_other_arms_is_wrong_and_leaves_nothing(nanobench_here, tmp_path, cheat):
    asked = ("kv-sweep", *ONE, "--batch", 2, "--new-tokens", 12, "--engine", f"uncached,zoo_beside:{cheat}", "--no-plot")
    nanobench_here(*asked, cwd=tmp_path, code=1)
    cells = finder.load(tmp_path / "run").set_index("arm")
    assert cells.loc[f"zoo_beside:{cheat}", "status"] == "wrong"
    assert re.search(CHEATS[cheat], cells.loc[f"zoo_beside:{cheat}", "reason"])
    assert cells.loc["uncached", "status"] in MEASURED
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert sys.getprofile() is None
    assert torch._C._len_torch_function_stack() == 0
    assert gc.get_threshold()[0] > 1


def test_an_optimizer_that_freezes_weights_after_the_gate_is_wrong(nanobench_here, tmp_path):
    nanobench_here(*TRAIN, "--optimizer", "zoo_beside:freezing", "--no-plot", "--out", "run", cwd=tmp_path, code=1)
    (cell,) = finder.load(tmp_path / "run").to_dict("records")
    assert cell["status"] == "wrong", cell["reason"]
    assert "or a parameter was frozen" in cell["reason"]
