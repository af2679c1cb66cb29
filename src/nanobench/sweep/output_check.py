"""The check of a launch's outputs by a second process, which becomes part of the arms' outcomes.

The secret that chooses the calls is drawn here, after the launch has ended.
"""

import secrets
import time
from dataclasses import asdict, replace
from pathlib import Path

from nanobench.records import JsonObject, Status
from nanobench.schema import Trial
from nanobench.sweep.executors.base import Executor, WorkerResult

REPLAYED_ONE_IN = 3
"""Training: one launch in this many is replayed, at random, and the first always is."""


def after(executor: Executor, trial: Trial, result: WorkerResult, folder: Path, log: Path, timeout_s: float) -> WorkerResult:
    """The result of one process of a trial with its outputs checked, where that is requested and was not done on its node."""
    record = result.record
    if record is None or trial.gate_only or not trial.check or record.get("checked"):
        return result
    return replace(result, record={**checked(executor, trial, record, folder, log, timeout_s), "checked": True})


def checked(executor: Executor, trial: Trial, record: JsonObject, folder: Path, log: Path, timeout_s: float) -> JsonObject:
    """The record of one process of a trial, with what the check found in the outcome of each arm that finished.

    `folder` is where the process left the outputs of its arms. An arm whose outputs are wrong becomes `wrong`.
    """
    finished = [index for index, arm in enumerate(record["arms"]) if arm["outcome"]["status"] == Status.OK]
    present = [index for index in finished if outputs_file(folder, record, index, trial).exists()]
    outcomes: dict[int, JsonObject] = {
        index: {"status": Status.ERROR, "reason": "the outputs of its timed calls are missing"}
        for index in finished
        if index not in present
    }
    if not is_checked(trial):
        note = f"not replayed in this launch: the first and one in {REPLAYED_ONE_IN} of the others are"
        outcomes |= {index: {"check_note": note} for index in present}
    elif present:
        requests = [request_of(record["arms"][index], outputs_file(folder, record, index, trial)) for index in present]
        request = {"trial": asdict(trial), "arms": requests, "secret": secrets.token_hex(16)}
        start = time.monotonic()
        result = executor.run({"check": request}, folder / "check", log, timeout_s, lambda report: None)
        check_s = time.monotonic() - start
        if result.record is None:
            outcomes |= {index: {"check_note": f"outputs were not checked: {result.reason}"} for index in present}
        else:
            answers = zip(present, result.record["arms"], strict=True)
            outcomes |= {index: outcome_of(answer, check_s) for index, answer in answers}
    arms = [{**arm, "outcome": {**arm["outcome"], **outcomes.get(index, {})}} for index, arm in enumerate(record["arms"])]
    return {**record, "arms": arms}


def is_checked(trial: Trial) -> bool:
    """Whether the outputs of this launch are checked: always in generation; a training step costs more to repeat."""
    return not trial.point.trains or trial.launch == 1 or secrets.randbelow(REPLAYED_ONE_IN) == 0


def outputs_file(folder: Path, record: JsonObject, index: int, trial: Trial) -> Path:
    """Where the process left the outputs of an arm of its record."""
    place = [asdict(arm) for arm in trial.arms].index(record["arms"][index]["arm"])
    return folder / f"outputs-{place}.pt"


def request_of(arm: JsonObject, outputs: Path) -> JsonObject:
    """What the check needs to know of an arm."""
    return {"arm": arm["arm"], "outputs": str(outputs), "gate_tolerance": arm["outcome"]["gate_tolerance"]}


def outcome_of(answer: JsonObject, check_s: float) -> JsonObject:
    """The fields of an outcome that follow from the answer about one arm."""
    found = {"checked_calls": answer["checked_calls"], "check_s": check_s, "check_note": answer["note"]}
    if answer["wrong"] is None:
        return found
    return {**found, "status": Status.WRONG, "reason": answer["wrong"], "check_note": answer["wrong"]}
