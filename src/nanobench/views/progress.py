"""What the terminal shows before and during a sweep: the card and the live table.

Nothing here has a timer: the table is drawn when a worker reports, and the worker waits until that is done.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nanobench.analysis import diagnostics
from nanobench.records import MEASURED, Description
from nanobench.results.repetitions import point_of
from nanobench.schema import GPTShape, Plan
from nanobench.views import format
from nanobench.views.cell_table import speedup_text
from nanobench.views.sweep import rates, result_table

if TYPE_CHECKING:
    from nanobench.sweep.progress import Progress

MANY = 8
"""Arms of a point that a line cannot name one by one."""


def card(plan: Plan, description: Description, expected_s: float) -> Panel:
    """Model, machine, cells and the time that the sweep is expected to take."""
    grid = Table.grid(padding=(0, 2))
    dtypes = list(dict.fromkeys(point.dtype for point in plan.points))
    for name, sizes in description.models.items():
        text = f"{sizes.n_params / 1e6:,.1f}M parameters, {sizes.n_layer} layers x {sizes.n_embd}, {sizes.n_head} heads"
        grid.add_row("model", f"{name}: {text}")
        for dtype in dtypes:
            grid.add_row("", f"{dtype}: {memory_of(sizes, dtype, trains(plan))}")
    identity, device = description.identity, description.device
    machine = ", ".join(identity["gpus"]) if device.startswith("cuda") else identity["cpu"]
    grid.add_row("device", f"{device}: {machine}, {spread(plan, 'threads')} threads, torch {identity['torch']}")
    grid.add_row("points", points_of(plan))
    grid.add_row("arms", ", ".join(arm.label for arm in plan.arms) + " (ratios refer to the first)")
    cells = ("at most " if plan.adaptive else "") + format.count(len(plan.points) * len(plan.arms), "cell")
    launches = format.count(plan.launches, "launch")
    grid.add_row(
        "cells",
        f"{cells}, {launches} of each point in fresh processes ({plan.isolation}), seed {plan.seed}",
    )
    limit = "none" if plan.memory_limit_bytes is None else format.size(plan.memory_limit_bytes)
    grid.add_row(
        "limits", f"memory {limit}, {format.duration(plan.timeout_s)} per worker, {plan.max_seconds:g} s timed per launch"
    )
    grid.add_row("expected", f"{'less than' if plan.adaptive else 'about'} {format.duration(expected_s)}{more_time(plan)}")
    for problem in diagnostics.of_busy_processes(identity["cores"], description.state):
        grid.add_row("warning", f"{problem.what}: {problem.effect}; {problem.fix}")
    return Panel(grid, title="nanobench", expand=False)


def more_time(plan: Plan) -> str:
    """What may change how long a sweep takes."""
    if plan.max_minutes is not None:
        return f", no launch begins after {plan.max_minutes:g} min"
    return ", up to half of it more for disturbed or imprecise points" if plan.extra_launches else ""


def trains(plan: Plan) -> bool:
    """Whether a plan's points train."""
    return plan.points[0].trains


def memory_of(shape: GPTShape, dtype: str, training: bool) -> str:
    """What a model keeps in memory, in words."""
    if not training:
        weights, per_token = format.size(shape.weight_bytes(dtype)), format.size(shape.kv_bytes_per_token(dtype))
        return f"weights {weights}, KV cache {per_token} per token of a row"
    held = f"weights and gradients {format.size(shape.weight_bytes('float32'))} each, in float32"
    return held if dtype == "float32" else f"{held}; forward passes under autocast, unless parameters are narrower"


def points_of(plan: Plan) -> str:
    """The axes of the points in words."""
    names = {"batch_size": "batch", "prompt_len": "prompt", "new_tokens": "new tokens"}
    varied = {"data": "prompts of", "tokenizer": "tokens"}
    if trains(plan):
        names = {"phase": "phase", "batch_size": "batch", "seq_len": "sequence", "optimizer": "optimizer", "data": "data"}
        varied = {"grad_accum": "accumulated", "world_size": "ranks", "tokenizer": "tokens"}
    names |= {name: words for name, words in varied.items() if spread(plan, name) not in ("1", "")}
    return "; ".join(f"{words} {spread(plan, name)}" for name, words in names.items())


def spread(plan: Plan, name: str) -> str:
    """The values of a field over the points."""
    return ",".join(str(value) for value in dict.fromkeys(getattr(point, name) for point in plan.points))


class NotebookLine:
    """One line of a notebook's output, which is written again in its place."""

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, text: str) -> None:
        """Writes the line."""
        from IPython.display import display

        data = {"text/plain": text}
        if self.handle is None:
            self.handle = display(data, raw=True, display_id=True)
        else:
            self.handle.update(data, raw=True)


class Screen:
    """Shows a sweep while it runs: a live table on a terminal, a bar in a notebook, one line per finished trial elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.line = NotebookLine() if console.is_jupyter else None

    def __enter__(self) -> "Screen":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, progress: "Progress") -> None:
        """Draws once."""
        if self.live is None and self.line is None:
            if progress.report is None:
                self.console.print(finished_line(progress, self.console.width), no_wrap=True, overflow="ellipsis")
            return
        head = running_line(progress, self.console.width)
        if self.line:
            self.line.show(head.plain)
        if self.live:
            self.live.update(Group(result_table(progress.cells), head) if progress.cells else head, refresh=True)


def finished_line(progress: "Progress", width: int) -> str:
    """What a trial found, on one line: without intervals, and without what all points share, where these have no room."""
    done, left = f"[{progress.done}/{progress.total}]", f"{format.duration(progress.left_s)} left"
    short = latest(progress, intervals=False)
    lines = (
        f"{done} {where(progress)}: {latest(progress)}; {left}",
        f"{done} {where(progress)}: {short}; {left}",
        f"{done} {briefly(progress)}: {short}; {left}",
    )
    # A line that is cut keeps the time that is left.
    narrow = f"{done} {left}; {briefly(progress)}: {latest(progress, intervals=False, unit='')}"
    return next((line for line in lines if len(line) <= width), narrow)


def running_line(progress: "Progress", width: int) -> Text:
    """What happens now, on one line; the time that is left comes first where the line is cut."""
    report = progress.report
    doing = "done" if report is None else f"{report['phase']} {report['arm']}"
    if report and report.get("budget_s"):
        block = f", block {report['block'] + 1}" if width >= 100 else ""
        doing += f"{block}, {report['spent_s']:.1f} of {report['budget_s']:g} s"
    blocks = bar(progress.done, progress.total, 24 if width >= 100 else 10)
    head = Text(f"{blocks} {progress.done}/{progress.total}  ", no_wrap=True, overflow="ellipsis")
    head.append(f"{format.duration(progress.left_s)} left", style="bold")
    place = where(progress)
    room = width - len(head.plain) - len(doing) - 4
    return head.append(f"  {place if len(place) <= room else briefly(progress)}  {doing}")


def where(progress: "Progress") -> str:
    """Which launch of which point is measured."""
    point = progress.trial.point
    tokens = f"{point.phase} {point.seq_len}" if point.trains else f"prompt {point.prompt_len}, new {point.new_tokens}"
    ranks = f", {point.world_size} ranks" if point.world_size > 1 else ""
    return f"launch {progress.trial.launch}, {point.model}, batch {point.batch_size}, {tokens}{ranks}"


def briefly(progress: "Progress") -> str:
    """The same without the model and the lengths."""
    return f"launch {progress.trial.launch}, batch {progress.trial.point.batch_size}"


def bar(done: int, total: int, width: int = 24) -> str:
    """A bar of blocks."""
    filled = width * done // max(1, total)
    return "█" * filled + "░" * (width - filled)


def latest(progress: "Progress", intervals: bool = True, unit: str = " tok/s") -> str:
    """The cells of the point that was just measured, on one line: each by itself, or many by their status."""
    point = progress.trial.point
    here = [cell for cell in progress.cells if point_of(cell) == point]
    if len(here) > MANY:
        return ", ".join(f"{count} {status}" for status, count in Counter(cell["status"] for cell in here).items())
    parts = []
    for cell in here:
        rate = rates([cell])[0].cell(cell) + unit
        bounds = ("speedup_lo", "speedup_hi")
        text = speedup_text(cell if intervals else {**cell, **dict.fromkeys(bounds)})
        ratio = f" ({text})" if cell["arm_index"] and cell["speedup"] is not None else ""
        parts.append(f"{cell['arm']} {rate}{ratio}" if cell["status"] in MEASURED else f"{cell['arm']} {cell['status']}")
    return ", ".join(parts)
