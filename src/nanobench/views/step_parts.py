"""Which part of a step is predicted to be the largest: one source for the paragraph of a report and for the roofline figure."""

from collections import Counter
from collections.abc import Iterable

from nanobench.analysis.verdict import count, listed, marked
from nanobench.records import JUDGED
from nanobench.results.derive import CellRow
from nanobench.results.metrics.roofline import UNEXPLAINED
from nanobench.views import format
from nanobench.views.cell_table import varying

MOST_ARMS = 4
"""The largest parts are named arm by arm up to this number of arms, and counted beyond."""
PARTS = {"host": "dispatching operations", "bandwidth": "moving bytes", "compute": "multiplying"}
"""What binds a cell -> what a step of it is predicted to spend most of its time on."""
OTHERS = {
    "allocator": "CUDA's allocator ran out and freed its cache to go on",
    "unexplained": f"the measured step differs from the predicted one by more than {format.percent(UNEXPLAINED)}",
}
"""What binds a cell, where that is no part of the prediction."""
LETTERS = {"host": "D", "bandwidth": "B", "compute": "M", "allocator": "A", "unexplained": "?"}
"""What binds a cell -> its letter in a figure."""


def judged(rows: Iterable[CellRow]) -> list[CellRow]:
    """The reliable cells of which it is known what binds them."""
    return [row for row in rows if row["status"] in JUDGED and row["bound_by"]]


def sentence(rows: list[CellRow]) -> str:
    """The largest predicted part of a step of each arm, with its share; of many arms or settings, in how many cells it is which
    part. Only reliable cells count; empty where nothing is known of any of them.
    """
    known = judged(rows)
    arms = dict.fromkeys(row["arm"] for row in known)
    if known and (varying(rows) or len(arms) > MOST_ARMS):
        return counted(known)
    of_arms = {arm: [row for row in known if row["arm"] == arm] for arm in arms}
    return "; ".join(of_arm(marked(arm, found), found) for arm, found in of_arms.items())


def of_arm(arm: str, rows: list[CellRow]) -> str:
    """the largest predicted part of a step of cached is moving bytes at batch 1 and 4 (49 to 58 % of it)."""
    groups = grouped(rows)
    parts = [f"{PARTS[bound]} at {batches(found)} ({shares(found)})" for bound, found in groups.items() if bound in PARTS]
    others = [f"{arm} at {batches(found)}: {OTHERS.get(bound, bound)}" for bound, found in groups.items() if bound not in PARTS]
    head = [f"the largest predicted part of a step of {arm} is {', '.join(parts)}"] if parts else []
    return "; ".join([*head, *others])


def counted(rows: list[CellRow]) -> str:
    """of 12 reliable cells: the largest predicted part of a step is moving bytes in 4 (45 to 58 % of it), multiplying in 8."""
    groups, sizes = grouped(rows), Counter(row["bound_by"] for row in rows).most_common()
    parts = [f"{PARTS[bound]} in {number} ({shares(groups[bound])})" for bound, number in sizes if bound in PARTS]
    others = [f"{OTHERS.get(bound, bound)} in {number}" for bound, number in sizes if bound not in PARTS]
    head = [f"the largest predicted part of a step is {', '.join(parts)}"] if parts else []
    return f"of {count(len(rows), 'reliable cell')}: {'; '.join([*head, *others])}"


def grouped(rows: Iterable[CellRow]) -> dict[str, list[CellRow]]:
    """What binds cells -> these cells, in the order in which that is met."""
    groups: dict[str, list[CellRow]] = {}
    for row in rows:
        groups.setdefault(row["bound_by"], []).append(row)
    return groups


def batches(rows: Iterable[CellRow]) -> str:
    """batch 1, 4 and 8."""
    return f"batch {listed(row['batch_size'] for row in rows)}"


def shares(rows: Iterable[CellRow]) -> str:
    """49 to 58 % of it: the smallest and the largest share of the largest part."""
    found = sorted(row["bound_share"] for row in rows if row["bound_share"] is not None)
    if not found:
        return "its share is not known"
    low, high = (format.percent(share) for share in (found[0], found[-1]))
    return f"{high} of it" if low == high else f"{low.removesuffix(' %')} to {high} of it"


def letters(rows: Iterable[CellRow]) -> str:
    """What the letters of a figure mean, as far as they occur: B moving bytes, M multiplying."""
    found = {row["bound_by"] for row in rows if row["bound_by"]}
    words = {**PARTS, "allocator": "the allocator had to free its cache", "unexplained": "prediction and measurement differ"}
    return ", ".join(f"{LETTERS[bound]} {words[bound]}" for bound in LETTERS if bound in found)
