"""Sweeps from Python, the search for a batch size, loading and drawing."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from nanobench.results.store import Run
    from nanobench.schema import Plan
    from nanobench.sweep.batch_search import BatchAnswer
    from nanobench.sweep.job import Audience
    from nanobench.sweep.objects import Files
    from nanobench.sweep.progress import Watch

RUN = "run"
"""Key of a DataFrame's `attrs` that holds the folder of its run."""


# Measure
def kv_sweep(model: Any = None, batch: Any = None, *, progress: bool = False, **options: Any) -> "pd.DataFrame":
    """Compares cached with uncached generation, like `nanobench kv-sweep`; returns its cells (docs/columns.md).

    Each option of the command is a keyword with the same meaning: `--prompt-len 50,100` is `prompt_len=[50, 100]`. `model` is a
    text as on the command line, a build function, an Adapter, or a list of these. `progress` shows a bar.
    Raises nanobench.errors.UserError for what is wrong with the request.
    """
    from nanobench.sweep.options import SweepOptions

    return sweep("kv-sweep", SweepOptions, model, {"batch": batch, **options}, progress)


def train_throughput(model: Any = None, batch: Any = None, *, progress: bool = False, **options: Any) -> "pd.DataFrame":
    """Compares eager with compiled training steps, like `nanobench train-throughput`. Arguments are those of `kv_sweep`."""
    from nanobench.sweep.options import TrainOptions

    return sweep("train-throughput", TrainOptions, model, {"batch": batch, **options}, progress)


def autobatch(model: Any = None, *, progress: bool = False, **options: Any) -> "BatchAnswer":
    """The largest batch that fits, and the smallest that saturates throughput, like `nanobench autobatch`.

    `batch_size` of the answer is the recommended one. Arguments are those of `kv_sweep`.
    """
    from nanobench.errors import writing
    from nanobench.results.out_folder import check_writable
    from nanobench.sweep import autobatch as searches
    from nanobench.sweep import keywords
    from nanobench.sweep.autobatch_options import AutobatchOptions
    from nanobench.views import autobatch as views

    wanted = keywords.read(AutobatchOptions, "autobatch", options)
    wanted.validate()
    if wanted.out:
        check_writable(wanted.out)
    with shipped(model) as (text, files), folders_of_imports():
        found = searches.find(with_model(wanted, text), audience_of(progress).search, files)
    if wanted.out:
        with writing(Path(wanted.out), "give another out; the answer is cached"):
            views.write(found.answer, f"{found.point.model}, {found.arm.label}", Path(wanted.out))
    return found.answer


def sweep(command: str, kind: type, model: Any, given: Mapping[str, Any], progress: bool) -> "pd.DataFrame":
    """Measures a run of a command and returns its cells."""
    from nanobench.results import store
    from nanobench.sweep import job, keywords
    from nanobench.sweep.plan import describe_request

    options = keywords.read(kind, command.replace("-", "_"), given)
    # Before a model is written to a file: a mistake is answered at once.
    describe_request(options)
    with shipped(model) as (text, files), folders_of_imports():
        done = job.run_sweep(with_model(options, text), command, audience_of(progress), files)
    return of_run(store.frame(done.run, done.cells), done.run)


def of_run(cells: "pd.DataFrame", run: "Run") -> "pd.DataFrame":
    """Cells that know the folder, or the URI, of their run."""
    cells.attrs[RUN] = run.place if run.mirror else str(run.folder.absolute())
    return cells


# Models
@contextmanager
def shipped(model: Any) -> "Iterator[tuple[str | None, Files]]":
    """The LIST of models that is written on the command line, and the files of those that are objects in memory.

    The files are in a folder that only this user can read, and are deleted at the end.
    """
    models = list(model) if isinstance(model, list | tuple) else [model]
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        files: dict[str, str] = {}
        texts = [text_of(each, Path(folder), files) for each in models if model is not None]
        yield None if model is None else ",".join(texts), files


def text_of(model: Any, folder: Path, files: dict[str, str]) -> str:
    """A model as the command line names it. An object is written into the folder, and noted in `files`."""
    from nanobench.registry import importable

    if isinstance(model, str):
        return model
    if importable.is_build(model):
        return importable.text_of(model)
    from nanobench.models import object as in_memory

    saved = in_memory.save(model, folder)
    files[saved.name] = saved.text
    return saved.name


def with_model(options: Any, text: str | None) -> Any:
    """Options with a LIST of models; the default of the command without one."""
    return options if text is None else replace(options, model=text)


@contextmanager
def folders_of_imports() -> Iterator[None]:
    """Lets workers import what this process can import: the modules beside a script, whatever the current folder is."""
    from nanobench.source_code import is_installed

    before = os.environ.get("PYTHONPATH")
    own = [str(Path(folder).absolute()) for folder in sys.path if folder and Path(folder).is_dir() and not is_installed(folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*own, *(before or "").split(os.pathsep)])).strip(os.pathsep)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


# Progress
def audience_of(progress: bool) -> "Audience":
    """Who is informed: a bar on standard error or in the notebook, or nobody. An interrupt says where the run is."""
    from nanobench.results.request import SWEEPS
    from nanobench.sweep.autobatch import ignore
    from nanobench.sweep.job import SILENT
    from nanobench.views import autobatch as views
    from nanobench.views.console import beside_output
    from nanobench.views.progress import Screen
    from nanobench.views.terminal import say

    console = beside_output()

    @contextmanager
    def measuring(run: "Run", plan: "Plan") -> "Iterator[Watch]":
        try:
            with Screen(console) if progress else nullcontext() as screen:
                yield screen.show if screen else ignore
        except KeyboardInterrupt as interrupt:
            resume = f"; resume={run.place!r} measures the others" if run.info().command in SWEEPS else ""
            interrupt.add_note(f"finished trials are kept in {run.place}{resume}")
            raise

    if not progress:
        return replace(SILENT, measuring=measuring)

    def tell(line: str) -> None:
        say(console, line)

    return replace(SILENT, waiting=tell, measuring=measuring, search=views.listener(tell))


# Read
def load(path: str | Path = "results", columns: Sequence[str] | None = None, filters: Any = None) -> "pd.DataFrame":
    """The cells of a run, or of all runs below a folder or a URI, as a DataFrame with one row per cell (docs/columns.md).

    `columns` and `filters` are those of pandas.read_parquet, like `filters=[("batch_size", ">=", 8)]`: with many runs only what
    is needed is read. Raises nanobench.errors.UserError where there is no run, and for an unknown column.
    """
    from nanobench.results import finder, store

    runs = finder.find_runs(path)
    cells = store.load_runs(runs, columns, filters)
    return of_run(cells, runs[0]) if len(runs) == 1 else cells


def plot(name: str, results: "pd.DataFrame | str | Path" = "results") -> "Figure":
    """A figure of a DataFrame that a sweep returned, or of the newest run below a folder or a URI.

    `nanobench list plots` has the names. Raises nanobench.errors.UserError for an unknown name, and where the data does not
    allow the figure.
    """
    from nanobench.results import finder, store
    from nanobench.results.place import is_uri
    from nanobench.results.store import Run
    from nanobench.views import plots

    if isinstance(results, str | Path):
        run = finder.find_runs(results)[-1]
        return plots.figure(name, store.load_runs([run]), run.read_raw())
    place = results.attrs.get(RUN)
    if place is None:
        return plots.figure(name, results, [])
    run = finder.find_runs(place)[0] if is_uri(place) else Run(Path(place))
    return plots.figure(name, results, run.read_raw())
