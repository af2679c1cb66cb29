"""What the machine did to the worker: readings of /proc and a loop of fixed length, taken between repetitions.

Nothing of this runs beside a repetition. What a machine does not tell is None.
"""

import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanobench.records import Repetition

PROC, CGROUPS, CPUS = Path("/proc"), Path("/sys/fs/cgroup"), Path("/sys/devices/system/cpu")
SPIN_LOOPS = 275_000
SPIN_EVERY_S = 0.1
MICROSECOND = 1e-6


class HostProbe:
    """Differences of the kernel's counters over a repetition, and a few levels at its end.

    The main thread stands for the worker: what other threads report depends on how OpenMP waits.
    """

    def __init__(self) -> None:
        self.sources = {
            "pressure_s": Source(PROC / "pressure" / "cpu", lambda text: MICROSECOND * number_after(text, "total=")),
            "quota_throttled_periods": Source(throttling_file(), lambda text: number_after(text, "nr_throttled ")),
            "steal_s": Source(
                PROC / "stat", lambda text: int(text.split()[8]) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
            ),
        }
        self.levels = {
            "cpu_hz": Source(frequency_file(), lambda text: 1e3 * int(text)),
            "rss_bytes": Source(PROC / "self" / "statm", lambda text: int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")),
        }
        self.spun_at = -SPIN_EVERY_S
        self.start: dict[str, Any] = {}

    @property
    def note(self) -> str | None:
        """See Probe.note."""
        troubles = [f"{name}: {source.trouble}" for name, source in {**self.sources, **self.levels}.items() if source.trouble]
        return "; ".join(troubles) or None

    def ready(self) -> None:
        """See Probe.ready; the kernel's counters know this thread by themselves."""

    def before(self) -> None:
        """See Probe.before: the spin first, what counts this thread's own time last."""
        spin_s = None
        if time.perf_counter() - self.spun_at >= SPIN_EVERY_S:
            spin_s = spin()
            self.spun_at = time.perf_counter()
        counted = {name: source.read() for name, source in self.sources.items()}
        self.start = {"spin_s": spin_s, **counted, "involuntary_switches": switches(), "cpu_s": time.thread_time()}

    def after(self) -> dict[str, Any]:
        """See Probe.after."""
        now: dict[str, Any] = {"cpu_s": time.thread_time(), "involuntary_switches": switches()}
        now |= {name: source.read() for name, source in self.sources.items()}
        spent = {name: None if None in (value, self.start[name]) else value - self.start[name] for name, value in now.items()}
        levels = {name: source.read() for name, source in self.levels.items()}
        return {**spent, **levels, "load_1m": os.getloadavg()[0], "spin_s": self.start["spin_s"]}

    def close(self) -> list[Repetition]:
        """See Probe.close; this probe takes no samples of its own."""
        for source in (*self.sources.values(), *self.levels.values()):
            source.close()
        return []


@dataclass
class Source:
    """A file of the kernel that is held open, because opening costs more than reading; None stands for one that is absent."""

    path: Path | None
    parse: Callable[[str], float]
    trouble: str | None = None

    def __post_init__(self) -> None:
        self.file: int | None = None
        if self.path is None:
            self.trouble = "this machine does not tell"
            return
        try:
            self.file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            self.trouble = f"{self.path}: {error.strerror}"

    def read(self) -> float | None:
        """The value now; None where it can't be read, and `trouble` says why."""
        if self.file is None:
            return None
        try:
            return self.parse(os.pread(self.file, 4096, 0).decode(errors="replace"))
        except OSError as error:
            self.trouble = f"{self.path}: {error.strerror}"
        except (ValueError, IndexError):
            self.trouble = f"{self.path}: what it says cannot be understood"
        return None

    def close(self) -> None:
        """Gives the file back."""
        if self.file is not None:
            with suppress(OSError):
                os.close(self.file)
            self.file = None


def number_after(text: str, name: str) -> int:
    """The first whole number behind a name. Raises ValueError where it does not stand there."""
    _, found, rest = text.partition(name)
    if not found:
        raise ValueError(f"no {name.strip(' =')}")
    return int(rest.split()[0])


def switches() -> int:
    """How often the kernel took this thread off its core."""
    return resource.getrusage(resource.RUSAGE_THREAD if hasattr(resource, "RUSAGE_THREAD") else resource.RUSAGE_SELF).ru_nivcsw


def spin() -> float:
    """Seconds that a loop of fixed length takes: about 5 ms, longer where the core is slower or shared."""
    start = time.perf_counter()
    for _ in range(SPIN_LOOPS):
        pass
    return time.perf_counter() - start


def throttling_file() -> Path | None:
    """cpu.stat of the control group that limits this process, of either version; None where there is none."""
    with suppress(OSError):
        for line in (PROC / "self" / "cgroup").read_text(errors="replace").splitlines():
            _, _, rest = line.partition(":")
            controllers, told, path = rest.partition(":")
            if not told or (controllers and "cpu" not in controllers.split(",")):
                continue
            root = CGROUPS / controllers
            for file in (root / path.lstrip("/") / "cpu.stat", root / "cpu.stat"):
                if file.is_file() and "nr_throttled" in file.read_text(errors="replace"):
                    return file
    return None


def frequency_file() -> Path | None:
    """The current frequency of the first core that we may use; None on most virtual machines."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    file = CPUS / f"cpu{core}" / "cpufreq" / "scaling_cur_freq"
    return file if file.exists() else None


def process_age_s() -> float | None:
    """Seconds since this process began, to 10 ms; None off Linux."""
    try:
        started = int((PROC / "self" / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
