"""Quantised weights through the command line: verdicts, columns, labels, checks while timed, limits and what is skipped."""

import re

import pytest

import zoo
from conftest import SMALL
from nanobench.analysis import verdict
from nanobench.models import _quantized_linear as quantized_linear
from nanobench.records import MEASURED
from nanobench.results import finder

ONE = ("--model", "zoo:lively", *SMALL[2:], "--launches", 1, "--out", "run", "--dtype", "bfloat16")
COLUMNS = ["kl_nats", "kl_max_nats", "top1_agreement", "matching_tokens"]


def cells_of(folder):
    return finder.load(folder / "run").set_index("arm")


@pytest.fixture(scope="module")
def swept(nanobench_here, tmp_path_factory):
    """A sweep over all kinds of weights and caches, what it printed, and its cells."""
    folder = tmp_path_factory.mktemp("weights")
    asked = ("--batch", "1,3", "--engine", "uncached,cached", "--weights", "float,int8,int4", "--kv-cache", "float,int8")
    done = nanobench_here("kv-sweep", *ONE, *asked, "--json", cwd=folder, code=0)
    return folder, done.stdout, finder.load(folder / "run")


def test_a_lossy_arm_is_measured_and_never_exact(swept):
    cells = swept[2]
    measured = cells[cells["status"].isin(MEASURED)]
    lossy = measured["weights"].ne("float") | measured["kv_cache"].ne("float")
    assert set(measured.loc[lossy, "gate"]) == {"lossy"}
    assert set(measured.loc[~lossy, "gate"]) <= {"exact", "rounding"}
    assert measured.loc[lossy, COLUMNS].notna().all(axis=None)
    assert measured.loc[~lossy, COLUMNS].isna().all(axis=None)
    assert measured["checked_calls"].ge(1).all()
    assert len(measured[lossy]) == 2 * 7


def test_the_divergence_is_that_of_the_arm(swept):
    cells = swept[2][swept[2]["batch_size"].eq(3)].set_index("arm")
    kl = cells["kl_nats"].astype(float)
    assert 0 < kl["cached int8"] < kl["cached int4"]
    assert kl["cached int8-kv"] > 0
    assert kl["uncached int4"] == pytest.approx(kl["cached int4"], rel=0.5)
    assert cells["bits_per_byte"].isna().all()


def test_an_engine_without_a_cache_cannot_have_an_int8_cache(swept):
    cells = swept[2].set_index(["arm", "batch_size"])
    assert cells.loc[("uncached int8-kv", 3), "status"] == "skipped"
    assert cells.loc[("uncached int8-kv", 3), "reason"] == "uncached has no KV cache that could be int8"


def test_weights_and_caches_have_their_own_bytes(swept):
    cells = swept[2][swept[2]["batch_size"].eq(3)].set_index("arm")
    held = cells["weight_bytes"]
    assert held["cached int4"] < held["cached int8"] < held["cached"]
    cache = cells["kv_cache_bytes"]
    assert cache["cached int8-kv"] < 0.6 * cache["cached"]
    known = cells[cells["kv_cache_bytes"].gt(0)]
    assert (known["kv_cache_bytes"] == known["kv_cache_expected_bytes"]).all()


def test_every_ratio_of_a_lossy_arm_says_so(swept, no_plots, nanobench_here):
    folder, _, cells = swept
    nanobench_here("report", "run", cwd=folder, code=0)
    report = (folder / "run" / "report.md").read_text()
    page = (folder / "run" / "report.html").read_text()
    lines = [line for line in report.splitlines() if "cached int8 " in line and "| " in line]
    ratios = [line for line in lines if "x [" in line]
    assert ratios
    assert all("] lossy |" in line for line in ratios)
    assert "a lossy arm computes what its quantised model computes" in report
    assert "] lossy" in page
    found = {"status": "ok", "speedup_status": "ok", "speedup": 2.0, "speedup_lo": 1.9, "speedup_hi": 2.1}
    measured = cells[cells["status"].isin(MEASURED)]
    named = [sentence for sentence in verdict.sentences(measured.assign(**found)) if "cached int8 " in sentence]
    labels = [label for sentence in named for label in re.findall(r"cached int8(?: int8-kv)?(?: \(lossy, KL)?", sentence)]
    assert labels
    assert all(label.endswith("(lossy, KL") for label in labels)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_an_engine_that_cheats_with_a_quantised_model_is_found(nanobench_here, tmp_path, weights):
    engines = "uncached,cached,zoo:by_call_count,zoo:other_numbers"
    asked = ("--batch", 4, "--new-tokens", 12, "--max-seconds", 1.0, "--engine", engines, "--weights", weights)
    nanobench_here("kv-sweep", *ONE, *asked, cwd=tmp_path, code=1)
    cells = cells_of(tmp_path)
    for cheat in ("by_call_count", "other_numbers"):
        assert cells.loc[f"zoo:{cheat} {weights}", "status"] == "wrong"
        assert "is not the reference's choice" in cells.loc[f"zoo:{cheat} {weights}", "reason"]
    for honest in ("uncached", "cached"):
        assert cells.loc[f"{honest} {weights}", "status"] in MEASURED


def test_quantised_weights_that_arms_share_stay_as_they_are(nanobench_here, tmp_path):
    asked = ("--batch", 2, "--engine", "cached,zoo:shared_numbers", "--weights", "int8")
    nanobench_here("kv-sweep", *ONE, *asked, cwd=tmp_path, code=1)
    assert "it changed what all arms share: weights of the model" in cells_of(tmp_path).loc["zoo:shared_numbers int8", "reason"]


def test_a_broken_quantiser_is_wrong_beyond_the_limit(nanobench_here, tmp_path, monkeypatch):
    """Its model is its own truth, so the gate alone lets it pass: what finds it is its distance from the float model."""
    asked = ("kv-sweep", *ONE, "--dtype", "float32", "--batch", 4, "--engine", "cached", "--weights", "float,int8")
    nanobench_here(*asked, cwd=tmp_path, code=0)
    honest = cells_of(tmp_path).loc["cached int8", "kl_nats"]
    monkeypatch.setitem(quantized_linear.GRIDS, "int8", zoo.int8_two_percent_off)
    nanobench_here(*asked, "--out", "broken", cwd=tmp_path, code=0)
    broken = finder.load(tmp_path / "broken").set_index("arm").loc["cached int8", "kl_nats"]
    assert broken > 2 * honest
    limit = ("--max-kl", f"{1.5 * honest:.3g}")
    nanobench_here(*asked, *limit, "--out", "limited", cwd=tmp_path, code=1)
    cell = finder.load(tmp_path / "limited").set_index("arm").loc["cached int8"]
    assert cell["status"] == "wrong"
    assert "is above --max-kl" in cell["reason"]
    assert cell[["output_tok_s", "speedup", "tpot_s"]].isna().all()
    monkeypatch.undo()
    nanobench_here(*asked, *limit, "--out", "honest", cwd=tmp_path, code=0)


def test_what_a_model_cannot_have_is_skipped_with_the_reason(nanobench_here, tmp_path):
    asked = ("--model", "llama-nano", "--batch", 2, "--engine", "cached", "--weights", "float,int4")
    nanobench_here("kv-sweep", *ONE, *asked, cwd=tmp_path, code=0)
    cells = cells_of(tmp_path)
    assert cells.loc["cached int4", "status"] == "skipped"
    assert "int4 weights come in groups" in cells.loc["cached int4", "reason"]
    assert cells.loc["cached", "status"] in MEASURED


def test_verify_accepts_lossy_arms(nanobench_here, tmp_path):
    asked = ("--model", "gpt2-nano", "--dtype", "bfloat16", "--batch", 3, "--prompt-len", 8, "--new-tokens", 6, "--threads", 1)
    done = nanobench_here("verify", *asked, "--engine", "cached", "--weights", "float,int8,int4", cwd=tmp_path, code=0)
    assert done.stdout.count("lossy") == 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--weights", "int9"), "unknown weights 'int9'"),
        (("--weights", "auto"), "--weights does not accept auto"),
        (("--kv-cache", "int4"), "unknown kv cache 'int4'"),
        (("--max-kl", "much"), "--max-kl 'much' is not a number above 0"),
        (("--max-kl", "0"), "--max-kl '0' is not a number above 0"),
    ],
)
def test_a_mistake_is_one_line(nanobench_here, tmp_path, asked, words):
    done = nanobench_here("kv-sweep", *ONE, *asked, cwd=tmp_path, code=2)
    assert words in " ".join((done.stdout + done.stderr).split())


def test_the_sides_of_a_comparison_may_differ_in_their_weights(tmp_path):
    from nanobench.sweep.side import Side

    side = Side.of("cached", ["weights=int8", "kv_cache=int8"], "")
    assert side.changes == {"engine": "cached", "weights": "int8", "kv_cache": "int8"}
