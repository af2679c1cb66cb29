"""The end of the search for the fastest setting: a table of all settings, the answer in words, and one JSON document."""

import shlex
from collections.abc import Iterator
from typing import Any

from nanobench.records import Verdict
from nanobench.results import race
from nanobench.results.derive import CellRow
from nanobench.results.race import Candidate, Left, Ranking, Standing
from nanobench.schema import Arm, Point, unusual
from nanobench.stats.intervals import Interval
from nanobench.sweep.axes import AXES
from nanobench.sweep.tune import Result
from nanobench.views import format
from nanobench.views.cell_table import CellTable, Column, make, value
from nanobench.views.sweep import DIVERGENCE, MEMORY

NAMED = ("model", "batch_size", "dtype", "threads", "prompt_len", "new_tokens", "device", "engine", "compile_mode", "attention")
"""Fields that the command of a setting always names; the others where they are not default."""
FLAGS = {field: option for option, field in AXES.items()}
"""Field of a point or an arm -> the option that lists its values."""
LEFT = "left"
"""The field of a row that says why its setting left."""
COLUMNS = (
    value("output\ntok/s", "output_tok_s"),
    value("TTFT", "ttft_s", drop=2),
    value("TPOT", "tpot_s", drop=3),
    MEMORY,
    *DIVERGENCE,
    Column("launches", lambda row: str(row["launches_ok"]), drop=1),
    Column("left because", lambda row: row[LEFT], align="left", wrap=24),
)


def table(ranking: Ranking) -> CellTable:
    """All settings, the winner first."""
    return make([row_of(each, ranking) for each in ranking.standings], COLUMNS)


def row_of(standing: Standing, ranking: Ranking) -> CellRow:
    """The cell of a setting, with why it left."""
    left = ranking.left.get(standing.candidate)
    return {**standing.row, LEFT: reason(left) if left else standing.failure}


def reason(left: Left) -> str | None:
    """Why a setting left."""
    if left.behind is None:
        return left.failure
    half = "" if left.halved_after is None else f"in the slower half after round {left.halved_after}: "
    return f"{half}the best is {times(left.behind)} as fast"


def times(found: Interval | None) -> str:
    """A ratio with its interval; None where the two share no launch."""
    return format.times(found.value, found.low, found.high) if found else "an unknown number of times"


def lines(found: Result) -> Iterator[str]:
    """The winner, the runner-up, whether they differ, and the command that measures the winner again."""
    ranking = found.ranking
    if ranking.winner is None:
        yield "no setting can win: see why each left"
        return
    yield f"fastest: {setting(ranking.winner, ranking)}, {figures(ranking.winner)}"
    if ranking.runner_up:
        yield f"runner-up: {setting(ranking.runner_up, ranking)}, {figures(ranking.runner_up)}"
        yield f"the fastest is {times(ranking.lead)} as fast as the runner-up; {difference(ranking)}"
    for rival in ranking.rivals:
        if rival is not ranking.runner_up:
            told = f"{setting(rival, ranking)}, {figures(rival)}"
            yield f"not excluded: {told}; the fastest is {times(ranking.ratio_to(rival))} as fast"
    launches = sum(len(each.logs) for each in ranking.standings)
    yield f"{format.count(found.settings, 'setting')}, {format.count(launches, 'launch')} of them"
    yield f"measure it again: {command(ranking.winner.candidate)}"


def difference(ranking: Ranking) -> str:
    """Whether the winner and the runner-up differ."""
    if ranking.runner_up in ranking.rivals:
        return "no difference between them was shown"
    if race.excludes_one(ranking.lead):
        return "they differ"
    left = ranking.runner_up and ranking.left.get(ranking.runner_up.candidate)
    return "it left in the slower half" if left and left.halved_after else "it left earlier"


def setting(standing: Standing, ranking: Ranking) -> str:
    """A setting in words: what differs between the settings."""
    points = [each.candidate.point for each in ranking.standings]
    varying = [name for name in ("dtype", "threads") if len({getattr(point, name) for point in points}) > 1]
    point = standing.candidate.point
    more = "".join(f", {name} {getattr(point, name)}" for name in varying)
    return f"{standing.candidate.arm.label} at batch {point.batch_size}{more}"


def figures(standing: Standing) -> str:
    """Its speed; for a lossy setting also its distance from the float model."""
    row = standing.row
    speed = f"{format.text(row['output_tok_s'], 'tok/s')} tok/s, TPOT {format.text(row['tpot_s'], 's')}"
    return f"{speed}, lossy: KL {row['kl_nats']:.2g} nats" if row["gate"] == Verdict.LOSSY else speed


def command(candidate: Candidate) -> str:
    """The sweep over this one setting."""
    facts = {**vars(candidate.point), **vars(candidate.arm)}
    named = dict.fromkeys((*NAMED, *unusual(candidate.point), *unusual(candidate.arm)))
    words = [word for name in named for word in ("--" + FLAGS.get(name, name).replace("_", "-"), str(facts[name]))]
    return shlex.join(["nanobench", "kv-sweep", *words])


def document(found: Result) -> dict[str, Any]:
    """All of it for programs."""
    ranking = found.ranking
    lead = ranking.lead
    return {
        "winner": described(ranking.winner, ranking),
        "runner_up": described(ranking.runner_up, ranking),
        "ratio": lead and lead.value,
        "low": lead and lead.low,
        "high": lead and lead.high,
        "differs": ranking.is_decided,
        "settings": found.settings,
        "not_excluded": [described(each, ranking) for each in ranking.rivals],
        "candidates": [described(each, ranking) for each in ranking.standings],
        "command": command(ranking.winner.candidate) if ranking.winner else None,
        "wall_s": found.run.info().wall_s,
    }


def described(standing: Standing | None, ranking: Ranking) -> dict[str, Any] | None:
    """A setting with its figures, and why it left."""
    if standing is None:
        return None
    row = row_of(standing, ranking)
    names = (*Point.__dataclass_fields__, *Arm.__dataclass_fields__, "status", "gate", "launches_ok", LEFT)
    figures = ("output_tok_s", "output_tok_s_lo", "output_tok_s_hi", "ttft_s", "tpot_s", "peak_memory_bytes", "kl_nats")
    return {name: row.get(name) for name in (*names, *figures)}
