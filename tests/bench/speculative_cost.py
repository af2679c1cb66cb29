"""Does the prediction of speculative decoding hold? Predicted against measured speedup over acceptance, draft length and batch.

    python tests/bench/speculative_cost.py DIR [TARGET [DRAFT [BATCHES [LAUNCHES [OPTION ...]]]]]    a quarter of an hour

The acceptance is **synthetic**: chance accepts each drafted token of each row, so that the cost can be studied with random
weights. The passes are those of real drafts; the tokens are not the model's. Plain cached decoding is the reference of every
speedup, and all arms take turns within each launch. Prints a table in Markdown.
"""

import subprocess
import sys
from pathlib import Path

import pandas as pd

import nanobench
from nanobench import registry
from nanobench.records import MEASURED
from nanobench.results.repetitions import point_of
from nanobench.roofline.speculation import Drafting, expected_passes

DEFAULTS = ("gpt2-char", "gpt2-char:n_layer=1", "1,4,8", "5")
"""Target, draft, batch sizes and launches."""
ACCEPTANCE, LENGTHS = (0.6, 0.8, 0.95), "2,4,8"


def measure(folder: Path, target: str, draft: str, batches: str, launches: str, more: list[str]) -> None:
    """The sweep, with more options of kv-sweep; one that is in the folder already is continued."""
    place = ["--resume", str(folder)] if (folder / "run.json").exists() else ["--out", str(folder)]
    engines = ["cached", *(f"speculative:draft={draft},accept={share}" for share in ACCEPTANCE)]
    arms = ["--model", target, "--engine", ",".join(engines), "--draft-len", LENGTHS, "--batch", batches]
    size = ["--new-tokens", "64", "--launches", launches, "--max-seconds", "30", "--max-minutes", "planned", "--no-plot"]
    subprocess.run([sys.executable, "-m", "nanobench", "kv-sweep", *arms, *size, *place, *more], check=True)


def line(cell: pd.Series) -> str:
    """A cell as a line of the table."""
    given = registry.parse("engines", cell["engine"]).arguments
    share, length = float(given["accept"]), int(given["draft_len"])
    what = f"| {cell['batch_size']} | {share:g} | {length} |"
    if cell["status"] not in MEASURED:
        return f"{what} {cell['status']}: {cell['reason']} | | | | |"
    drafting, point = Drafting(length, None, share), point_of(cell)
    expected = (point.new_tokens - 1) / expected_passes(point, drafting, drafting.kept(point.batch_size) or ()).steps
    written = f"{cell['mean_acceptance_length']:.2f} ({expected:.2f})"
    measured = f"{cell['speedup']:.2f} [{cell['speedup_lo']:.2f}, {cell['speedup_hi']:.2f}]"
    error = cell["speedup"] / cell["predicted_speedup"] - 1
    return f"{what} {written} | {cell['draft_time_share']:.0%} | {cell['predicted_speedup']:.2f} | {measured} | {error:+.0%} |"


def table(cells: pd.DataFrame) -> list[str]:
    """All cells with synthetic acceptance, and how far the predictions are from the measurements."""
    drafted = cells[cells["engine"].str.startswith("speculative")]
    heads = ["batch", "acceptance", "draft length", "tokens per pass (expected)", "drafts' share of decode"]
    heads += ["predicted speedup", "measured [95 %]", "error"]
    lines = [f"| {' | '.join(heads)} |", "|--:" * len(heads) + "|", *(line(cell) for _, cell in drafted.iterrows())]
    known = drafted.dropna(subset=["speedup", "predicted_speedup"])
    errors = (known["speedup"] / known["predicted_speedup"] - 1).abs().astype(float)
    if errors.empty:
        return lines
    within = f"{int(errors.le(0.2).sum())} of {len(errors)} within 20 %"
    return [*lines, "", f"error: median {errors.median():.0%}, largest {errors.max():.0%}; {within}"]


def main() -> None:
    """Measures and prints."""
    folder, given = Path(sys.argv[1]), sys.argv[2:6]
    target, draft, batches, launches = (*given, *DEFAULTS[len(given) :])
    measure(folder, target, draft, batches, launches, sys.argv[6:])
    print(f"\nsynthetic acceptance; {target} drafted by {draft}\n")
    print("\n".join(table(nanobench.load(folder))))


if __name__ == "__main__":
    main()
