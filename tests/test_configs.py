import dataclasses
from pathlib import Path

import pytest

from nanobench import registry
from nanobench.records import Description
from nanobench.schema import GPTShape
from nanobench.sweep import config_file, options, plan

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
KINDS = {"kv-sweep": options.SweepOptions, "verify": options.GateOptions, "train-throughput": options.TrainOptions}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_plans(path):
    command = config_file.read_toml(path)["command"]
    kind = KINDS[command]
    asked = kind(**config_file.from_toml(path, kind, command))
    gpus = ["a GPU"] if asked.device.startswith("cuda") else []
    device = "cpu" if asked.device == "auto" else asked.device
    names = plan.describe_request(asked)["models"][device]
    known = {field.name for field in dataclasses.fields(GPTShape)}
    sizes = {name: {key: size for key, size in registry.presets()[name].items() if key in known} for name in names}
    shapes = {name: {"n_params": 1, "n_kv_head": size["n_head"], **size} for name, size in sizes.items()}
    machine = {"device": device, "gpus": gpus, "identity": {"hash": "0123456789ab"}}
    description = {**machine, "models": shapes, "available_bytes": 1 << 34, "matmul_flops_per_s": 1e11}
    made = plan.make_plan(asked, Description.from_json(description), find=lambda point, arms: 16)
    assert made.points
    assert len(made.arms) >= 2 or len({point.world_size for point in made.points}) >= 2
    assert path.read_text().startswith("# "), "the first line says what it is for: `nanobench list configs` shows it"
