"""The difference of two independent samples, with its interval. The values are logs, one per launch.

Sources: Welch 1947, "The generalization of Student's problem when several different population variances are involved";
Fisher 1932, "Statistical Methods for Research Workers" (analysis of covariance).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST = 5
"""Values in each sample from which on a covariate is used: its slope costs a degree of freedom."""


class Sample(NamedTuple):
    """Independent values of one cell, one per launch."""

    values: Sequence[float]
    covariate: Sequence[float] | None = None
    """what else was measured in each launch; its effect on the values is the same in both samples"""


class Difference(NamedTuple):
    """Of the means of two samples: the second minus the first."""

    mean: float
    variance: float
    freedom: float
    adjusted: bool = False
    """whether it holds at equal covariates"""

    def half_width(self, tail: float) -> float:
        """Of the interval that leaves `tail` on each side."""
        return float(stats.t.isf(tail, self.freedom)) * math.sqrt(self.variance)


def difference(first: Sample, second: Sample) -> Difference:
    """At equal covariates where both samples have one; else of the means as they are. Each sample has two values or more."""
    return adjusted(first, second) or welch(first.values, second.values)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Of means whose samples have different variances."""
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    variance = sum(parts)
    weights = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
    return Difference(float(np.mean(second) - np.mean(first)), variance, variance**2 / weights if weights else 1.0)


def adjusted(first: Sample, second: Sample) -> Difference | None:
    """Least squares for value = level of its sample + slope * covariate: the difference of the levels.

    None where a sample is small or has no covariate, or where the covariate does not vary.
    """
    if first.covariate is None or second.covariate is None or min(len(first.values), len(second.values)) < LEAST:
        return None
    values = np.array([*first.values, *second.values])
    in_second = np.repeat([0.0, 1.0], [len(first.values), len(second.values)])
    design = np.column_stack([np.ones_like(values), in_second, [*first.covariate, *second.covariate]])
    solution, _, rank, _ = np.linalg.lstsq(design, values)
    if rank < design.shape[1]:
        return None
    residuals = values - design @ solution
    freedom = len(values) - design.shape[1]
    variance = float(residuals @ residuals) / freedom * float(np.linalg.inv(design.T @ design)[1, 1])
    return Difference(float(solution[1]), variance, freedom, adjusted=True)
