"""The pages: their links lead somewhere, and the columns that they describe are those of the code."""

import re
import runpy
from pathlib import Path

import pytest

from nanobench import registry, schema
from nanobench.cli.app import GROUPS
from nanobench.results.raw_rows import RAW_COLUMNS
from nanobench.views import plots

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_of_columns_is_what_its_script_prints():
    text = (ROOT / "docs" / "columns.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "make_columns_page.py"))["page"]() == text.rstrip("\n")
    for column in RAW_COLUMNS:
        assert f"`{column}`" in text, column


NAMES = {
    "arms.md": [
        *registry.names("engines"),
        *registry.names("samplers"),
        *schema.COMPILE_MODES,
        *schema.ATTENTIONS,
        *schema.WEIGHTS,
        *schema.KV_CACHES,
    ],
    "models.md": registry.presets(),
    "training.md": [*registry.names("optimizers"), *schema.CHECKPOINTING],
    "clusters.md": registry.names("executors"),
    "commands.md": [name for names in GROUPS.values() for name in names],
}


@pytest.mark.parametrize("page", NAMES)
def test_a_page_says_what_each_name_means(page):
    text = (ROOT / "docs" / page).read_text()
    assert [name for name in NAMES[page] if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_unrelated_package_is_never_recommended(page):
    assert not re.search(r"pip install nanobench\b(?!-gpt)", page.read_text())


def test_the_gallery_is_what_its_script_writes_and_its_pictures_are_small():
    pictures = sorted((ROOT / "docs" / "gallery").glob("*.png"))
    script = runpy.run_path(str(ROOT / "docs" / "make_gallery_page.py"))
    text = (ROOT / "docs" / "gallery.md").read_text()
    assert script["page"]([path.stem for path in pictures]) == text
    assert all(path.stat().st_size < 60_000 for path in pictures)
    for name in plots.PLOTS:
        known = (f"(gallery/{name}.png)" in text) != (f"| `{name}` |" in text)
        assert known, f"write how to read {name} into READ of docs/make_gallery_page.py, and run that script"


def test_the_figure_of_the_audit_has_the_numbers_of_its_table():
    script = runpy.run_path(str(ROOT / "docs" / "make_gallery_page.py"))
    rows = {row.specimen.name: row for row in script["audited"]()}
    line = r"^\| `([\w-]+)` \| [^|]+ \| [^|]+ \| [^|]+ \| ([\d.]+)x \|"
    table = re.findall(line, (ROOT / "docs" / "audit.md").read_text(), re.MULTILINE)
    assert len(table) > 8
    for name, factor in table:
        assert rows[name].factor == pytest.approx(float(factor), rel=0.03)
    assert script["audited_where"]().startswith("gpt2-mini  |  float32  |  batch 8  |  ")
