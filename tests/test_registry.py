"""Names of families: listed without an import, answered with the one that was meant, open to plug-ins and files of others."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanobench import registry
from nanobench.errors import UserError

FAMILIES = tuple(registry.PACKAGES)


def refusal(call, *arguments):
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


class Entry(SimpleNamespace):
    """An entry point of a distribution that is in no folder."""

    value, dist = "lab_turbo.engine:build", None

    @property
    def module(self):
        return self.value.partition(":")[0]

    def load(self):
        if self.build is None:
            raise AssertionError("listing must not load a plug-in")
        return self.build


@pytest.fixture(autouse=True)
def plugged(monkeypatch):
    """Hides the plug-ins of this machine; plugged(family, name=build, ...) installs others."""
    groups = {}
    monkeypatch.setattr(registry, "entry_points", lambda group: groups.get(group, []))

    def plug(family, **builds):
        groups[f"nanobench.{family}"] = [Entry(name=name, build=build) for name, build in builds.items()]

    return plug


def test_a_folder_with_the_name_of_a_model_type_counts_only_if_it_holds_a_model(tmp_path, monkeypatch):
    """As the folder of the run itself might."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert registry.location_of("models", "hf:gpt2?random") is None
    (tmp_path / "gpt2" / "config.json").write_text("{}")
    assert registry.location_of("models", "hf:gpt2?random") == Path("gpt2")


# Listing


def test_listing_imports_neither_torch_nor_a_member():
    code = """
import sys
from nanobench import registry
for family, package in registry.PACKAGES.items():
    assert registry.names(family)
    listed = [member.name for member in registry.members(family)]
    assert [name for name in listed if ":" not in name] == registry.names(family)
    assert not [name for name in sys.modules if name.startswith(f"nanobench.{package}")]
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "models"])
def test_every_file_of_a_family_is_a_name_with_dashes_for_underscores(family):
    files = {path.name for path in registry.folder_of(family).glob("[!_]*.py")} - {"base.py"}
    assert {name.replace("-", "_") + ".py" for name in registry.names(family)} == files
    assert registry.names(family) == sorted(registry.names(family))


def test_the_members_that_the_defaults_name_are_there():
    assert {"uncached", "uncached-full-logits", "cached", "cached-cat"} <= set(registry.names("engines"))
    assert "greedy" in registry.names("samplers")
    assert "local" in registry.names("executors")


def test_models_are_listed_in_the_order_of_their_presets():
    assert registry.names("models") == list(registry.presets())
    assert registry.names("models").index("gpt2-mini") < registry.names("models").index("gpt2")


def test_every_preset_names_a_file_that_builds_it():
    for name, sizes in registry.presets().items():
        file = sizes["architecture"].replace("-", "_")
        assert (registry.PACKAGE / "models" / f"{file}.py").exists(), name


def test_a_model_in_memory_is_a_source_that_nobody_types():
    assert "object" in registry.sources()
    assert not [member.name for member in registry.members("models") if member.name.startswith("object")]
    assert registry.module_of("models", "object:lab_pkg.gpt.GPT-0123456789ab") == "lab_pkg.gpt"
    for name in ("GPT-0123456789ab", "model.pt?sha256=0123456789ab", "lab_pkg.gpt.GPT"):
        assert registry.module_of("models", f"object:{name}") is None


# Typos


@pytest.mark.parametrize(
    ("family", "typo", "answer"),
    [
        ("engines", "cahced", "unknown engine 'cahced'; did you mean 'cached'?"),
        ("engines", "cached_cat", "unknown engine 'cached_cat'; did you mean 'cached-cat'?"),
        ("engines", "base", "unknown engine 'base' (available: "),
        ("samplers", "gredy", "unknown sampler 'gredy'; did you mean 'greedy'?"),
        ("models", "gtp2", "unknown model 'gtp2'; did you mean 'gpt2'?"),
        ("executors", "locl", "unknown executor 'locl'; did you mean 'local'?"),
    ],
)
def test_a_typo_is_answered_with_the_name_that_was_meant_and_all_there_are(family, typo, answer):
    for call in (registry.check, registry.find):
        message = refusal(call, family, typo)
        assert message.startswith(answer)
        assert f"(available: {', '.join(registry.names(family))})" in message


def test_a_name_like_no_other_gets_no_guess():
    assert "did you mean" not in refusal(registry.check, "engines", "zzzzzz")


def test_only_an_unknown_model_is_told_how_to_name_its_own():
    assert refusal(registry.check, "models", "my_gpt").endswith("your own model: --model my_pkg.my_mod:build")
    assert "--model" not in refusal(registry.check, "engines", "my_engine")


def test_every_known_name_and_any_dotted_path_passes_the_check():
    for family in FAMILIES:
        assert [registry.check(family, name) for name in registry.names(family)] == [None] * len(registry.names(family))
        assert registry.check(family, "not_there:build") is None


# Members of our own


@pytest.fixture
def imported(monkeypatch):
    """Stands in for importlib: notes what is imported; its build() gives back its arguments."""
    seen = []

    def import_module(name):
        seen.append(name)
        return SimpleNamespace(build=lambda **arguments: arguments)

    monkeypatch.setattr(registry, "importlib", SimpleNamespace(import_module=import_module))
    return seen


def test_a_member_is_the_build_of_its_file(imported):
    assert registry.find("engines", "cached-cat")(size=1) == {"size": 1}
    assert imported == ["nanobench.engines.cached_cat"]


def test_a_built_in_model_is_built_with_its_presets_sizes_every_time(imported):
    for _ in range(2):
        sizes = registry.find("models", "gpt2-nano")()
        assert sizes == {"n_layer": 2, "n_head": 2, "n_embd": 64, "vocab_size": 256, "block_size": 256}
    assert imported == ["nanobench.models.gpt2"] * 2
    assert registry.presets()["gpt2-nano"]["architecture"] == "gpt2"


def test_a_member_that_needs_no_torch_is_really_found():
    from nanobench.sweep.executors import local

    assert registry.find("executors", "local") is local.build


# Dotted paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("lab_"):
            del sys.modules[name]


def test_a_dotted_path_is_found_in_the_current_folder(folder):
    (folder / "lab_gpt.py").write_text("def build():\n    return 'mine'\n")
    assert registry.find("models", "lab_gpt:build")() == "mine"
    assert registry.find("engines", "lab_gpt:build")() == "mine"
    assert sys.path.count(str(folder)) == 1


def test_a_dotted_path_reaches_into_packages(folder):
    (folder / "lab_pkg").mkdir()
    (folder / "lab_pkg" / "gpt.py").write_text("def build_small():\n    return 'small'\n")
    assert registry.find("models", "lab_pkg.gpt:build_small")() == "small"


def test_a_missing_module_is_answered_with_the_folder_that_was_searched(folder):
    message = refusal(registry.find, "models", "lab_none.gpt:build")
    for fragment in ("'lab_none.gpt:build' cannot be imported", "No module named 'lab_none'", "module:function", str(folder)):
        assert fragment in message


def test_a_module_whose_own_import_fails_is_answered_with_what_is_missing(folder):
    (folder / "lab_needy.py").write_text("import lab_nothing\n")
    assert "No module named 'lab_nothing'" in refusal(registry.find, "models", "lab_needy:build")


def test_a_missing_function_is_answered_with_those_that_the_module_has(folder):
    (folder / "lab_two.py").write_text("def build_small(): ...\ndef build_large(): ...\nfrom os import getcwd\n")
    message = refusal(registry.find, "models", "lab_two:build")
    assert "lab_two has no function 'build' (available: build_small, build_large)" in message


def test_what_is_no_function_builds_nothing(folder):
    (folder / "lab_number.py").write_text("build = 3\n")
    assert "lab_number has no function 'build' (available: none)" in refusal(registry.find, "models", "lab_number:build")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("lab_attribute:build", "import math\nmath.nothing\n"),
        ("lab_syntax:build", "def build(:\n"),
        (":build", ""),
        (".lab_relative:build", ""),
    ],
    ids=["attribute error", "syntax error", "no module", "relative module"],
)
def test_a_module_that_cannot_be_imported_for_another_reason_is_one_line_too(folder, name, code):
    (folder / f"{name.partition(':')[0] or 'lab_empty'}.py").write_text(code)
    assert repr(name) in refusal(registry.find, "models", name)


def test_a_module_that_runs_out_of_memory_is_no_mistake_of_the_user(folder):
    (folder / "lab_large.py").write_text("raise MemoryError\n")
    with pytest.raises(MemoryError):
        registry.find("models", "lab_large:build")


# Modules of plug-ins


def test_the_module_of_a_plug_in_is_known_without_an_import_and_our_own_members_have_none(plugged):
    plugged("engines", turbo=None, cached=None)
    assert registry.module_of("engines", "turbo") == "lab_turbo.engine"
    assert registry.module_of("engines", "lab_pkg.engines:build") == "lab_pkg.engines"
    for family, name in (("engines", "cached"), ("engines", "nothing"), ("models", "gpt2-nano"), ("optimizers", "")):
        assert registry.module_of(family, name) is None


# Plug-ins


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plug_in_is_listed_behind_our_own_without_being_loaded(plugged, family):
    own = registry.names(family)
    plugged(family, turbo=None)
    assert registry.names(family) == [*own, "turbo"]
    registry.check(family, "turbo")
    assert "did you mean 'turbo'?" in refusal(registry.check, family, "trubo")


def test_every_member_of_our_own_says_what_it_is_and_that_it_is_built_in():
    for family in FAMILIES:
        for member in registry.members(family):
            assert len(member.what.split()) > 4, member
            assert "\n" not in member.what
            assert member.origin == registry.BUILT_IN
    (mini,) = (member for member in registry.members("models") if member.name == "gpt2-mini")
    assert mini.what == "gpt2: 4 layers, 4 heads, width 256, vocabulary 4096, 1024 positions"


@pytest.mark.parametrize("place", ["lab_turbo/engine.py", "lab_turbo/engine/__init__.py"])
def test_a_plug_in_is_described_by_its_docstring_and_its_distribution_without_being_loaded(monkeypatch, tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text('"""Turbo: two tokens at once.\n\nMore."""\nraise RuntimeError("imported")\n')
    dist = SimpleNamespace(name="lab-turbo", version="0.3", locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry(name="turbo", build=None, dist=dist)])
    assert registry.members("engines")[-1] == registry.Member("turbo", "Turbo: two tokens at once.", "lab-turbo 0.3")
    path.unlink()
    assert registry.members("engines")[-1] == registry.Member("turbo", "lab_turbo.engine:build", "lab-turbo 0.3")


def test_a_plug_in_with_the_name_of_our_own_member_is_not_listed(plugged):
    plugged("engines", cached=None)
    assert registry.members("engines") == [m for m in registry.members("engines") if m.origin == registry.BUILT_IN]


def test_a_plug_in_belongs_to_its_own_family_alone(plugged):
    plugged("engines", turbo=None)
    assert "turbo" not in refusal(registry.check, "samplers", "turb0")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plug_in_is_found_by_its_name_among_others(plugged, family):
    def build():
        return "turbo"

    plugged(family, other=None, turbo=build)
    assert registry.find(family, "turbo") is build


def test_our_own_members_are_found_beside_plug_ins(plugged):
    from nanobench.sweep.executors import local

    plugged("executors", turbo=None)
    assert registry.find("executors", "local") is local.build
