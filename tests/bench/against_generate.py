"""Cached generation against Hugging Face's `generate` over the same GPT-2 124M: paired, a process per batch and compile mode.

    python tests/bench/against_generate.py [BATCHES]        about ten minutes on two cores

Needs `transformers` (the extra `test`). Random weights, float32, prompt 50, 20 new tokens. Per batch: tok/s of both and their
ratio with its 95 % interval; the share is of the roofline, the time of reading every weight once or of multiplying, whichever
is longer, at the limits that `nanobench calibrate` keeps.
"""

import json
import math
import statistics
import subprocess
import sys
import time

PROMPT, NEW, PAIRS, MOST_S = 50, 20, 15, 40.0
BATCHES, MODES = (1, 4, 8, 16, 32), ("off", "default", "freeze")


def pairs(batch: int, mode: str) -> None:
    """One process: `generate` and one arm in turn; prints their seconds as JSON."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from nanobench import gate, lookup, trial
    from nanobench.engines.base import Compiler
    from nanobench.schema import Point

    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    threads = torch.get_num_threads()
    point = Point(
        model="gpt2", dtype="float32", device="cpu", threads=threads, batch_size=batch, prompt_len=PROMPT, new_tokens=NEW
    )
    ours = trial.load(point, seed=0)
    prompt = torch.randint(ours.shape.vocab_size, (batch, PROMPT))
    plain = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    with torch.inference_mode():
        engine = lookup.find("engines", "cached")(ours, lookup.find("samplers", "greedy")(), point, Compiler(mode))
        works = (
            lambda: theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **plain),
            lambda: gate.run_free(engine, prompt, NEW),
        )
        for work in works:
            work()
        seconds: list[list[float]] = []
        start = time.perf_counter()
        while len(seconds) < 4 or (time.perf_counter() - start < MOST_S and len(seconds) < PAIRS):
            order = (0, 1) if len(seconds) % 2 == 0 else (1, 0)
            taken = {index: timed(works[index]) for index in order}
            seconds.append([taken[0], taken[1]])
    print(json.dumps(seconds))


def timed(work) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def roofline_tok_s(batch: int) -> float:
    """Tokens a second if every step read each weight once or multiplied at the best rate, whichever takes longer."""
    from nanobench import lookup
    from nanobench.limits import Limits

    command = [sys.executable, "-m", "nanobench", "calibrate", "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    limits = Limits.from_json(
        {name: value for name, value in limit.items() if name != "unit"}
        for limit in json.loads(shown.splitlines()[-1])["calibrations"][0]["limits"]
    )
    sizes = lookup.presets()["gpt2"]
    params = sizes["vocab_size"] * sizes["n_embd"] + 12 * sizes["n_layer"] * sizes["n_embd"] ** 2
    return batch / max(4 * params / limits.at("read"), 2 * params * batch / limits.best("matmul"))


def main() -> None:
    """Prints a row per batch and mode."""
    from nanobench import stats

    batches = [int(text) for text in sys.argv[1].split(",")] if len(sys.argv) > 1 else BATCHES
    rooflines = {batch: roofline_tok_s(batch) for batch in batches}
    print("| batch | arm | generate, tok/s | nanobench, tok/s | ratio [95 %] | share of the roofline |")
    print("|--:|---|--:|--:|--:|--:|")
    for batch in batches:
        for mode in MODES:
            command = [sys.executable, __file__, "--pairs", str(batch), mode]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds = json.loads(told.splitlines()[-1])
            ratio = stats.ratio([[math.log(theirs / ours) for theirs, ours in seconds]])
            theirs, ours = (batch * NEW / statistics.median(each) for each in zip(*seconds, strict=True))
            arm = "cached" if mode == "off" else f"cached {mode}"
            interval = f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
            print(f"| {batch} | {arm} | {theirs:.1f} | {ours:.1f} | {interval} | {ours / rooflines[batch]:.0%} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pairs"]:
        pairs(int(sys.argv[2]), sys.argv[3])
    else:
        main()
