"""The search for the fastest setting: who leaves the race and when, on scripted speeds; and the command itself."""

import json
import math
import shlex
from dataclasses import asdict, replace

import pytest

from nanobench.errors import UserError
from nanobench.records import ArmRecord, Outcome, Repetition, Status
from nanobench.results import finder, race, store
from nanobench.schema import Arm, Trial
from nanobench.sweep.executors.base import WorkerResult
from nanobench.sweep.tune import Result, Tune
from nanobench.sweep.tune_options import TuneOptions
from nanobench.views import tune as views

ENGINES = ("cached", "cached-cat", "uncached")
ARMS = tuple(Arm(engine=engine) for engine in ENGINES)
TOKENS = 1000


class Script:
    """Runs each arm at the speed that `speed(batch, engine, launch)` says, in tokens per second; None runs out of memory."""

    def __init__(self, speed):
        self.speed, self.asked = speed, []

    def run(self, request, folder, log, timeout_s, progress):
        trial = Trial.from_json(request["trial"])
        self.asked += [(trial.point.batch_size, arm.engine, trial.launch) for arm in trial.arms]
        return WorkerResult({"arms": [self.record(trial, arm) for arm in trial.arms]})

    def record(self, trial, arm):
        speed = self.speed(trial.point.batch_size, arm.engine, trial.launch)
        if speed is None:
            return asdict(ArmRecord(arm=arm, outcome=Outcome(status=Status.OOM, reason="full")))
        repetitions = tuple(
            Repetition(kind="steady", repetition=n, block=n, wall_s=TOKENS / speed, tokens=TOKENS, calls=1) for n in range(4)
        )
        return asdict(ArmRecord(arm=arm, repetitions=repetitions, outcome=Outcome(status=Status.OK, peak_memory_bytes=500)))

    def close(self):
        pass


@pytest.fixture
def search(small_run, tmp_path):
    """Searches on a scripted machine. Returns the ranking and what was launched."""

    def run(speed, batches=(1, 4, 16), launches=6, **options):
        template = store.Run(small_run[0]).info()
        points = tuple(replace(template.plan.points[0], batch_size=batch) for batch in batches)
        same = {"identities": (), "check": False, "calibration": "off", "extra_launches": False}
        plan = replace(template.plan, points=points, arms=ARMS, launches=launches, **same)
        kept = store.create(tmp_path / "run", replace(template, plan=plan, wall_s=0.0, finished_at=None))
        script = Script(speed)
        tuned = Tune(TuneOptions(**options), kept, plan, template.description, lambda: script, lambda progress: None)
        tuned.measure()
        return race.rank(tuned.standings(), tuned.left, tuned.plan.launches), script.asked, kept

    return run


def wobble(launch, share=0.01):
    """A small disturbance that differs from launch to launch."""
    return 1 + share * math.sin(7 * launch)


def named(standing):
    return standing.candidate.point.batch_size, standing.candidate.arm.engine


def steady(batch, engine, launch):
    """Speeds that differ by half and more."""
    return 100 * batch * {"cached": 4, "cached-cat": 2, "uncached": 1}[engine] * wobble(launch + len(engine) * batch)


def test_the_fastest_wins_and_the_others_leave_after_few_launches(search):
    ranking, asked, _ = search(steady)
    assert named(ranking.winner) == (16, "cached")
    assert named(ranking.runner_up) == (16, "cached-cat")
    assert ranking.is_decided
    assert ranking.lead.low < 2 < ranking.lead.high
    assert len(asked) < 9 * 6 / 2
    assert sum(launch == 1 for *_, launch in asked) == 9
    assert max(launch for batch, _, launch in asked if batch == 1) == 1


def test_two_that_are_equally_fast_are_not_told_apart(search):
    def equal(batch, engine, launch):
        return 100 * wobble(launch + len(engine)) if engine != "uncached" else 50

    ranking, asked, run = search(equal, batches=(4,))
    assert not ranking.is_decided
    assert {named(ranking.winner)[1], named(ranking.runner_up)[1]} == {"cached", "cached-cat"}
    assert {launch for *_, launch in asked} == {1, 2, 3, 4, 5, 6}
    assert any("did not distinguish the fastest settings" in note for note in run.info().notes)


def test_a_setting_of_the_slower_half_that_is_close_stays_until_its_interval_decides(search):
    speeds = {"cached": 100, "cached-cat": 99, "uncached": 97}
    _, asked, _ = search(lambda batch, engine, launch: speeds[engine] * wobble(launch * len(engine), 0.002), batches=(4,))
    assert (4, "uncached", 2) in asked


def test_latency_prefers_few_rows(search):
    ranking, _, _ = search(lambda batch, engine, launch: steady(batch, engine, launch) / batch**0.5, goal="latency")
    assert named(ranking.winner) == (1, "cached")


def test_what_cannot_win_leaves_with_its_reason(search):
    def speed(batch, engine, launch):
        return None if (batch, engine) == (16, "cached") else steady(batch, engine, launch)

    ranking, asked, _ = search(speed, max_memory="499B", batches=(1, 16))
    assert ranking.winner is None
    reasons = {named(each): views.reason(ranking.left[each.candidate]) for each in ranking.standings}
    assert reasons[16, "cached"] == "oom: full"
    assert reasons[1, "cached"] == "peak_memory_bytes 500 is above the limit of 499"
    assert {launch for *_, launch in asked} == {1}
    assert list(views.lines(Result(ranking, None, 6))) == ["no setting can win: see why each left"]


def test_who_leaves_is_never_launched_again(search):
    ranking, asked, _ = search(steady)
    for candidate in ranking.left:
        launches = [n for batch, engine, n in asked if (batch, engine) == (candidate.point.batch_size, candidate.arm.engine)]
        assert launches == list(range(1, len(launches) + 1))


def test_the_answer_in_words_names_the_command_that_measures_it_again(search):
    ranking, _, run = search(steady)
    told = list(views.lines(Result(ranking, run, 9)))
    assert told[0].startswith("fastest: cached at batch 16, ")
    assert told[2].endswith("they differ")
    words = shlex.split(told[-1].partition(": ")[2])
    assert words[:2] == ["nanobench", "kv-sweep"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert (given["--batch"], given["--engine"], given["--compile-mode"]) == ("16", "cached", "off")
    document = json.loads(json.dumps(views.document(Result(ranking, run, 9)), allow_nan=False))
    assert document["winner"]["engine"] == "cached"
    assert len(document["candidates"]) == 9
    left = {(each["batch_size"], each["engine"]): each["left"] for each in document["candidates"]}
    assert left[16, "cached"] is None
    assert "slower half" in left[1, "uncached"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "speed"}, "unknown goal 'speed'"),
        ({"prompt_len": "8,16"}, "--prompt-len: tune searches the fastest setting of one workload"),
        ({"max_ttft": 0.0}, "--max-ttft 0 is not above 0"),
        ({"max_tpot": math.nan}, "--max-tpot nan is not above 0"),
        ({"max_memory": "much"}, "is not a size"),
        ({"max_minutes": "soon"}, "--max-minutes 'soon'"),
        ({"engine": "cahced"}, "did you mean 'cached'?"),
    ],
)
def test_a_mistake_is_one_line(options, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        TuneOptions(**options).refuse()


def test_one_setting_is_no_search(nanobench_here, tmp_path):
    one = ("--model", "fakes:tiny", "--batch", 1, "--engine", "cached", "--compile-mode", "off", "--prompt-len", 8)
    done = nanobench_here("tune", *one, "--new-tokens", 4, "--out", "run", cwd=tmp_path, code=2)
    assert "this is one" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_finds_a_gated_setting(nanobench_here, tmp_path):
    asked = ("--model", "fakes:tiny", "--batch", "1,3", "--engine", "cached,uncached,fakes:frozen_embedding", "--threads", 1)
    more = ("--compile-mode", "off", "--prompt-len", 8, "--new-tokens", 4, "--max-seconds", 0.1, "--launches", 2)
    done = nanobench_here("tune", *asked, *more, "--out", "run", "--json", cwd=tmp_path, code=0)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["winner"]["gate"] == "exact"
    wrong = [each for each in found["candidates"] if each["engine"] == "fakes:frozen_embedding"]
    assert {each["status"] for each in wrong} == {"wrong"}
    assert all(each["left"].startswith("wrong: ") for each in wrong)
    assert "fastest: " in done.stdout
    assert len(finder.load(tmp_path / "run")) == 6


def test_without_settings_nobody_wins():
    ranking = race.rank([], {}, 6)
    assert (ranking.winner, ranking.runner_up, ranking.lead, ranking.is_decided) == (None, None, None, False)
