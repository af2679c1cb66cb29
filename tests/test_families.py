"""The folders of the families: each file is a member with build(), a shared part that starts with an underscore, or base.py."""

import importlib

import pytest

from nanobench import registry

FOLDERS = {family: registry.PACKAGE.joinpath(*package.split(".")) for family, package in registry.PACKAGES.items()}
FILES = [(family, path) for family, folder in FOLDERS.items() for path in sorted(folder.glob("*.py"))]


def build_of(family, path):
    """The build() of a file; None if it has none."""
    package = f"nanobench.{registry.PACKAGES[family]}"
    module = importlib.import_module(package if path.stem == "__init__" else f"{package}.{path.stem}")
    return getattr(module, "build", None)


@pytest.mark.parametrize(("family", "path"), FILES, ids=lambda value: getattr(value, "stem", value))
def test_every_file_is_a_member_or_a_shared_part(family, path):
    is_member = not path.stem.startswith("_") and path.stem != "base"
    assert callable(build_of(family, path)) == is_member, f"{path.name}: give it build(), or a name that starts with _"


@pytest.mark.parametrize("family", FOLDERS)
def test_every_file_with_build_is_listed(family):
    built = {path.stem.replace("_", "-") for each, path in FILES if each == family and callable(build_of(family, path))}
    architectures = {preset["architecture"] for preset in registry.presets().values()}
    architectures |= {source["file"].replace("_", "-") for source in registry.sources().values()}
    assert built == (architectures if family == "models" else set(registry.built_in(family)))
