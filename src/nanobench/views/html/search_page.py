"""The page of a search of a batch size: the answer first, then its figure and every batch size that was tried."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib as mpl

from nanobench.errors import UserError
from nanobench.sweep.batch_search import BatchAnswer, BatchTrial
from nanobench.views import autobatch as words
from nanobench.views import format
from nanobench.views.cell_table import CellTable, Column, value
from nanobench.views.figures import layout, style
from nanobench.views.figures.autobatch import throughput_memory_vs_batch
from nanobench.views.html import grid
from nanobench.views.html import page as frame
from nanobench.views.html.drawing import Inks, inline
from nanobench.views.html.run_page import Figure

COLUMNS = (
    value("batch", "batch_size", "count"),
    value("tok/s", "tok_s", "tok/s"),
    value("peak memory", "peak_bytes", "B"),
    Column("note", lambda row: row["name"] or None, align="left"),
)


def page(path: Path) -> str:
    """The page of the answer in a file. Raises UserError where it holds none."""
    document = read(path)
    answer, title = answer_in(document, path), str(document.get("title") or path.resolve().parent.name)
    inks = Inks()
    return frame.render(
        "search.html",
        inks,
        title=f"nanobench autobatch: {title}",
        name=title,
        sentences=words.sentences(answer, title),
        table=grid.of_table(CellTable(COLUMNS, [row_of(trial, answer) for trial in answer.curve])),
        failure=failure(answer),
        figure=drawn(answer, title, inks),
    )


def read(path: Path) -> Mapping[str, Any]:
    """A JSON document. Raises UserError where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; search again with nanobench autobatch --out") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} is not the answer of a search; give a folder that nanobench autobatch --out wrote")
    return document


def answer_in(document: Mapping[str, Any], path: Path) -> BatchAnswer:
    """The answer that a document holds among other keys. Raises UserError where it holds none."""
    names = {each.name for each in fields(BatchAnswer)}
    try:
        return BatchAnswer.from_json({name: found for name, found in document.items() if name in names})
    except (TypeError, KeyError, AttributeError) as error:
        fix = "give a folder that nanobench autobatch --out wrote"
        raise UserError(f"{path} is not the answer of a search ({error}); {fix}") from None


def row_of(trial: BatchTrial, answer: BatchAnswer) -> dict[str, Any]:
    """A batch size that fits, with what it is for."""
    names = {
        "knee": answer.knee_batch_size,
        "recommended": answer.batch_size,
        "largest that fits": answer.largest_batch_size,
    }
    mine = [name for name, size in names.items() if size == trial.batch_size]
    return {**vars(trial), "name": ", ".join(mine)}


def failure(answer: BatchAnswer) -> str:
    """The smallest batch size that did not fit, and why; empty where all did."""
    if answer.failed_batch_size is None:
        return ""
    size = format.text(answer.failed_batch_size, "count")
    return f"batch {size} ran out of memory: {answer.failed_reason or 'no reason given'}"


def drawn(answer: BatchAnswer, title: str, inks: Inks) -> Figure | None:
    """Throughput and memory by batch size; None where nothing fits."""
    if not answer.curve:
        return None
    caption = (throughput_memory_vs_batch.__doc__ or "").partition(";")[0] + "."
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder, mpl.rc_context(style.STYLE):
        paths = layout.save(throughput_memory_vs_batch(answer.to_json(), title), Path(folder), "autobatch")
        return Figure("autobatch", caption, inline(paths[-1], caption, inks))
