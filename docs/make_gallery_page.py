"""Generates docs/gallery.md and its pictures from stored measurements: `python docs/make_gallery_page.py`.

Nothing is measured here. Each figure is drawn from the first reference run in results/ that has its data; the figure of `audit`
is drawn from the table in docs/audit.md.
"""

import io
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from nanobench.analysis import history
from nanobench.analysis.audit import SPECIMENS, Found, Ours, Row
from nanobench.errors import UserError
from nanobench.results import finder
from nanobench.results.store import Run
from nanobench.views import plots
from nanobench.views.figures import over_commits
from nanobench.views.figures.audit import published_over_ours
from nanobench.views.figures.style import STYLE

ROOT = Path(__file__).parents[1]
PAGE, PICTURES, AUDIT = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery", ROOT / "docs" / "audit.md"
RUNS = ("reference-cpu", "reference-train-cpu")
DPI, COLOURS = 110, 64
"""Few dots and colours keep a picture below 60 KB."""
READ = {
    "speedup_vs_batch": "A line above 1 is faster than the grey reference; a band that contains 1 shows no difference.",
    "speedup_vs_length": "The same by prompt length or output length, a line for each batch size.",
    "speedup_by_arm": "A row for each of eight arms or more, the fastest first; a triangle is a difference, a circle is none.",
    "throughput_ttft_memory_vs_batch": "Where throughput no longer rises, a larger batch only costs time to the first token "
    "and memory.",
    "throughput_per_request_vs_batch": "Above, what the machine gains from a larger batch; below, what each request loses.",
    "utilization_vs_batch": "A point beyond a red line says why its cell is hollow: something disturbed the machine.",
    "token_latency": "A line that rises with the position does more work for each later token; a level one does the same.",
    "timeline": "Repetitions of a launch should lie on a level line; the panels below show what the machine did meanwhile.",
    "waterfall": "Each bar multiplies what the bars above it reached; the last one is all changes together.",
    "itl_distribution": "The farther left a curve rises, the shorter the gaps; a flat end at the top is a tail of slow tokens.",
    "latency_vs_throughput": "Down and right is better: only cells on the grey line trade quick replies for many of them.",
    "memory": "The dashed line is what is held in any case; the distance from there to the points is what a call needs.",
    "predicted_against_measured": "On the dashed line a step takes as long as predicted; cells outside the band are named.",
    "roofline": "No point can lie above the line: memory limits its slanted part, arithmetic its level part. The letters say "
    "which part of a step is predicted to be the largest; dispatching operations is not in the line.",
    "training_vs_batch": "Throughput with its interval, and memory; the knee is the smallest batch close to the best one.",
    "compile_breakeven": "Compiling has paid from the step on at which its line crosses 0; a dashed line may never cross it.",
    "scaling_vs_ranks": "A line on the dotted one gains as much as there are ranks; the percentages say how much is gained.",
    "over_commits": "A point per run with its interval, oldest first; a step beyond the intervals is worth `nanobench ab`.",
    "audit": "How far a published number lies from ours, which is 1 with its interval; a green square lies within it by luck.",
}
"""Figure -> how to read it, in one sentence."""
COMMANDS = {
    "speedup_vs_length": "nanobench kv-sweep --prompt-len 64,256",
    "speedup_by_arm": "nanobench kv-sweep --engine uncached,cached --sampler greedy,temperature,top-k,top-p-sort --compile",
    "scaling_vs_ranks": "nanobench train-throughput --nproc 1,2",
    "compare_forest": "nanobench compare BASE NEW --plot DIR",
    "throughput_memory_vs_batch": "nanobench autobatch --mode generate --out DIR",
    "kv_dashboard": "nanobench kv-dashboard --model gpt2-mini",
}
"""Figure -> the command that gives its data, for those that no stored run has."""
UNITS = {"x": 1.0, "": 1.0, "ms": 1e-3, "MiB": 2.0**20}
WHERE = re.compile(r"^`nanobench audit` on (?P<machine>[^:]+): (?P<setting>[^.]+)\.", re.MULTILINE)
VALUE = re.compile(r"([\d.,]+) ?(ms|MiB|x|)")


# Pictures
def pictures() -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The figures, each with what draws it. Drawing raises UserError where the stored data does not allow it."""
    for name in plots.PLOTS:
        yield name, lambda name=name: of_a_run(name)  # type: ignore[misc]
    yield "over_commits", lambda: over_commits.over_commits(history.lines_of(finder.find_runs(ROOT / "results")))
    yield "audit", lambda: published_over_ours(audited(), audited_where())


def of_a_run(name: str) -> Figure:
    """A figure of the first run that has its data."""
    refusal = UserError(f"{name}: there is no stored run")
    for folder in RUNS:
        run = Run(ROOT / "results" / folder)
        try:
            return plots.figure(name, finder.load(run.folder), run.read_raw())
        except UserError as error:
            refusal = error
    raise refusal


def draw(make: Callable[[], Figure], path: Path) -> bool:
    """Writes a small picture; False where its data is not stored."""
    with mpl.rc_context(STYLE):
        try:
            figure = make()
        except UserError:
            path.unlink(missing_ok=True)
            return False
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return True


def audited() -> list[Row]:
    """The methods in the table of docs/audit.md."""
    lines = [line.strip("| ").split("|") for line in AUDIT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line] for line in lines if len(line) == 6]
    rows = []
    for name, _, published, ours, _, found in cells:
        kind = next(each for each in Found if found.startswith(each.removesuffix(" here")))
        rows.append(Row(SPECIMENS[name.strip("`")], kind, value_in(published), Ours(*values_in(ours))))
    return rows


def audited_where() -> str:
    """Model, shape and machine of that table, from the sentence above it."""
    found = WHERE.search(AUDIT.read_text(encoding="utf-8"))
    if found is None:
        raise UserError("docs/audit.md does not say where its table was measured")
    return "  |  ".join([*found["setting"].replace("`", "").split(", "), found["machine"]])


def value_in(text: str) -> float | None:
    """A number of a table with its unit; None where it has none."""
    found = VALUE.match(text)
    return float(found[1].replace(",", "")) * UNITS[found[2]] if found else None


def values_in(text: str) -> tuple[float | None, float | None, float | None]:
    """A number with its interval, whose bounds have the unit of the number."""
    found = VALUE.match(text)
    if not found:
        return None, None, None
    value, bounds = value_in(text), re.search(r"\[(.*)\]", text)
    if not bounds:
        return value, value, value
    low, high = (float(each.replace(",", "")) * UNITS[found[2]] for each in re.split(r", (?=\d)", bounds[1]))
    return value, low, high


# The page
HEAD = """\
# Gallery
Every figure of nanobench, with one sentence on how to read it. `nanobench plot NAME RESULTS` draws one of them, and
`nanobench report` all that a run has data for. `python docs/make_gallery_page.py` writes this page from the stored runs in
[results](../results/README.md).

All figures share these rules:
- Each arm has one colour, marker and line in all figures of a run. The reference is grey and solid. Arms differ in black and
  white too.
- Bands and bars are 95 % intervals. Plain dashed lines are predictions or closed forms.
- A hollow marker is a cell that is excluded from conclusions; the text below the figure says why. A cross at the foot of a
  panel is a cell that was not measured, with its status.
- Of more than 12 arms, most figures show the reference and the fastest, and count the others; `speedup_by_arm` names up to 40.
- The last lines name model, dtype, device, lengths and launches. In SVG files and in the report, each point has its values as
  a tooltip.
"""

WITHOUT = """\
## Without a stored run
No run in results/ has the data of these figures:

| figure | what it shows | command |
|---|---|---|"""


def page(drawn: Collection[str]) -> str:
    """The page, for the figures that were drawn."""
    parts = [HEAD]
    for name, sentence in READ.items():
        if name in drawn:
            parts.append(f"## {name}\n![{about(name)}](gallery/{name}.png)\n\n{sentence}\n")
    missing = {name: command for name, command in COMMANDS.items() if name not in drawn}
    if missing:
        rows = [f"| `{name}` | {about(name)} | `{command}` |" for name, command in missing.items()]
        parts.append("\n".join([WITHOUT, *rows]) + "\n")
    return "\n".join(parts)


OTHERS = {
    "over_commits": "The headline speedup of each run, from the oldest to the newest.",
    "audit": "What faulty methods publish, relative to the measured value.",
    "compare_forest": "How each cell changed between two recorded runs; bars that leave the grey band are a change.",
    "throughput_memory_vs_batch": "Throughput and memory of the batch sizes that a search tried, with the recommended one.",
    "kv_dashboard": "What attention reads while tokens are generated, as a [moving picture](kv-dashboard.md).",
}
"""What figures show that belong to a command of their own."""


def about(name: str) -> str:
    """What a figure shows."""
    return OTHERS.get(name) or plots.about(name).replace("`", "")


def main() -> None:
    """Draws the pictures and writes the page."""
    PICTURES.mkdir(exist_ok=True)
    drawn = [name for name, make in pictures() if draw(make, PICTURES / f"{name}.png")]
    PAGE.write_text(page(drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
