"""The page of one run: the verdict first, then the figure that shows it, the table, and all that stands behind them."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nanobench.analysis import diagnostics, verdict
from nanobench.analysis.interpolated import of_run
from nanobench.analysis.report import Study
from nanobench.records import MEASURED, Description
from nanobench.results import request
from nanobench.results.store import records
from nanobench.source_code import digest
from nanobench.views import ab, explain, format, interpolated, plots, reliability, summary, sweep
from nanobench.views import report as markdown
from nanobench.views.cell_table import CellTable, Column, in_order, keys, make, varying
from nanobench.views.env import plain
from nanobench.views.html import evidence, grid
from nanobench.views.html import page as frame
from nanobench.views.html.drawing import Inks, inline
from nanobench.views.html.selftest import Selftest, selftest_of

HEADLINES = (
    "speedup_by_arm",
    "speedup_vs_batch",
    "speedup_vs_length",
    "training_vs_batch",
    "throughput_ttft_memory_vs_batch",
)
"""The figure that stands beside the verdict: the first of these that the run has, else its first figure."""
STATUSES = {
    "ok": "reliable and precise",
    "imprecise": "reliable; its interval is wider than the target",
    "unstable": "something disturbed it: its absolute figures are shown, and excluded from conclusions; "
    "its ratio has a status of its own",
    "no_steady_state": "it never settled: its absolute figures are shown, and excluded from conclusions; "
    "its ratio has a status of its own",
    "implausible": "faster than the machine's limits allow: shown, and excluded from conclusions",
    "wrong": "it computes something else than the reference, and was not timed",
    "skipped": "it cannot run, or was not worth a launch in a search; the reason says why",
    "oom": "it ran out of memory",
    "timeout": "it did not end in time",
    "error": "it failed; the reason says why",
}
BOUNDS = {
    "host": "the largest part of the predicted step is dispatching operations one by one",
    "bandwidth": "the largest part of the predicted step is moving bytes",
    "compute": "the largest part of the predicted step is multiplying",
    "allocator": "CUDA's allocator had to free its cache to go on",
    "unexplained": "the measured step differs from the predicted one by more than 30 %",
}
WIDER = "the interval of the answer allows for several looks at growing data, so it is wider than those in the table"
MOST_SENTENCES = 16
"""Sentences about single cells that are shown at once; more are folded."""
FAILURE = (
    Column("status", lambda row: row["status"], align="left"),
    Column("failed launches", lambda row: format.text(row["launches_failed"], "count"), sorts_by="launches_failed"),
    Column("reason", lambda row: row["reason"] if row["status"] not in MEASURED else row["failures"], align="left"),
)


@dataclass(frozen=True)
class Figure:
    """A figure with its caption."""

    name: str
    caption: str
    drawing: Markup


@dataclass(frozen=True)
class Answers:
    """What the command that measured a run says beyond its cells."""

    compared: ab.Recorded | None
    selftest: Selftest | None

    @classmethod
    def of(cls, study: Study) -> "Answers":
        """Those of a run."""
        return cls(ab.recorded(study.info, study.launches), selftest_of(study))

    @property
    def remarks(self) -> list[str]:
        """What tells the answer from the ratios in the table."""
        return [WIDER] if self.compared else []

    def content(self) -> dict[str, Any]:
        """What the page shows of them."""
        several = self.compared is not None and len(self.compared.answers) > 1
        table = grid.of_table(ab.table(self.compared)) if self.compared and several else None
        return {"selftest": self.selftest, "answers": table}


@dataclass(frozen=True)
class Section:
    """A part of the page that has something to show."""

    id: str
    title: str


def page(study: Study, paths: list[Path]) -> str:
    """The page of a run; `paths` are the files of its figures."""
    inks, answers = Inks(), Answers.of(study)
    figures = [figure(path, inks) for path in paths if path.suffix == ".svg"]
    by_name = {each.name: each for each in figures}
    headline = next((by_name[name] for name in HEADLINES if name in by_name), figures[0] if figures else None)
    content = {**results(study), **answers.content(), **reasons(study), **conditions(study), **method(study)}
    content |= {"headline": headline, "figures": [each for each in figures if each is not headline]}
    return frame.render("run.html", inks, **heading(study, answers), **content, sections=sections(content))


def figure(path: Path, inks: Inks) -> Figure:
    """A figure that was drawn, with what it shows."""
    caption = plots.about(path.stem).replace("`", "")
    return Figure(path.stem, caption, inline(path, caption, inks))


def sections(content: Mapping[str, Any]) -> list[Section]:
    """The parts of the page, for its list of links."""
    known = (
        ("verdict", "Verdict", True),
        ("selftest", "Self-test", content["selftest"]),
        ("answers", "Answers", content["answers"]),
        ("cells", "Cells", True),
        ("figures", "Figures", content["figures"]),
        ("reasons", "Reasons and predictions", True),
        ("reliability", "Reliability", True),
        ("machine", "Machine", True),
        ("method", "Method", True),
        ("again", "Reproduce it", True),
    )
    return [Section(name, title) for name, title, shown in known if shown]


# The first screen
def heading(study: Study, answers: Answers) -> dict[str, Any]:
    """Title, date, machine, models, the verdict and the statuses of all cells."""
    info, cells = study.info, study.cells
    return {
        "title": f"nanobench {info.command}: {study.name}",
        "command": info.command,
        "name": study.name,
        "when": when(study),
        "hardware": info.hardware,
        "models": ", ".join(dict.fromkeys(cells["model"])),
        "numbers": [(name, int(number), STATUSES.get(name, "")) for name, number in cells["status"].value_counts().items()],
        "paragraph": paragraph(study, answers),
        "remarks": [*answers.remarks, *remarks(study)],
        "conclusions": [] if answers.compared else verdict.conclusions(cells),
    }


def paragraph(study: Study, answers: Answers) -> list[summary.Part]:
    """The verdict: the answer of the command that measured, or what the cells show."""
    if answers.compared:
        return ab.paragraph(answers.compared)
    cells = summary.paragraph(study.cells, study.rows)
    if not answers.selftest:
        return cells
    first, *others = cells
    return [summary.Part("", answers.selftest.sentence), summary.Part("This run", first.text), *others]


def when(study: Study) -> str:
    """When the run began, and how long it measured."""
    day, _, time = study.info.started_at.partition("T")
    took = f", {format.duration(study.info.wall_s)} of measuring" if study.info.wall_s else ""
    return f"{day} {time[:5]}{took}"


def remarks(study: Study) -> list[str]:
    """How precise the figures are, what was measured again, and whether the run is complete."""
    cells, info = study.cells, study.info
    unfinished = [] if info.finished_at else ["the run was not finished when this page was made"]
    return [
        *verdict.precision(cells),
        *verdict.cancelling(cells),
        *verdict.launched_again(cells),
        *info.notes,
        *unfinished,
    ]


# The table and what stands behind it
def results(study: Study) -> dict[str, Any]:
    """The table of cells, the document behind its rows, the curve of an adaptive sweep, and what was not measured."""
    rows = in_order(records(study.cells))
    curve = of_run(study.cells, study.info.plan)
    failed = [row for row in rows if row["status"] not in MEASURED or row["failures"]]
    return {
        "table": grid.of_table(sweep.results(rows)),
        "evidence": evidence.of_rows(rows, study.launches, study.files),
        "curve": grid.of_table(interpolated.curve(curve)) if curve else None,
        "curve_sentence": interpolated.sentence(curve) if curve else "",
        "failures": grid.of_table(CellTable((*keys(rows), *FAILURE), failed)) if failed else None,
    }


# Why
def reasons(study: Study) -> dict[str, Any]:
    """Prediction and measurement, cell by cell, where arms pay, and what is not known."""
    rows = study.rows
    found = dict.fromkeys(row["bound_by"] for row in rows if row["bound_by"])
    return {
        "explained": grid.of_table(make(rows, explain.COLUMNS)),
        "bounds": [(bound, BOUNDS.get(bound, "")) for bound in found],
        "sentences": explain.sentences(rows),
        "most_sentences": MOST_SENTENCES,
        "crossings": [explain.crossing(each, varying(rows)) for each in study.crossovers],
        "unknown": list(explain.unknown(rows, study.info.command, study.info.requested)),
    }


# How far to trust it
def conditions(study: Study) -> dict[str, Any]:
    """How reliable the run is, and the machine that measured it."""
    description, table = study.info.description, reliability.table(study.cells)
    return {
        "statements": reliability.statements(study.cells),
        "spread": grid.of_table(table) if table else None,
        "spread_legend": reliability.LEGEND,
        "identity": facts(description.identity),
        "state": facts(description.state),
        "problems": problems(description),
        "shapes": {name: markdown.model_words(shape) for name, shape in description.models.items()},
    }


def facts(values: Mapping[str, Any]) -> dict[str, str]:
    """What is known, in words."""
    return {name.replace("_", " "): plain(value) for name, value in values.items() if value not in (None, [], {})}


def problems(description: Description) -> list[diagnostics.Problem] | None:
    """The problems of the machine before the start; None where its state was not recorded."""
    return diagnostics.problems(description.identity, description.state) if description.state else None


# How it was made
def method(study: Study) -> dict[str, Any]:
    """What was run and how, and how to do it again."""
    info = study.info
    run = markdown.what_was_run(info, study.cells)
    return {
        "run": {name: text for name, text in run.items() if name not in ("command", "when")},
        "steps": markdown.method(info, study.cells, study.timed_share),
        "measure": request.again(info.command, info.requested),
        "resume": "" if info.finished_at else request.resumed(info.command, study.place),
        "report": f"nanobench report {shlex.quote(study.place)}",
        "code": list(code(study)),
    }


def code(study: Study) -> Iterator[str]:
    """The source code that measured, as far as it is known."""
    sources = study.info.description.code
    for name, source in sources.items():
        commit = f", commit {source.commit}" if source.commit else ""
        yield f"{name}: {format.count(len(source.files), 'file')}{commit}{', with local changes' if source.dirty else ''}"
    if sources:
        yield f"hash of all files: {digest(sources)}"
    elif (known := study.info.description.state.get("commit")) is not None:
        yield f"commit {known}"
