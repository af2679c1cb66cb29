"""The page of a comparison of two recorded runs: the verdict first, then the figure, the table, and what differs."""

import tempfile
from pathlib import Path

from nanobench.analysis.compare import Comparison, Relation
from nanobench.errors import UserError
from nanobench.views import compare as words
from nanobench.views.figures import compare_forest
from nanobench.views.html import grid
from nanobench.views.html import page as frame
from nanobench.views.html.drawing import Inks, inline
from nanobench.views.html.run_page import Figure

NOTHING = "The runs have no cell in common."
ALONE = "The runs have no speedup in common, and throughput of two machines is not compared."
CAPTION = "How each cell changed from BASE to NEW, with 95 % intervals."


def page(found: Comparison, base: str, new: str) -> str:
    """The page of a comparison; `base` and `new` name the runs."""
    inks = Inks()
    return frame.render(
        "compare.html",
        inks,
        title=f"nanobench compare: {base} and {new}",
        base=base,
        new=new,
        relation=words.RELATIONS[found.relation],
        verdict=list(words.verdict(found)),
        figure=drawn(found, base, new, inks),
        table=grid.of_table(words.table(found)) if found.rows else None,
        differences=list(found.differences),
        adjustment=list(words.adjustment(found)),
        nothing=ALONE if found.relation is Relation.CROSS_MACHINE else NOTHING,
        missing=list(found.missing),
    )


def drawn(found: Comparison, base: str, new: str, inks: Inks) -> Figure | None:
    """The figure of the comparison; None where no cell has a ratio."""
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        try:
            paths = compare_forest.draw(found, base, new, Path(folder))
        except UserError:
            return None
        return Figure("compare_forest", CAPTION, inline(paths[-1], CAPTION, inks))
