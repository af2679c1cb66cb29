"""A simulated machine with two cores, shared with other programs: arms of known work, the readings that probes would take.

It knows nothing of the rules that judge ratios. Threads share cores as a fair scheduler lets them, with random placement; a
parallel operation ends with its last thread; memory-bound work slows down beside programs that load the memory.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from nanobench.records import ArmRecord, LaunchRecord, Outcome, Repetition, Status
from nanobench.results.cell import Cell, make_cells
from nanobench.schema import Arm, Point, Trial

STEP_S, EPISODE_S = 0.002, 0.012
"""Resolution of the simulation, and for how long threads stay where they are."""
SPIN_S = 0.005
REFERENCE, ARM = Arm(engine="uncached"), Arm(engine="cached")


@dataclass(frozen=True)
class Work:
    """What one repetition of an arm needs."""

    seconds: float
    """alone on the machine"""
    parallel: float = 0.9
    """share of that on all threads"""
    memory: float = 0.3
    """share of that which waits for memory"""


@dataclass(frozen=True)
class Load:
    """What disturbs the machine."""

    programs: int = 0
    """that always want a core"""
    on_s: float = math.inf
    """mean time for which they run before they pause"""
    share: float = 0.5
    """of the time in which they run, if they pause"""
    memory: float = 0.0
    """by which part a program on a core lengthens memory-bound work"""
    drift: str = ""
    """of the clock: slow, ramp or steps"""
    steal: float = 0.0
    """share of its time in which the hypervisor takes a core, in bursts"""
    beside: int | None = None
    """the programs run beside this arm only: 0 is the reference"""
    slower: float = 0.0
    """by which part the clock is lower while the second arm runs"""


@dataclass(frozen=True)
class Scenario:
    """Two arms under one load."""

    load: Load
    reference: Work = Work(0.06)
    arm: Work = Work(0.02)
    threads: int = 2
    launches: int = 5
    budget_s: float = 1.2

    @property
    def truth(self) -> float:
        """Log of the ratio on an idle machine."""
        return math.log(self.reference.seconds / self.arm.seconds)


@dataclass
class Course:
    """What an arm would reach at each moment of a launch; all per second, at steps of STEP_S, and summed up."""

    progress: np.ndarray
    cpu: np.ndarray
    waiting: np.ndarray
    steal: np.ndarray
    spin: np.ndarray
    """by which factor the fixed loop takes longer: one thread"""
    times_s: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.times_s = np.arange(len(self.progress) + 1) * STEP_S
        for name in ("progress", "cpu", "waiting", "steal"):
            setattr(self, name, np.concatenate(([0.0], np.cumsum(getattr(self, name)) * STEP_S)))

    def at(self, name: str, time_s: float) -> float:
        """A sum up to a moment."""
        return float(np.interp(time_s, self.times_s, getattr(self, name)))

    def end_of(self, start_s: float, work_s: float) -> float:
        """When work that begins at a moment is done."""
        return float(np.interp(self.at("progress", start_s) + work_s, self.progress, self.times_s))

    def spin_at(self, time_s: float) -> float:
        """What the fixed loop takes at a moment."""
        return SPIN_S * float(self.spin[min(int(time_s / STEP_S), len(self.spin) - 1)])


def cells(scenario: Scenario, seed: int) -> tuple[Cell, Cell]:
    """The reference's and the arm's cell, as a sweep would record them."""
    generator = np.random.default_rng(seed)
    found = [each for number in range(1, scenario.launches + 1) for each in launch(scenario, number, generator)]
    reference, arm = make_cells(found)
    return reference, arm


def launch(scenario: Scenario, number: int, generator: np.random.Generator) -> list[LaunchRecord]:
    """One launch: both arms take turns as ABBA until the time is used up."""
    works = scenario.reference, scenario.arm
    courses = courses_of(scenario, works, generator)
    layout = np.exp(generator.normal(0.0, 0.01, 2))
    done: list[list[Repetition]] = [[], []]
    now_s, block, spun_at = 0.0, 0, -1.0
    while now_s < scenario.budget_s:
        order = (0, 1) if (block + number) % 2 else (1, 0)
        for index in order:
            course, spin_s = courses[index], None
            if now_s - spun_at > 0.1:
                spin_s, spun_at = course.spin_at(now_s), now_s
                now_s += spin_s
            work_s = works[index].seconds * layout[index] * math.exp(generator.normal(0.0, 0.03))
            end_s = course.end_of(now_s, work_s)
            done[index].append(repetition(course, block, now_s, end_s, spin_s))
            now_s = end_s
        block += 1
    point = Point(
        model="gpt2-nano", dtype="float32", device="cpu", threads=scenario.threads, batch_size=4, prompt_len=10, new_tokens=3
    )
    trial = Trial(point=point, arms=(REFERENCE, ARM), launch=number, seed=0, target_ci=0.05, max_seconds=1.0)
    outcome = Outcome(status=Status.OK)
    return [
        LaunchRecord.of(trial, 0, ArmRecord(arm=arm, repetitions=tuple(repetitions), outcome=outcome))
        for arm, repetitions in zip(trial.arms, done, strict=True)
    ]


def repetition(course: Course, block: int, start_s: float, end_s: float, spin_s: float | None) -> Repetition:
    """A repetition with its readings."""
    rise = {name: course.at(name, end_s) - course.at(name, start_s) for name in ("cpu", "waiting", "steal")}
    readings = {"cpu_s": rise["cpu"], "pressure_s": rise["waiting"], "steal_s": rise["steal"], "spin_s": spin_s}
    return Repetition(kind="steady", repetition=block, block=block, wall_s=end_s - start_s, tokens=12, **readings)


def courses_of(scenario: Scenario, works: tuple[Work, Work], generator: np.random.Generator) -> list[Course]:
    """The course of both arms through the same disturbances."""
    load, count = scenario.load, round(2 * scenario.budget_s / STEP_S)
    clock, programs = clock_of(load, count, generator), programs_of(load, count, generator)
    spinning, balance = generator.uniform(0.0, 1.0, 2)
    steps = round(EPISODE_S / STEP_S)
    episodes = np.repeat(generator.random((2, count // steps + 1)), steps, axis=1)[:, :count]
    stolen = bursts(load.steal, 0.03, count, generator), bursts(load.steal, 0.03, count, generator)
    found = []
    for index, work in enumerate(works):
        beside = programs if load.beside in (None, index) else np.zeros(count)
        slow = clock * (1 - load.slower * index)
        found.append(course_of(scenario, work, beside, slow, spinning, balance, episodes, stolen))
    return found


def course_of(
    scenario: Scenario,
    work: Work,
    programs: np.ndarray,
    clock: np.ndarray,
    spinning: float,
    balance: float,
    episodes: np.ndarray,
    stolen: tuple[np.ndarray, np.ndarray],
) -> Course:
    """Rates of one arm: each moment is a mixture of its parallel and its serial work."""
    threads = scenario.threads
    fair = np.minimum(1.0, 2 / (threads + programs))
    apart = (programs == 1) & (threads == 2) & (episodes[0] > balance)
    free_main = apart & (episodes[1] < 1 / 3)
    rate = np.where(apart, 0.5, fair)
    main = np.where(free_main, 0.5 + 0.5 * spinning, rate)
    # While one thread works, the other sleeps, or spins and takes its share of the cores.
    alone = np.minimum(1.0, 2 / (1 + programs))
    serial = spinning * fair + (1 - spinning) * alone if threads > 1 else alone
    any_stolen, main_stolen = np.maximum(*stolen), stolen[0]
    memory = 1 - work.memory + work.memory * (1 + scenario.load.memory * np.minimum(programs, 1))
    parallel_s = work.parallel * memory / (rate * clock * (1 - 0.95 * any_stolen))
    serial_s = (1 - work.parallel) * memory / (serial * clock * (1 - 0.95 * main_stolen))
    total_s = parallel_s + serial_s
    waiting = waiting_share(threads + programs) * parallel_s
    waiting += (spinning * waiting_share(threads + programs) + (1 - spinning) * waiting_share(1 + programs)) * serial_s
    return Course(
        progress=1 / total_s,
        cpu=(main * parallel_s + serial * serial_s) / total_s,
        waiting=waiting / total_s,
        steal=(stolen[0] + stolen[1]) / 2,
        spin=1 / (alone * clock * (1 - 0.95 * main_stolen)),
    )


def waiting_share(tasks: np.ndarray) -> np.ndarray:
    """PSI `some` with two cores in use: the mean over cores of whether a task waits there."""
    return np.clip((tasks - 2) / 2, 0.0, 1.0)


def programs_of(load: Load, count: int, generator: np.random.Generator) -> np.ndarray:
    """Programs that want a core, step by step."""
    if math.isinf(load.on_s):
        return np.full(count, float(load.programs))
    return load.programs * bursts(load.share, load.on_s, count, generator)


def bursts(share: float, mean_s: float, count: int, generator: np.random.Generator) -> np.ndarray:
    """1 for a share of the time, in bursts of a mean length, else 0."""
    if not share:
        return np.zeros(count)
    state, found = bool(generator.random() < share), []
    while len(found) < count:
        mean = mean_s if state else mean_s * (1 - share) / share
        found += [float(state)] * max(1, round(generator.exponential(mean) / STEP_S))
        state = not state
    return np.array(found[:count])


def clock_of(load: Load, count: int, generator: np.random.Generator) -> np.ndarray:
    """Speed of the cores, 1 at full clock."""
    times_s = np.arange(count) * STEP_S
    if load.drift == "slow":
        return 1 - 0.15 * (1 + np.sin(2 * np.pi * times_s / 3.0 + generator.uniform(0, 2 * np.pi)))
    if load.drift == "ramp":
        return 0.7 + 0.3 * np.exp(-times_s / 0.5)
    if load.drift == "steps":
        levels = generator.choice([1.0, 0.85, 0.7], size=count)
        lengths = np.maximum(1, (generator.exponential(0.2, size=count) / STEP_S).astype(int))
        return np.repeat(levels, lengths)[:count]
    return np.ones(count)


LIKE = {
    "idle": Scenario(Load()),
    "slow drift of the clock": Scenario(Load(drift="slow")),
    "thermal ramp": Scenario(Load(drift="ramp")),
    "steps of the clock": Scenario(Load(drift="steps")),
    "a program on and off": Scenario(Load(programs=1, on_s=0.3)),
    "a program all the time": Scenario(Load(programs=1)),
    "four programs all the time": Scenario(Load(programs=4)),
    "the hypervisor takes cores in bursts": Scenario(Load(steal=0.1)),
}
"""Both arms are slowed by the same factor."""
PARALLEL, SERIAL = Work(0.06, parallel=0.95), Work(0.02, parallel=0.3)
COMPUTES, READS = Work(0.06, memory=0.1), Work(0.02, memory=0.7)
UNLIKE = {
    "a program; one arm more parallel": Scenario(Load(programs=1), PARALLEL, SERIAL),
    "a program on and off; one arm more parallel": Scenario(Load(programs=1, on_s=0.3), PARALLEL, SERIAL),
    "a program in a tenth of the time; one arm more parallel": Scenario(
        Load(programs=1, on_s=0.05, share=0.1), PARALLEL, SERIAL
    ),
    "four programs; one arm more parallel": Scenario(Load(programs=4), PARALLEL, SERIAL),
    "the hypervisor; one arm more parallel": Scenario(Load(steal=0.1), PARALLEL, SERIAL),
    "a program that loads the memory (30 %); one arm reads more": Scenario(Load(programs=1, memory=0.3), COMPUTES, READS),
    "the same; the other arm reads more": Scenario(
        Load(programs=1, memory=0.3), Work(0.06, memory=0.7), Work(0.02, memory=0.1)
    ),
    "a program on and off; one arm ten times as long": Scenario(
        Load(programs=1, on_s=0.1), Work(0.2), Work(0.02), budget_s=2.5
    ),
    "a program, only while one of the arms is timed": Scenario(Load(programs=1, beside=1)),
    "a lower clock, only while one of the arms is timed": Scenario(Load(slower=0.1)),
}
"""The arms are slowed by different factors, and a reading shows a disturbance."""
UNSEEN = {
    "a program that loads the memory (60 %); one arm reads more": Scenario(Load(programs=1, memory=0.6), COMPUTES, READS),
    "one thread; a program on the other core loads the memory": Scenario(
        Load(programs=1, memory=0.3), COMPUTES, READS, threads=1
    ),
}
"""The arms are slowed by different factors, and no reading shows how different."""
