import json
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch

from conftest import SMALL, environment
from nanobench import load, schema
from nanobench.records import MEASURED
from nanobench.results import finder, store
from nanobench.schema import PROTOCOL
from nanobench.sweep.executors import base, local

FAILED = ["output_tok_s", "ttft_s", "tpot_s", "speedup", "speedup_lo", "peak_memory_bytes"]


def cells_of(folder):
    return pd.read_parquet(folder / "cells.parquet").set_index(["batch_size", "arm"])


def test_a_sweep_leaves_raw_files_cells_and_what_was_asked(small_run):
    folder, _ = small_run
    run = store.Run(folder)
    info = run.info()
    assert len(list(run.raw.iterdir())) == 4
    assert info.finished_at
    assert info.wall_s > 0
    assert info.requested["batch"] == "1,3"
    assert info.description.identity["torch"]
    assert not run.scratch.exists()
    assert sorted(path.name for path in folder.iterdir()) == [
        "cells.arrow",
        "cells.parquet",
        "journal.jsonl",
        "logs",
        "raw",
        "run.json",
    ]


def test_every_cell_is_measured_gated_and_has_its_interval(small_run):
    cells = cells_of(small_run[0])
    assert list(cells.index) == [(1, "uncached"), (1, "cached"), (3, "uncached"), (3, "cached")]
    assert set(cells["gate"]) == {"exact"}
    assert set(cells["status"]) <= set(MEASURED)
    assert (cells[["output_tok_s", "ttft_s", "tpot_s", "peak_memory_bytes", "timestamp_overhead"]] > 0).all().all()
    cached = cells.xs("cached", level="arm")
    assert (cached["speedup_lo"] < cached["speedup"]).all()
    assert (cached["speedup"] < cached["speedup_hi"]).all()
    assert set(cached["speedup_basis"]) == {"launches"}
    assert cells.xs("uncached", level="arm")["speedup"].isna().all()
    assert (cached["kv_cache_bytes"] == [12 * 2 * 2 * 64 * 4, 3 * 12 * 2 * 2 * 64 * 4]).all()


def test_the_last_line_is_one_json_document(small_run):
    document = json.loads(small_run[1].strip().splitlines()[-1])
    assert len(document["cells"]) == 4
    starts = ("cached is ", "no difference between cached and uncached", "absolute figures")
    assert document["verdict"][0].startswith(starts)
    assert 0 < document["timed_share"] < 1


def test_load_reads_one_run_or_all_below_a_folder(small_run):
    one, all_runs = load(small_run[0]), load(small_run[0].parent)
    assert len(one) == len(all_runs) == 4
    pd.testing.assert_frame_equal(one.drop(columns="run"), pd.read_parquet(small_run[0] / "cells.parquet"), check_dtype=False)


def test_marks_are_one_per_token_and_rise(small_run):
    for path in store.Run(small_run[0]).raw.iterdir():
        for row in pq.read_table(path).to_pylist():
            if row["kind"] != "steady":
                continue
            assert len(row["token_times_s"]) == row["calls"] * row["new_tokens"]
            assert row["token_times_s"] == sorted(row["token_times_s"])
            assert row["token_times_s"][-1] <= row["wall_s"]


def test_launches_of_one_point_differ_in_hash_seed_but_not_in_tokens(small_run):
    launches = [launch for launch in store.Run(small_run[0]).read_raw() if launch.point.batch_size == 3]
    assert {launch.launch for launch in launches} == {1, 2}
    assert len({launch.outcome.digest for launch in launches}) == 1


def test_a_strangers_script_recomputes_the_cells_from_the_raw_files(small_run):
    # Nothing of nanobench below: pandas, numpy and scipy alone.
    import numpy as np
    from scipy import stats

    raw = pd.concat([pd.read_parquet(path) for path in sorted((small_run[0] / "raw").iterdir())])
    steady = raw[(raw["kind"] == "steady") & raw["valid"].astype(bool)].copy()
    steady["calls"] = steady["calls"].astype(int)
    steady["call_s"] = steady["wall_s"] / steady["calls"]
    steady["ttft_s"] = [m[0] for m in steady["token_times_s"]]
    marks = [np.reshape(m, (c, -1)) for m, c in zip(steady["token_times_s"], steady["calls"], strict=True)]
    steady["gaps"] = [(m[:, -1] - m[:, 0]) / (m.shape[1] - 1) for m in marks]
    for (batch, engine), rows in steady.groupby(["batch_size", "engine"]):
        cell = cells_of(small_run[0]).loc[(batch, engine)]
        assert np.isclose(rows["tokens"].sum() / rows["wall_s"].sum(), cell["output_tok_s"])
        assert np.isclose(np.median(np.concatenate(rows["gaps"].tolist())), cell["tpot_s"])
    wide = steady.pivot_table(index=["batch_size", "launch", "block"], columns="engine", values="call_s")
    logs = np.log(wide["uncached"] / wide["cached"]).groupby(["batch_size", "launch"]).mean()
    for batch, means in logs.groupby("batch_size"):
        low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
        cell = cells_of(small_run[0]).loc[(batch, "cached")]
        found = cell[["speedup", "speedup_pairs_lo", "speedup_pairs_hi"]].to_numpy(float)
        assert np.allclose(np.exp([means.mean(), low, high]), found)
        assert cell["speedup_lo"] <= cell["speedup_pairs_lo"]
        assert cell["speedup_hi"] >= cell["speedup_pairs_hi"]


def test_a_wrong_arm_is_a_row_without_numbers_is_never_timed_and_exits_1(nanobench_here, tmp_path):
    arms = ("--engine", "uncached,fakes:frozen,fakes:slow")
    done = nanobench_here("kv-sweep", *SMALL, *arms, "--batch", "2", "--launches", 3, "--out", "run", cwd=tmp_path, code=1)
    cells = cells_of(tmp_path / "run")
    wrong, slow = cells.loc[(2, "fakes:frozen")], cells.loc[(2, "fakes:slow")]
    assert wrong["status"] == "wrong"
    assert wrong["gate"] == "wrong"
    assert wrong[FAILED].isna().all()
    assert slow["gate"] == "exact"
    assert slow["speedup_lo"] <= slow["speedup"] < slow["speedup_hi"] < 1
    assert "no conclusion for 1 of 2 ratios: fakes:frozen at batch 2, because wrong (" in done.stdout
    frozen = [launch for launch in store.Run(tmp_path / "run").read_raw() if launch.arm.engine == "fakes:frozen"]
    assert not [each for launch in frozen for each in launch.repetitions if each.kind in ("warmup", "steady")]
    assert {launch.launch for launch in frozen} == {1}


def test_an_exception_in_an_arm_is_an_error_row_and_spares_the_others(nanobench_here, tmp_path):
    arms = ("--engine", "uncached,fakes:raising,cached")
    nanobench_here("kv-sweep", *SMALL, *arms, "--batch", "1,4", "--quick", "--out", "run", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path / "run")
    assert cells.loc[(1, "fakes:raising"), "status"] in MEASURED
    assert cells.loc[(4, "fakes:raising"), "status"] == "error"
    assert cells.loc[(4, "fakes:raising"), "reason"] == "ValueError: no rows above three"
    assert cells.loc[(4, "fakes:raising"), FAILED].isna().all()
    assert cells.loc[(4, "cached"), "speedup"] > 0
    assert "and a second line" in next((tmp_path / "run" / "logs").glob("*-b4-*")).read_text()


@pytest.mark.slow
def test_memory_that_runs_out_is_oom_then_skipped_and_smaller_cells_stay(nanobench, tmp_path):
    arms = ("--engine", "uncached,fakes:greedy", "--memory-limit", "2GiB", "--model", "fakes:tiny")
    done = nanobench("kv-sweep", *SMALL, *arms, "--batch", "4,8,16", "--quick", "--out", "run", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path / "run")
    assert cells.loc[(4, "fakes:greedy"), "speedup"] > 0
    assert cells.loc[(8, "fakes:greedy"), "status"] == "oom"
    assert "can't allocate memory" in cells.loc[(8, "fakes:greedy"), "reason"]
    assert cells.loc[(16, "fakes:greedy"), "status"] == "skipped"
    assert "batch 8" in cells.loc[(16, "fakes:greedy"), "reason"]
    assert cells.loc[[(8, "fakes:greedy"), (16, "fakes:greedy")], FAILED].isna().all().all()
    assert (cells.xs("uncached", level="arm")["output_tok_s"] > 0).all()
    assert "oom" in done.stdout
    assert "skipped" in done.stdout


@pytest.mark.slow
def test_a_killed_worker_and_a_hanging_one_cost_the_others_nothing(nanobench, tmp_path):
    arms = (
        "--model",
        "fakes:tiny",
        "--engine",
        "uncached,fakes:dying,fakes:hanging,cached",
        "--timeout",
        6,
    )
    nanobench("kv-sweep", *SMALL, *arms, "--batch", "4", "--quick", "--out", "run", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path / "run")
    assert cells.loc[(4, "fakes:dying"), "status"] == "error"
    assert "SIGKILL" in cells.loc[(4, "fakes:dying"), "reason"]
    assert cells.loc[(4, "fakes:hanging"), "status"] == "timeout"
    assert "6 s" in cells.loc[(4, "fakes:hanging"), "reason"]
    assert cells.loc[(4, "cached"), "speedup"] > 0
    assert cells.loc[(4, "cached"), "pairing"] == "block"


@pytest.mark.parametrize("isolation", ["forkserver", "spawn"])
def test_a_worker_that_never_starts_is_ended_too(monkeypatch, tmp_path, isolation):
    """Its time limit counts from its first message; how long it may take until then has a limit of its own."""
    monkeypatch.setattr(base, "START_TIMEOUT_S", 0.1)
    executor = local.build(isolation, 0, tmp_path / "cache")
    question = {"describe": {"device": "cpu", "models": {"cpu": [], "cuda": []}}}
    try:
        found = executor.run(question, tmp_path / "out", tmp_path / "log", 600.0, lambda report: None)
    finally:
        executor.close()
    assert (found.status, found.reason) == ("timeout", "no start within 0.1 s")


def test_loading_torch_is_no_part_of_the_time_limit(tmp_path):
    executor = local.build("spawn", 0, tmp_path / "cache")
    question = {"describe": {"device": "cpu", "models": {"cpu": [], "cuda": []}}}
    found = executor.run(question, tmp_path / "first", tmp_path / "log", 0.01, lambda report: None)
    assert found.reason == "no answer within 0.01 s"


def test_a_sweep_that_is_killed_is_resumed_without_running_a_trial_twice(nanobench_here, tmp_path):
    asked = ("kv-sweep", *SMALL, "--model", "fakes:tiny", "--batch", "1,2", "--launches", "1", "--out", "run")
    sweep = subprocess.Popen([sys.executable, "-m", "nanobench", *asked], cwd=tmp_path, env=environment())
    raw = tmp_path / "run" / "raw"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(raw.glob("*.parquet")) if raw.exists() else []) < 1:
        time.sleep(0.05)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    before = {path.name: path.stat().st_mtime_ns for path in raw.glob("*.parquet")}
    assert len(before) == 1
    nanobench_here("kv-sweep", "--resume", "run", "--no-plot", cwd=tmp_path, code=0)
    after = {path.name: path.stat().st_mtime_ns for path in raw.glob("*.parquet")}
    assert len(after) == 2
    assert {name: after[name] for name in before} == before
    cells = cells_of(tmp_path / "run")
    assert len(cells) == 4
    assert set(cells["launches_ok"]) == {1}
    assert not list(tmp_path.glob("**/*.part"))
    again = nanobench_here("kv-sweep", "--resume", "run", "--no-plot", cwd=tmp_path, code=0)
    assert {path.name: path.stat().st_mtime_ns for path in raw.glob("*.parquet")} == after
    assert "4 cells" in again.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_shows_the_results_so_far_what_is_saved_and_how_to_go_on(tmp_path, number):
    asked = ("kv-sweep", *SMALL, "--batch", "1,2,3", "--launches", "3", "--out", "run")
    sweep = subprocess.Popen(
        [sys.executable, "-m", "nanobench", *asked], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    raw = tmp_path / "run" / "raw"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (raw.exists() and list(raw.glob("*.parquet"))):
        time.sleep(0.05)
    workers = psutil.Process(sweep.pid).children(recursive=True)
    assert workers
    saved = len(list(raw.glob("*.parquet")))
    sweep.send_signal(number)
    out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert ("finishing this launch" in out) == (number == signal.SIGINT)
    assert len(list(raw.glob("*.parquet"))) <= saved + 2
    assert "--resume run" in out.strip().splitlines()[-1]
    assert "speedup" in out
    assert any(line.startswith("absolute figures are") or line.startswith("ratios are") for line in out.splitlines())
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_resume_refuses_another_plan_and_another_machine(nanobench_here, small_run, tmp_path):
    folder, _ = small_run
    done = nanobench_here("kv-sweep", "--resume", folder, "--batch", "1,2", cwd=tmp_path, code=2)
    assert "--batch" in done.stderr
    copy = tmp_path / "copy"
    copy.mkdir()
    about = json.loads((folder / "run.json").read_text())
    about["identity"]["torch"] = "1.0"
    (copy / "run.json").write_text(json.dumps(about))
    done = nanobench_here("kv-sweep", "--resume", "copy", cwd=tmp_path, code=2)
    assert "torch was 1.0" in done.stderr


def test_a_dry_run_prints_the_card_and_writes_nothing(nanobench_here, tmp_path):
    done = nanobench_here("kv-sweep", "--dry-run", cwd=tmp_path, code=0)
    assert "gpt2-mini" in done.stdout
    assert "about" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_quick_takes_its_interval_from_within_one_process(nanobench_here, tmp_path):
    nanobench_here("kv-sweep", *SMALL, "--batch", "1", "--quick", "--out", "run", cwd=tmp_path, code=0)
    assert set(cells_of(tmp_path / "run")["speedup_basis"].dropna()) == {"pairs of one process"}


def test_an_adaptive_sweep_shows_what_was_measured_and_what_is_interpolated(nanobench_here, no_plots, tmp_path):
    asked = ("--batch", "1-6+1", "--launches", "1", "--adaptive", "--json", "--out", "run")
    done = nanobench_here("kv-sweep", *SMALL, *asked, cwd=tmp_path, code=0)
    document = json.loads(done.stdout.strip().splitlines()[-1])
    measured = {cell["batch_size"] for cell in document["cells"]}
    assert {1, 6} < measured
    assert len(measured) <= 5
    assert {row["batch_size"] for row in document["curve"]} == set(range(1, 7))
    assert {row["batch_size"] for row in document["curve"] if row["measured"]} == measured
    assert any(f"{len(measured)} of 6 batch sizes measured" in sentence for sentence in document["verdict"])
    nanobench_here("report", "run", cwd=tmp_path, code=0)
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"## Curve\n\n{len(measured)} of 6 batch sizes measured" in report


def test_a_model_of_the_users_own_in_the_current_folder(nanobench_here, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from nanobench.models.gpt2 import build as gpt2\n"
        "def build():\n    print('noise')\n    return gpt2(n_layer=1, n_head=1, n_embd=16, vocab_size=32, block_size=64)\n"
    )
    nanobench_here("kv-sweep", *SMALL, "--model", "mine:build", "--batch", "2", "--quick", "--out", "run", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path / "run")
    assert set(cells["model"]) == {"mine:build"}
    assert set(cells["gate"]) == {"exact"}


@pytest.mark.slow
def test_a_compiled_arm_is_compiled_gated_and_shows_what_it_cost(nanobench, tmp_path):
    arms = ("--engine", "cached", "--compile", "--model", "fakes:tiny")
    nanobench("kv-sweep", *SMALL, *arms, "--batch", "2", "--launches", 2, "--out", "run", cwd=tmp_path, timeout=600, code=0)
    cells = cells_of(tmp_path / "run")
    compiled = cells.loc[(2, "cached default")]
    assert compiled["gate"] == "exact"
    assert compiled["compiled_graphs"] == 2
    assert compiled["recompiles"] == 0
    assert compiled["compile_s"] > compiled["compile_warm_s"] > 0
    assert compiled["speedup"] > 0
    assert pd.isna(cells.loc[(2, "cached"), "compile_s"])


def test_verify_alone_exits_1_on_a_wrong_arm_and_0_else(nanobench_here, tmp_path):
    asked = ("--model", "fakes:tiny", "--prompt-len", 8, "--new-tokens", 4, "--batch", "1,3", "--threads", 1)
    good = nanobench_here("verify", *asked, cwd=tmp_path, code=0)
    assert "exact" in good.stdout
    first, last = [line for line in good.stdout.splitlines() if line.startswith("[")]
    assert first.startswith("[1/2] launch 1, fakes:tiny, batch 1")
    assert last.startswith("[2/2] launch 1, fakes:tiny, batch 3")
    assert last.endswith("; 0 s left")
    bad = nanobench_here("verify", *asked, "--engine", "uncached,fakes:frozen_embedding", "--json", cwd=tmp_path, code=1)
    cells = json.loads(bad.stdout.strip().splitlines()[-1])["cells"]
    assert {(cell["arm"], cell["gate"]) for cell in cells} == {("uncached", "exact"), ("fakes:frozen_embedding", "wrong")}
    assert list(tmp_path.iterdir()) == []


def test_a_sampler_that_cannot_be_built_ends_its_own_arms_alone(nanobench_here, tmp_path):
    """A gate that did not run was not passed, but what this machine cannot run needs none."""
    asked = ("--model", "fakes:tiny", "--prompt-len", 8, "--new-tokens", 4, "--batch", 3, "--threads", 1, "--engine", "cached")
    samplers = "temperature,fakes:absent_sampler"
    done = nanobench_here("verify", *asked, "--sampler", samplers, "--json", cwd=tmp_path, code=0)
    cells = json.loads(done.stdout.strip().splitlines()[-1])["cells"]
    found = {cell["sampler"]: (cell["status"], cell["reason"]) for cell in cells}
    assert found["temperature"][0] in MEASURED
    assert found["fakes:absent_sampler"] == ("skipped", "it needs a package that is not installed")
    done = nanobench_here("verify", *asked, "--sampler", f"{samplers},fakes:broken_sampler", "--json", cwd=tmp_path, code=1)
    cells = json.loads(done.stdout.strip().splitlines()[-1])["cells"]
    found = {cell["sampler"]: (cell["status"], cell["reason"]) for cell in cells}
    assert found["temperature"][0] in MEASURED
    assert found["fakes:broken_sampler"] == ("error", "ValueError: no table of probabilities")


def test_a_cell_tells_how_it_was_measured(small_run):
    cell = cells_of(small_run[0]).loc[(3, "cached")]
    assert cell["launches_ok"] == 2
    assert cell["pairs"] >= 4
    assert cell["invalid_repetitions"] == 0
    assert pd.isna(cell["invalid_reasons"])
    assert cell["speedup_lo"] < cell["speedup_hi"]
    assert cell["sd_within"] > 0
    assert cell["sd_between"] >= 0
    assert cell["ci_advice"] in ("more launches", "more repetitions")
    assert (cell[["import_s", "load_s", "first_call_s", "warmup_s", "steady_s"]] > 0).all()
    assert cell["identity"] == json.loads((small_run[0] / "run.json").read_text())["plan"]["identities"][1]
    assert cell["protocol"] == PROTOCOL
    assert 0 < cell["on_cpu_fraction"] <= 1
    assert cell["rss_bytes"] > 0
    assert pd.isna(cell["gpu_util"])
    assert cell["prefill_peak_bytes"] > 0
    assert cell["decode_peak_bytes"] > 0
    assert cell["kv_cache_expected_bytes"] == cell["kv_cache_bytes"]


def test_a_probe_that_is_blinded_in_mid_sweep_leaves_nulls_with_a_reason_and_the_sweep_goes_on(nanobench_here, tmp_path):
    arms = ("--engine", "uncached,fakes:blinding")
    nanobench_here("kv-sweep", *SMALL, *arms, "--batch", "2,3", "--launches", 2, "--out", "run", cwd=tmp_path, code=0)
    cells = cells_of(tmp_path / "run")
    assert (cells["output_tok_s"] > 0).all()
    assert (cells["launches_ok"] == 2).all()
    steady = [each for launch in store.Run(tmp_path / "run").read_raw() for each in launch.of_kind("steady")]
    seen, blind = ([each for each in steady if (each.pressure_s is None) is gone] for gone in (False, True))
    assert blind
    assert all(each.steal_s is None and each.rss_bytes is None for each in blind[1:])
    assert all(each.cpu_s > 0 for each in seen + blind)
    assert cells["probe_note"].str.contains("Bad file descriptor").all()


def test_samplers_are_an_axis_gated_by_what_they_draw(nanobench_here, tmp_path):
    arms = ("--engine", "cached", "--sampler", "greedy,top-p-sort,top-p-rejection,top-k,temperature")
    nanobench_here("kv-sweep", *SMALL, *arms, "--batch", 2, "--launches", 2, "--out", "run", cwd=tmp_path, code=0)
    cells = finder.load(tmp_path / "run").set_index("arm")
    assert set(cells["gate"]) == {"exact"}
    assert "of 10 distributions" in cells.loc["cached top-p-rejection", "gate_note"]
    assert cells.loc[["cached top-k", "cached temperature"], "speedup"].notna().all()


def test_a_wrong_sampler_is_a_row_and_is_never_timed(nanobench_here, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from nanobench.samplers.temperature import Temperature\n"
        "class First(Temperature):\n"
        "    def __call__(self, logits_BV, generator):\n"
        "        return super().__call__(logits_BV, generator)[:1].expand(len(logits_BV), 1)\n"
        "def build():\n"
        "    return First(1.0)\n"
    )
    arms = ("--engine", "cached", "--sampler", "greedy,mine:build")
    nanobench_here("kv-sweep", *SMALL, *arms, "--batch", 2, "--launches", 1, "--out", "run", cwd=tmp_path, code=1)
    cell = finder.load(tmp_path / "run").set_index("arm").loc["cached mine:build"]
    assert cell["status"] == "wrong"
    assert "token frequencies do not match" in cell["reason"]
    assert pd.isna(cell["output_tok_s"])


def test_a_mode_that_would_be_another_one_here_is_refused_with_the_reason(nanobench_here, tmp_path):
    arms = ("--engine", "cached", "--compile-mode", "off,reduce-overhead,max-autotune")
    nanobench_here("kv-sweep", *SMALL, *arms, "--batch", 1, "--launches", 1, "--out", "run", cwd=tmp_path, code=0)
    cells = finder.load(tmp_path / "run").set_index("arm").loc[["cached reduce-overhead", "cached max-autotune"]]
    assert set(cells["status"]) == {"skipped"}
    assert cells["reason"].str.contains("captures CUDA graphs, which a CPU does not have: it would equal").all()


def test_a_function_that_meets_its_recompilation_limit_is_an_error_and_not_an_eager_arm(nanobench_here, tmp_path, monkeypatch):
    """Dynamo counts the compilations whatever compiles its graphs: here nothing does, which saves a quarter of a minute."""
    monkeypatch.setitem(schema.COMPILE_MODES, "default", {"backend": "eager"})
    torch._dynamo.reset()
    (tmp_path / "growing.py").write_text(
        "from nanobench.engines.uncached import Uncached\n"
        "def build(adapter, sampler, point, compiler):\n"
        "    still = lambda function, dynamic: compiler(function)\n"
        "    still.compiles = compiler.compiles\n"
        "    return Uncached(adapter, sampler, point, still, last_only=True)\n"
    )
    arms = ("--engine", "growing:build", "--compile-mode", "off,default", "--model", "fakes:tiny")
    # By torch itself: undone by monkeypatch, the setting would be deleted for every later test.
    with torch._dynamo.config.patch(recompile_limit=1):
        nanobench_here("kv-sweep", *SMALL, *arms, "--batch", 1, "--launches", 1, "--out", "run", cwd=tmp_path, code=0)
    cells = finder.load(tmp_path / "run").set_index("arm")
    assert cells.loc["growing:build", "status"] in MEASURED
    assert cells.loc["growing:build default", "status"] == "error"
    assert "recompile" in cells.loc["growing:build default", "reason"]
    torch._dynamo.reset()
