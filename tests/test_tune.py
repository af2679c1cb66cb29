"""The search for the fastest setting: who leaves the race and when, on scripted speeds; and the command itself."""

import json
import math
import shlex
from dataclasses import asdict, replace

import pytest

from nanobench.errors import UserError
from nanobench.records import ArmRecord, Outcome, Repetition, Status
from nanobench.results import finder, race, store
from nanobench.schema import Arm, Point, Trial
from nanobench.sweep.executors.base import WorkerResult
from nanobench.sweep.options import SweepOptions
from nanobench.sweep.tune import Result, Tune
from nanobench.sweep.tune_options import TuneOptions
from nanobench.views import tune as views

ENGINES = ("cached", "cached-cat", "uncached")
ARMS = tuple(Arm(engine=engine) for engine in ENGINES)
COMPILED = tuple(replace(arm, compile_mode="default") for arm in ARMS)
TOKENS = 1000


class Script:
    """Runs each arm at the speed that `speed(batch, label, launch)` says, in tokens per second; None runs out of memory."""

    def __init__(self, speed):
        self.speed, self.asked = speed, []

    def run(self, request, folder, log, timeout_s, progress):
        trial = Trial.from_json(request["trial"])
        self.asked += [(trial.point.batch_size, arm.label, trial.launch) for arm in trial.arms]
        return WorkerResult({"arms": [self.record(trial, arm) for arm in trial.arms]})

    def record(self, trial, arm):
        speed = self.speed(trial.point.batch_size, arm.label, trial.launch)
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

    def run(speed, batches=(1, 4, 16), launches=6, arms=ARMS, max_minutes=None, seed=0, late_after=None, **options):
        template = store.Run(small_run[0]).info()
        points = tuple(replace(template.plan.points[0], batch_size=batch) for batch in batches)
        same = {"identities": (), "check": False, "calibration": "off", "extra_launches": False}
        same |= {"max_minutes": max_minutes, "seed": seed}
        plan = replace(template.plan, points=points, arms=arms, launches=launches, **same)
        kept = store.create(tmp_path / "run", replace(template, plan=plan, wall_s=0.0, finished_at=None))
        script = Script(speed)
        tuned = Tune(TuneOptions(**options), kept, plan, template.description, lambda: script, lambda progress: None)
        if late_after is not None:
            tuned.spent_s = lambda: 0.0 if len(script.asked) < late_after else 3600.0
        tuned.measure()
        return race.rank(tuned.standings(), tuned.left, tuned.plan.launches), script.asked, kept

    return run


def wobble(launch, share=0.01):
    """A small disturbance that differs from launch to launch."""
    return 1 + share * math.sin(7 * launch)


def named(standing):
    return standing.candidate.point.batch_size, standing.candidate.arm.label


def first_launches(asked):
    """(batch, label) -> the round of its first launch."""
    return {(batch, label): launch for batch, label, launch in reversed(asked)}


def compiling(gain):
    """The steady speeds, where a compiler gains as much as `gain(batch, engine)` says."""

    def speed(batch, label, launch):
        engine, _, mode = label.partition(" ")
        return steady(batch, engine, launch) * (gain(batch, engine) if mode else 1)

    return speed


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


def test_a_compiled_arm_is_tried_where_it_is_fastest_and_elsewhere_if_it_can_win_there(search):
    ranking, asked, run = search(compiling(lambda batch, engine: 1.2), batches=(9, 12, 1), arms=(*ARMS, *COMPILED))
    rounds = first_launches(asked)
    assert {rounds[batch, engine] for batch in (1, 9, 12) for engine in ENGINES} == {1}
    assert {rounds[12, f"{engine} default"] for engine in ENGINES} == {2}
    assert rounds[9, "cached default"] == 3
    assert not {(9, "uncached default"), (1, "cached default"), (1, "uncached default")} & set(rounds)
    assert named(ranking.winner) == (12, "cached default")
    reasons = {named(each): each.failure for each in ranking.standings}
    assert reasons[1, "cached default"].startswith("skipped: not compiled: the best is 14.")
    assert reasons[1, "cached default"].endswith(
        "as fast as it is uncompiled, and compiling gained 1.2x at batch 12, threads 1"
    )
    assert len(finder.load(run.folder)) == 18


def test_a_compiled_arm_that_gains_much_wins_although_it_is_slow_uncompiled(search):
    ranking, *_ = search(compiling(lambda batch, engine: 9 if engine == "uncached" else 1.1), arms=(*ARMS, *COMPILED))
    assert named(ranking.winner) == (16, "uncached default")
    assert ranking.is_decided


def test_where_nothing_is_known_of_a_compiled_arm_it_is_tried(search):
    def speed(batch, label, launch):
        full = (label == "cached" and batch < 16) or (label == "cached-cat default" and batch == 16) or label == "uncached"
        return None if full else compiling(lambda batch, engine: 1.2)(batch, label, launch)

    _, asked, _ = search(speed, batches=(16, 4), arms=(*ARMS, *COMPILED))
    rounds = first_launches(asked)
    assert rounds[4, "cached default"] == 3, "its twin ran out of memory"
    assert rounds[4, "cached-cat default"] == 3, "at batch 16 it ran out of memory"
    assert rounds[4, "uncached default"] == 2, "it runs out of memory uncompiled wherever it was tried"


@pytest.mark.parametrize("options", [{"arms": COMPILED}, {"arms": (*ARMS, *COMPILED), "launches": 4}])
def test_without_an_uncompiled_twin_or_with_few_launches_no_setting_waits(search, options):
    _, asked, _ = search(compiling(lambda batch, engine: 1.2), **options)
    assert {launch for (_, label), launch in first_launches(asked).items() if label.endswith("default")} == {1}
    assert len(first_launches(asked)) == 3 * len(options["arms"])


def chosen(candidates, speeds, **wrong):
    """Which compiled candidates wait or are not worth a launch, where so many have been launched at these speeds."""
    ok, bad = {"status": "ok"}, {"status": "wrong"}
    found = {each: race.Standing(each, ok, {1: math.log(speed)}, None, math.log(speed)) for each, speed in speeds.items()}
    found |= {each: race.Standing(each, bad, {}, "wrong: other tokens") for each in wrong.get("wrong", ())}
    compiled = race.Compiled(candidates, found)
    return {each for each in candidates if compiled.waits(each)}, {each for each in candidates if compiled.why_not(each)}


def test_the_point_where_an_arm_was_compiled_first_stays_and_a_wrong_twin_is_not_compiled():
    points = [Point(model="m", dtype="float32", device="cpu", threads=1, batch_size=batch) for batch in (1, 2)]
    plain, compiled = Arm(engine="cached"), Arm(engine="cached", compile_mode="default")
    (one, fast_one), (two, fast_two) = [(race.Candidate(point, plain), race.Candidate(point, compiled)) for point in points]
    every = [one, fast_one, two, fast_two]
    assert chosen(every, {}) == ({fast_one, fast_two}, set())
    assert chosen(every, {one: 10, two: 9}) == ({fast_two}, set())
    # What the machine did in round 2 turns the order of the two: the gain at batch 1 is known all the same.
    assert chosen(every, {one: 9, two: 10, fast_one: 11}) == (set(), set())
    assert chosen(every, {one: 10, two: 3, fast_one: 11}) == (set(), {fast_two})
    assert chosen(every, {one: 10, fast_one: 11}, wrong=[two]) == (set(), {fast_two})


def test_what_compiling_gains_is_measured_in_the_launches_of_both():
    point = Point(model="m", dtype="float32", device="cpu", threads=1, batch_size=1)
    plain, fast = (race.Candidate(point, Arm(engine="cached", compile_mode=mode)) for mode in ("off", "default"))

    def gain(plain_launches, fast_launches):
        """Where round 1 was slow, and round 2 is quick."""
        standings = {
            each: race.Standing(each, {}, {launch: math.log(speed) for launch, speed in launches.items()}, None, speed=1.0)
            for each, launches in ((plain, plain_launches), (fast, fast_launches))
        }
        return race.Compiled([plain, fast], standings).gain(fast)

    assert gain({1: 50, 2: 100}, {2: 120}) == pytest.approx(math.log(1.2))
    assert gain({1: 50}, {2: 120}) == 0.0
    assert gain({1: 50}, {}) == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_the_first_launch_of_a_setting_is_never_late(search, seed):
    ranking, asked, run = search(compiling(lambda batch, engine: 1.2), arms=(*ARMS, *COMPILED), max_minutes=1e-9, seed=seed)
    assert first_launches(asked)[16, "cached default"] == 2
    assert len(asked) == len(set(asked)) == len(first_launches(asked))
    assert any("time is up" in note for note in run.info().notes)
    assert named(ranking.winner) == (16, "cached default")
    assert not ranking.is_decided
    assert len(finder.load(run.folder)) == 18


@pytest.mark.parametrize(("late_after", "rounds"), [(9, 1), (10, 2), (13, 2)])
def test_time_that_is_up_in_the_middle_of_a_round_distinguishes_nothing_more(search, late_after, rounds):
    ranking, asked, run = search(steady, max_minutes=10, late_after=late_after)
    assert max(launch for *_, launch in asked) == rounds
    last = {(batch, label) for batch, label, launch in asked if launch == rounds}
    halved = {
        named(each): ranking.left[each.candidate].halved_after for each in ranking.standings if each.candidate in ranking.left
    }
    assert halved
    assert {each for each, launch in halved.items() if launch == rounds} <= last
    assert all(launch is None or launch <= 2 for launch in halved.values())
    assert len(ranking.rivals) == 8 - len(halved)
    assert any("time is up" in note for note in run.info().notes)
    assert len(run.read_raw()) == len(asked)


def test_a_ratio_of_two_launches_has_no_interval():
    assert race.ratio(standing(4, 5), standing(2, 2)).low is None
    assert race.ratio(standing(4, 5, 4), standing(2, 2, 2)).low > 1


def standing(*speeds, first=1):
    """A candidate with these speeds in its launches, from round `first` on."""
    arm = Arm(engine=str(speeds))
    logs = {launch: math.log(speed) for launch, speed in enumerate(speeds, first)}
    return race.Standing(race.Candidate(None, arm), {}, logs, None)


def test_candidates_are_compared_in_the_rounds_that_they_share():
    """In round 1 the machine was slow, or fast: who was launched in it has no advantage by that."""
    slow_round = race.with_speeds([standing(70, 103, 103, 103), standing(100, 100, 100, first=2), standing(60)])
    assert [math.exp(each.speed - slow_round[0].speed) for each in slow_round] == pytest.approx([1, 100 / 103, 60 / 70])
    fast_round = race.with_speeds([standing(140, 100, 100), standing(105, 105, first=2), standing(120)])
    order = sorted(fast_round, key=lambda each: -each.speed)
    assert [len(each.logs) for each in order] == [2, 3, 1]


def test_the_runner_up_may_have_left_and_one_that_stayed_may_be_slower():
    first, second, third = standing(100, 101, 99, 100), standing(80, 81, 79, 80), standing(60, 61)
    left = {second.candidate: race.Left(behind=race.ratio(first, second))}
    found = race.rank(race.with_speeds([first, second, third]), left, 6)
    assert found.runner_up.candidate == second.candidate
    assert [each.candidate for each in found.rivals] == [third.candidate]
    assert found.lead.low > 1
    assert not found.is_decided
    assert views.difference(found) == "they differ"


def test_those_that_are_not_excluded_are_told():
    first, second = standing(100, 101, 99, 100), standing(97, 102, 98, 99)
    third, fourth = standing(95, first=5), standing(50, 50, 50, 50)
    found = race.rank(race.with_speeds([first, second, third, fourth]), {fourth.candidate: race.Left(halved_after=4)}, 6)
    assert [each.candidate for each in found.rivals] == [second.candidate, third.candidate]
    assert (found.runner_up.candidate, found.is_decided) == (second.candidate, False)
    assert views.difference(found) == "no difference between them was shown"
    assert views.times(found.ratio_to(third)) == "an unknown number of times"


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
        assert max(launches) == (ranking.left[candidate].halved_after or max(launches))
        assert max(launches) < 6


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


def test_the_command_of_a_setting_names_all_that_is_not_default():
    shape = {"dtype": "bfloat16", "device": "cpu", "threads": 2, "batch_size": 4, "prompt_len": 8, "new_tokens": 4}
    point = Point(model="gpt2-nano", **shape, shared_prompt="on", data="some text.txt", tokenizer="bytes")
    arm = Arm(engine="speculative:draft_len=2", sampler="top-k", weights="int8", kv_cache="int8")
    words = shlex.split(views.command(race.Candidate(point, arm)))
    options = SweepOptions(**{flag[2:].replace("-", "_"): text for flag, text in zip(words[2::2], words[3::2], strict=True)})
    assert {field: values for field, values in options.axes.items() if field in Point.__dataclass_fields__} == {
        **{"model": ["gpt2-nano"], "dtype": ["bfloat16"], "threads": [2], "batch_size": [4], "prompt_len": [8]},
        **{"new_tokens": [4], "shared_prompt": ["on"], "data": ["some text.txt"], "tokenizer": ["bytes"]},
    }
    given = {field: values for field, values in options.axes.items() if field in Arm.__dataclass_fields__}
    assert Arm(**{field: value for field, (value,) in given.items()}) == arm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "speed"}, "unknown goal 'speed'"),
        ({"prompt_len": "8,16"}, "--prompt-len: tune searches the fastest setting of one workload"),
        ({"max_ttft": 0.0}, "--max-ttft 0 is not above 0"),
        ({"max_tpot": math.nan}, "--max-tpot nan is not above 0"),
        ({"max_memory": "much"}, "is not a size"),
        ({"max_minutes": "soon"}, "--max-minutes 'soon'"),
        ({"max_kl": "-1"}, "--max-kl '-1'"),
        ({"weights": "int3"}, "unknown weights 'int3'"),
        ({"shared_prompt": "off,on"}, "--shared-prompt: tune searches the fastest setting of one workload"),
        ({"prompts": "a.txt,b.txt"}, "--prompts: tune searches the fastest setting of one workload"),
        ({"draft_len": "2,4"}, "--draft-len 2,4 is for engines that draft tokens"),
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


def test_a_lossy_setting_competes_and_leaves_above_max_kl(nanobench_here, tmp_path):
    asked = ("--model", "gpt2-nano", "--batch", "1", "--engine", "cached", "--weights", "float,int8,int4", "--threads", 1)
    more = ("--compile-mode", "off", "--prompt-len", 8, "--new-tokens", 4, "--max-seconds", 0.1, "--launches", 2)
    found = {}
    for limit in ("none", "1e-12"):
        done = nanobench_here("tune", *asked, *more, "--max-kl", limit, "--out", limit, "--json", cwd=tmp_path, code=0)
        candidates = json.loads(done.stdout.strip().splitlines()[-1])["candidates"]
        found[limit] = {each["weights"]: each for each in candidates}
    assert {weights: each["gate"] for weights, each in found["none"].items()} == {
        "float": "exact",
        "int8": "lossy",
        "int4": "lossy",
    }
    assert found["none"]["int4"]["kl_nats"] > 1e-12
    assert found["1e-12"]["float"]["left"] is None
    assert all("is above --max-kl 1e-12" in found["1e-12"][weights]["left"] for weights in ("int8", "int4"))


def test_without_settings_nobody_wins():
    ranking = race.rank([], {}, 6)
    assert (ranking.winner, ranking.runner_up, ranking.lead, ranking.is_decided) == (None, None, None, False)
