"""Faulty methods beside our sweep: each does what its name says, and its row says what it would have published."""

import json

import pytest

from nanobench.analysis import audit
from nanobench.analysis.audit import CACHED, COPY, ENGINES, FULL, LAGGING, SPECIMENS, UNCACHED, Found, Ours
from nanobench.errors import UserError
from nanobench.schema import Point
from nanobench.views import audit as views
from nanobench.views.figures import audit as figures
from nanobench.worker import audit as worker

POINT = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=2, prompt_len=12, new_tokens=4)


def cell(speedup=None, **facts):
    bounds = {} if speedup is None else {"speedup_lo": speedup - 0.1, "speedup_hi": speedup + 0.1}
    known = {"status": "ok", "reason": None, "speedup_status": "ok", "speedup_reason": None, "speedup": speedup}
    known |= {
        "prompt_len": 50,
        "new_tokens": 10,
        **dict(zip(METRICS, (1.0, 0.9, 1.1) * 2, strict=True)),
    }
    return {**known, **bounds, **facts}


METRICS = ("e2e_s", "e2e_lo_s", "e2e_hi_s", "output_tok_s", "output_tok_s_lo", "output_tok_s_hi")
CELLS = {
    UNCACHED: cell(),
    FULL: cell(0.8),
    CACHED: cell(4.0),
    COPY: cell(1.0),
    LAGGING: cell(status="wrong", reason="off by 0.3"),
}


def row(name, seed=0, cells=CELLS, **answer):
    return audit.row(SPECIMENS[name], cells, answer, seed)


def test_every_method_is_listed_and_exists():
    assert audit.measured(SPECIMENS) == list(worker.METHODS)
    assert set(CELLS) == set(ENGINES)


def test_a_published_figure_beside_ours():
    found = row("one-run", published=5.0)
    assert (found.found, found.ours, found.factor) == (Found.WRONG, Ours(4.0, 3.9, 4.1), 1.25)
    assert row("one-run", published=4.05).found is Found.SMALL
    assert row("last-token-ttft", published=1.3, ours=[1.0]).factor == pytest.approx(1.3)


def test_what_follows_from_our_own_sweep():
    assert row("full-logits").published == pytest.approx(5.0)
    assert row("prompt-tokens").factor == pytest.approx(6.0)
    published = {row("random-reference", seed).published for seed in range(20)}
    assert published == {4.0, 5.0, 1.0}


def test_an_arm_that_computes_something_else_has_no_number():
    found = row("other-work", published=3.9)
    assert (found.found, found.ours.value, found.factor) == (Found.NO_NUMBER, None, None)
    assert found.note == "wrong: off by 0.3"


def test_a_figure_of_ours_that_is_not_reliable_judges_nobody():
    cells = {**CELLS, CACHED: cell(4.0, speedup_status="unstable", speedup_reason="a busy machine")}
    found = row("one-run", cells=cells, published=9.0)
    assert (found.found, found.ours.excluded, found.note) == (Found.UNKNOWN, True, "a busy machine")
    unstable = {**CELLS, CACHED: cell(4.0, status="unstable", reason="a busy machine")}
    assert row("prompt-tokens", cells=unstable).found is Found.UNKNOWN
    assert row("one-run", cells=unstable, published=9.0).found is Found.WRONG
    lost = {**CELLS, CACHED: cell(None, status="oom", reason="no memory", output_tok_s=None)}
    assert row("prompt-tokens", cells=lost).found is Found.UNKNOWN


def test_a_method_that_returns_our_figure_too():
    found = row("no-optimizer", published=100, ours=[200])
    assert (found.found, found.factor, found.ours) == (Found.WRONG, 0.5, Ours(200, 200, 200))
    found = row("autocast-per-run", published=2.0, ours=[0.9, 1.0, 1.1])
    assert found.ours.low < 1 < found.ours.high


def test_a_skipped_method_says_why():
    assert row("no-wait", skipped="needs a GPU") == audit.Row(SPECIMENS["no-wait"], Found.SKIPPED, note="needs a GPU")


@pytest.mark.parametrize("name", worker.METHODS)
def test_each_method_runs_on_a_cpu_or_says_why_not(name):
    found = worker.publish(name, vars(POINT))
    if name in ("wait-per-token", "no-wait"):
        assert "needs --device cuda" in found["skipped"]
    else:
        assert found["published"] > 0


def test_a_step_without_the_optimizer_counts_half_of_the_bytes():
    found = worker.publish("no-optimizer", vars(POINT))
    assert found["ours"][0] == pytest.approx(2 * found["published"], rel=1e-3)


def test_the_lagging_engine_is_wrong(nanobench_here, tmp_path):
    asked = ("--model", "gpt2-nano", "--prompt-len", 8, "--new-tokens", 6, "--batch", 2, "--threads", 1)
    done = nanobench_here("verify", *asked, "--engine", f"uncached,{LAGGING}", "--json", cwd=tmp_path, code=1)
    cells = json.loads(done.stdout.strip().splitlines()[-1])["cells"]
    assert [found["gate"] for found in cells if found["engine"] == LAGGING] == ["wrong"]


def test_the_figure_shows_each_factor_and_a_table_each_method():
    rows = [row("one-run", published=5.0), row("full-logits"), row("no-wait", skipped="needs a GPU")]
    drawing = figures.published_over_ours(rows, "here")
    diamonds = [line.get_xdata()[0] for line in drawing.axes[0].lines if line.get_marker() == "D"]
    assert diamonds == [1.25, 1.25]
    assert [found["name"] for found in views.table(rows).rows] == ["one-run", "full-logits", "no-wait"]
    assert list(views.sentences(rows))[-1] == "2 beyond our interval, 1 skipped"
    assert "not in the figure: no-wait (skipped)" in drawing.get_supxlabel()
    with pytest.raises(UserError, match="needs a method with a reliable figure"):
        figures.published_over_ours(rows[2:], "here")


def test_the_axis_of_the_figure_holds_all_values_and_only_what_is_excluded_is_hollow():
    busy = {**CELLS, CACHED: cell(4.0, speedup_status="unstable", speedup_reason="a busy machine")}
    rows = [
        row("one-run", published=4.05),
        row("prompt-tokens"),
        row("no-optimizer", published=100, ours=[200]),
        row("full-logits", cells=busy),
    ]
    drawing = figures.published_over_ours(rows, "here")
    (axes,) = drawing.axes
    factors = {line.get_marker(): line.get_xdata()[0] for line in axes.lines if line.get_marker() in "Dsv"}
    assert factors == {"s": pytest.approx(4.05 / 4), "D": 0.5, "v": 1.25}
    low, high = axes.get_xlim()
    ticks = list(axes.get_xticks())
    values = [x for line in axes.lines if line.get_marker() for x in line.get_xdata()]
    assert low < min(ticks) <= min(values) < max(values) <= max(ticks) < high
    intervals = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"]
    assert intervals == [[3.9 / 4, 4.1 / 4], [0.9, 1.1], [3.9 / 4, 4.1 / 4]]
    hollow = [line.get_ydata()[0] for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [3]
    entries = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert entries[-1] == "hollow: unreliable, excluded from conclusions"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "nothing"), "unknown method 'nothing'"),
        (("--prompt-len", "8,16"), "give one value for prompt_len"),
        (("--model", "gpt2-nano,gpt2-mini"), "give one value for model"),
        (("--batch", "0"), "batch"),
        (("--launches", "0"), "--launches 0 is below 1"),
    ],
)
def test_a_mistake_is_one_line(nanobench_here, tmp_path, arguments, message):
    done = nanobench_here("audit", *arguments, cwd=tmp_path, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
