"""Which disturbances cancel in pairs, which do not, and whether the interval that allows for them contains the true ratio.

    python tests/bench/unlike_disturbance.py [RUNS]       about two minutes for 200 simulated runs of each kind

Prints a table in Markdown. Nothing is measured: tests/shared_machine.py simulates the machine. The verdict is the real one.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import shared_machine
from nanobench.records import JUDGED
from nanobench.results import speedup_status
from nanobench.stats import intervals


def row(name: str, scenario: shared_machine.Scenario, runs: int) -> str:
    """One line of the table."""
    true, alone, allowed, logs, widths, concluded = np.exp(scenario.truth), 0, 0, [], [], 0
    for seed in range(runs):
        _, arm = shared_machine.cells(scenario, seed)
        pairs, found, verdict = intervals.ratio(arm.speedup_logs), speedup_status.speedup(arm), speedup_status.judge(arm)
        logs.append(np.log(pairs.value) - scenario.truth)
        alone += pairs.low <= true <= pairs.high
        allowed += found.low <= true <= found.high
        concluded += verdict.status in JUDGED
        widths.append([intervals.relative_half_width(each) for each in (pairs, found)])
    narrow, wide = np.median(widths, axis=0)
    bias = np.expm1(np.mean(logs))
    shares = f"{alone / runs:.0%} | {allowed / runs:.0%} | {narrow:.1%} | {wide:.1%} | {concluded / runs:.0%}"
    return f"| {name} | {bias:+.1%} | {shares} |"


def main() -> None:
    """Prints the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("| disturbance | bias of the ratio | pairs contain the truth | interval contains the truth ", end="")
    print("| half-width of pairs | half-width of interval | with a conclusion |\n|---|--:|--:|--:|--:|--:|--:|")
    for scenarios in (shared_machine.LIKE, shared_machine.UNLIKE, shared_machine.UNSEEN):
        for name, scenario in scenarios.items():
            print(row(name, scenario, runs), flush=True)


if __name__ == "__main__":
    main()
