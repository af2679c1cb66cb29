"""A search for a batch size: each try, what was found, and its figure."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from nanobench.views import format

Row = dict[str, Any]
BOUNDS = {
    "time": "time was up before anything ran out of memory (--max-seconds)",
    "--most": "nothing ran out of memory up to --most",
}


def line(tried: Any) -> str:
    """One try in words. `tried` is an autobatch.Try."""
    if tried.tok_s is None:
        return f"batch {tried.batch_size}: no memory ({tried.reason})"
    return f"batch {tried.batch_size}: {format.text(tried.tok_s, 'tok/s')} tok/s, {format.text(tried.peak_bytes, 'B')}"


def table(found: Row) -> Table:
    """The batch sizes that fit, with what they reach and hold."""
    rows = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("batch", "tok/s", "peak memory"):
        rows.add_column(name, justify="right")
    rows.add_column("")
    names = {found["knee_batch_size"]: ["knee"]}
    names.setdefault(found["batch_size"], []).append("recommended")
    names.setdefault(found["largest_batch_size"], []).append("largest that fits")
    for each in found["curve"]:
        amounts = format.text(each["tok_s"], "tok/s"), format.text(each["peak_bytes"], "B")
        rows.add_row(str(each["batch_size"]), *amounts, ", ".join(names.get(each["batch_size"], [])))
    if found["failed_batch_size"] is not None:
        rows.add_row(str(found["failed_batch_size"]), format.MISSING, format.MISSING, "finds no memory")
    return rows


def sentences(found: Row, arm: str) -> list[str]:
    """What is recommended, and why not more."""
    share = f"{found['margin']:.0%} of {found['largest_batch_size']}, the largest that fits"
    lines = [
        f"{arm}: batch {found['batch_size']} ({share}); throughput stops growing at batch {found['knee_batch_size']}",
    ]
    if found["grad_accum"] is not None:
        lines[0] += f"; gradients of {found['grad_accum']} batches make a step"
    if found["bounded_by"] in BOUNDS:
        lines.append(f"{BOUNDS[found['bounded_by']]}: more may fit")
    when = "kept from an earlier search; --fresh looks again" if found["cached"] else format.duration(found["seconds"])
    return [*lines, f"{len(found['curve'])} batch sizes fit of those tried ({when})"]


def write(found: Row, title: str, folder: Path) -> list[Path]:
    """The answer as JSON and its figure, in a folder."""
    import matplotlib as mpl

    from nanobench.views.figures import layout, style
    from nanobench.views.figures.autobatch import throughput_memory_vs_batch

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "autobatch.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    with mpl.rc_context(style.STYLE):
        return [path, *layout.save(throughput_memory_vs_batch(found, title), folder, "autobatch")]
