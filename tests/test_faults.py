"""Every fault at every stage of a sweep: what is finished stays, what is missing is measured after --resume, and only once."""

import json
import subprocess
import sys

import pytest

import faults
from conftest import TESTS, environment

QUICK = "raw file"
FILES = [
    pytest.param(stage, fault, marks=[pytest.mark.slow] * (stage != QUICK))
    for stage in faults.STAGES
    for fault in faults.FAULTS
]
ROWS = {
    "kill": ("error", "worker killed by SIGKILL (the kernel's OOM killer, or a manual kill)"),
    "hang": ("timeout", "no answer within 60 s"),
    "fill": ("error", "OSError: [Errno 28] No space left on device"),
    "corrupt": ("error", "worker ended with exit code 0; see its log"),
}


@pytest.fixture(scope="module")
def came_of(tmp_path_factory):
    """(stage, fault) -> what came of it. A stage is run with all faults when it is first asked for."""
    known = {}

    def of(stage, fault):
        if (stage, fault) not in known:
            folder = tmp_path_factory.mktemp("faults")
            command = [sys.executable, str(TESTS / "faults.py"), str(folder), stage]
            done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            for found in map(json.loads, done.stdout.splitlines()):
                known[found["stage"], found["fault"]] = found
        return known[stage, fault]

    return of


@pytest.mark.parametrize(("stage", "fault"), FILES)
def test_a_fault_costs_nothing_that_was_finished_and_a_resume_completes_the_run(came_of, stage, fault):
    found = came_of(stage, fault)
    if fault == "fill":
        (line,) = found["said"]
        assert (found["ended"], line.partition(":")[0]) == ("exit code 1", "UserError")
        assert "No space left on device" in line
    else:
        assert (found["ended"], found["said"]) == ("exit code 0" if fault == "delay" else "SIGKILL", [])
    if (stage, fault) == ("run.json", "corrupt"):
        (line,) = found["resume_said"]
        assert "run.json cannot be read" in line
        return
    assert found.get("seen", "exit code 0") == "exit code 0"
    assert (found["resumed"], found["resume_said"]) == ("exit code 0", [])
    assert (found["whole"], found["damage"]) == ("exit code 0", [])


@pytest.mark.parametrize("fault", faults.WORKER)
def test_a_fault_of_a_worker_is_a_row_and_costs_no_other_arm(came_of, fault):
    found = came_of("worker", fault)
    assert (found["ended"], found["said"]) == ("exit code 0", [])
    failed = [(batch, launch, *how) for batch, launch, _, *how in found["rows"] if how[0] != "ok"]
    assert failed == ([(2, 1, *ROWS[fault])] if fault in ROWS else [])
    # An arm that exceeded its time is not launched again. Every other arm is there once per launch.
    assert len(found["rows"]) == len({tuple(row[:3]) for row in found["rows"]}) == (7 if fault == "hang" else 8)
