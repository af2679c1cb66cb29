"""What the command line shows before anything is measured: the help in groups, and the lists of names."""

import io
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from nanobench import registry
from nanobench.cli import app
from nanobench.cli.app import GROUPS, HELP, announce_worker
from nanobench.cli.list_names import FAMILIES

COMMANDS = [name for names in GROUPS.values() for name in names]


def shown(*arguments):
    """What a command prints, at a width where no line is broken."""
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_help_begins_with_the_question_and_has_the_commands_in_their_groups():
    text = shown("--help")
    assert " ".join(HELP.split()) in " ".join(text.split())
    titles = [title for title in re.findall(r"─ (\w+) ─", text) if title != "Options"]
    assert titles == list(GROUPS)
    found = re.findall(rf"^│ ({'|'.join(COMMANDS)}) ", text, re.MULTILINE)
    assert found == COMMANDS


def test_every_command_is_in_a_group():
    assert {command.name for command in app.registered_commands} == set(COMMANDS)
    assert len(set(COMMANDS)) == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_says_what_it_does_and_what_each_option_is(name):
    text = shown(name, "--help")
    assert f"{name} [OPTIONS]" in text
    assert re.search(r"\n [A-Z][^\n]+\.\s", text)
    for line in re.findall(r"^│ (--[\w-]+ .*)│$", text, re.MULTILINE):
        assert len(line.split()) > 2, line


@pytest.mark.parametrize("is_terminal", [True, False])
def test_only_a_terminal_is_told_that_a_worker_loads_torch(is_terminal):
    console = Console(force_terminal=is_terminal, file=io.StringIO())
    announce_worker(console)
    assert ("loads torch" in console.file.getvalue()) is is_terminal


def test_list_without_a_family_lists_the_families():
    lines = shown("list").splitlines()
    assert [line.split()[0] for line in lines] == list(FAMILIES)
    assert int(lines[0].split()[1]) == len(registry.members("models"))


@pytest.mark.parametrize("family", registry.PACKAGES)
def test_a_family_is_listed_with_a_line_per_member_that_says_what_it_is_and_where_it_is_from(family):
    lines = shown("list", family).splitlines()
    listed = [line.split()[0] for line in lines]
    assert [name for name in listed if ":" not in name] == registry.names(family)
    assert all(len(line.split()) > 6 for line in lines)
    assert "built in" in lines[0]


def test_configs_are_listed_with_their_whole_first_comment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert shown("list", "configs") == ""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.toml").write_text('# A sweep of mine,\n# on two lines.\ncommand = "verify"\n# Not this.\n')
    assert shown("list", "configs") == "mine  configs/  A sweep of mine, on two lines.\n"
