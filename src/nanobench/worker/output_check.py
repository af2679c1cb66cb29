"""The check of one launch's outputs, in a process that never imports the engines that made them.

The control process starts it after the launch, with a secret that chooses the calls. Prompts are generated again from their
seeds, the model is built again: nothing but the tokens comes from the process that is checked.
"""

import random
from pathlib import Path

import torch
from torch import Tensor

from nanobench import registry
from nanobench.gates import across
from nanobench.gates import outputs as output_gate
from nanobench.gates import training as training_gate
from nanobench.gates.outputs import Sample
from nanobench.gates.training import Recording
from nanobench.models import _lossy as lossy
from nanobench.models.base import Adapter
from nanobench.records import JsonObject
from nanobench.schema import REFERENCE_DTYPE, Arm, Point, Trial
from nanobench.worker.workloads.generate import load
from nanobench.worker.workloads.outputs import Output, Outputs
from nanobench.worker.workloads.prompts import Prompts, poison, prompts_of
from nanobench.worker.workloads.train import Training

LEAST_CALLS, MOST_CALLS = 5, 32
TAIL, LEAST_TAIL = 8, 4
"""A row whose last TAIL tokens are the poison was not written; with fewer than LEAST_TAIL that might be chance."""
TOKENS = 512
"""Tokens of the pass that checks an arm, unless LEAST_CALLS calls need more."""
SYNTHETIC = "synthetic tokens were not compared, only those that the model chose"


def check(request: JsonObject) -> JsonObject:
    """The answer to a check: per arm of the trial the number of `checked_calls` and what is `wrong`, or null."""
    trial = Trial.from_json(request["trial"])
    torch.set_num_threads(trial.point.threads)
    chosen = random.Random(request["secret"])
    if trial.point.trains:
        arms = check_training(trial, request["arms"])
    else:
        with torch.inference_mode():
            arms = check_generation(trial, request["arms"], chosen)
    return {"arms": arms}


def check_generation(trial: Trial, arms: list[JsonObject], chosen: random.Random) -> list[JsonObject]:
    """Per arm: how many of its calls were checked, and what is wrong with them."""
    point, found = trial.point, []
    adapters: dict[tuple[str, str], Adapter] = {}
    prompts: Prompts | None = None
    for request in arms:
        outputs = Outputs.load(Path(request["outputs"]))
        parts = [choose(same, point, chosen) for same in by_length(outputs)]
        arm = Arm(**request["arm"])
        adapter = adapters.get((arm.weights, arm.kv_cache)) or reference_of(trial, arm)
        adapters[arm.weights, arm.kv_cache] = adapter
        prompts = prompts or prompts_of(adapter, point, torch.device("cpu"))
        vocab_size = adapter.shape.vocab_size
        wrong = not_written(outputs, point, vocab_size)
        sampler = None if arm.sampler == "greedy" else registry.find("samplers", arm.sampler)()
        for calls in parts:
            if wrong is None:
                sample = sample_of(calls, point, prompts, chosen)
                wrong = output_gate.judge(adapter, sampler, sample, point.dtype, request["gate_tolerance"])
        note = SYNTHETIC if any(each.model_places is not None for each in outputs) else None
        found.append({"checked_calls": sum(map(len, parts)), "wrong": wrong, "note": note})
    return found


def check_training(trial: Trial, arms: list[JsonObject]) -> list[JsonObject]:
    """Per arm: the steps of one timed repetition are replayed by the reference loop."""
    context, found = Training(trial), []
    for request in arms:
        recording = Recording(**torch.load(request["outputs"], weights_only=True))
        steps = [context.stream.step(number) for number in recording.numbers]
        param_dtype = Arm(**request["arm"]).param_dtype
        wrong = training_gate.judge_replay(context.adapter, steps, trial.point, recording, param_dtype)
        found.append({"checked_calls": len(steps), "wrong": wrong, "note": None})
    return found


def reference_of(trial: Trial, arm: Arm) -> Adapter:
    """The model with the weights of the measured dtype; 16-bit weights in float32. That of a lossy arm has the values that its
    quantised weights and cache stand for: they are quantised again here.
    """
    point = trial.point
    adapter = load(point, trial.seed)
    across.take_from(trial, adapter)
    adapter = lossy.expected(adapter, arm)
    if point.dtype != "float32":
        # Nothing else holds its tensors here, so that they can be converted in place.
        adapter.module.to(getattr(torch, REFERENCE_DTYPE[point.dtype]))
    return adapter


def by_length(outputs: Outputs) -> list[list[Output]]:
    """The whole calls, and those of one token where there are any."""
    found: dict[int, list[Output]] = {}
    for output in outputs:
        found.setdefault(output.tokens_BN.shape[1], []).append(output)
    return [found[length] for length in sorted(found, reverse=True)]


def choose(outputs: list[Output], point: Point, chosen: random.Random) -> list[Output]:
    """The first call, the last, one inside a repetition of several calls, and random ones."""
    number = min(len(outputs), max(LEAST_CALLS, min(MOST_CALLS, TOKENS // point.total_len)))
    picked = {0, len(outputs) - 1}
    inside = [index for index, each in enumerate(outputs) if each.is_inside]
    if inside:
        picked.add(chosen.choice(inside))
    rest = [index for index in range(len(outputs)) if index not in picked]
    picked |= set(chosen.sample(rest, max(0, min(len(rest), number - len(picked)))))
    return [outputs[index] for index in sorted(picked)]


def not_written(outputs: Outputs, point: Point, vocab_size: int) -> str | None:
    """The first call with a row that ends in what was there before the repetition, or that has a number that is no token."""
    seed, poison_BN = None, torch.empty(0)
    for output in outputs:
        if output.prompt_seed != seed:
            seed = output.prompt_seed
            poison_BN = poison(seed, point.batch_size, point.new_tokens, vocab_size)
        tokens_BN = output.tokens_BN
        length = tokens_BN.shape[1]
        outside_B = ((tokens_BN < 0) | (tokens_BN >= vocab_size)).any(dim=1)
        untouched_B = (tokens_BN == poison_BN[:, :length])[:, -TAIL:].all(dim=1)
        if outside_B.any():
            return f"{name_of(output, int(outside_B.nonzero()[0]))}: a number that is no token"
        if length >= LEAST_TAIL and untouched_B.any():
            return f"{name_of(output, int(untouched_B.nonzero()[0]))}: its last tokens were not written"
    return None


def sample_of(outputs: list[Output], point: Point, made_by: Prompts, chosen: random.Random) -> Sample:
    """One random row of each call, with its prompt: the row whose logits were kept, where they were."""
    prompts, tokens, names = [], [], []
    for output in outputs:
        row = chosen.randrange(point.batch_size) if output.row is None else output.row
        prompts.append(prompt_of(output, point, made_by)[row])
        tokens.append(output.tokens_BN[row].long())
        names.append(name_of(output, row))
    device = torch.device(point.device)
    logits = [None if each.logits_V is None else (each.place or 0, each.logits_V) for each in outputs]
    places = [each.model_places for each in outputs]
    return Sample(torch.stack(prompts).to(device), torch.stack(tokens).to(device), names, logits, places)


def prompt_of(output: Output, point: Point, made_by: Prompts) -> Tensor:
    """The prompts [B, T] of a call."""
    prompt_BT = torch.empty((point.batch_size, point.prompt_len), dtype=torch.long)
    made_by.write(made_by.bases(output.prompt_seed, output.call + 1), output.call, output.shift, prompt_BT)
    return prompt_BT


def name_of(output: Output, row: int) -> str:
    """Where a row comes from."""
    call = f", call {output.call + 1} of {output.calls}" if output.calls > 1 else ""
    return f"timed repetition {output.block + 1}{call}, row {row}"
