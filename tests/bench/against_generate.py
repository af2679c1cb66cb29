"""Cached generation compared with Hugging Face's `generate` over the same GPT-2 124M: paired, a process per batch and mode.

    python tests/bench/against_generate.py [BATCHES]        about twelve minutes on two cores

Needs `transformers` (the extra `test`). Random weights, float32, prompt 50, 20 new tokens. Per batch: tok/s of both and their
ratio with its 95 % interval; the share is of the roofline of a decode step, the time of reading every weight once or of
multiplying by it, whichever is longer, at the rates that this machine showed beside each pair.
"""

import json
import math
import statistics
import subprocess
import sys
import time

PROMPT, NEW, PAIRS, MOST_S = 50, 20, 15, 40.0
BATCHES, MODES = (1, 4, 8, 16, 32), ("off", "default")
READ_BYTES, WIDTH = 256 << 20, 1024


def pairs(batch: int, mode: str) -> None:
    """One process: `generate` and one arm in turn, and beside them the machine's limits; prints the seconds as JSON."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from nanobench import registry
    from nanobench.engines._compiler import Compiler
    from nanobench.models import _packed_linear as packed_linear
    from nanobench.probes import memory
    from nanobench.schema import Point
    from nanobench.worker.workloads import generate

    memory.keep_freed()
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    point = Point(
        model="gpt2", dtype="float32", device="cpu", threads=threads, batch_size=batch, prompt_len=PROMPT, new_tokens=NEW
    )
    theirs, ours = GPT2LMHeadModel(GPT2Config()).eval(), generate.load(point, seed=0)
    prompt = torch.randint(ours.shape.vocab_size, (batch, PROMPT))
    plain = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    source, layer, rows = torch.ones(READ_BYTES // 4), packed_linear.Linear(WIDTH, WIDTH), torch.ones(WIDTH, WIDTH)
    packed_linear.pack(ours.module)
    with torch.inference_mode():
        layer.pack()
        engine = registry.find("engines", "cached")(ours, registry.find("samplers", "greedy")(), point, Compiler(mode))
        steps: list[float] = []

        def generate() -> None:
            theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **plain)

        def arm() -> None:
            engine.prefill(prompt)
            steps[:] = [timed(engine.step) for _ in range(NEW - 1)]

        works = {"theirs": generate, "ours": arm, "read": source.sum, "multiply": lambda: layer(rows)}
        for work in works.values():
            work()
        seconds: list[dict[str, float]] = []
        start = time.perf_counter()
        while len(seconds) < 4 or (time.perf_counter() - start < MOST_S and len(seconds) < PAIRS):
            order = list(works) if len(seconds) % 2 == 0 else list(reversed(works))
            seconds.append({name: timed(works[name]) for name in order} | {"step": statistics.median(steps)})
    print(json.dumps({"params": ours.shape.read_params, "seconds": seconds}))


def timed(work) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def share(params: int, batch: int, seen: dict[str, float]) -> float:
    """Of the roofline: the least time of a step over the one it took."""
    read_s = 4 * params * seen["read"] / READ_BYTES
    multiply_s = params * batch * seen["multiply"] / WIDTH**3
    return max(read_s, multiply_s) / seen["step"]


def main() -> None:
    """Prints a row per batch and mode."""
    from nanobench.stats import intervals

    batches = [int(text) for text in sys.argv[1].split(",")] if len(sys.argv) > 1 else BATCHES
    print("| batch | arm | generate, tok/s | nanobench, tok/s | ratio [95 %] | share of the roofline |")
    print("|--:|---|--:|--:|--:|--:|")
    for batch in batches:
        for mode in MODES:
            command = [sys.executable, __file__, "--pairs", str(batch), mode]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found = json.loads(output.splitlines()[-1])
            seconds = found["seconds"]
            ratio = intervals.ratio([[math.log(each["theirs"] / each["ours"]) for each in seconds]])
            theirs, ours = (batch * NEW / statistics.median(each[name] for each in seconds) for name in ("theirs", "ours"))
            shares = sorted(share(found["params"], batch, each) for each in seconds)
            arm = "cached" if mode == "off" else f"cached {mode}"
            interval = f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
            print(f"| {batch} | {arm} | {theirs:.1f} | {ours:.1f} | {interval} | {statistics.median(shares):.0%} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pairs"]:
        pairs(int(sys.argv[2]), sys.argv[3])
    else:
        main()
