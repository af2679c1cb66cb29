"""Time per output token, by batch size."""

from matplotlib.figure import Figure
from nanobench.errors import UserError


def tpot_vs_batch(cells, launches):
    """Time per output token of each arm, by batch size."""
    if cells["tpot_s"].isna().all():
        raise UserError("tpot_vs_batch needs cells that generate; measure some with nanobench kv-sweep")
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    for arm, rows in cells.sort_values("batch_size").groupby("arm", sort=False):
        axes.plot(rows["batch_size"], 1e3 * rows["tpot_s"], marker="o", label=arm)
    axes.set(xlabel="batch size (rows)", ylabel="time per token (ms)", xscale="log")
    axes.legend()
    return figure
