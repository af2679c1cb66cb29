"""What a run shows, as one paragraph: what is faster and by how much, why, what to try next, and what is left open.

Every name and every number in it is one of the cells', or counts them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from nanobench.analysis import verdict
from nanobench.analysis.verdict import THROUGHPUTS, count, is_concluded, listed, ratio_text
from nanobench.records import JUDGED, MEASURED, Status
from nanobench.results.derive import CellRow
from nanobench.views import explain, format
from nanobench.views.cell_table import cell_name, varying

MOST_CONCLUSIONS = 3
"""More conclusions than this are counted, with the largest and the smallest ratio."""
MOST_ARMS = 4
"""The limits of a step are named arm by arm up to this number of arms, and counted beyond."""
LIMITS = {
    "host": "limited by the host's dispatching",
    "bandwidth": "limited by moving bytes",
    "compute": "limited by multiplying",
    "allocator": "limited by CUDA's allocator",
    "unexplained": "not explained by the prediction",
}
"""What binds a cell -> how a step of it is."""
NARROWED_BY = {"more launches": "more --launches", "more repetitions": "a larger --max-seconds"}


@dataclass(frozen=True)
class Part:
    """One part of the paragraph."""

    head: str
    """empty for the first"""
    text: str


def paragraph(cells: pd.DataFrame, rows: list[CellRow]) -> list[Part]:
    """The parts that have something to say, in their order. `rows` are the same cells, explained."""
    found = (
        ("", conclusion(cells)),
        ("Why", why(rows)),
        ("Try next", "; ".join(what_to_try(cells, rows))),
        ("Open", " ".join(verdict.not_concluded(cells))),
    )
    return [Part(head, f"{text.rstrip('.')}.") for head, text in found if text]


# What is faster
def conclusion(cells: pd.DataFrame) -> str:
    """The conclusions, each in a sentence; many of them in numbers; without one, what was measured."""
    found = verdict.conclusions(cells)
    if not found:
        return f"{without_ratio(cells)}{fastest(cells)}"
    return ". ".join(found) if len(found) <= MOST_CONCLUSIONS else counted(cells)


def counted(cells: pd.DataFrame) -> str:
    """How many ratios are above, below and around 1, with the largest and the smallest."""
    judged = cells[cells["arm_index"].gt(0) & is_concluded(cells)]
    faster, slower = int(judged["speedup_lo"].gt(1).sum()), int(judged["speedup_hi"].lt(1).sum())
    single = int(judged["speedup_lo"].isna().sum())
    found = {
        "show an arm that is faster than the reference": faster,
        "show a slower one": slower,
        "show no difference": len(judged) - faster - slower - single,
        "have no interval": single,
    }
    numbers = ", ".join(f"{number} {words}" for words, number in found.items() if number)
    ratios = judged["speedup"].astype(float)
    ends = {"largest": judged.loc[ratios.idxmax()], "smallest": judged.loc[ratios.idxmin()]}
    shown = [f"the {name} is {ratio_text(row)}, {place(cells, row)}" for name, row in ends.items()]
    return f"of {count(len(judged), 'reliable ratio')}, {numbers}; {'; '.join(shown)}"


def without_ratio(cells: pd.DataFrame) -> str:
    """Why there is no conclusion about a ratio."""
    if not cells["status"].isin(MEASURED).any():
        return "nothing was measured"
    return "no ratio can be concluded" if cells["arm_index"].gt(0).any() else "one arm was measured, so there is no ratio"


def fastest(cells: pd.DataFrame) -> str:
    """The highest reliable throughput; empty where there is none."""
    row = fastest_row(cells)
    if row is None:
        return ""
    name = next(name for name in THROUGHPUTS if not pd.isna(row[name]))
    value, low, high = (format.text(float(row[name + tail]), "tok/s") for tail in ("", "_lo", "_hi"))
    bounds = "" if format.MISSING in (low, high) else f" [{low}, {high}]"
    return f"; the highest reliable throughput is {value}{bounds} tok/s, {place(cells, row)}"


def fastest_row(cells: pd.DataFrame) -> pd.Series | None:
    """The reliable cell with the highest throughput; None where no cell has one."""
    reliable = cells[cells["status"].isin(JUDGED)]
    rates = pd.concat([reliable[name].astype(float) for name in THROUGHPUTS]).dropna()
    return None if rates.empty else cells.loc[rates.idxmax()]


def place(cells: pd.DataFrame, row: pd.Series) -> str:
    """The name of a cell among others: cached at batch 93 (prompt_len 50)."""
    settings = cells[[name for name in ("run", *verdict.SETTING) if name in cells]].drop_duplicates()
    return cell_name(settings.to_dict("records"), row.to_dict())


# Why
def why(rows: list[CellRow]) -> str:
    """What limits the steps of the reliable cells, or why that is not known; empty where no cell is reliable."""
    reliable = [row for row in rows if row["status"] in JUDGED]
    known = [row for row in reliable if row["bound_by"]]
    if not known:
        return ", ".join(dict.fromkeys(map(explain.cause, reliable)))
    arms = dict.fromkeys(row["arm"] for row in known)
    if varying(rows) or len(arms) > MOST_ARMS:
        numbers = Counter(row["bound_by"] for row in known).most_common()
        parts = (f"{LIMITS.get(bound, bound)} in {number}" for bound, number in numbers)
        return f"a step is {', '.join(parts)} of {count(len(known), 'reliable cell')}"
    of_arms = {arm: [row for row in known if row["arm"] == arm] for arm in arms}
    return "; ".join(of_arm(verdict.marked(arm, found), found) for arm, found in of_arms.items())


def of_arm(arm: str, rows: list[CellRow]) -> str:
    """What limits the steps of one arm: a step of cached is limited by moving bytes at batch 1 and 4."""
    batches: dict[str, list[int]] = {}
    for row in rows:
        batches.setdefault(row["bound_by"], []).append(row["batch_size"])
    parts = (f"{LIMITS.get(bound, bound)} at batch {listed(found)}" for bound, found in batches.items())
    return f"a step of {arm} is {', '.join(parts)}"


# What to try
def what_to_try(cells: pd.DataFrame, rows: list[CellRow]) -> Iterator[str]:
    """What could make the fastest reliable cell faster, and what narrows the intervals that are too wide to say more."""
    row = fastest_row(cells)
    if row is not None:
        same = (each for each in rows if each["arm"] == row["arm"] and each["batch_size"] == row["batch_size"])
        here = next((each for each in same if all(each[name] == row[name] for name in verdict.SETTING)), None)
        if here and here["suggestions"]:
            yield f"{explain.either(here['suggestions'])}, for the fastest reliable cell ({place(cells, row)})"
    holds_one = is_concluded(cells) & cells["speedup_lo"].le(1) & cells["speedup_hi"].ge(1)
    wide = cells[cells["speedup_status"].eq(Status.IMPRECISE) | holds_one]
    advice = Counter(NARROWED_BY.get(each, "more --launches or a larger --max-seconds") for each in wide["ci_advice"])
    if advice:
        parts = [f"{what} for {number}" for what, number in advice.most_common()]
        yield f"{', '.join(parts)} of the {count(len(wide), 'ratio')} whose intervals are wider than the target or contain 1"
