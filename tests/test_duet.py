"""Two workers that take turns: never both at once, in balanced order, over the same prompts; and what happens when one ends."""

import json
import threading
import time
from dataclasses import asdict, replace

import pytest

from nanobench.records import Status
from nanobench.schema import WARM_UP_TURN, Arm, Point, Trial
from nanobench.sweep.duet import Duet, Turns
from nanobench.sweep.executors.base import WorkerResult
from nanobench.sweep.side import Side

BASE, NEW = Arm(engine="cached", side="BASE"), Arm(engine="cached", side="NEW")
POINT = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=8, new_tokens=4)
TRIAL = Trial(point=POINT, arms=(BASE, NEW), launch=1, seed=0, target_ci=1e-9, max_seconds=0.2, memory_limit_bytes=1000)

JITTER = (0.0, 0.01, 0.03, -0.02)


class Worker:
    """Meets Executor: a worker whose repetitions take `seconds` and a little more each time, in a log that both share."""

    def __init__(self, log, seconds=0.01, turns=None, fails_at_start=False):
        self.log, self.seconds, self.turns, self.fails_at_start = log, seconds, turns, fails_at_start
        self.requests, self.closed = [], threading.Event()

    def run(self, request, folder, log, timeout_s, progress):
        json.dumps(request)
        self.requests.append(request)
        self.thread = threading.current_thread()
        if "check" in request:
            return WorkerResult({"arms": [{"name": each["arm"]["side"]} for each in request["check"]["arms"]]})
        arm = request["trial"]["arms"][0]
        self.log.append(("prepare", arm["side"]))
        progress({"phase": "prepare", "arm": arm["side"]})
        if self.fails_at_start:
            return WorkerResult(None, Status.ERROR, "it broke", running=0)
        report, done = {"phase": "turn", "wall_s": None, "calls": None}, 0
        while (answer := progress(report) or {}) == WARM_UP_TURN:
            self.log.append(("warm up", arm["side"]))
        while "turn" in answer:
            if self.closed.is_set() or done == self.turns:
                return WorkerResult(None, Status.ERROR, "killed", running=0)
            self.log.append(("begin", arm["side"], answer["turn"]["block"], answer["turn"]["prompt_seed"]))
            time.sleep(0.001)
            self.log.append(("end", arm["side"]))
            done += 1
            report = {"phase": "turn", "wall_s": 2 * self.seconds * (1 + JITTER[done % 4] * (arm["side"] == "NEW")), "calls": 2}
            answer = progress(report) or {}
        (folder).mkdir(parents=True, exist_ok=True)
        (folder / "outputs-0.pt").write_text(arm["side"])
        return WorkerResult({"arms": [{"arm": arm}]})

    def close(self):
        self.closed.set()


def sides(log, base=None, new=None):
    return {"BASE": (Side("main"), base or Worker(log)), "NEW": (Side("."), new or Worker(log))}


def run(duet, folder, trial=TRIAL, show=lambda report: None):
    request = {"trial": asdict(trial), "gates": {}}
    return duet.run(json.loads(json.dumps(request)), folder, folder / "log", 10.0, show)


def test_both_sides_run_each_block_once_never_at_the_same_time_and_over_the_same_prompts(tmp_path):
    log = []
    result = run(Duet(sides(log), tmp_path), tmp_path / "trial")
    assert [each["arm"]["side"] for each in result.record["arms"]] == ["BASE", "NEW"]
    turns = [each for each in log if each[0] in ("begin", "end")]
    assert log[2:4] == [("warm up", "BASE"), ("warm up", "NEW")]
    assert [each[0] for each in turns] == ["begin", "end"] * (len(turns) // 2)
    begun = [each[1:] for each in turns if each[0] == "begin"]
    blocks = [begun[index : index + 2] for index in range(0, len(begun), 2)]
    assert len(blocks) >= 10
    for number, block in enumerate(blocks):
        assert {each[0] for each in block} == {"BASE", "NEW"}
        assert [each[1] for each in block] == [number, number]
        assert block[0][2] == block[1][2]
    assert len({block[0][2] for block in blocks}) == len(blocks)


def test_threads_live_as_long_as_the_executors(tmp_path):
    """A fork server is killed when the thread that started it ends, and the check of the outputs comes after the trial."""
    log = []
    duet = Duet(sides(log), tmp_path)
    run(duet, tmp_path / "trial")
    threads = [executor.thread for _, executor in duet.sides.values()]
    assert all(each.is_alive() for each in threads)
    duet.close()
    for each in threads:
        each.join(timeout=10)
    assert not any(each.is_alive() for each in threads)


def test_in_every_second_launch_the_other_side_begins_once_base_has_left_its_weights(tmp_path, monkeypatch):
    order, begin = [], Turns.begin

    def begins(self, pool, request, *rest):
        order.append(request["trial"]["arms"][0]["side"])
        begin(self, pool, request, *rest)

    monkeypatch.setattr(Turns, "begin", begins)
    duet = Duet(sides([]), tmp_path)
    for launch in (2, 3, 4):
        run(duet, tmp_path / str(launch), replace(TRIAL, launch=launch))
        duet.weights_of(TRIAL).write_text("weights")
    assert order == ["BASE", "NEW", "BASE", "NEW", "NEW", "BASE"]


def test_the_order_is_balanced(tmp_path):
    log = []
    run(Duet(sides(log), tmp_path), tmp_path / "trial")
    first = [each[1] for each in log if each[0] == "begin"][::2]
    assert abs(first.count("BASE") - first.count("NEW")) <= 1
    pairs = [set(first[index : index + 2]) for index in range(0, len(first) - 1, 2)]
    assert all(len(pair) == 2 for pair in pairs)


def test_the_second_side_prepares_only_when_the_first_waits_for_its_turn(tmp_path):
    log = []
    run(Duet(sides(log), tmp_path), tmp_path / "trial")
    assert log[:2] == [("prepare", "BASE"), ("prepare", "NEW")]


def test_a_launch_ends_when_its_time_is_up_or_its_interval_is_narrow(tmp_path):
    log = []
    run(Duet(sides(log), tmp_path), tmp_path / "trial")
    timed = [each for each in log if each[0] == "end"]
    assert len(timed) == pytest.approx(0.2 / 0.01, abs=2)
    log.clear()
    exact = Trial(**{**vars(TRIAL), "target_ci": 0.05})
    run(Duet(sides(log), tmp_path), tmp_path / "trial", exact)
    assert len([each for each in log if each[0] == "end"]) == 8


def test_base_leaves_its_weights_and_new_takes_them_and_each_has_half_of_the_memory(tmp_path):
    log = []
    both = sides(log)
    duet = Duet(both, tmp_path)
    run(duet, tmp_path / "trial")
    base, new = (executor.requests[0]["trial"] for _, executor in both.values())
    assert base["weights_to"].startswith(str(tmp_path))
    assert (base["weights_from"], new["weights_to"], new["weights_from"]) == ("", "", "")
    assert base["turns"]
    assert new["turns"]
    assert base["memory_limit_bytes"] == new["memory_limit_bytes"] == 500
    with open(base["weights_to"], "w") as file:
        file.write("weights")
    log.clear()
    result = run(duet, tmp_path / "trial")
    assert both["NEW"][1].requests[1]["trial"]["weights_from"] == base["weights_to"]
    assert [each["arm"]["side"] for each in result.record["arms"]] == ["BASE", "NEW"]


def test_outputs_lie_where_those_of_one_process_do_and_are_checked_on_their_side(tmp_path):
    log = []
    both = sides(log)
    duet = Duet(both, tmp_path)
    run(duet, tmp_path / "trial")
    assert (tmp_path / "trial" / "outputs-0.pt").read_text() == "BASE"
    assert (tmp_path / "trial" / "outputs-1.pt").read_text() == "NEW"
    arms = [{"arm": asdict(arm), "outputs": "x", "gate_tolerance": None} for arm in (BASE, NEW)]
    request = {"check": {"trial": asdict(TRIAL), "arms": arms, "secret": "s"}}
    result = duet.run(json.loads(json.dumps(request)), tmp_path / "check", tmp_path / "log", 10.0, lambda report: None)
    assert result.record == {"arms": [{"name": "BASE"}, {"name": "NEW"}]}
    assert len(both["BASE"][1].requests) == len(both["NEW"][1].requests) == 2


def test_a_side_that_changes_the_point_gets_its_own(tmp_path):
    log = []
    both = {"BASE": (Side("gpt2-nano"), Worker(log)), "NEW": (Side("x:y", {"model": "x:y", "threads": 2}), Worker(log))}
    run(Duet(both, tmp_path), tmp_path / "trial")
    base, new = (executor.requests[0]["trial"]["point"] for _, executor in both.values())
    assert (base["model"], base["threads"]) == ("gpt2-nano", 1)
    assert (new["model"], new["threads"]) == ("x:y", 2)


@pytest.mark.parametrize(("broken", "index"), [("BASE", 0), ("NEW", 1)])
@pytest.mark.parametrize("options", [{"fails_at_start": True}, {"turns": 3}])
def test_a_side_that_ends_ends_the_launch_and_is_named(tmp_path, broken, index, options):
    log = []
    both = sides(log)
    both[broken] = (both[broken][0], Worker(log, **options))
    result = run(Duet(both, tmp_path), tmp_path / "trial")
    assert (result.record, result.status, result.running) == (None, Status.ERROR, index)


def test_an_interrupt_ends_both_sides(tmp_path):
    log, seen = [], []

    def show(report):
        seen.append(report)
        if len(seen) == 2:
            raise KeyboardInterrupt

    both = sides(log)
    with pytest.raises(KeyboardInterrupt):
        run(Duet(both, tmp_path), tmp_path / "trial", show=show)
    assert all(executor.closed.is_set() for _, executor in both.values())


def test_one_arm_alone_takes_no_turns(tmp_path):
    log = []
    both = sides(log)
    alone = Trial(**{**vars(TRIAL), "arms": (NEW,)})
    both["NEW"][1].turns = 0
    run(Duet(both, tmp_path), tmp_path / "trial", alone)
    asked = both["NEW"][1].requests[0]["trial"]
    assert (asked["turns"], asked["memory_limit_bytes"]) == (False, 1000)
    assert both["BASE"][1].requests == []
