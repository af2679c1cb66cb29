"""A run as Markdown, and its cells as tables for people and for programs. Every number comes from the cells."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from nanobench.analysis.interpolated import of_run
from nanobench.analysis.verdict import LOSSY, SYNTHETIC, launched_again, mark_of, sentences, stated, timestamp_overhead
from nanobench.records import MEASURED, LaunchRecord
from nanobench.results.request import command_line
from nanobench.results.run_info import RunInfo
from nanobench.results.store import records
from nanobench.schema import GPTShape
from nanobench.views import ab, format, interpolated, reliability, sweep
from nanobench.views.cell_table import in_order, varying
from nanobench.views.markdown import escaped, pairs, render, words
from nanobench.views.plots import about

PAIRINGS = {
    "block": "the arms of a point take turns within one process, and neighbours in time are compared",
    "launch": "where arms could not share a process, launch is compared with launch",
}


def markdown(
    run: str,
    info: RunInfo,
    cells: pd.DataFrame,
    said: list[str],
    plots: list[Path],
    folder: Path,
    timed_share: float | None = None,
) -> str:
    """The report of one run, for a file in `folder`: the verdict first, then the request, the results and the method.

    `timed_share` is the part of the wall time that was timed, warm-up included; None where it is not known.
    """
    machine = {name: words(value) for name, value in info.description.identity.items() if value not in (None, [])}
    sections = (
        ("", [f"- {sentence}" for sentence in said]),
        ("What was run", pairs(what_was_run(info, cells))),
        ("Cells", [table(cells)]),
        ("Curve", curve_section(info, cells)),
        ("Not measured", not_measured(cells)),
        ("How reliable is this run?", reliability.lines(info.description, cells)),
        ("Plots", "\n\n".join(image(path, folder) for path in plots if path.suffix == ".png").splitlines()),
        ("How it was measured", [f"- {line}" for line in method(info, cells, timed_share)]),
        ("Machine", pairs(machine)),
    )
    parts = [f"# nanobench {info.command}: {run}"]
    for title, lines in sections:
        if lines:
            parts += [f"## {title}", "\n".join(lines)] if title else ["\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def verdict_of(info: RunInfo, cells: pd.DataFrame, launches: list[LaunchRecord]) -> list[str]:
    """What a run shows, a sentence each: the answer of an A/B comparison, or the verdict on its cells."""
    found = ab.recorded(info, launches)
    return ab.sentences(found) if found else sentences(cells)


def table(cells: pd.DataFrame) -> str:
    """The cells as a Markdown table: their setting, their results and their status."""
    return "\n".join(render(sweep.results(in_order(records(cells)))))


def curve_section(info: RunInfo, cells: pd.DataFrame) -> list[str]:
    """All candidate batch sizes of an adaptive sweep, measured or interpolated; empty for another sweep."""
    rows = of_run(cells, info.plan)
    return [*filter(None, [interpolated.sentence(rows)]), "", *render(interpolated.curve(rows))] if rows else []


def what_was_run(info: RunInfo, cells: pd.DataFrame) -> dict[str, str]:
    """The request, the models, the sizes and the arms."""
    models = {f"model {name}": model_words(shape) for name, shape in info.description.models.items()}
    fields = [*(name for name in stated(cells) if name != "model"), "batch_size"]
    points = {name.replace("_", " "): words(cells[name].drop_duplicates().tolist()) for name in fields}
    arms = cells.sort_values("arm_index", kind="stable")["arm"].drop_duplicates().tolist()
    start, end = info.started_at, info.finished_at or "unfinished"
    return {
        "command": f"`{command_line(info.command, info.requested)}`",
        "when": f"{start} to {end}, {format.duration(info.wall_s)} of measuring",
        **models,
        **points,
        "arms": f"{words(arms)} (ratios refer to the first)",
    }


def model_words(shape: GPTShape) -> str:
    """A model's architecture and sizes."""
    shared = "" if shape.n_head == shape.n_kv_head else f" on {shape.n_kv_head}"
    sizes = f"{shape.n_params / 1e6:.3g}M parameters, {shape.n_layer} layers x {shape.n_embd}"
    return f"{shape.architecture}, {sizes}, {shape.n_head} heads{shared}"


def not_measured(cells: pd.DataFrame) -> list[str]:
    """Each cell without a measurement, and each whose launches did not all finish, with the reasons."""
    rows, lines = records(cells), []
    fields = [name for name in varying(rows) if name != "run"]
    for cell in rows:
        where = ", ".join([*(f"{name} {cell[name]}" for name in fields), f"batch {cell['batch_size']}", str(cell["arm"])])
        if cell["status"] not in MEASURED:
            lines.append(f"- {where}: **{cell['status']}**, {escaped(cell['reason'] or 'no reason given')}")
        elif cell["failures"]:
            lines.append(f"- {where}: {cell['launches_failed']} of its launches failed, {escaped(cell['failures'])}")
    return lines


def image(path: Path, folder: Path) -> str:
    """A figure as a link relative to the report; its text is the first line of the figure's docstring."""
    return f"![{about(path.stem)}]({Path(os.path.relpath(path, folder)).as_posix()})"


def method(info: RunInfo, cells: pd.DataFrame, timed_share: float | None) -> list[str]:
    """Launches, pairing, interval, gates, overhead, seed."""
    plan, target = info.plan, f"+-{100 * info.plan.target_ci:.3g}%"
    bases = words(cells["speedup_basis"].dropna().unique().tolist())
    imprecise = [
        format.count(number, what)
        for what, name in (("ratio", "speedup_status"), ("throughput", "status"))
        if (number := int(cells[name].eq("imprecise").sum()))
    ]
    gates = ", ".join(f"{number} {verdict}" for verdict, number in cells["gate"].value_counts().items())
    return [
        f"{format.count(plan.launches, 'launch')} of each point, each in a fresh process ({plan.isolation})",
        *launched_again(cells),
        *info.notes,
        f"a launch is timed for {plan.max_seconds:g} s, or until every interval is within {target}",
        *(PAIRINGS[name] for name in cells["pairing"].dropna().unique()),
        f"speedup: exp of the mean log ratio of times, with Student's 95 % interval over {bases}"
        if bases
        else "no ratio was measured",
        *([f"imprecise, the interval is wider than {target}: {', '.join(imprecise)}"] if imprecise else []),
        f"an arm is timed only after it computed the same as the reference; gate verdicts: {gates or 'none'}",
        *lossy_arms(cells),
        *synthetic_arms(cells),
        checked_outputs(cells),
        *([f"{format.percent(timed_share)} of the wall time went into timed repetitions and warm-up"] if timed_share else []),
        timestamp_overhead(cells),
        f"seed {plan.seed}, protocol {info.protocol}",
    ]


def lossy_arms(cells: pd.DataFrame) -> list[str]:
    """What the verdict of lossy arms means, and the largest divergence of each; empty without one."""
    lossy, found = cells[cells["gate"].eq(LOSSY)], []
    generated, trained = lossy[lossy["seq_len"].eq(0)], lossy[lossy["seq_len"].gt(0)]
    if not generated.empty:
        most = generated.astype({"kl_nats": float}).groupby("arm", sort=False)["kl_nats"].max()
        words = ", ".join(f"{arm} {format.text(kl, 'nats')}" for arm, kl in most.items())
        what = "a lossy arm computes what its quantised model computes, which is not what the float model computes"
        found.append(f"{what}: KL divergence of the next token from the float model in the same dtype, in nats: {words}")
    if not trained.empty:
        notes = trained.groupby("arm", sort=False)["gate_note"].first()
        words = "; ".join(f"{arm}, {note.partition(';')[0]}" for arm, note in notes.items())
        found.append(f"a lossy arm trains with narrower parameters, and ends at other weights (at its first point): {words}")
    return found


def synthetic_arms(cells: pd.DataFrame) -> list[str]:
    """What the verdict of arms with synthetic tokens means, and their names; empty without one."""
    found = cells[cells["gate"].eq(SYNTHETIC)]
    if found.empty:
        return []
    words = ", ".join(f"{arm} ({mark_of(rows.iloc[0])})" for arm, rows in found.groupby("arm", sort=False))
    what = "an arm with synthetic acceptance does the work of speculative decoding, but chance decides which tokens it accepts"
    return [f"{what}, so its output is not the model's: {words}"]


def checked_outputs(cells: pd.DataFrame) -> str:
    """How many timed calls or steps had their outputs checked by a second process after their launch."""
    checked = cells["checked_calls"].dropna()
    if not checked.sum():
        return "the outputs of timed work were not checked"
    unchecked = int(cells.loc[cells["status"].isin(MEASURED), "checked_calls"].isna().sum())
    known = f"a second process checked what {int(checked.sum())} timed calls or steps put out"
    return known + (f", in {format.count(unchecked, 'cell')} none" if unchecked else "")


def to_csv(cells: pd.DataFrame) -> str:
    """The cells as CSV; empty where nothing is known."""
    return pd.DataFrame(records(cells), columns=cells.columns, dtype=object).to_csv(index=False)


def to_json(cells: pd.DataFrame) -> str:
    """The cells as a list of JSON objects; null where nothing is known."""
    return json.dumps(records(cells), indent=2, allow_nan=False)


EXPORTS: dict[str, Callable[[pd.DataFrame], str]] = {"csv": to_csv, "json": to_json, "md": table}
