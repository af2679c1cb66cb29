"""The page of several runs, side by side: machines, models and dates, and figures only where they were measured alike."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nanobench.analysis.report import Study, alike, differences, names_of
from nanobench.records import MEASURED
from nanobench.results.derive import CellRow
from nanobench.views import format, summary, sweep
from nanobench.views.cell_table import CellTable
from nanobench.views.env import plain
from nanobench.views.html import grid
from nanobench.views.html import page as frame
from nanobench.views.html.drawing import Inks
from nanobench.views.html.grid import Grid
from nanobench.views.html.run_page import HEADLINES, Answers, Figure, figure, paragraph, when

MOST_FIGURES = 12
"""More runs than this are listed without a figure each."""


@dataclass(frozen=True)
class Card:
    """One of the runs."""

    name: str
    link: str
    """of its own page, as seen from this one"""
    facts: dict[str, str]
    paragraph: list[summary.Part]
    figure: Figure | None


@dataclass(frozen=True)
class Group:
    """A setting that several runs measured alike."""

    title: str
    table: Grid


def page(studies: list[Study], drawn: list[list[Path]], folder: Path) -> str:
    """The page of several runs, for a file in `folder`; `drawn` are the files of the figures of each run."""
    inks, names = Inks(), names_of(studies)
    kept = drawn if len(studies) <= MOST_FIGURES else [[] for _ in studies]
    cards = [card(*each, folder, inks) for each in zip(studies, names, kept, strict=True)]
    return frame.render(
        "runs.html",
        inks,
        title=f"nanobench: {format.count(len(studies), 'run')} side by side",
        names=names,
        cards=cards,
        heads=list(dict.fromkeys(head for each in cards for head in each.facts)),
        groups=[group(each) for each in alike(studies)],
        differences={
            name.replace("_", " "): [plain(value) if value not in (None, [], {}) else format.MISSING for value in values]
            for name, values in differences(studies).items()
        },
    )


def card(study: Study, name: str, paths: list[Path], folder: Path, inks: Inks) -> Card:
    """One run, with its first figure where it has some."""
    link = Path(os.path.relpath(study.folder.resolve() / "report.html", folder.resolve())).as_posix()
    return Card(name, quote(link), facts(study), paragraph(study, Answers.of(study)), headline(paths, inks))


def facts(study: Study) -> dict[str, str]:
    """What was run, when and on which machine."""
    cells, info = study.cells, study.info
    fields = {name: ", ".join(map(str, dict.fromkeys(cells[name]))) for name in ("model", "dtype", "device", "threads")}
    return {
        "command": info.command,
        "when": when(study),
        "machine": info.hardware,
        **fields,
        "torch": plain(info.description.identity.get("torch") or format.MISSING),
        "protocol": str(info.protocol),
        "machine and software": plain(info.description.identity.get("hash") or format.MISSING),
        "cells": f"{len(cells)} ({int(cells['status'].isin(MEASURED).sum())} measured)",
    }


def headline(paths: list[Path], inks: Inks) -> Figure | None:
    """The figure beside the verdict of a run."""
    files = {path.stem: path for path in paths if path.suffix == ".svg"}
    return next((figure(files[name], inks) for name in HEADLINES if name in files), None)


def group(rows: list[CellRow]) -> Group:
    """The cells of a setting, those of one batch size and arm below each other."""
    return Group(title(rows[0]), grid.of_table(beside(rows)))


def beside(rows: list[CellRow]) -> CellTable:
    """The table of results, with batch size and arm before the run."""
    table = sweep.results(rows)
    names = ("batch", "arm", "run")
    columns = {column.name: column for column in table.columns}
    return CellTable((*(columns[name] for name in names), *(columns[name] for name in columns if name not in names)), rows)


def title(row: CellRow) -> str:
    """A setting in words."""
    lengths = f"sequence {row['seq_len']}" if row["seq_len"] else f"prompt {row['prompt_len']}, {row['new_tokens']} new tokens"
    return f"{row['model']}, {row['dtype']}, {row['device']}, {format.count(row['threads'], 'thread')}, {lengths}"
