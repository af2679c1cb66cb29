"""Training through the command line: what is measured, what is refused, and what becomes a row."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from conftest import made_once
from nanobench.records import MEASURED
from nanobench.results import derive, finder, stored_cells

SMALL = ("--model", "gpt2-nano", "--seq-len", 32, "--threads", 1, "--max-seconds", 0.05, "--launches", 1, "--no-plot")
BATCH = ("--batch", 2)


@pytest.fixture(scope="session")
def trained(nanobench_here, tmp_path_factory):
    """Three phases, two recipes, two launches."""
    phases = ("--phase", "pretrain,sft-dynamic,sft-padded", "--checkpointing", "off,checkpointed", "--grad-accum", 2)

    def make(folder):
        asked = ("train-throughput", *SMALL, *BATCH, "--launches", 2, *phases, "--out", "run", "--json")
        (folder / "printed").write_text(nanobench_here(*asked, cwd=folder, code=0).stdout)

    folder = made_once(tmp_path_factory, "trained", make)
    return folder / "run", (folder / "printed").read_text()


@pytest.fixture
def own_copy(trained, tmp_path):
    """A copy of that run, for tests that change it."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


@pytest.fixture
def quiet(monkeypatch):
    """Every cell that was measured is ok, however busy the machine was meanwhile."""
    derived, ratio = derive.derive, {"speedup_status": "ok", "speedup_reason": None}

    def undisturbed(*arguments):
        measured = {"status": "ok", "reason": None}
        return [
            {**cell, **(measured if cell["status"] in MEASURED else {}), **(ratio if cell["speedup"] is not None else {})}
            for cell in derived(*arguments)
        ]

    monkeypatch.setattr(derive, "derive", undisturbed)
    monkeypatch.setattr(stored_cells, "read", lambda folder: None)


def cells_of(folder):
    return pd.read_parquet(folder / "cells.parquet").set_index(["phase", "arm"])


def test_every_phase_and_arm_is_a_cell_with_its_interval(trained):
    cells = cells_of(trained[0])
    assert len(cells) == 6
    assert set(cells["status"]) <= set(MEASURED)
    assert set(cells["gate"]) == {"exact"}
    amounts = ["train_tok_s", "useful_tok_s", "step_s", "executed_flops_per_s", "useful_flops_per_s", "peak_memory_bytes"]
    assert (cells[amounts] > 0).all().all()
    for low, value, high in (("step_lo_s", "step_s", "step_hi_s"), ("train_tok_s_lo", "train_tok_s", "train_tok_s_hi")):
        assert (cells[low] <= cells[value]).all()
        assert (cells[value] <= cells[high]).all()
    again = cells.xs("eager checkpointed", level="arm")
    assert (again["speedup_lo"] <= again["speedup"]).all()


def test_tokens_per_second_are_tokens_of_a_step_over_its_time(trained):
    cells = cells_of(trained[0])
    full = cells.loc[["pretrain", "sft-padded"]]
    assert (full["train_tok_s"] * full["step_s"]).tolist() == pytest.approx([2 * 2 * 32] * 4)
    assert (cells["useful_tok_s"] / cells["train_tok_s"]).tolist() == pytest.approx((1 - cells["padding_fraction"]).tolist())
    assert set(cells.loc["pretrain", "padding_fraction"]) == {0.0}
    assert (cells.loc["sft-padded", "padding_fraction"] > cells.loc["sft-dynamic", "padding_fraction"]).all()


def test_memory_is_split_and_checkpointing_keeps_fewer_activations(trained):
    cells = cells_of(trained[0])
    weights = cells["weight_bytes"]
    assert (cells["gradient_bytes"] == weights).all()
    assert cells["optimizer_bytes"].tolist() == pytest.approx((2 * weights).tolist(), rel=0.01)
    kept, again = (cells.xs(arm, level="arm")["activation_bytes"] for arm in ("eager", "eager checkpointed"))
    assert (again < kept).all()
    assert (cells["peak_memory_bytes"] > 3 * weights).all()


def test_the_share_of_making_batches_is_known(trained):
    cells = cells_of(trained[0])
    assert (cells["data_s"] > 0).all()
    assert (cells["data_fraction"] * (cells["data_s"] + cells["step_s"])).tolist() == pytest.approx(cells["data_s"].tolist())


def test_generation_has_no_columns_here_and_training_none_there(trained, small_run):
    trains, generates = cells_of(trained[0]), pd.read_parquet(small_run[0] / "cells.parquet")
    for column in ("output_tok_s", "ttft_s", "tpot_s", "itl_p50_s", "kv_cache_bytes", "mbu"):
        assert trains[column].isna().all()
    for column in ("train_tok_s", "useful_tok_s", "step_s", "loss_first", "optimizer_bytes"):
        assert generates[column].isna().all()
    assert trains["loss_last"].notna().all()


def test_both_kinds_of_run_load_together(trained, small_run):
    cells = pd.concat([finder.load(trained[0]), finder.load(small_run[0])])
    assert cells["prompt_len"].dtype == cells["seq_len"].dtype == "int64"


def test_a_report_is_written_of_it(own_copy, nanobench_here):
    nanobench_here("report", own_copy, cwd=own_copy.parent, code=0)
    written = (own_copy / "report.md").read_text()
    assert "useful tok/s" in written
    assert "prompt" not in written


def test_explain_says_why_training_is_not_predicted(nanobench_here, trained):
    told = nanobench_here("explain", trained[0], cwd=trained[0].parent, code=0).stdout
    assert told.count("not predicted: there is no calibration") == 4
    assert told.count("not predicted: lengths change from step to step") == 2
    assert "attribute path" not in told


def test_training_is_priced_by_its_tokens(nanobench_here, trained, quiet):
    def cost(*arguments, code=0):
        return nanobench_here("cost", trained[0], *arguments, cwd=trained[0].parent, code=code)

    assert "--tokens N" in cost("--price-per-hour", 3).stdout
    assert "fewest GPU-hours for 1,000 tokens" in cost("--price-per-hour", 3, "--tokens", 1000).stdout
    assert "--price-per-hour" in cost(code=2).stderr


def test_the_last_line_is_one_document(trained):
    document = json.loads(trained[1].strip().splitlines()[-1])
    assert len(document["cells"]) == 6
    assert all(cell["train_tok_s"] > 0 for cell in document["cells"])


def test_a_run_is_resumed_by_its_own_command_alone(nanobench_here, own_copy):
    folder = own_copy
    before = len(list((folder / "raw").iterdir()))
    removed = sorted((folder / "raw").iterdir())[0]
    removed.unlink()
    refused = nanobench_here("kv-sweep", "--resume", folder, cwd=folder.parent, code=2)
    assert "train-throughput --resume" in refused.stderr
    nanobench_here("train-throughput", "--resume", folder, "--no-plot", cwd=folder.parent, code=0)
    assert len(list((folder / "raw").iterdir())) == before


def test_an_arm_that_trains_on_something_else_is_wrong_and_never_timed(nanobench_here, tmp_path):
    """Rows that are copies, a loss that counts padding, an optimizer that does nothing; and a model that says why it can't."""
    wrong = {("fakes:copying", "adamw"), ("fakes:miscounting", "adamw"), ("fakes:tiny", "fakes:lazy")}
    models = "fakes:tiny,fakes:copying,fakes:miscounting,fakes:failing"
    asked = ("--model", models, "--optimizer", "adamw,fakes:lazy", "--phase", "sft-padded", "--no-plot", "--out", "run")
    done = nanobench_here("train-throughput", *SMALL[2:], *BATCH, *asked, cwd=tmp_path, code=1)
    cells = pd.read_parquet(tmp_path / "run" / "cells.parquet").set_index(["model", "optimizer"])
    assert wrong <= set(cells[cells["status"].eq("wrong")].index)
    assert cells.loc[("fakes:tiny", "adamw"), "status"] in MEASURED
    assert cells.loc[list(wrong), "reason"].str.contains(r"(?:loss|gradients|weights) off by").all()
    assert "loss off by" in cells.loc[("fakes:miscounting", "adamw"), "reason"]
    assert cells.loc[list(wrong), "train_tok_s"].isna().all()
    failed = cells.loc[("fakes:failing", "adamw")]
    assert (failed["status"], failed["reason"]) == ("error", "ValueError: no loss here")
    assert "wrong" in done.stdout


def test_a_text_is_trained_on(nanobench_here, tmp_path):
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    asked = (*SMALL[:6], "--batch", 8, "--data", "text", "--max-seconds", 1, "--launches", 1, "--no-plot", "--out", "run")
    nanobench_here("train-throughput", *asked, cwd=tmp_path, code=0)
    (cell,) = pd.read_parquet(tmp_path / "run" / "cells.parquet").to_dict("records")
    assert (cell["data"], cell["tokenizer"]) == ("text", "bytes")
    assert cell["loss_last"] < cell["loss_first"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--data", "nowhere"), "nowhere cannot be read"),
        (("--dtype", "float16"), "is not for training"),
        (("--seq-len", "1000"), "give --seq-len 256 or less"),
        (("--engine", "cached"), "No such option"),
    ],
)
def test_a_mistake_gets_one_line(nanobench_here, tmp_path, asked, words):
    done = nanobench_here("train-throughput", "--model", "gpt2-nano", *asked, cwd=tmp_path, code=2)
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_narrow_parameters_are_an_arm_that_is_lossy_checked_and_half_as_large(nanobench_here, no_plots, tmp_path):
    asked = ("--dtype", "bfloat16", "--param-dtype", "float32,bfloat16", "--max-seconds", 0.2)
    nanobench_here("train-throughput", *SMALL, *BATCH, *asked, "--out", "run", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path / "run").loc["pretrain"]
    wide, narrow = cells.loc["eager"], cells.loc["eager bfloat16-params"]
    assert (wide["gate"], narrow["gate"]) == ("exact", "lossy")
    assert {wide["status"], narrow["status"]} <= set(MEASURED)
    assert narrow["checked_calls"] > 0
    for name in ("weight_bytes", "gradient_bytes", "optimizer_bytes"):
        assert narrow[name] == pytest.approx(wide[name] / 2, rel=0.01)
    nanobench_here("report", "run", cwd=tmp_path, code=0)
    assert "eager bfloat16-params, from float32 parameters: losses within" in (tmp_path / "run" / "report.md").read_text()


def test_narrow_parameters_in_float32_are_skipped_with_the_fix(nanobench_here, tmp_path):
    nanobench_here("train-throughput", *SMALL, *BATCH, "--param-dtype", "bfloat16", "--out", "run", cwd=tmp_path, code=0)
    (cell,) = cells_of(tmp_path / "run").to_dict("records")
    assert (cell["status"], cell["reason"]) == ("skipped", "bfloat16 parameters compute in bfloat16; give --dtype bfloat16")
