"""The pages: their links lead somewhere, and the columns that they describe are those of the code."""

import re
import runpy
from pathlib import Path

import pytest

from nanobench.results.raw_rows import RAW_COLUMNS

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_unrelated_package_is_never_recommended(page):
    assert not re.search(r"pip install nanobench\b(?!-gpt)", page.read_text())
