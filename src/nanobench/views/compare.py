"""Two recorded runs side by side: what differs, a table of changes, and the verdict."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from nanobench.analysis import compare as analysis
from nanobench.analysis.compare import Change, Comparison, Relation, Row
from nanobench.results.derive import CellRow
from nanobench.views import format, markdown
from nanobench.views.cell_table import CellTable, Column, make

RELATIONS = {
    Relation.SAME_SESSION: "measured on the same machine within an hour",
    Relation.SAME_MACHINE: "measured on the same machine at different times: intervals allow for that",
    Relation.SOFTWARE_DIFF: "measured on the same machine with different software",
    Relation.CROSS_MACHINE: "measured on different machines: only speedups within a run are compared",
}
STYLES = {Change.FASTER: "green", Change.SLOWER: "bold red", Change.SAME: "", Change.AMBIGUOUS: "yellow"}


def ratio_text(row: CellRow) -> str | None:
    """1.003x [0.98, 1.02]; None where there is no ratio."""
    return None if row["ratio"] is None else format.near_one(row["ratio"], row["low"], row["high"])


COLUMNS = (
    Column("of", lambda row: row["kind"], align="left"),
    Column("NEW / BASE\n[95 %]", ratio_text, sorts_by="ratio"),
    Column("change", lambda row: words(row["change"]), align="left", style=lambda row: STYLES.get(row["change"], "dim")),
    Column("reason", lambda row: row["reason"], needs="reason", align="left", wrap=16),
)


def words(change: Change) -> str:
    """A change in words."""
    return change.replace("_", " ")


def table(found: Comparison) -> CellTable:
    """A row for each throughput and each speedup that both runs have."""
    return make([flat(row) for row in found.rows], COLUMNS)


def flat(row: Row) -> CellRow:
    """One row as plain values, its point and arm among them."""
    own = {name: value for name, value in vars(row).items() if name not in ("point", "arm")}
    return {**asdict(row.point), **asdict(row.arm), "arm": row.arm.label, **own}


def lines(found: Comparison, base: str, new: str) -> Iterator[str]:
    """How the runs are related, what differs, and what is missing."""
    yield f"BASE {base}, NEW {new}: {RELATIONS[found.relation]}"
    yield from (f"  differs: {each}" for each in found.differences)
    yield from (f"  {each}" for each in adjustment(found))
    yield from (f"  {each}" for each in found.missing)


def adjustment(found: Comparison) -> Iterator[str]:
    """What the machine itself did, where throughputs are adjusted for it."""
    if found.machine_speed is not None:
        known = sum(speed is not None for speed in found.machine_speeds)
        how_many = f"{known} of {format.count(len(found.machine_speeds), 'throughput')}"
        loop = f"a fixed loop ran {format.near_one(found.machine_speed)} as fast in NEW"
        yield f"adjusted for the speed of the machine: {how_many}; {loop}"


def verdict(found: Comparison) -> Iterator[str]:
    """The verdict over all cells."""
    if found.drift:
        yield f"machine drift suspected: {found.drift}; decide with: nanobench ab"
    if found.relation is Relation.CROSS_MACHINE:
        yield "throughput is not compared: the runs are of different machines (--descriptive shows both)"
        yield from counted(found).values()
        return
    yield f"{words(found.change)}: {'; '.join(counted(found).values()) or 'no cell in common'}"


def counted(found: Comparison) -> dict[str, str]:
    """Kind -> how many of its ratios changed how, for the verdict and for the figure: of 4 throughputs 2 slower, 2 same."""
    return {kind: f"of {format.count(sum(of.values()), kind)} {parts(of)}" for kind, of in analysis.counts(found.rows).items()}


def parts(of: Mapping[Change, int]) -> str:
    """2 slower, 1 not comparable."""
    return ", ".join(f"{of[change]} {words(change)}" for change in Change if of[change])


def descriptive(rows: list[tuple[str, str, float | None, float | None]]) -> list[str]:
    """Throughputs of two machines beside each other, without a ratio."""
    texts = [[name, arm, format.text(base, "tok/s"), format.text(new, "tok/s")] for name, arm, base, new in rows]
    return markdown.grid(["cell", "arm", "BASE tok/s", "NEW tok/s"], texts, right=["BASE tok/s", "NEW tok/s"])


def page(found: Comparison, base: str, new: str) -> str:
    """All of it in Markdown."""
    bullets = [f"- {line.strip()}" for line in [*lines(found, base, new), *verdict(found)]]
    return "\n".join([*bullets, "", *markdown.render(table(found))])


def document(found: Comparison, base: str, new: str) -> dict[str, Any]:
    """All of it for programs."""
    return {
        "base": base,
        "new": new,
        "relation": found.relation,
        "change": found.change,
        "differences": list(found.differences),
        "missing": list(found.missing),
        "drift": found.drift,
        "rows": [flat(row) for row in found.rows],
    }
