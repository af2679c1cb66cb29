"""Families of curves over the batch size whose true values are known, and adaptive sweeps over them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from nanobench.stats import curve
from nanobench.stats.curve import Known

LAUNCHES = 5
WIDENING = float(stats.t.ppf(0.975, LAUNCHES - 1) / stats.norm.ppf(0.975))
"""Student's interval over the launches beside a normal one."""
EVERY_FOURTH = tuple(range(1, 97, 4))
EVERY = tuple(range(1, 25))
Truth = Callable[[int], float]
"""batch size -> log of the true value"""


def speedup(low: float, high: float, half: float) -> Truth:
    """Ratio of two times that are linear in the batch size: from `low` at 0 to `high`, half of the way at `half`."""
    return lambda batch: math.log((low + high * batch / half) / (1 + batch / half))


def saturating(random: np.random.Generator) -> Truth:
    return speedup(random.uniform(1, 3), random.uniform(5, 14), random.uniform(3, 40))


def throughput(random: np.random.Generator) -> Truth:
    half = random.uniform(2, 60)
    return lambda batch: math.log(batch / (half + batch))


def smooth_knee(random: np.random.Generator) -> Truth:
    knee = random.uniform(3, 50)
    return lambda batch: -0.25 * math.log(batch**-4.0 + knee**-4.0)


def sharp_knee(random: np.random.Generator) -> Truth:
    knee = random.uniform(3, 50)
    return lambda batch: math.log(min(batch, knee))


def flat(random: np.random.Generator) -> Truth:
    level = random.uniform(-1, 1)
    return lambda batch: level


def power_law(random: np.random.Generator) -> Truth:
    power = random.uniform(0.3, 1)
    return lambda batch: power * math.log(batch)


def crossover(random: np.random.Generator) -> Truth:
    return speedup(random.uniform(0.5, 0.9), random.uniform(1.2, 2), random.uniform(3, 40))


def u_shaped(random: np.random.Generator) -> Truth:
    """Two power laws, one that falls and one that rises, which are equal at some batch size."""
    fall, rise, middle = random.uniform(0.2, 0.6), random.uniform(0.2, 0.6), random.uniform(3, 30)
    return lambda batch: math.log((batch / middle) ** -fall + (batch / middle) ** rise)


def peak(random: np.random.Generator) -> Truth:
    rise, edge, loss = throughput(random), math.log(random.uniform(10, 60)), random.uniform(0.05, 0.3)
    return lambda batch: rise(batch) - loss / (1 + math.exp(-4 * (math.log(batch) - edge)))


def with_step(base: Truth, random: np.random.Generator) -> Truth:
    """A curve with another kernel from a batch size on, 5 to 10 % faster or slower."""
    at, factor = random.choice((8, 16, 32)), random.choice((-1, 1)) * random.uniform(0.05, 0.1)
    return lambda batch: base(batch) + factor * (batch >= at)


def saturating_step(random: np.random.Generator) -> Truth:
    return with_step(saturating(random), random)


def flat_step(random: np.random.Generator) -> Truth:
    return with_step(flat(random), random)


def tiles(random: np.random.Generator) -> Truth:
    """Rows are padded to a multiple of 8: a step at every eighth batch size."""
    fixed = random.uniform(20, 100)
    return lambda batch: math.log(batch / (fixed + 8 * math.ceil(batch / 8)))


FAMILIES = {
    "speedup 2x to 12x, saturating": saturating,
    "throughput, saturating": throughput,
    "throughput, smooth knee": smooth_knee,
    "throughput, sharp knee": sharp_knee,
    "flat": flat,
    "power law": power_law,
    "crossover, 0.7x to 1.6x": crossover,
    "U-shaped": u_shaped,
    "throughput with a loss at large batches": peak,
    "speedup with a step of 5 to 10 %": saturating_step,
    "flat with a step of 5 to 10 %": flat_step,
    "throughput, rows padded to 8": tiles,
}


@dataclass(frozen=True)
class Outcome:
    """An adaptive sweep of a curve whose truth is known; deviations are logs."""

    measured: list[int]
    """in the order of measuring"""
    deviation: float
    """the largest of an interpolated value"""
    covered: float
    """share of the interpolated candidates whose interval contains the truth; 1 without any"""
    reach: float
    """the largest half-width of an interpolated interval"""
    full: float
    """the largest deviation of a sweep of all candidates, with the same noise"""


def measurement(truth: float, noise: float, random: np.random.Generator) -> Known:
    """The mean of launches, with the standard error that reproduces Student's interval: what a cell shows."""
    logs = truth + noise * math.sqrt(LAUNCHES) * random.standard_normal(LAUNCHES)
    return Known(float(np.mean(logs)), WIDENING * float(np.std(logs, ddof=1)) / math.sqrt(LAUNCHES))


def swept(
    truth: Truth, noise: float, random: np.random.Generator, candidates: tuple[int, ...], tolerance: float, most: int | None
) -> Outcome:
    """Measures candidates until `next_size` has none, and interpolates the others. `noise`: standard error of a log."""
    every = {size: measurement(truth(size), noise, random) for size in candidates}
    known: dict[int, Known] = {}
    while (size := curve.next_size([known], candidates, tolerance, most)) is not None:
        known[size] = every[size]
    return outcome(truth, every, known)


def outcome(truth: Truth, every: Mapping[int, Known], known: Mapping[int, Known]) -> Outcome:
    """Compares what is interpolated between `known` with the truth."""
    made = curve.interpolate(known, [size for size in every if size not in known])
    errors = [abs(math.log(each.value) - truth(size)) for size, each in made.items()]
    covered = [math.log(each.low) - 1e-9 <= truth(size) <= math.log(each.high) + 1e-9 for size, each in made.items()]
    reach = max((math.log(each.high / each.low) / 2 for each in made.values()), default=0.0)
    full = max(abs(each.log - truth(size)) for size, each in every.items())
    return Outcome(list(known), max(errors, default=0.0), float(np.mean(covered)) if covered else 1.0, reach, full)
