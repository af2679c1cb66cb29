"""Plug-ins of other distributions: listed, used, and never the cause of more than one line."""

import json
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from conftest import SMALL, TESTS
from nanobench import load, registry
from nanobench.cli import app
from nanobench.errors import UserError
from nanobench.registry import plug_in
from nanobench.results import derive
from nanobench.results.metrics import plug_ins as metric_plug_ins
from nanobench.results.metrics.metric import Metric
from nanobench.views import plots
from nanobench.views import sweep as views

REFERENCE = Path(__file__).parents[1] / "results" / "reference-cpu"
METRIC = """
from nanobench.results.metrics.metric import Metric
RIGHT = Metric("lab_share", "ratio", "", "kv_cache_bytes / weight_bytes", lambda cell: {value})
"""
SHARE = "(cell.largest('kv_cache_bytes') or 0) / cell.largest('weight_bytes')"
PLOT = '''
from matplotlib.figure import Figure
def right(cells, launches):
    """Nothing at all, as a figure."""
    figure = Figure()
    figure.subplots().plot([1, 2])
    return figure
'''


def write(folder, distribution, groups, metadata=None, **modules):
    """An installed distribution: `groups` has the lines of its entry points; `modules` are its files."""
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {distribution}\nVersion: 1.0\n" if metadata is None else metadata)
    lines = [line for group, entries in groups.items() for line in (f"[nanobench.{group}]", *entries)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions. What is imported from it is forgotten afterwards."""
    folder, before = tmp_path / "site", set(sys.modules)
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    caches = (plug_in.warn, derive.plug_ins, plots.plug_ins)
    for each in caches:
        each.cache_clear()
    yield folder
    for each in caches:
        each.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("lab_"):
            del sys.modules[name]


def command(*arguments, code=0):
    """What the command line prints on standard output and on standard error."""
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.stdout, done.stderr


@pytest.fixture
def old_run(tmp_path):
    """Two batch sizes of a run that was measured before there was any plug-in."""
    folder = tmp_path / "old"
    (folder / "raw").mkdir(parents=True)
    kept = [path for pattern in ("*.json*", "raw/*-b1-*", "raw/*-b8-*") for path in REFERENCE.glob(pattern)]
    for path in kept:
        shutil.copy(path, folder / path.relative_to(REFERENCE))
    return folder


# Metrics


def test_a_metric_is_a_column_of_old_runs_too_and_is_shown_wherever_columns_are(site, old_run, no_plots):
    write(site, "lab-kit", {"metrics": ["share = lab_metric:RIGHT"]}, lab_metric=METRIC.format(value=SHARE))
    cells = load(old_run)
    measured = cells[cells["weight_bytes"].notna()]
    assert len(measured)
    expected = measured["kv_cache_bytes"].fillna(0) / measured["weight_bytes"]
    assert measured["lab_share"].tolist() == pytest.approx(expected.tolist())
    listed, _ = command("list", "metrics")
    assert [line.split() for line in listed.splitlines()][-1][:3] == ["lab_share", "lab-kit", "1.0"]
    assert "lab_share" in command("export", old_run)[0].splitlines()[0].split(",")
    assert "lab_share" in json.loads(command("export", old_run, "--format", "json")[0])[0]
    assert "lab share" in command("export", old_run, "--format", "md")[0].splitlines()[0]
    assert command("report", old_run)[1] == ""
    assert "| lab share |" in (old_run / "report.md").read_text()


def test_several_metrics_come_from_one_entry_point_and_a_wrong_one_takes_none_with_it(site):
    code = METRIC.format(value="1.5") + (
        "make = lambda name, unit='ratio', compute=lambda cell: 1: Metric(name, unit, '', 'a formula', compute)\n"
        "ALL = [RIGHT, make('Not A Column'), make('speedup'), make('lab_share'), make('batch_size'), make('lab_unit', ''),\n"
        "       make('lab_call', compute=3), make('lab_last')]\n"
    )
    write(site, "lab-kit", {"metrics": ["all = lab_metrics:ALL"]}, lab_metrics=code)
    out, err = command("list", "metrics")
    assert [line.split()[0] for line in out.splitlines()[len(derive.METRICS) :]] == ["lab_share", "lab_last"]
    lines = err.splitlines()
    assert len(lines) == 6
    for line, (name, words) in zip(
        lines,
        {
            "Not A Column": "a column is named like tokens_per_joule",
            "speedup": "a built-in column has this name, and no plug-in replaces it",
            "lab_share": "another plug-in has a column of this name",
            "batch_size": "a built-in column has this name",
            "lab_unit": "its unit and its formula",
            "lab_call": "`compute` is no function",
        }.items(),
        strict=True,
    ):
        assert line.startswith(f"warning: metric {name!r} of plug-in 'all' (lab-kit 1.0, lab_metrics:ALL) is ignored: {words}")


BROKEN = {
    "raises on import": "raise RuntimeError('no such\\nluck')",
    "ends the process on import": "import sys; sys.exit(3)",
    "is no Python": "def (:",
    "has no such name": "",
    "is something else": "RIGHT = right = 3",
}


@pytest.mark.parametrize("family", ["metrics", "plots"])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plug_in_is_one_line_and_the_rest_works(site, family, fault):
    good = {"metrics": METRIC.format(value="2"), "plots": PLOT}[family]
    name = {"metrics": "RIGHT", "plots": "right"}[family]
    write(site, "lab-broken", {family: [f"broken = lab_broken:{name}"]}, lab_broken=BROKEN[fault])
    write(site, "lab-good", {family: [f"good = lab_good:{name}"]}, lab_good=good)
    out, err = command("list", family)
    (line,) = err.splitlines()
    for word in ("warning: plug-in 'broken'", "lab-broken 1.0", f"lab_broken:{name}", "correct or uninstall it"):
        assert word in line
    assert "lab-good 1.0" in out.splitlines()[-1]
    assert "lab-broken" not in out


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("__import__('sys').exit(1)", "SystemExit"),
        ("'much'", "it gives 'much', which is not a finite number"),
        ("float('inf')", "it gives inf, which is not a finite number"),
        ("True", "which is not a finite number"),
        ("[1]", "which is not a finite number"),
    ],
)
def test_a_metric_that_fails_is_null_and_one_line(site, old_run, value, words, capsys):
    write(site, "lab-kit", {"metrics": ["share = lab_metric:RIGHT"]}, lab_metric=METRIC.format(value=value))
    cells = load(old_run)
    assert len(cells) == 4
    assert cells["lab_share"].isna().all()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: metric 'lab_share' of plug-in 'share' (lab-kit 1.0, lab_metric:RIGHT) fails: ")
    assert words in line
    assert line.endswith("correct or uninstall it")


@pytest.mark.parametrize(
    ("unit", "value", "stored"),
    [
        ("count", 3, 3),
        ("count", 2**63, TypeError),
        ("count", 2.0, TypeError),
        ("flag", True, True),
        ("flag", 1, TypeError),
        ("text", "words", "words"),
        ("text", "\ud800", TypeError),
        ("s", 2, 2.0),
        ("s", float("nan"), None),
        ("s", None, None),
        ("tok/J", 0.5, 0.5),
    ],
)
def test_a_value_is_stored_as_its_unit_says(unit, value, stored):
    if stored is TypeError:
        with pytest.raises(TypeError, match="which is not"):
            metric_plug_ins.checked(value, unit)
    else:
        found = metric_plug_ins.checked(value, unit)
        assert (found, type(found)) == (stored, type(stored))


def test_a_metric_is_not_computed_where_nothing_was_measured(site, old_run):
    code = METRIC.format(value="seen.append(cell.first('status')) or 1.0") + "seen = []\n"
    write(site, "lab-kit", {"metrics": ["share = lab_metric:RIGHT"]}, lab_metric=code)
    cells = load(old_run)
    import lab_metric

    assert len(lab_metric.seen) == cells["lab_share"].notna().sum() == cells["output_tok_s"].notna().sum()


def test_a_table_has_no_column_of_a_plug_in_that_knows_nothing(site):
    write(site, "lab-kit", {"metrics": ["share = lab_metric:RIGHT"]}, lab_metric=METRIC.format(value="None"))
    (column,) = views.of_plug_ins()
    assert (column.name, column.needs, column.drop) == ("lab share", "lab_share", 0)
    assert isinstance(derive.all_metrics()[-1], Metric)


# Plots


def test_a_plot_is_listed_drawn_and_part_of_the_report(site, old_run, monkeypatch):
    monkeypatch.setattr(plots, "PLOTS", {})
    write(site, "lab-kit", {"plots": ["lab.nothing = lab_plot:right"]}, lab_plot=PLOT)
    assert command("list", "plots")[0] == "lab.nothing  lab-kit 1.0  Nothing at all, as a figure.\n"
    out, err = command("plot", "lab.nothing", old_run)
    assert [Path(line).name for line in out.splitlines()] == ["lab.nothing.png", "lab.nothing.svg"]
    assert err == ""
    command("report", old_run)
    assert "![Nothing at all, as a figure.](plots/lab.nothing.png)" in (old_run / "report.md").read_text()


def test_a_function_by_its_dotted_path_is_drawn_too(site, old_run):
    (site / "lab_plot.py").write_text(PLOT)
    out, _ = command("plot", "lab_plot:right", old_run)
    assert [Path(line).name for line in out.splitlines()] == ["lab_plot.right.png", "lab_plot.right.svg"]
    assert "lab_plot has no function 'wrong'" in command("plot", "lab_plot:wrong", old_run, code=2)[1]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def right(cells, launches): return 1 / 0", "ZeroDivisionError"),
        ("def right(cells): pass", "TypeError"),
        ("def right(cells, launches): return 3", "it gives a int, not a matplotlib.figure.Figure"),
        ("def right(cells, launches): raise SystemExit(1)", "SystemExit"),
        (PLOT.replace("plot([1, 2])", "set_title('$\\\\frac{$')"), "ValueError"),
    ],
)
def test_a_plot_that_fails_is_one_line_and_leaves_no_file(site, old_run, monkeypatch, code, words):
    monkeypatch.setattr(plots, "PLOTS", {})
    write(site, "lab-kit", {"plots": ["nothing = lab_plot:right"]}, lab_plot=code)
    out, err = command("report", old_run)
    assert out.split() == [str(old_run / name) for name in ("report.md", "report.html")]
    (line,) = err.splitlines()
    assert line.startswith("warning: plug-in 'nothing' (lab-kit 1.0, lab_plot:right) fails: ")
    assert words in line
    (asked,) = command("plot", "nothing", old_run, code=2)[1].splitlines()
    assert asked == line.removeprefix("warning: ")
    assert list(old_run.glob("plots/*")) == []


def test_a_plot_without_data_is_no_warning(site, old_run, monkeypatch):
    monkeypatch.setattr(plots, "PLOTS", {})
    code = "from nanobench.errors import UserError\ndef right(cells, launches): raise UserError('it needs a GPU')\n"
    write(site, "lab-kit", {"plots": ["nothing = lab_plot:right"]}, lab_plot=code)
    assert command("report", old_run)[1] == ""
    assert command("plot", "nothing", old_run, code=2)[1] == "it needs a GPU\n"


@pytest.mark.parametrize("name", ["timeline", "../lab", "a b"])
def test_a_plot_has_a_name_of_its_own_that_can_be_a_files(site, name):
    write(site, "lab-kit", {"plots": [f"{name} = lab_plot:right"]}, lab_plot=PLOT)
    _, err = command("list", "plots")
    (line,) = err.splitlines()
    assert line.startswith(f"warning: plug-in {name!r} (lab-kit 1.0, lab_plot:right) is ignored: ")
    assert line.endswith("rename its entry point")
    assert set(plots.plug_ins()) == set()


def test_our_own_figures_are_those_with_the_decorator_in_the_order_of_the_report():
    assert list(plots.PLOTS)[:3] == ["speedup_vs_batch", "speedup_vs_length", "speedup_by_arm"]
    assert all(draw.__module__.startswith("nanobench.views.figures.") for draw in plots.PLOTS.values())
    assert all(plots.about(name).endswith(".") or plots.about(name)[0].isupper() for name in plots.PLOTS)


def test_a_plug_in_that_uses_the_decorator_replaces_nothing(site):
    code = "from nanobench.views.figures.plot import plot\n" + PLOT.replace("def right", "@plot\ndef timeline")
    write(site, "lab-kit", {"plots": ["lab = lab_plot:timeline"]}, lab_plot=code)
    assert set(plots.plug_ins()) == {"lab"}
    assert plots.PLOTS["timeline"].__module__ == "nanobench.views.figures.timeline"
    assert {draw.__name__ for draw in plots.own_figures()} == set(plots.PLOTS)


# Members of families


@pytest.mark.parametrize("family", registry.PACKAGES)
def test_a_member_never_replaces_a_built_in_one_and_the_line_says_so(site, family):
    name = registry.built_in(family)[0]
    write(site, "lab-kit", {family: [f"{name} = lab_member:build"]}, lab_member="raise RuntimeError")
    out, err = command("list", family)
    (line,) = err.splitlines()
    assert f"plug-in {name!r} (lab-kit 1.0, lab_member:build) is ignored: a built-in {family.removesuffix('s')}" in line
    assert "no plug-in replaces it" in line
    assert "lab-kit" not in out
    assert registry.module_of(family, name) is None


def test_of_two_plug_ins_with_one_name_the_second_is_ignored(site):
    for number in (1, 2):
        write(site, f"lab-kit{number}", {"samplers": [f"lab = lab_member{number}:build"]})
        (site / f"lab_member{number}.py").write_text('"""A sampler of the lab, one of two."""')
    out, err = command("list", "samplers")
    assert out.count("of the lab") == 1
    (line,) = err.splitlines()
    assert "is ignored: another plug-in has this name" in line


def test_listing_is_not_ended_by_what_a_plug_in_says_of_itself(site):
    write(site, "lab-syntax", {"engines": ["lab-syntax = lab_syntax:build"]}, lab_syntax="def (:")
    write(site, "lab-null", {"engines": ["lab-null = lab_null:build"]}, lab_null='"""a"""\0')
    write(site, "lab-missing", {"engines": ["lab-missing = lab_missing:build"]})
    write(site, "lab-value", {"engines": ["lab-value = not a module!"]})
    write(site, "lab-deep", {"engines": ["lab-deep = lab_deep:build"]}, lab_deep="(" * 10_000)
    write(site, "lab-bare", {"engines": ["lab-bare = lab_bare:build"]}, metadata="", lab_bare='"""An engine, bare."""\n"\\d"')
    write(site, "lab-markup", {"engines": ["[red]x[/red] = lab_markup:build"]}, lab_markup='"""[bold]An\x1b[31m engine."""')
    out, err = command("list", "engines")
    names = [line.split()[0] for line in out.splitlines()]
    assert {"uncached", "cached", "lab-syntax", "lab-null", "lab-missing", "lab-value", "lab-deep", "lab-bare"} <= set(names)
    assert "[red]x[/red]" in names
    assert "[bold]An?[31m engine." in out
    assert "a distribution without a name" in out
    assert "\x1b" not in out + err
    lines = err.splitlines()
    assert len(lines) == 5
    for name in ("syntax", "null", "missing", "value", "deep"):
        (line,) = (line for line in lines if f"'lab-{name}'" in line)
        assert line.startswith(f"warning: plug-in 'lab-{name}' (lab-{name} 1.0, ")
        assert line.endswith("correct or uninstall it")


def test_entry_points_that_cannot_be_read_hide_no_others(site):
    write(site, "lab-odd", {"engines": ["no equals sign"]})
    write(site, "lab-good", {"engines": ["lab = lab_good:build"]}, lab_good='"""An engine of the lab."""')
    out, err = command("list", "engines")
    assert out.splitlines()[-1].split()[:3] == ["lab", "lab-good", "1.0"]
    (line,) = err.splitlines()
    assert line.startswith("warning: the entry points of lab-odd 1.0 cannot be read")


def test_a_list_of_everything_counts_the_plug_ins(site):
    counts = dict(line.split()[:2] for line in command("list")[0].splitlines())
    write(site, "lab-kit", {"plots": ["lab = lab_plot:right"], "metrics": ["m = lab_m:RIGHT"]}, lab_plot=PLOT)
    (site / "lab_m.py").write_text(METRIC.format(value="1"))
    for each in (derive.plug_ins, plots.plug_ins):
        each.cache_clear()
    now = dict(line.split()[:2] for line in command("list")[0].splitlines())
    assert {name for name in now if now[name] != counts[name]} == {"plots", "metrics"}


@pytest.mark.parametrize("family", ["engines", "samplers", "optimizers", "models"])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("", "no attribute 'build'"),
        ("build = 3", "is a int, not a function"),
    ],
)
def test_a_broken_member_that_is_named_is_one_line_and_the_others_are_found(site, family, code, words):
    write(site, "lab-kit", {family: ["lab-broken = lab_broken:build"]}, lab_broken=code)
    with pytest.raises(UserError) as caught:
        registry.find(family, "lab-broken")
    assert str(caught.value).startswith("plug-in 'lab-broken' (lab-kit 1.0, lab_broken:build) ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert registry.find(family, registry.built_in(family)[0])


# Whole commands


def answer(nanobench_here, site, tmp_path, *arguments, code=2):
    """The lines on standard error of a command in an empty folder, which it leaves empty."""
    folder = tmp_path / "empty"
    folder.mkdir()
    done = nanobench_here(*arguments, cwd=folder, code=code)
    assert "Traceback" not in done.stdout + done.stderr
    assert list(folder.iterdir()) == []
    return done.stderr.strip().splitlines()


@pytest.mark.parametrize("option", ["--model", "--engine", "--sampler"])
def test_a_command_that_names_a_broken_plug_in_ends_with_one_line(nanobench_here, site, tmp_path, option):
    family = f"{option[2:]}s"
    write(site, "lab-kit", {family: ["lab-broken = lab_broken:build"]}, lab_broken="raise RuntimeError('[red]no[/red]')")
    model = () if option == "--model" else SMALL[:2]
    (line,) = answer(nanobench_here, site, tmp_path, "kv-sweep", *model, option, "lab-broken")
    assert "plug-in 'lab-broken' (lab-kit 1.0, lab_broken:build) cannot be loaded: RuntimeError: [red]no[/red]" in line


@pytest.mark.parametrize("code", ["def build(): return 3", "def build(): return {}", "def build(n): return n"])
def test_a_model_whose_build_returns_junk_is_one_line(nanobench_here, site, tmp_path, code):
    write(site, "lab-kit", {"models": ["lab-junk = lab_junk:build"]}, lab_junk=code)
    (line,) = answer(nanobench_here, site, tmp_path, "verify", "--model", "lab-junk")
    assert line.startswith("model 'lab-junk' ")


@pytest.mark.parametrize(
    "fault",
    ["sys.exit(5)", *(pytest.param(each, marks=pytest.mark.slow) for each in ("os._exit(5)", "os.kill(os.getpid(), 9)"))],
)
def test_a_model_that_ends_its_process_is_one_line(nanobench, tmp_path, fault):
    site, folder = tmp_path / "site", tmp_path / "empty"
    write(site, "lab-kit", {"models": ["lab-ends = lab_ends:build"]}, lab_ends=f"import os, sys\ndef build(): {fault}\n")
    folder.mkdir()
    paths = (site, TESTS, TESTS.parent / "src")
    env = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    done = nanobench("kv-sweep", "--model", "lab-ends", "--batch", 1, cwd=folder, env=env, code=2)
    (line,) = done.stderr.strip().splitlines()
    assert "the models cannot be described: worker" in line
    assert list(folder.iterdir()) == []
    assert [path for path in (tmp_path / "temporary").iterdir() if "locks" not in path.name] == []


def test_verify_prints_the_contracts_and_exits_1_where_one_is_broken(nanobench_here, tmp_path):
    asked = ("--prompt-len", 8, "--new-tokens", 4, "--batch", "1", "--threads", 1, "--json")
    good = nanobench_here("verify", *asked, "--model", "fakes:tiny", "--sampler", "top-k", cwd=tmp_path, code=0)
    found = pd.DataFrame(json.loads(good.stdout.strip().splitlines()[-1])["contracts"])
    assert found["passed"].all()
    members = found[["family", "member"]].drop_duplicates().itertuples(index=False)
    assert [tuple(each) for each in members] == [
        ("models", "fakes:tiny"),
        ("engines", "uncached"),
        ("engines", "cached"),
        ("samplers", "top-k"),
    ]
    assert "fakes:tiny" in good.stdout
    assert "broken" not in good.stdout
    # Generation never computes the loss: the gates of its arms pass.
    bad = nanobench_here("verify", *asked, "--model", "fakes:miscounting", cwd=tmp_path, code=1)
    document = json.loads(bad.stdout.strip().splitlines()[-1])
    assert {cell["gate"] for cell in document["cells"]} == {"exact"}
    assert [(each["member"], each["name"]) for each in document["contracts"] if not each["passed"]] == [
        ("fakes:miscounting", "loss")
    ]
    assert "broken" in bad.stdout
