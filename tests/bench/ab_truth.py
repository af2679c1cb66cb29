"""Does `nanobench ab` find what is planted? Many comparisons of revisions whose true difference is known.

    python tests/bench/ab_truth.py DIR same [RUNS [FIRST]]    NEW is BASE with another comment (40 runs)
    python tests/bench/ab_truth.py DIR slower5 [RUNS [FIRST]] each pass of NEW takes 5 % longer (20 runs)
    python tests/bench/ab_truth.py DIR slower2 [RUNS [FIRST]] 2 %, with a threshold of 1 % (20 runs)
    python tests/bench/ab_truth.py DIR faster5 [RUNS [FIRST]] each pass of BASE takes 5 % longer (20 runs)
    python tests/bench/ab_truth.py DIR load [RUNS [FIRST]]    all of them beside a busy loop (20 runs each)

Prints a line of a table in Markdown per kind. DIR keeps the answers; a run that is there is not measured again.
FIRST is the number (and seed) of the first run, 0 if it is left out.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from beside_load import beside

MODEL = '''"""A small GPT whose passes take a known share longer: a busy wait."""
import time
from nanobench.models.gpt2 import build as gpt2

SHARE = {share}


def build():
    adapter = gpt2(n_layer=2, n_head=2, n_embd=64, vocab_size=256, block_size=256)
    plain = type(adapter.module)

    class Slower(plain):
        def forward(self, *arguments):
            start = time.perf_counter()
            result = plain.forward(self, *arguments)
            end = start + (1 + SHARE) * (time.perf_counter() - start)
            while time.perf_counter() < end:
                pass
            return result

    adapter.module.__class__ = Slower
    return adapter
'''
KINDS = {"same": (0.0, 0.0, 40), "slower5": (0.0, 0.05, 20), "slower2": (0.0, 0.02, 20), "faster5": (0.05, 0.0, 20)}
OPTIONS = ["--model", "planted:build", "--batch", "8", "--prompt-len", "16", "--new-tokens", "16", "--threads", "1", "--json"]
MINUTES = {"same": "2", "slower5": "2", "slower2": "5", "faster5": "2"}
THRESHOLD = {"same": "2%", "slower5": "2%", "slower2": "1%", "faster5": "2%"}


def git(folder: Path, *arguments: str) -> None:
    """One git command."""
    own = ["-c", "user.name=nanobench", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", *own, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def repository(folder: Path, kind: str) -> Path:
    """A repository with two commits: BASE and NEW."""
    top = folder / f"repository-{kind}"
    if not (top / ".git").exists():
        top.mkdir(parents=True)
        git(top, "init", "-q")
        for number, share in enumerate(KINDS[kind][:2]):
            (top / "planted.py").write_text(MODEL.format(share=share) + f"# commit {number}\n")
            git(top, "add", ".")
            git(top, "commit", "-qm", str(number))
    return top


def answer(folder: Path, kind: str, load: str, number: int) -> dict:
    """The document of one comparison."""
    kept = folder / f"{kind}-{load.replace(' ', '-')}-{number:02d}.json"
    if not kept.exists():
        command = [sys.executable, "-m", "nanobench", "ab", "HEAD~1", "HEAD", *OPTIONS, "--max-minutes", MINUTES[kind]]
        command += ["--threshold", THRESHOLD[kind]]
        run = folder / "runs" / kept.stem
        shutil.rmtree(run, ignore_errors=True)  # of a comparison that was interrupted
        command += ["--seed", str(number), "--out", str(run)]
        with beside(load):
            done = subprocess.run(command, cwd=repository(folder, kind), capture_output=True, text=True, env=os.environ)
        if not done.stdout.strip():
            raise SystemExit(done.stderr)
        kept.write_text(done.stdout.strip().splitlines()[-1])
        print(kept.stem, kept.read_text()[:200], file=sys.stderr, flush=True)
    return json.loads(kept.read_text())


def row(folder: Path, kind: str, load: str, runs: int, first: int) -> str:
    """How often each answer was given, and what it took."""
    found = [answer(folder, kind, load, number) for number in range(first, first + runs)]
    counts = Counter(each["answer"] for each in found)
    ratios = sorted(each["ratio"] for each in found if each["ratio"])
    minutes = sorted(each["wall_s"] / 60 for each in found)
    middle = len(minutes) // 2
    shown = " | ".join(str(counts[name]) for name in ("faster", "slower", "same", "undecided", "different outputs", "failed"))
    seen = f"{ratios[len(ratios) // 2]:.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f}"
    return f"| {kind} | {load} | {runs} | {shown} | {seen} | {minutes[middle]:.1f} |"


def main() -> None:
    """Measures what the arguments ask for, and prints its table."""
    folder, what = Path(sys.argv[1]).resolve(), sys.argv[2]
    folder.mkdir(parents=True, exist_ok=True)
    kinds, load = (list(KINDS), "busy loop") if what == "load" else ([what], "idle")
    answers = "faster | slower | same | undecided | different | failed"
    print(f"| planted | beside | runs | {answers} | median ratio | ratios | median minutes |")
    print("|---|---|" + "--:|" * 8 + "---|--:|")
    for kind in kinds:
        runs = int(sys.argv[3]) if len(sys.argv) > 3 else (20 if what == "load" else KINDS[kind][2])
        print(row(folder, kind, load, runs, int(sys.argv[4]) if len(sys.argv) > 4 else 0), flush=True)


if __name__ == "__main__":
    main()
