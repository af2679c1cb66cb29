"""Does `bound_by` agree with what happens when the batch is doubled and when a core is taken away? Neither enters the rule.

    nanobench kv-sweep --model gpt2-nano,gpt2-mini,gpt2 --batch 1-32*2 --threads 1,2 --new-tokens 4 --launches 2 --out DIR
    python tests/bench/bound_by.py DIR

A step whose time grows with the rows multiplies: from 1.6 times for twice the batch it is bound by compute. One that does not
grow is bound by its host if a second core does not help either (below 1.25 times), else by memory, which two cores read faster.
"""

import sys

import nanobench

COMPUTE, HOST = 1.6, 1.25


def main() -> None:
    """Prints a row per cell with all threads, and how many agree."""
    cells = nanobench.load(sys.argv[1])
    most = cells["threads"].max()
    place = ["model", "arm", "prompt_len", "new_tokens", "threads", "batch_size"]
    steps = cells.set_index(place)["tpot_s"].to_dict()
    print("| model | arm | batch | step, ms | twice the batch | one thread | check says | bound_by | |")
    print("|---|---|--:|--:|--:|--:|---|---|---|")
    agree = asked = 0
    for _, cell in cells[cells["threads"] == most].sort_values(["model", "arm", "batch_size"]).iterrows():
        here = [cell[name] for name in place]
        doubled = steps.get((*here[:5], 2 * cell["batch_size"]))
        alone = steps.get((*here[:4], 1, cell["batch_size"]))
        if not doubled or not alone or cell["bound_by"] is None:
            continue
        growth, help_ = doubled / cell["tpot_s"], alone / cell["tpot_s"]
        says = "compute" if growth >= COMPUTE else "host" if help_ < HOST else "bandwidth"
        asked += 1
        agree += says == cell["bound_by"]
        seen = (
            cell["model"],
            cell["arm"],
            cell["batch_size"],
            f"{1e3 * cell['tpot_s']:.3g}",
            f"{growth:.2f}x",
            f"{help_:.2f}x",
        )
        print("|", " | ".join(map(str, (*seen, says, cell["bound_by"], "" if says == cell["bound_by"] else "differs"))), "|")
    print(f"\n{agree} of {asked} agree")


if __name__ == "__main__":
    main()
