"""All figures as a set, and the ones of gaps, memory, predictions and limits, from runs that are made up here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from nanobench import load
from nanobench.errors import UserError
from nanobench.records import Status
from nanobench.results import derive, store
from nanobench.results.run_context import Machine, Setting
from nanobench.results.store import records
from nanobench.roofline.limits import Limit, Limits
from nanobench.schema import Arm, GPTShape
from nanobench.stats import intervals
from nanobench.views import plots, step_parts, summary
from nanobench.views.figures import layout, style
from nanobench.views.figures.predicted_against_measured import BAND, WORST
from nanobench.views.figures.speedup_by_arm import LEAST_ARMS, MARKS, MOST_NAMES, said_by
from nanobench.views.figures.tooltips import NO_POINTS
from nanobench.views.html import run_page
from nanobench.views.html.colours import contrast, on_dark
from test_views import ARMS, OOM, SHAPE, disturbed, make_run

TRAINED = Path(__file__).parent / "runs" / "protocol-4-train"
LIMITS = Limits(
    (
        *(Limit(kind=kind, value=2e11, spread=0.2) for kind in ("matmul", "lm_head", "attention")),
        *(Limit(kind=kind, value=1e11, spread=0.2) for kind in ("read", "copy", "elementwise", "argmax")),
        Limit(kind="operation", value=1e-5, spread=0.2),
    )
)


def costed(launch):
    """A launch whose costs are known: how its engine reads its cache, what the host dispatches, and sizes."""
    if not launch.finished:
        return launch
    cached = launch.arm.engine != "uncached"
    cache_bytes = launch.point.batch_size * launch.point.total_len * 1024 if cached else 0
    sizes = {"weight_bytes": 500_000, "kv_cache_bytes": cache_bytes, "kv_cache_expected_bytes": cache_bytes}
    known = {"kv_access": "static" if cached else "uncached", "operations_prefill": 10.0, "operations_per_step": 10.0}
    return replace(launch, outcome=replace(launch.outcome, **known, **sizes))


def with_costs(run, limits=LIMITS):
    """The cells and launches of the same run on a machine whose limits are known."""
    launches = [costed(each) for each in run.read_raw()]
    machine = Machine({"gpt2-nano": GPTShape(**SHAPE)}, {Setting("cpu", "float32", 2).name: limits})
    return store.frame(run, derive.derive(launches, machine)), launches


def seen(point, arm, launch, block, wall_s):
    """When a repetition began, and that it had its core."""
    return {"started_at": 1000.0 * launch + block, "cpu_s": 0.99 * wall_s}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three batch sizes, three arms; one is wrong once, and once out of memory."""
    return with_costs(make_run(tmp_path_factory.mktemp("figures") / "several", prompts=(8,)))


def footer(figure):
    return figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")


def words(figure):
    """All texts of a figure: in its panels, its legend and below them."""
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [*inside, *(text.get_text() for text in figure.legends[0].get_texts()), footer(figure)]


def points(figure):
    """The places of all markers, panel by panel."""
    marked = [[line for line in axes.lines if line.get_marker() not in NO_POINTS] for axes in figure.axes]
    return [{(float(x), float(y)) for line in lines for x, y in line.get_xydata()} for lines in marked]


# All of them


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Unusual runs: one cell, only failures, only training, 60 arms."""
    folder = tmp_path_factory.mktemp("unusual")
    few = {"prompts": (8,), "launches": 1, "arms": ARMS[:1], "failed": {}}
    sixty = (Arm(engine="uncached"), *(Arm(engine=f"engine-{number}") for number in range(59)))
    many = {"batches": (1, 16), "prompts": (8,), "arms": sixty, "failed": {}, "blocks": 2, "seen": seen}
    trained = store.Run(TRAINED)
    return {
        "one cell": with_costs(make_run(folder / "one", batches=(2,), **few)),
        "failures": with_costs(make_run(folder / "failures", batches=(1,), **{**few, "failed": {(1, "uncached"): OOM}})),
        "training": (load(TRAINED), trained.read_raw()),
        "60 arms": with_costs(make_run(folder / "sixty", **many)),
    }


ALWAYS = {
    "throughput_ttft_memory_vs_batch",
    "throughput_per_request_vs_batch",
    "utilization_vs_batch",
    "token_latency",
    "timeline",
    "itl_distribution",
    "latency_vs_throughput",
    "memory",
    "predicted_against_measured",
    "roofline",
}
"""Figures of any measured generation with readings and a calibration."""
DRAWN = {
    "one cell": ALWAYS,
    "failures": set(),
    "training": {"utilization_vs_batch", "timeline", "memory", "training_vs_batch", "scaling_vs_ranks"},
    "60 arms": {*ALWAYS, "speedup_vs_batch", "speedup_by_arm"},
}


@pytest.mark.parametrize("kind", DRAWN)
def test_every_figure_draws_an_unusual_run_or_says_in_one_line_why_not(runs, kind):
    cells, launches = runs[kind]
    for name in plots.PLOTS:
        if name not in DRAWN[kind]:
            with pytest.raises(UserError, match=rf"^{name} needs [^\n]+$"):
                plots.figure(name, cells, launches)
            continue
        figure = plots.figure(name, cells, launches)
        if kind != "60 arms":
            figure.draw_without_rendering()
        assert figure.legends[0].get_title().get_text()
        assert cells["model"].iloc[0] in footer(figure)
        assert ("48 of 60 arms are not in this figure" in footer(figure)) == (kind == "60 arms" and name != "speedup_by_arm")


def test_of_many_arms_the_reference_and_the_fastest_are_shown(runs):
    cells, _ = runs["60 arms"]
    kept, note = layout.most_arms(cells)
    best = cells.groupby("arm")["output_tok_s"].max().drop("uncached").sort_values(ascending=False)
    assert set(kept["arm"]) == {"uncached", *best.index[: layout.MOST_ARMS - 1]}
    assert note.startswith("48 of 60 arms")
    few = cells[cells["arm_index"].lt(layout.MOST_ARMS)]
    assert layout.most_arms(few)[0] is few


def test_many_arms_are_a_list_of_names_in_the_order_of_their_ratios(runs):
    cells, launches = runs["60 arms"]
    figure = plots.figure("speedup_by_arm", cells, launches)
    figure.draw_without_rendering()
    assert [axes.get_title("left") for axes in figure.axes] == ["batch 1", "batch 16"]
    last = cells[cells["batch_size"].eq(16) & cells["arm_index"].gt(0)].sort_values("speedup", ascending=False)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == last["arm"].tolist()[:MOST_NAMES]
    assert f"{59 - MOST_NAMES} further arms in the table" in footer(figure)
    ratios = dict(enumerate(records(last.head(MOST_NAMES))))
    for line in figure.axes[1].lines:
        if line.get_marker() == "|":
            row = ratios[line.get_ydata()[0]]
            assert list(line.get_xdata()) == [row["speedup_lo"], row["speedup_hi"]]
        elif line.get_marker() in [each["marker"] for each in MARKS.values()]:
            row = ratios[line.get_ydata()[0]]
            assert line.get_xdata()[0] == row["speedup"]
            assert line.get_marker() == MARKS[said_by(row)]["marker"]
    assert run_page.HEADLINES[0] == "speedup_by_arm"


def test_an_arm_without_a_ratio_stands_at_the_end_of_the_names_with_its_status(runs):
    cells, launches = runs["60 arms"]
    few = cells[cells["arm_index"].le(LEAST_ARMS)].assign(
        speedup=lambda rows: rows["speedup"].mask(rows["arm_index"].eq(3)),
        status=lambda rows: rows["status"].mask(rows["arm_index"].eq(3), "oom"),
        speedup_status=lambda rows: rows["speedup_status"].mask(rows["arm_index"].eq(4), "unstable"),
    )
    figure = plots.figure("speedup_by_arm", few, launches)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (len(names), names[-1]) == (LEAST_ARMS, "engine-2")
    assert [text.get_text() for text in figure.axes[0].texts][:2] == [layout.CROSS, "oom"]
    assert "hollow: unstable, excluded from conclusions" in words(figure)
    with pytest.raises(UserError, match="needs 8 arms or more beside the first, and this run has 7"):
        plots.figure("speedup_by_arm", few[few["arm_index"].lt(LEAST_ARMS)], launches)


def test_arms_differ_without_colours_and_no_line_looks_like_a_prediction(runs):
    styles = style.arm_styles(layout.most_arms(runs["60 arms"][0])[0]).values()
    assert len({(each.marker, each.line) for each in styles}) == len(styles) == layout.MOST_ARMS
    assert next(iter(styles)).line == "-"
    assert not {style.PREDICTED["linestyle"], "--"} & {each.line for each in styles}
    every = style.arm_styles(runs["60 arms"][0]).values()
    assert len({(each.colour, each.marker) for each in every}) == 60


def test_what_is_hollow_has_its_reason_below(tmp_path):
    run = make_run(tmp_path / "run", batches=(4,), prompts=(8,), seen=disturbed, blocks=8, arms=ARMS[:2])
    cells, launches = with_costs(run)
    assert cells.set_index("arm").loc["cached", "status"] == "unstable"
    for name in ("throughput_ttft_memory_vs_batch", "roofline", "predicted_against_measured", "itl_distribution", "memory"):
        figure = plots.figure(name, cells, launches)
        assert "hollow: unstable, excluded from conclusions" in words(figure)
        assert "hollow because of: " in footer(figure)
        assert "(1)" in footer(figure).partition("hollow because of: ")[2]


def test_an_unstable_cell_without_a_known_cause_has_no_reason(several):
    cells, launches = several
    doubtful = cells.assign(status=cells["status"].mask(cells["arm"].eq("cached"), "implausible"))
    assert "faster than the limits of the machine allow (3)" in footer(plots.figure("memory", doubtful, launches))
    doubtful = cells.assign(status=cells["status"].mask(cells["arm"].eq("cached"), Status.UNSTABLE))
    assert "hollow because" not in footer(plots.figure("memory", doubtful, launches))


def test_the_intervals_of_throughput_are_on_the_figure_of_latency(several):
    cells, launches = several
    figure = plots.figure("latency_vs_throughput", cells, launches)
    ends = {round(float(x), 6) for bars in figure.axes[0].collections for path in bars.get_paths() for x in path.vertices[:, 0]}
    for bound in ("output_tok_s_lo", "output_tok_s_hi"):
        assert {round(float(x), 6) for x in cells[bound].dropna()} <= ends


# Contrast


def test_what_the_timeline_draws_is_seen_on_white_and_on_a_dark_ground(several):
    figure = plots.figure("timeline", *several)
    lines = {to_hex(line.get_color()) for axes in figure.axes for line in axes.lines}
    edges = {to_hex(patch.get_edgecolor()) for axes in figure.axes for patch in axes.patches}
    assert len(lines) > 6
    for colour in lines | edges:
        assert contrast(colour, "#ffffff") >= 3, colour
        assert contrast(on_dark(colour), on_dark("#ffffff")) >= 3, colour


@pytest.mark.parametrize("colour", style.COLOURS)
def test_launches_differ_in_shade_and_the_palest_is_seen(colour):
    shades = [to_hex(each) for each in style.shades(colour, range(5)).values()]
    on_white = [contrast(each, "#ffffff") for each in shades]
    assert on_white == sorted(on_white)
    assert on_white[-1] / on_white[0] > 1.15
    assert on_white[0] >= min(3, 0.99 * contrast(colour.lower(), "#ffffff"))
    assert all(contrast(on_dark(each), on_dark("#ffffff")) >= 3 for each in shades)


@pytest.mark.parametrize("grey", [f"#{level:02x}{level:02x}{level:02x}" for level in range(0, 0x95, 4)])
def test_a_grey_that_is_seen_on_white_is_seen_on_a_dark_ground(grey):
    assert contrast(grey, "#ffffff") >= 3
    assert contrast(on_dark(grey), on_dark("#ffffff")) >= 3


# Limits of the machine


def test_the_cells_stand_on_the_roofline_at_their_intensity_and_rate(several):
    cells, launches = several
    figure = plots.figure("roofline", cells, launches)
    known = cells.dropna(subset=["step_flops_per_s"])
    assert points(figure) == [set(zip(known["flops_per_byte"], known["step_flops_per_s"] / 1e9, strict=True))]
    (roof,) = [line for line in figure.axes[0].lines if line.get_marker() in ("None", "") and len(line.get_xdata()) == 3]
    x, y = roof.get_data()
    assert y == pytest.approx(np.minimum(x * 1e11, 2e11) / 1e9)
    assert x[1] == pytest.approx(2.0)
    assert "read 100 GB/s, matmul 200 GFLOP/s" in words(figure)
    assert "cached-cat oom, wrong" in footer(figure) or "cached-cat wrong, oom" in footer(figure)


def test_the_letters_on_the_roofline_and_the_paragraph_of_the_report_name_the_same_largest_part(several):
    cells, launches = several
    known = cells.assign(
        bound_by=[{"uncached": "compute", "cached": "host"}.get(arm) for arm in cells["arm"]],
        bound_share=[0.5 + size / 100 for size in cells["batch_size"]],
    )
    known.loc[known["arm"].eq("cached") & known["batch_size"].eq(4), "bound_by"] = "unexplained"
    known["status"] = known["status"].mask(known["status"].eq("imprecise"), "ok")
    figure = plots.figure("roofline", known, launches)
    assert {"1 M", "4 M", "16 M", "1 D", "4 ?", "16 D"} <= set(words(figure))
    rows = [{**row, "suggestions": []} for row in records(known)]
    (why,) = [part.text for part in summary.paragraph(known, rows) if part.head == "Why"]
    sentence = (
        "the largest predicted part of a step of uncached is multiplying at batch 1, 4 and 16 (51 to 66 % of it); "
        "the largest predicted part of a step of cached is dispatching operations at batch 1 and 16 (51 to 66 % of it); "
        "cached at batch 4: the measured step differs from the predicted one by more than 30 %"
    )
    assert why == f"{sentence}."
    assert sentence in footer(figure)
    assert "D dispatching operations, M multiplying, ? prediction and measurement differ" in footer(figure)


def test_of_many_arms_the_largest_parts_are_counted(several):
    cells, _ = several
    rows = [
        {**row, "arm": f"arm-{number}", "status": "ok", "bound_by": bound, "bound_share": 0.6}
        for number, (row, bound) in enumerate(
            zip(records(cells)[:5], ["host", "host", "compute", "host", "allocator"], strict=True)
        )
    ]
    assert step_parts.sentence(rows) == (
        "of 5 reliable cells: the largest predicted part of a step is dispatching operations in 3 (60 % of it), "
        "multiplying in 1 (60 % of it); CUDA's allocator ran out and freed its cache to go on in 1"
    )
    assert step_parts.sentence([{**row, "status": "unstable"} for row in rows]) == ""


def test_cells_above_the_limits_are_counted(several, tmp_path):
    cells, launches = with_costs(make_run(tmp_path / "run", prompts=(8,), failed={}), Limits(
        tuple(replace(each, value=each.value / 1e4) if each.kind != "operation" else each for each in LIMITS.found)
    ))  # fmt: skip
    assert f"{len(cells)} cells above the limits" in footer(plots.figure("roofline", cells, launches))
    assert "above the limits" not in footer(plots.figure("roofline", *several))


def test_without_limits_the_roofline_says_how_to_get_them(several, tmp_path):
    cells, launches = with_costs(make_run(tmp_path / "run", batches=(1,), prompts=(8,), launches=1), Limits(()))
    with pytest.raises(UserError, match=r"roofline needs the limits of the machine .* --calibration auto"):
        plots.figure("roofline", cells, launches)
    with pytest.raises(UserError, match=r"predicted_against_measured needs predictions .*: the limit 'operation' has no value"):
        plots.figure("predicted_against_measured", cells, launches)


# Predictions


def test_a_cell_stands_at_its_prediction_and_its_measured_time(several):
    cells, launches = several
    figure = plots.figure("predicted_against_measured", cells, launches)
    known = cells.dropna(subset=["predicted_tpot_s"])
    assert len(known) == 7
    assert points(figure) == [set(zip(1e3 * known["predicted_tpot_s"], 1e3 * known["tpot_s"], strict=True))]
    axes = figure.axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    (line,) = [each for each in axes.lines if each.get_marker() == "" and each.get_linestyle() == "--"]
    assert list(line.get_xdata()) == list(line.get_ydata())


def test_the_cells_farthest_from_their_prediction_are_named(several):
    cells, launches = several
    known = cells.dropna(subset=["predicted_tpot_s"]).assign(off=lambda rows: np.abs(np.log(1 + rows["prediction_error"])))
    outside = known[known["off"] > np.log(BAND)].sort_values("off", ascending=False)
    figure = plots.figure("predicted_against_measured", cells, launches)
    named = [text for text in words(figure) if " at batch " in text and text.endswith("x")]
    assert len(named) == min(WORST, len(outside)) > 0
    for _, row in outside.head(WORST).iterrows():
        (text,) = [each for each in named if each.startswith(f"{row['arm']} at batch {row['batch_size']}:")]
        assert float(text.split()[-1].rstrip("x").replace(",", "")) == pytest.approx(1 + row["prediction_error"], rel=0.01)
    assert f"{len(outside)} of 7 cells outside the band" in footer(figure)


def test_a_prediction_that_is_right_has_no_name(several):
    cells, launches = several
    right = cells.assign(predicted_tpot_s=cells["tpot_s"] * 1.1)
    figure = plots.figure("predicted_against_measured", right, launches)
    assert not [text for text in words(figure) if " at batch " in text]
    assert "0 of 7 cells outside the band" in footer(figure)


def test_a_single_token_is_compared_by_its_whole_call(tmp_path):
    cells, launches = with_costs(make_run(tmp_path / "run", batches=(1, 4), prompts=(8,), new_tokens=1, failed={}))
    figure = plots.figure("predicted_against_measured", cells, launches)
    assert points(figure) == [set(zip(1e3 * cells["predicted_e2e_s"], 1e3 * cells["e2e_s"], strict=True))]


def test_cells_without_a_prediction_are_counted_with_the_reason(several):
    cells, launches = several
    some = cells.assign(
        predicted_tpot_s=cells["predicted_tpot_s"].mask(cells["arm"].eq("cached")),
        prediction_note=cells["prediction_note"].mask(cells["arm"].eq("cached"), "its operations were not counted"),
    )
    text = footer(plots.figure("predicted_against_measured", some, launches))
    assert "no prediction for 3 cells: its operations were not counted" in text


# Gaps between tokens


def test_the_distribution_ends_at_all_gaps_and_its_marks_are_the_percentiles(several):
    cells, launches = several
    figure = plots.figure("itl_distribution", cells, launches)
    assert [axes.get_title("left") for axes in figure.axes] == ["batch 1"]
    here = cells[cells["batch_size"].eq(1)]
    marks = {
        (1e3 * row[f"itl_p{percentile}_s"], float(percentile))
        for _, row in here.iterrows()
        for percentile in (50, 90)
        if row[f"itl_p{percentile}_s"] == row[f"itl_p{percentile}_s"]
    }
    assert len(marks) >= 3
    assert points(figure) == [marks]
    steps = [line for line in figure.axes[0].lines if line.get_drawstyle().startswith("steps")]
    assert len(steps) == 3
    for line, (_, row) in zip(steps, here.iterrows(), strict=True):
        assert list(line.get_xdata()) == sorted(line.get_xdata())
        assert line.get_ydata()[-1] == 100
        assert 1e3 * row["itl_p50_s"] == pytest.approx(intervals.median(list(line.get_xdata())), rel=0.02)
    assert "not known, as there are too few gaps: " in footer(figure)
    assert "p99 of 3 cells" in footer(figure)


def test_an_arm_without_times_per_token_is_named_at_the_foot_of_the_distribution(several):
    _, launches = several
    blind = [
        replace(each, repetitions=tuple(replace(one, timestamped=False, token_times_s=None) for one in each.repetitions))
        if each.arm.engine == "cached"
        else each
        for each in launches
    ]
    found = store.frame(store.Run(Path("run")), derive.derive(blind))
    texts = words(plots.figure("itl_distribution", found, blind))
    assert any(text.startswith("cached: ") for text in texts)


def test_one_token_has_no_gap(tmp_path):
    cells, launches = with_costs(make_run(tmp_path / "run", batches=(1,), prompts=(8,), new_tokens=1, launches=1))
    with pytest.raises(UserError, match=r"itl_distribution needs .* --new-tokens 16"):
        plots.figure("itl_distribution", cells, launches)


# Memory


def test_what_is_held_is_dashed_below_the_peak(several):
    cells, launches = several
    figure = plots.figure("memory", cells, launches)
    assert [axes.get_ylabel() for axes in figure.axes] == ["peak memory (MiB)", "KV cache (MiB)"]
    for axes, column in zip(figure.axes, ("held_bytes", "kv_cache_expected_bytes"), strict=True):
        dashed = [line.get_ydata() for line in axes.lines if line.get_marker() == "" and line.get_linestyle() == "--"]
        for arm in ("uncached", "cached"):
            expected = cells[cells["arm"].eq(arm)].sort_values("batch_size")[column].to_numpy(float) / 1024**2
            assert any(len(line) == 3 and np.allclose(line, expected) for line in dashed)
    assert "closed form" in words(figure)
    assert "wrong, oom" in words(figure)
    held = cells.set_index(["arm", "batch_size"])["held_bytes"]
    assert held["cached", 4] == 500_000 + 4 * 14 * 1024
    assert held["uncached", 4] == 500_000


def test_memory_of_training_is_that_of_weights_gradients_and_optimizer():
    cells, launches = load(TRAINED), store.Run(TRAINED).read_raw()
    assert (cells["held_bytes"] == cells["weight_bytes"] + cells["gradient_bytes"] + cells["optimizer_bytes"]).all()
    figure = plots.figure("memory", cells, launches)
    assert [label for axes in figure.axes if (label := axes.get_ylabel())] == ["peak memory (MiB)", "forward pass (MiB)"]
    assert cells["held_bytes"].iloc[0] / 1024**2 in [y for line in figure.axes[0].lines for y in line.get_ydata()]


def test_without_sizes_nothing_is_dashed_and_that_is_said(tmp_path):
    run = make_run(tmp_path / "run", batches=(1,), prompts=(8,), launches=1)
    figure = plots.figure("memory", load(run.folder), run.read_raw())
    assert "closed form" not in words(figure)
    assert "what is held is not known" in footer(figure)


def test_memory_that_was_not_measured_is_one_line(several):
    cells, launches = several
    with pytest.raises(UserError, match="memory needs cells whose peak memory was measured"):
        plots.figure("memory", cells.assign(peak_memory_bytes=float("nan")), launches)
