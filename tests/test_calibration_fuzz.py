"""Whole calibrations with a clock that lies: none raises, and none predicts from nothing.

NANOBENCH_FUZZ=10000 pytest tests/test_calibration_fuzz.py -s    runs that many, and prints what became of them.
"""

import functools
import json
import math
import os
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

import test_metrics_roofline as roofline_cells
from nanobench.analysis import predict
from nanobench.errors import UserError
from nanobench.results.metrics import roofline
from nanobench.results.run_context import Calibration, DriftCheck, Machine
from nanobench.roofline.datasheet import Datasheet
from nanobench.roofline.limits import GROUPS, KINDS, Limits
from nanobench.schema import GPTShape
from nanobench.views import calibration as views
from nanobench.worker.calibration import measure, model
from nanobench.worker.calibration.model import InstrumentedModel, Size

RUNS = int(os.environ.get("NANOBENCH_FUZZ", "80"))
SIZES = (measure.DISPATCH_SIZE, Size(64, 2, 128, (1, 2, 16), ((1, 24), (16, 64))))
BRIEF_SIZES = (Size(64, 2, 128, (1,), ((8, 24),)),)
OPERATIONS = {None: 21, "matmul": 8, "lm_head": 1, "attention": 6, "argmax": 2}
THERE = Datasheet("There", bytes_per_s=1e12, flops={"float32": 1e13})
SETTINGS = ("cpu float32 1", "cuda float32 1")
NEEDED = {kind for group in GROUPS for kind in group} - {"read", "copy"}
"""Kinds that every prediction uses; `read` only classifies, and `copy` is only for a cache that grows by copies."""


@dataclass
class LyingClock:
    """Each reading adds a step that is random, nothing, negative, a spike, or twice as long from some reading on."""

    random: random.Random

    def __post_init__(self):
        often = functools.partial(self.random.choices, (0.0, 0.003, 0.1, 0.5, 1.0), (6, 3, 2, 1, 0.5))
        (self.nothing,), (self.backwards,), (self.spikes,), (self.nonsense,) = (often() for _ in range(4))
        self.enqueues, self.timestamp_interval = self.random.random() < 0.3, 1
        self.base_s, self.sigma = 10 ** self.random.uniform(-8, -4), self.random.choice((0.0, 0.1, 1.0))
        self.halves_at, self.reading, self.now_s = self.random.choice((math.inf, 500, 2000)), 0, 0.0

    def now(self):
        self.reading += 1
        step_s = self.base_s * self.random.lognormvariate(0, self.sigma)
        step_s *= 2 if self.reading > self.halves_at else 1
        if self.random.random() < self.spikes:
            step_s *= 10 ** self.random.uniform(1, 8)
        if self.random.random() < self.nothing:
            step_s = 0.0
        if self.random.random() < self.backwards:
            step_s *= -self.random.choice((1, 10, 1000))
        self.now_s += step_s
        return self.random.choice((math.nan, math.inf, -math.inf)) if self.random.random() < self.nonsense else self.now_s

    timestamp = now

    def sync(self):
        """Nothing to wait for."""

    def resolve(self, timestamps):
        return [timestamp - timestamps[0] for timestamp in timestamps]


class FakeModel(InstrumentedModel):
    """A model whose parts do nothing: timing, counting and everything after them are real."""

    def __init__(self, clock, size, device, dtype, weights="float"):
        self.size, self.device, self.dtype, self.clock, self.weights = size, device, dtype, clock, weights
        self.timestamps, self.counting = [], False
        sizes = {"n_layer": size.layers, "n_head": 1, "n_kv_head": 1, "n_embd": size.width, "vocab_size": size.vocab}
        self.adapter = SimpleNamespace(shape=GPTShape(architecture="gpt2", block_size=256, n_params=1, **sizes))
        self.parts = {kind: self.instrument(kind, lambda: None) for kind in model.PARTS}

    def cached_step(self, batch_size):
        return self.one_pass

    def full_pass(self, batch_size, tokens):
        return self.one_pass

    def one_pass(self):
        for _ in range(self.size.layers):
            for kind in ("matmul", "matmul", "attention", "matmul", "matmul"):
                self.parts[kind]()
        self.parts["lm_head"]()
        self.parts["argmax"]()

    def count_operations(self, work):
        return Counter() if self.clock.random.random() < 0.02 else Counter(OPERATIONS)


@pytest.fixture
def fuzzed(monkeypatch):
    """A function of a seed that puts a lying clock under the next calibration and returns its generator."""
    monkeypatch.setattr(model, "MAX_PASSES", 6)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    for name, value in {"SIZES": SIZES, "BRIEF_SIZES": BRIEF_SIZES, "LARGE_BYTES": 1 << 10}.items():
        monkeypatch.setattr(measure, name, value)

    def fuzz(seed):
        generator = random.Random(seed)
        clock = LyingClock(generator)
        monkeypatch.setattr(measure, "InstrumentedModel", functools.partial(FakeModel, clock))
        monkeypatch.setattr(measure, "make_clock", lambda device: clock)
        monkeypatch.setattr(measure, "kernel_launches", lambda *each: generator.choice((0, 1, 40, 40)))
        return generator

    return fuzz


CPU = torch.device("cpu")


def stored(limits):
    """Limits as they come back from a file that no JSON parser refuses."""
    again = Limits.from_json(json.loads(json.dumps(limits.to_json(), allow_nan=False)))
    assert again == limits
    return again


def calibrated(fuzz, seed):
    """A fuzzed calibration with up to three drift checks, of which some are under another clock."""
    generator = fuzz(seed)
    limits = stored(measure.calibrate(CPU, "float32"))
    checks = []
    for number in range(generator.choice((0, 1, 3))):
        if generator.random() < 0.5:
            fuzz(f"{seed} {number}")
        before, after = (stored(measure.brief(CPU, "float32")) for _ in range(2))
        checks.append(DriftCheck(roofline_cells.POINT, before, after))
    return Calibration(limits, drift_checks=tuple(checks))


def check_cell(cell):
    """Checks the columns of a cell: nothing from nothing, and nothing uncertain in silence. Returns what became of it."""
    limits = cell.machine.limits_of(cell.point)
    columns = {metric.name: metric.compute(cell) for metric in roofline.METRICS}
    known, note = {limit.kind for limit in limits.found}, columns["prediction_note"]
    predicted = [
        value
        for name, value in columns.items()
        if name.startswith("predicted_") and name != "predicted_step_s" and cell.arm_index
    ]
    if not all(known & set(group) for group in GROUPS):
        assert note.startswith("the limit ")
        assert (set(predicted) or {None}) == {None} == {columns["bound_by"], columns["prediction_uncertainty"]}
        return "null, with the reason"
    assert all(0 < value < math.inf for value in [*predicted, cell.prediction.call.total_s, cell.prediction.host_floor_s])
    assert 0 <= columns["prediction_uncertainty"] < math.inf
    assert all(f"{kind} counts at the rate of " in note for kind in NEEDED - known)
    return "predicted, with stand-ins" if note else "predicted"


def check_elsewhere(cells, limits):
    """Checks the predictions for other hardware: finite numbers, or one line with the reason."""
    if all(cell.prediction for cell in cells):
        rows = predict.rows(cells, THERE, None, None)
        assert all(0 < row["predicted_output_tok_s"] < math.inf for row in rows)
    else:
        with pytest.raises(UserError, match=re.escape(limits.missing())):
            predict.rows(cells, THERE, None, None)


def check_limits(limits):
    """Each limit has a value or a reason, and views show both."""
    assert all(limit.kind in KINDS and 0 < limit.value < math.inf and 0 <= limit.spread < math.inf for limit in limits.found)
    assert all(each.reason for each in limits.unresolved)
    assert {each.kind for each in (*limits.found, *limits.unresolved)} >= NEEDED
    lines = {(limit.kind, limit.kind == "attention" and limit.rows) for limit in limits.found if limit.kind in views.WORDS}
    assert views.figures(limits).row_count == len(lines)
    assert views.over_rows(limits).columns
    assert len(list(views.unresolved(limits))) >= bool(limits.unresolved)


def test_no_calibration_raises_and_none_predicts_from_nothing(fuzzed):
    became = Counter()
    for seed in range(RUNS):
        calibration = calibrated(fuzzed, seed)
        check_limits(calibration.limits)
        for check in calibration.drift_checks:
            assert views.moved(calibration.limits, check.after)
        assert json.dumps(views.as_document(calibration, "cpu float32 1"), allow_nan=False)
        machine = Machine.of({"m": roofline_cells.SHAPE}, dict.fromkeys(SETTINGS, calibration), "some CPU")
        cells = [cell for path in ("static", "cat") for cell in roofline_cells.cells(machine, path=path)]
        cells += roofline_cells.cells(machine, point=replace(roofline_cells.POINT, device="cuda"))
        became[", ".join({check_cell(cell) for cell in cells})] += 1
        check_elsewhere(cells[:2], calibration.limits)
    print(*(f"{count} of {RUNS}: {what}" for what, count in became.most_common()), sep="\n")
    assert {what for each in became for what in each.split(", predicted")} >= {"predicted", "null, with the reason"}
    assert any("stand-ins" in what for what in became)


def test_a_clock_that_stands_still_ends_and_resolves_nothing(fuzzed, monkeypatch):
    fuzzed(0)
    monkeypatch.setattr(LyingClock, "now", lambda clock: 0.0)
    monkeypatch.setattr(LyingClock, "timestamp", lambda clock: 0.0)
    found = measure.calibrate(CPU, "float32")
    assert found.found == ()
    assert found.missing().startswith("the limit 'operation' has no value: it takes no measurable time")
