"""Columns of arms that draft tokens: how many are accepted, and what drafting takes; null for other arms.

The names are those that servers use. All are from timed repetitions.
"""

from nanobench.results import drafts
from nanobench.results.cell import Cell
from nanobench.results.metrics.metric import HIGHER, NEITHER, RATIO, TEXT, Metric, outcome_first


def mean_acceptance_length(cell: Cell) -> float | None:
    """Tokens that a pass of the model writes per row, its own included."""
    passes = drafts.passes(cell.steady)
    return 1 + sum(drafts.by_position(cell.steady, "kept_by_position")) / passes if passes else None


def draft_acceptance_rate(cell: Cell) -> float | None:
    """Accepted over drafted tokens, each row on its own."""
    drafted = sum(drafts.by_position(cell.steady, "drafted_by_position"))
    return sum(drafts.by_position(cell.steady, "accepted_by_position")) / drafted if drafted else None


def acceptance_rate_by_position(cell: Cell) -> str | None:
    """The same at each position, in words: 0.71 0.52 0.35."""
    found = drafts.shares(cell.steady, "accepted_by_position")
    return " ".join(f"{share:.3g}" for share in found) or None


METRICS = (
    *outcome_first(TEXT, NEITHER, synthetic="why tokens of the output are not the model's: an acceptance by chance"),
    Metric(
        "mean_acceptance_length",
        RATIO,
        HIGHER,
        "tokens of a row that a pass of the model writes: 1 + drafted ones that all rows keep; null without drafts, as below",
        mean_acceptance_length,
    ),
    Metric(
        "draft_acceptance_rate",
        RATIO,
        HIGHER,
        "accepted / drafted tokens, each row on its own: it does not depend on the batch",
        draft_acceptance_rate,
    ),
    Metric(
        "acceptance_rate_by_position",
        TEXT,
        NEITHER,
        "the same at the first drafted token, the second, ...: accepted with all before it",
        acceptance_rate_by_position,
    ),
    Metric(
        "draft_time_share",
        RATIO,
        NEITHER,
        "time of the drafts / (e2e_s - ttft_s), over timestamped calls",
        lambda cell: drafts.time_share(cell.steady),
    ),
)
