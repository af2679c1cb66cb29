"""The requests that a worker answers: a description, a calibration, a call, a check, a sample, a recording, or a trial."""

import time
from dataclasses import asdict
from pathlib import Path

import torch

from nanobench import registry
from nanobench.errors import UserError
from nanobench.probes import environment, memory
from nanobench.probes.host import HostProbe
from nanobench.records import Gate, JsonObject
from nanobench.schema import Trial
from nanobench.training import distributed
from nanobench.training.data import Corpus
from nanobench.worker import kv_dashboard, output_check, sample
from nanobench.worker.arms import Report
from nanobench.worker.batch_trial import run_batch_trial
from nanobench.worker.model_shape import shape_of
from nanobench.worker.trial import measure


def calibrate(request: JsonObject) -> JsonObject:
    """The limits of a device at a dtype, a number of threads and a kind of weights; with `brief` only those that show a drift.

    `pressure_fraction` is the share of the time in which some task waited for a core; None if the kernel does not report it.
    """
    from nanobench.worker.calibration import measure

    machine = environment.Machine()
    torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    # Events and streams are made on the current device.
    distributed.set_device(device)
    probe, start = HostProbe(), time.perf_counter()
    probe.before()
    if request["brief"]:
        limits = measure.brief(device, request["dtype"])
    else:
        limits = measure.calibrate(device, request["dtype"], request.get("weights", "float"))
    waited_s = probe.after()["pressure_s"]
    pressure = None if waited_s is None else waited_s / (time.perf_counter() - start)
    return {"limits": limits.to_json(), "pressure_fraction": pressure, "machine": machine.after(request["device"])}


def describe(request: JsonObject) -> JsonObject:
    """What the control process needs for its plan and cannot find without torch: devices, identity, sizes of the models.

    `request["models"]` gives the model names for each kind of device, because a default model may depend on it. Raises
    UserError for a model, and for a member of another family, that cannot be imported.
    """
    load, gpus = environment.LoadSample(), environment.gpus()
    device = request["device"] if request["device"] != "auto" else ("cuda" if gpus else "cpu")
    kind, _, index = device.partition(":")
    is_present = kind == "cpu" or int(index or 0) < len(gpus)
    for family, names in request.get("members", {}).items():
        for name in names:
            registry.find(family, name)
    return {
        "device": device,
        "gpus": gpus,
        "identity": environment.identity(),
        "available_bytes": memory.available_bytes(),
        "matmul_flops_per_s": environment.matmul_flops_per_s(device) if is_present else None,
        "models": {name: asdict(shape_of(name)) for name in request["models"][kind]},
        "texts": {f"{tokenizer} {path}": tokens_of(path, tokenizer) for path, tokenizer in request.get("texts", ())},
        # Last: the load sample takes half a second, which the work above has filled.
        "state": environment.state(load),
    }


def tokens_of(path: str, tokenizer: str) -> dict[str, int]:
    """The number of tokens in a text, and the largest token. Raises UserError like Corpus.of_text."""
    tokens_N = Corpus.of_text(Path(path), tokenizer).tokens_N
    return {"tokens": len(tokens_N), "largest": int(tokens_N.max())}


def answer(request: JsonObject, out: Path, report: Report) -> JsonObject:
    """The answer to one request, as JSON data. A UserError of a description is returned as `user_error`."""
    if "describe" in request:
        try:
            return describe(request["describe"])
        except UserError as error:
            return {"user_error": str(error)}
    if "calibrate" in request:
        return calibrate(request["calibrate"])
    if "call" in request:
        # By its name: it may be in a room above this one.
        return registry.function(request["call"]["function"])(**request["call"]["arguments"])
    if "check" in request:
        return output_check.check(request["check"])
    if "sample" in request:
        return sample.take(request["sample"])
    if "kv_dashboard" in request:
        return kv_dashboard.record(request["kv_dashboard"])
    if "batch_trial" in request:
        return run_batch_trial(Trial.from_json(request["batch_trial"]), out)
    machine, trial = environment.Machine(), Trial.from_json(request["trial"])
    known_gates = {label: Gate(**gate) for label, gate in request["gates"].items()}
    arms = [asdict(record) for record in measure(trial, known_gates, out, report)]
    return {"arms": arms, "machine": machine.after(trial.point.device)}
