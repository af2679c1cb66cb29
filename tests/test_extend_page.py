"""docs/extend.md: its examples are short, keep their contracts, and work as members of the package that the page declares."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nanobench import load, registry
from nanobench.cli import app
from nanobench.registry import plug_in
from nanobench.results import derive
from nanobench.testing import assert_contract, check_engine, check_optimizer, check_sampler
from nanobench.views import plots

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text()
WORKER = (ROOT / "tests" / "fake_worker.py").read_text()
REFERENCE = ROOT / "results" / "reference-cpu"
SECTIONS = {
    "my_engine": "An engine",
    "my_sampler": "A sampler",
    "my_optimizer": "An optimizer",
    "my_metric": "A metric",
    "my_plot": "A plot",
    "my_executor": "An executor",
}
"""Module -> the section that has its text."""
GROUPS = (*registry.PACKAGES, "metrics", "plots")


def block(section, language):
    """The only fenced block of a language in a section."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL).group(1)
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


PROJECT = tomllib.loads(block("A package", "toml"))["project"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The examples, installed as the package that the page declares."""
    for module, section in SECTIONS.items():
        (tmp_path / f"{module}.py").write_text(block(section, "python"))
    info = tmp_path / "my_plugin-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {PROJECT['name']}\nVersion: {PROJECT['version']}\n")
    lines = []
    for group, entries in PROJECT["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    caches = (plug_in.warn, derive.plug_ins, plots.plug_ins)
    for each in caches:
        each.cache_clear()
    yield tmp_path
    for each in caches:
        each.cache_clear()
    for module in SECTIONS:
        sys.modules.pop(module, None)


def command(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return done.stdout


@pytest.mark.parametrize("section", SECTIONS.values())
def test_an_example_is_short(section):
    assert len(block(section, "python").splitlines()) < 36


def test_the_package_declares_every_example_in_its_group():
    declared = {group: list(entries.values()) for group, entries in PROJECT["entry-points"].items()}
    modules = [value.partition(":")[0] for values in declared.values() for value in values]
    assert sorted(modules) == sorted(SECTIONS)
    for module in SECTIONS:
        (group,) = (group for group, values in declared.items() if values[0].startswith(module))
        assert group.removeprefix("nanobench.").startswith(module.removeprefix("my_"))
    section = PAGE[PAGE.index("* The groups are") :].partition("\n")[0]
    assert set(re.findall(r"`nanobench\.(\w+)`", section)) == set(GROUPS)


@pytest.mark.parametrize(
    ("family", "name", "check"),
    [
        ("engines", "my-engine", check_engine),
        ("samplers", "my-sampler", check_sampler),
        ("optimizers", "my-optimizer", check_optimizer),
    ],
)
def test_an_example_keeps_its_contract_by_its_short_name_and_by_its_path(package, family, name, check):
    path = PROJECT["entry-points"][f"nanobench.{family}"][name]
    for text in (name, path):
        assert_contract(check(registry.find(family, text)))
    (member,) = (member for member in registry.members(family) if member.origin != registry.BUILT_IN)
    assert (member.name, member.origin) == (name, "my-plugin 0.1")


def test_the_metric_is_a_column(package):
    cells = load(REFERENCE)
    expected = cells["kv_cache_bytes"] / (cells["kv_cache_bytes"] + cells["weight_bytes"])
    known = expected.gt(0)
    assert known.any()
    assert cells.loc[known, "cache_share"].tolist() == pytest.approx(expected[known].tolist())
    assert cells.loc[~known, "cache_share"].isna().all()
    assert "my-plugin 0.1" in command("list", "metrics").splitlines()[-1]


def test_the_plot_is_drawn_and_listed(package, tmp_path):
    cells = load(REFERENCE)
    for name in ("tpot_vs_batch", "my_plot:tpot_vs_batch"):
        assert len(plots.draw(name, cells, [], tmp_path / "plots")) == 2
    expected = "tpot_vs_batch my-plugin 0.1 Time per output token of each arm, by batch size."
    assert " ".join(command("list", "plots").splitlines()[-1].split()) == expected


def test_the_executor_runs_a_worker_on_its_host(package, tmp_path, monkeypatch):
    programs = {"ssh": '#!/bin/sh\necho "on $2"; exec sh -c "$3"\n', "worker": f"#!{sys.executable}\n{WORKER}"}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "worker"))
    executor = registry.find("executors", "my-executor:host=node7")("spawn", 0, tmp_path)
    log = tmp_path / "logs" / "1.log"

    def run(do, timeout_s=60.0):
        request = {"play": {"do": do, "say": str(tmp_path / "pid")}}
        return executor.run(request, tmp_path / "out", log, timeout_s, print)

    assert run("answer").record["say"]
    assert log.read_text().startswith("on node7\n")
    assert run("fail").reason == "out of memory"
    assert (tmp_path / "out" / "failure.json").unlink() is None
    assert run("hang", timeout_s=0.5).reason == "no answer within 0.5 s"
    executor.close()


def test_the_suite_of_the_page_passes(package):
    tests = {}
    exec(block("Test a plug-in", "python"), tests)
    functions = [function for name, function in tests.items() if name.startswith("test_")]
    assert len(functions) == 3
    for function in functions:
        function()


def test_the_table_of_the_page_has_every_function_of_nanobench_testing():
    from nanobench import testing

    section = PAGE[PAGE.index("## Test a plug-in") :]
    named = set(re.findall(r"^\| `(check_\w+)\(", section, re.MULTILINE))
    assert named == {name for name in testing.__all__ if name.startswith("check_")}
