"""The source code that a measurement depends on: the files of nanobench and of plug-ins, and their hashes. Nothing is imported.

Of nanobench, all files count except those of the rooms that only read results. Of a plug-in, its module counts, and every
module that it imports, directly or not, except the standard library and other installed packages. What the source text does
not name is not found: modules that are imported by a computed name, and files that the code reads.
"""

import ast
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import machinery
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
READERS = ("analysis", "cli", "results", "testing", "views")
"""Rooms that measure nothing: every command derives its numbers from the raw files again, and contract checks keep none."""
SUFFIXES = (".py", ".toml")
STANDARD_LIBRARY = str(Path(os.__file__).parent)
LOADERS = (
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
    (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
)
"""Kinds of modules, in the order in which Python's own import prefers them."""


@dataclass(frozen=True)
class Source:
    """The files of nanobench, or of a plug-in."""

    files: Mapping[str, str] = field(default_factory=dict)
    """path below the folder that it is imported from -> the first 12 digits of its SHA-256"""
    commit: str | None = None
    """of the git repository that tracks it; None if none does"""
    dirty: bool | None = None
    """whether its files differ from that commit"""

    @property
    def version(self) -> str:
        """Its commit; the hash of its files where no commit has them."""
        if self.commit is None:
            return self.files_version
        return f"{self.commit[:10]} with local changes ({self.files_version})" if self.dirty else self.commit[:10]

    @property
    def files_version(self) -> str:
        """The hash of its files."""
        return f"files {digest({'': self})}"


SourceCode = Mapping[str, Source]
"""`nanobench`, and the module of each plug-in -> its source."""


# Hashes
def digest(code: SourceCode) -> str:
    """Eight hexadecimal digits that identify the files of all sources, whatever their commits."""
    return hashlib.sha256(json.dumps(files_of(code), sort_keys=True).encode()).hexdigest()[:8]


def files_of(code: SourceCode) -> dict[str, str]:
    """The files of all sources with their hashes."""
    return {name: each for source in code.values() for name, each in source.files.items()}


def changed(was: SourceCode, now: SourceCode) -> list[str]:
    """The files that were added, removed or changed, plug-ins first."""
    before, after = files_of(was), files_of(now)
    names = {name for name in before | after if before.get(name) != after.get(name)}
    return sorted(names, key=lambda name: (name.startswith("nanobench/"), name))


def read(files: Mapping[str, Path], commits: bool) -> Source:
    """The hash of each file. With `commits` also the state of the git repository, which takes a few processes."""
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, path in sorted(files.items())}
    return Source(hashes, *(commit_of(list(files.values())) if files and commits else ()))


# nanobench
def of_nanobench(commits: bool) -> Source:
    """The files of nanobench that decide what is measured, and how."""
    paths = sorted(path for path in PACKAGE.rglob("*") if decides(path))
    return read({f"nanobench/{path.relative_to(PACKAGE).as_posix()}": path for path in paths}, commits)


def decides(path: Path) -> bool:
    """Whether a file of the package can change what is measured. Hidden files are those of editors."""
    room, *_ = path.relative_to(PACKAGE).parts
    return path.suffix in SUFFIXES and not path.name.startswith(".") and room not in READERS


# Plug-ins
def of_module(module: str, commits: bool) -> Source:
    """The file of a plug-in's module and those of the modules that it imports. Empty if the module is not found."""
    return read({name: Path(str(spec.origin)) for name, spec in reached(module)}, commits)


def reached(module: str) -> Iterator[tuple[str, ModuleSpec]]:
    """The name of the file and the spec of a module, of its packages, and of all modules that these import."""
    here = os.getcwd()
    search = [*([] if here in sys.path else [here]), *(folder or here for folder in sys.path)]
    own = module.partition(".")[0]
    folders = {own: home(own, search), "nanobench": []}
    others = [folder for folder in search if not is_installed(folder)]
    waiting, seen = [module], set[str]()
    while waiting:
        name = waiting.pop()
        for spec in specs(name, folders.get(name.partition(".")[0], others)):
            if spec.name not in seen:
                seen.add(spec.name)
                if spec.has_location and spec.origin:
                    yield file_name(spec), spec
                    waiting += imported_by(spec)


def home(name: str, search: list[str]) -> list[str]:
    """The folders that hold a top-level module, wherever it is installed."""
    try:
        spec = spec_in(search, name) or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    places = list(spec.submodule_search_locations or ()) or ([spec.origin] if spec.has_location and spec.origin else [])
    return [str(Path(place).parent) for place in places]


def is_installed(folder: str) -> bool:
    """Whether a folder of the search path holds the standard library or installed packages."""
    path = Path(folder)
    return bool({"site-packages", "dist-packages"} & {*path.parts}) or path.is_relative_to(STANDARD_LIBRARY)


def specs(module: str, folders: list[str]) -> Iterator[ModuleSpec]:
    """The packages of a module and the module itself, below some folders; it ends where a name is no module."""
    where = folders
    for name in accumulate(module.split("."), "{}.{}".format):
        spec = spec_in(where, name)
        if spec is None:
            return
        yield spec
        where = list(spec.submodule_search_locations or ())


def spec_in(folders: list[str], name: str) -> ModuleSpec | None:
    """A module in one of some folders; a folder without `__init__.py` counts only if there is nothing else of this name.

    PathFinder.find_spec would need the module's packages to be imported.
    """
    found = [spec for folder in folders if (spec := finder(folder).find_spec(name))]
    return next((spec for spec in found if spec.loader), next(iter(found), None))


@cache
def finder(folder: str) -> machinery.FileFinder:
    """Finds modules in a folder. It reads the folder again when that has changed."""
    return machinery.FileFinder(folder, *LOADERS)


def file_name(spec: ModuleSpec) -> str:
    """The path of a module's file below the folder that it is imported from."""
    package = spec.name if spec.submodule_search_locations is not None else spec.parent
    return "/".join([*filter(None, (package or "").split(".")), Path(str(spec.origin)).name])


def imported_by(spec: ModuleSpec) -> tuple[str, ...]:
    """The names that a module imports, as far as its source text says so."""
    path = Path(str(spec.origin))
    return imports(path.read_bytes(), spec.parent or "") if path.suffix == ".py" else ()


@lru_cache(maxsize=1024)
def imports(text: bytes, package: str) -> tuple[str, ...]:
    """The names that the source text of a module in `package` imports. What is no Python text imports nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ()
    return tuple(name for node in ast.walk(tree) for name in imports_of(node, package))


def imports_of(node: ast.AST, package: str) -> Iterator[str]:
    """The names that a statement imports. `from a import b` may name a module b of the package a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        with suppress(ImportError):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"):
        yield from (each.value for each in node.args[:1] if isinstance(each, ast.Constant) and isinstance(each.value, str))


# Files that a model is read from
def of_location(path: Path) -> Source:
    """The files of a checkpoint: the path itself, or what lies in the folder."""
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    return Source({str(each): hash_of(each, stat.st_size, stat.st_mtime_ns) for each in files for stat in [each.stat()]})


@lru_cache(maxsize=256)
def hash_of(path: Path, size: int, changed_ns: int) -> str:
    """The first 12 digits of a file's SHA-256, read again only where its size or its time of change is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


# git
def commit_of(files: list[Path]) -> tuple[str | None, bool | None]:
    """The commit of the repository that tracks the first file, and whether any file differs from it; None if untracked."""
    folder, names = files[0].parent, [str(path.absolute()) for path in files]
    if git(folder, "ls-files", "--error-unmatch", "--", names[0]) is None:
        return None, None
    state = git(folder, "status", "--porcelain", "--", *names)
    return git(folder, "rev-parse", "HEAD"), None if state is None else bool(state)


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints in a folder; None if it fails or is not installed."""
    command: list[Any] = ["git", "-C", folder, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
