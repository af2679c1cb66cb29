"""Figures, report, exports and the notebook, from a small run whose raw rows are made up here."""

import csv
import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from typer.testing import CliRunner

from nanobench import load, lookup, store
from nanobench.analysis import verdict
from nanobench.cli import app, results
from nanobench.errors import UserError
from nanobench.plan import Plan
from nanobench.schema import Arm, ArmRecord, Outcome, Point, Repetition, Status, Verdict, raw_rows
from nanobench.views import plots, report, units

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "explore.ipynb"
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


def repetition(point, arm, block, generator):
    """Two calls with a time per token: growing with the position where nothing is cached."""
    growth = 0.02 if arm.engine == "uncached" else 0.0
    marks_s, now_s = [], 0.0
    for _ in range(2):
        for token in range(point.new_tokens):
            work = 4.0 if token == 0 or growth else 1.0
            now_s += 1e-4 * work * point.batch_size**0.7 * (1 + growth * token) * generator.uniform(0.95, 1.05)
            marks_s.append(now_s)
    tokens = 2 * point.batch_size * point.new_tokens
    return Repetition(
        kind="steady", repetition=block, block=block, calls=2, marked=True, wall_s=now_s, marks_s=tuple(marks_s), tokens=tokens
    )


def record(point, arm, launch, failed):
    """What a worker would say of an arm."""
    if (point.batch_size, arm.engine) in failed:
        return ArmRecord(arm=arm, outcome=failed[point.batch_size, arm.engine])
    generator = random.Random(f"{point} {arm} {launch}")
    timed = tuple(repetition(point, arm, block, generator) for block in range(4))
    memory = 1_000_000 + 100_000 * point.batch_size
    outcome = Outcome(
        status=Status.OK, gate=Verdict.EXACT, gate_note="tokens equal", mark_cost_s=1e-7, peak_memory_bytes=memory
    )
    return ArmRecord(arm=arm, repetitions=timed, outcome=outcome)


def make_run(folder, batches=(1, 4, 16), prompts=(8, 32), launches=2, arms=ARMS, failed=FAILED, new_tokens=6):
    """A run as a sweep leaves it."""
    points = tuple(
        Point(
            model="gpt2-nano",
            dtype="float32",
            device="cpu",
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
    run = store.create(folder, store.about_new("kv-sweep", {"batch": "1,4,16"}, plan, DESCRIPTION))
    for trial in (trial for trials in plan.rounds() for trial in trials):
        run.write_raw(
            trial, [row for arm in arms for row in raw_rows(trial, 0, record(trial.point, arm, trial.launch, failed))]
        )
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "several")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One batch size, one length, one launch."""
    return make_run(tmp_path_factory.mktemp("single") / "one", batches=(2,), prompts=(8,), launches=1, arms=ARMS[:2])


@pytest.fixture(scope="module")
def figures(run):
    cells, raw = load(run.folder), run.read_raw()
    return {name: plots.figure(name, cells, raw) for name in plots.PLOTS}


def texts(figure):
    """All words inside the panels of a figure, and its footer."""
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [figure.get_supxlabel()]


# Figures


def test_every_figure_is_written_as_png_and_svg(run, tmp_path):
    paths = plots.draw_all(load(run.folder), run.read_raw(), tmp_path)
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in plots.PLOTS for kind in ("png", "svg")]
    for path in paths:
        head = path.read_bytes()[:200]
        assert head.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in path.read_bytes()
        assert path.stat().st_size > 5000


def test_one_batch_and_one_launch_draw_all_but_the_lengths(single, tmp_path):
    paths = plots.draw_all(load(single.folder), single.read_raw(), tmp_path)
    assert {path.stem for path in paths} == {*plots.PLOTS} - {"speedup_vs_length"}


def test_one_pair_without_an_interval_is_drawn_and_said(tmp_path):
    run = make_run(tmp_path / "run", batches=(2,), prompts=(8,), launches=1, arms=ARMS[:2])
    raw = [row for row in run.read_raw() if row["kind"] != "steady" or row["block"] == 0]
    cells = load(run.folder).assign(speedup_lo=None, speedup_hi=None)
    assert "no intervals: one pair per cell" in texts(plots.figure("speedup_vs_batch", cells, raw))[-1]


@pytest.mark.parametrize("name", plots.PLOTS)
def test_axes_are_labelled_with_their_units(figures, name):
    figure = figures[name]
    labels = {axes.get_xlabel() for axes in figure.axes} | {axes.get_ylabel() for axes in figure.axes} - {""}
    known = {
        "speedup_vs_batch": {"batch size (rows)", "speedup (x)"},
        "speedup_vs_length": {"prompt length (tokens)", "speedup (x)"},
        "throughput_ttft_memory_vs_batch": {"batch size (rows)", "output (tok/s)", "TTFT (ms)", "peak memory (MiB)"},
        "token_latency": {"position of the new token", "gap to the token before (ms)"},
    }
    assert labels - {""} == known[name]
    ends = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(ends) >= 2


@pytest.mark.parametrize("name", plots.PLOTS)
def test_a_figure_says_what_it_shows_and_what_was_run(figures, name):
    figure = figures[name]
    assert figure.legends[0].get_title().get_text()
    footer = figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")
    for words in ("gpt2-nano", "float32", "cpu", "2 threads", "prompt 8, 32", "6 new tokens", "2 launches"):
        assert words in footer


@pytest.mark.parametrize("name", plots.PLOTS)
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
    assert command("report", run.folder, run.folder.parent).split() == [str(run.folder / "report.md")]
    return (run.folder / "report.md").read_text()


def test_the_report_says_the_verdict_the_cells_the_failures_and_the_method(run, written):
    cells = load(run.folder)
    assert written.startswith("# nanobench kv-sweep: several\n")
    for sentence in (*verdict.sentences(cells), verdict.counts(cells), report.table(cells)):
        assert sentence in written
    for _, cell in cells[~cells["status"].isin(["ok", "imprecise"])].iterrows():
        line = f"- prompt_len {cell['prompt_len']}, batch {cell['batch_size']}, {cell['arm']}: **{cell['status']}**, "
        assert line + cell["reason"].replace("|", "\\|") in written
    for words in ("nanobench kv-sweep --batch 1,4,16", "2 launches", "forkserver", "over launches", "seed 0", "0123456789ab"):
        assert words in written
    assert "Imagined \\| 2 GHz" in written


def test_every_image_of_the_report_exists(run, written):
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", written)
    assert [Path(link).stem for link in links] == list(plots.PLOTS)
    for link in links:
        assert (run.folder / link).stat().st_size > 0


def test_the_markdown_table_agrees_with_the_cells(run):
    cells = load(run.folder)
    rows = {(int(row["prompt len"]), int(row["batch"]), row["arm"]): row for row in read_table(report.table(cells))}
    assert len(rows) == len(cells)
    for cell in report.records(cells):
        row = rows[cell["prompt_len"], cell["batch_size"], cell["arm"]]
        assert row["status"] == cell["status"]
        assert row["gate"] == (cell["gate"] or units.MISSING)
        assert row["output tok/s"] == units.text(cell["output_tok_s"], "tok/s")
        assert row["TTFT"] == units.text(cell["ttft_s"], "s")
        if cell["speedup"] is not None:
            assert row["speedup [95 %]"].startswith(f"{cell['speedup']:.3g}x [")


def test_the_json_export_is_valid_and_knows_null(run):
    cells = load(run.folder)
    rows = json.loads(report.to_json(cells), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
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
    rows = list(csv.DictReader(io.StringIO(report.to_csv(cells))))
    expected = [{name: "" if value is None else str(value) for name, value in row.items()} for row in report.records(cells)]
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
    assert {row["run"] for row in read_table(report.table(both))} == {"several", "other"}


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


@pytest.mark.parametrize("form", results.FORMATS)
def test_export_prints_or_writes_the_same(run, tmp_path, form):
    printed = command("export", run.folder, "--format", form)
    assert printed.strip() == report.EXPORTS[form](load(run.folder)).strip()
    assert command("export", run.folder, "--format", form, "--out", tmp_path / "cells").strip() == str(tmp_path / "cells")
    assert (tmp_path / "cells").read_text() == printed


def test_the_formats_offered_are_those_that_exist():
    assert set(results.FORMATS) == set(report.EXPORTS)


def test_without_results_the_newest_run_is_meant(tmp_path, monkeypatch):
    for name, day in (("old", "02"), ("new", "03"), ("older", "01")):
        small = make_run(tmp_path / "results" / name, batches=(1,), prompts=(8,), launches=1, arms=ARMS[:2])
        small.write_about({**small.read_about(), "started_at": f"2026-01-{day}T00:00:00+00:00"})
    monkeypatch.chdir(tmp_path)
    assert {row["run"] for row in json.loads(command("export", "--format", "json"))} == {"new"}
    assert {row["run"] for row in json.loads(command("export", "results", "--format", "json"))} == {"old", "new", "older"}
    assert command("report").strip() == "results/new/report.md"


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
def test_a_mistake_gets_one_line_with_the_mend(single, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "results").mkdir()
    (tmp_path / "one").symlink_to(single.folder)
    store.create(tmp_path / "empty", single.read_about())
    monkeypatch.chdir(tmp_path)
    message = command(*arguments, code=2)
    for word in words:
        assert word in message


def test_list_plots_gives_each_a_line():
    lines = command("list", "plots").splitlines()
    assert [line.split()[0] for line in lines] == list(plots.PLOTS)
    assert all(len(line.split()) > 5 for line in lines)
    assert "speedup_vs_batch" in str(lookup.unknown("plot", "speedup", plots.PLOTS))


# The notebook


def test_the_notebook_holds_no_outputs_and_is_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 8
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)


@pytest.mark.parametrize("place", ["notebooks", "."])
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
