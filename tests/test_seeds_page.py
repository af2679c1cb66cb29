"""The page on the seeds' table is what its script prints, and the rule in it does what it says."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SCRIPT = DOCS / "make_seeds_page.py"


@pytest.fixture(scope="module")
def seeds():
    spec = importlib.util.spec_from_file_location("make_seeds_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bounds(cells):
    return [cell.bound_by(cells) for cell in cells]


def retimed(cells, step_of):
    """The cells as if each step took another time."""
    return [replace(cell, tok_s=cell.point.batch_size / step_of(cell)) for cell in cells]


def test_the_script_prints_the_page_that_is_kept():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == (DOCS / "seeds.md").read_text(), "python docs/make_seeds_page.py > docs/seeds.md"


def test_every_published_row_is_on_the_page(seeds):
    rows = seeds.published()
    used = [row for row in rows if seeds.is_generation(row) or seeds.is_training(row)]
    assert len(used) == 14 + 4
    assert len(seeds.left_out().splitlines()) == 2 + len(rows) - len(used)


def test_the_cached_step_is_flat_and_eighty_times_what_reading_the_weights_takes(seeds):
    cells = seeds.cells_of("cached")
    steps = [cell.step_s for cell in cells]
    assert max(steps) / min(steps) < 1.05
    assert steps[0] / cells[0].moving_s(200 * 2 * seeds.SHAPE.read_params) == pytest.approx(80, abs=0.5)
    assert bounds(cells) == ["host"] * 7
    assert max(cell.mfu for cell in cells) < 0.01


def test_the_uncached_arm_leaves_the_floor_of_the_host(seeds):
    assert bounds(seeds.cells_of("uncached")) == ["host"] * 2 + ["unexplained"] * 5


def test_a_step_near_a_floor_is_explained_by_it_however_flat(seeds):
    cells = seeds.cells_of("cached")
    assert bounds(retimed(cells, lambda cell: 1.9 * cell.read_s)) == ["bandwidth"] * 7
    uncached = seeds.cells_of("uncached")[1:]
    assert bounds(retimed(uncached, lambda cell: 1.9 * cell.multiply_s)) == ["compute"] * 6


def test_a_single_cell_is_never_flat(seeds):
    assert [bounds([cell]) for cell in seeds.cells_of("cached")] == [["unexplained"]] * 7


def test_mfu_and_hfu_differ_by_what_the_uncached_arm_repeats(seeds):
    for uncached, cached in zip(seeds.cells_of("uncached"), seeds.cells_of("cached"), strict=True):
        repeated = uncached.multiply_s / uncached.step_s / uncached.mfu
        assert repeated == pytest.approx(131, abs=1)
        assert cached.multiply_s / cached.step_s == pytest.approx(cached.mfu, rel=0.01)
