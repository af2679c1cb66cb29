"""tok/s of `hf:` arms compared with a direct loop over the same module of transformers: paired, over fresh processes.

    python tests/bench/huggingface_overhead.py [MODEL] [BATCHES]        about twelve minutes on two cores

MODEL defaults to a GPT-2 124M and a small Llama with random weights. Float32, prompt 50, 20 new tokens. In each process, the
loop and the engine take turns over one module; both are greedy. Prints tok/s of both and their ratio with its 95 % interval.
"""

import json
import math
import statistics
import subprocess
import sys
import time

PROMPT, NEW, PAIRS, PROCESSES, MOST_S = 50, 20, 10, 3, 45.0
MODELS = ("hf:gpt2?random", "hf:llama?random,n_layer=8,n_embd=512,n_head=8,n_kv_head=4,intermediate_size=1408")
BATCHES = (1, 8)
ARMS = {"uncached": "uncached", "cached-cat": "DynamicCache"}
"""Engine -> what the loop does."""


def uncached(model, prompt):
    """Every token processes the whole sequence again."""
    import torch

    tokens = prompt
    for _ in range(NEW):
        logits = model(tokens, use_cache=False, logits_to_keep=1).logits[:, -1]
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    return tokens


def dynamic(model, prompt):
    """A prefill, then one token at a time, with a DynamicCache."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    tokens, new = [prompt], prompt
    for _ in range(NEW):
        new = model(new, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(new)
    return torch.cat(tokens, dim=1)


LOOPS = {"uncached": uncached, "cached-cat": dynamic}


def pairs(model: str, batch: int, arm: str) -> None:
    """One process: the loop and the engine in turn; prints the seconds of each as JSON."""
    import torch

    from nanobench import registry
    from nanobench.engines._compiler import Compiler
    from nanobench.probes import memory
    from nanobench.schema import Point
    from nanobench.worker.workloads import generate

    memory.keep_freed()
    sizes = {"batch_size": batch, "prompt_len": PROMPT, "new_tokens": NEW}
    point = Point(model=model, dtype="float32", device="cpu", threads=torch.get_num_threads(), **sizes)
    adapter = generate.load(point, seed=0)
    prompt = torch.randint(adapter.shape.vocab_size, (batch, PROMPT))
    with torch.inference_mode():
        engine = registry.find("engines", arm)(adapter, registry.find("samplers", "greedy")(), point, Compiler("off"))

        def ours():
            engine.prefill(prompt)
            for _ in range(NEW - 1):
                engine.step()
            return engine.tokens_BN

        works = {"loop": lambda: LOOPS[arm](adapter.module.model, prompt), "engine": ours}
        assert torch.equal(works["loop"](), works["engine"]()), "the loop and the engine generate different tokens"
        seconds: list[dict[str, float]] = []
        start = time.perf_counter()
        while len(seconds) < 4 or (time.perf_counter() - start < MOST_S and len(seconds) < PAIRS):
            order = list(works) if len(seconds) % 2 == 0 else list(reversed(works))
            seconds.append({name: timed(works[name]) for name in order})
    print(json.dumps(seconds))


def timed(work) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Prints a row per model, batch and arm."""
    from nanobench.stats import intervals

    models = sys.argv[1:2] or MODELS
    batches = [int(text) for text in sys.argv[2].split(",")] if len(sys.argv) > 2 else BATCHES
    print("| model | batch | arm | direct loop, tok/s | nanobench, tok/s | ratio [95 %] |")
    print("|---|--:|---|--:|--:|--:|")
    for model in models:
        for batch in batches:
            for arm, what in ARMS.items():
                command = [sys.executable, __file__, "--pairs", model, str(batch), arm]
                outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(PROCESSES)]
                found = [json.loads(output.splitlines()[-1]) for output in outputs]
                ratio = intervals.ratio([[math.log(each["loop"] / each["engine"]) for each in seconds] for seconds in found])
                loop, ours = (
                    batch * NEW / statistics.median(each[name] for seconds in found for each in seconds)
                    for name in ("loop", "engine")
                )
                interval = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
                print(f"| {model} | {batch} | {arm} ({what}) | {loop:.1f} | {ours:.1f} | {interval} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pairs"]:
        pairs(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
