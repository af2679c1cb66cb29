"""Disturbances of the worker by the machine: readings of /proc and the time of a fixed loop, taken between repetitions.

Nothing here runs during a repetition. A reading that the machine does not report is None.
"""

import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nanobench.records import ReadingValues, Repetition

PROC, CGROUPS, CPUS = Path("/proc"), Path("/sys/fs/cgroup"), Path("/sys/devices/system/cpu")
SPIN_LOOPS = 275_000
SPIN_EVERY_S = 0.1
MICROSECOND = 1e-6


class HostProbe:
    """The increase of kernel counters over a repetition, and a few gauges at its end.

    The main thread stands for the worker: the CPU time of other threads depends on how OpenMP waits.
    """

    def __init__(self) -> None:
        self.counters = {
            "pressure_s": Source(PROC / "pressure" / "cpu", lambda text: MICROSECOND * number_after(text, "total=")),
            "quota_throttled_periods": Source(throttling_file(), lambda text: number_after(text, "nr_throttled ")),
            "steal_s": Source(
                PROC / "stat", lambda text: int(text.split()[8]) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
            ),
        }
        self.gauges = {
            "cpu_hz": Source(frequency_file(), lambda text: 1e3 * int(text)),
            "rss_bytes": Source(PROC / "self" / "statm", lambda text: int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")),
        }
        self.spun_at = -SPIN_EVERY_S
        self.start: ReadingValues = {}

    @property
    def note(self) -> str | None:
        """See Probe.note."""
        errors = [f"{name}: {source.error}" for name, source in {**self.counters, **self.gauges}.items() if source.error]
        return "; ".join(errors) or None

    def ready(self) -> None:
        """See Probe.ready; nothing to do: the kernel's counters are per thread."""

    def before(self) -> None:
        """See Probe.before. The spin loop runs first; this thread's own CPU time is read last."""
        spin_s = None
        if time.perf_counter() - self.spun_at >= SPIN_EVERY_S:
            spin_s = spin()
            self.spun_at = time.perf_counter()
        counts = {name: source.read() for name, source in self.counters.items()}
        self.start = {"spin_s": spin_s, **counts, **own_counters()}

    def after(self) -> ReadingValues:
        """See Probe.after."""
        now = own_counters()
        now |= {name: source.read() for name, source in self.counters.items()}
        increases = {
            name: None if None in (value, self.start[name]) else value - self.start[name] for name, value in now.items()
        }
        gauges = {name: source.read() for name, source in self.gauges.items()}
        return {**increases, **gauges, "load_1m": os.getloadavg()[0], "spin_s": self.start["spin_s"]}

    def close(self) -> list[Repetition]:
        """See Probe.close; this probe takes no samples."""
        for source in (*self.counters.values(), *self.gauges.values()):
            source.close()
        return []


def own_counters() -> ReadingValues:
    """What the worker itself has used so far."""
    return {"cpu_s": time.thread_time(), "involuntary_switches": switches()}


@dataclass
class Source:
    """A file of the kernel, kept open because opening costs more than reading; a path of None means that it does not exist."""

    path: Path | None
    parse: Callable[[str], float]
    error: str | None = None

    def __post_init__(self) -> None:
        self.file: int | None = None
        if self.path is None:
            self.error = "not reported by this machine"
            return
        try:
            self.file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            self.error = f"{self.path}: {error.strerror}"

    def read(self) -> float | None:
        """The current value; None if it cannot be read, with the reason in `error`."""
        if self.file is None:
            return None
        try:
            return self.parse(os.pread(self.file, 4096, 0).decode(errors="replace"))
        except OSError as error:
            self.error = f"{self.path}: {error.strerror}"
        except (ValueError, IndexError):
            self.error = f"{self.path}: unexpected content"
        return None

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            with suppress(OSError):
                os.close(self.file)
            self.file = None


def number_after(text: str, name: str) -> int:
    """The integer after a name in a text. Raises ValueError if the name is missing."""
    _, separator, rest = text.partition(name)
    if not separator:
        raise ValueError(f"no {name.strip(' =')}")
    return int(rest.split()[0])


def switches() -> int:
    """Number of involuntary context switches of this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD if hasattr(resource, "RUSAGE_THREAD") else resource.RUSAGE_SELF).ru_nivcsw


def spin() -> float:
    """Duration of a loop of fixed length in seconds: about 5 ms, more on a slow or shared core."""
    start = time.perf_counter()
    for _ in range(SPIN_LOOPS):
        pass
    return time.perf_counter() - start


def throttling_file() -> Path | None:
    """cpu.stat of the cgroup (v1 or v2) that limits this process; None if there is none."""
    with suppress(OSError):
        for line in (PROC / "self" / "cgroup").read_text(errors="replace").splitlines():
            _, _, rest = line.partition(":")
            controllers, separator, path = rest.partition(":")
            if not separator or (controllers and "cpu" not in controllers.split(",")):
                continue
            root = CGROUPS / controllers
            for file in (root / path.lstrip("/") / "cpu.stat", root / "cpu.stat"):
                if file.is_file() and "nr_throttled" in file.read_text(errors="replace"):
                    return file
    return None


def frequency_file() -> Path | None:
    """The file with the current frequency of the first core that this process may use; None on most virtual machines."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    file = CPUS / f"cpu{core}" / "cpufreq" / "scaling_cur_freq"
    return file if file.exists() else None


def process_age_s() -> float | None:
    """Seconds since this process started, with a resolution of 10 ms; None if the system is not Linux."""
    try:
        started = int((PROC / "self" / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
