"""How far from the measured step is the predicted one? Nothing in a prediction is fitted to a cell.

nanobench kv-sweep --model gpt2-mini,gpt2-small,gpt2 --batch 1-32*2 --new-tokens 4 --launches 2 --calibration fresh --out DIR
python tests/bench/predicted.py DIR

In training the step is an optimizer step:

nanobench train-throughput --model gpt2-nano,gpt2-mini,gpt2-char --batch 2,8 --seq-len 64,256 --launches 3 \
    --calibration fresh --out DIR
"""

import sys

import numpy as np

import nanobench


def main() -> None:
    """Prints a row per cell, the median error, and the shares of cells within 30 % and within the stated uncertainty."""
    cells = nanobench.load(sys.argv[1]).dropna(subset=["prediction_error"])
    print(
        "| model | arm | batch | seq | step, ms | predicted, ms | ± | error | speedup | predicted | naive | bound by | status |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---|")
    for _, cell in cells.iterrows():
        ratios = [
            f"{cell[name]:.2f}x" if cell["arm_index"] and cell[name] == cell[name] else ""
            for name in ("speedup", "predicted_speedup", "naive_speedup")
        ]
        step = "step_s" if cell["seq_len"] else "tpot_s"
        print(
            f"| {cell['model']} | {cell['arm']} | {cell['batch_size']} | {cell['seq_len'] or ''} | {1e3 * cell[step]:.3g} "
            f"| {1e3 * cell[f'predicted_{step}']:.3g} | {cell['prediction_uncertainty']:.0%} "
            f"| {cell['prediction_error']:+.0%} | {' | '.join(ratios)} "
            f"| {cell['bound_by']} | {cell['status']} |"
        )
    errors, factors = cells["prediction_error"].abs(), np.exp(np.log1p(cells["prediction_error"]).abs())
    inside = (factors <= 1 + cells["prediction_uncertainty"]).sum()
    print(f"\nmedian error {errors.median():.0%}; {(errors <= 0.3).sum()} of {len(cells)} cells within 30 %")
    print(f"median uncertainty {cells['prediction_uncertainty'].median():.0%}; {inside} of {len(cells)} cells within it")


if __name__ == "__main__":
    main()
