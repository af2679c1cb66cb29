"""The level of each look at which all looks of `stats/sequential.py` together err in 5 %, by simulation. Prints a table.

    python tests/bench/sequential_level.py

Launch means are independent and normal, with unknown variance: the error then depends on nothing else. Further noises are in
tests/test_sequential.py.
"""

import numpy as np
from scipy import stats

from nanobench.stats.sequential import LEVEL, LOOKS

PATHS = 400_000


def smallest_p(paths: int, seed: int) -> np.ndarray:
    """The smallest p value over all looks, of as many paths."""
    values = np.random.default_rng(seed).standard_normal((paths, LOOKS[-1]))
    smallest = np.ones(paths)
    for look in LOOKS:
        seen = values[:, :look]
        t = np.abs(seen.mean(axis=1)) / (seen.std(axis=1, ddof=1) / np.sqrt(look))
        smallest = np.minimum(smallest, 2 * stats.t.sf(t, look - 1))
    return smallest


def main() -> None:
    """Prints the level of 5 % and the error of the level that is used."""
    smallest = smallest_p(PATHS, seed=1)
    print(f"level of each look for an error of 5 %: {np.quantile(smallest, 0.05):.5f}")
    print(f"error at the level {LEVEL}: {np.mean(smallest < LEVEL):.2%} of {PATHS:,} paths")
    for stop in range(1, len(LOOKS) + 1):
        print(f"after look {stop} ({LOOKS[stop - 1]} launches): t {stats.t.isf(LEVEL / 2, LOOKS[stop - 1] - 1):.2f}")


if __name__ == "__main__":
    main()
