"""Synthetic acceptance: as many accepted tokens as the formula says, the passes of a real step, and never an exact verdict."""

import math
from collections import Counter
from functools import partial

import pytest
import torch

from nanobench import registry
from nanobench.engines import _acceptance as acceptance
from nanobench.engines import speculative
from nanobench.engines._compiler import Compiler
from nanobench.gates import outputs as output_gate
from nanobench.gates.generation import run_free
from nanobench.gates.outputs import Sample
from nanobench.models.gpt2 import build as gpt2
from nanobench.records import MEASURED, Repetition
from nanobench.results import finder, race, store
from nanobench.results.derive import derive
from nanobench.roofline import speculation
from nanobench.samplers import greedy, temperature
from nanobench.schema import Point
from nanobench.testing import assert_contract, check_engine
from nanobench.worker.workloads.drafts import DraftMeter

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 32, "vocab_size": 256, "block_size": 64}
OFF = Compiler("off")
SHARE = 0.7
TIMED = Repetition(kind="steady", wall_s=1.0)


def point_of(rows, new_tokens, prompt_len=8):
    names = {"model": "gpt2", "dtype": "float32", "device": "cpu", "threads": 1}
    return Point(**names, batch_size=rows, prompt_len=prompt_len, new_tokens=new_tokens)


class Counting:
    """A model that notes each pass: its new tokens, the position behind them, and whether it computes the last logits alone."""

    def __init__(self):
        torch.manual_seed(0)
        self.inner = gpt2(**SIZES)
        self.module, self.shape, self.make_cache = self.inner.module, self.inner.shape, self.inner.make_cache
        self.module.eval().requires_grad_(False)
        self.passes = []

    def forward_cached(self, idx_BT, pos_T, cache, last_only=True):
        self.passes.append((len(pos_T), int(pos_T[-1]) + 1, last_only))
        return self.inner.forward_cached(idx_BT, pos_T, cache, last_only=last_only)


@pytest.fixture
def draft(monkeypatch):
    """The draft of every engine that is built after this: a counting model."""
    made, find = Counting(), registry.find
    monkeypatch.setattr(registry, "check", lambda family, name: None)
    monkeypatch.setattr(registry, "find", lambda family, name: (lambda: made) if name == "counting" else find(family, name))
    return made


def build(target, rows, new_tokens, sampler=None, **arguments):
    return speculative.build(target, sampler or greedy.build(), point_of(rows, new_tokens), OFF, **arguments)


@pytest.mark.parametrize("rows", [1, 3])
@torch.inference_mode()
def test_rows_accept_as_many_tokens_as_the_formula_says(rows):
    """Of 60 calls: each share within four standard deviations of SHARE ** i; of all rows together, of SHARE ** (i * rows)."""
    engine, point = build(Counting(), rows, 44, accept=SHARE, draft_len=4), point_of(rows, 44)
    for prompt_BT in torch.randint(256, (60, rows, 8), generator=torch.Generator().manual_seed(1)):
        run_free(engine, prompt_BT, 44)
    counts = engine.draft_counts()
    each = zip(counts.drafted_by_position, counts.accepted_by_position, counts.kept_by_position, strict=True)
    for place, (drafted, accepted, kept) in enumerate(each, 1):
        for found, expected, samples in ((accepted, SHARE**place, rows * drafted), (kept, SHARE ** (place * rows), drafted)):
            assert found / drafted == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / samples))
    drafting = speculation.Drafting(4, None, SHARE)
    expected = speculation.expected_passes(point, drafting, drafting.kept(rows)).steps
    # A pass writes between 1 and 5 tokens, so the passes of a call vary by less than 5.
    assert counts.target_passes / 60 == pytest.approx(expected, abs=4 * 5 / math.sqrt(60))
    written = 1 + sum(counts.kept_by_position) / counts.target_passes
    assert written == pytest.approx(43 / expected, rel=0.1)


def test_a_prompt_decides_what_is_accepted():
    drawn = []
    for prompt in ([1, 2], [1, 2], [2, 1]):
        chance = acceptance.Chance(SHARE)
        chance.begin(prompt)
        drawn.append(chance.accepted(20, 4))
    assert drawn[0] == drawn[1] != drawn[2]
    assert acceptance.Chance(0).accepted(2, 3) == [0, 0]
    assert acceptance.Chance(1).accepted(2, 3) == [3, 3]


@pytest.mark.parametrize("sampler", [greedy.build(), temperature.build()])
@pytest.mark.parametrize(
    ("share", "verified", "drafted"),
    [
        (1, [(4, 12), (4, 16), (3, 19)], [(1, 9), (1, 10), (1, 11), (2, 13), (1, 14), (1, 15), (2, 17), (1, 18)]),
        (0, [(4, 12), (3, 12), (2, 12), (1, 12)], [(1, 9), (1, 10), (1, 11), (1, 10), (1, 11), (1, 11)]),
    ],
)
@torch.inference_mode()
def test_a_step_runs_the_passes_of_a_real_one(draft, sampler, share, verified, drafted):
    """Every pass of a call by its tokens and its end: of the model over K + 1 positions with all logits, K of the draft. After
    a rejection both go on at the first token that is not kept.
    """
    new_tokens = 12 if share else 5
    target = Counting()
    engine = build(target, 2, new_tokens, sampler, draft="counting", draft_len=3, accept=share)
    run_free(engine, torch.randint(256, (2, 8)), new_tokens)
    assert target.passes == [(8, 8, True), *[(tokens, end, False) for tokens, end in verified]]
    assert draft.passes == [(8, 8, True), *[(tokens, end, True) for tokens, end in drafted]]
    counts = engine.draft_counts()
    assert counts.target_passes == len(verified)
    assert sum(counts.drafted_by_position) == len(drafted)
    assert sum(counts.kept_by_position) == share * len(drafted)
    assert engine.draft_counts().target_passes == 0


@pytest.mark.parametrize("share", [0, 1])
@torch.inference_mode()
def test_the_passes_that_a_prediction_counts_are_those_that_are_run(draft, share):
    target = Counting()
    engine = build(target, 2, 20, draft="counting", draft_len=3, accept=share)
    run_free(engine, torch.randint(256, (2, 8)), 20)
    found = speculation.expected_passes(point_of(2, 20), engine.drafting, engine.drafting.kept(2))
    for passes, predicted in ((target.passes, found.target), (draft.passes, found.draft)):
        assert Counter({(one.tokens, one.context): count for one, count in predicted.items()}) == Counter(
            (tokens, end) for tokens, end, _ in passes[1:]
        )


@torch.inference_mode()
def test_the_exact_rule_and_chance_do_the_same_passes_for_the_same_acceptance(draft):
    """A draft that is the model itself is always right: the exact rule then does what an acceptance of 1 does."""
    target, passes = Counting(), []
    for rule in (None, 1):
        draft.passes, target.passes = [], []
        run_free(build(target, 1, 16, draft="counting", draft_len=4, accept=rule), torch.zeros((1, 8), dtype=torch.long), 16)
        passes.append((target.passes, draft.passes))
    assert passes[0] == passes[1]


# The gate


@pytest.mark.parametrize("arguments", [{"accept": SHARE}, {"accept": SHARE, "draft": "gpt2-nano"}, {"draft": "gpt2-nano"}])
def test_every_form_keeps_the_contract_of_engines(arguments):
    checks = check_engine(partial(speculative.build, **arguments))
    assert_contract(checks)
    assert {each.name for each in checks if each.note.startswith("not checked")} == {"sampler", "host reads"}
    notes = {each.name: each.note for each in checks}
    assert notes["gate"].startswith("synthetic acceptance 0.7: " if "accept" in arguments else "black box")
    assert "drafted tokens" in notes["drafts"]


def test_a_wrong_choice_after_accepted_tokens_is_found(monkeypatch):
    right = acceptance.GreedyPass.own_token
    monkeypatch.setattr(acceptance.GreedyPass, "own_token", lambda self, place: (right(self, place) + 1) % 256)
    failed = {each.name: each.note for each in check_engine(partial(speculative.build, accept=SHARE)) if not each.passed}
    assert set(failed) == {"gate", "long prompt"}
    assert "but row 0 differs at new token" in failed["gate"]


def test_a_cache_that_keeps_rejected_tokens_is_found(monkeypatch):
    """The next pass starts one position too late: it reads what a rejected token left behind."""

    def late(self, token_B1, drafted_BK, probs_BKV):
        self.newest += self.newest > self.prompt_len + 1
        found = verify(self, token_B1, drafted_BK, probs_BKV)
        self.newest -= self.newest > self.prompt_len + 2
        return found

    verify = speculative.Speculative.verify
    monkeypatch.setattr(speculative.Speculative, "verify", late)
    checks = check_engine(partial(speculative.build, accept=0.3, draft_len=2))
    assert not next(each for each in checks if each.name == "gate").passed


@torch.no_grad()
def test_only_tokens_that_the_model_chose_are_checked_after_a_launch():
    adapter = Counting().inner
    adapter.module.double()
    prompt_RT = torch.randint(256, (1, 8), generator=torch.Generator().manual_seed(3))
    sequence_RT = torch.cat((prompt_RT, torch.tensor([[5, 6, 7, 8]])), dim=1)
    for place in (0, 3):
        sequence_RT[0, 8 + place] = adapter.forward(sequence_RT[:, : 8 + place])[0, -1].argmax()

    def wrong(tokens_RN, places):
        sample = Sample(prompt_RT, tokens_RN, ["row"], [None], [places])
        return output_gate.judge(adapter, None, sample, "float32", None)

    tokens_RN = sequence_RT[:, 8:]
    assert wrong(tokens_RN, (0, 3)) is None
    assert "3 of" not in (wrong(tokens_RN, None) or "")
    assert "of 4 checked tokens are wrong" in wrong(tokens_RN, None)
    other_RN = tokens_RN.clone()
    other_RN[0, 3] = (other_RN[0, 3] + 1) % 256
    assert "token 4 is not the reference's choice" in wrong(other_RN, (0, 3))


# The worker


class Watch:
    """A clock that each timestamp moves on by a second."""

    def __init__(self):
        self.now_s = 0.0

    def timestamp(self):
        self.now_s += 1.0
        return self.now_s

    def resolve(self, timestamps):
        return [each - timestamps[0] for each in timestamps]


@torch.inference_mode()
def test_the_worker_times_drafts_and_forgets_what_came_before_a_repetition():
    engine = build(Counting(), 1, 5, accept=0, draft_len=2)
    meter = DraftMeter(engine, Watch())
    prompt_BT = torch.zeros((1, 8), dtype=torch.long)
    for timestamped in (True, False, True):
        meter.begin(timestamped)
        for _ in range(2):
            run_free(engine, prompt_BT, 5)
            meter.call_ended()
        added = meter.added_to(TIMED)
        assert added.target_passes == 8
        assert added.drafted_by_position == (6.0, 4.0)
        # Of the four steps of a call the last one drafts nothing.
        assert added.draft_s == (6.0 if timestamped else None)
        assert meter.places_of(2) == [(0, 1, 2, 3, 4)] * 2


def test_an_engine_that_drafts_nothing_reports_nothing():
    meter = DraftMeter(object(), Watch())
    meter.begin(True)
    meter.call_ended()
    assert meter.added_to(TIMED) is TIMED
    assert meter.places_of(2) == [None, None]
    assert meter.outcome() == {"synthetic": None, "drafting": None}


# The command


@pytest.fixture(scope="module")
def swept(nanobench_here, tmp_path_factory):
    """The folder of a sweep with plain, exact and synthetic arms, and what it printed."""
    folder = tmp_path_factory.mktemp("synthetic")
    engines = f"cached,speculative,speculative:accept={SHARE}"
    asked = ("--model", "gpt2-nano", "--batch", 2, "--prompt-len", 8, "--new-tokens", 16, "--threads", 1, "--launches", 1)
    more = ("--max-seconds", 0.2, "--calibration", "off", "--no-plot", "--out", "run", "--draft-len", 3)
    done = nanobench_here("kv-sweep", *asked, *more, "--engine", engines, cwd=folder, code=0, env={"COLUMNS": "240"})
    return folder, done.stdout


def test_a_synthetic_arm_is_measured_and_never_exact(swept):
    cells = finder.load(swept[0] / "run").set_index("engine")
    assert list(cells.index) == ["cached", "speculative:draft_len=3", f"speculative:accept={SHARE},draft_len=3"]
    plain, exact, synthetic = (cells.iloc[place] for place in range(3))
    assert set(cells["status"]) <= set(MEASURED)
    assert list(cells["gate"]) == ["exact", "exact", "synthetic"]
    assert synthetic["synthetic"] == "synthetic acceptance 0.7"
    assert synthetic["checked_calls"] >= 1
    assert synthetic["check_note"] == "synthetic tokens were not compared, only those that the model chose"
    columns = ["mean_acceptance_length", "draft_acceptance_rate", "acceptance_rate_by_position", "draft_time_share"]
    assert plain[[*columns, "synthetic"]].isna().all()
    assert not isinstance(exact["synthetic"], str)
    for drafting in (exact, synthetic):
        assert 1 <= drafting["mean_acceptance_length"] <= 4
        assert 0 < drafting["draft_time_share"] < 1
    assert 0.3 < synthetic["draft_acceptance_rate"] < 0.8
    assert len(synthetic["acceptance_rate_by_position"].split()) == 3


def test_repetitions_hold_the_counts(swept):
    launch = store.Run(swept[0] / "run").read_raw()[-1]
    timed = [each for each in launch.repetitions if each.kind == "steady"]
    assert timed
    for each in timed:
        kept = sum(each.kept_by_position)
        assert each.target_passes + kept == 15 * each.calls
        assert len(each.accepted_by_position) == 3
        assert 0 < each.draft_s < each.wall_s


def test_every_view_of_a_synthetic_arm_says_so(swept, no_plots, nanobench_here):
    folder, printed = swept
    assert "synthetic" in printed
    nanobench_here("report", "run", cwd=folder, code=0)
    report, page = ((folder / "run" / name).read_text() for name in ("report.md", "report.html"))
    lines = [line for line in report.splitlines() if f"accept={SHARE}" in line and "x [" in line and line.startswith("|")]
    assert lines
    assert all("] synthetic |" in line and "synthetic acceptance 0.7" in line for line in lines)
    assert "chance decides which tokens it accepts, so its output is not the model's" in report
    assert "synthetic acceptance 0.7" in page
    explained = nanobench_here("explain", "run", "--no-plot", cwd=folder, code=0).stdout
    sentence = next(line for line in explained.splitlines() if f"accept={SHARE}" in line and "a pass of the model" in line)
    assert "(synthetic acceptance 0.7) at batch 2" in sentence


def test_a_synthetic_arm_continues_no_text_and_wins_no_search(nanobench_here, tmp_path, swept):
    asked = ("--model", "gpt2-nano", "--prompt", "abc", "--new-tokens", 4, "--engine", f"cached,speculative:accept={SHARE}")
    printed = nanobench_here("sample", *asked, cwd=tmp_path, code=0).stdout
    assert "with synthetic acceptance 0.7 its text is not the model's" in " ".join(printed.split())
    row = next(row for row in derive(store.Run(swept[0] / "run").read_raw()) if row["gate"] == "synthetic")
    assert race.reason_against(row, {}) == "its output is not the model's: synthetic acceptance 0.7"
