"""What a sweep shows, in a few plain sentences: each arm's ratio and where it pays, how precise the rest is, what is left open.

Ratios are concluded by `speedup_status`, absolute figures by `status`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from nanobench.records import JUDGED, MEASURED, Status, Verdict
from nanobench.results.repetitions import POINT_FIELDS, point_of
from nanobench.results.status import NEVER_SETTLED, count_causes
from nanobench.results.store import records
from nanobench.schema import Point

SETTING = [name for name in POINT_FIELDS if name != "batch_size"]
THROUGHPUTS = ("output_tok_s", "train_tok_s")
LOSSY, SYNTHETIC = str(Verdict.LOSSY), str(Verdict.SYNTHETIC)
"""The verdicts that stand beside every ratio of an arm whose output is not the model's."""
CANCELS = (
    "both arms ran in turns in the same process, so what disturbs both cancels in their ratio; absolute figures do not profit"
)
"""Why a ratio may be reliable although its cells are not."""
WITHOUT_CAUSE = {Status.NO_STEADY_STATE: NEVER_SETTLED, Status.IMPLAUSIBLE: "faster than the limits of the machine allow"}
"""Statuses that need no cause."""
MOST_REASONS = 4
"""Reasons that a sentence names."""
MOST_PLACES = 3
"""Groups of ratios without a conclusion that name their batch sizes; more are only counted."""


def stated(cells: pd.DataFrame) -> list[str]:
    """The fields of a setting that say something: not those at their default everywhere, as the other workload's are."""
    return [name for name in SETTING if not cells[name].eq(getattr(Point, name, None)).all()]


def varying(cells: pd.DataFrame, setting: tuple) -> list[tuple[str, object]]:
    """The parts of a setting that differ within the cells."""
    return [(name, value) for name, value in zip(SETTING, setting, strict=True) if cells[name].nunique() > 1]


def sentences(cells: pd.DataFrame) -> list[str]:
    """All of it: the conclusions, how precise ratios and absolute figures are, and at last what is not concluded and why."""
    return [*conclusions(cells), *precision(cells), *cancelling(cells), *launched_again(cells), *not_concluded(cells)]


# Concluded
def conclusions(cells: pd.DataFrame) -> list[str]:
    """One sentence per setting and arm other than the reference that has a reliable ratio, from the intervals alone."""
    found = []
    for setting, group in cells.groupby(SETTING, sort=False):
        differing = ", ".join(f"{name} {value}" for name, value in varying(cells, setting))
        reference = named(group[group["arm_index"] == 0])
        for _, rows in group[group["arm_index"] > 0].groupby("arm", sort=False):
            if sentence := conclusion(named(rows), reference, rows.sort_values("batch_size")):
                found.append(sentence + (f" ({differing})" if differing else ""))
    return found


def mark_of(cell: Mapping[Any, Any] | pd.Series) -> str:
    """What stands beside the figures of a cell whose output is not the model's: lossy, or synthetic acceptance 0.7; empty for
    all others.
    """
    if cell.get("gate") == SYNTHETIC:
        words = cell.get("synthetic")
        return words if isinstance(words, str) else SYNTHETIC
    return LOSSY if cell.get("gate") == LOSSY else ""


def marked(name: str, cells: Iterable[Mapping[Any, Any] | pd.Series]) -> str:
    """A name of some cells, with what stands beside it: cached int8 (lossy)."""
    mark = next(filter(None, map(mark_of, cells)), "")
    return f"{name} ({mark})" if mark else name


def named(rows: pd.DataFrame) -> str:
    """The name of the arm of some cells; that of an approximation says so: cached int8 (lossy, KL 0.0021 nats)."""
    name = marked(str(rows["arm"].iloc[0]), (row for _, row in rows.iterrows()))
    most = rows["kl_nats"].astype(float).max() if "kl_nats" in rows else float("nan")
    return f"{name[:-1]}, KL {most:.2g} nats)" if name.endswith(f"({LOSSY})") and not pd.isna(most) else name


def conclusion(arm: str, reference: str, rows: pd.DataFrame) -> str:
    """Where an arm is faster, slower or not shown to differ, each with its ratios; empty without a reliable ratio."""
    judged = rows[is_concluded(rows)]
    faster, slower, single = judged["speedup_lo"].gt(1), judged["speedup_hi"].lt(1), judged["speedup_lo"].isna()
    found = (
        (f"{arm} is faster than {reference}", "faster", judged[faster]),
        (f"{arm} is slower than {reference}", "slower", judged[slower]),
        (
            f"no difference between {arm} and {reference} is shown",
            "no difference is shown",
            judged[~(faster | slower | single)],
        ),
        (f"{arm} vs {reference} has no interval, from one pair", "no interval, from one pair", judged[single]),
    )
    known = [each for each in found if len(each[2])]
    heads = [short if number else full for number, (full, short, _) in enumerate(known)]
    texts = (f"{head} {where(part, judged, rows)}: {ratios(part)}" for head, (*_, part) in zip(heads, known, strict=True))
    return "; ".join(texts).replace("is shown at every", "is shown at any")


def is_concluded(rows: pd.DataFrame) -> pd.Series:
    """Of each cell whether its ratio enters conclusions."""
    return rows["speedup_status"].isin(JUDGED) & rows["speedup"].notna()


def where(found: pd.DataFrame, judged: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The batch sizes of some rows, as a range where nothing is missing in it."""
    batches, every = found["batch_size"].tolist(), rows["batch_size"].tolist()
    if len(batches) > 1 and batches == every:
        return f"at every batch size from {batches[0]} to {batches[-1]}"
    if len(batches) > 1 and batches == judged["batch_size"].tolist()[-len(batches) :] == every[-len(batches) :]:
        return f"from batch {batches[0]} to {batches[-1]}"
    return f"at batch {listed(batches)}"


def listed(values: Iterable[object]) -> str:
    """1, 4 and 8."""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def ratios(rows: pd.DataFrame) -> str:
    """The ratio at the smallest batch size, and the one farthest from it: 1.5x [1.2, 1.9] at batch 1, 3x [2, 4] at batch 8."""
    first = rows.iloc[0]
    distance = (rows["speedup"].astype(float) / float(first["speedup"])).map(lambda ratio: max(ratio, 1 / ratio))
    last = rows.loc[distance.idxmax()]
    if len(rows) == 1:
        return ratio_text(first)
    if last["batch_size"] == first["batch_size"]:
        last = rows.iloc[-1]
    return ", ".join(f"{ratio_text(row)} at batch {row['batch_size']}" for row in (first, last))


def ratio_text(row: pd.Series) -> str:
    """5.3x [4.9, 5.7], or 5.3x without an interval where one value is all there is."""
    if pd.isna(row["speedup_lo"]):
        return f"{row['speedup']:.3g}x"
    inside = "" if row["speedup_basis"] == "launches" else " within one process"
    return f"{row['speedup']:.3g}x [{row['speedup_lo']:.3g}, {row['speedup_hi']:.3g}]{inside}"


# Precision
def precision(cells: pd.DataFrame) -> list[str]:
    """How precise ratios and absolute figures are, and what disturbed the latter."""
    measured = cells[cells["status"].isin(MEASURED)]
    widths = half_widths(measured)
    if measured.empty:
        return []
    figures = "absolute figures have no interval, from one repetition each" if widths.empty else ""
    ratios = relative_half_widths(cells[is_concluded(cells)], "speedup").dropna()
    both = f"ratios are {within(ratios.max())}, absolute figures" if len(ratios) else "absolute figures are"
    figures = figures or f"{both} {within(widths.max())}"
    disturbed = measured[~measured["status"].isin(JUDGED)]
    if disturbed.empty:
        return [figures]
    words = why_unreliable(disturbed, "status")
    return [f"{figures}, and not reliable in {len(disturbed)} of {count(len(measured), 'cell')}: {words}"]


def cancelling(cells: pd.DataFrame) -> list[str]:
    """Why ratios are concluded although a cell of theirs is unreliable; empty where none is of that kind."""
    rows = records(cells)
    unreliable = [row for row in rows if row["status"] in MEASURED and row["status"] not in JUDGED]
    references = {point_of(row) for row in unreliable if row["arm_index"] == 0}
    pairs = [
        row for row in rows if row["pairing"] == "block" and row["speedup"] is not None and row["speedup_status"] in JUDGED
    ]
    number = sum(row["status"] not in JUDGED or point_of(row) in references for row in pairs)
    if not number:
        return []
    which = "ratio has a conclusion although one of its" if number == 1 else "ratios have a conclusion although one of their"
    return [f"{number} {which} cells is unreliable, or both are: {CANCELS}"]


def within(share: float) -> str:
    """Within 12 %. Above 100 % the number says nothing more."""
    return f"within {percent(share)}" if share <= 1 else "uncertain by more than 100 %"


def half_widths(measured: pd.DataFrame) -> pd.Series:
    """Half the width of each throughput's interval, as a share of the throughput; without those that have none."""
    return pd.concat([relative_half_widths(measured, name) for name in THROUGHPUTS]).dropna()


def relative_half_widths(cells: pd.DataFrame, name: str) -> pd.Series:
    """The same of one column."""
    value, low, high = (cells[column].astype(float) for column in (name, f"{name}_lo", f"{name}_hi"))
    return (high - low) / 2 / value


def launched_again(cells: pd.DataFrame) -> list[str]:
    """How many launches were added to the planned ones, and how many disturbed ones they replace."""
    points = cells.groupby(POINT_FIELDS, sort=False, dropna=False)[["launches_extra", "launches_set_aside"]].max()
    extra, aside = (int(points[name].sum()) for name in points)
    if not extra:
        return []
    where = count(int(points["launches_extra"].gt(0).sum()), "point")
    replaced = f"; they replace {aside} disturbed ones, whose times are kept and do not count" if aside else ""
    return [f"{count(extra, 'launch', 'launches')} added at {where}{replaced}"]


def percent(share: float) -> str:
    """12 %, or 0.85 % where it is small."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def count(number: int, noun: str, plural: str = "") -> str:
    """1 cell, 2 cells, 3 launches."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


# Not concluded
def not_concluded(cells: pd.DataFrame) -> list[str]:
    """Which ratios have no conclusion and why, in one sentence; without ratios, which cells were not measured."""
    pairs = cells[cells["arm_index"] > 0]
    if pairs.empty:
        failed = cells[~cells["status"].isin(MEASURED)].assign(why=lambda rows: rows.apply(why_not_measured, axis=1))
        return [f"not measured: {grouped(failed)}"] if len(failed) else []
    open_ones = pairs[~is_concluded(pairs)]
    if open_ones.empty:
        return []
    open_ones = open_ones.assign(why=open_ones.apply(why_not_concluded, axis=1))
    return [f"no conclusion for {len(open_ones)} of {count(len(pairs), 'ratio')}: {grouped(open_ones)}"]


def grouped(rows: pd.DataFrame) -> str:
    """Cells by the reason why they say nothing, with their places where there are few; of many reasons the most frequent."""
    groups = list(rows.groupby("why", sort=False))
    others = []
    if len(groups) > MOST_REASONS:
        groups.sort(key=lambda pair: len(pair[1]), reverse=True)
        groups, others = groups[: MOST_REASONS - 1], groups[MOST_REASONS - 1 :]
    named = len(groups) <= MOST_PLACES and not others and rows[SETTING].drop_duplicates().shape[0] == 1
    parts = [f"{places(found) if named else len(found)}, because {why}" for why, found in groups]
    if others:
        parts.append(f"{sum(len(found) for _, found in others)} for {len(others)} other reasons, which their rows name")
    return "; ".join(parts)


def places(rows: pd.DataFrame) -> str:
    """cached at batch 1 and 4, compiled at batch 8."""
    return ", ".join(f"{arm} at batch {listed(sorted(found['batch_size']))}" for arm, found in rows.groupby("arm", sort=False))


def why_not_concluded(row: pd.Series) -> str:
    """The kinds of what made a ratio unreliable, in words; else its status and reason."""
    status, reason = row["speedup_status"], row["speedup_reason"]
    if status == Status.UNSTABLE and not pd.isna(row["speedup_disturbed_by"]):
        return " and ".join(cause for cause, _ in count_causes([row["speedup_disturbed_by"]]))
    if status == Status.NO_STEADY_STATE:
        return "the ratio drifts or jumps and never settles"
    return failure(status, reason)


def why_not_measured(row: pd.Series) -> str:
    """The status and reason of a cell."""
    return failure(row["status"], row["reason"])


def failure(status: str, reason: object) -> str:
    """oom (out of memory)."""
    return f"{status} ({reason})" if isinstance(reason, str) and reason else str(status)


# For the report
def disturbances(cells: pd.DataFrame) -> list[str]:
    """What made absolute figures unreliable and ratios less certain, the most frequent first."""
    lines = []
    for status in (Status.UNSTABLE, *WITHOUT_CAUSE):
        found = cells[cells["status"].eq(status)]
        if len(found) == 1:
            lines.append(f"absolute figures of 1 cell are {status}: {found['reason'].iloc[0]}")
        elif len(found):
            lines.append(f"absolute figures of {len(found)} cells are {status}: {why_unreliable(found, 'status')}")
    widened = cells[cells["speedup_widening"].gt(0)]
    if len(widened):
        most = percent(widened["speedup_widening"].max())
        words = causes_of(widened["speedup_disturbed_by"].dropna())
        lines.append(f"intervals of {count(len(widened), 'ratio')} are wider, by at most {most}: {words}")
    return lines


def why_unreliable(cells: pd.DataFrame, status: str) -> str:
    """What made cells or ratios unreliable, by the column of their statuses; empty where that is not known."""
    kinds = cells.loc[cells[status].eq(Status.UNSTABLE), status.replace("status", "disturbed_by")].dropna()
    others = {words: int(cells[status].eq(each).sum()) for each, words in WITHOUT_CAUSE.items()}
    said = [causes_of(kinds)] if len(kinds) else []
    return "; ".join([*said, *(f"{words} ({number})" for words, number in others.items() if number)])


def causes_of(kinds: Iterable[str]) -> str:
    """What disturbed some cells, in words, each with the number of cells."""
    return "; ".join(f"{cause} ({number})" for cause, number in count_causes(kinds))


def timestamp_overhead(cells: pd.DataFrame) -> str:
    """What taking a time at every token cost, in the worst cell (by its upper bound where it has one)."""
    measured = cells[cells["status"].isin(MEASURED)]
    worst = measured["timestamp_overhead_hi"].astype(float).fillna(measured["timestamp_overhead"].astype(float)).max()
    unknown = int(measured["timestamp_overhead"].isna().sum())
    if pd.isna(worst):
        return "timestamp overhead unknown"
    return f"timestamp overhead at most {100 * worst:.2g} %" + (f", unknown in {count(unknown, 'cell')}" if unknown else "")
