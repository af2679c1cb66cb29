"""What `nanobench selftest` runs and checks: arms whose true result is known, through the whole pipeline."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from nanobench.stats import intervals
from nanobench.sweep.options import SweepOptions

UNCACHED_COPY = "nanobench.worker.selftest_engines:uncached_copy"
UNDELAYED = "nanobench.worker.selftest_engines:undelayed"
DELAYS = {"nanobench.worker.selftest_engines:delayed_2": 0.02, "nanobench.worker.selftest_engines:delayed_5": 0.05}
FIXED_DURATION, FIXED_DURATION_S = "nanobench.worker.selftest_engines:fixed_duration", 3e-3
NEW_TOKENS = 8
FOUND = {0.02: 0.8, 0.05: 0.9}
"""Delay -> the share of contrasts that must find it."""
COVERED = 0.9
WITHIN = 0.01
MOST_THREADS = 4
MOST_LAUNCHES = 15
LAUNCHES = 5
EFFECTS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2)
"""The differences among which the resolution is chosen."""


@dataclass(frozen=True)
class Check:
    """One line of the verdict on this machine."""

    name: str
    seen: str
    wanted: str
    passed: bool | None
    """None where the check is not possible on this machine"""


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """The columns of a cell that the checks read."""

    engine: str
    batch_size: int
    status: str
    reason: str | None
    disturbed_by: str | None
    launches_ok: int
    pairs: int
    output_tok_s: float | None
    speedup_lo: float | None
    speedup_hi: float | None
    sd_within: float | None
    sd_between: float | None

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> "CellSummary":
        """Those of a cell with all its columns."""
        return cls(**{each.name: cell[each.name] for each in fields(cls)})

    def covers(self, truth: float) -> bool:
        """Whether the interval of the speedup contains the true value."""
        return self.speedup_lo is not None and self.speedup_hi is not None and self.speedup_lo <= truth <= self.speedup_hi


Cells = Sequence[CellSummary]


class Spread(NamedTuple):
    """How much log ratios of the A/A pairs vary."""

    sd_within: float
    """within a launch"""
    sd_between: float
    """between launches"""
    pairs: float
    """per launch"""


def same(device: str, cores: int, quick: bool) -> SweepOptions:
    """A/A: the reference under a second name, at 40 points (10 with --quick), by the rules of any sweep."""
    lengths = "8-40+8" if quick else "4-40+4"
    batches = "1,4" if quick else "1,2,4,8"
    return sweep(device, cores, engine=f"uncached,{UNCACHED_COPY}", batch=batches, prompt_len=lengths, max_seconds="0.5")


def delayed(device: str, cores: int, quick: bool, launches: int) -> SweepOptions:
    """Known delays and a known duration, at 20 points (4 with --quick). No launch stops early."""
    engines = ",".join((UNDELAYED, *DELAYS, FIXED_DURATION))
    points = {"batch": "1,4", "prompt_len": "8,24"} if quick else {"batch": "1,2,4,8", "prompt_len": "8-40+8"}
    return sweep(device, cores, engine=engines, max_seconds="1.2", target_ci="1e-6", launches=launches, **points)


def sweep(device: str, cores: int, **options: Any) -> SweepOptions:
    """A sweep over the smallest built-in model."""
    few = str(min(cores, MOST_THREADS))
    return SweepOptions(
        model="gpt2-nano",
        device=device,
        threads=few,
        new_tokens=str(NEW_TOKENS),
        calibration="off",
        max_minutes="planned",
        **options,
    )


def spread(cells: Cells) -> Spread:
    """The spread over all A/A cells; infinite where none has one."""
    known = [cell for cell in cells if cell.sd_within is not None and cell.sd_between is not None]
    if not known:
        return Spread(math.inf, math.inf, 1.0)
    pairs = float(np.median([cell.pairs / cell.launches_ok for cell in known]))
    return Spread(
        root_mean_square(cell.sd_within for cell in known), root_mean_square(cell.sd_between for cell in known), pairs
    )


def root_mean_square(values: Iterable[float | None]) -> float:
    """The root of the mean square of the known values."""
    return float(np.sqrt(np.mean([value**2 for value in values if value is not None])))


def launches_for(cells: Cells, effect: float) -> int | None:
    """Launches that find an effect with a power of 90 %, given the A/A spread; None above MOST_LAUNCHES."""
    within, between, pairs = spread(cells)
    if not math.isfinite(within):
        return None
    return intervals.launches_needed(math.log1p(effect), within=within, between=between, pairs=pairs, most=MOST_LAUNCHES)


def resolution(cells: Cells) -> float | None:
    """The smallest difference that five launches find with a power of 90 %; None where even 20 % is too small."""
    return next((effect for effect in EFFECTS if (launches_for(cells, effect) or math.inf) <= LAUNCHES), None)


def check(same_cells: Cells, delayed_cells: Cells) -> list[Check]:
    """The verdict, line by line."""
    return [
        check_aa(same_cells),
        *check_delays(delayed_cells),
        check_duration(delayed_cells),
        check_disturbance([*same_cells, *delayed_cells]),
    ]


def check_aa(cells: Cells) -> Check:
    """No more A/A contrasts are significant than chance gives in 99 % of all cases."""
    contrasts = [cell for cell in cells if cell.speedup_lo is not None]
    significant = sum(not cell.covers(1.0) for cell in contrasts)
    allowed = int(scipy_stats.binom.ppf(0.99, len(contrasts), 1 - intervals.CONFIDENCE)) if contrasts else 0
    passed = bool(contrasts) and significant <= allowed
    return Check("A/A: significant", f"{significant} of {len(contrasts)}", f"at most {allowed}", passed)


def check_delays(cells: Cells) -> list[Check]:
    """Each delay is found often enough, and the intervals contain the true ratio often enough."""
    contrasts = [(cell, DELAYS[cell.engine]) for cell in cells if cell.engine in DELAYS and cell.speedup_lo is not None]
    checks = []
    for delay, share in FOUND.items():
        found = [cell.speedup_hi is not None and cell.speedup_hi < 1 for cell, known in contrasts if known == delay]
        checks.append(at_least(f"{delay:.0%} delay found", found, share))
    covered = [cell.covers(1 / (1 + delay)) for cell, delay in contrasts]
    return [*checks, at_least("intervals cover the truth", covered, COVERED)]


def check_duration(cells: Cells) -> Check:
    """Calls of a known duration are measured as long as they are."""
    rates = [
        (cell.output_tok_s, cell.batch_size)
        for cell in cells
        if cell.engine == FIXED_DURATION and cell.output_tok_s is not None
    ]
    deviations = [rate * FIXED_DURATION_S / batch_size - 1 for rate, batch_size in rates]
    within = [abs(deviation) <= WITHIN for deviation in deviations]
    return at_least(f"known duration within {WITHIN:.0%}", within, COVERED)


def check_disturbance(cells: Cells) -> Check:
    """Most cells are stable and reach a steady state."""
    return at_least("cells undisturbed", [cell.status not in ("unstable", "no_steady_state") for cell in cells], COVERED)


def at_least(name: str, answers: Sequence[bool], share: float) -> Check:
    """A check that at least this share of the answers is yes. Without any answer it is not possible."""
    wanted = math.ceil(share * len(answers) - 1e-9)
    passed = sum(answers) >= wanted if answers else None
    return Check(name, f"{sum(answers)} of {len(answers)}" if answers else "not checked", f"at least {wanted}", passed)
