import re
from pathlib import Path

import pytest

from nanobench.records import RAW_COLUMNS
from nanobench.results.derive import METRICS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_column_is_documented_with_the_formula_that_the_code_gives():
    text = (ROOT / "docs" / "columns.md").read_text()
    for metric in METRICS:
        assert f"| `{metric.name}` | {metric.unit} | {metric.better} | {metric.formula} |" in text
    for column in RAW_COLUMNS:
        assert f"`{column}`" in text, column


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_unrelated_package_is_never_recommended(page):
    assert not re.search(r"pip install nanobench\b(?!-gpt)", page.read_text())
