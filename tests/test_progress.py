"""One line per trial at every width, and bars of the speedups."""

from dataclasses import replace

import pytest

from nanobench.schema import Arm, Point, Trial
from nanobench.sweep.progress import Progress
from nanobench.views import progress, sweep

POINT = Point(
    model="my_pkg.models.gpt:build:n_layer=6,n_head=6", dtype="float32", device="cpu", threads=2, batch_size=8, prompt_len=50,
    new_tokens=16,
)  # fmt: skip
ARMS = (Arm(engine="uncached"), Arm(engine="cached"))
WIDTHS = (60, 80, 120, 200)


def cell(arm, index, speedup=None, batch=8):
    bounds = (None, None) if speedup is None else (speedup - 0.1, speedup + 0.1)
    known = {**vars(POINT), **vars(arm), "arm": arm.label, "arm_index": index, "status": "ok", "output_tok_s": 1234.5}
    known |= {"speedup": speedup, "speedup_lo": bounds[0], "speedup_hi": bounds[1], "batch_size": batch, "run": None}
    return known


def seen(report=None):
    trial = Trial(point=POINT, arms=ARMS, launch=2, seed=0, target_ci=0.05, max_seconds=1.0)
    return Progress(trial, 3, 35, lambda: 190.0, report, lambda: [cell(ARMS[0], 0), cell(ARMS[1], 1, 5.86)])


def test_a_wide_line_says_everything():
    line = progress.finished_line(seen(), 200)
    assert line.startswith(f"[3/35] launch 2, {POINT.model}, batch 8, prompt 50, new 16: uncached 1,234 tok/s, cached ")
    assert "(5.86x [5.76, 5.96])" in line
    assert line.endswith("; 3 min 10 s left")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_line_keeps_ratio_and_time_at_every_width(width):
    line = progress.finished_line(seen(), width)
    assert "min 10 s left" in line[:width]
    if width >= 80:
        assert len(line) <= width
        assert "5.86x" in line
    assert ("tok/s" in line) == (width > 80)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_running_line_fits_or_is_cut_behind_the_time(width):
    report = {"phase": "steady", "arm": "cached", "block": 4, "spent_s": 1.25, "budget_s": 4.0}
    line = progress.running_line(seen(report), width)
    assert "3 min 10 s left" in line.plain[:width]
    assert line.no_wrap
    if width >= 80:
        assert len(line.plain) <= width
        assert line.plain.endswith("1.2 of 4 s")
        assert ("block 5" in line.plain) == (width >= 100)


def test_bars_are_to_scale():
    cells = [cell(ARMS[0], 0), *(cell(ARMS[1], 1, speedup, size) for size, speedup in ((1, 2.0), (8, 4.0), (64, 8.0)))]
    lines = sweep.speedup_bars(cells, 60)
    lengths = [line.count(sweep.FULL) for line in lines]
    assert [line.split()[-1] for line in lines] == ["2x", "4x", "8x"]
    assert lengths[2] == pytest.approx(2 * lengths[1], abs=1)
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=1)
    assert max(map(len, lines)) <= 60


def test_one_ratio_or_a_narrow_terminal_has_no_bars():
    cells = [cell(ARMS[0], 0), cell(ARMS[1], 1, 2.0)]
    assert sweep.speedup_bars(cells, 80) == []
    assert sweep.speedup_bars([*cells, cell(ARMS[1], 1, 3.0, 64)], 30) == []


@pytest.mark.parametrize(("length", "drawn"), [(0.01, "▏"), (0.5, "▌"), (1.0, "█"), (2.125, "██▏")])
def test_a_bar_has_parts(length, drawn):
    assert sweep.blocks(length) == drawn


def test_quiet_prints_the_result_alone(nanobench_here, tmp_path):
    small = ("--model", "fakes:tiny", "--batch", "1,2", "--prompt-len", 8, "--new-tokens", 4, "--threads", 1, "--quick")
    asked = (*small, "--max-seconds", 0.05, "--calibration", "off", "--no-plot", "--out", "run", "--quiet")
    done = nanobench_here("kv-sweep", *asked, cwd=tmp_path, code=0)
    assert "expected" not in done.stdout
    assert "[1/2]" not in done.stdout
    assert "cached" in done.stdout


def test_a_point_is_named_by_what_differs():
    other = replace(seen(), trial=replace(seen().trial, launch=7))
    assert progress.briefly(other) == "launch 7, batch 8"
