"""The pages of HTML: all that they say is in the files of the run, and what users wrote stays text."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import test_words
from html_tree import Node, read, rows_of
from nanobench import load
from nanobench.analysis import verdict
from nanobench.analysis.report import alike, differences, names_of, study
from nanobench.cli import app
from nanobench.records import JUDGED, MEASURED, Description
from nanobench.results import store
from nanobench.results.derive import BY_NAME
from nanobench.results.metrics.roofline import UNEXPLAINED
from nanobench.results.store import Run, records
from nanobench.schema import Arm
from nanobench.sweep.batch_search import BatchAnswer, BatchTrial
from nanobench.sweep.selftest import CellSummary
from nanobench.sweep.selftest import check as selftest_checks
from nanobench.views import autobatch as autobatch_view
from nanobench.views import explain, format, plots, summary, sweep
from nanobench.views.cell_table import in_order
from nanobench.views.html import evidence, page, run_page, runs_page, search_page
from nanobench.views.html.colours import on_dark
from nanobench.views.html.drawing import Inks, inline, rule
from test_views import ARMS, DESCRIPTION, KNOWN, OOM, STATE, command, disturbed, make_run

RUNS = Path(__file__).parent / "runs"
ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference-cpu"
MARKUP = "<img src=x onerror=alert(1)>"
HOSTILE = f"</script><script>alert(2)</script>{MARKUP}\"'&amp;{{{{ 7 * 7 }}}}|"
NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]\d+)?(?![\w.]\d)")


def study_of(run):
    return study(run)


def text_of(run, figures=()):
    """The page of a run, without its figures."""
    return run_page.page(study_of(run), list(figures))


def copied(name, tmp_path):
    """A copy of a stored run, whose files a test may change."""
    return Run(Path(shutil.copytree(RUNS / name, tmp_path / name)))


def rewrite(run, change):
    """Changes the raw rows of a run in place."""
    for path in run.raw.glob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            change(row)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def table_of(tree):
    return rows_of(tree.id("cells-table"))


def evidence_of(tree):
    return json.loads(tree.id("evidence").source)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three batch sizes, two prompt lengths, three arms; one is wrong once, and once out of memory."""
    return make_run(tmp_path_factory.mktemp("html") / "several")


@pytest.fixture(scope="module")
def found(several):
    """The same run, read."""
    return study_of(several)


@pytest.fixture(scope="module")
def tree(found):
    return read(run_page.page(found, []))


# One source of numbers


def test_the_verdict_comes_first_then_the_table_and_the_rest(several, tree):
    assert [each.attributes["id"] for each in tree.all("section")] == [
        "verdict",
        "cells",
        "reasons",
        "reliability",
        "machine",
        "method",
        "again",
    ]
    assert tree.all("h1")[0].text == "nanobench kv-sweep: several"
    said = tree.id("verdict").text
    for sentence in verdict.not_concluded(load(several.folder)):
        assert sentence in said
    links = [each.attributes["href"] for each in tree.all("nav")[0].all("a")]
    assert links == [f"#{each.attributes['id']}" for each in tree.all("section")]


def test_the_table_has_the_texts_of_the_other_renderers(several, tree):
    table = sweep.results(in_order(records(load(several.folder))))
    found = table_of(tree)
    assert len(found) == len(table.rows) == 18
    for row, shown in zip(table.rows, found, strict=True):
        for column in table.columns:
            assert shown[column.name].startswith(column.cell(row))
    failed = next(row for row in found if row["status"].startswith("oom"))
    assert failed["status"] == f"oom: {OOM.reason}"


def test_rows_are_ordered_by_the_numbers_behind_their_texts(several, tree):
    rows = in_order(records(load(several.folder)))
    for row, shown in zip(rows, tree.id("cells-table").all("tbody")[0].all("tr"), strict=True):
        orders = {head.text: cell.attributes.get("data-order") for head, cell in zip(heads(tree), shown.all("td"), strict=True)}
        assert float(orders["batch"]) == row["batch_size"]
        assert orders["arm"] is None
        for name, field in (("TTFT", "ttft_s"), ("output tok/s", "output_tok_s"), ("speedup [95 %]", "speedup")):
            assert orders[name] is None if row[field] is None else float(orders[name]) == pytest.approx(row[field], rel=1e-8)


def heads(tree):
    return tree.id("cells-table").all("thead")[0].all("th")


def test_columns_with_few_words_are_chosen_from_a_list(tree):
    assert [head.text for head in heads(tree) if "data-choice" in head.attributes] == [
        "prompt len",
        "batch",
        "arm",
        "speedup status",
        "gate",
    ]


def test_a_stored_time_that_changes_changes_prose_and_tables(tmp_path):
    run = copied("protocol-4", tmp_path)
    before = read(text_of(run))
    concluded = set(verdict.conclusions(load(run.folder)))
    old = {(row["batch_size"], row["arm"]): row for row in records(load(run.folder))}

    def slower(row):
        if row["engine"] == "cached" and row["kind"] == "steady":
            for name in ("wall_s", "cpu_s"):
                row[name] = row.get(name) and 3 * row[name]
            row["marks_s"] = row["marks_s"] and [3 * mark for mark in row["marks_s"]]

    rewrite(run, slower)
    after = read(text_of(run))
    new = {(row["batch_size"], row["arm"]): row for row in records(load(run.folder))}
    for key, row in new.items():
        was = old[key]
        if row["engine"] != "cached" or row["speedup"] is None or was["speedup"] is None:
            continue
        assert row["speedup"] == pytest.approx(was["speedup"] / 3, rel=1e-6)
        shown = next(each for each in table_of(after) if (int(each["batch"]), each["arm"]) == key)
        assert shown["speedup [95 %]"].startswith(format.times(row["speedup"]))
        assert format.times(was["speedup"], was["speedup_lo"], was["speedup_hi"]) not in after.text
    for tree, cells in ((before, old), (after, new)):
        facts = [fact[1] for row in evidence_of(tree)["rows"] for fact in row["facts"]]
        for row in cells.values():
            assert row["speedup"] is None or any(text.startswith(format.number(row["speedup"])) for text in facts)
    said = set(verdict.conclusions(load(run.folder)))
    assert said != concluded
    for sentence in said | concluded:
        assert (sentence in after.id("verdict").text) == (sentence in said)
        assert (sentence in before.id("verdict").text) == (sentence in concluded)


def test_a_stored_size_that_changes_changes_the_table_and_what_is_behind_it(tmp_path):
    run = copied("protocol-4", tmp_path)
    size = 777 * 1024**2

    def larger(row):
        if row["kind"] == "outcome" and row["batch_size"] == 3:
            row["peak_memory_bytes"] = size

    assert "777 MiB" not in text_of(run)
    rewrite(run, larger)
    tree = read(text_of(run))
    assert {row["batch"]: row["peak memory"] for row in table_of(tree)}["3"] == "777 MiB"
    number = [name for name, _ in evidence_of(tree)["facts"]].index("peak_memory_bytes")
    facts = [fact for row in evidence_of(tree)["rows"] for fact in row["facts"] if fact[0] == number]
    assert [number, "777 MiB", size] in facts


def test_nothing_speaks_of_a_row_that_is_gone(tmp_path):
    run = copied("protocol-4", tmp_path)
    assert "batch 3" in text_of(run)
    for path in run.raw.glob("*-b3-*.parquet"):
        path.unlink()
    tree = read(text_of(run))
    tree.id("again").children.clear()  # the command still requests it
    assert "batch 3" not in tree.text
    assert "1 and 3" not in tree.text
    assert {row["batch"] for row in table_of(tree)} == {"1"}
    assert {row["batch"] for row in rows_of(tree.id("explained-table"))} == {"1"}


def written_numbers(cells):
    """Every number of the cells, in all ways in which prose may write it; and counts of cells."""
    found = {str(number) for number in range(len(cells) + 1)}
    for row in records(cells):
        for name, value in row.items():
            if isinstance(value, str):
                found |= set(NUMBER.findall(value))
            elif value is not None:
                unit = BY_NAME[name].unit if name in BY_NAME else "count"
                shares = (format.percent(float(value)),) if name == "bound_share" else ()
                texts = (format.text(value, unit), f"{float(value):.3g}", format.number(float(value)), *shares)
                found |= {number for text in texts for number in NUMBER.findall(text)}
    return found


@pytest.mark.parametrize("folder", [REFERENCE, RUNS / "protocol-4", RUNS / "protocol-4-train", None], ids=str)
def test_the_paragraph_has_no_number_that_no_row_holds(folder, several):
    cells = load(folder or several.folder)
    run = study(Run(folder or several.folder))
    known = {*written_numbers(cells), f"{100 * UNEXPLAINED:g}"}
    assert "77.7" not in known
    parts = summary.paragraph(run.cells, run.rows)
    names = {*cells["arm"], *cells["model"]}
    for part in parts:
        text = part.text
        for name in sorted(names, key=len, reverse=True):
            text = text.replace(name, "")
        text = re.sub(r"--threads \d+|--dtype \w+", "", text)
        assert set(NUMBER.findall(text)) <= known, text
    assert parts[0].head == ""


# What the paragraph says


def test_many_conclusions_are_counted_with_the_largest_and_the_smallest_ratio(tmp_path):
    run = make_run(tmp_path / "run", batches=(1, 16), prompts=(8, 16, 32, 64), arms=ARMS[:2], failed={}, launches=3)
    found = study_of(run)
    assert len(verdict.conclusions(found.cells)) == 4
    first = summary.paragraph(found.cells, found.rows)[0].text
    ratios = found.cells[found.cells["arm_index"].gt(0)]
    ratios = ratios[ratios["speedup_status"].isin(JUDGED)]
    assert len(ratios) > 4
    assert first.startswith(f"of {len(ratios)} reliable ratios, ")
    for row in (ratios.loc[ratios["speedup"].idxmax()], ratios.loc[ratios["speedup"].idxmin()]):
        assert f"{verdict.ratio_text(row)}, cached at batch {row['batch_size']} (prompt_len {row['prompt_len']})" in first


def test_what_to_try_is_for_the_fastest_reliable_cell_and_for_wide_intervals():
    run = study(Run(REFERENCE))
    said = {part.head: part.text for part in summary.paragraph(run.cells, run.rows)}
    fastest = summary.fastest_row(run.cells)
    row = next(each for each in run.rows if each["arm"] == fastest["arm"] and each["batch_size"] == fastest["batch_size"])
    assert explain.either(row["suggestions"]) in said["Try next"]
    wide = run.cells[run.cells["speedup_status"].eq("imprecise")]  # no interval of this run contains 1
    assert f"of the {len(wide)} ratios whose intervals are wider than the target or contain 1" in said["Try next"]
    for row in run.rows:
        if row["status"] in ("ok", "imprecise") and row["bound_by"]:
            assert f"a step of {row['arm']} is " in said["Why"]


def test_one_arm_has_no_ratio_and_its_fastest_cell_is_named(tmp_path):
    run = make_run(tmp_path / "run", batches=(1, 4), prompts=(8,), arms=ARMS[:1], failed={})
    (first, *_) = summary.paragraph(study_of(run).cells, study_of(run).rows)
    assert first.text.startswith("one arm was measured, so there is no ratio; the highest reliable throughput is ")
    assert first.text.endswith(" tok/s, uncached at batch 4.")


# Unusual runs


def check_page(text):
    """What holds for every page; returns its tree."""
    tree = read(text)
    ids = [each.attributes["id"] for each in tree if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    for link in tree.all("a"):
        target = link.attributes["href"]
        assert target.startswith("#") is False or target[1:] in ids
    for each in tree:
        for name, value in each.attributes.items():
            if name in ("aria-labelledby", "aria-controls"):
                assert value in ids
            if name == "href" and each.tag == "use":
                assert value[1:] in ids
            assert not name.startswith("on")
            assert name != "style"
    assert not re.search(r"https?://", text)
    assert "@import" not in text
    assert not re.search(r"\b(None|nan|NaN|inf|Undefined)\b", tree.text)
    for script in tree.all("script", type="application/json"):
        json.loads(script.source, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return tree


def test_a_run_with_one_cell(tmp_path):
    run = make_run(tmp_path / "run", batches=(2,), prompts=(8,), launches=1, arms=ARMS[:1], failed={})
    tree = check_page(text_of(run))
    assert len(table_of(tree)) == 1
    assert "one arm was measured, so there is no ratio" in tree.text


def test_a_run_with_only_failures(tmp_path):
    run = make_run(tmp_path / "run", batches=(1,), prompts=(8,), launches=1, failed={(1, arm.engine): OOM for arm in ARMS})
    tree = check_page(text_of(run))
    assert "nothing was measured." in tree.id("verdict").text
    assert "because oom (OutOfMemoryError: tried 2 GiB | 1 GiB free)" in tree.id("verdict").text
    assert [row["status"] for row in rows_of(tree.id("failures-table"))] == ["oom"] * 3
    assert evidence_of(tree)["rows"][0]["launches"][0]["reason"] == OOM.reason


def test_a_run_of_training(tmp_path):
    run = copied("protocol-4-train", tmp_path)
    tree = check_page(text_of(run))
    assert "nanobench train-throughput: protocol-4-train" in tree.text
    assert "tok/s" in table_of(tree)[0]
    assert "not predicted: there is no calibration" in tree.id("reasons").text


def test_a_run_of_sixty_arms_is_short_in_prose_and_small(tmp_path):
    arms = (Arm(engine="uncached"), *(Arm(engine=f"engine-{number}") for number in range(59)))
    run = make_run(tmp_path / "run", batches=(1, 16), prompts=(8,), arms=arms, failed={}, blocks=3, seen=lambda *_: {})
    text = text_of(run)
    tree = check_page(text)
    assert len(table_of(tree)) == 120
    assert len(tree.all("p", class_="verdict")[0].text) < 1500
    assert len(text) < 3e6
    assert tree.id("verdict").all("summary")[0].text.startswith("59 conclusions")


def test_a_command_that_this_version_does_not_know_has_a_page(several, tmp_path):
    run = Run(Path(shutil.copytree(several.folder, tmp_path / "ab")))
    data = json.loads(run.info_file.read_text())
    run.info_file.write_text(json.dumps({**data, "command": "ab", "requested": {"base": "v1", "new": ["a", "b"]}}))
    tree = check_page(text_of(run))
    assert tree.all("h1")[0].text == "nanobench ab: ab"
    assert tree.id("measure").text == "nanobench ab v1 a b"


@pytest.mark.parametrize("folder", sorted(RUNS.iterdir()), ids=lambda path: path.name)
def test_stored_runs_of_every_protocol_have_a_page(folder):
    tree = check_page(text_of(Run(folder)))
    assert len(table_of(tree)) == len(load(folder))


def test_an_adaptive_sweep_shows_its_curve(several, tmp_path):
    run = Run(Path(shutil.copytree(several.folder, tmp_path / "run")))
    data = json.loads(run.info_file.read_text())
    data["plan"]["adaptive"] = True
    run.info_file.write_text(json.dumps(data))
    tree = check_page(text_of(run))
    assert {row["source"] for row in rows_of(tree.id("curve-table"))} == {"measured", "wrong", "oom"}


def test_disturbed_cells_and_the_state_of_the_machine_are_shown(tmp_path):
    about = {**DESCRIPTION, "identity": {**DESCRIPTION["identity"], **KNOWN}, "state": STATE}
    run = make_run(tmp_path / "run", batches=(1, 4, 16), prompts=(8,), seen=disturbed, blocks=8, arms=ARMS[:2], about=about)
    tree = check_page(text_of(run))
    machine = tree.id("machine").text
    for words in ("only 2 cores", "back|up (pid 7) takes 90% of a core", "CPU governor powersave", "governor powersave"):
        assert words in machine
    assert "compiled again" in json.dumps(evidence_of(tree))
    assert "unstable" in tree.id("cells").text


# Behind a row


def test_a_row_opens_its_launches_and_every_timed_repetition(several, tree):
    launches = several.read_raw()
    found = evidence_of(tree)
    rows = in_order(records(load(several.folder)))
    assert len(found["rows"]) == len(rows)
    for row, behind in zip(rows, found["rows"], strict=True):
        mine = [
            each
            for each in launches
            if (each.point.batch_size, each.point.prompt_len, each.arm_index)
            == (row["batch_size"], row["prompt_len"], row["arm_index"])
        ]
        assert [each["trial"] for each in behind["launches"]] == [each.trial for each in mine]
        for launch, shown in zip(mine, behind["launches"], strict=True):
            assert (several.raw / shown["file"]).exists()
            assert launch.trial in shown["file"]
            times = [format.seconds(each.wall_s / each.calls) for each in launch.of_kind("steady")]
            assert [each[2] for each in shown["repetitions"]] == times
        counting = [each for launch in behind["launches"] for each in launch["repetitions"] if not each[5]]
        assert len(counting) == (row["repetitions"] or 0)


def test_repetitions_say_why_they_do_not_count(tmp_path):
    run = make_run(tmp_path / "run", batches=(16,), prompts=(8,), arms=ARMS[:2], failed={}, seen=disturbed, blocks=8)
    found = evidence.of_rows(in_order(records(load(run.folder))), run.read_raw(), {})
    reasons = [each[5] for row in found["rows"] for launch in row["launches"] for each in launch["repetitions"]]
    assert sorted(set(reasons)) == ["", "compiled again"]


def test_a_value_with_bounds_is_one_fact_with_its_interval(several, tree):
    found = evidence_of(tree)
    names = [name for name, _ in found["facts"]]
    assert not {"speedup_lo", "speedup_hi", "e2e_lo_s", "output_tok_s_hi"} & set(names)
    rows = in_order(records(load(several.folder)))
    number = names.index("output_tok_s")
    for row, behind in zip(rows, found["rows"], strict=True):
        facts = {fact[0]: fact[1] for fact in behind["facts"]}
        if row["output_tok_s"] is None:
            assert number not in facts
        else:
            texts = [format.text(row[f"output_tok_s{tail}"], "tok/s") for tail in ("", "_lo", "_hi")]
            assert facts[number] == "{} [{}, {}]".format(*texts)


def test_the_repetitions_of_a_large_run_stay_in_its_raw_files(several, monkeypatch):
    monkeypatch.setattr(evidence, "MOST_REPETITIONS", 10)
    found = evidence.of_rows(records(load(several.folder)), several.read_raw(), {})
    assert found["complete"] is False
    assert all(launch["repetitions"] == [] for row in found["rows"] for launch in row["launches"])


# What users wrote


def hostile_run(folder):
    """A run full of markup: model, engine, reasons, machine, options, name of the folder."""
    arms = (Arm(engine="uncached"), Arm(engine=MARKUP), Arm(engine="cached"))
    failed = {(4, MARKUP): replace(OOM, reason=HOSTILE)}
    identity = {**DESCRIPTION["identity"], **KNOWN, "cpu": HOSTILE, HOSTILE: [HOSTILE, {"x": HOSTILE}]}
    state = {**STATE, "hostname": HOSTILE, "commit": HOSTILE, "busy": [{"name": HOSTILE, "pid": 1, "cores": 1.0}]}
    about = {**DESCRIPTION, "identity": identity, "state": state, "models": {HOSTILE: DESCRIPTION["models"]["gpt2-nano"]}}
    made = make_run(folder / "made", batches=(1, 4), prompts=(8,), arms=arms, failed=failed, seen=lambda *_: {}, about=about)
    launches = [replace(each, point=replace(each.point, model=MARKUP)) for each in made.read_raw()]
    info = replace(made.info(), requested={"model": MARKUP, HOSTILE: HOSTILE}, command="kv-sweep<b>")
    run = store.create(folder / MARKUP, info)
    for trial in (trial for trials in info.plan.rounds() for trial in trials):
        mine = [each for each in launches if each.trial == trial.key]
        if mine:
            run.write_raw(trial, mine)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return hostile_run(tmp_path_factory.mktemp("hostile"))


def check_harmless(text):
    """Nothing that a user wrote became an element, a script or an attribute."""
    tree = check_page(text)
    assert tree.all("img") == []
    assert tree.all("b") == []
    scripts = tree.all("script")
    assert [each.attributes.get("type") for each in scripts] in ([None], ["application/json", None])
    assert scripts[-1].source == page.read("script.js")
    assert "alert(" in text
    return tree


def test_markup_of_users_stays_text(hostile):
    tree = check_harmless(text_of(hostile))
    assert "{{ 7 * 7 }}" in tree.text
    assert MARKUP in tree.all("h1")[0].text
    assert MARKUP in {row["arm"] for row in table_of(tree)}
    assert HOSTILE.split("|")[0] in tree.id("cells").text
    assert HOSTILE in json.dumps(evidence_of(tree)).replace('\\"', '"')
    assert HOSTILE.split("|")[0] in tree.id("machine").text


def test_markup_stays_text_in_figures_and_in_the_page_of_several_runs(hostile, found):
    paths = plots.draw_all(load(hostile.folder), hostile.read_raw(), hostile.plots)
    assert len(paths) > 4
    check_harmless(text_of(hostile, paths))
    text = runs_page.page([study_of(hostile), found], [paths, []], hostile.folder.parent)
    tree = check_harmless(text)
    (link,) = [each for each in tree.all("a") if "%3Cimg" in each.attributes.get("href", "") and each.text == MARKUP][:1]
    assert link.attributes["href"] == "%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E/report.html"


def test_the_script_is_the_only_one_that_may_run():
    text = page.render("search.html", Inks(), title="x", name="x", sentences=[], table=EMPTY, failure="", figure=None)
    tree = read(text)
    policy = tree.all("meta", http_equiv="Content-Security-Policy")[0].attributes["content"]
    digest = base64.b64encode(hashlib.sha256(tree.all("script")[0].source.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


EMPTY = type("Grid", (), {"heads": [], "rows": []})


@pytest.mark.parametrize("name", ["page.html", "parts.html", "run.html", "runs.html", "search.html"])
def test_the_words_of_the_pages_are_those_of_the_field(name):
    text = re.sub(r"<[^>]*>|\{[%{].*?[%}]\}", " ", page.read(name))
    assert [str(each) for each in test_words.findings_in(text, name)] == []


def test_neither_script_nor_style_ends_its_element_early():
    assert "</script" not in page.read("script.js")
    assert "</style" not in page.read("style.css")
    assert "innerHTML" not in page.read("script.js")


# Figures


@pytest.fixture(scope="module")
def drawn(several):
    """The figure of speedups, and its SVG in a page."""
    paths = plots.draw("speedup_vs_batch", load(several.folder), several.read_raw(), several.plots)
    return paths, read(str(inline(paths[1], 'what "it" shows', Inks())))


def test_a_drawing_has_shapes_only_and_a_name(drawn):
    _, tree = drawn
    (svg,) = tree.all("svg")
    assert svg.attributes["role"] == "img"
    assert svg.attributes["aria-label"] == 'what "it" shows'
    assert {each.tag for each in tree} == {"svg", "g", "defs", "path", "use", "rect", "clippath", "title"}
    assert not {name for each in tree for name in each.attributes} & {"style", "xmlns", "xlink:href"}


def test_a_point_tells_its_arm_its_batch_its_value_and_its_interval(several, drawn):
    _, tree = drawn
    titles = {each.source for each in tree.all("title")}
    for row in records(load(several.folder)):
        if row["speedup"] is not None:
            value, low, high = (format.ratio_tick(row[f"speedup{tail}"]) for tail in ("", "_lo", "_hi"))
            assert f"{row['arm']}, batch size (rows) {row['batch_size']}, speedup (x) {value} [{low}, {high}]" in titles


def test_the_svg_beside_the_page_has_the_same_tooltips(drawn):
    paths, tree = drawn
    text = paths[1].read_text()
    assert text.count("<title>") == len(tree.all("title")) > 3


def test_the_ids_of_two_drawings_differ(drawn):
    paths, _ = drawn
    inks = Inks()
    tree = read(f"<div>{inline(paths[1], 'one', inks)}{inline(paths[1], 'two', inks)}</div>")
    ids = [each.attributes["id"] for each in tree if "id" in each.attributes]
    assert len(ids) == len(set(ids)) > 20
    for each in tree.all("use"):
        assert each.attributes["href"][1:] in ids


def test_what_is_no_shape_is_left_out_of_a_drawing(tmp_path):
    (tmp_path / "x.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" onload="alert(1)">'
        '<script>alert(1)</script><foreignObject><img src="x"/></foreignObject>'
        '<a xlink:href="javascript:alert(1)"><path d=""/></a><image xlink:href="http://x.example/y.png"/>'
        '<g id="a b" style="fill: url(javascript:alert(1)); stroke: url(#nowhere)"><path d="M 1.23456 2"/></g>'
        "<style>*{}</style></svg>"
    )
    text = str(inline(tmp_path / "x.svg", "", Inks()))
    assert "alert" not in text
    assert "http" not in text
    assert {each.tag for each in read(text)} == {"svg", "image", "g", "path"}
    assert 'd="M 1.23 2"' in text


def brightness(colour):
    """Relative luminance (WCAG)."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([brightness(one), brightness(other)])
    return (high + 0.05) / (low + 0.05)


def test_paper_and_ink_change_places_on_a_dark_ground():
    greys = ["#000000", "#333333", "#555555", "#888888", "#cccccc", "#e5e5e5", "#ffffff"]
    levels = [brightness(on_dark(grey)) for grey in greys]
    assert levels == sorted(levels, reverse=True)
    assert on_dark("#ffffff") == "#1f1f1f"
    assert "--paper: light-dark(#ffffff, #1f1f1f)" in page.read("style.css")
    assert contrast(on_dark("#000000"), on_dark("#ffffff")) > 12


@pytest.mark.parametrize("colour", [*plots.style.COLOURS, "#B22222"])
def test_the_colours_of_arms_are_seen_on_a_dark_ground(colour):
    assert contrast(on_dark(colour.lower()), on_dark("#ffffff")) > 4


def test_old_browsers_keep_the_colours_of_the_light_ground():
    assert (
        rule("fill: #0072b2; stroke-width: 0.6")
        == f"fill:#0072b2;stroke-width:0.6;fill:light-dark(#0072b2,{on_dark('#0072b2')})"
    )
    assert rule("fill: none") == "fill:none"


# Several runs


def test_runs_that_were_measured_alike_share_a_table(found, tmp_path):
    one, two = (with_identity(found, tmp_path / f"same-{number}", "abc") for number in (0, 1))
    studies = [one, two, with_identity(found, tmp_path / "elsewhere", "xyz", cpu="another")]
    assert [{row["run"] for row in rows} for rows in alike(studies)] == [{"same-0", "same-1"}] * 2
    assert differences(studies)["cpu"] == ["Imagined | 2 GHz", "Imagined | 2 GHz", "another"]
    tree = check_page(runs_page.page(studies, [[], [], []], tmp_path))
    table = rows_of(tree.id("alike-1"))
    assert list(table[0])[:3] == ["batch", "arm", "run"]
    assert {row["run"] for row in table} == {"same-0", "same-1"}
    assert "alike-3" not in {each.attributes.get("id") for each in tree}
    assert {row["machine"] for row in rows_of(tree.id("runs-table"))} == {"Imagined | 2 GHz", "another"}


def with_identity(study, folder, identity, **changes):
    """The same run in another folder, its cells measured under an identity."""
    about = study.info.description
    info = replace(study.info, description=replace(about, identity={**about.identity, **changes}))
    return replace(study, folder=folder, info=info, cells=study.cells.assign(identity=identity))


def test_runs_without_an_identity_or_with_another_reference_share_no_table(found, tmp_path):
    studies = [found, replace(found, folder=tmp_path / "other")]
    assert found.cells["identity"].isna().all()
    assert alike(studies) == []
    tree = check_page(runs_page.page(studies, [[], []], tmp_path))
    assert "No setting was measured alike in two runs" in tree.text
    one, two = (with_identity(found, tmp_path / name, "abc") for name in ("one", "two"))
    turned = replace(two, info=replace(two.info, plan=replace(two.info.plan, arms=two.info.plan.arms[::-1])))
    assert len(alike([one, two])) == 2
    assert alike([one, turned]) == []


def test_runs_with_the_same_name_are_distinguished(found, tmp_path):
    studies = [replace(found, folder=folder) for folder in (tmp_path / "a" / "run", tmp_path / "b" / "run", found.folder)]
    assert names_of(studies) == ["a/run", "b/run", "several"]


# Commands


def test_report_writes_both_pages_and_one_for_all_runs(several, tmp_path, monkeypatch, no_plots):
    for name in ("a", "b"):
        shutil.copytree(several.folder, tmp_path / "results" / name)
    monkeypatch.chdir(tmp_path)
    printed = command("report", "results/a", "results").split()
    names = [f"results/{name}/report.{kind}" for name in ("a", "b") for kind in ("md", "html")]
    assert printed == [*names, "results/runs.html"]
    tree = check_page((tmp_path / "results" / "runs.html").read_text())
    links = {each.attributes["href"] for each in tree.all("a")} - {"#main"}
    assert links == {"a/report.html", "b/report.html"}
    assert all((tmp_path / "results" / link).exists() for link in links)


def test_report_opens_the_page_that_was_written_last(several, tmp_path, monkeypatch, no_plots):
    import webbrowser

    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    run = Path(shutil.copytree(several.folder, tmp_path / "a run"))
    command("report", run, "--open")
    assert opened == [(run / "report.html").resolve().as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    done = CliRunner().invoke(app, ["report", str(run), "--open"])
    assert done.exit_code == 2
    assert "no browser was found" in done.stderr


def test_the_page_of_the_default_sweep_is_small_and_its_figures_are_in_it(tmp_path):
    run = Run(Path(shutil.copytree(REFERENCE, tmp_path / "run", ignore=shutil.ignore_patterns("plots"))))
    command("report", run.folder)
    text = (run.folder / "report.html").read_text()
    assert len(text.encode()) < 3e6
    tree = check_page(text)
    drawn = {path.stem for path in run.plots.glob("*.svg")}
    assert {each.attributes["id"] for each in tree.all("figure")} == {f"figure-{name}" for name in drawn}
    assert tree.id("verdict").all("figure")[0].attributes["id"] == "figure-speedup_vs_batch"
    assert len(tree.all("svg")) == len(drawn) > 4


# A search


ANSWER = BatchAnswer(
    batch_size=6,
    knee_batch_size=4,
    largest_batch_size=8,
    failed_batch_size=9,
    failed_reason=MARKUP,
    bounded_by="memory",
    grad_accum=None,
    margin=0.85,
    curve=(BatchTrial(1, 100.0, 1 << 20), BatchTrial(4, 350.0, 4 << 20), BatchTrial(8, 360.0, 8 << 20)),
    seconds=12.0,
    memory_limit_bytes=9 << 20,
)


def test_a_search_has_a_page(tmp_path):
    autobatch_view.write(ANSWER, f"{MARKUP}, cached", tmp_path)
    assert command("report", tmp_path).strip() == str(tmp_path / "report.html")
    tree = check_harmless((tmp_path / "report.html").read_text())
    assert [row["tok/s"] for row in rows_of(tree.id("batches-table"))] == ["100", "350", "360"]
    assert [row["note"] for row in rows_of(tree.id("batches-table"))] == [format.MISSING, "knee", "largest that fits"]
    for sentence in autobatch_view.sentences(ANSWER, f"{MARKUP}, cached"):
        assert sentence in tree.id("verdict").text
    assert f"batch 9 ran out of memory: {MARKUP}" in tree.id("verdict").text
    assert len(tree.all("svg")) == 1


def test_a_search_without_a_title_has_that_of_its_folder(tmp_path):
    (tmp_path / "autobatch.json").write_text(json.dumps({**ANSWER.to_json(), "curve": []}))
    tree = check_page(search_page.page(tmp_path / "autobatch.json"))
    assert tree.all("h1")[0].text == f"nanobench autobatch: {tmp_path.name}"
    assert tree.all("svg") == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"curve": 3}', '{"curve": [1]}'])
def test_what_is_no_answer_of_a_search_is_one_line(tmp_path, text):
    (tmp_path / "autobatch.json").write_text(text)
    assert "nanobench autobatch --out" in command("report", tmp_path, code=2)
    assert not (tmp_path / "report.html").exists()


# A self-test


def test_both_runs_of_a_self_test_show_its_checks(several, tmp_path):
    folders = [Path(shutil.copytree(several.folder, tmp_path / name)) for name in ("same", "delayed")]
    for folder in folders:
        data = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**data, "command": "selftest"}))
    cells = [[CellSummary.of(row) for row in records(load(folder))] for folder in folders]
    tree = check_page(text_of(Run(folders[0])))
    checks = selftest_checks(*cells)
    assert [
        [cell.text for cell in row.children if isinstance(cell, Node)][:3] for row in tree.id("selftest").all("tr")[1:]
    ] == [[check.name, check.seen, check.wanted] for check in checks]
    shutil.rmtree(folders[1])
    assert "selftest" not in {each.attributes.get("id") for each in read(text_of(Run(folders[0])))}


def test_every_status_has_its_words():
    from nanobench.records import Status

    assert set(run_page.STATUSES) == set(Status)
    assert set(MEASURED) <= set(run_page.STATUSES)


def test_a_description_without_models_or_state_has_a_page(several, tmp_path):
    info = several.info()
    bare = Description(device="cpu", gpus=[], identity={"hash": "x"})
    made = store.create(tmp_path / "bare", replace(info, description=bare))
    for trial in (trial for trials in info.plan.rounds() for trial in trials):
        made.write_raw(trial, [each for each in several.read_raw() if each.trial == trial.key])
    tree = check_page(text_of(made))
    assert "The state of the machine before the start was not recorded." in tree.text
    assert "unknown machine" in tree.text


def test_hatches_are_kept_in_a_drawing(tmp_path):
    figure = Figure(figsize=(1, 1))
    figure.subplots().bar([0], [1], hatch="//", edgecolor="#0072b2")
    figure.savefig(tmp_path / "hatched.svg")
    inks = Inks()
    tree = read(str(inline(tmp_path / "hatched.svg", "bars", inks)))
    (pattern,) = tree.all("pattern")
    assert f"fill:url(#{pattern.attributes['id']})" in inks.css()
