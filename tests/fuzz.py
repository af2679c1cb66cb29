"""Seeded command lines and configurations, made from the options that the commands declare: valid, wrong and contradicting."""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import typer

from nanobench.cli import app
from nanobench.sweep.kv_dashboard import FORMATS, KINDS

SLOW = ("report", "selftest")
"""Commands that take seconds even if nothing is measured."""
COMMANDS = typer.main.get_command(app).commands
MEASURING = ("ab", "audit", "autobatch", "bisect", "calibrate", "kv-dashboard", "sample", "selftest", "tune", "verify")
"""Commands that measure and have no --dry-run."""
CONFIG = "fuzz.toml"
GARBAGE = [
    "", " ", ",", "-", "--", "0", "-1", "-0.0", "nan", "inf", "-inf", "1e309", "1e-320", "9" * 25, "9" * 5000, "½", "١٢", "1_0",
    "0x10", "true", "None", "a\nb", "a\tb", "é", "名前", "[/red]", "[bold]", ":x:", "{}", "%s", "\\", "'", "*", "x" * 300,
    "x" * 5000, "\udcff", "é\udc80", "1,,2", "1-3", "3-1*2", "1-9999999+1", "1-1000+1", "1-99999999999999999999*2", "auto",
    "auto,auto", "0,1", "1,1,1", "1.5", "1e3", ",".join(map(str, range(1, 2000))), "a:b:c", ":", "x:", "a.:b", "no.such:build",
]  # fmt: skip
NUMBERS = ["1", "2", "1,3", "1-4*2", "8-24+8", "7", "1000000", "99999999", "auto"]
PATHS = [
    "out",
    "out/deep/er",
    "file",
    "file/below",
    "folder",
    "run",
    "torn",
    "broken",
    "wrong",
    "nowhere",
    "/proc/nope",
    "/dev/null",
    ".",
]
VALID = {
    "--model": ["gpt2-nano", "fakes:tiny", "gpt2-nano,fakes:tiny", "fakes:broken", "fakes:no_adapter", "json:loads", "gpt2"],
    "--dtype": ["float32", "bfloat16", "float16", "float32,bfloat16", "auto", "float64"],
    "--device": ["cpu", "auto", "cuda", "cuda:99", "cpu:0"],
    "--compile-mode": ["off", "default", "off,default,freeze"],
    "--attention": ["auto", "sdpa-math", "auto,sdpa-flash,flex"],
    "--window": ["auto", "none", "64", "none,16-64*2", "1000000"],
    "--engine": ["cached", "uncached,cached", "cached,fakes:same", "cuda-graph"],
    "--sampler": ["greedy", "greedy,top-k"],
    "--weights": ["float", "float,int8", "int4", "int2"],
    "--kv-cache": ["float", "float,int8", "int4"],
    "--max-kl": ["none", "0.01", "1e-300", "-1"],
    "--phase": ["pretrain", "sft-dynamic,sft-padded"],
    "--data": ["synthetic", "text", "file", "folder", "/dev/zero"],
    "--prompts": ["synthetic", "text", "file", "folder", "/dev/zero"],
    "--prompt": ["To be, or not to be", "1,2,3", "é"],
    "--tokenizer": ["bytes", "gpt2", "ids", "nowhere.json"],
    "--optimizer": ["adamw", "adamw,sgd", "muon"],
    "--checkpointing": ["off", "off,checkpointed"],
    "--cross-entropy": ["full", "full,chunked"],
    "--param-dtype": ["float32", "bfloat16", "float32,bfloat16", "float16"],
    "--optimizer-kernel": ["fused", "foreach"],
    "--axis": ["batch_size=1,2", "batch-size=auto", "sampler=greedy", "world_size=2", "seq_len=8", "a=b", "=", "threads=1"],
    "--memory-limit": ["4GiB", "none", "auto", "999999TiB", "1B"],
    "--isolation": ["spawn", "forkserver"],
    "--executor": ["local", "local:x=1", "slurm:partition=x", "json:loads"],
    "--target-ci": ["0.5", "auto", "1e-300"],
    "--max-seconds": ["0.05", "auto", "1e300"],
    "--calibration": ["off", "auto", "fresh"],
    "--mode": ["train", "generate"],
    "--margin": ["0.5", "1"],
    "--format": ["csv", "json", "md"],
    "--gpu": ["h200", "h200,a100-80gb", "a100"],
    "--config": [CONFIG, "file", "folder", "nowhere"],
    "FAMILY": ["models", "metrics", "plots", "configs"],
    "NAME": ["speedup_vs_batch", "timeline", "waterfall"],
    "CONFIG": [CONFIG, "file", "folder", "nowhere"],
    "RESULTS": ["run", "run", "run", ".", "torn", "broken", "wrong", "file", "nowhere", "figures.csv"],
}
"""Option, or metavar of an argument -> values that the command may accept."""
TOML_KEYS = [
    "batch",
    "prompt-len",
    "prompt_len",
    "model",
    "threads",
    "launches",
    "timeout",
    "seed",
    "quick",
    "axis",
    "out",
    "yes",
]
TOML_VALUES = [
    "1", "0", "-1", "2.5", "nan", "inf", "1e400", "9" * 30, "9" * 5000,
    "true", '""', '"auto"', '"1-4*2"', "[1, 2]", "[]", "[[1]]",
    '["gpt2-nano"]', '"gpt2-nano"', "1979-05-27", "{a = 1}", '"\\u0000"', '"out\\u0000"', '"é"', '"[/x]"', "[true]",
    '"1-1000+1"', "[" * 3000, "= =", '"unclosed',
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One command line, and the configuration that it may name."""

    words: tuple[str, ...]
    config: bytes

    @property
    def writes(self) -> set[str]:
        """The first parts of the paths below the current folder that it may write."""
        given = [value for option, value in zip(self.words, self.words[1:], strict=False) if option in ("--out", "--plot")]
        given += [f"kv-dashboard-{what}.{form}" for what in KINDS for form in FORMATS]
        return {(*Path(path).parts, ".")[0] for path in (*given, "results", "run") if path}


def case(seed: int, number: int, processes: bool = False) -> Case:
    """The case of a number. With `processes` it measures nothing: it is a dry run, or on a GPU that is not there."""
    chance = random.Random(f"{seed} {number}")
    name = chance.choice([*COMMANDS, "kv-sweep", "kv-sweep", "train-throughput", "train-throughput", "run"])
    words = [name]
    if name in ("kv-sweep", "train-throughput", "verify", "autobatch", "sample"):
        words += ["--model", "gpt2-nano"]
    words += {"kv-sweep": ["--launches", "1"], "train-throughput": ["--quick"], "selftest": ["--quick"]}.get(name, [])
    params = [param for param in COMMANDS[name].params if "--help" not in param.opts]
    for param in params:
        if param.param_type_name == "argument" and chance.random() < 0.9:
            words.append(value_of(chance, param.metavar or "", False))
    options = [param for param in params if param.param_type_name == "option"]
    for param in chance.choices(options, k=chance.randint(0, 4)) if options else ():
        is_number = param.metavar in ("LIST", "USD", "W", "N", "SECONDS") or isinstance(param.default, int | float)
        words += [param.opts[0]] if param.is_flag else [param.opts[0], value_of(chance, param.opts[0], is_number)]
    if chance.random() < 0.05:
        words.insert(chance.randrange(len(words) + 1), chance.choice(GARBAGE))
    if processes:
        words += cut_short(name)
    return Case(tuple(words), configuration(chance))


def cut_short(name: str) -> list[str]:
    """Options with which a command measures nothing."""
    if name in MEASURING:
        return ["--device", "cuda:77"]
    return ["--dry-run"] if name in ("kv-sweep", "train-throughput", "run") else []


def value_of(chance: random.Random, name: str, is_number: bool) -> str:
    """A value for an option or an argument: two of three come from those that it may accept."""
    accepted = VALID.get(name, NUMBERS if is_number else PATHS)
    return chance.choice(accepted if chance.random() < 2 / 3 else GARBAGE)


def configuration(chance: random.Random) -> bytes:
    """A TOML file, or something like one."""
    command = chance.choice(["kv-sweep", "kv-sweep", "train-throughput", "verify", "x", ""])
    lines = [f'command = "{command}"', 'model = "gpt2-nano"'][: chance.randint(0, 2)]
    lines += [f"{chance.choice(TOML_KEYS)} = {chance.choice(TOML_VALUES)}" for _ in range(chance.randint(0, 3))]
    text = "\n".join(lines).encode()
    return text + chance.choice([b"", b"", b"", b"", b"\xff", b"\0", b"\xef\xbb\xbf"])


def prepare(folder: Path, run: Path | None = None) -> None:
    """Fills a folder with what the cases name. `run` is the folder of a real run."""
    for name in ("folder", "broken", "wrong", "configs"):
        (folder / name).mkdir(parents=True)
    (folder / "file").write_text("some text\n")
    (folder / "text").write_text("To be, or not to be. " * 100)
    (folder / "broken" / "run.json").write_text('{"plan":')
    (folder / "wrong" / "run.json").write_text(json.dumps({"plan": 1, "started_at": 2, "identity": 3}))
    (folder / "torn" / "raw").mkdir(parents=True)
    (folder / "figures.csv").write_text("model,batch,a\ngpt2,x,\n,,,,,\n")
    if run is not None:
        shutil.copytree(run, folder / "run")
        shutil.copy(run / "run.json", folder / "torn")
        (folder / "torn" / "raw" / "01-torn.parquet").write_bytes(b"PAR1, and no more")


def errors_of(text):
    """The lines of standard error that are no warnings."""
    return [line for line in text.strip().splitlines() if not line.startswith("warning: ")]


def tree(folder: Path) -> set[str]:
    """All paths below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def written(before: set[str], after: set[str], allowed: set[str]) -> set[str]:
    """What is new and may not be."""
    return set() if "." in allowed else {path for path in after - before if Path(path).parts[0] not in allowed}
