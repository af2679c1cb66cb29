"""Two recorded runs: how far they may be compared, and what is said of each cell."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from conftest import TESTS
from nanobench.analysis import compare
from nanobench.analysis.compare import Change, Relation
from nanobench.analysis.recorded_run import RecordedRun
from nanobench.errors import UserError
from nanobench.records import ArmRecord, Description, LaunchRecord, Outcome, Status
from nanobench.results.run_context import Calibration, Setting
from nanobench.results.run_info import RunInfo
from nanobench.schema import Plan, Trial
from nanobench.source_code import Source
from nanobench.views import compare as views
from nanobench.views.figures import compare_forest
from nanobench.views.html import compare_page
from nanobench.views.html.drawing import Inks
from test_metrics_roofline import LIMITS, SHAPE
from test_speedup_status import GPU
from test_status import ARM, CPU, OK, RAMP, REFERENCE, STILL, timed

IDENTITY = {"cpu": "A", "cores": 2, "memory_gib": 24, "torch": "2.13", "python": "3.11", "hash": "one"}


def info(started="2026-01-01T10:00:00+00:00", finished="2026-01-01T10:10:00+00:00", code=None, host="h", **identity):
    facts = {**IDENTITY, **identity}
    plan = Plan(
        points=(CPU,), arms=(REFERENCE, ARM), launches=5, seed=0, target_ci=0.05, max_seconds=1.0, memory_limit_bytes=None,
        timeout_s=10.0, isolation="spawn",
    )  # fmt: skip
    description = Description(device="cpu", gpus=[], identity=facts, state={"hostname": host}, code=code or {})
    return RunInfo(
        command="kv-sweep", requested={}, plan=plan, description=description, started_at=started, finished_at=finished
    )


def recorded(
    name="base", scale=1.0, ratio=2.0, sd=0.002, seed=1, points=(CPU,), about=None, outcome=OK, readings=(), launches=5,
    machine=None, walls_s=STILL,
):  # fmt: skip
    """A run whose reference takes 1 s per repetition times `scale`, and whose arm is `ratio` times as fast. `machine` gives
    the slowness of the machine in each launch, which a fixed loop sees.
    """
    generator, rows = np.random.default_rng(seed), []
    for point in points:
        for number in range(1, launches + 1):
            trial = Trial(point=point, arms=(REFERENCE, ARM), launch=number, seed=0, target_ci=0.05, max_seconds=1.0)
            noise, facts = math.exp(sd * generator.standard_normal()), dict(readings)
            if machine is not None:
                noise, facts = noise * machine[number - 1], {"spin_s": 0.005 * machine[number - 1], **facts}
            for arm, wall_s, ended in ((REFERENCE, scale * noise, OK), (ARM, scale * noise / ratio, outcome)):
                done = tuple(timed([wall_s * each for each in walls_s], **facts)) if ended.status is Status.OK else ()
                rows.append(LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=done, outcome=ended)))
    return RecordedRun(name, about or info(), rows)


LATER = {"started": "2026-01-03T10:00:00+00:00", "finished": "2026-01-03T10:10:00+00:00"}
SOON = {"started": "2026-01-01T10:15:00+00:00", "finished": "2026-01-01T10:25:00+00:00"}


@pytest.mark.parametrize(
    ("about", "relation"),
    [
        (SOON, Relation.SAME_SESSION),
        (LATER, Relation.SAME_MACHINE),
        ({**SOON, "host": "other"}, Relation.SAME_MACHINE),
        ({**SOON, "torch": "2.14", "hash": "two"}, Relation.SOFTWARE_DIFF),
        ({**SOON, "memory_gib": 25, "hash": "one too"}, Relation.SAME_SESSION),
        ({**SOON, "cpu": "B", "hash": "three"}, Relation.CROSS_MACHINE),
        ({**SOON, "cores": 4, "hash": "four"}, Relation.CROSS_MACHINE),
    ],
)
def test_what_two_runs_have_in_common(about, relation):
    found = compare.compare(recorded(), recorded("new", about=info(**about)))
    assert found.relation is relation


def test_what_differs_is_listed():
    code = [{"nanobench": Source({"a": "1"}, "c" * 40)}, {"nanobench": Source({"a": "2"}, "d" * 40)}]
    base = recorded(about=info(code=code[0]))
    new = recorded("new", about=info(**SOON, torch="2.14", hash="two", code=code[1]))
    assert list(compare.compare(base, new).differences) == [
        "torch: 2.13 -> 2.14",
        "code of nanobench: cccccccccc -> dddddddddd",
    ]


def test_code_that_no_commit_has_is_named_by_its_files():
    sources = [Source({"a": "1"}), Source({"a": "2"}), Source({"a": "2"}, "c" * 40, dirty=True), Source({"a": "3"}, "c" * 40)]
    free, other, dirty, clean = (each.version for each in sources)
    assert [free[:6], other[:6]] == ["files ", "files "]
    assert free != other
    assert (dirty, clean) == (f"cccccccccc with local changes ({other})", "cccccccccc")
    base, new = (recorded(about=info(**SOON, code={"my_gpt": source})) for source in sources[:2])
    assert list(compare.compare(base, new).differences) == [f"code of my_gpt: {free} -> {other}"]


def changes(base, new):
    return {(row.arm.label, row.kind): row.change for row in compare.compare(base, new).rows}


@pytest.mark.parametrize(
    ("scale", "change"),
    [(1.0, Change.SAME), (1.1, Change.SLOWER), (0.9, Change.FASTER), (1.02, Change.AMBIGUOUS)],
)
def test_within_a_session_a_cell_changes_by_its_whole_interval(scale, change):
    new = recorded("new", scale=scale, seed=2, about=info(**SOON))
    found = compare.compare(recorded(), new)
    assert {row.change for row in found.rows if row.kind == "throughput"} == {change}
    assert found.change is change
    row = next(row for row in found.rows if row.kind == "throughput")
    assert row.ratio == pytest.approx(1 / scale, rel=0.01)
    assert row.low < row.ratio < row.high


def test_between_sessions_the_interval_is_wider_and_the_difference_must_be_larger():
    def of(about, scale):
        return compare.compare(recorded(), recorded("new", scale=scale, seed=2, about=info(**about)))

    near, far = (of(about, 1.0).rows[0] for about in (SOON, LATER))
    assert math.log(far.high / far.low) > 2 * math.log(near.high / near.low)
    assert of(SOON, 1.06).change is Change.SLOWER
    assert of(LATER, 1.06).change is Change.AMBIGUOUS
    assert of(LATER, 1.2).change is Change.SLOWER


def test_the_speedups_of_two_machines_are_compared_and_their_throughput_is_not():
    other = info(**SOON, cpu="B", hash="two")
    assert changes(recorded(), recorded("new", scale=3.0, seed=2, about=other)) == {("cached", "speedup"): Change.SAME}
    assert changes(recorded(), recorded("new", ratio=3.0, seed=2, about=other)) == {("cached", "speedup"): Change.FASTER}


def test_a_speedup_is_compared_with_the_interval_that_its_run_gives_it():
    """Another program shared the cores: the pairs are tight, and the ratio may be off by more."""
    quiet = recorded("new", ratio=1.7, seed=2, about=info(**SOON))
    busy = recorded("new", ratio=1.7, seed=2, about=info(**SOON), readings={"cpu_s": 0.7, "pressure_s": 0.3})
    tight, wide = (
        next(row for row in compare.compare(recorded(), each).rows if row.kind == "speedup") for each in (quiet, busy)
    )
    assert tight.change is Change.SLOWER
    assert wide.low < tight.low
    assert wide.high > tight.high


def test_what_no_machine_can_do_is_not_compared():
    shapes = {CPU.model: replace(SHAPE, n_params=10**12, matmul_params=10**12)}
    about = replace(info(**SOON), description=replace(info().description, models=shapes))
    about = replace(about, calibrations={Setting.of(CPU).name: Calibration(LIMITS)})
    known = replace(OK, kv_access="static")
    found = compare.compare(recorded(), recorded("new", seed=2, about=about, outcome=known))
    row = next(row for row in found.rows if row.arm == ARM and row.kind == "throughput")
    assert row.change is Change.NOT_COMPARABLE
    assert "NEW is implausible" in row.reason


def test_the_page_of_two_machines_says_why_it_has_no_table():
    found = compare.compare(recorded(), recorded("new", about=info(**SOON, cpu="B", hash="two")))
    alone = replace(found, rows=())
    assert compare_page.ALONE in compare_page.page(alone, "base", "new")
    same = replace(compare.compare(recorded(), recorded("new", about=info(**SOON))), rows=())
    assert compare_page.NOTHING in compare_page.page(same, "base", "new")


def test_the_intervals_of_all_cells_hold_together():
    """A difference that is just significant in one cell is not among twenty."""
    points = tuple(replace(CPU, batch_size=size) for size in range(1, 21))
    about = info(**SOON)
    alone = compare.compare(recorded(sd=0.01), recorded("new", sd=0.01, seed=2, about=about)).rows[0]
    among = compare.compare(
        recorded(sd=0.01, points=points), recorded("new", sd=0.01, seed=2, points=points, about=about)
    ).rows[0]
    assert math.log(among.high / among.low) > 1.5 * math.log(alone.high / alone.low)


def test_an_unstable_cell_is_not_comparable_and_the_others_are():
    points = (CPU, replace(CPU, batch_size=8))
    new = recorded("new", seed=2, points=points[:1], about=info(**SOON))
    busy = recorded("new", seed=2, points=points[1:], readings={"steal_s": 0.5}, about=info(**SOON))
    both = replace(new, launches=[*new.launches, *busy.launches])
    found = compare.compare(recorded(points=points), both)
    by_size = {(row.point.batch_size, row.kind): row for row in found.rows if row.arm == REFERENCE}
    assert by_size[4, "throughput"].change is Change.SAME
    assert by_size[8, "throughput"].change is Change.NOT_COMPARABLE
    assert "NEW is unstable" in by_size[8, "throughput"].reason
    assert found.change is Change.SAME


def test_cells_of_one_run_are_listed():
    found = compare.compare(recorded(), recorded("new", points=(CPU, replace(CPU, batch_size=8)), about=info(**SOON)))
    assert found.missing == (
        "only in new: gpt2-nano, batch 8, prompt 10, new 3, uncached",
        "only in new: gpt2-nano, batch 8, prompt 10, new 3, cached",
    )


def noisy(name="base", seed=1, slowness=1.0, launches=12, **facts):
    """A run on a machine whose speed differs by a quarter from launch to launch."""
    machine = slowness * np.exp(0.25 * np.random.default_rng(seed).standard_normal(launches))
    return recorded(name, sd=0.01, seed=seed + 100, launches=launches, machine=machine, **facts)


@pytest.mark.parametrize("slowness", [1.0, 1.3])
@pytest.mark.parametrize(("scale", "allowed"), [(1.0, {Change.SAME, Change.AMBIGUOUS}), (1.05, {Change.SLOWER})])
def test_throughput_is_compared_at_an_equal_speed_of_the_machine(scale, allowed, slowness):
    found = compare.compare(noisy(), noisy("new", seed=2, slowness=slowness, scale=scale, about=info(**SOON)))
    rows = [row for row in found.rows if row.kind == "throughput"]
    assert {row.change for row in rows} <= allowed
    assert all(row.machine_speed == pytest.approx(1 / slowness, rel=0.3) for row in rows)
    assert all(row.ratio == pytest.approx(1 / scale, rel=0.02) for row in rows)
    (line,) = views.adjustment(found)
    loop = f"a fixed loop ran {rows[0].machine_speed:.3f}x as fast in NEW"
    assert line == f"adjusted for the speed of the machine: 2 of 2 throughputs; {loop}"
    assert line in "".join(views.lines(found, "base", "new"))
    assert line in compare_page.page(found, "base", "new")
    assert line in "".join(text.get_text() for text in compare_forest.compare_forest(found, "base", "new").texts)
    assert {row["machine_speed"] for row in views.document(found, "base", "new")["rows"]} == {rows[0].machine_speed, None}


@pytest.mark.parametrize(
    ("about", "point"),
    [
        ({**SOON, "python": "3.12"}, CPU),
        ({**SOON, "code": {"nanobench": Source({"nanobench/probes/host.py": "2"})}}, CPU),
        (SOON, GPU),
    ],
    ids=["another Python", "another loop", "a GPU"],
)
def test_nothing_is_adjusted_for_a_loop_that_says_nothing_of_the_machine(about, point):
    known = {"nanobench": Source({"nanobench/probes/host.py": "1"})}
    base = noisy(about=info(code=known), points=(point,))
    new = noisy("new", seed=2, points=(point,), about=info(**{"code": known, **about}))
    rows = [row for row in compare.compare(base, new).rows if row.kind == "throughput"]
    assert {row.change for row in rows} == {Change.AMBIGUOUS}
    assert {row.machine_speed for row in rows} == {None}


def test_arms_that_only_one_run_has_do_not_count_for_the_speed_of_the_machine():
    base, new = noisy(), noisy("new", seed=2, about=info(**SOON))
    other = replace(ARM, compile_mode="default")
    slow = [
        replace(each, arm=other, arm_index=2, repetitions=tuple(timed([9.0] * len(STILL), spin_s=0.05)))
        for each in new.launches
        if each.arm == ARM
    ]
    more = replace(new, launches=[*new.launches, *slow])
    assert compare.compare(base, more).rows == compare.compare(base, new).rows


def test_the_machine_is_that_of_the_process_of_an_arm():
    base, new = noisy(), noisy("new", seed=2, about=info(**SOON))
    apart = replace(
        new,
        launches=[
            replace(each, process=1, repetitions=tuple(timed([1.0] * len(STILL), spin_s=0.01)))
            if each.arm == REFERENCE
            else each
            for each in new.launches
        ],
    )
    before, after = (
        next(row for row in compare.compare(base, run).rows if row.kind == "throughput" and row.arm == ARM)
        for run in (new, apart)
    )
    assert after.machine_speed == pytest.approx(before.machine_speed)


def test_without_the_loop_nothing_is_said_on_such_a_machine():
    new = noisy("new", seed=2, scale=1.05, about=info(**SOON), readings={"spin_s": None})
    found = compare.compare(noisy(), new)
    assert {row.change for row in found.rows if row.kind == "throughput"} == {Change.AMBIGUOUS}
    assert not [*views.adjustment(found)]


def test_a_drift_of_the_loop_is_what_an_adjustment_allows_for():
    drift = {"spin_s": [0.005 / 1.1] * 10 + [0.005 * 1.1] * 10}
    for launches, changes in ((5, {Change.SAME}), (4, {Change.NOT_COMPARABLE})):
        base = recorded(launches=launches, machine=[1.0, 1.01, 1.02, 1.03, 1.04][:launches])
        new = recorded("new", launches=launches, about=info(**SOON), readings=drift)
        rows = [row for row in compare.compare(base, new).rows if row.kind == "throughput"]
        assert {row.change for row in rows} == changes
    assert all("NEW is unstable: a loop of fixed length drifted by 21%" in row.reason for row in rows)
    longer = {"spin_s": [0.005 / 1.1] * 20 + [0.005 * 1.1] * 20}
    never_settles = recorded("new", about=info(**SOON), readings=longer, walls_s=RAMP)
    unsettled = compare.compare(recorded(machine=[1.0, 1.01, 1.02, 1.03, 1.04]), never_settles)
    assert [row.change for row in unsettled.rows if row.kind == "throughput"] == [Change.NOT_COMPARABLE] * 2
    readings = {**drift, "steal_s": 0.5}
    stolen = compare.compare(noisy(), noisy("new", about=info(**SOON), readings=readings))
    assert ["the hypervisor took" in row.reason for row in stolen.rows if row.kind == "throughput"] == [True] * 2


def test_a_failed_arm_is_not_comparable():
    failed = Outcome(status=Status.OOM, reason="no memory")
    found = compare.compare(recorded(), recorded("new", outcome=failed, about=info(**SOON)))
    row = next(row for row in found.rows if row.arm == ARM and row.kind == "throughput")
    assert (row.change, row.reason) == (Change.NOT_COMPARABLE, "NEW is oom: no memory")


def test_most_cells_that_move_together_point_at_the_machine():
    points = tuple(replace(CPU, batch_size=size) for size in (1, 2, 4, 8))
    drifted = compare.compare(recorded(points=points), recorded("new", scale=1.04, seed=2, points=points, about=info(**SOON)))
    assert drifted.drift.startswith("100% of 8 cells moved in one direction (median -3.8%)")
    still = compare.compare(recorded(points=points), recorded("new", seed=2, points=points, about=info(**SOON)))
    assert still.drift is None


def test_runs_of_two_protocols_are_refused():
    old = replace(info(), protocol=4)
    with pytest.raises(UserError, match="measured by protocol 4"):
        compare.compare(recorded(about=old), recorded())


def test_a_run_without_trials_is_refused():
    with pytest.raises(UserError, match="has no finished trial"):
        compare.compare(recorded(), replace(recorded("new"), launches=[]))


def test_a_run_of_one_launch_has_no_interval():
    found = compare.compare(recorded(), recorded("new", launches=1, about=info(**SOON)))
    assert {row.change for row in found.rows} == {Change.NOT_COMPARABLE}
    assert "one launch" in found.rows[0].reason


# Through the command line, on recorded runs


def test_a_run_is_the_same_as_itself(nanobench_here, tmp_path):
    run = TESTS / "runs" / "protocol-4"
    done = nanobench_here("compare", run, run, "--json", cwd=tmp_path)
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert document["relation"] == "same_session"
    assert {row["change"] for row in document["rows"]} <= {"same", "ambiguous", "not_comparable"}
    ratios = [row["ratio"] for row in document["rows"] if row["ratio"] is not None]
    assert ratios
    assert ratios == pytest.approx([1.0] * len(ratios))
    assert done.returncode in (0, 3)


@pytest.mark.parametrize(
    ("form", "words"), [("md", "| ---: |"), ("html", "<h1>nanobench compare</h1>"), ("json", '"relation"')]
)
def test_a_comparison_is_written_to_a_file_with_its_figure(nanobench_here, tmp_path, form, words):
    run = TESTS / "runs" / "protocol-4"
    done = nanobench_here("compare", run, run, "--format", form, "--out", f"a.{form}", "--plot", "plots", cwd=tmp_path)
    assert words in (tmp_path / f"a.{form}").read_text()
    assert done.stdout.strip() == f"a.{form}"
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"compare_forest.png", "compare_forest.svg"}


def test_the_page_and_the_table_say_the_same_and_names_stay_text():
    name = "<script>alert(1)</script>"
    found = compare.compare(recorded(), recorded("new", scale=1.1, seed=2, about=info(**SOON)))
    text = compare_page.page(found, name, "new")
    assert name not in text
    assert "&lt;script&gt;alert(1)" in text
    for row in views.table(found).rows:
        ratio = views.ratio_text(row)
        assert ratio in text
        assert ratio in views.page(found, "base", "new")
    (verdict,) = views.verdict(found)
    assert verdict == "slower: of 2 throughputs 2 slower; of 1 speedup 1 same"
    assert verdict in text


def test_the_figure_has_a_line_per_ratio_and_a_band_for_what_does_not_count():
    points = tuple(replace(CPU, batch_size=size) for size in (1, 2, 4))
    found = compare.compare(recorded(points=points), recorded("new", scale=1.1, seed=2, points=points, about=info(**SOON)))
    drawing = compare_forest.compare_forest(found, "base", "new")
    throughput, speedup = drawing.axes
    assert [text.get_text() for text in throughput.get_yticklabels()][:2] == ["uncached, batch 1", "cached, batch 1"]
    assert (len(throughput.lines), len(speedup.lines)) == (1 + 2 * 6, 1 + 2 * 3)
    row = next(row for row in found.rows if row.kind == "speedup")
    assert list(speedup.lines[1].get_xdata()) == [row.low, row.high]


def test_the_verdict_counts_the_rows_that_the_figure_shows_and_those_that_it_leaves_out(monkeypatch):
    monkeypatch.setattr(compare_forest, "MOST_ROWS", 3)
    points = tuple(replace(CPU, batch_size=size) for size in (1, 2, 4))
    busy = recorded("new", seed=2, points=points[2:], readings={"steal_s": 0.5}, about=info(**SOON))
    still = recorded("new", scale=1.1, seed=2, points=points[:2], about=info(**SOON))
    found = compare.compare(recorded(points=points), replace(still, launches=[*still.launches, *busy.launches]))
    drawing = compare_forest.compare_forest(found, "base", "new")
    (verdict,) = views.verdict(found)
    counted = views.counted(found)
    assert verdict == f"slower: {'; '.join(counted.values())}"
    assert counted["throughput"] == "of 6 throughputs 4 slower, 2 not comparable"
    for axes, kind in zip(drawing.axes, compare.KINDS, strict=True):
        title = axes.get_title() or axes.get_title("left")
        assert " ".join(title.split()).endswith(f": {counted[kind]}")
    shown = [len(axes.lines) // 2 for axes in drawing.axes]
    bare = sum(row.ratio is None for row in found.rows)
    footer = drawing.get_supxlabel().replace("\n", " ")
    assert f"in the table alone: {bare} without a ratio, as not comparable; 1 for which there is no room" in footer
    assert sum(shown) + bare + 1 == len(found.rows) == sum(sum(each.values()) for each in compare.counts(found.rows).values())


def test_of_two_machines_the_speedups_are_counted():
    found = compare.compare(recorded(), recorded("new", ratio=3.0, seed=2, about=info(**SOON, cpu="B", hash="two")))
    assert list(views.verdict(found))[1:] == ["of 1 speedup 1 faster"]


def test_a_figure_without_a_ratio_is_refused():
    found = compare.compare(recorded(), recorded("new", launches=1, about=info(**SOON)))
    with pytest.raises(UserError, match="needs a cell that is reliable in both runs"):
        compare_forest.compare_forest(found, "base", "new")
    assert compare_page.drawn(found, "base", "new", Inks()) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "nowhere"), "nowhere"),
        (("--format", "pdf", ".", "."), "unknown format 'pdf'"),
        (("--out", "a.txt", ".", "."), "--out 'a.txt' needs --format md, json or html"),
    ],
)
def test_a_mistake_is_one_line(nanobench_here, tmp_path, arguments, message):
    done = nanobench_here("compare", *arguments, cwd=tmp_path, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
