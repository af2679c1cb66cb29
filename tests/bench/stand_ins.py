"""By which factor is a limit wrong that stands in for one that was not resolved? Each measured limit is hidden once.

python tests/bench/stand_ins.py results/reference-cpu
"""

import sys
from pathlib import Path

import numpy as np

from nanobench.results.store import Run
from nanobench.roofline.limits import GROUPS, STAND_IN, Limits


def main() -> None:
    """Prints a row per kind: the factor between each value and what stands in for it, from another place or another kind."""
    kinds = [kind for group in GROUPS[1:] for kind in group]
    print("| kind | stand-in | places | median factor | largest | within STAND_IN |")
    print("|---|---|--:|--:|--:|--:|")
    for calibration in Run(Path(sys.argv[1])).info().calibrations.values():
        limits, everywhere = calibration.limits, []
        for kind in kinds:
            for name, factors in (("another place", other_places(limits, kind)), ("another kind", other_kind(limits, kind))):
                if factors:
                    print(f"| {kind} | {name} | {row(factors)} |")
                    everywhere += factors
        print(f"| all | | {row(everywhere)} |")


def row(factors: list[float]) -> str:
    """Their number, median, largest, and the share within STAND_IN."""
    inside = sum(factor <= STAND_IN for factor in factors)
    return f"{len(factors)} | {np.median(factors):.2f} | {max(factors):.1f} | {inside} of {len(factors)}"


def other_places(limits: Limits, kind: str) -> list[float]:
    """The factors between the value of each place and that interpolated from all others of its kind."""
    factors = []
    for place in limits.places.get(kind, {}):
        others = Limits(tuple(limit for limit in limits.found if limit.kind == kind and limit.place != place))
        if others.found:
            factors.append(factor(others.at(kind, *place), limits.at(kind, *place)))
    return factors


def other_kind(limits: Limits, kind: str) -> list[float]:
    """The factors between the value of each place and that of the nearest other kind of its group."""
    others = Limits(tuple(limit for limit in limits.found if limit.kind != kind))
    return [factor(others.reading(kind, *place).value, limits.at(kind, *place)) for place in limits.places.get(kind, {})]


def factor(value: float, other: float) -> float:
    """Their ratio, the larger over the smaller."""
    return max(value / other, other / value)


if __name__ == "__main__":
    main()
