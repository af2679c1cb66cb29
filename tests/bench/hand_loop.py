"""A sweep compared with a hand-written loop over the same model, timed before, between and after the sweep's launches.

    python tests/bench/hand_loop.py [OUT]        about ten minutes for GPT-2 124M on two cores

Prints, per batch and arm, tok/s of both with the spread of the loop's own runs, and both speedups with their intervals.
The loop runs in separate processes. Of nanobench it uses only the model, packed as in a worker, and the setting that keeps
freed memory.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCHES, PROMPT, NEW, LAUNCHES = (1, 4, 8), 50, 20, 5
MODEL = "gpt2"


def loop() -> None:
    """One process: every batch, both arms, one warm-up and two timed calls each, in turn."""
    import torch

    from nanobench import registry
    from nanobench.models import _packed_linear as packed_linear
    from nanobench.probes import memory

    memory.keep_freed()
    torch.manual_seed(0)
    model = registry.find("models", MODEL)()
    model.module.eval()
    packed_linear.pack(model.module)
    seconds = {}
    with torch.inference_mode():
        for batch in BATCHES:
            prompt = torch.randint(model.shape.vocab_size, (batch, PROMPT))
            for repetition in range(3):
                for name, generate in (("uncached", uncached), ("cached", cached)):
                    start = time.perf_counter()
                    generate(model, prompt)
                    if repetition:
                        seconds.setdefault(f"{batch} {name}", []).append(time.perf_counter() - start)
    print(json.dumps(seconds))


def uncached(model, prompt):
    """Every token processes the whole sequence again."""
    import torch

    tokens = prompt
    for _ in range(NEW):
        logits = model.forward(tokens, last_only=True)[:, -1]
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    return tokens


def cached(model, prompt):
    """A prefill, then one token at a time."""
    import torch

    cache = model.make_cache(len(prompt), PROMPT + NEW, "static")
    cache.attend_to(PROMPT, masked=False)
    logits, cache = model.forward_cached(prompt, torch.arange(PROMPT), cache)
    tokens = [prompt, logits[:, -1].argmax(-1, keepdim=True)]
    for position in range(PROMPT, PROMPT + NEW - 1):
        cache.attend_to(position + 1, masked=False)
        logits, cache = model.forward_cached(tokens[-1], torch.tensor([position]), cache)
        tokens.append(logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(tokens, dim=1)


def run_loop() -> dict:
    """The loop in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--loop"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def sweep(folder: Path) -> tuple[list[dict], list[dict]]:
    """The cells of a sweep, and what the loop measured before, between and after its rounds of launches."""
    from nanobench.schema import Trial
    from nanobench.sweep import runner, session
    from nanobench.sweep.executors import local
    from nanobench.sweep.options import SweepOptions
    from nanobench.sweep.plan import describe_request, make_plan

    options = SweepOptions(model=MODEL, batch=",".join(map(str, BATCHES)), new_tokens=str(NEW), launches=LAUNCHES)
    with tempfile.TemporaryDirectory() as scratch:
        description = session.describe(local.build("spawn", 0, Path(scratch)), describe_request(options), Path(scratch))
    plan = make_plan(options, description)
    run = session.new_run(folder, "kv-sweep", options, plan, description)
    loops = []

    class Between(runner.Sweep):
        def begin_round(self, trial: Trial) -> None:
            loops.append(run_loop())
            super().begin_round(trial)

    def make_executor():
        return local.build("forkserver", 0, run.scratch / "inductor")

    cells = Between(run, plan, description, make_executor, lambda progress: None).measure()
    loops.append(run_loop())
    return cells, loops


def interval(values: list[float]) -> tuple[float, float, float]:
    """exp of mean and t interval of logs."""
    from nanobench.stats.intervals import t_interval

    return tuple(math.exp(value) for value in t_interval(values))


def main() -> None:
    """Prints the comparison."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "run"
    cells, loops = sweep(folder)
    print(f"{MODEL}, prompt {PROMPT}, {NEW} new tokens, {LAUNCHES} launches, {len(loops)} loop processes; {folder}")
    print("batch arm       nanobench tok/s   loop tok/s [min .. max of its processes]   ratio")
    for cell in cells:
        key = f"{cell['batch_size']} {cell['arm']}"
        rates = [cell["batch_size"] * NEW * len(each[key]) / sum(each[key]) for each in loops]
        middle = cell["batch_size"] * NEW / statistics.mean(second for each in loops for second in each[key])
        print(
            f"{cell['batch_size']:5} {cell['arm']:9} {cell['output_tok_s']:15.1f} {middle:12.1f} "
            f"[{min(rates):.1f} .. {max(rates):.1f}] {cell['output_tok_s'] / middle:22.3f}"
        )
    print("batch  nanobench speedup       loop speedup")
    for cell in (cell for cell in cells if cell["arm"] == "cached"):
        mean = {
            name: [statistics.mean(each[f"{cell['batch_size']} {name}"]) for each in loops] for name in ("uncached", "cached")
        }
        own = interval([math.log(slow / fast) for slow, fast in zip(mean["uncached"], mean["cached"], strict=True)])
        ours = cell["speedup"], cell["speedup_lo"], cell["speedup_hi"]
        overlap = ours[1] <= own[2] and own[1] <= ours[2]
        texts = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in (ours, own)]
        print(f"{cell['batch_size']:5}  {texts[0]:22}  {texts[1]:22}  {'overlap' if overlap else 'APART'}")


if __name__ == "__main__":
    loop() if "--loop" in sys.argv else main()
