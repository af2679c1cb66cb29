"""The level of each look at which all looks of `stats/sequential.py` together err in 5 %, by simulation. Prints a table.

    python tests/bench/sequential_level.py

Launch means are independent and normal, with unknown variance: the error then depends on nothing else. Further noises are
those of tests/test_sequential.py.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import stats

from nanobench.stats.sequential import LEVEL, LOOKS

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_sequential import KINDS, comparisons, errors

PATHS, COST_PATHS = 400_000, 20_000
WANTED = 0.9


def smallest_p(paths: int, seed: int) -> np.ndarray:
    """The smallest p value over all looks, of as many paths."""
    values = np.random.default_rng(seed).standard_normal((paths, LOOKS[-1]))
    smallest = np.ones(paths)
    for look in LOOKS:
        seen = values[:, :look]
        t = np.abs(seen.mean(axis=1)) / (seen.std(axis=1, ddof=1) / np.sqrt(look))
        smallest = np.minimum(smallest, 2 * stats.t.sf(t, look - 1))
    return smallest


def cost(effect: float) -> str:
    """A row of the table: a difference of so many standard deviations of a launch, looked at by the design and by a fixed one
    that finds it as often, or in nine of ten cases.
    """
    values = np.random.default_rng(2).standard_normal((COST_PATHS, LOOKS[-1])) + effect
    ended = np.full(COST_PATHS, LOOKS[-1])
    found = np.zeros(COST_PATHS, dtype=bool)
    for look in LOOKS:
        seen = values[:, :look]
        now = ~found & (seen.mean(axis=1) / seen.std(axis=1, ddof=1) * np.sqrt(look) > stats.t.isf(LEVEL / 2, look - 1))
        ended[now], found = look, found | now
    power = found.mean()
    fixed = next(n for n in range(2, 1000) if fixed_power(effect, n) >= min(power, WANTED))
    return f"| {effect:g} | {power:.0%} | {ended.mean():.1f} | {fixed} |"


def fixed_power(effect: float, launches: int) -> float:
    """Of a t test at 5 % after so many launches."""
    limit, shift = stats.t.isf(0.025, launches - 1), effect * np.sqrt(launches)
    return float(stats.nct.sf(limit, launches - 1, shift))


def main() -> None:
    """Prints the level of 5 %, the error of the level that is used, under several noises too, and what the looks cost."""
    smallest = smallest_p(PATHS, seed=1)
    print(f"level of each look for an error of 5 %: {np.quantile(smallest, 0.05):.5f}")
    print(f"error at the level {LEVEL}: {np.mean(smallest < LEVEL):.2%} of {PATHS:,} paths")
    for stop in range(1, len(LOOKS) + 1):
        print(f"after look {stop} ({LOOKS[stop - 1]} launches): t {stats.t.isf(LEVEL / 2, LOOKS[stop - 1] - 1):.2f}")
    print("| noise | error at this level | error at 95 % intervals |\n|---|--:|--:|")
    for kind in KINDS:
        values = comparisons(kind, seed=7)
        print(f"| {kind} | {errors(values, LEVEL):.1%} | {errors(values, 0.05):.1%} |")
    print("| difference, in standard deviations of a launch | found | mean launches | fixed design for 90 % |")
    print("|--:|--:|--:|--:|")
    for effect in (0.5, 1.0, 2.0, 3.0):
        print(cost(effect))


if __name__ == "__main__":
    main()
