"""Comparisons from Python: two sides measured in turns, and two recorded runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobench.api.sweeps import audience_of, folders_of_imports

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Compared:
    """The answer of an A/B comparison: what `nanobench ab --json` prints, and the folder of its run."""

    base: str
    new: str
    answer: str
    """faster, slower, same, undecided, different outputs or failed"""
    decision: str
    """keep, discard or need more"""
    ratio: float | None
    """time of BASE over time of NEW: above 1 where NEW is faster"""
    low: float | None
    high: float | None
    """interval that holds at all looks together"""
    launches: int
    needed: int | None
    """launches after which an undecided comparison is expected to be decided"""
    reason: str | None
    gate: list[str]
    """what the gate across the sides found"""
    points: list[dict[str, Any]]
    """the answer at each point"""
    wall_s: float
    run: str
    """the folder that keeps it"""


def ab(base: Any, new: Any, *, progress: bool = False, **options: Any) -> Compared:
    """Is `new` faster than `base`, and still right? Measures both in turns until it is decided, like `nanobench ab`.

    A side is a text as on the command line, or a build function. Each option of the command is a keyword with the same
    meaning: `--base-arg compile_mode=off` is `base_arg=["compile_mode=off"]`. `progress` shows a bar.
    Raises nanobench.errors.UserError for what is wrong with the request, and where a side cannot run.
    """
    from nanobench.sweep import ab as comparison
    from nanobench.sweep import keywords
    from nanobench.sweep.ab_options import AbOptions
    from nanobench.views import ab as views

    made = keywords.read(AbOptions, "ab", {"base": side(base), "new": side(new), **options})
    made.refuse()
    with folders_of_imports():
        found = comparison.run(made, audience_of(progress))
    document = views.document(found.names, found.answers, found.over_all, found.run.read_raw(), found.run.info().wall_s)
    return Compared(**document, run=found.run.place if found.run.mirror else str(found.run.folder.absolute()))


def side(given: Any) -> str:
    """A side as the command line names it. Raises UserError for what is neither a text nor a build function."""
    from nanobench.errors import UserError
    from nanobench.registry import importable

    if isinstance(given, str):
        return given
    if importable.is_build(given):
        return importable.text_of(given)
    raise UserError(f"a side is a text like 'main' or 'my_gpt:build', or a build function, not a {type(given).__name__}")


def compare(base: str | Path, new: str | Path) -> "pd.DataFrame":
    """How each cell changed from one recorded run to another, like `nanobench compare`: a row per throughput and per speedup.

    `attrs` has `relation`, `change` (the verdict over all cells), `differences`, `missing` and `drift`.
    Raises nanobench.errors.UserError for runs that cannot be compared at all.
    """
    import pandas as pd

    from nanobench.analysis import compare as analysis
    from nanobench.analysis import recorded_run
    from nanobench.views import compare as views

    document = views.document(analysis.compare(recorded_run.read(base), recorded_run.read(new)), str(base), str(new))
    rows = pd.DataFrame(document.pop("rows"))
    rows.attrs |= document
    return rows
