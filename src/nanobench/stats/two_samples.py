"""The difference of two independent samples, with its interval. The values are logs, one per launch.

Sources: Welch 1947, "The generalization of Student's problem when several different population variances are involved";
Fisher 1932, "Statistical Methods for Research Workers" (analysis of covariance); MacKinnon and White 1985, "Some
heteroskedasticity-consistent covariance matrix estimators with improved finite sample properties" (HC3).
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
    of_covariates: float | None = None
    """the difference of the means of the covariates, where it was adjusted for them"""

    @property
    def is_adjusted(self) -> bool:
        """Whether it holds at equal covariates."""
        return self.of_covariates is not None

    def half_width(self, tail: float) -> float:
        """Of the interval that leaves `tail` on each side."""
        return float(stats.t.isf(tail, self.freedom)) * math.sqrt(self.variance)


def difference(first: Sample, second: Sample) -> Difference | None:
    """At equal covariates where both samples have one; else of the means as they are. None for a sample of one value."""
    if min(len(first.values), len(second.values)) < 2:
        return None
    return adjusted(first, second) or welch(first.values, second.values)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Of means whose samples have different variances."""
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    freedom = satterthwaite(parts, [len(values) - 1 for values in (first, second)])
    return Difference(float(np.mean(second) - np.mean(first)), sum(parts), freedom)


def adjusted(first: Sample, second: Sample) -> Difference | None:
    """Least squares for value = level of its sample + slope * covariate: the difference of the levels.

    The samples may have different variances (HC3). None where a sample is small or has no covariate, or where the covariate
    does not vary.
    """
    if first.covariate is None or second.covariate is None or min(len(first.values), len(second.values)) < LEAST:
        return None
    values, covariate = np.array([*first.values, *second.values]), np.array([*first.covariate, *second.covariate])
    in_second = np.repeat([0.0, 1.0], [len(first.values), len(second.values)])
    design = np.column_stack([1 - in_second, in_second, covariate])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    inverse = np.linalg.pinv(design)
    leverage = np.einsum("ij,ji->i", design, inverse)
    weights, levels = inverse[1] - inverse[0], inverse @ values
    errors = (weights * (values - design @ levels) / np.maximum(1 - leverage, 1e-9)) ** 2
    parts = [float(errors[in_second == each].sum()) for each in (0.0, 1.0)]
    freedom = satterthwaite(parts, [len(sample.values) - 1.5 for sample in (first, second)])
    apart = float(np.mean(second.covariate) - np.mean(first.covariate))
    return Difference(float(levels[1] - levels[0]), sum(parts), freedom, apart)


def satterthwaite(parts: Sequence[float], freedoms: Sequence[float]) -> float:
    """The degrees of freedom of a sum of estimated variances; 1 where all are 0."""
    weights = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    return sum(parts) ** 2 / weights if weights else 1.0
