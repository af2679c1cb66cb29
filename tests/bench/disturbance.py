"""Do the display and the probes disturb the measurement? The same repetition with and without them, in balanced order.

    python tests/bench/disturbance.py [LAUNCHES]       about seven minutes for ten launches

Four conditions in every block: nothing at all; nanobench's probes and reports, which a parent draws as a live table on a
terminal; and, to show that the method would notice, two careless habits that run beside the repetition: a table drawn at
4 Hz and a probe read at 10 Hz by another process. The careless ones are stopped while it is not their turn.
"""

import contextlib
import functools
import json
import math
import os
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

CONDITIONS = ("nothing", "probes and display", "careless display", "careless probe")
BLOCKS, REPETITION_S, LAUNCHES = 32, 0.25, 10


def worker(out: Path) -> None:
    """One launch: every block measures each condition once. Leaves the times, block by block, as the record."""
    import torch

    from nanobench.gates.generation import Reference
    from nanobench.models import _packed_linear as packed_linear
    from nanobench.probes.clock import HostClock
    from nanobench.probes.instruments import Instruments, make_instruments
    from nanobench.schema import Arm, Point
    from nanobench.stats import intervals
    from nanobench.worker.__main__ import Channel
    from nanobench.worker.workloads.generate import Generate, load

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=threads, batch_size=8, prompt_len=32, new_tokens=16)
    adapter = load(point, 0)
    packed_linear.pack(adapter.module)
    workload = Generate(adapter, Reference(adapter, point, 0), point, Arm(engine="uncached"), HostClock())
    channel = Channel(os.fdopen(0, "rb", buffering=0), os.fdopen(os.dup(1), "w"))
    probed, bare = make_instruments(torch.device("cpu"), out), Instruments(HostClock())
    blocks = []
    with torch.inference_mode(), careless() as beside:
        workload.build()
        workload.first_call(None)
        workload.warm_up()
        workload.calls = math.ceil(REPETITION_S / workload.phases[-1].wall_s)
        for block, order in zip(range(BLOCKS), intervals.orders(len(CONDITIONS), str(os.getpid())), strict=False):
            times = [0.0] * len(CONDITIONS)
            for index in order:
                repeat = functools.partial(workload.repeat, block, block, True)
                if index == 1:
                    channel.report({"phase": "steady", "arm": "uncached", "block": block, "spent_s": 1.0, "budget_s": 4.0})
                    times[index] = probed.observe(repeat).wall_s
                else:
                    with beside(CONDITIONS[index]):
                        times[index] = bare.observe(repeat).wall_s
            blocks.append(times)
    probed.close()
    (out / "record.json").write_text(json.dumps({"blocks": blocks}))


@contextlib.contextmanager
def careless() -> Iterator:
    """Two processes that would run beside everything, and a context in which one of them may."""
    processes = {}
    for name in CONDITIONS[2:]:
        processes[name] = subprocess.Popen([sys.executable, __file__, "--" + name.replace(" ", "-")], stdout=subprocess.DEVNULL)
    time.sleep(2.0)
    for process in processes.values():
        process.send_signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def beside(name: str) -> Iterator[None]:
        process = processes.get(name)
        if process:
            process.send_signal(signal.SIGCONT)
        yield
        if process:
            process.send_signal(signal.SIGSTOP)

    try:
        yield beside
    finally:
        for process in processes.values():
            process.kill()


def careless_display() -> None:
    """A live table of forty rows at 4 Hz."""
    from rich.console import Console
    from rich.live import Live

    from nanobench.views.sweep import result_table

    console = Console(force_terminal=True, width=140)
    with Live(console=console, refresh_per_second=4, get_renderable=lambda: result_table(cells())):
        while True:
            time.sleep(60)


def careless_probe() -> None:
    """Load, memory and every process's counters, ten times a second."""
    import psutil

    while True:
        for process in psutil.process_iter(["pid", "name", "cpu_times", "memory_info"]):
            assert process.info
        psutil.cpu_percent(percpu=True)
        time.sleep(0.1)


@functools.cache
def cells() -> list[dict]:
    """The table of a real run."""
    from nanobench.results import derive
    from nanobench.results.store import Run

    return derive.derive(Run(Path(__file__).parents[2] / "results" / "reference-cpu").read_raw())


def launch(number: int, screen, folder: Path) -> list[list[float]]:
    """Runs a worker and draws what it reports."""
    from nanobench.schema import Arm, Point, Trial
    from nanobench.sweep.executors.base import WorkerPipe, follow
    from nanobench.sweep.progress import Progress

    point = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=2, batch_size=8, prompt_len=32, new_tokens=16)
    trial = Trial(point=point, arms=(Arm(engine="uncached"),), launch=number, seed=0, target_ci=0.05, max_seconds=4.0)
    command = [sys.executable, __file__, "--worker", str(folder)]
    pipe = WorkerPipe(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    found = follow(
        pipe, folder, 600.0, lambda report: screen.show(Progress(trial, number, LAUNCHES, lambda: 60.0, report, cells))
    )
    pipe.process.wait()
    assert found.record, found.reason
    return found.record["blocks"]


def main() -> None:
    """Prints each condition's time over that of nothing at all, with the interval over launches."""
    from rich.console import Console

    from nanobench.stats import intervals
    from nanobench.views.progress import Screen

    launches = int(sys.argv[1]) if len(sys.argv) > 1 else LAUNCHES
    reader, writer = pty.openpty()
    threading.Thread(target=drain, args=(reader,), daemon=True).start()
    console = Console(file=os.fdopen(writer, "w"), force_terminal=True, width=140, height=50)
    with Screen(console) as screen:
        found = []
        for number in range(1, launches + 1):
            with tempfile.TemporaryDirectory() as folder:
                found.append(launch(number, screen, Path(folder)))
    print(f"{launches} launches, {BLOCKS} blocks each, repetitions of about {REPETITION_S} s on every core")
    for index, name in enumerate(CONDITIONS[1:], start=1):
        shares = (statistics.geometric_mean(times[index] / times[0] for times in blocks) - 1 for blocks in found)
        print(f"{name}, launch by launch:", " ".join(f"{share:+.1%}" for share in shares))
    print("| during or around the repetition | time relative to nothing at all [95 %] |\n|---|--:|")
    for index, name in enumerate(CONDITIONS[1:], start=1):
        ratio = intervals.ratio([[math.log(times[index] / times[0]) for times in blocks] for blocks in found])
        print(f"| {name} | {ratio.value - 1:+.1%} [{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}] |")


def drain(reader: int) -> None:
    """Reads what the terminal would show, so that writing to it never blocks."""
    while os.read(reader, 65536):
        pass


if __name__ == "__main__":
    if "--worker" in sys.argv:
        worker(Path(sys.argv[-1]))
    elif "--careless-display" in sys.argv:
        careless_display()
    elif "--careless-probe" in sys.argv:
        careless_probe()
    else:
        main()
