"""The answer of an A/B comparison: from intervals, a threshold and the gates of both sides."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nanobench.records import ArmRecord, LaunchRecord, Outcome, Status, Verdict
from nanobench.results.decision import Answer, decide, machine_of, overall
from nanobench.schema import Arm, Trial
from nanobench.stats.sequential import LOOKS
from nanobench.views import ab as views
from test_compare import info
from test_metrics_roofline import SHAPE
from test_status import CPU, OK, STILL, timed

BASE, NEW = Arm(engine="cached", side="BASE: main"), Arm(engine="cached", side="NEW: .")
THRESHOLD = 0.02
NAMES = ("BASE: main", "NEW: .")


def launches(ratios, point=CPU, base=OK, new=OK, readings=()):
    """Launches whose ratios (time of BASE over time of NEW) are these."""
    found = []
    for number, ratio in enumerate(ratios, start=1):
        trial = Trial(point=point, arms=(BASE, NEW), launch=number, seed=0, target_ci=0.05, max_seconds=1.0)
        for arm, walls_s, outcome in ((BASE, STILL, base), (NEW, [1 / ratio] * 20, new)):
            done = tuple(timed(walls_s, **dict(readings))) if outcome.status is Status.OK else ()
            found.append(LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=done, outcome=outcome)))
    return found


def around(mean, sd, count, seed=1):
    """So many ratios whose logs have exactly this mean and standard deviation."""
    values = np.random.default_rng(seed).standard_normal(count)
    values = (values - values.mean()) / values.std(ddof=1)
    return np.exp(math.log(mean) + sd * values).tolist()


def only(found):
    (decision,) = found.values()
    return decision


@pytest.mark.parametrize(
    ("mean", "sd", "count", "answer"),
    [
        (1.0, 0.005, 6, Answer.SAME),
        (1.01, 0.001, 6, Answer.SAME),
        (1.0, 0.1, 6, Answer.UNDECIDED),
        (0.95, 0.01, 6, Answer.SLOWER),
        (1.06, 0.01, 6, Answer.FASTER),
        (0.985, 0.004, 6, Answer.UNDECIDED),
        (0.9, 0.2, 6, Answer.UNDECIDED),
        (0.5, 0.001, 3, Answer.UNDECIDED),
    ],
    ids=[
        "same",
        "a difference within the threshold",
        "wide",
        "slower",
        "faster",
        "perhaps below the threshold",
        "noisy",
        "too few",
    ],
)
def test_the_answer_follows_from_the_interval_and_the_threshold(mean, sd, count, answer):
    found = launches(around(mean, sd, count))
    assert only(decide(found, THRESHOLD)).answer is answer


def test_the_interval_is_that_of_the_last_look():
    few, more = launches(around(0.95, 0.01, 6)), launches([*around(0.95, 0.01, 6), 0.5])
    assert only(decide(few, THRESHOLD)) == only(decide(more, THRESHOLD))
    assert only(decide(more, THRESHOLD)).launches == 6


def test_an_undecided_answer_says_how_many_launches_it_needs():
    found = only(decide(launches(around(1.0, 0.03, 6)), THRESHOLD))
    assert found.answer is Answer.UNDECIDED
    assert found.needed in LOOKS
    assert only(decide(launches(around(1.0, 0.5, 6)), THRESHOLD)).needed is None


def test_no_launches_are_named_that_were_made_already_or_that_cannot_help():
    within = only(decide(launches(around(0.985, 0.004, 6)), THRESHOLD))
    assert within.answer is Answer.UNDECIDED
    assert within.needed > within.launches
    busy = only(decide(launches(around(0.95, 0.005, 6), readings=BUSY), THRESHOLD))
    assert busy.needed is None


def test_points_are_corrected_by_holm():
    """A difference that is just significant alone is not where five other points show none."""
    marginal = launches(around(0.97, 0.022, 8))
    assert only(decide(marginal, THRESHOLD)).answer is Answer.SLOWER
    others = [each for size in (1, 2, 8, 16, 32) for each in launches(around(1.0, 0.03, 8), replace(CPU, batch_size=size))]
    corrected = decide([*marginal, *others], THRESHOLD)[CPU]
    assert corrected.answer is Answer.UNDECIDED
    assert corrected.needed is None or corrected.needed > corrected.launches


def test_over_all_points_the_mean_of_the_logs_counts():
    points = [replace(CPU, batch_size=size) for size in (1, 2, 4)]
    found = [each for index, point in enumerate(points) for each in launches(around(0.96, 0.01, 6, seed=index), point)]
    answer = overall(found, THRESHOLD, decide(found, THRESHOLD))
    assert answer.answer is Answer.SLOWER
    assert answer.ratio == pytest.approx(0.96)


BUSY = {"cpu_s": 0.7, "pressure_s": 0.3}


@pytest.mark.parametrize("readings", [(BUSY, BUSY), ((), BUSY)], ids=["both points", "one point"])
def test_over_all_points_the_interval_is_as_wide_as_the_points_need(readings):
    points = [replace(CPU, batch_size=size) for size in (1, 2)]
    quiet = [each for point in points for each in launches(around(0.95, 0.005, 6), point)]
    busy = [
        each
        for point, read in zip(points, readings, strict=True)
        for each in launches(around(0.95, 0.005, 6), point, readings=read)
    ]
    narrow, wide = (overall(found, THRESHOLD, decide(found, THRESHOLD)) for found in (quiet, busy))
    assert narrow.answer is Answer.SLOWER
    assert wide.high / wide.low > 1.05 * narrow.high / narrow.low
    assert "other programs shared the cores" in wide.reason


def test_limits_say_nothing_of_two_models():
    small = info()
    assert machine_of(small) is None
    of_one = replace(small, description=replace(small.description, models={"gpt2-nano": SHAPE}))
    assert machine_of(of_one).shapes == {"gpt2-nano": SHAPE}
    of_two = replace(small, description=replace(small.description, models={"gpt2-nano": SHAPE, "llama-nano": SHAPE}))
    assert machine_of(of_two) is None


def test_over_all_points_nothing_is_decided_where_one_point_cannot_be():
    found = [each for size in (1, 2) for each in launches(around(0.5, 0.001, 6), replace(CPU, batch_size=size))]
    found += unlike_itself(replace(CPU, batch_size=4))
    answers = decide(found, THRESHOLD)
    assert [each.answer for each in answers.values()] == [Answer.SLOWER, Answer.SLOWER, Answer.UNDECIDED]
    over_all = overall(found, THRESHOLD, answers)
    assert over_all.answer is Answer.UNDECIDED
    assert "the reference differs from itself" in over_all.reason
    assert over_all.needed is None


def test_different_outputs_come_first_and_no_speed_is_compared():
    wrong = replace(OK, across=Verdict.WRONG, across_note="different outputs: logits off by 0.3")
    found = launches(around(2.0, 0.001, 6), new=wrong)
    decision = only(decide(found, THRESHOLD))
    assert (decision.answer, decision.ratio, decision.reason) == (
        Answer.DIFFERENT,
        None,
        "different outputs: logits off by 0.3",
    )
    assert overall(found, THRESHOLD, decide(found, THRESHOLD)).answer is Answer.DIFFERENT
    assert only(decide(found, THRESHOLD, allow_different=True)).answer is Answer.FASTER


@pytest.mark.parametrize("side", ["base", "new"])
@pytest.mark.parametrize("status", [Status.WRONG, Status.ERROR, Status.OOM, Status.SKIPPED])
def test_a_side_that_fails_has_no_speed(side, status):
    found = launches(around(1.0, 0.001, 4), **{side: Outcome(status=status, reason="it broke")})
    decision = only(decide(found, THRESHOLD))
    assert decision.answer is Answer.FAILED
    assert decision.reason == f"{status}: it broke"


def test_what_may_have_disturbed_the_sides_differently_makes_the_interval_wider():
    quiet = only(decide(launches(around(0.95, 0.005, 6)), THRESHOLD))
    busy = only(decide(launches(around(0.95, 0.005, 6), readings={"cpu_s": 0.7, "pressure_s": 0.3}), THRESHOLD))
    assert quiet.answer is Answer.SLOWER
    assert busy.answer is Answer.UNDECIDED
    assert busy.high / busy.low > 1.2 * quiet.high / quiet.low
    assert "other programs shared the cores" in busy.reason


def unlike_itself(point=CPU):
    """Launches whose reference differs from itself, and whose other side takes twice as long."""
    found = []
    for number in range(1, 7):
        # As if ABBA had two names: B is always slower, whatever the place of the launch in the series.
        drifting = [1.0 if (index // 2 + number) % 2 == index % 2 else 1.1 for index in range(20)]
        trial = Trial(point=point, arms=(BASE, NEW), launch=number, seed=0, target_ci=0.05, max_seconds=1.0)
        found += [
            LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=tuple(timed(walls)), outcome=OK))
            for arm, walls in ((BASE, drifting), (NEW, [2.0] * 20))
        ]
    return found


def test_a_base_that_differs_from_itself_decides_nothing():
    decision = only(decide(unlike_itself(), THRESHOLD))
    assert decision.answer is Answer.UNDECIDED
    assert "the reference differs from itself" in decision.reason


# In words


def text(found, threshold=THRESHOLD):
    answers = decide(found, threshold)
    return list(views.lines(NAMES, answers, overall(found, threshold, answers), threshold))


def test_the_answer_is_one_sentence_with_its_interval():
    assert text(launches(around(0.95, 0.01, 6)))[-1].startswith("NEW is slower than BASE, 0.950x [0.9")
    assert text(launches(around(1.0, 0.001, 6)))[-1].startswith("NEW is as fast as BASE within 2 %, 1.000x [0.99")
    assert "undecided" in text(launches(around(1.0, 0.1, 6)))[-1]


def test_each_point_has_a_line_where_there_are_several():
    found = [each for size in (1, 2) for each in launches(around(0.9, 0.01, 6), replace(CPU, batch_size=size))]
    heads = ["BASE", "NEW", "  batch 1", "  batch 2", "mean of 2 points"]
    assert [line.partition(": ")[0] for line in text(found)] == heads


@pytest.mark.parametrize(
    ("mean", "sd", "action"), [(0.95, 0.01, "discard"), (1.06, 0.01, "keep"), (1.0, 0.001, "keep"), (1.0, 0.1, "need more")]
)
def test_the_document_says_what_to_do(mean, sd, action):
    found = launches(around(mean, sd, 6))
    answers = decide(found, THRESHOLD)
    document = views.document(NAMES, answers, overall(found, THRESHOLD, answers), found, 12.0)
    assert document["decision"] == action
    assert document["points"][0]["batch_size"] == 4
    assert {"answer", "ratio", "low", "high", "launches", "needed", "reason", "gate", "wall_s"} <= set(document)
