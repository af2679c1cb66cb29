"""Every kind of run has a page that leads with its own answer: A/B comparisons, self-tests, training, searches."""

import json
import math
import shutil
from pathlib import Path

import pytest

from html_tree import read, rows_of
from nanobench.analysis.report import study
from nanobench.results import decision
from nanobench.results.store import Run
from nanobench.schema import Arm
from nanobench.views import ab, autobatch, format
from nanobench.views.html import run_page, runs_page
from test_report_html import ANSWER, MARKUP, RUNS, check_harmless, check_page, copied, rewrite, text_of
from test_views import ARMS, OOM, command, make_run

BASE, NEW = "BASE: main (0123abc)", "NEW: the files as they are now"
SIDES = (Arm(engine="cached", side=BASE), Arm(engine="cached", side=NEW))
SAME = "same outputs: 6 of 6 tokens at 2 rows"


def as_command(run, name, **requested):
    """The same run, written by another command."""
    data = json.loads(run.info_file.read_text())
    run.info_file.write_text(json.dumps({**data, "command": name, "requested": requested}))
    return run


def slowed(factor, batch=None):
    """Multiplies the times of NEW; its gate says that the sides put out the same."""

    def change(row):
        if not row["side"].startswith("NEW"):
            return
        if row["kind"] == "outcome":
            row["across"], row["across_note"] = "exact", SAME
        elif row["wall_s"] and batch in (None, row["batch_size"]):
            row["wall_s"] *= factor
            row["cpu_s"] = row["cpu_s"] and row["cpu_s"] * factor
            row["token_times_s"] = row["token_times_s"] and [each * factor for each in row["token_times_s"]]

    return change


def compared(folder, factor=0.8, batches=(2,), launches=4, sides=SIDES, **requested):
    """An A/B comparison whose NEW takes `factor` times as long."""
    run = make_run(folder, batches=batches, prompts=(8,), launches=launches, arms=sides, failed={})
    rewrite(run, slowed(factor))
    return as_command(run, "ab", base="main", new=".", **requested)


@pytest.fixture(scope="module")
def faster(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("ab") / "faster")


def verdict_of(tree):
    return tree.id("verdict").text


# A/B comparisons


def test_the_answer_of_a_comparison_comes_first(faster):
    tree = check_page(text_of(faster))
    (answer,) = decision.decide(faster.read_raw(), math.log(1.02)).values()
    assert answer.answer == "faster"
    said = tree.all("p", class_="verdict")[0].text
    assert said.startswith(f"{ab.sentence(answer, math.log(1.02))}. Decision: keep; a difference below 2 % does not matter.")
    assert f"Sides: {BASE}; {NEW}." in said
    assert f"Outputs: {SAME}." in said
    assert "the interval of the answer allows for several looks" in verdict_of(tree)
    assert "answers" not in {each.attributes.get("id") for each in tree}
    assert tree.id("measure").text == "nanobench ab main ."
    assert {row["arm"] for row in rows_of(tree.id("cells-table"))} == {f"cached {BASE}", f"cached {NEW}"}


def test_the_answer_follows_the_stored_times(faster, tmp_path):
    run = Run(Path(shutil.copytree(faster.folder, tmp_path / "run")))
    before = verdict_of(read(text_of(run)))
    rewrite(run, slowed(2.0))
    after = verdict_of(read(text_of(run)))
    assert "NEW is faster than BASE" in before
    assert "NEW is slower than BASE" in after
    assert "Decision: discard" in after
    ratio = next(iter(decision.decide(run.read_raw(), math.log(1.02)).values())).ratio
    assert ratio == pytest.approx(1 / 1.6, rel=0.05)
    assert f"{ratio:.3f}x" in after
    assert f"{ratio:.3f}x" not in before


def test_the_threshold_is_the_one_that_was_requested(tmp_path):
    run = compared(tmp_path / "run", factor=0.95, threshold="10%")
    said = verdict_of(check_page(text_of(run)))
    assert "NEW is as fast as BASE within 10 %" in said
    assert "a difference below 10 % does not matter" in said


def test_several_points_have_an_answer_each_and_one_over_all(tmp_path):
    run = make_run(tmp_path / "run", batches=(2, 4), prompts=(8,), launches=4, arms=SIDES, failed={})
    rewrite(run, slowed(0.5, batch=4))
    as_command(run, "ab", base="main", new=".")
    tree = check_page(text_of(run))
    answers = decision.decide(run.read_raw(), math.log(1.02))
    rows = {int(row["batch"]): row for row in rows_of(tree.id("answers-table"))}
    assert set(rows) == {2, 4}
    for point, found in answers.items():
        row = rows[point.batch_size]
        assert row["answer"] == ab.words(found, math.log(1.02))
        assert row["time of BASE / NEW [95 %]"] == format.near_one(found.ratio, found.low, found.high)
        assert row["launches"] == str(found.launches)
    assert rows[4]["answer"] == "NEW is faster than BASE"
    assert "answers" in {each.attributes["id"] for each in tree.all("section")}
    for path in run.raw.glob("*-b4-*.parquet"):
        path.unlink()
    tree = check_page(text_of(run))
    tree.id("again").children.clear()  # the command still requests it
    assert "batch 4" not in tree.text
    assert "answers-table" not in {each.attributes.get("id") for each in tree}


def test_other_outputs_and_failures_come_before_any_speed(faster, tmp_path):
    run = Run(Path(shutil.copytree(faster.folder, tmp_path / "other")))

    def differ(row):
        if row["kind"] == "outcome" and row["side"].startswith("NEW"):
            row["across"], row["across_note"] = "wrong", "different outputs: logits differ by 0.3"

    rewrite(run, differ)
    said = verdict_of(check_page(text_of(run)))
    assert "speed is not compared: different outputs: logits differ by 0.3" in said
    assert "Decision: discard" in said
    as_command(run, "ab", allow_different=True)
    assert "NEW is faster than BASE" in verdict_of(check_page(text_of(run)))
    broken = make_run(tmp_path / "oom", batches=(2,), prompts=(8,), launches=1, arms=SIDES, failed={(2, "cached"): OOM})
    assert "speed is not compared: oom: OutOfMemoryError" in verdict_of(check_page(text_of(as_command(broken, "ab"))))


def test_a_comparison_that_was_stopped_early_is_undecided(tmp_path):
    said = verdict_of(check_page(text_of(compared(tmp_path / "run", launches=2))))
    assert "undecided after 2 launches; about 4 launches would decide it" in said
    assert "Decision: need more" in said


@pytest.mark.parametrize("threshold", ["none", "200%", MARKUP])
def test_a_threshold_that_is_none_leaves_the_verdict_of_the_cells(faster, tmp_path, threshold):
    run = as_command(Run(Path(shutil.copytree(faster.folder, tmp_path / "run"))), "ab", threshold=threshold)
    said = verdict_of(check_page(text_of(run)))
    assert f"cached {NEW} is faster than cached {BASE}" in said
    assert "Decision" not in said


def test_names_of_sides_stay_text(tmp_path):
    sides = (SIDES[0], Arm(engine="cached", side=f"NEW: {MARKUP}"))
    check_harmless(text_of(compared(tmp_path / "run", launches=1, sides=sides, note="alert(1)")))


def test_the_markdown_report_has_the_answer_too(faster, tmp_path, no_plots):
    run = Path(shutil.copytree(faster.folder, tmp_path / "run"))
    command("report", run)
    first = (run / "report.md").read_text().split("## ")[0]
    for line in (BASE, NEW, SAME, "NEW is faster than BASE"):
        assert f"- {line}" in first


def test_a_comparison_has_its_answer_among_several_runs(faster, tmp_path):
    other = make_run(tmp_path / "other", batches=(2,), prompts=(8,), launches=1, arms=ARMS[:2], failed={})
    tree = check_page(runs_page.page([study(faster), study(other)], [[], []], tmp_path))
    texts = [each.text for each in tree.all("article")]
    assert "NEW is faster than BASE" in texts[0]
    assert "Decision" not in texts[1]


# Every kind


def test_a_self_test_leads_with_its_checks(tmp_path):
    made = make_run(tmp_path / "made", batches=(1,), prompts=(8,), launches=2, arms=ARMS[:2], failed={})
    for name in ("same", "delayed"):
        as_command(Run(Path(shutil.copytree(made.folder, tmp_path / name))), "selftest")
    tree = check_page(text_of(Run(tmp_path / "same")))
    found = run_page.Answers.of(study(Run(tmp_path / "same"))).selftest
    said = tree.all("p", class_="verdict")[0].text
    passed = sum(check.passed is True for check, _ in found.checks)
    assert said.startswith(f"{len(found.checks)} checks of the self-test: {passed} passed, ")
    for check, _ in found.checks:
        assert (check.name in said) == (check.passed is False)
    assert "This run: " in said


@pytest.mark.parametrize("kind", ["kv-sweep", "train-throughput", "ab", "selftest", "audit", "autobatch"])
def test_every_kind_of_run_has_a_page_with_a_verdict_and_a_table(faster, tmp_path, kind, no_plots):
    if kind == "autobatch":
        autobatch.write(ANSWER, "gpt2-nano, cached", tmp_path)
        folder, table = tmp_path, "batches-table"
    else:
        source = {"train-throughput": RUNS / "protocol-4-train", "ab": faster.folder}.get(kind)
        run = Run(Path(shutil.copytree(source, tmp_path / "run"))) if source else copied("protocol-4", tmp_path)
        folder, table = as_command(run, kind).folder, "cells-table"
    command("report", folder)
    tree = check_page((folder / "report.html").read_text())
    assert tree.all("h1")[0].text.startswith(f"nanobench {kind}")
    assert len(verdict_of(tree)) > 40
    assert rows_of(tree.id(table))
