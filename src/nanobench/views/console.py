"""What the terminal shows: the card before a run, the live table while it runs, the result after it.

Nothing here has a timer: the table is drawn when a worker reports, and the worker waits until that is done.
"""

from collections import Counter
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nanobench.cells import POINT_FIELDS
from nanobench.metrics import BY_NAME
from nanobench.record import MEASURED
from nanobench.schema import Arm, GPTShape, Point
from nanobench.views import units

STATUS_STYLE = {
    "ok": "green",
    "imprecise": "yellow",
    "unstable": "magenta",
    "no_steady_state": "magenta",
    "wrong": "bold red",
    "skipped": "dim",
    "oom": "red",
    "timeout": "red",
    "error": "red",
}
MANY = 8
"""Arms of a point that a line cannot name one by one."""
Row = dict[str, Any]


def card(plan: Row, description: Row, expected_s: float) -> Panel:
    """Model, machine, cells and the time that the sweep is expected to take."""
    grid = Table.grid(padding=(0, 2))
    dtypes = list(dict.fromkeys(point["dtype"] for point in plan["points"]))
    for name, shape in description["models"].items():
        sizes = GPTShape(**shape)
        text = f"{sizes.n_params / 1e6:,.1f}M parameters, {sizes.n_layer} layers x {sizes.n_embd}, {sizes.n_head} heads"
        grid.add_row("model", f"{name}: {text}")
        for dtype in dtypes:
            grid.add_row("", f"{dtype}: {memory_of(sizes, dtype, trains(plan))}")
    identity = description["identity"]
    machine = ", ".join(identity["gpus"]) if description["device"].startswith("cuda") else identity["cpu"]
    grid.add_row("device", f"{description['device']}: {machine}, {spread(plan, 'threads')} threads, torch {identity['torch']}")
    grid.add_row("points", points_of(plan))
    grid.add_row("arms", ", ".join(Arm(**arm).label for arm in plan["arms"]) + " (ratios refer to the first)")
    cells = len(plan["points"]) * len(plan["arms"])
    launches = f"{plan['launches']} launch{'' if plan['launches'] == 1 else 'es'}"
    grid.add_row(
        "cells", f"{cells} cells, {launches} of each point in fresh processes ({plan['isolation']}), seed {plan['seed']}"
    )
    limit = "none" if plan["memory_limit_bytes"] is None else units.size(plan["memory_limit_bytes"])
    grid.add_row(
        "limits", f"memory {limit}, {units.duration(plan['timeout_s'])} per worker, {plan['max_seconds']:g} s timed per launch"
    )
    grid.add_row("expected", f"about {units.duration(expected_s)}")
    return Panel(grid, title="nanobench", expand=False)


def trains(plan: Row) -> bool:
    """Whether a plan's points train."""
    return Point(**plan["points"][0]).trains


def memory_of(shape: GPTShape, dtype: str, training: bool) -> str:
    """What a model holds in words."""
    if not training:
        weights, per_token = units.size(shape.weight_bytes(dtype)), units.size(shape.kv_bytes_per_token(dtype))
        return f"weights {weights}, KV cache {per_token} per token of a row"
    held = f"weights and gradients {units.size(shape.weight_bytes('float32'))} each, in float32"
    return held if dtype == "float32" else f"{held}; forward passes under autocast"


def points_of(plan: Row) -> str:
    """The axes of the points in words."""
    names = {"batch_size": "batch", "prompt_len": "prompt", "new_tokens": "new tokens"}
    if trains(plan):
        names = {"phase": "phase", "batch_size": "batch", "seq_len": "sequence", "optimizer": "optimizer", "data": "data"}
        varied = {"grad_accum": "accumulated", "world_size": "ranks", "tokenizer": "tokens"}
        names |= {name: words for name, words in varied.items() if spread(plan, name) not in ("1", "")}
    return "; ".join(f"{words} {spread(plan, name)}" for name, words in names.items())


def spread(plan: Row, name: str) -> str:
    """The values of a field over the points."""
    return ",".join(str(value) for value in dict.fromkeys(point[name] for point in plan["points"]))


GENERATION = {"output tok/s": "output_tok_s", "TTFT": "ttft_s", "TPOT": "tpot_s"}
TRAINING = {"tok/s": "train_tok_s", "useful tok/s": "useful_tok_s", "step": "step_s"}
"""Column of the table -> the metric that it shows."""


def rates(cells: list[Row]) -> dict[str, str]:
    """What the table shows of cells like these."""
    if not cells or not cells[0]["seq_len"]:
        return GENERATION
    padded = any(cell["padding_fraction"] for cell in cells)
    return {name: column for name, column in TRAINING.items() if padded or column != "useful_tok_s"}


def result_table(cells: list[Row]) -> Table:
    """One row per cell: throughput, latencies, speedup, memory, gate, status."""
    varying, shown = varying_fields(cells), rates(cells)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for name in (*varying, "batch"):
        table.add_column(name.replace("_", " "), justify="right", no_wrap=name != "model")
    table.add_column("arm", no_wrap=True)
    for name in (*shown, "speedup [95 %]", "memory"):
        table.add_column(name, justify="right", no_wrap=name not in ("output tok/s", "speedup [95 %]"))
    for name in ("gate", "status"):
        table.add_column(name, min_width=9 if name == "status" else 8)
    last = None
    for cell in cells:
        head = [*(str(cell[name]) for name in varying), str(cell["batch_size"])]
        table.add_row(*(head if head != last else [""] * len(head)), cell["arm"], *figures(cell, shown))
        last = head
    return table


def varying_fields(cells: list[Row]) -> list[str]:
    """The fields of a point, beside its batch size, in which cells differ."""
    fields = [name for name in POINT_FIELDS if name not in ("device", "batch_size")]
    return [name for name in fields if len({cell[name] for cell in cells}) > 1]


def gate_table(cells: list[Row]) -> Table:
    """One row per cell: the verdict and what it rests on."""
    varying = varying_fields(cells)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for name in (*varying, "batch"):
        table.add_column(name.replace("_", " "), justify="left" if name in ("model", "dtype") else "right")
    table.add_column("arm", no_wrap=True)
    for name in ("gate", "error", "tolerance", "because"):
        table.add_column(name, justify="right" if name in ("error", "tolerance") else "left", no_wrap=name != "because")
    for cell in cells:
        head = [*(str(cell[name]) for name in varying), str(cell["batch_size"]), cell["arm"]]
        gate = Text(cell["gate"] or cell["status"], style="green" if cell["gate"] in ("exact", "rounding") else "bold red")
        error, tolerance = (units.text(cell[name], "logit") for name in ("gate_max_error", "gate_tolerance"))
        table.add_row(*head, gate, error, tolerance, cell["gate_note"] or cell["reason"])
    return table


def figures(cell: Row, shown: dict[str, str]) -> list[Any]:
    """The measured part of a cell's row; the reason of a failure stands in its status."""
    status = Text(cell["status"], style=STATUS_STYLE.get(cell["status"], ""))
    if cell["reason"] and cell["status"] not in MEASURED:
        status.append(f": {cell['reason']}", style="dim")
    return [
        *(units.text(cell[name], BY_NAME[name].unit) for name in shown.values()),
        speedup(cell),
        units.text(cell["peak_memory_bytes"], "B"),
        cell["gate"] or units.MISSING,
        status,
    ]


def speedup(cell: Row) -> str:
    """5.31 [4.92, 5.70]; the reference arm reads 'reference'."""
    if cell["arm_index"] == 0:
        return "(reference)" if cell["status"] in MEASURED else units.MISSING
    if cell["speedup"] is None:
        return units.MISSING
    low, high = units.text(cell["speedup_lo"], "ratio"), units.text(cell["speedup_hi"], "ratio")
    bounds = "" if cell["speedup_lo"] is None else f" [{low}, {high}]"
    return f"{cell['speedup']:.3g}x{bounds}"


class Screen:
    """Shows a sweep while it runs: a live table on a terminal, one line per finished trial elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Screen":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, progress: Any) -> None:
        """Draws once. `progress` is a runner.Progress."""
        point, report = progress.trial.point, progress.report
        tokens = f"{point.phase} {point.seq_len}" if point.trains else f"prompt {point.prompt_len}, new {point.new_tokens}"
        ranks = f", {point.world_size} ranks" if point.world_size > 1 else ""
        where = f"launch {progress.launch}, {point.model}, batch {point.batch_size}, {tokens}{ranks}"
        if self.live is None:
            if report is None:
                done = f"[{progress.done}/{progress.total}]"
                self.console.print(
                    f"{done} {where}: {latest(progress)}; {units.duration(progress.left_s)} left", highlight=False
                )
            return
        doing = "done" if report is None else f"{report['phase']} {report['arm']}"
        if report and report.get("budget_s"):
            doing += f", block {report['block'] + 1}, {report['spent_s']:.1f} of {report['budget_s']:g} s"
        head = Text(f"{bar(progress.done, progress.total)} {progress.done}/{progress.total}  {where}  {doing}  ")
        head.append(f"{units.duration(progress.left_s)} left", style="bold")
        self.live.update(Group(result_table(progress.cells), head) if progress.cells else head, refresh=True)


def bar(done: int, total: int, width: int = 24) -> str:
    """A bar of blocks."""
    filled = width * done // max(1, total)
    return "█" * filled + "░" * (width - filled)


def latest(progress: Any) -> str:
    """The cells of the point that was just measured, on one line: each by itself, or many by their status."""
    point = progress.trial.point
    here = [cell for cell in progress.cells if all(cell[name] == value for name, value in vars(point).items())]
    if len(here) > MANY:
        return ", ".join(f"{count} {status}" for status, count in Counter(cell["status"] for cell in here).items())
    parts = []
    for cell in here:
        rate = units.text(cell[next(iter(rates([cell]).values()))], "tok/s")
        ratio = f" ({speedup(cell)})" if cell["arm_index"] and cell["speedup"] is not None else ""
        parts.append(f"{cell['arm']} {rate} tok/s{ratio}" if cell["status"] in MEASURED else f"{cell['arm']} {cell['status']}")
    return ", ".join(parts)


def facts(title: str, values: Row) -> Table:
    """Names and values of an identity or a state."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=title, title_justify="left", title_style="bold")
    for name, value in values.items():
        known = value not in (None, [], {})
        table.add_row(name, Text(plain(value) if known else units.MISSING, style="" if known else "dim"))
    return table


def plain(value: Any) -> str:
    """A value of a JSON document in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list):
        return "; ".join(map(plain, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def problems(found: list[Any]) -> Table | Text:
    """What is wrong, what it does, what to do; analysis.advice found it."""
    if not found:
        return Text("no problem found", style="green")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title="problems", title_justify="left", title_style="bold")
    for name in ("found", "what it does to the numbers", "mend"):
        table.add_column(name, ratio=1)
    for problem in found:
        table.add_row(problem.what, problem.effect, problem.mend)
    return table


def verdict(checks: list[Any]) -> Table:
    """The self-test, line by line."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("check", "seen", "wanted", "verdict"):
        table.add_column(name)
    words = {True: Text("passed", style="green"), False: Text("FAILED", style="bold red"), None: Text("not asked", style="dim")}
    for check in checks:
        table.add_row(check.name, check.seen, check.wanted, words[check.passed])
    return table


def trust(
    spread: tuple[float, float, float], launches: int, resolution: float | None, causes: list[tuple[str, int]]
) -> list[str]:
    """What the spread of A/A means for a user's own sweep."""
    within, between, pairs = spread
    lines = [
        f"A/A: a pair's ratio scatters by {within:.1%} within a launch and by {between:.1%} between launches "
        f"({pairs:.0f} pairs each); a delay of 2 % asked for {launches} launches",
        "with five launches of half a second this machine cannot find a difference of 20 % nine times in ten"
        if resolution is None
        else f"with five launches of half a second this machine finds differences from {resolution:.1%} on, nine times in ten",
    ]
    return lines + [f"unstable in {number} cell{'' if number == 1 else 's'}: {cause}" for cause, number in causes]
