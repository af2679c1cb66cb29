"""How reliable a cell's ratio is: pairs cancel what slows both arms alike, and the interval allows for what does not.

`docs/method.md` has the evidence for the rules and their constants; tests/bench/unlike_disturbance.py prints it.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nanobench.records import JUDGED, MEASURED, Status
from nanobench.results import gpu_clock, status
from nanobench.results.cell import Cell
from nanobench.results.repetitions import LEAST_SERIES, seconds, settles_at
from nanobench.results.status import MOST_CLOCK_SPREAD, MOST_SPIN_DRIFT, MOST_THROTTLED, NEVER_SETTLED, Disturbance
from nanobench.stats import intervals

CANCELLING = (Status.UNSTABLE, Status.NO_STEADY_STATE)
"""What these statuses say of absolute figures need not hold for a ratio: what slowed both arms alike cancels in pairs."""
SHARED_CORES = {
    "off_cpu": (status.on_cpu_fraction, "the main thread had one"),
    "pressure": (status.pressure_fraction, "tasks waited for one"),
    "steal": (status.steal_fraction, "the hypervisor took one"),
}
"""Disturbances by other programs on the cores -> the share of time, and its words."""
UNLIKE = 0.5
"""Two arms that lost the same share of their time may still be slowed differently, by this part of the loss: programs beside
them load the memory or the arithmetic units, and arms need these differently. No reading shows that."""
LOST_WHILE_WAITING = 0.5
"""The part of a core that a thread loses at least while tasks wait for cores: it shares its core with one other task."""
LEAST_BIAS = 0.02
"""What other programs may have done to a ratio is allowed for from here on (a log). An idle machine shows up to half of it."""
LEAST_LEFT = 0.05
"""No arm is taken to have had less than this share of its time."""


class Bias(NamedTuple):
    """How far the log of the true ratio may lie below or above what pairs show, because the arms were slowed differently."""

    below: float = 0.0
    above: float = 0.0
    causes: tuple[Disturbance, ...] = ()

    @property
    def widening(self) -> float:
        """The larger factor by which it moves a bound, minus 1."""
        return math.expm1(max(self.below, self.above))


class Judgement(NamedTuple):
    """The status of a ratio, why it is not ok or wider than its pairs, and what its interval allows for."""

    status: Status
    reason: str | None = None
    disturbances: tuple[Disturbance, ...] = ()
    bias: Bias = Bias()


@lru_cache(maxsize=4)
def judge(cell: Cell) -> Judgement | None:
    """The verdict on a cell's ratio to the reference; None for the reference. Several columns of a row request it.

    A status of either arm other than those that pairs can cancel is the ratio's too.
    """
    if cell.is_reference:
        return None
    arms = {"": cell, "reference: ": cell.reference}
    for whose, found in ((whose, status.judge(arm)) for whose, arm in arms.items() if arm):
        if found.status not in (*JUDGED, *CANCELLING):
            return Judgement(found.status, f"{whose}{found.reason or 'no reason given'}")
    if not cell.speedup_logs or cell.reference is None:
        return Judgement(Status.UNSTABLE, "no launch has a valid pair of both arms")
    if refused := tuple(dict.fromkeys(refusals(cell, cell.reference))):
        return Judgement(Status.UNSTABLE, "; ".join(map(str, refused)), refused)
    launches = len(cell.speedup_logs)
    if 2 * (moving := sum(map(never_settles, cell.speedup_logs))) > launches:
        return Judgement(Status.NO_STEADY_STATE, f"the ratio: {moving} of {launches} {NEVER_SETTLED}")
    return of_interval(cell, bias_of(cell.reference, cell))


def of_interval(cell: Cell, bias: Bias) -> Judgement:
    """ok or imprecise, with what the interval allows for."""
    reasons = [f"{'; '.join(map(str, bias.causes))}; the interval is {bias.widening:.0%} wider for it"] if bias.causes else []
    target = cell.any_launch.target_ci
    half = intervals.relative_half_width(intervals.ratio(cell.speedup_logs, bias.below, bias.above))
    imprecise = half is None or half > target
    if imprecise:
        wide = f"interval wider than +-{100 * target:.3g}%" if half is not None else "one pair gives no interval"
        reasons.append(f"{wide}; {what_narrows(cell)} narrow it")
    return Judgement(Status.IMPRECISE if imprecise else Status.OK, "; ".join(reasons) or None, bias.causes, bias)


@lru_cache(maxsize=4)
def speedup(cell: Cell) -> intervals.Interval | None:
    """End-to-end time of the reference over this arm's, with the interval that allows for unlike disturbances."""
    return allowed_for(cell, cell.speedup_logs)


def decode_speedup(cell: Cell) -> intervals.Interval | None:
    """Decode time of the reference over this arm's: all tokens but the first."""
    return allowed_for(cell, cell.decode_speedup_logs)


def allowed_for(cell: Cell, logs: list[list[float]]) -> intervals.Interval | None:
    """A ratio with the bias that the cell's readings allow; None where an arm has no status that a ratio can have."""
    found = judge(cell)
    if not logs or found is None or found.status not in MEASURED:
        return None
    return intervals.ratio(logs, found.bias.below, found.bias.above)


def p_value(cell: Cell) -> float | None:
    """Of the hypothesis that the ratio is 1; below 0.05 exactly if the interval of `speedup` excludes 1."""
    found = judge(cell)
    if speedup(cell) is None or found is None:
        return None
    return intervals.p_value(cell.speedup_logs, found.bias.below, found.bias.above)


def disturbed_by(cell: Cell) -> str | None:
    """The kinds of what made a ratio unstable or its interval wider, comma-separated; None where nothing did."""
    found = judge(cell)
    return ",".join(dict.fromkeys(each.kind for each in found.disturbances)) or None if found else None


def what_narrows(cell: Cell) -> str:
    """What makes the interval narrower, from where the spread is."""
    advice = cell.components.ci_advice if cell.components else None
    return {"more launches": "more --launches", "more repetitions": "more repetitions (a larger --max-seconds)"}.get(
        advice or "", "more launches or a larger --max-seconds"
    )


# What cannot be bounded
def refusals(arm: Cell, reference: Cell) -> Iterator[Disturbance]:
    """Each recorded cause after which nothing is concluded from a ratio."""
    if not arm.is_interleaved:
        found = next((each for each in map(status.judge, (arm, reference)) if each.status in CANCELLING), None)
        if found:
            yield Disturbance("apart", 0.0, note=found.reason or "")
    yield from status.unequal_aa(arm)
    for cell in (arm, reference):
        yield from status.too_many_invalid(cell)
        yield from status.others_on_gpu(cell)
    yield from unequal_throttling(arm, reference)


def unequal_throttling(arm: Cell, reference: Cell) -> Iterator[Disturbance]:
    """One arm held down more often than the other, where no reading says by how much.

    On a CPU the time without a core does; on a GPU the clock does.
    """
    if status.on_cpu_fraction(arm) is not None or arm.seen("clock_sm_hz"):
        return
    shares = status.throttled_fraction(arm), status.throttled_fraction(reference)
    if None not in shares and abs((shares[0] or 0.0) - (shares[1] or 0.0)) > MOST_THROTTLED:
        yield Disturbance("unequal_throttling", shares[0] or 0.0, note=f"{shares[1]:.0%}")


def never_settles(logs: list[float]) -> bool:
    """Whether the ratios of a launch drift or jump until its end; a launch with few pairs cannot show that."""
    return len(logs) >= LEAST_SERIES and settles_at(tuple(map(math.exp, logs))) is None


# What can be bounded
def bias_of(reference: Cell, arm: Cell) -> Bias:
    """How far the ratio of two arms that ran in turns may be off, from the readings of both."""
    parts = [shared_cores(reference, arm), unequal_speed(reference, arm), unequal_clock(reference, arm)]
    causes = tuple(cause for part in parts for cause in part.causes)
    return Bias(sum(part.below for part in parts), sum(part.above for part in parts), causes)


def directed(excess: Iterable[float]) -> tuple[float, float]:
    """Below and above, from estimates of how much more the reference was slowed than the arm (logs): none is certain, so the
    truth may lie anywhere between none of them and the largest.
    """
    found = [0.0, *excess]
    return max(found), -min(found)


def shared_cores(reference: Cell, arm: Cell) -> Bias:
    """Other programs on the cores. Two readings estimate how much each arm lost, and each may miss a part.

    The main thread's time without a core misses what other threads lose while it spins; the time in which tasks wait for a
    core does not say who waits. On top, a part of the loss that both arms have in common may be unequal.
    """
    off_cpu, waiting = (off_cpu_loss(reference), off_cpu_loss(arm)), waiting_losses(reference, arm)
    steal = steal_loss(reference) - steal_loss(arm)
    differences = [theirs - mine + steal for theirs, mine in (off_cpu, waiting) if theirs is not None and mine is not None]
    below, above = directed(differences or [steal])
    level = [each for each in (off_cpu if None not in off_cpu else waiting) if each is not None]
    common = UNLIKE * (float(np.mean(level or [0.0])) + (steal_loss(reference) + steal_loss(arm)) / 2)
    if max(below, above) + common < LEAST_BIAS:
        return Bias()
    return Bias(below + common, above + common, (in_words(reference, arm),))


def in_words(reference: Cell, arm: Cell) -> Disturbance:
    """The reading that shows best how other programs shared the cores: the first beyond its limit, else the first known."""
    beyond = {each.kind for cell in (arm, reference) for each in status.disturbances(cell)}
    shares = {kind: (share_of(arm), share_of(reference)) for kind, (share_of, _) in SHARED_CORES.items()}
    known = [kind for kind, found in shares.items() if found != (None, None)]
    kind = next((kind for kind in known if kind in beyond), known[0])
    mine, theirs = ("an unknown share" if share is None else f"{share:.0%}" for share in shares[kind])
    note = f"{SHARED_CORES[kind][1]} for {mine} of this arm's time and for {theirs} of the reference's"
    return Disturbance("shared_cores", shares[kind][0] or 0.0, note=note)


def off_cpu_loss(cell: Cell) -> float | None:
    """Mean log of wall time over the main thread's CPU time, with launches as the unit; None where the thread may sleep."""
    if status.on_cpu_fraction(cell) is None:
        return None
    means = []
    for found in cell.steady_by_launch.values():
        shares = [each.cpu_s / seconds(each) for each in found if each.cpu_s is not None]
        if shares:
            means.append(-float(np.mean(np.log(np.clip(shares, LEAST_LEFT, 1.0)))))
    return float(np.mean(means))


def waiting_losses(reference: Cell, arm: Cell) -> tuple[float | None, float | None]:
    """The reference's and the arm's log of time over progress, if every waiting task delays the work.

    The kernel's share is a mean over the cores in use (PSI, `some`), and a parallel operation ends with its last thread: so
    one core of `threads` is enough. A thread that shares its core loses half of it, or more where the main thread did.
    """
    shares = [waiting_share(cell) for cell in (reference, arm)]
    lost = [LOST_WHILE_WAITING]
    for cell, share in zip((reference, arm), shares, strict=True):
        on_cpu = status.on_cpu_fraction(cell)
        if share and on_cpu is not None:
            lost.append(min(1 - LEAST_LEFT, (1 - on_cpu) / share))
    found = [None if share is None else -math.log(max(LEAST_LEFT, 1 - max(lost) * share)) for share in shares]
    return found[0], found[1]


def waiting_share(cell: Cell) -> float | None:
    """Share of the time in which a task waited for one of the cores that the arm uses."""
    share = status.pressure_fraction(cell)
    return None if share is None else min(1.0, share * cores_of(cell))


def steal_loss(cell: Cell) -> float:
    """Log of time over progress, if all that the hypervisor took delayed the work; 0 where it is not known."""
    share = min(1 - LEAST_LEFT, (status.steal_fraction(cell) or 0.0) * cores_of(cell))
    return -math.log(1 - share)


def cores_of(cell: Cell) -> int:
    """Cores of which each can delay the work: of all threads, or of the one that dispatches to a GPU."""
    return (cell.point.threads or 1) if cell.point.device == "cpu" else 1


def unequal_speed(reference: Cell, arm: Cell) -> Bias:
    """A loop of fixed length that took longer beside one arm than beside the other, in all launches alike (p < 0.05).

    It runs a few times per launch, so single launches differ by chance; a run of one launch needs as many loops as a drift.
    """
    logs, fewest = [], 0
    for launch, found in arm.steady_by_launch.items():
        sides = [[each.spin_s for each in side if each.spin_s] for side in (found, reference.steady_by_launch.get(launch, []))]
        if all(sides):
            logs.append([math.log(float(np.median(sides[0]) / np.median(sides[1])))])
            fewest = min(map(len, sides))
    chance = intervals.p_value(logs) if len(logs) > 1 else float(fewest < status.LEAST_SPINS // 2)
    if chance is None or chance >= 1 - intervals.CONFIDENCE:
        return Bias()
    return of_difference("unequal_speed", float(np.mean(logs)), MOST_SPIN_DRIFT)


def unequal_clock(reference: Cell, arm: Cell) -> Bias:
    """A GPU's clock that differed between the arms: at most, times follow it."""
    clocks = gpu_clock.pair_of(reference, arm)
    log = math.log(float(np.median(clocks[0]) / np.median(clocks[1]))) if all(clocks) else 0.0
    return of_difference("clock_difference", log, MOST_CLOCK_SPREAD)


def of_difference(kind: str, log: float, limit: float) -> Bias:
    """What a log of how much slower the machine was for the arm allows, beyond a limit."""
    value = math.expm1(-log if kind == "clock_difference" else log)
    if abs(value) <= limit:
        return Bias()
    return Bias(*directed([-log]), (Disturbance(kind, value, limit),))
