"""Figures, report, exports and the notebook, from a small run whose raw rows are made up here."""

import csv
import io
import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from typer.testing import CliRunner

from nanobench import errors, load
from nanobench.analysis import diagnostics, verdict
from nanobench.analysis.timeline import moments
from nanobench.cli import app, export
from nanobench.errors import UserError
from nanobench.records import ArmRecord, Description, LaunchRecord, Outcome, Repetition, Status, Verdict
from nanobench.results import store
from nanobench.results.run_info import RunInfo
from nanobench.results.store import records
from nanobench.schema import Arm, Point
from nanobench.sweep.plan import Plan
from nanobench.views import format, plots
from nanobench.views import reliability as reliability_view
from nanobench.views import report as views
from nanobench.views.figures import layout

TRAINING = {"training_vs_batch", "compile_breakeven", "scaling_vs_ranks"}
PREDICTED = {"predicted_against_measured", "roofline"}
"""Figures that need a calibration."""
MANY = {"speedup_by_arm"}
"""Figures of runs with many arms."""
GENERATION = [name for name in plots.PLOTS if name not in TRAINING | PREDICTED | MANY]
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "explore.ipynb"
LESSON = NOTEBOOK.with_name("what_is_a_kv_cache.ipynb")
ARMS = tuple(Arm(engine=engine) for engine in ("uncached", "cached", "cached-cat"))
OOM = Outcome(status=Status.OOM, reason="OutOfMemoryError: tried 2 GiB | 1 GiB free")
WRONG = Outcome(status=Status.WRONG, reason="token 3 differs", gate=Verdict.WRONG, gate_note="tokens differ")
FAILED = {(4, "cached-cat"): WRONG, (16, "cached-cat"): OOM}
SHAPE = {
    "architecture": "gpt2",
    "n_layer": 2,
    "n_head": 2,
    "n_kv_head": 2,
    "n_embd": 64,
    "vocab_size": 256,
    "block_size": 256,
    "n_params": 132864,
}
DESCRIPTION = {
    "device": "cpu",
    "gpus": [],
    "identity": {
        "protocol": 1,
        "cpu": "Imagined | 2 GHz",
        "gpus": [],
        "driver": None,
        "torch": "2.13.0",
        "hash": "0123456789ab",
    },
    "models": {"gpt2-nano": SHAPE},
}


KNOWN = {"cores": 2, "cpu_quota": None, "memory_gib": 8}
"""What advice asks of an identity."""
STATE = {
    "hostname": "imagined",
    "load_1m": 0.25,
    "busy": [{"name": "back|up", "pid": 7, "cores": 0.9}, {"name": "index", "pid": 8, "cores": 0.5}],
    "cpu_pressure": 0.0,
    "governor": "powersave",
    "omp_threads": 2,
    "available_gib": 7.5,
    "gpus": [],
}


def undisturbed(point, arm, launch, block, wall_s):
    """What probes of the host say of a repetition that nothing disturbs; one in two follows the fixed loop."""
    return {
        "started_at": 1000.0 * launch + block + 0.3 * [each.engine for each in ARMS].index(arm.engine),
        "cpu_s": 0.99 * wall_s,
        "pressure_s": 0.02 * wall_s,
        "steal_s": 0.001 * wall_s,
        "spin_s": 5e-3 * (1 + 0.002 * block) if block % 2 == 0 else None,
        "load_1m": 0.3,
    }


def disturbed(point, arm, launch, block, wall_s):
    """Batch 4: something else takes the core of one arm. Batch 16: an outside cause once. Batch 64: the machine slows down."""
    wall_s *= 1 + 0.02 * block * (point.batch_size == 64)
    seen = {**undisturbed(point, arm, launch, block, wall_s), "wall_s": wall_s}
    if point.batch_size == 4 and arm.engine == "cached":
        seen["cpu_s"] = 0.6 * wall_s
    if point.batch_size == 16 and launch == 2 and block == 3:
        seen |= {"valid": False, "reason": "compiled again"}
    return seen


def on_a_gpu(point, arm, launch, block, wall_s):
    """What NVML says beside the host: a power cap, and at batch 16 a clock that is lower for one arm."""
    slow = point.batch_size == 16 and arm.engine == "cached"
    gpu = {"gpu_util": 0.6, "clock_sm_hz": 1.7e9 if slow else 1.98e9, "power_w": 310.0, "clock_event_reasons": "sw_power_cap"}
    return {**undisturbed(point, arm, launch, block, wall_s), "spin_s": None, **gpu}


def blind(point, arm, launch, block, wall_s):
    """Nothing, as before there were probes."""
    return {}


def sustained(point, arm, launch):
    """The phase of a GPU's slow counters, in the first launch, with its samples and one from before the launch."""
    if launch > 1:
        return ()
    start = 1000.0 * launch + 6 + 4 * [each.engine for each in ARMS].index(arm.engine)
    reading = {"clock_sm_hz": 1.98e9, "power_w": 300.0 + 2 * point.batch_size}
    samples = [
        Repetition(kind="sample", started_at=start + 0.1 * tick, gpu_util=0.9 - 0.01 * (tick % 3), **reading)
        for tick in range(36)
    ]
    work = Repetition(
        kind="sustained", started_at=start, wall_s=3.6, tokens=900 * point.batch_size, energy_j=1100.0, calls=9, **reading
    )
    return (work, *samples, Repetition(kind="sample", started_at=900.0, gpu_util=0.0))


def repetition(point, arm, block, generator):
    """Two calls with a time per token: growing with the position where nothing is cached."""
    growth = 0.02 if arm.engine == "uncached" else 0.0
    token_times_s, now_s = [], 0.0
    for _ in range(2):
        for token in range(point.new_tokens):
            work = 4.0 if token == 0 or growth else 1.0
            now_s += 1e-4 * work * point.batch_size**0.7 * (1 + growth * token) * generator.uniform(0.95, 1.05)
            token_times_s.append(now_s)
    tokens = 2 * point.batch_size * point.new_tokens
    return Repetition(
        kind="steady",
        repetition=block,
        block=block,
        calls=2,
        timestamped=True,
        wall_s=now_s,
        token_times_s=tuple(token_times_s),
        tokens=tokens,
    )


def record(point, arm, launch, failed, seen, blocks):
    """What a worker would say of an arm."""
    if (point.batch_size, arm.engine) in failed:
        return ArmRecord(arm=arm, outcome=failed[point.batch_size, arm.engine])
    known = str(arm).replace(", side=''", "").replace(", cross_entropy='full'", "").replace(", param_dtype='float32'", "")
    generator = random.Random(f"{point} {known} {launch}")
    timed = [repetition(point, arm, block, generator) for block in range(blocks)]
    timed = [replace(each, **seen(point, arm, launch, each.block, each.wall_s)) for each in timed]
    memory = 1_000_000 + 100_000 * point.batch_size
    outcome = Outcome(
        status=Status.OK,
        gate=Verdict.EXACT,
        gate_note="tokens equal",
        timestamp_cost_s=1e-7,
        peak_memory_bytes=memory,
        probe_note="cpu_hz: this machine does not tell",
    )
    long = sustained(point, arm, launch) if point.device == "cuda" else ()
    return ArmRecord(arm=arm, repetitions=(*timed, *long), outcome=outcome)


def make_run(
    folder,
    batches=(1, 4, 16),
    prompts=(8, 32),
    launches=2,
    arms=ARMS,
    failed=FAILED,
    new_tokens=6,
    seen=undisturbed,
    blocks=4,
    device="cpu",
    about=DESCRIPTION,
    started_at="2026-01-01T00:00:00+00:00",
):
    """A run as a sweep leaves it; `seen` says what probes read in a repetition."""
    points = tuple(
        Point(
            model="gpt2-nano",
            dtype="float32",
            device=device,
            threads=2,
            batch_size=batch,
            prompt_len=prompt,
            new_tokens=new_tokens,
        )
        for batch in batches
        for prompt in prompts
    )
    limits = {"memory_limit_bytes": None, "timeout_s": 60.0, "isolation": "forkserver"}
    plan = Plan(points=points, arms=arms, launches=launches, seed=0, target_ci=0.05, max_seconds=1.0, **limits)
    info = RunInfo(
        command="kv-sweep",
        requested={"batch": "1,4,16"},
        plan=plan,
        description=Description.from_json(about),
        started_at=started_at,
    )
    run = store.create(folder, info)
    for trial in (trial for trials in plan.rounds() for trial in trials):
        records = [record(trial.point, arm, trial.launch, failed, seen, blocks) for arm in arms]
        run.write_raw(trial, [LaunchRecord.of(trial, 0, each) for each in records])
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "several")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One batch size, one length, one launch."""
    return make_run(tmp_path_factory.mktemp("single") / "one", batches=(2,), prompts=(8,), launches=1, arms=ARMS[:2])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A CPU run with a cell that something took the core from, one that never settles, and one invalid repetition."""
    where = tmp_path_factory.mktemp("noisy") / "noisy"
    about = {**DESCRIPTION, "identity": {**DESCRIPTION["identity"], **KNOWN}, "state": STATE}
    return make_run(where, batches=(1, 4, 16, 64), prompts=(8,), seen=disturbed, blocks=40, arms=ARMS[:2], about=about)


@pytest.fixture(scope="module")
def on_cuda(tmp_path_factory):
    """A CUDA run with samples; the last arm runs out of memory at the largest batch size."""
    failed = {(16, "cached-cat"): OOM}
    return make_run(
        tmp_path_factory.mktemp("cuda") / "cuda", prompts=(8,), seen=on_a_gpu, blocks=5, device="cuda", failed=failed
    )


def drawn(name, run):
    return plots.figure(name, load(run.folder), run.read_raw())


@pytest.fixture(scope="module")
def figures(run):
    cells, raw = load(run.folder), run.read_raw()
    return {name: plots.figure(name, cells, raw) for name in GENERATION}


def texts(figure):
    """All words inside the panels of a figure, and its footer."""
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [figure.get_supxlabel()]


# Figures


def test_every_figure_is_written_as_png_and_svg(run, tmp_path):
    paths = plots.draw_all(load(run.folder), run.read_raw(), tmp_path)
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in GENERATION for kind in ("png", "svg")]
    for path in paths:
        head = path.read_bytes()[:200]
        assert head.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in path.read_bytes()
        assert path.stat().st_size > 5000


def test_one_batch_and_one_launch_draw_all_but_the_lengths(single, tmp_path):
    paths = plots.draw_all(load(single.folder), single.read_raw(), tmp_path)
    assert {path.stem for path in paths} == {*GENERATION} - {"speedup_vs_length"}


def test_one_pair_without_an_interval_is_drawn_and_said(tmp_path):
    run = make_run(tmp_path / "run", batches=(2,), prompts=(8,), launches=1, arms=ARMS[:2])
    raw = [
        replace(launch, repetitions=tuple(each for each in launch.repetitions if each.kind != "steady" or each.block == 0))
        for launch in run.read_raw()
    ]
    cells = load(run.folder).assign(speedup_lo=None, speedup_hi=None)
    assert "no intervals: one pair per cell" in texts(plots.figure("speedup_vs_batch", cells, raw))[-1]


@pytest.mark.parametrize("name", GENERATION)
def test_axes_are_labelled_with_their_units(figures, name):
    figure = figures[name]
    labels = {axes.get_xlabel() for axes in figure.axes} | {axes.get_ylabel() for axes in figure.axes} - {""}
    known = {
        "speedup_vs_batch": {"batch size (rows)", "speedup (x)"},
        "speedup_vs_length": {"prompt length (tokens)", "speedup (x)"},
        "throughput_ttft_memory_vs_batch": {"batch size (rows)", "output (tok/s)", "TTFT (ms)", "peak memory (MiB)"},
        "token_latency": {"position of the new token", "gap to the token before (ms)"},
        "throughput_per_request_vs_batch": {"batch size (rows)", "all rows (tok/s)", "one row, decoding (tok/s)"},
        "latency_vs_throughput": {"output (tok/s), all rows", "TPOT (ms)"},
        "itl_distribution": {"gap to the token before (ms)", "gaps up to this (%)"},
        "memory": {"batch size (rows)", "peak memory (MiB)"},
        "utilization_vs_batch": {
            "batch size (rows)",
            "main thread had\na core (% of time)",
            "tasks waited for\na core (% of time)",
            "taken by the\nhypervisor (%)",
        },
        "timeline": {
            "time in the launch (s)",
            *(f"{arm.label}\n(ms per call)" for arm in ARMS),
            "main thread\non CPU (%)",
            "fixed loop,\nfirst = 1",
        },
        "waterfall": {"output relative to the first bar's start (x)"},
    }
    assert name in known, f"add the axis labels of {name} here, each with its unit"
    assert labels - {""} == known[name]
    ends = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(ends) >= 2


@pytest.mark.parametrize("name", GENERATION)
def test_a_figure_says_what_it_shows_and_what_was_run(figures, name):
    figure = figures[name]
    assert figure.legends[0].get_title().get_text()
    footer = figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")
    for words in ("gpt2-nano", "float32", "cpu", "2 threads", "prompt 8, 32", "6 new tokens", "2 launches"):
        assert words in footer


@pytest.mark.parametrize("name", GENERATION)
def test_failed_cells_are_named_with_their_status(figures, name):
    found = " ".join(texts(figures[name]))
    assert "wrong" in found
    assert "oom" in found


def test_the_failed_cells_stand_at_their_batch_sizes(figures):
    axes = figures["speedup_vs_batch"].axes[0]
    assert [text.xy[0] for text in axes.texts if text.get_text() == "×"] == [4, 16]


def test_a_failed_reference_is_why_there_is_no_ratio(tmp_path):
    run = make_run(tmp_path / "run", failed={(16, "uncached"): OOM}, launches=1)
    cells, raw = load(run.folder), run.read_raw()
    assert "oom" in texts(plots.figure("speedup_vs_batch", cells, raw))
    assert "reference oom" in texts(plots.figure("speedup_vs_length", cells, raw))


def test_ticks_are_the_batch_sizes_and_plain_ratios(figures):
    figure = figures["speedup_vs_batch"]
    figure.canvas.draw()
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "16"]
    assert {"1x", "2x"} <= {tick.get_text() for tick in axes.get_yticklabels()}


def test_an_arm_looks_the_same_in_every_figure(figures):
    def look(name, arm):
        handles = figures[name].legends[0].legend_handles
        return next((h.get_color(), h.get_linestyle()) for h in handles if h.get_label().split(" ")[0] == arm)

    names = ("speedup_vs_batch", "throughput_ttft_memory_vs_batch", "token_latency")
    for arm in ARMS:
        assert len({look(name, arm.label) for name in names}) == 1
    assert len({look(names[0], arm.label) for arm in ARMS}) == 3


def test_the_lines_carry_the_numbers_of_the_cells(run, figures):
    cells = load(run.folder)
    first = cells[cells["prompt_len"].eq(8) & cells["arm"].eq("cached")].sort_values("batch_size")
    drawn = [list(line.get_ydata()) for line in figures["speedup_vs_batch"].axes[0].lines]
    assert first["speedup"].tolist() in drawn


def test_many_settings_are_cut_and_that_is_said(tmp_path):
    run = make_run(tmp_path / "run", batches=(1, 2), prompts=(2, 3, 4, 5, 6, 7, 8), launches=1, arms=ARMS[:2])
    cells, raw = load(run.folder), run.read_raw()
    figure = plots.figure("speedup_vs_batch", cells, raw)
    assert len(figure.axes) == 6
    assert "6 of 7 settings shown" in figure.get_supxlabel()
    assert {len(plots.figure("token_latency", cells, raw).axes)} == {6}


def test_drawing_leaves_pyplot_and_its_global_figures_alone():
    code = "import sys; from nanobench.views import plots; print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("speedup_vs_batch", {"arms": ARMS[:1]}, ["two arms", "--engine"]),
        ("speedup_vs_batch", {"failed": {(1, "uncached"): OOM}}, ["needs a ratio", "uncached"]),
        ("speedup_vs_length", {}, ["--prompt-len or --new-tokens as a list"]),
        ("token_latency", {"new_tokens": 1}, ["2 new tokens or more"]),
        ("token_latency", {"failed": {(1, arm.engine): OOM for arm in ARMS}}, ["measured cell"]),
    ],
)
def test_a_figure_that_the_data_does_not_allow_says_why(tmp_path, name, changes, words):
    run = make_run(tmp_path / "run", **{"batches": (1,), "prompts": (8,), "launches": 1, **changes})
    with pytest.raises(UserError) as refusal:
        plots.figure(name, load(run.folder), run.read_raw())
    for word in words:
        assert word in str(refusal.value)


# What cannot be judged, and what the machine did


def hollow(figure):
    """The places of hollow markers, panel by panel."""
    return [
        [float(x) for line in axes.lines if line.get_label() == layout.UNJUDGED for x in line.get_xdata()]
        for axes in figure.axes
    ]


def entries(figure):
    """The words of the legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_noisy_run_has_the_statuses_that_the_tests_below_speak_of(noisy):
    cells = load(noisy.folder).set_index(["batch_size", "arm"])
    status = cells["status"]
    assert status[4, "cached"] == "unstable"
    assert set(status[64]) == {"no_steady_state"}
    assert set(status[1]) | set(status[16]) <= {"ok", "imprecise"}
    assert set(cells["speedup_status"].dropna()) <= {"ok", "imprecise"}


def test_cells_that_are_excluded_from_conclusions_have_hollow_markers_and_the_legend_says_so(noisy):
    assert not any(hollow(drawn("speedup_vs_batch", noisy)))
    for name in ("throughput_ttft_memory_vs_batch", "utilization_vs_batch"):
        for places in hollow(drawn(name, noisy)):
            assert sorted(places) == pytest.approx([4.0, 64.0, 64.0], rel=0.05)
        assert entries(drawn(name, noisy))[-1] == "hollow: unstable or no_steady_state, excluded from conclusions"


def test_a_ratio_that_is_excluded_from_conclusions_is_hollow_in_the_figure_of_ratios_alone(noisy):
    cells = load(noisy.folder)
    doubtful = cells.assign(speedup_status=cells["speedup_status"].mask(cells["batch_size"].eq(16), "unstable"))
    figure = plots.figure("speedup_vs_batch", doubtful, [])
    assert hollow(figure) == [[16.0]]
    assert entries(figure)[-1] == "hollow: unstable, excluded from conclusions"
    assert "wider where the arms may have been slowed differently" in figure.get_supxlabel().replace("\n", " ")


def test_where_all_is_judged_nothing_is_hollow(figures):
    for name in ("speedup_vs_batch", "speedup_vs_length", "throughput_ttft_memory_vs_batch", "utilization_vs_batch"):
        assert not any(hollow(figures[name]))
        assert not any("hollow" in words for words in entries(figures[name]))


def test_figures_without_markers_name_the_cells_that_are_excluded_from_conclusions(noisy):
    footer = drawn("token_latency", noisy).get_supxlabel()
    assert (
        "excluded from conclusions: uncached at batch 64 (no_steady_state); cached at batch 64 (no_steady_state)"
        in footer.replace("\n", " ")
    )


def test_utilization_on_a_cpu_shows_the_limits(noisy):
    figure = drawn("utilization_vs_batch", noisy)
    words = [[text.get_text() for text in axes.texts if text.get_text()] for axes in figure.axes]
    assert words == [["limit 95 %"], ["limit 10 %"], ["limit 2 %"], ["limit 5 %"]]
    for axes, limit in zip(figure.axes, (95.0, 10.0, 2.0, 5.0), strict=True):
        assert any(set(line.get_ydata()) == {limit} for line in axes.lines)
        assert axes.get_ylim()[0] <= limit <= axes.get_ylim()[1]
    assert 60.0 in [round(y, 6) for line in figure.axes[0].lines for y in line.get_ydata()]
    assert "not known: CPU clock" in figure.get_supxlabel()


def test_utilization_on_cuda_shows_what_nvml_says(on_cuda):
    figure = drawn("utilization_vs_batch", on_cuda)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["GPU utilization:\nsome kernel was\nrunning (%)", "power (W)", "SM clock (GHz)", "energy (J/token)"]
    assert "clocks were seen held down by: sw_power_cap" in figure.get_supxlabel()
    cells = load(on_cuda.folder)
    slow = cells[cells["arm"].eq("cached") & cells["batch_size"].eq(16)]
    assert (slow["status"].isin(["ok", "imprecise"]) & slow["speedup_widening"].gt(0.16)).tolist() == [True]
    assert not any(hollow(figure))
    heights = [y for line in figure.axes[0].lines for y in line.get_ydata()]
    assert all(0 <= y <= 100 for y in heights if y == y)
    assert "oom" in texts(figure)


def test_a_quantity_that_no_cell_knows_has_no_panel(tmp_path):
    def no_steal(*asked):
        return {**undisturbed(*asked), "steal_s": None, "spin_s": None}

    run = make_run(tmp_path / "run", prompts=(8,), launches=1, seen=no_steal)
    figure = drawn("utilization_vs_batch", run)
    assert len(figure.axes) == 2
    assert "not known: taken by the hypervisor, drift of a fixed loop, CPU clock" in figure.get_supxlabel()
    assert "fixed loop,\nfirst = 1" not in {axes.get_ylabel() for axes in drawn("timeline", run).axes}


def test_where_the_drift_has_too_few_readings_the_panel_and_the_footer_say_so(tmp_path):
    def rarely(point, arm, launch, block, wall_s):
        found = undisturbed(point, arm, launch, block, wall_s)
        few = point.batch_size > 4 or (point.batch_size == 4 and arm.engine == "cached")
        return {**found, "spin_s": None if few and block else 5e-3}

    run = make_run(tmp_path / "run", batches=(1, 4, 16, 64), prompts=(8,), arms=ARMS[:2], failed={}, seen=rarely, blocks=8)
    figure = drawn("utilization_vs_batch", run)
    (drift,) = [axes for axes in figure.axes if axes.get_ylabel().startswith("drift")]
    said = {text.get_text(): text.get_position()[0] for text in drift.texts}
    assert said["too few\nreadings"] == pytest.approx(32)
    assert (
        "no drift of a fixed loop for uncached at batch 16, 64, cached at batch 4, 16, 64: "
        "no launch has 6 readings of the loop, which runs between repetitions" in figure.get_supxlabel().replace("\n", " ")
    )


def test_without_readings_utilization_says_why(tmp_path):
    run = make_run(tmp_path / "run", prompts=(8,), launches=1, seen=blind)
    cells = load(run.folder)
    with pytest.raises(UserError, match="none: cpu_hz: this machine does not tell"):
        plots.figure("utilization_vs_batch", cells, [])
    with pytest.raises(UserError, match="before nanobench took readings; measure again"):
        plots.figure("utilization_vs_batch", cells.assign(probe_note=None), [])
    with pytest.raises(UserError, match="say when they began"):
        plots.figure("timeline", cells, run.read_raw())


def test_moments_count_from_the_first_timed_repetition_of_their_launch(run):
    cells = load(run.folder)
    seen = moments(cells, run.read_raw())
    assert len(seen) == 4 * 2 * cells["status"].isin(["ok", "imprecise"]).sum()
    assert seen["at_s"].is_monotonic_increasing
    reference = seen[seen["cell"].eq(cells.index[0])]
    assert reference["at_s"].tolist() == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert reference["spin_ratio"].dropna().tolist() == pytest.approx([1.0, 1.0, 1.004, 1.004])
    assert reference["on_cpu_fraction"].tolist() == pytest.approx([0.99] * 8)


def test_arms_that_ran_in_processes_of_their_own_start_apart(run):
    rows = [replace(launch, process=launch.arm_index) for launch in run.read_raw()]
    seen = moments(load(run.folder), rows)
    assert seen.groupby(["cell", "launch"])["at_s"].min().eq(0).all()


def test_the_timeline_shows_all_launches_and_marks_what_does_not_count(noisy):
    cells = load(noisy.folder)
    figure = plots.figure("timeline", cells[cells["batch_size"].le(16)], noisy.read_raw())
    assert [axes.get_title("left") for axes in figure.axes[:2]] == ["batch 1", "batch 16"]
    crosses = [[x for line in axes.lines if line.get_marker() == "x" for x in line.get_xdata()] for axes in figure.axes]
    assert crosses[:4] == [[], [3.0], [], [pytest.approx(3.3)]]
    assert "invalid, does not count" in entries(figure)
    footer = figure.get_supxlabel()
    assert "pale to dark: launch 1 to 2" in footer
    assert "invalid: 2 x compiled again" in footer
    launches = {line.get_color() for line in figure.axes[0].lines if len(line.get_xdata()) == 40}
    assert len(launches) == 2


def test_the_timeline_says_which_cells_are_excluded_from_conclusions(noisy):
    figure = drawn("timeline", noisy)
    assert [axes.get_title("right") for axes in figure.axes[:4]] == ["", "no_steady_state", "", "no_steady_state"]


def test_an_arm_that_was_never_measured_says_so_in_its_panel_of_the_timeline(tmp_path):
    failed = {(batch, "cached-cat"): OOM for batch in (1, 4)}
    figure = drawn("timeline", make_run(tmp_path / "run", prompts=(8,), batches=(1, 4), launches=1, failed=failed))
    assert [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()][:2] == ["not measured: oom"] * 2


def test_the_timeline_of_a_gpu_shows_samples_and_the_sustained_phase(on_cuda):
    figure = drawn("timeline", on_cuda)
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels[3:] == ["GPU utilization\n(%)", "SM clock\n(GHz)", "power (W)"]
    assert "grey ground: sustained phase" in figure.get_supxlabel()
    for axes in figure.axes:
        assert all(x >= 0 for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata())


def test_a_launch_that_failed_is_not_in_the_timeline(tmp_path):
    run = make_run(tmp_path / "run", prompts=(8,), batches=(1,), launches=2, failed={})
    late = Outcome(status=Status.TIMEOUT, reason="after 60 s")
    launches = [
        replace(launch, outcome=late) if launch.launch == 2 and launch.arm.engine == "cached" else launch
        for launch in run.read_raw()
    ]
    cells = load(run.folder)
    seen = moments(cells, launches)
    assert set(seen.loc[seen["cell"].eq(cells.index[cells["arm"].eq("cached")][0]), "launch"]) == {1}


# Report and exports


def unpiped(line):
    """The values of one line of a Markdown table."""
    return [value.strip().replace("\\|", "|") for value in re.split(r"(?<!\\)\|", line)[1:-1]]


def read_table(text):
    """A Markdown table as dictionaries."""
    heads, _, *rows = [unpiped(line) for line in text.splitlines()]
    assert {len(row) for row in rows} == {len(heads)}
    return [dict(zip(heads, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def written(run):
    """The report as the command writes it."""
    printed = command("report", run.folder, run.folder.parent).split()
    assert printed == [str(run.folder / name) for name in ("report.md", "report.html")]
    return (run.folder / "report.md").read_text()


def test_the_report_says_the_verdict_the_cells_the_failures_and_the_method(run, written):
    cells = load(run.folder)
    assert written.startswith("# nanobench kv-sweep: several\n")
    for sentence in (*verdict.sentences(cells), views.table(cells)):
        assert sentence in written
    for _, cell in cells[~cells["status"].isin(["ok", "imprecise"])].iterrows():
        line = f"- prompt_len {cell['prompt_len']}, batch {cell['batch_size']}, {cell['arm']}: **{cell['status']}**, "
        assert line + cell["reason"].replace("|", "\\|") in written
    for words in ("nanobench kv-sweep --batch 1,4,16", "2 launches", "forkserver", "over launches", "seed 0", "0123456789ab"):
        assert words in written
    assert "Imagined \\| 2 GHz" in written
    assert "- timestamp overhead at most" in written
    assert "63 % of the wall time went into timed repetitions and warm-up" in views.method(run.info(), cells, 0.63)


def test_every_image_of_the_report_exists(run, written):
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", written)
    assert [Path(link).stem for link in links] == GENERATION
    for link in links:
        assert (run.folder / link).stat().st_size > 0


def reliability(run):
    """The report's section on reliability."""
    return "\n".join(reliability_view.lines(run.info().description, load(run.folder))) + "\n"


def test_trust_says_what_is_alike_once_and_tabulates_what_differs(noisy):
    section = reliability(noisy)
    cells = load(noisy.folder)
    assert section.startswith("- the same everywhere: launches 2")
    assert section.splitlines()[0].endswith(f", protocol {cells['protocol'][0]}")
    for line in verdict.disturbances(cells):
        assert f"- {line}" in section
    rows = {(int(row["batch"]), row["arm"]): row for row in read_table(section.partition("\n\n")[2].partition("\n\n")[0])}
    assert len(rows) == len(cells)
    for cell in records(cells):
        row = rows[cell["batch_size"], cell["arm"]]
        assert row["status"] == cell["status"]
        assert row["invalid repetitions"] == str(cell["invalid_repetitions"])
        assert row["reason"] == (cell["invalid_reasons"] or format.MISSING)
        if cell["arm_index"]:
            assert row["pairs"] == str(cell["pairs"])
            assert float(row["sd within launches"].rstrip(" %")) == pytest.approx(100 * cell["sd_within"], rel=0.05)
            assert row["A/A [95 %]"] == format.MISSING
        else:
            assert row["A/A [95 %]"].startswith(f"{cell['aa_ratio']:.3f}x [")
            assert row["pairs"] == format.MISSING


def test_trust_names_the_machine_its_state_and_its_problems(noisy):
    section = reliability(noisy)
    assert "- before the start: host imagined, load 0.25, CPU governor powersave, 7.5 GiB of memory available" in section
    description = noisy.info().description
    found = diagnostics.problems(description.identity, description.state)
    assert {problem.what.split()[0] for problem in found} == {"only", "back|up", "index", "CPU"}
    for problem in found:
        assert section.count(problem.fix) == 1
        assert problem.what.replace("|", "\\|") in section
    assert "- readings that are missing: cpu_hz: this machine does not tell" in section


def test_trust_needs_no_state_and_says_that_one_launch_hides_the_spread_between(single):
    section = reliability(single)
    assert "the state of the machine before the start was not recorded" in section
    assert "the spread between launches, often the larger part, is not known" in section
    assert "no absolute figure is unstable or without a steady state" in section
    assert "invalid repetitions 0" in section.splitlines()[0]
    assert "|" not in section


def test_trust_says_nothing_of_figures_where_no_cell_has_any(tmp_path):
    run = make_run(tmp_path / "run", batches=(1,), prompts=(8,), launches=1, failed={(1, arm.engine): OOM for arm in ARMS})
    assert reliability(run) == "- the state of the machine before the start was not recorded\n"


def test_the_markdown_table_agrees_with_the_cells(run):
    cells = load(run.folder)
    rows = {(int(row["prompt len"]), int(row["batch"]), row["arm"]): row for row in read_table(views.table(cells))}
    assert len(rows) == len(cells)
    for cell in records(cells):
        row = rows[cell["prompt_len"], cell["batch_size"], cell["arm"]]
        assert row["status"] == cell["status"]
        assert row["gate"] == (cell["gate"] or format.MISSING)
        assert row["output tok/s"] == format.text(cell["output_tok_s"], "tok/s")
        assert row["TTFT"] == format.text(cell["ttft_s"], "s")
        if cell["speedup"] is not None:
            assert row["speedup [95 %]"].startswith(f"{cell['speedup']:.3g}x [")


def test_the_json_export_is_valid_and_knows_null(run):
    cells = load(run.folder)
    rows = json.loads(views.to_json(cells), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert len(rows) == len(cells)
    for row, (_, cell) in zip(rows, cells.iterrows(), strict=True):
        assert list(row) == list(cells.columns)
        for name, value in row.items():
            assert value == cell[name] if value is not None else cell[name] is None or cell[name] != cell[name]
    reference = next(row for row in rows if row["arm"] == "uncached")
    assert reference["speedup"] is None
    assert isinstance(reference["launches_ok"], int)


def test_the_csv_export_agrees_with_the_json_one(run):
    cells = load(run.folder)
    rows = list(csv.DictReader(io.StringIO(views.to_csv(cells))))
    expected = [{name: "" if value is None else str(value) for name, value in row.items()} for row in records(cells)]
    assert rows == expected


def test_runs_beside_each_other_are_told_apart(run):
    cells = load(run.folder)
    both = pd.concat([cells, cells.assign(run="other")], ignore_index=True)
    assert [
        axes.get_title("left").replace("\N{NO-BREAK SPACE}", " ") for axes in plots.figure("speedup_vs_batch", both, []).axes
    ] == [
        "several, prompt 8",
        "several, prompt 32",
        "other, prompt 8",
        "other, prompt 32",
    ]
    assert {row["run"] for row in read_table(views.table(both))} == {"several", "other"}


# Commands


def command(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    if code == 2:
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
    return done.stderr if code else done.stdout


def test_plot_draws_one_figure_and_says_where(run):
    printed = command("plot", "speedup_vs_batch", run.folder).split()
    assert printed == [str(run.plots / f"speedup_vs_batch.{kind}") for kind in ("png", "svg")]
    assert all(Path(path).stat().st_size for path in printed)


@pytest.mark.parametrize("form", views.EXPORTS)
def test_export_prints_or_writes_the_same(run, tmp_path, form):
    printed = command("export", run.folder, "--format", form)
    assert printed.strip() == views.EXPORTS[form](load(run.folder)).strip()
    assert command("export", run.folder, "--format", form, "--out", tmp_path / "cells").strip() == str(tmp_path / "cells")
    assert (tmp_path / "cells").read_text() == printed


def test_the_formats_offered_are_those_that_exist():
    assert set(export.FORMATS) == {*views.EXPORTS, "pytest-benchmark"}


def test_without_results_the_newest_run_is_meant(tmp_path, monkeypatch, no_plots):
    for name, day in (("old", "02"), ("new", "03"), ("older", "01")):
        few = {"batches": (1,), "prompts": (8,), "launches": 1, "arms": ARMS[:2]}
        make_run(tmp_path / "results" / name, started_at=f"2026-01-{day}T00:00:00+00:00", **few)
    monkeypatch.chdir(tmp_path)
    assert {row["run"] for row in json.loads(command("export", "--format", "json"))} == {"new"}
    assert {row["run"] for row in json.loads(command("export", "results", "--format", "json"))} == {"old", "new", "older"}
    assert command("report").split() == ["results/new/report.md", "results/new/report.html"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plot", "speedup_vs_bach", "one"], ["'speedup_vs_bach'", "did you mean 'speedup_vs_batch'", "token_latency"]),
        (["plot", "speedup_vs_length", "one"], ["--prompt-len or --new-tokens as a list"]),
        (["plot", "token_latency", "nowhere"], ["no run in nowhere", "nanobench kv-sweep"]),
        (["plot"], ["NAME"]),
        (["export", "one", "--format", "jsn"], ["'jsn'", "did you mean 'json'", "csv, json, md"]),
        (["export", "one", "--out", "none/cells.csv"], ["none/cells.csv", "cannot be written"]),
        (["export"], ["no run in results"]),
        (["report"], ["no run in results", "nanobench kv-sweep"]),
        (["report", "empty"], ["empty", "no finished trial", "--resume empty"]),
    ],
)
def test_a_mistake_gets_one_line_with_the_fix(single, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "results").mkdir()
    (tmp_path / "one").symlink_to(single.folder)
    store.create(tmp_path / "empty", single.info())
    monkeypatch.chdir(tmp_path)
    message = command(*arguments, code=2)
    for word in words:
        assert word in message


def test_list_plots_gives_each_a_line():
    lines = command("list", "plots").splitlines()
    assert [line.split()[0] for line in lines] == list(plots.PLOTS)
    assert all(len(line.split()) > 5 for line in lines)
    assert "speedup_vs_batch" in str(errors.unknown("plot", "speedup", plots.PLOTS))


# The notebook


def test_the_notebook_holds_no_outputs_and_is_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 8
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)


def test_the_lesson_holds_no_outputs_and_no_formula():
    notebook = nbformat.read(LESSON, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert not re.search(r"\bnp\.|\bmath\.|\s[/*]\s", code)


@pytest.mark.slow
def test_the_lesson_runs_from_a_clean_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOBENCH_LESSON_CALIBRATION", "off")
    monkeypatch.setenv("NANOBENCH_LESSON_LAUNCHES", "1")
    monkeypatch.setenv("NANOBENCH_LOCKS", str(tmp_path / "locks"))
    notebook = nbformat.read(LESSON, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    kinds = [kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert kinds.count("image/gif") == 3
    assert {"image/png", "text/html"} <= {*kinds}


@pytest.mark.parametrize("place", ["notebooks", pytest.param(".", marks=pytest.mark.slow)])
def test_the_notebook_runs_in_its_folder_and_in_the_repository(run, tmp_path, monkeypatch, place):
    (tmp_path / place).mkdir(exist_ok=True)
    if place == ".":
        monkeypatch.setenv("NANOBENCH_RESULTS", str(run.folder.parent))
    else:
        monkeypatch.delenv("NANOBENCH_RESULTS", raising=False)
        (tmp_path / "results").symlink_to(run.folder.parent)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": tmp_path / place}}).execute()
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds


def test_no_figure_is_written_with_an_exponent_because_it_is_near_a_thousand():
    found = [format.size(1003 * 2**20), format.size(999.7 * 2**20), format.seconds(1060.2), format.number(999.7)]
    assert found == ["1,003 MiB", "1,000 MiB", "1,060 s", "1,000"]
