"""A search for a batch size: each trial, the answer, and its figure."""

import json
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.table import Table

from nanobench.sweep.autobatch import Listener
from nanobench.sweep.batch_search import BatchAnswer, BatchTrial
from nanobench.views import format

BOUNDS = {
    "time": "the time limit was reached before anything ran out of memory (--max-seconds): larger batches may fit",
    "--most": "nothing ran out of memory up to --most: larger batches may fit",
    "--total-batch": "all rows of --total-batch fit at once",
}
"""What ended a search before memory did -> how that reads."""


def listener(say: Callable[[str], None]) -> Listener:
    """Says the progress of a search, line by line."""

    def found(answer: BatchAnswer, arms: str) -> None:
        for sentence in sentences(answer, arms):
            say(sentence)

    return Listener(waiting=say, searching=say, tried=lambda trial: say(line(trial)), found=found)


def line(trial: BatchTrial) -> str:
    """One trial in words."""
    if trial.tok_s is None:
        return f"batch {trial.batch_size}: out of memory ({trial.reason})"
    return f"batch {trial.batch_size}: {format.text(trial.tok_s, 'tok/s')} tok/s, {format.text(trial.peak_bytes, 'B')}"


def table(answer: BatchAnswer) -> Table:
    """The batch sizes that fit, with their throughput and peak memory."""
    rows = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("batch", "tok/s", "peak memory"):
        rows.add_column(name, justify="right")
    rows.add_column("")
    names = {answer.knee_batch_size: ["knee"]}
    names.setdefault(answer.batch_size, []).append("recommended")
    names.setdefault(answer.largest_batch_size, []).append("largest that fits")
    for trial in answer.curve:
        amounts = format.text(trial.tok_s, "tok/s"), format.text(trial.peak_bytes, "B")
        rows.add_row(str(trial.batch_size), *amounts, ", ".join(names.get(trial.batch_size, [])))
    if answer.failed_batch_size is not None:
        rows.add_row(str(answer.failed_batch_size), format.MISSING, format.MISSING, "out of memory")
    return rows


def sentences(answer: BatchAnswer, arm: str) -> list[str]:
    """What is recommended, and why not more."""
    share = f"at most {answer.margin:.0%} of {answer.largest_batch_size}, the largest that fits"
    first = f"{arm}: batch {answer.batch_size} ({share}); throughput saturates at batch {answer.knee_batch_size}, the knee"
    if answer.grad_accum is not None:
        first += f"; {answer.grad_accum} batches per optimizer step"
    lines = [first]
    if answer.bounded_by in BOUNDS:
        lines.append(BOUNDS[answer.bounded_by])
    source = "cached answer; --fresh searches again" if answer.cached else format.duration(answer.seconds)
    return [*lines, f"{len(answer.curve)} of the batch sizes tried fit ({source})"]


def write(answer: BatchAnswer, title: str, folder: Path) -> list[Path]:
    """The answer as JSON, with its title, and its figure, in a folder."""
    import matplotlib as mpl

    from nanobench.views.figures import layout, style
    from nanobench.views.figures.autobatch import throughput_memory_vs_batch

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "autobatch.json"
    document = answer.to_json()
    path.write_text(json.dumps({"title": title, **document}, indent=2) + "\n")
    with mpl.rc_context(style.STYLE):
        return [path, *layout.save(throughput_memory_vs_batch(document, title), folder, "autobatch")]
