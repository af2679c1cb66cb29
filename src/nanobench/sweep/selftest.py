"""What `nanobench selftest` runs and asks: arms whose truth is known, through the whole pipeline. Pure plans and checks."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from nanobench.stats import intervals
from nanobench.sweep.options import SweepOptions

Row = dict[str, Any]
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


@dataclass(frozen=True)
class Check:
    """One line of the verdict on this machine."""

    name: str
    seen: str
    wanted: str
    passed: bool | None
    """None where it could not be asked here"""


def same(device: str, cores: int, quick: bool) -> SweepOptions:
    """A/A: the reference under a second name, 40 points (10 in a hurry), by the rules of any sweep."""
    lengths = "8-40+8" if quick else "4-40+4"
    batches = "1,4" if quick else "1,2,4,8"
    return sweep(device, cores, engine=f"uncached,{UNCACHED_COPY}", batch=batches, prompt_len=lengths, max_seconds="0.5")


def delayed(device: str, cores: int, quick: bool, launches: int) -> SweepOptions:
    """Known delays and a known duration: 20 points (4 in a hurry), every launch with the pairs that A/A had."""
    engines = ",".join((UNDELAYED, *DELAYS, FIXED_DURATION))
    points = {"batch": "1,4", "prompt_len": "8,24"} if quick else {"batch": "1,2,4,8", "prompt_len": "8-40+8"}
    return sweep(device, cores, engine=engines, max_seconds="1.2", target_ci="1e-6", launches=launches, **points)


def sweep(device: str, cores: int, **asked: Any) -> SweepOptions:
    """A sweep over the smallest built-in model."""
    few = str(min(cores, MOST_THREADS))
    return SweepOptions(model="gpt2-nano", device=device, threads=few, new_tokens=str(NEW_TOKENS), calibration="off", **asked)


def spread(cells: list[Row]) -> tuple[float, float, float]:
    """The sd of a pair's log ratio within a launch, between launches, and the pairs per launch: over all A/A cells."""
    known = [cell for cell in cells if cell["sd_within"] is not None and cell["sd_between"] is not None]
    within, between = (
        float(np.sqrt(np.mean([cell[name] ** 2 for cell in known]))) if known else math.inf
        for name in ("sd_within", "sd_between")
    )
    pairs = float(np.median([cell["pairs"] / cell["launches_ok"] for cell in known])) if known else 1.0
    return within, between, pairs


def launches_for(cells: list[Row], effect: float) -> int | None:
    """Launches with which an effect is found nine times in ten, given the spread of A/A; None beyond MOST_LAUNCHES."""
    within, between, pairs = spread(cells)
    if not math.isfinite(within):
        return None
    return intervals.launches_needed(math.log1p(effect), within=within, between=between, pairs=pairs, most=MOST_LAUNCHES)


def resolution(cells: list[Row]) -> float | None:
    """The smallest of a few effects that five launches find nine times in ten here; None where even 20 % is too small."""
    effects = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2)
    return next((effect for effect in effects if (launches_for(cells, effect) or math.inf) <= LAUNCHES), None)


def check(same_cells: list[Row], delayed_cells: list[Row]) -> list[Check]:
    """The verdict, line by line."""
    contrasts = [cell for cell in same_cells if cell["speedup_lo"] is not None]
    significant = sum(not covers(cell, 1.0) for cell in contrasts)
    allowed = int(scipy_stats.binom.ppf(0.99, len(contrasts), 1 - intervals.CONFIDENCE)) if contrasts else 0
    checks = [
        Check(
            "A/A: significant",
            f"{significant} of {len(contrasts)}",
            f"at most {allowed}",
            bool(contrasts) and significant <= allowed,
        )
    ]
    truths = [(cell, 1 / (1 + DELAYS[cell["engine"]])) for cell in delayed_cells if cell["engine"] in DELAYS]
    truths = [(cell, truth) for cell, truth in truths if cell["speedup_lo"] is not None]
    for delay, share in FOUND.items():
        found = [cell["speedup_hi"] < 1 for cell, truth in truths if math.isclose(truth, 1 / (1 + delay))]
        checks.append(at_least(f"{delay:.0%} delay found", found, share))
    checks.append(at_least("intervals cover the truth", [covers(cell, truth) for cell, truth in truths], COVERED))
    beats = [cell for cell in delayed_cells if cell["engine"] == FIXED_DURATION and cell["output_tok_s"] is not None]
    errors = [cell["output_tok_s"] * FIXED_DURATION_S / cell["batch_size"] - 1 for cell in beats]
    checks.append(at_least(f"known duration within {WITHIN:.0%}", [abs(error) <= WITHIN for error in errors], COVERED))
    every = same_cells + delayed_cells
    checks.append(
        at_least("cells undisturbed", [cell["status"] not in ("unstable", "no_steady_state") for cell in every], COVERED)
    )
    return checks


def at_least(name: str, answers: list[bool], share: float) -> Check:
    """A check that so large a share of the answers is yes; not asked where there are none."""
    wanted = math.ceil(share * len(answers) - 1e-9)
    passed = sum(answers) >= wanted if answers else None
    return Check(name, f"{sum(answers)} of {len(answers)}" if answers else "not asked", f"at least {wanted}", passed)


def covers(cell: Row, truth: float) -> bool:
    """Whether the interval of a cell's speedup holds the truth."""
    return bool(cell["speedup_lo"] <= truth <= cell["speedup_hi"])
