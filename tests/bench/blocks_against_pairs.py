"""The same A/A measurements analysed in six ways: how often does each call two equal arms different, at a nominal 5 %?

    nanobench selftest --out DIR
    python tests/bench/blocks_against_pairs.py DIR/same

Every repetition ran the same code, so each "significant" is false. Prints a table in Markdown.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats

from nanobench.results.cell import make_cells
from nanobench.results.repetitions import call_times, paired_logs, timed
from nanobench.results.store import Run
from nanobench.stats import intervals

ALPHA = 1 - intervals.CONFIDENCE
Answer = tuple[float, float]
"""p-value and half-width of the 95 % interval, as a share."""


def welch(first: list[float], second: list[float]) -> Answer:
    """Welch's t-test on log times."""
    result = scipy_stats.ttest_ind(np.log(first), np.log(second), equal_var=False)
    low, high = result.confidence_interval(intervals.CONFIDENCE)
    return float(result.pvalue), (high - low) / 2


def student(logs: list[float]) -> Answer:
    """Student's t-test that a mean log ratio is 0."""
    result = scipy_stats.ttest_1samp(logs, 0)
    low, high = result.confidence_interval(intervals.CONFIDENCE)
    return float(result.pvalue), (high - low) / 2


def times(*launches) -> list[float]:
    """Seconds per call of each valid timed repetition, in the order in which they ran."""
    repetitions = [each for launch in launches for each in timed(launch) if each.valid]
    return [each.wall_s / each.calls for each in sorted(repetitions, key=lambda each: each.started_at)]


def answers(cell) -> Iterator[tuple[str, Answer]]:
    """The result of every analysis for one A/A point."""
    mine, reference = ({each.launch: each for each in side} for side in (cell.launches, cell.reference_launches))
    pairs = [logs for launch, each in mine.items() if (logs := paired_logs(each, reference.get(launch), call_times))]
    for launch in mine:
        everything = times(mine[launch], reference[launch])
        half = len(everything) // 2
        yield "blocks: first half of a process against its second half, Welch", welch(everything[:half], everything[half:])
        if launch + 1 in mine:
            apart = welch(times(reference[launch]), times(mine[launch + 1]))
            yield "blocks: one process against the next one, Welch over repetitions", apart
        yield "interleaved, analysed unpaired (Welch)", welch(times(mine[launch]), times(reference[launch]))
    for logs in pairs:
        yield "ABBA pairs of one process, t", student(logs)
    yield "ABBA pairs of five processes taken as independent, t", student([log for logs in pairs for log in logs])
    yield "**ABBA pairs, t over the means of five launches**", student([float(np.mean(logs)) for logs in pairs])


def main() -> None:
    """Prints the table."""
    cells = [cell for cell in make_cells(Run(Path(sys.argv[1])).read_raw()) if not cell.is_reference]
    found: dict[str, list[Answer]] = {}
    for cell in cells:
        for name, answer in answers(cell):
            found.setdefault(name, []).append(answer)
    print("| analysis | false positives | share [95 %] | median half-width |\n|---|--:|--:|--:|")
    for name, each in found.items():
        false = sum(p < ALPHA for p, _ in each)
        exact = scipy_stats.binomtest(false, len(each)).proportion_ci(intervals.CONFIDENCE)
        share = f"{false / len(each):.0%} [{exact.low:.0%}, {exact.high:.0%}]"
        print(f"| {name} | {false} of {len(each)} | {share} | {np.median([width for _, width in each]):.1%} |")


if __name__ == "__main__":
    main()
