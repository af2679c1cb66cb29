"""How far from the measured step is the predicted one? Nothing in a prediction is fitted to a cell.

nanobench kv-sweep --model gpt2-mini,gpt2-small,gpt2 --batch 1-32*2 --new-tokens 4 --launches 2 --calibration fresh --out DIR
python tests/bench/predicted.py DIR
"""

import sys

import nanobench


def main() -> None:
    """Prints a row per cell, the median error and the share of cells within 30 %."""
    cells = nanobench.load(sys.argv[1]).dropna(subset=["prediction_error"])
    print("| model | arm | batch | step, ms | predicted, ms | error | speedup | predicted | naive | bound by | status |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|")
    for _, cell in cells.iterrows():
        ratios = [
            f"{cell[name]:.2f}x" if cell["arm_index"] else "" for name in ("speedup", "predicted_speedup", "naive_speedup")
        ]
        print(
            f"| {cell['model']} | {cell['arm']} | {cell['batch_size']} | {1e3 * cell['tpot_s']:.3g} "
            f"| {1e3 * cell['predicted_tpot_s']:.3g} | {cell['prediction_error']:+.0%} | {' | '.join(ratios)} "
            f"| {cell['bound_by']} | {cell['status']} |"
        )
    errors = cells["prediction_error"].abs()
    print(f"\nmedian error {errors.median():.0%}; {(errors <= 0.3).sum()} of {len(cells)} cells within 30 %")


if __name__ == "__main__":
    main()
