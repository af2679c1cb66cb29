"""A training sweep against a plain hand-written loop over the same model, timed before, between and after its launches.

    python tests/bench/hand_training_loop.py [OUT]        about six minutes on two cores

Prints, per batch and arm, tok/s of both with the spread of the loop's own runs, and both speedups with their intervals.
The loop runs in processes of its own and uses nothing of nanobench but the model and the way in which a worker keeps freed
memory: cross entropy, backward, clip, fused AdamW, over random tokens, with torch.compile or without.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCHES, LENGTH, LAUNCHES, STEPS = (4, 8), 256, 5, 3
MODEL = "gpt2-char"


def loop(cache: str) -> None:
    """One process: every batch, eager and compiled in turn, a first step each and then the timed ones."""
    import os

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    import torch

    from nanobench import lookup
    from nanobench.probes import memory

    memory.keep_freed()
    seconds = {}
    for batch in BATCHES:
        arms = {}
        for name in ("eager", "compiled default"):
            torch.manual_seed(0)
            model = lookup.find("models", MODEL)()
            forward = torch.compile(model.forward, dynamic=False) if name != "eager" else model.forward
            arms[name] = forward, list(model.module.parameters())
        made = {name: torch.optim.AdamW(parameters, lr=3e-4, fused=True) for name, (_, parameters) in arms.items()}
        tokens = torch.randint(model.shape.vocab_size, (batch, LENGTH + 1))
        for number in range(STEPS + 2):
            for name, (forward, parameters) in arms.items():
                start = time.perf_counter()
                forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                made[name].step()
                made[name].zero_grad(set_to_none=True)
                if number > 1:
                    seconds.setdefault(f"{batch} {name}", []).append(time.perf_counter() - start)
    print(json.dumps(seconds))


def run_loop(cache: str) -> dict:
    """The loop in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--loop", cache], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def sweep(folder: Path, cache: str) -> tuple[list[dict], list[dict]]:
    """The cells of a sweep, and what the loop measured before, between and after its rounds of launches."""
    from nanobench import runner, store
    from nanobench.executors import local
    from nanobench.options import TrainOptions
    from nanobench.plan import make_plan, question

    options = TrainOptions(model=MODEL, batch=",".join(map(str, BATCHES)), seq_len=str(LENGTH), launches=LAUNCHES, compile=True)
    with tempfile.TemporaryDirectory() as scratch:
        description = runner.describe(local.build("spawn", 0, Path(scratch)), question(options), Path(scratch))
    plan = make_plan(options, description)
    run = store.create(folder, store.about_new("train-throughput", {}, plan, description))
    loops = []

    def make_executor(launch):
        loops.append(run_loop(cache))
        return local.build("forkserver", launch, run.scratch / "inductor")

    cells = runner.Sweep(run, plan, description, make_executor, lambda progress: None).measure()
    loops.append(run_loop(cache))
    return cells, loops


def interval(values: list[float]) -> tuple[float, float, float]:
    """exp of mean and t interval of logs."""
    from nanobench.stats import t_interval

    return tuple(math.exp(value) for value in t_interval(values))


def main() -> None:
    """Prints the comparison."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "run"
    with tempfile.TemporaryDirectory() as cache:
        run_loop(cache)
        cells, loops = sweep(folder, cache)
    print(f"{MODEL}, sequence {LENGTH}, {LAUNCHES} launches, {len(loops)} loop processes; {folder}")
    print("batch arm                nanobench tok/s   loop tok/s [min .. max of its processes]   ratio")
    for cell in cells:
        key, tokens = f"{cell['batch_size']} {cell['arm']}", cell["batch_size"] * LENGTH
        rates = [tokens * len(each[key]) / sum(each[key]) for each in loops]
        middle = tokens / statistics.mean(second for each in loops for second in each[key])
        print(
            f"{cell['batch_size']:5} {cell['arm']:18} {cell['train_tok_s']:15.1f} {middle:12.1f} "
            f"[{min(rates):.1f} .. {max(rates):.1f}] {cell['train_tok_s'] / middle:22.3f}"
        )
    print("batch  nanobench speedup       loop speedup")
    for cell in (cell for cell in cells if cell["arm"] != "eager"):
        mean = {
            name: [statistics.mean(each[f"{cell['batch_size']} {name}"]) for each in loops] for name in ("eager", cell["arm"])
        }
        own = interval([math.log(slow / fast) for slow, fast in zip(mean["eager"], mean[cell["arm"]], strict=True)])
        ours = cell["speedup"], cell["speedup_lo"], cell["speedup_hi"]
        overlap = ours[1] <= own[2] and own[1] <= ours[2]
        texts = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in (ours, own)]
        print(f"{cell['batch_size']:5}  {texts[0]:22}  {texts[1]:22}  {'overlap' if overlap else 'APART'}")


if __name__ == "__main__":
    loop(sys.argv[2]) if "--loop" in sys.argv else main()
