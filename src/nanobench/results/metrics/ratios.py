"""Columns of ratios to the reference, and of the reference to itself; null in the reference's cells but for the latter."""

from collections.abc import Callable
from typing import Any

from nanobench.results import speedup_status
from nanobench.results.cell import Cell
from nanobench.results.metrics import formulas
from nanobench.results.metrics.metric import ALLOWED, HIGHER, LOWER, NEITHER, RATIO, TEXT, Metric, interval
from nanobench.stats import intervals


def of_ratio(compute: Callable[[Cell], Any]) -> Callable[[Cell], Any]:
    """A column of a ratio; None where the status of an arm leaves it none."""
    return lambda cell: compute(cell) if speedup_status.speedup(cell) else None


def ratio_verdict(name: str) -> Callable[[Cell], Any]:
    """A part of the verdict on the ratio; None for the reference."""

    def compute(cell: Cell) -> Any:
        found = speedup_status.judge(cell)
        return None if found is None else getattr(found, name)

    return compute


def widening(cell: Cell) -> float | None:
    """By how much readings widened the interval; 0 where the arms were disturbed alike."""
    found = speedup_status.judge(cell)
    return found.bias.widening if found and speedup_status.speedup(cell) else None


METRICS = (
    *interval(
        "speedup",
        RATIO,
        HIGHER,
        speedup_status.speedup,
        "exp(mean log(t_reference / t_arm)) over interleaved pairs",
        ALLOWED,
    ),
    Metric(
        "speedup_status",
        TEXT,
        NEITHER,
        "of the ratio: ok, imprecise, unstable, ..., or the failing status of either arm; null for the reference",
        lambda c: (found := speedup_status.judge(c)) and str(found.status),
    ),
    Metric(
        "speedup_reason",
        TEXT,
        NEITHER,
        "why that is not ok, or why the interval is wider than its pairs",
        ratio_verdict("reason"),
    ),
    Metric(
        "speedup_disturbed_by",
        TEXT,
        NEITHER,
        "kinds of what made the ratio unstable or its interval wider, comma-separated",
        speedup_status.disturbed_by,
    ),
    Metric(
        "speedup_widening",
        RATIO,
        LOWER,
        "by which part readings of unlike disturbances moved a bound of the interval; 0 where there are none",
        widening,
    ),
    Metric(
        "speedup_pairs_lo",
        RATIO,
        NEITHER,
        "lower bound by the spread of the pairs alone",
        of_ratio(lambda c: intervals.ratio(c.speedup_logs).low),
    ),
    Metric(
        "speedup_pairs_hi",
        RATIO,
        NEITHER,
        "upper bound by the spread of the pairs alone",
        of_ratio(lambda c: intervals.ratio(c.speedup_logs).high),
    ),
    Metric(
        "speedup_basis",
        TEXT,
        NEITHER,
        "what the interval of speedup is over: launches, or pairs of one process",
        of_ratio(lambda c: intervals.ratio(c.speedup_logs).basis),
    ),
    Metric(
        "pairing", TEXT, NEITHER, "block: arms interleaved in one process; launch: arms run apart", of_ratio(formulas.pairing)
    ),
    Metric(
        "speedup_p",
        RATIO,
        NEITHER,
        "p value of speedup = 1, by the t statistic behind its interval",
        speedup_status.p_value,
    ),
    Metric("speedup_p_holm", RATIO, NEITHER, "speedup_p, corrected by Holm for all ratios of the run", lambda c: None),
    Metric(
        "speedup_trimmed",
        RATIO,
        NEITHER,
        "exp of the mean over launches of 20 % trimmed means of the pairs' log ratios",
        of_ratio(lambda c: intervals.trimmed_ratio(c.speedup_logs)),
    ),
    Metric(
        "sd_within",
        RATIO,
        LOWER,
        "standard deviation of a pair's log ratio within a launch",
        of_ratio(lambda c: c.components and c.components.within),
    ),
    Metric(
        "sd_between",
        RATIO,
        LOWER,
        "standard deviation of log ratios between launches, without the part within",
        of_ratio(lambda c: c.components and c.components.between),
    ),
    Metric(
        "ci_advice",
        TEXT,
        NEITHER,
        "what would narrow the interval: more launches or more repetitions",
        of_ratio(lambda c: c.components and c.components.ci_advice),
    ),
    *interval(
        "aa_ratio",
        RATIO,
        NEITHER,
        lambda c: c.aa,
        "A/A: the reference against itself, its repetitions taken as ABBA; unstable where it is not 1 (p < 0.01)",
        "95 % t interval over launch means",
    ),
)
