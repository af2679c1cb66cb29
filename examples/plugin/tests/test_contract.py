"""Every member of the plug-in keeps the contract of its family."""

from functools import partial

import pandas as pd
import pytest
from matplotlib.figure import Figure
from nanobench.errors import UserError
from nanobench.testing import assert_contract, check_engine, check_sampler
from nanobench_example import engine, metric, plot, sampler


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_chunked_prefill(chunk):
    assert_contract(check_engine(partial(engine.build, chunk=chunk)))


@pytest.mark.parametrize("p", [0.05, 0.3])
def test_min_p(p):
    assert_contract(check_sampler(partial(sampler.build, p=p)))


class Cell:
    """Stands in for a cell of nanobench."""

    def __init__(self, **known):
        self.known = known

    def largest(self, name):
        return self.known.get(name)


def test_cache_share():
    assert metric.cache_share(Cell(kv_cache_bytes=1, weight_bytes=3)) == 0.25
    assert metric.cache_share(Cell(kv_cache_bytes=0, weight_bytes=3)) is None
    assert metric.cache_share(Cell()) is None


def test_tpot_vs_batch():
    cells = pd.DataFrame({"arm": ["a", "b"] * 2, "batch_size": [1, 1, 4, 4], "tpot_s": [1e-3, 2e-3, 2e-3, 3e-3]})
    figure = plot.tpot_vs_batch(cells, [])
    assert isinstance(figure, Figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
    with pytest.raises(UserError, match="kv-sweep"):
        plot.tpot_vs_batch(cells.assign(tpot_s=None), [])
