"""A training sweep compared with a hand-written loop over the same model, timed before, between and after its launches.

    python tests/bench/hand_training_loop.py [OUT]        about six minutes on two cores

Prints, per batch and arm, tok/s of both and their ratio: launch by launch over the loop's mean right before and behind it, with
its interval, as a shared machine changes its speed within minutes; and the ratio of the fastest steps. Then both speedups. At
last what is timed in an eager step and a loop's step take turns in one process.
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

BATCHES, LENGTH, LAUNCHES, STEPS, TURNS = (4,), 256, 8, 4, 10
MODEL = "gpt2-char"


def loop(cache: str) -> None:
    """One process: every batch, eager and compiled in turn, a first step each and then the timed ones."""
    import os

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    import torch

    from nanobench import registry
    from nanobench.probes import memory

    memory.keep_freed()
    seconds = {}
    for batch in BATCHES:
        arms = {}
        for name in ("eager", "compiled default"):
            torch.manual_seed(0)
            model = registry.find("models", MODEL)()
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


def in_turns() -> None:
    """One process: the loop's step and the one that a sweep times, one after the other; the ratio of their mean times."""
    import torch

    from nanobench import registry
    from nanobench.engines._compiler import Compiler
    from nanobench.probes import memory
    from nanobench.schema import Arm, Point
    from nanobench.training.data import BatchStream, Corpus
    from nanobench.training.trainer import Trainer

    memory.keep_freed()
    sizes = {"batch_size": BATCHES[0], "seq_len": LENGTH, "phase": "pretrain", "optimizer": "adamw", "data": "synthetic"}
    point = Point(model=MODEL, dtype="float32", device="cpu", threads=torch.get_num_threads(), **sizes)
    made = [registry.find("models", MODEL)() for _ in range(2)]
    corpus = Corpus.of(point, made[0].shape.vocab_size, 0)
    step = BatchStream("pretrain", corpus, point.batch_size, LENGTH, 0, torch.device("cpu"), 1).step(0)
    trainer, parameters = Trainer(made[0], point, Arm(engine=""), Compiler("off", "cpu")), list(made[1].module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, fused=True)
    (batch,) = step.batches

    def plain_step() -> None:
        made[1].forward(batch.tokens_BT, batch.targets_BT).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = {plain_step: [], trainer.step: []}
    for number in range(TURNS + 2):
        for run in list(seconds)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            run(step) if run == trainer.step else run()
            if number > 1:
                seconds[run].append(time.perf_counter() - start)
    print(json.dumps(statistics.mean(seconds[plain_step]) / statistics.mean(seconds[trainer.step])))


def run_in_turns() -> float:
    """The same in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--in-turns"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_loop(cache: str) -> dict:
    """The loop in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--loop", cache], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def sweep(folder: Path, cache: str) -> tuple[list[dict], list, list[dict]]:
    """Cells and launches of a sweep, and what the loop measured before, between and after its rounds of launches."""
    from nanobench.schema import Trial
    from nanobench.sweep import runner, session
    from nanobench.sweep.executors import local
    from nanobench.sweep.options import TrainOptions
    from nanobench.sweep.plan import describe_request, make_plan

    options = TrainOptions(model=MODEL, batch=",".join(map(str, BATCHES)), seq_len=str(LENGTH), launches=LAUNCHES, compile=True)
    with tempfile.TemporaryDirectory() as scratch:
        description = session.describe(local.build("spawn", 0, Path(scratch)), describe_request(options), Path(scratch))
    plan = make_plan(options, description)
    run = session.new_run(folder, "train-throughput", options, plan, description)
    loops = []

    class Between(runner.Sweep):
        def begin_round(self, trial: Trial) -> None:
            loops.append(run_loop(cache))
            super().begin_round(trial)

    def make_executor():
        return local.build("forkserver", 0, run.scratch / "inductor")

    cells = Between(run, plan, description, make_executor, lambda progress: None).measure()
    loops.append(run_loop(cache))
    return cells, run.read_raw(), loops


def repetitions_of(launches: list, cell: dict) -> list[list]:
    """The timed repetitions of a cell, launch by launch."""
    same = [each for each in launches if (each.point.batch_size, each.arm_index) == (cell["batch_size"], cell["arm_index"])]
    return [each.of_kind("steady") for each in sorted(same, key=lambda each: each.launch)]


def interval(values: list[float]) -> tuple[float, float, float]:
    """exp of mean and t interval of logs."""
    from nanobench.stats.intervals import t_interval

    return tuple(math.exp(value) for value in t_interval(values))


def main() -> None:
    """Prints the comparison."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "run"
    with tempfile.TemporaryDirectory() as cache:
        run_loop(cache)
        cells, launches, loops = sweep(folder, cache)
    print(f"{MODEL}, sequence {LENGTH}, {LAUNCHES} launches, {len(loops)} loop processes; {folder}")
    print("batch arm                nanobench tok/s  loop tok/s   ratio [95 %]           of the fastest steps")
    for cell in cells:
        key, tokens = f"{cell['batch_size']} {cell['arm']}", cell["batch_size"] * LENGTH
        steps = [[each.wall_s / each.calls for each in timed] for timed in repetitions_of(launches, cell)]
        loop_s = [statistics.mean(each[key]) for each in loops]
        logs = [math.log(math.sqrt(loop_s[n] * loop_s[n + 1]) / statistics.mean(each)) for n, each in enumerate(steps)]
        fastest = min(second for each in loops for second in each[key]) / min(second for each in steps for second in each)
        text = "{:.3f} [{:.3f}, {:.3f}]".format(*interval(logs))
        rates = f"{cell['train_tok_s']:15.1f} {tokens / statistics.mean(loop_s):11.1f}"
        print(f"{cell['batch_size']:5} {cell['arm']:18} {rates}   {text:22} {fastest:.3f}")
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
    ratios = [run_in_turns() for _ in range(5)]
    text = "{:.3f} [{:.3f}, {:.3f}]".format(*interval([math.log(ratio) for ratio in ratios]))
    print(f"in turns in one process, eager, batch {BATCHES[0]}: {text} over {len(ratios)} processes")


if __name__ == "__main__":
    if "--loop" in sys.argv:
        loop(sys.argv[2])
    elif "--in-turns" in sys.argv:
        in_turns()
    else:
        main()
