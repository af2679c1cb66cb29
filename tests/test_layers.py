"""The shape of the house: who imports whom, what a light command may load, and that everything says what it is."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import nanobench

PACKAGE = Path(nanobench.__file__).parent
ROOMS = {
    "errors": (0, False),
    "schema": (0, False),
    "source_code": (0, False),
    "stats": (0, False),
    "records": (1, False),
    "registry": (1, False),
    "roofline": (1, False),
    "models": (2, True),
    "samplers": (2, True),
    "optimizers": (2, True),
    "probes": (2, True),
    "continuation": (2, False),
    "results": (2, False),
    "engines": (3, True),
    "training": (4, True),
    "gates": (5, True),
    "plugins": (4, True),
    "api": (5, False),
    "worker": (6, True),
    "testing": (7, True),
    "sweep": (3, False),
    "analysis": (3, False),
    "views": (4, False),
    "cli": (5, False),
    "__main__": (6, False),
    "__init__": (6, False),
}
"""Room -> its level, and whether it may import torch. Every file and folder of the package is a room, and a room imports only
rooms of lower levels."""
HEAVY = {"torch", "pandas", "matplotlib", "scipy", "pyarrow", "numpy"}


class Import(NamedTuple):
    """An import of a module, and whether it is carried out when the importing file is."""

    target: str
    line: int
    at_once: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def found_in(node: ast.AST, module: str, at_once: bool = True) -> Iterator[Import]:
    """The imports below a node, in functions too, without those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if is_for_type_checkers(child):
            yield from found_in(ast.Module(body=child.orelse, type_ignores=[]), module, at_once)
        elif isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(target, child.lineno, at_once) for target in targets_of(child, module))
        elif isinstance(child, ast.Call) and ast.unparse(child.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            if child.args and isinstance(child.args[0], ast.Constant):
                yield Import(str(child.args[0].value), child.lineno, at_once)
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from found_in(child, module, at_once and not in_function)


def targets_of(node: ast.ImportFrom, module: str) -> list[str]:
    """The modules that `from base import names` loads: base.name where that is a module, else base."""
    base = node.module or ""
    if node.level:
        package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
        above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
        base = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base for alias in node.names]


IMPORTS = {name: list(found_in(tree, name)) for name, tree in TREES.items()}


def part_of(module: str) -> str:
    """The file or folder of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def level_of(module: str) -> int:
    return ROOMS[part_of(module)][0]


def in_rooms(may_import_torch: bool) -> list[str]:
    return [name for name in FILES if ROOMS[part_of(name)][1] is may_import_torch]


def package_of(target: str) -> str:
    return target.partition(".")[0]


def breaches(modules, is_breach) -> list[str]:
    """Those imports of modules that are one, as lines to read."""
    return [
        f"{FILES[name].relative_to(PACKAGE)}:{found.line} imports {found.target}"
        for name in modules
        for found in IMPORTS[name]
        if is_breach(name, found)
    ]


# The reader of imports itself


def test_imports_are_found_in_functions_and_in_strings_but_not_those_for_type_checkers():
    code = """
import json
from nanobench import stats, __version__
from . import base
if TYPE_CHECKING:
    import pandas
else:
    import tomllib
class Some:
    import glob
    def method(self):
        from torch import nn
        return importlib.import_module("numpy"), lambda: __import__("scipy")
"""
    found = list(found_in(ast.parse(code), "nanobench.engines.cached"))
    at_once = ["json", "nanobench.stats", "nanobench", "nanobench.engines.base", "tomllib", "glob"]
    assert [each.target for each in found if each.at_once] == at_once
    assert [each.target for each in found if not each.at_once] == ["torch", "numpy", "scipy"]


# Rooms


def test_every_file_and_folder_is_a_room():
    there = {part_of(name) for name in FILES} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert there - {"__pycache__"} == set(ROOMS)


def test_the_house_is_low_and_its_entrance_is_small():
    assert len({level for level, _ in ROOMS.values()}) <= 8
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: {found.target for found in IMPORTS[name] if found.target in FILES} for name in FILES}
    TopologicalSorter(graph).prepare()


def test_a_room_imports_only_itself_and_rooms_of_lower_levels():
    def is_breach(name, found):
        if package_of(found.target) != "nanobench" or part_of(found.target) in (part_of(name), "__init__"):
            return False
        return level_of(found.target) >= level_of(name)

    assert breaches(FILES, is_breach) == []


def test_torch_is_imported_only_in_the_rooms_that_may():
    assert breaches(in_rooms(may_import_torch=False), lambda name, found: package_of(found.target) == "torch") == []
    assert breaches(in_rooms(may_import_torch=True), lambda name, found: package_of(found.target) == "torch")


def test_only_a_process_stands_between_control_and_worker():
    def is_breach(name, found):
        return found.target.startswith(("nanobench.worker", "nanobench.plugins"))

    above = ("worker", "plugins", "testing")
    assert breaches([name for name in FILES if part_of(name) not in above], is_breach) == []


def test_what_is_measured_waits_for_no_table_plot_or_terminal():
    banned = {"pandas", "pyarrow", "matplotlib", "rich", "typer"}
    assert breaches(in_rooms(may_import_torch=True), lambda name, found: package_of(found.target) in banned) == []


def test_only_figures_import_matplotlib_and_only_the_command_line_typer():
    for package, rooms in (("matplotlib", ("views",)), ("typer", ("cli",))):
        others = [name for name in FILES if part_of(name) not in rooms]
        assert breaches(others, lambda name, found, package=package: package_of(found.target) == package) == []


def test_no_file_is_longer_than_350_lines():
    assert [name for name, path in FILES.items() if len(path.read_text().splitlines()) > 350] == []


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages in a fresh process that imported these modules."""
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {package_of(name) for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["nanobench", "nanobench.cli"])
def test_the_command_line_loads_nothing_heavy_before_a_command_needs_it(module):
    loaded = loaded_by(module)
    assert "nanobench" in loaded
    assert loaded & HEAVY == set()


def test_rooms_without_torch_never_load_it_not_even_through_others():
    assert "torch" not in loaded_by(*(name for name in in_rooms(may_import_torch=False) if "__main__" not in name))


# Words


def public_parts(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The public functions and classes of a module, and the public methods of those classes."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                methods = [child for child in node.body if isinstance(child, kinds) and not child.name.startswith("_")]
                yield from ((f"{node.name}.{child.name}", child) for child in methods)


def first_line(node: ast.AST) -> str:
    """The first line of a docstring; empty where there is none."""
    return (ast.get_docstring(node, clean=False) or "").partition("\n")[0].strip()


@pytest.mark.parametrize("module", FILES)
def test_a_module_begins_with_a_whole_sentence_on_one_line(module):
    line = first_line(TREES[module])
    assert line.endswith("."), f"{FILES[module].relative_to(PACKAGE)} begins with {line!r}"


@pytest.mark.parametrize("module", FILES)
def test_every_public_function_class_and_method_says_what_it_is(module):
    silent = [name for name, node in public_parts(TREES[module]) if not first_line(node)]
    assert silent == []
