"""A/A: the uncached engine against itself under a second name, 40 contrasts through the whole pipeline.

    python tests/bench/same_twice.py [OUT]       about seven minutes

Of 40 intervals at 95 % about two exclude 1.0 by chance; more than six would be a fault of the method or of the machine.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nanobench

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "run"
SWEEP = ["--model", "gpt2-nano", "--batch", "1,2,4,8", "--prompt-len", "4-40+4", "--new-tokens", "8", "--max-seconds", "0.5"]

environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
engines = ["--engine", "uncached,fakes:same"]
command = [sys.executable, "-m", "nanobench", "kv-sweep", *SWEEP, *engines, "--threads", "1", "--out", str(OUT), "--no-plot"]
subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
cells = nanobench.load(OUT).query("arm != 'uncached'")
excluding = cells[(cells["speedup_lo"] > 1) | (cells["speedup_hi"] < 1)]
width = (cells["speedup_hi"] - cells["speedup_lo"]) / 2
print(f"{len(cells)} contrasts, {len(excluding)} exclude 1.0; median half-width {width.median():.1%}; {OUT}")
print(excluding[["batch_size", "prompt_len", "speedup", "speedup_lo", "speedup_hi"]].to_string(index=False))
