"""What a sweep shows in one sentence: how large each arm's speedup is, and from which batch size on it pays."""

import pandas as pd

from nanobench.records import JUDGED, MEASURED, Status
from nanobench.results.repetitions import POINT_FIELDS
from nanobench.results.status import NEVER_SETTLED, count_causes
from nanobench.schema import Point

SETTING = [name for name in POINT_FIELDS if name != "batch_size"]


def stated(cells: pd.DataFrame) -> list[str]:
    """The fields of a setting that say something: not those at their default everywhere, as the other workload's are."""
    return [name for name in SETTING if not cells[name].eq(getattr(Point, name, None)).all()]


def sentences(cells: pd.DataFrame) -> list[str]:
    """One sentence per setting and arm other than the reference, from the intervals alone."""
    several = cells[SETTING].drop_duplicates().shape[0] > 1
    found = []
    for setting, group in cells.groupby(SETTING, sort=False):
        where = "" if not several else " (" + ", ".join(f"{n} {v}" for n, v in varying(cells, setting)) + ")"
        reference = str(group.loc[group["arm_index"] == 0, "arm"].iloc[0])
        sound = group.loc[(group["arm_index"] == 0) & group["status"].isin(JUDGED), "batch_size"]
        for arm, rows in group[group["arm_index"] > 0].groupby("arm", sort=False):
            judged = rows["status"].isin(JUDGED) & rows["batch_size"].isin(sound)
            found.append(sentence(str(arm), reference, rows.assign(judged=judged).sort_values("batch_size")) + where)
    return found


def varying(cells: pd.DataFrame, setting: tuple) -> list[tuple[str, object]]:
    """The parts of a setting that differ within the cells."""
    return [(name, value) for name, value in zip(SETTING, setting, strict=True) if cells[name].nunique() > 1]


def sentence(arm: str, reference: str, rows: pd.DataFrame) -> str:
    """The largest speedup with its interval, and the batch sizes whose whole interval lies on one side of 1."""
    measured = rows.dropna(subset=["speedup"])
    if measured.empty:
        status, reason = rows["status"].iloc[0], rows["reason"].iloc[0]
        return f"{arm} has no ratio to {reference}: {status}, {f'{reference} was not measured' if pd.isna(reason) else reason}"
    judged = measured[measured["judged"]]
    if judged.empty:
        return f"no conclusion for {arm} vs {reference}: no stable cell has a speedup"
    best = judged.loc[judged["speedup"].idxmax()]
    pays = where_it_pays(judged)
    if len(judged) < len(measured):
        pays = pays.replace("measured", "with a stable ratio")
    return f"{arm} is {ratio_text(best)} as fast as {reference} at batch {best['batch_size']}{pays}"


def ratio_text(row: pd.Series) -> str:
    """5.3x [4.9, 5.7], or 5.3x without an interval where one value is all there is."""
    if pd.isna(row["speedup_lo"]):
        return f"{row['speedup']:.3g}x (one pair, no interval)"
    inside = "" if row["speedup_basis"] == "launches" else " within one process"
    return f"{row['speedup']:.3g}x [{row['speedup_lo']:.3g}, {row['speedup_hi']:.3g}]{inside}"


def where_it_pays(measured: pd.DataFrame) -> str:
    """From which batch on the whole interval lies above 1, or that it never or nowhere clearly does."""
    measured = measured.dropna(subset=["speedup_lo"])
    if measured.empty:
        return ""
    pays = (measured["speedup_lo"] > 1).tolist()
    loses = (measured["speedup_hi"] < 1).tolist()
    batches = measured["batch_size"].tolist()
    if len(batches) == 1:
        return "" if pays[0] or loses[0] else ", and the interval contains 1: no significant difference"
    if all(loses):
        return " and slower at every batch size measured"
    if not any(pays):
        return " and pays at none of the batch sizes measured"
    first = next(index for index in range(len(pays)) if all(pays[index:]) or pays[index])
    holds = all(pays[first:])
    return (
        f" and pays from batch {batches[first]}"
        if holds
        else f" and pays at batch {', '.join(str(b) for b, p in zip(batches, pays, strict=True) if p)}"
    )


def counts(cells: pd.DataFrame) -> str:
    """The closing count: 14 cells: 12 ok, 2 oom."""
    found = cells["status"].value_counts()
    return f"{len(cells)} cells: " + ", ".join(f"{number} {status}" for status, number in found.items())


def disturbances(cells: pd.DataFrame) -> list[str]:
    """What made cells unreliable, the most frequent first: their ratios are shown, but no conclusion uses them."""
    lines = []
    for status in (Status.UNSTABLE, Status.NO_STEADY_STATE):
        found = cells[cells["status"].eq(status)]
        if len(found) == 1:
            lines.append(f"{status}, excluded from conclusions: 1 cell: {found['reason'].iloc[0]}")
        elif len(found):
            causes = count_causes(found["disturbed_by"].dropna()) or [(NEVER_SETTLED, len(found))]
            words = "; ".join(f"{cause} ({number})" for cause, number in causes)
            lines.append(f"{status}, excluded from conclusions: {len(found)} cells: {words}")
    return lines


def timestamp_overhead(cells: pd.DataFrame) -> str:
    """What taking a time at every token cost, in the worst cell (by its upper bound where it has one)."""
    measured = cells[cells["status"].isin(MEASURED)]
    worst = measured["timestamp_overhead_hi"].astype(float).fillna(measured["timestamp_overhead"].astype(float)).max()
    unknown = int(measured["timestamp_overhead"].isna().sum())
    if pd.isna(worst):
        return "timestamp overhead unknown"
    return f"timestamp overhead at most {100 * worst:.2g} %" + (
        f", unknown in {unknown} cell{'' if unknown == 1 else 's'}" if unknown else ""
    )
