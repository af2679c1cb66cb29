"""Predictions for another device on the terminal. Each figure that was not measured says so."""

from collections.abc import Iterator

from nanobench.analysis.predict import uncertainties
from nanobench.results.derive import CellRow
from nanobench.views import format
from nanobench.views.cell_table import Column, make, value
from nanobench.views.console import Fitted

COLUMNS = (
    value("predicted\ntok/s", "predicted_output_tok_s", "tok/s"),
    value("predicted\ntok/s", "predicted_train_tok_s", "tok/s"),
    value("predicted\nTTFT", "predicted_ttft_s", "s"),
    value("predicted\nTPOT", "predicted_tpot_s", "s"),
    value("predicted\nstep", "predicted_step_s", "s"),
    Column("predicted\nspeedup", lambda row: format.times(row["predicted_speedup"])),
    Column("predicted\nbound by", lambda row: row["predicted_bound_by"], align="left", drop=1),
    value("measured\ntok/s", "measured_output_tok_s", "tok/s"),
    value("measured\ntok/s", "measured_train_tok_s", "tok/s"),
    Column("error", lambda row: format.signed_percent(row["prediction_error"]), needs="prediction_error"),
)


def table(rows: list[CellRow]) -> Fitted:
    """One row per cell; throughput that was measured on that device stands beside the prediction."""
    return Fitted(make(rows, COLUMNS, title=f"predicted for {rows[0]['gpu']}"))


def taken_as(name: str, device: str, variants: list[str]) -> str:
    """Which variant of a device a name without a variant stands for."""
    return f"{name} is taken as {device}; its variants: {', '.join(variants)}"


def basis(here: str, known: bool) -> str:
    """The assumptions of the predictions."""
    if known:
        return (
            f"predicted from the datasheet, at the shares of its own datasheet that {here} reached; "
            "dispatch costs what it costs this host"
        )
    return (
        f"predicted from the datasheet's full rates, because there is no datasheet of {here}: times are lower bounds; "
        "dispatch costs what it costs this host"
    )


def doubts(rows: list[CellRow]) -> Iterator[str]:
    """How uncertain the limits of this machine leave the predictions, and for which limits another one stands in."""
    middle, most = uncertainties(rows)
    yield (
        f"the limits of this machine are uncertain: steps may take {format.times(1 + middle)} as long or as short (median; "
        f"at most {format.times(1 + most)}); the assumptions about {rows[0]['gpu']} come on top"
    )
    yield from dict.fromkeys(row["prediction_note"] for row in rows if row["prediction_note"])
