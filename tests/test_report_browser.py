"""The page of a run in a real browser: nothing is requested, nothing fails, and tables work by mouse and keyboard."""

import io
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from browser import Browser, executable
from nanobench import load
from nanobench.results import store
from nanobench.views import plots
from nanobench.views.html import run_page, runs_page
from test_report_html import MARKUP, hostile_run, study_of
from test_views import command, make_run

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium is installed")
REFERENCE = Path(__file__).parents[1] / "results" / "reference-cpu"
TABLE = "document.getElementById('cells-table')"
SHOWN = f"[...{TABLE}.tBodies[0].rows].filter((row) => !row.hidden && !row.classList.contains('detail'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The page of the default sweep."""
    folder = tmp_path_factory.mktemp("pages") / "run"
    shutil.copytree(REFERENCE, folder, ignore=shutil.ignore_patterns("plots"))
    command("report", folder)
    return folder / "report.html"


@pytest.fixture
def page(browser, reference):
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(reference)
    return browser


def column(page, name):
    """The texts of a column of the table of cells, as shown."""
    index = page.run(f"[...{TABLE}.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === '{name}')")
    return page.run(f"{SHOWN}.map((row) => row.cells[{index}].textContent.trim())")


def head(page, name):
    """Marks the button of a column's head, so that a selector finds it."""
    page.run(
        f"[...{TABLE}.tHead.querySelectorAll('button')].forEach((each) => "
        f"each.toggleAttribute('data-test', each.textContent.trim() === '{name}'))"
    )
    return "[data-test]"


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (390, True),
        (1280, False),
        *(pytest.param(*look, marks=pytest.mark.slow) for look in ((390, False), (1280, True), (1600, False), (1600, True))),
    ],
)
def test_nothing_is_requested_and_nothing_fails(browser, reference, width, dark):
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(reference, width, dark=dark)
    browser.run("new Promise((done) => setTimeout(done, 300))")
    assert [url for url in browser.requests if not url.startswith("data:")] == [reference.resolve().as_uri()]
    assert browser.complaints == []
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_a_head_sorts_by_mouse_and_keyboard_and_says_so(page):
    batches = [int(text) for text in column(page, "batch")]
    assert batches == sorted(batches)
    page.click(head(page, "output tok/s"))
    rates = [float(text.replace(",", "")) for text in column(page, "output tok/s")]
    assert rates == sorted(rates)
    sort = f"[...{TABLE}.tHead.querySelectorAll('[aria-sort]:not([aria-sort=none])')].map((each) => each.ariaSort)"
    assert page.run(sort) == ["ascending"]
    page.run(f"document.querySelector('{head(page, 'output tok/s')}').focus()")
    page.press("Enter", "\r")
    assert [float(text.replace(",", "")) for text in column(page, "output tok/s")] == sorted(rates, reverse=True)
    assert page.run(sort) == ["descending"]


def test_what_is_not_known_stays_last(page):
    for _ in range(2):
        page.click(head(page, "speedup [95 %]"))
        texts = column(page, "speedup [95 %]")
        assert "(reference)" not in texts[:7]
        assert texts[7:] == ["(reference)"] * 7


def test_rows_are_filtered_by_words_and_by_lists(page):
    page.run("document.querySelector('.controls input[type=search]').focus()")
    (fastest,) = load(REFERENCE, columns=["output_tok_s"], filters=[("arm", "==", "cached"), ("batch_size", "==", 93)]).values
    page.type(f"cached {fastest[0]:,.0f}")
    assert column(page, "batch") == ["93"]
    assert page.run("document.querySelector('.controls output').textContent") == "1 of 14 rows"
    page.run("const box = document.querySelector('.controls input'); box.value = ''; box.dispatchEvent(new Event('input'))")
    assert len(column(page, "batch")) == 14
    page.run(
        "const labels = [...document.querySelectorAll('.controls label')];"
        "const arm = labels.find((each) => each.textContent.startsWith('arm')).querySelector('select');"
        "arm.value = '1'; arm.dispatchEvent(new Event('change'))"
    )
    assert set(column(page, "arm")) == {"cached"}


def test_columns_come_and_go(page):
    page.click(".controls details summary")
    page.run(
        "[...document.querySelectorAll('.choices label')].forEach((each) => "
        "each.toggleAttribute('data-pick', ['speedup_p_holm', 'TTFT'].includes(each.textContent)))"
    )
    for label in page.run("[...document.querySelectorAll('[data-pick]')].map((each) => each.textContent)"):
        assert label in ("speedup_p_holm", "TTFT")
    page.run("document.querySelectorAll('[data-pick] input').forEach((box) => box.click())")
    heads = page.run(f"[...{TABLE}.tHead.rows[0].cells].filter((cell) => !cell.hidden).map((cell) => cell.textContent.trim())")
    assert "TTFT" not in heads
    assert heads[-1] == "speedup_p_holm"
    cells = load(REFERENCE)
    assert sum(text != "–" for text in column(page, "speedup_p_holm")) == cells["speedup_p_holm"].notna().sum()


def test_a_row_opens_by_keyboard_with_its_repetitions(page):
    page.run(f"{SHOWN}[1].querySelector('button').focus()")
    page.press(" ", " ")
    button = f"{SHOWN}[1].querySelector('button').getAttribute('aria-expanded')"
    assert page.run(button) == "true"
    tables = page.run(f"[...{TABLE}.querySelectorAll('.detail table')].map((table) => table.rows.length - 1)")
    launches = [each for each in store.Run(REFERENCE).read_raw() if each.arm_index == 1 and each.point.batch_size == 1]
    assert tables[:2] == [len(launches), sum(len(each.of_kind("steady")) for each in launches)]
    page.press(" ", " ")
    assert page.run(button) == "false"
    assert page.run(f"{TABLE}.querySelectorAll('.detail').length") == 0


def test_the_switch_changes_the_theme(page):
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.run(background)
    page.click("#theme")
    page.click("#theme")
    assert page.run("document.getElementById('theme').textContent") == "Theme: dark"
    assert page.run(background) != light
    page.click("#theme")
    assert page.run(background) == light


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_figures_are_seen_in_light_and_dark(browser, reference, width, dark):
    browser.open(reference, width, dark=dark)
    count = browser.run("document.querySelectorAll('.drawing svg').length")
    assert count > 4
    for number in range(count):
        place = browser.run(
            f"(() => {{ const drawing = document.querySelectorAll('.drawing')[{number}];"
            "drawing.scrollIntoView({block: 'start', behavior: 'instant'});"
            "return drawing.getBoundingClientRect().toJSON() })()"
        )
        seen = matplotlib.image.imread(io.BytesIO(browser.picture()))[..., :3]
        top, left = max(0, int(place["y"])), int(place["x"])
        part = seen[top : top + min(300, int(place["height"])), left : left + int(min(place["width"], width - left))]
        levels = part.mean(axis=2)
        paper = float(np.median(levels))
        assert paper < 0.2 if dark else paper > 0.95
        assert (np.abs(levels - paper) > 0.5).mean() > 0.002


BOXES = "[...document.querySelectorAll('.wide, .drawing')]"
CUT = f"{BOXES}.filter((box) => box.scrollWidth > box.clientWidth + 1)"


def test_what_is_cut_says_at_which_side_there_is_more(browser, reference):
    browser.open(reference, 390)
    pause = "new Promise((done) => setTimeout(done, 200))"
    browser.run(pause)
    assert browser.run(f"{CUT}.length") > 8
    assert set(browser.run(f"{CUT}.map((box) => box.dataset.more)")) == {"right"}
    assert browser.run(f"{BOXES}.filter((box) => 'more' in box.dataset).length") == browser.run(f"{CUT}.length")
    browser.run(f"{CUT}.forEach((box) => box.scrollTo({{left: 1e6, behavior: 'instant'}}))")
    browser.run(pause)
    assert set(browser.run(f"{CUT}.map((box) => box.dataset.more)")) == {"left"}
    mask = f"{CUT}.map((box) => getComputedStyle(box).maskImage)"
    assert all("gradient" in each for each in browser.run(mask))
    hint = browser.run(f"{CUT}.map((box) => getComputedStyle(box, '::before').content)")
    assert all("there is more" in each for each in hint)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert set(browser.run(mask.replace(CUT, BOXES))) == {"none"}
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.open(reference, 1280)
    browser.run(pause)
    assert browser.run("[...document.querySelectorAll('.drawing')].filter((box) => 'more' in box.dataset).length") == 0


def test_the_focus_goes_through_the_page_and_is_seen(page):
    seen = []
    for _ in range(12):
        page.press("Tab")
        seen.append(page.run("document.activeElement.textContent.trim().slice(0, 30)"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen[:2] == ["Skip to the content", "Theme: auto"]
    assert len(set(seen)) > 8


def test_a_print_has_the_folded_parts_and_no_controls(page):
    assert page.printed().startswith(b"%PDF")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('section details:not([open])').length") == page.run(
        "document.querySelectorAll('.controls details').length"
    )


def test_markup_of_users_does_nothing(browser, tmp_path):
    hostile = hostile_run(tmp_path / "hostile")
    browser.requests.clear()
    browser.complaints.clear()
    paths = plots.draw_all(load(hostile.folder), hostile.read_raw(), hostile.plots)
    other = make_run(tmp_path / "other", batches=(1,), prompts=(8,))
    pages = {
        "run.html": run_page.page(study_of(hostile), paths),
        "runs.html": runs_page.page([study_of(hostile), study_of(other)], [paths, []], tmp_path),
    }
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
        browser.open(tmp_path / name)
        browser.run("window.alert = () => { window.called = true }")
        browser.run("document.querySelectorAll('.open button').forEach((each) => each.click())")
        browser.run("document.querySelectorAll('.choices input').forEach((each) => each.click())")
        browser.run("new Promise((done) => setTimeout(done, 200))")
        assert browser.run("document.images.length") == 0
        assert browser.run("window.called === undefined")
        assert MARKUP in browser.run("document.body.textContent")
    assert browser.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in browser.requests)
