"""Curves at all candidates: measured values are copied, others are interpolated or missing, and the table says which."""

import io
import math
from dataclasses import fields

import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from nanobench.analysis import interpolated
from nanobench.analysis.verdict import SETTING
from nanobench.results.store import cells_schema, records
from nanobench.schema import Point
from nanobench.stats.curve import NORMAL, Known, interpolate
from nanobench.views import interpolated as views

SPEEDUPS = {1: 2.0, 4: 4.0, 16: 8.0, 64: 10.0}
CANDIDATES = (1, 2, 4, 8, 16, 32, 64, 128)
SD = 0.01


def bounds(name, value, sd=SD):
    """A value with the bounds of its interval; without bounds if sd is None."""
    if sd is None:
        return {name: value}
    return {name: value, f"{name}_lo": value * math.exp(-NORMAL * sd), f"{name}_hi": value * math.exp(NORMAL * sd)}


def pair(batch_size, speedup, name="output_tok_s", sd=SD, changes=None):
    """The reference and one arm at a point; `changes` are of the arm."""
    point = {f.name: f.default for f in fields(Point)}
    point |= {"model": "gpt2-mini", "dtype": "float32", "device": "cpu", "threads": 2, "prompt_len": 50, "new_tokens": 16}
    point |= {"batch_size": batch_size, "status": "ok"}
    slow = {**point, "arm": "uncached", "arm_index": 0, **bounds(name, 100.0 + batch_size, sd)}
    fast = {**point, "arm": "cached", "arm_index": 1, "speedup_status": "ok", **bounds(name, 10.0 * speedup, sd)}
    return [slow, {**fast, **bounds("speedup", speedup, sd), **(changes or {})}]


def cells(changes=None, sd=SD, **point):
    """The cells of SPEEDUPS, those of the arm changed at some batch sizes."""
    rows = [row for size, speedup in SPEEDUPS.items() for row in pair(size, speedup, sd=sd, changes=(changes or {}).get(size))]
    return frame([{**row, **point} for row in rows])


def frame(rows):
    return pa.Table.from_pylist(rows, schema=cells_schema()).to_pandas()


def arm(found, name="cached"):
    return found[found["arm"] == name].set_index("batch_size")


def text(found, width=140):
    console = Console(file=io.StringIO(), width=width)
    console.print(views.curve_table(records(found)))
    return console.file.getvalue()


def line_of(found, batch, name="cached"):
    """The texts of one row."""
    table = views.curve(records(found))
    (row,) = [row for row in table.rows if (row["batch_size"], row["arm"]) == (batch, name)]
    return {column.name: column.cell(row) for column in table.columns}


FAILED = {"status": "oom", "speedup_status": "oom", **dict.fromkeys(interpolated.COLUMNS)}
UNSTABLE = {"speedup_status": "unstable"}


# The frame


def test_there_is_a_row_per_candidate_and_arm_in_order():
    found = interpolated.curve(cells(), [*reversed(CANDIDATES), 4])
    assert found["batch_size"].tolist() == [size for size in CANDIDATES for _ in range(2)]
    assert found["arm_index"].tolist() == [0, 1] * len(CANDIDATES)
    assert list(found.columns) == [
        *SETTING,
        "batch_size",
        "arm",
        "arm_index",
        "measured",
        "status",
        "speedup_status",
        *("speedup", "speedup_lo", "speedup_hi"),
        *("output_tok_s", "output_tok_s_lo", "output_tok_s_hi"),
        *("train_tok_s", "train_tok_s_lo", "train_tok_s_hi"),
    ]


def test_measured_rows_copy_the_cell():
    given, found = arm(cells()), arm(interpolated.curve(cells(), CANDIDATES))
    for size in SPEEDUPS:
        assert found.loc[size, "measured"]
        pd.testing.assert_series_equal(
            found.loc[size, interpolated.COLUMNS], given.loc[size, interpolated.COLUMNS], check_dtype=False
        )


def test_the_others_are_interpolated_with_intervals():
    found = arm(interpolated.curve(cells(), CANDIDATES))
    made = interpolate({size: Known(math.log(value), SD) for size, value in SPEEDUPS.items()}, [2, 8, 32])
    for size, estimate in made.items():
        row = found.loc[size]
        assert not row["measured"]
        assert pd.isna(row["status"])
        assert row[["speedup", "speedup_lo", "speedup_hi"]].tolist() == pytest.approx(list(estimate))
        assert row[["output_tok_s", "output_tok_s_lo", "output_tok_s_hi"]].tolist() == pytest.approx(
            [10 * value for value in estimate]
        )


def test_the_reference_has_throughput_but_no_ratio():
    found = arm(interpolated.curve(cells(), CANDIDATES), "uncached")
    assert 100 < found.loc[2, "output_tok_s"] < 104
    assert found["speedup"].isna().all()


def test_nothing_is_extrapolated():
    assert arm(interpolated.curve(cells(), CANDIDATES)).loc[128, interpolated.COLUMNS].isna().all()


@pytest.mark.parametrize(("changes", "lost"), [(FAILED, ["speedup", "output_tok_s"]), (UNSTABLE, ["speedup"])])
def test_nothing_is_interpolated_beside_a_cell_that_says_nothing(changes, lost):
    found = arm(interpolated.curve(cells({64: changes}), CANDIDATES))
    assert found.loc[32, lost].isna().all()
    assert found.loc[8, ["speedup", "output_tok_s"]].notna().all()
    assert found.loc[32, "output_tok_s"] > 0 or "output_tok_s" in lost
    assert found.loc[64, "measured"] == (changes is UNSTABLE)


def test_an_unreliable_absolute_figure_leaves_the_ratio():
    found = arm(interpolated.curve(cells({64: {"status": "unstable"}}), CANDIDATES))
    assert math.isnan(found.loc[32, "output_tok_s"])
    assert found.loc[32, "speedup"] > 8


def test_two_reliable_cells_are_not_a_curve():
    found = arm(interpolated.curve(cells({16: UNSTABLE, 64: UNSTABLE}), CANDIDATES))
    assert math.isnan(found.loc[2, "speedup"])


def test_values_without_intervals_are_interpolated_without():
    found = arm(interpolated.curve(cells(sd=None), CANDIDATES))
    assert found.loc[2, "speedup"] > 2
    assert found.loc[2, ["speedup_lo", "speedup_hi"]].isna().all()


def test_settings_and_training_have_their_own_curves():
    rows = [row for size, speedup in SPEEDUPS.items() for row in pair(size, speedup, "train_tok_s")]
    both = frame([{**row, "prompt_len": 0, "seq_len": length} for length in (64, 128) for row in rows])
    found = interpolated.curve(both, CANDIDATES)
    assert len(found) == 4 * len(CANDIDATES)
    assert arm(found).loc[2, "train_tok_s"].notna().all()
    assert found["output_tok_s"].isna().all()


def test_no_cells_and_no_candidates_make_no_rows():
    assert interpolated.curve(cells().iloc[:0], CANDIDATES).empty
    assert interpolated.curve(cells(), []).empty


# The table


def test_the_table_says_what_was_measured_and_leaves_out_what_is_not_known():
    found = interpolated.curve(cells({64: FAILED}), CANDIDATES)
    table = views.curve(records(found))
    assert {row["batch_size"]: line_of(found, row["batch_size"])["source"] for row in table.rows if row["arm_index"]} == {
        1: "measured",
        2: "interpolated",
        4: "measured",
        8: "interpolated",
        16: "measured",
        64: "oom",
    }


def test_values_have_their_intervals_and_a_measured_ratio_its_status():
    found = interpolated.curve(cells(), CANDIDATES)
    assert line_of(found, 4) == {
        "batch": "4",
        "arm": "cached",
        "source": "measured",
        "output tok/s [95 %]": "40 [39.2, 40.8]",
        "speedup [95 %]": "4x [3.92, 4.08]",
        "speedup status": "ok",
    }
    assert line_of(found, 8)["speedup status"] == "–"
    assert line_of(found, 8)["speedup [95 %]"].startswith("5.66x [")
    assert line_of(found, 8, "uncached")["speedup [95 %]"] == "(reference)"
    assert 128 not in [row["batch_size"] for row in views.curve(records(found)).rows]


def test_a_terminal_shows_the_source_even_if_it_is_narrow():
    found = interpolated.curve(cells(), CANDIDATES)
    for width in (60, 140):
        assert text(found, width).count("interpolated") == 6


def test_the_sentence_counts_batch_sizes():
    found = interpolated.curve(cells(), CANDIDATES)
    assert views.sentence(records(found)) == (
        "4 of 8 batch sizes measured; values at the others are interpolated if both neighbours are reliable"
    )
    assert views.sentence(records(interpolated.curve(cells(), SPEEDUPS))) == ""
