"""Factors worked by hand from a few raw rows, their product, the interaction, and the figure."""

import itertools
import math
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobench.analysis.waterfall import BATCH, MOST_GAP, STEPS, TOGETHER, waterfalls
from nanobench.errors import UserError
from nanobench.records import ArmRecord, LaunchRecord, Outcome, Repetition, Status, Verdict
from nanobench.results import derive
from nanobench.results.store import cells_schema
from nanobench.schema import Arm, Point, Trial
from nanobench.stats import intervals
from nanobench.views import plots
from nanobench.views.figures import layout

FULL, PLAIN, CACHED = (Arm(engine=engine) for engine in ("uncached-full-logits", "uncached", "cached"))
COMPILED, CAT, GRAPH = Arm(engine="cached", compile_mode="default"), Arm(engine="cached-cat"), Arm(engine="cuda-graph")
NEW_TOKENS = 4
fixed = settings(derandomize=True, deadline=None, database=None, max_examples=25)


def rows_of(arm, batch_size, launches, arms, prompt_len=8, outcome=None, dtype="float32", **seen):
    """The raw rows of one cell: `launches` holds seconds per call, block by block; None for a launch that failed."""
    point = Point(
        model="gpt2-nano",
        dtype=dtype,
        device="cpu",
        threads=1,
        batch_size=batch_size,
        prompt_len=prompt_len,
        new_tokens=NEW_TOKENS,
    )
    found = []
    for launch, walls_s in enumerate(launches, start=1):
        trial = Trial(point=point, arms=arms, launch=launch, seed=0, target_ci=0.05, max_seconds=1.0)
        ended = outcome or Outcome(status=Status.OK, gate=Verdict.EXACT)
        if walls_s is None:
            walls_s, ended = [], Outcome(status=Status.TIMEOUT, reason="after 60 s")
        repetitions = tuple(
            Repetition(
                kind="steady",
                repetition=block,
                block=block,
                wall_s=wall_s,
                tokens=batch_size * NEW_TOKENS,
                timestamped=True,
                token_times_s=tuple(wall_s * (n + 1) / NEW_TOKENS for n in range(NEW_TOKENS)),
                **seen,
            )
            for block, wall_s in enumerate(walls_s)
        )
        found += [LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=repetitions, outcome=ended))]
    return found


def run(times, arms=None, **others):
    """Raw rows of a run: (arm, batch size) -> launches of seconds per call."""
    arms = arms or tuple(dict.fromkeys(arm for arm, _ in times))
    return [row for (arm, batch), launches in times.items() for row in rows_of(arm, batch, launches, arms, **others)]


def steps_of(times, seq_len=32):
    """Raw rows of a run that trains: (arm, batch size) -> launches of seconds per step; half of the tokens carry loss."""
    arms, found = tuple(dict.fromkeys(arm for arm, _ in times)), []
    for (arm, batch), launches in times.items():
        where = {"batch_size": batch, "seq_len": seq_len, "phase": "sft-padded", "optimizer": "adamw"}
        point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, **where)
        counts = {
            "tokens": batch * seq_len,
            "useful_tokens": batch * seq_len // 2,
            "attended_positions": 1,
            "useful_attended_positions": 1,
        }
        for launch, walls_s in enumerate(launches, start=1):
            trial = Trial(point=point, arms=arms, launch=launch, seed=0, target_ci=0.05, max_seconds=1.0)
            timed = [Repetition(kind="steady", block=n, wall_s=wall_s, **counts) for n, wall_s in enumerate(walls_s)]
            ended = Outcome(status=Status.OK, gate=Verdict.EXACT)
            found += [LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=tuple(timed), outcome=ended))]
    return found


def frame(rows):
    return pa.Table.from_pylist(derive.derive(rows), schema=cells_schema()).to_pandas()


def found(rows, **changed):
    return waterfalls(frame(rows).assign(**changed), rows)


def only(times, **others):
    (one,) = found(run(times, **others))
    return one


def values(factors):
    return {each.step: each.ratio.value for each in factors}


# Two arms, two batch sizes, two launches of two pairs: the cache is worth 2 at batch 1 and 8 at batch 4.
TWO = {
    (PLAIN, 1): [[2.0, 2.0], [2.0, 2.0]],
    (CACHED, 1): [[1.0, 1.0], [1.0, 1.0]],
    (PLAIN, 4): [[8.0, 8.0], [8.0, 8.0]],
    (CACHED, 4): [[1.0, 1.0], [1.0, 1.0]],
}


# Factors


def test_both_ways_lead_from_the_first_arm_at_the_smallest_batch_to_the_last_at_the_largest():
    one = only(TWO)
    assert (one.arms, one.batches) == (["uncached", "cached"], [1, 4])
    assert values(one.arms_first) == pytest.approx({"cache": 2, BATCH: 4})  # 1 row a second becomes 4 rows a second
    assert values(one.batch_first) == pytest.approx({BATCH: 1, "cache": 8})  # 1 / 2 and 4 / 8 rows a second
    assert one.total.ratio.value == pytest.approx(8)
    assert one.products == pytest.approx([8, 8])
    assert one.gap == pytest.approx(0)
    assert one.left_out == ["uncached-full-logits", "compiled", "graph"]
    assert one.aside == []


def test_the_interaction_is_what_the_cache_is_worth_at_the_largest_batch_over_what_it_is_at_the_smallest():
    assert only(TWO).interaction.ratio.value == pytest.approx(4)
    assert (only(TWO).interaction.from_batch, only(TWO).interaction.to_batch) == (1, 4)


EAGER, FASTER = Arm(engine=""), Arm(engine="", compile_mode="default")


def test_training_has_a_chain_of_its_own():
    """Compiling is worth 2 at batch 4 and 1.6 at batch 16, the batch 2 to an eager step: together 3.2, and not 4."""
    times = {
        (EAGER, 4): [[4.0] * 2] * 2,
        (FASTER, 4): [[2.0] * 2] * 2,
        (EAGER, 16): [[8.0] * 2] * 2,
        (FASTER, 16): [[5.0] * 2] * 2,
    }
    rows = steps_of(times)
    (one,) = found(rows)
    assert one.arms == ["eager", "compiled default"]
    assert values(one.arms_first) == pytest.approx({"compile": 2, BATCH: 1.6})
    assert values(one.batch_first) == pytest.approx({BATCH: 2, "compile": 1.6})
    assert one.total.ratio.value == pytest.approx(3.2)
    assert one.interaction.ratio.value == pytest.approx(0.8)
    assert (one.left_out, one.aside) == ([], [])
    assert plots.figure("waterfall", frame(rows), rows)


def test_a_recipe_of_another_kind_is_no_step_of_training():
    kept, again = (
        Arm(engine="", checkpointing="checkpointed"),
        Arm(engine="", checkpointing="checkpointed", compile_mode="default"),
    )
    rows = steps_of({(arm, 4): [[1.0] * 2] * 2 for arm in (EAGER, FASTER, kept, again)})
    (one,) = found(rows)
    assert one.arms == ["eager", "compiled default"]
    assert one.aside == [kept.label, again.label]


def test_the_interval_is_student_over_the_launches_mean_logs():
    times = {**TWO, (CACHED, 1): [[1.0, 1.0], [0.5, 0.5]]}
    one = only(times)
    logs = [math.log(2), math.log(4)]
    mean, low, high = intervals.t_interval(logs)
    assert one.arms_first[0].ratio == intervals.Interval(
        *(pytest.approx(math.exp(each)) for each in (mean, low, high)), "launches"
    )
    batch = one.arms_first[1].ratio
    mean, low, high = intervals.t_interval([math.log(4), math.log(2)])
    assert (batch.value, batch.low, batch.high) == pytest.approx(tuple(map(math.exp, (mean, low, high))))
    cells = frame(run(times))
    cached = cells[cells["arm"].eq("cached") & cells["batch_size"].eq(1)].iloc[0]
    ratio = one.arms_first[0].ratio
    assert (ratio.value, ratio.low, ratio.high) == (cached["speedup"], cached["speedup_lo"], cached["speedup_hi"])


def test_the_batch_factor_of_a_launch_is_of_its_mean_log_throughput():
    one = only({**TWO, (CACHED, 4): [[1.0, 4.0], [2.0, 2.0]]})
    assert one.arms_first[1].ratio.value == pytest.approx(2)  # 4 rows in a geometric mean of 2 s, after 1 row in 1 s


def test_where_the_reference_is_the_faster_arm_the_ratio_is_inverted():
    times = dict(TWO)
    forward, backward = only(times), only(times, arms=(CACHED, PLAIN))
    assert values(backward.arms_first) == pytest.approx(values(forward.arms_first))
    assert backward.arms_first[0].ratio.low == pytest.approx(forward.arms_first[0].ratio.low)
    assert (backward.arms_first[0].before, backward.arms_first[0].after) == ("uncached", "cached")
    noisy = {**times, (CACHED, 1): [[1.0, 1.1], [0.9, 0.7]]}
    low, high = only(noisy).arms_first[0].ratio.low, only(noisy).arms_first[0].ratio.high
    other = only(noisy, arms=(CACHED, PLAIN)).arms_first[0].ratio
    assert (other.low, other.high) == pytest.approx((low, high))


def test_arms_in_processes_of_their_own_are_compared_launch_by_launch():
    rows = run(TWO)
    (one,) = found([replace(launch, process=launch.arm_index) for launch in rows])
    assert values(one.arms_first) == pytest.approx({"cache": 2, BATCH: 4})


CHAIN = (FULL, PLAIN, CACHED, COMPILED, GRAPH)


def chain(arms=CHAIN, batches=(1, 8), launches=2):
    """Every arm is twice as fast as the one before, and loses nothing to the batch."""
    places = itertools.product(enumerate(arms), batches)
    return {(arm, batch): [[2.0**-n, 2.0**-n]] * launches for (n, arm), batch in places}


def test_the_whole_chain_has_four_steps_and_the_batch():
    one = only(chain())
    assert values(one.arms_first) == pytest.approx({"last logits only": 2, "cache": 2, "compile": 2, "CUDA graph": 2, BATCH: 8})
    assert [each.step for each in one.batch_first] == [BATCH, "last logits only", "cache", "compile", "CUDA graph"]
    assert one.total.ratio.value == pytest.approx(128)
    assert one.left_out == []


def test_the_order_in_which_arms_are_listed_is_not_that_of_the_chain():
    one = only(chain(), arms=(PLAIN, GRAPH, CACHED, FULL, COMPILED))
    assert one.arms == [arm.label for arm in CHAIN]
    assert set(values(one.arms_first)) == {*list(STEPS.values())[1:], BATCH}


def test_a_link_without_an_arm_is_left_out_and_bridged():
    one = only(chain(arms=(PLAIN, GRAPH)))
    first = one.arms_first[0]
    assert (first.step, first.before, first.after) == ("CUDA graph", "uncached", "cuda-graph")
    assert one.left_out == ["uncached-full-logits", "cached", "compiled"]
    assert one.interaction is None


def test_a_compiled_arm_that_replays_graphs_is_the_graph():
    def replaying(launch):
        graphs = 1.0 if launch.arm.compile_mode == "default" else None
        return replace(launch, outcome=replace(launch.outcome, graph_launches_per_step=graphs))

    (one,) = found([replaying(launch) for launch in run(chain(arms=(PLAIN, CACHED, COMPILED)))])
    assert [each.step for each in one.arms_first] == ["cache", "CUDA graph", BATCH]
    assert "compiled" in one.left_out


def test_arms_that_are_no_link_are_named():
    sampled = Arm(engine="cached", sampler="top-k")
    compiled_reference = Arm(engine="uncached", compile_mode="default")
    one = only(chain(arms=(PLAIN, CAT, sampled, compiled_reference, CACHED)))
    assert one.arms == ["uncached", "cached"]
    assert one.aside == ["cached-cat", "cached top-k", "uncached default"]


def test_of_two_compiled_arms_the_first_one_is_the_link():
    other = Arm(engine="cached", compile_mode="max-autotune")
    one = only(chain(arms=(CACHED, COMPILED, other)))
    assert (one.arms, one.aside) == (["cached", "cached default"], ["cached max-autotune"])


# What is missing


def test_a_single_batch_size_has_no_batch_factor_and_no_second_way():
    one = only({key: value for key, value in TWO.items() if key[1] == 4})
    assert (one.batches, values(one.arms_first), one.batch_first) == ([4], pytest.approx({"cache": 8}), [])
    assert one.interaction is None
    assert one.total.ratio.value == pytest.approx(8)


def test_a_single_launch_has_intervals_over_its_pairs_and_none_between_batch_sizes():
    one = only({key: [[value[0][0], 1.1 * value[0][1]]] for key, value in TWO.items()} | {(CACHED, 1): [[1.0, 1.0]]})
    cache, batch = one.arms_first
    assert cache.ratio.basis == "pairs of one process"
    assert cache.ratio.low is not None
    assert (batch.ratio.low, batch.ratio.high) == (None, None)
    assert (one.total.ratio.low, one.interaction.ratio.low) == (None, None)


def test_the_ends_are_the_batch_sizes_at_which_all_arms_were_measured():
    times = chain(arms=(PLAIN, CACHED), batches=(1, 2, 4, 8))
    oom = Outcome(status=Status.OOM, reason="too large")
    rows = run({key: value for key, value in times.items() if key != (PLAIN, 8)})
    (one,) = found(rows + rows_of(PLAIN, 8, [[]], (PLAIN, CACHED), outcome=oom))
    assert one.batches == [1, 4]


def test_an_arm_that_was_never_measured_is_left_out():
    times = chain(arms=(PLAIN, CACHED, COMPILED), batches=(1, 4))
    wrong = Outcome(status=Status.WRONG, reason="token 3 differs", gate=Verdict.WRONG)
    rows = [
        row
        for (arm, batch), launches in times.items()
        for row in rows_of(arm, batch, launches, (PLAIN, CACHED, COMPILED), outcome=wrong if arm == COMPILED else None)
    ]
    (one,) = found(rows)
    assert one.arms == ["uncached", "cached"]
    assert "compiled" in one.left_out
    assert one.aside == ["cached default"]


def test_a_run_without_two_links_has_no_waterfall():
    assert found(run(chain(arms=(CACHED,)))) == []
    assert found(run(chain(arms=(CAT, Arm(engine="fakes:slow"))))) == []


def test_two_cells_without_a_common_launch_have_no_ratio():
    one = only({(PLAIN, 1): [[2.0], None], (CACHED, 1): [None, [1.0]]})
    assert one.arms_first[0].ratio is None
    assert one.products == [None]
    assert one.gap == 0


def unreliable(cells, column):
    """The same cells, one of them unstable by this column."""
    return cells.assign(**{column: cells[column].mask(cells["arm"].eq("cached") & cells["batch_size"].eq(1), "unstable")})


def test_a_factor_between_arms_is_judged_by_the_status_of_their_ratios():
    rows = run(chain(arms=(PLAIN, CACHED, COMPILED), batches=(1, 4)))
    (one,) = waterfalls(unreliable(frame(rows), "speedup_status"), rows)
    assert {each.step: each.judged for each in one.arms_first} == {"cache": False, "compile": False, BATCH: True}
    assert all(each.judged for each in one.batch_first)
    assert one.total.judged
    assert not one.interaction.judged


def test_a_factor_between_batch_sizes_is_judged_by_the_status_of_both_cells():
    rows = run(chain(arms=(PLAIN, CACHED), batches=(1, 4)))
    (one,) = waterfalls(unreliable(frame(rows), "status"), rows)
    assert {each.step: each.judged for each in one.arms_first} == {"cache": True, BATCH: False}
    assert one.total.judged


def test_settings_and_runs_are_kept_apart():
    rows = run(TWO) + run({key: [[4 * t for t in launch] for launch in value] for key, value in TWO.items()}, prompt_len=32)
    one, other = found(rows, run="here")
    assert (one.where["run"], one.where["prompt_len"], other.where["prompt_len"]) == ("here", 8, 32)
    assert type(one.where["prompt_len"]) is int
    assert values(one.arms_first) == pytest.approx(values(other.arms_first))


# The product

seconds = st.floats(0.01, 100)


@fixed
@given(st.lists(st.lists(seconds, min_size=10, max_size=10), min_size=1, max_size=4), st.integers(1, 4))
def test_the_product_is_the_total_where_all_arms_have_the_same_launches_and_pairs(launches, blocks):
    places = list(itertools.product(CHAIN, (1, 8)))
    times = {place: [[launch[n] * (1 + 0.1 * block) for block in range(blocks)] for launch in launches]
             for n, place in enumerate(places)}  # fmt: skip
    one = only(times)
    assert one.products == pytest.approx([one.total.ratio.value] * 2, rel=1e-9)
    small, large = values(one.arms_first), values(one.batch_first)
    assert one.interaction.ratio.value == pytest.approx(large["cache"] / small["cache"], rel=1e-9)
    last = large[BATCH] * math.prod(large[step] / small[step] for step in small if step != BATCH)
    assert small[BATCH] == pytest.approx(last, rel=1e-9)


def test_a_launch_that_one_arm_lacks_parts_the_product_from_the_total():
    one = only({**TWO, (CACHED, 1): [[1.0, 1.0], None], (PLAIN, 1): [[2.0, 2.0], [3.0, 3.0]]})
    assert one.products[0] == pytest.approx(8)
    assert one.total.ratio.value == pytest.approx(math.sqrt(8 * 12))
    assert one.gap > MOST_GAP


# The figure


def drawn(rows, **changed):
    return plots.figure("waterfall", frame(rows).assign(**changed), rows)


SIZES = {2: (PLAIN, CACHED), 4: (FULL, PLAIN, CACHED, COMPILED), 5: CHAIN}


@pytest.mark.parametrize("arms", SIZES.values(), ids=str)
def test_the_bars_begin_where_the_one_above_ends_and_the_last_is_the_total(arms):
    figure = drawn(run(chain(arms=arms)))
    for axes, batch_row in zip(figure.axes, (len(arms) - 1, 0), strict=True):
        spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
        factors = [2.0] * (len(arms) - 1)
        factors.insert(batch_row, 8.0)
        ends = list(itertools.accumulate([1.0, *factors], lambda one, other: one * other))
        expected = [*itertools.pairwise(ends), (1.0, ends[-1])]
        assert [each for span in spans for each in span] == pytest.approx([each for span in expected for each in span])
        names = [tick.get_text() for tick in axes.get_yticklabels()]
        assert (names[batch_row], names[-1]) == ("batch 1 to 8", TOGETHER)
        assert axes.get_xscale() == "log"


@pytest.mark.parametrize("arms", SIZES.values(), ids=str)
@pytest.mark.parametrize("spread", [1.02, 30.0])
def test_no_words_lie_over_others(arms, spread):
    times = {place: [launches[0], [each * spread for each in launches[1]]] for place, launches in chain(arms).items()}
    times |= {
        place: [[each / (1 + n) for each in launch] for n, launch in enumerate(times[place])] for place in list(times)[::2]
    }
    figure = drawn(run(times) + run(times, prompt_len=32))
    figure.draw_without_rendering()
    boxes = [
        text.get_window_extent()
        for axes in figure.axes
        for text in (
            *axes.texts,
            *axes.get_xticklabels(),
            *axes.get_yticklabels(),
            axes.title,
            axes._left_title,
            axes.xaxis.label,
        )
        if text.get_text() and text.get_visible()
    ]
    over = [(one, other) for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]
    assert over == []
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_each_bar_has_its_factor_with_the_interval_beside_it():
    axes = drawn(run({**TWO, (CACHED, 1): [[1.0, 1.0], [0.5, 0.5]]})).axes[0]
    (first, *_) = [text.get_text() for text in axes.texts if text.get_text()]
    assert first.startswith("2.83x [")


def test_what_is_not_judged_is_hollow_and_the_legend_says_so():
    rows = run(chain(arms=(PLAIN, CACHED)))
    cells = frame(rows)
    figure = plots.figure("waterfall", cells, rows)
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["cache: to cached", BATCH]
    figure = plots.figure("waterfall", unreliable(unreliable(cells, "status"), "speedup_status"), rows)
    white = [[bar.get_facecolor()[:3] == (1, 1, 1) for bar in axes.patches] for axes in figure.axes]
    assert white == [[True, True, False], [False, False, False]]
    assert figure.legends[0].get_texts()[-1].get_text() == "hollow: unstable, excluded from conclusions"


def test_the_footer_says_what_is_left_out():
    footer = drawn(run(chain(arms=(PLAIN, CACHED, CAT)))).get_supxlabel().replace("\n", " ")
    assert "left out, because there is no such arm: uncached-full-logits, compiled, graph" in footer
    assert "no bar for cached-cat" in footer
    assert "95 % interval over launches" in footer
    alone = drawn(run({key: value[:1] for key, value in TWO.items()})).get_supxlabel().replace("\n", " ")
    assert "no interval between batch sizes from one launch" in alone


def test_one_step_at_one_batch_size_is_one_bar():
    figure = drawn(run({key: value for key, value in TWO.items() if key[1] == 4}))
    (axes,) = figure.axes
    assert len(axes.patches) == 1


@pytest.mark.parametrize(("settings", "panels"), [(1, 2), (3, 6), (4, 4), (7, 6)])
def test_many_settings_keep_the_arms_first_and_the_rest_is_counted(settings, panels):
    rows = [row for n in range(settings) for row in run(TWO, prompt_len=8 + n)]
    figure = drawn(rows)
    assert len(figure.axes) == panels
    assert (f"{panels} of {2 * settings} panels shown" in figure.get_supxlabel().replace("\n", " ")) == (settings > 3)


def test_a_slower_arm_goes_left_and_a_factor_of_one_is_drawn():
    rows = run({**TWO, (CACHED, 1): [[4.0, 4.0], [4.0, 4.0]], (CACHED, 4): [[8.0, 8.0], [8.0, 8.0]]})
    left, right = drawn(rows).axes
    assert left.patches[0].get_width() < 0
    assert left.get_xlim()[0] < 0.5
    assert right.patches[1].get_width() == pytest.approx(0)


def test_without_two_links_the_figure_says_what_it_needs():
    with pytest.raises(UserError, match=r"waterfall needs two arms of .*--engine uncached,cached"):
        drawn(run(chain(arms=(CACHED,))))


def test_it_is_written_as_png_and_svg(tmp_path):
    rows = run(TWO)
    paths = plots.draw("waterfall", frame(rows), rows, tmp_path)
    assert [path.name for path in paths] == ["waterfall.png", "waterfall.svg"]
    assert all(path.stat().st_size > 5000 for path in paths)
    assert plots.figure("waterfall", frame(rows), rows).get_size_inches()[0] == layout.WIDTH_IN
