"""The results of a sweep as a table, and those of its gates."""

from nanobench.analysis.verdict import mark_of
from nanobench.results import derive
from nanobench.results.derive import CellRow
from nanobench.views import format
from nanobench.views.cell_table import SPEEDUP, SPEEDUP_STATUS, STATUS, CellTable, Column, in_order, make, namer, value
from nanobench.views.console import Fitted

STYLES = {"exact": "green", "rounding": "green", "lossy": "yellow", "synthetic": "yellow"}
"""Verdicts of a gate that are passed -> their colours."""
MOST_BARS, LEAST_BAR = 24, 10
"""More bars than this are no picture, and neither are shorter ones."""
FULL, PARTS = "█", ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
GENERATION = (
    value("output\ntok/s", "output_tok_s"),
    value("TTFT", "ttft_s", drop=3),
    value("TPOT", "tpot_s", drop=4),
)
TRAINING = (value("tok/s", "train_tok_s"), value("useful\ntok/s", "useful_tok_s", drop=4), value("step", "step_s", drop=3))
MEMORY = value("peak\nmemory", "peak_memory_bytes", drop=2)
GATE = Column("gate", lambda row: mark_of(row) or row["gate"], align="left", wrap=9, drop=1)
DIVERGENCE = (value("KL", "kl_nats", drop=2), value("top token\nequal", "top1_agreement", drop=1))
DRAFTS = (
    value("tokens\nper pass", "mean_acceptance_length", drop=2),
    value("drafts\naccepted", "draft_acceptance_rate", drop=1),
)
GATE_COLUMNS = (
    Column(
        "gate",
        lambda row: row["gate"] or row["status"],
        align="left",
        style=lambda row: STYLES.get(row["gate"] or "", "bold red"),
    ),
    Column("error", lambda row: format.text(row["gate_max_error"], "logit")),
    Column("tolerance", lambda row: format.text(row["gate_tolerance"], "logit"), drop=1),
    Column("reason", lambda row: row["gate_note"] or row["reason"], align="left", wrap=20),
)


def rates(cells: list[CellRow]) -> tuple[Column, ...]:
    """Throughput and latencies of cells like these; useful tokens only where some are padding."""
    if not cells or not cells[0]["seq_len"]:
        return GENERATION
    padded = any(cell["padding_fraction"] for cell in cells)
    return tuple(column for column in TRAINING if padded or column.needs != "useful_tok_s")


def of_plug_ins() -> tuple[Column, ...]:
    """The columns of plug-ins, which a narrow terminal leaves out first."""
    metrics = [each.metric for each in derive.plug_ins()]
    return tuple(value(metric.name.replace("_", " "), metric.name, metric.unit, drop=0) for metric in metrics)


def results(cells: list[CellRow]) -> CellTable:
    """One row per cell: throughput, latencies, speedup and its status, memory, gate, status of the absolute figures. Columns of
    plug-ins stand before the gate, and so do the divergence of lossy arms and what became of drafted tokens.
    """
    return make(cells, (*rates(cells), SPEEDUP, SPEEDUP_STATUS, MEMORY, *of_plug_ins(), *DIVERGENCE, *DRAFTS, GATE, STATUS))


def result_table(cells: list[CellRow]) -> Fitted:
    """The results for a terminal."""
    return Fitted(results(cells))


def speedup_bars(cells: list[CellRow], width: int) -> list[str]:
    """A bar for each speedup, all to one scale that starts at 0; empty where there are fewer than two."""
    rows = [cell for cell in in_order(cells) if cell["arm_index"] and cell["speedup"] is not None]
    if not 2 <= len(rows) <= MOST_BARS:
        return []
    names = [*map(namer(cells), rows)]
    texts = [format.times(cell["speedup"]) for cell in rows]
    room = width - max(map(len, names)) - max(map(len, texts)) - 3
    if room < LEAST_BAR:
        return []
    scale = room / max(cell["speedup"] for cell in rows)
    longest = max(map(len, names))
    return [
        f"{name:<{longest}} {blocks(scale * cell['speedup'])} {text}"
        for name, cell, text in zip(names, rows, texts, strict=True)
    ]


def blocks(length: float) -> str:
    """A bar of a length in characters, to an eighth of one."""
    eighths = max(1, round(8 * length))
    return FULL * (eighths // 8) + PARTS[eighths % 8]


def gate_table(cells: list[CellRow]) -> Fitted:
    """One row per cell for a terminal: the verdict and its reason."""
    return Fitted(make(cells, GATE_COLUMNS))
