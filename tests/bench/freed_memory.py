"""The cost of returning freed memory to the kernel: prefills of a GPT-2 124M in fresh processes, without and with
`keep_freed`, in turn.

python tests/bench/freed_memory.py [BATCH]        about a minute
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import time

BATCH, PREFILLS, PAIRS = 8, 8, 4


def prefills(batch: int, keep: bool) -> None:
    """One process: prints seconds and page faults of a prefill, medians."""
    import torch

    from nanobench import registry
    from nanobench.engines._compiler import Compiler
    from nanobench.models import _packed_linear as packed_linear
    from nanobench.probes import memory
    from nanobench.schema import Point
    from nanobench.worker.workloads import generate

    if keep:
        memory.keep_freed()
    sizes = {"batch_size": batch, "prompt_len": 50, "new_tokens": 2}
    point = Point(model="gpt2", dtype="float32", device="cpu", threads=torch.get_num_threads(), **sizes)
    with torch.inference_mode():
        adapter = generate.load(point, seed=0)
        packed_linear.pack(adapter.module)
        engine = registry.find("engines", "cached")(adapter, registry.find("samplers", "greedy")(), point, Compiler("off"))
        prompt, seen = torch.zeros((batch, 50), dtype=torch.long), []
        for _ in range(PREFILLS):
            faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
            engine.prefill(prompt)
            seen.append((time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    print(json.dumps([statistics.median(each) for each in zip(*seen, strict=True)]))


def main() -> None:
    """Prints both ways and their ratio."""
    from nanobench.stats import intervals

    batch = int(sys.argv[1]) if len(sys.argv) > 1 else BATCH
    seen: dict[str, list[list[float]]] = {"returned": [], "kept": []}
    for pair in range(PAIRS):
        for way, each in list(seen.items())[:: -1 if pair % 2 else 1]:
            command = [sys.executable, __file__, "--prefills", str(batch), way]
            each.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))
    ratio = intervals.ratio([[math.log(a[0] / b[0]) for a, b in zip(*seen.values(), strict=True)]])
    for way, each in seen.items():
        took_s, faults = (statistics.median(values) for values in zip(*each, strict=True))
        print(f"{way}: {1e3 * took_s:.0f} ms, {faults:,.0f} page faults a prefill at batch {batch}")
    print(f"returned over kept: {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prefills"]:
        prefills(int(sys.argv[2]), keep=sys.argv[3] == "kept")
    else:
        main()
