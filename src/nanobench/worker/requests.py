"""What a worker answers: a description, a calibration, a batch trial, or a trial."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nanobench import registry
from nanobench.errors import UserError
from nanobench.probes import environment, memory
from nanobench.probes.host import HostProbe
from nanobench.records import Gate
from nanobench.schema import GPTShape, Trial
from nanobench.training.data import Corpus
from nanobench.worker.batch_trial import attempt
from nanobench.worker.trial import Report, measure, outcome_of


def calibrate(asked: dict[str, Any]) -> dict[str, Any]:
    """The limits of a device at a dtype and a number of threads, all of them or the few that show a drift; and the share of
    the time in which tasks waited for a core meanwhile, where the kernel tells.
    """
    from nanobench.worker.calibration import measure

    torch.set_num_threads(asked["threads"])
    device = torch.device(asked["device"])
    probe, start = HostProbe(), time.perf_counter()
    probe.before()
    found = (measure.brief if asked["brief"] else measure.calibrate)(device, asked["dtype"])
    waited_s = probe.after()["pressure_s"]
    pressure = None if waited_s is None else waited_s / (time.perf_counter() - start)
    return {"limits": [asdict(limit) for limit in found], "pressure_fraction": pressure}


def describe(question: dict[str, Any]) -> dict[str, Any]:
    """What the control process must know before it plans and can't know without torch: devices, identity, sizes of the models.

    `question["models"]` gives the names for each kind of device, so that a default model may depend on it.
    """
    load, gpus = environment.LoadSample(), environment.gpus()
    device = question["device"] if question["device"] != "auto" else ("cuda" if gpus else "cpu")
    kind, _, index = device.partition(":")
    there = kind == "cpu" or int(index or 0) < len(gpus)
    return {
        "device": device,
        "gpus": gpus,
        "identity": environment.identity(),
        "available_bytes": memory.available_bytes(),
        "matmul_flops_per_s": environment.matmul_flops_per_s(device) if there else None,
        "models": {name: asdict(shape_of(name)) for name in question["models"][kind]},
        "texts": {f"{tokenizer} {path}": tokens_of(path, tokenizer) for path, tokenizer in question.get("texts", ())},
        # Last: the sample of the load takes half a second, in which all above was done.
        "state": environment.state(load),
    }


def tokens_of(path: str, tokenizer: str) -> dict[str, int]:
    """How many tokens a text has, and the largest of them. Raises UserError as Corpus.of_text."""
    tokens_N = Corpus.of_text(Path(path), tokenizer).tokens_N
    return {"tokens": len(tokens_N), "largest": int(tokens_N.max())}


def shape_of(name: str) -> GPTShape:
    """A model's sizes, built without weights where its code allows that.

    Raises UserError where a foreign build() fails or gives no Adapter.
    """
    build = registry.find("models", name)
    try:
        with torch.device("meta"):
            adapter = build()
    except Exception:
        try:
            adapter = build()
        except Exception as error:
            raise UserError(f"model {name!r} cannot be built: {outcome_of(error).reason}") from error
    missing = [part for part in ("module", "shape", "forward", "make_cache") if not hasattr(adapter, part)]
    if missing:
        raise UserError(
            f"model {name!r} is no Adapter: its build() gives a {type(adapter).__name__} without {', '.join(missing)}"
        )
    return adapter.shape


def answer(request: dict[str, Any], out: Path, report: Report) -> dict[str, Any]:
    """The record of one request: a trial's arms, or a description; a user's mistake is passed on as such."""
    if "describe" in request:
        try:
            return describe(request["describe"])
        except UserError as error:
            return {"user_error": str(error)}
    if "calibrate" in request:
        return calibrate(request["calibrate"])
    if "attempt" in request:
        return attempt(Trial.from_json(request["attempt"]), out)
    trial = Trial.from_json(request["trial"])
    known = {label: Gate(**gate) for label, gate in request["gates"].items()}
    return {"arms": [asdict(record) for record in measure(trial, known, out, report)]}
