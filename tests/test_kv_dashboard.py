"""What kv-dashboard records is what attention computes, and what it draws is what it recorded."""

import json

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from torch import nn

from nanobench.errors import Skip
from nanobench.registry import find
from nanobench.schema import GPTShape, Point
from nanobench.sweep.kv_dashboard import KINDS, DashboardOptions, Recording
from nanobench.views import kv_dashboard as views
from nanobench.views.figures import kv_dashboard as figures
from nanobench.views.html import kv_dashboard_page
from nanobench.worker import kv_dashboard as worker

MODELS = ("gpt2-nano", "nanochat-nano", "llama-nano")
PROMPT, NEW = "abcdef", 5


def point(model="gpt2-nano", **changes):
    facts = {"dtype": "float32", "device": "cpu", "threads": 1, "batch_size": 1, "prompt_len": 1, "new_tokens": NEW}
    return Point(model=model, **{**facts, **changes})


def request(model="gpt2-nano", what="attention", **changes):
    facts = {
        "prompt": PROMPT,
        "tokenizer": "bytes",
        "layer": 1,
        "head": 1,
        "batch": [1, 3],
        "seed": 0,
        "memory_limit_bytes": None,
    }
    return {"point": vars(point(model)), "what": what, **facts, **changes}


def recorded(model="gpt2-nano", what="attention", **changes):
    found = worker.record(request(model, what, **changes))
    assert "user_error" not in found, found
    return found


class Uncached(nn.Module):
    """A foreign model without a cache: one layer of attention between an embedding and a head."""

    def __init__(self, attends=True):
        super().__init__()
        self.attends = attends
        self.embedding, self.out = nn.Embedding(256, 16), nn.Linear(16, 256)
        self.shape = GPTShape(
            architecture="plain", n_layer=1, n_head=2, n_kv_head=2, n_embd=16, vocab_size=256, block_size=64, n_params=8448
        )
        self.module = nn.ModuleList([self.embedding, self.out])

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        x_BTC = self.embedding(idx_BT)
        heads = x_BTC.unflatten(2, (2, 8)).transpose(1, 2)
        if self.attends:
            heads = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        logits = self.out(heads.transpose(1, 2).flatten(2))
        return logits[:, -1:] if last_only else logits

    def make_cache(self, batch_size, max_len, kind):
        raise Skip("no cache")


def uncached():
    return Uncached()


def deaf():
    return Uncached(attends=False)


class WithOwnCache(Uncached):
    """The same with a cache of its own, and weights that no seed changes."""

    def __init__(self):
        super().__init__()
        for parameter in self.module.parameters():
            parameter.data = torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape)

    def make_cache(self, batch_size, max_len, kind):
        if kind != "cat":
            raise Skip("it grows")
        return torch.empty(batch_size, 2, 0, 8)

    def forward_cached(self, idx_BT, pos_T, cache, last_only=True):
        new_BHTD = self.embedding(idx_BT).unflatten(2, (2, 8)).transpose(1, 2)
        cache = torch.cat((cache, new_BHTD), dim=2)
        is_prefill = new_BHTD.shape[2] > 1
        heads = torch.nn.functional.scaled_dot_product_attention(new_BHTD, cache, cache, is_causal=is_prefill)
        logits = self.out(heads.transpose(1, 2).flatten(2))
        return logits[:, -1:] if last_only else logits, cache


def with_own_cache():
    return WithOwnCache()


FOREIGN = ("test_kv_dashboard:uncached", "test_kv_dashboard:with_own_cache")


@pytest.mark.parametrize("model", [*MODELS, *FOREIGN])
def test_weights_sum_to_one_and_a_token_joins_in_each_step(model):
    found = recorded(model, layer=0)
    assert found["cached"] == (model != FOREIGN[0])
    assert len(found["steps"]) == NEW
    assert len(found["tokens"]) == len(PROMPT) + NEW
    for number, step in enumerate(found["steps"]):
        length = len(PROMPT) + number
        assert [len(step[name]) for name in ("keys", "values", "weights")] == [length] * 3
        assert sum(step["weights"]) == pytest.approx(1, abs=1e-12)
        assert step["token"] == found["tokens"][length - 1]
    for earlier, later in zip(found["steps"], found["steps"][1:], strict=False):
        for name in ("keys", "values"):
            np.testing.assert_allclose(later[name][:-1], earlier[name], atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_recorded_is_what_a_pass_without_a_cache_computes(model):
    """The weights and values give the head's output, which an uncached pass over the same tokens gives too."""
    found, adapter = recorded(model), find("models", model)
    torch.manual_seed(0)
    module = adapter()
    module.module.eval()
    step = found["steps"][-1]
    tokens = torch.tensor([found["tokens"][:-1]])
    with worker.Recorder() as recorder, torch.inference_mode():
        module.forward(tokens, last_only=True)
    call = recorder.calls[1]
    heads, kv_heads = call["query"].shape[1], call["key"].shape[1]
    query = call["query"][0, 1, -1].double()
    keys, values = (call[name][0, 1 // (heads // kv_heads)].double() for name in ("key", "value"))
    weights = torch.softmax(keys @ query * query.shape[0] ** -0.5, 0)
    np.testing.assert_allclose(step["weights"], weights, atol=1e-6)
    np.testing.assert_allclose(step["values"], values, atol=1e-5)
    np.testing.assert_allclose(step["query"], query, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_bytes_are_those_of_the_tensors_and_uncached_work_grows(model):
    found, shape = recorded(model, "memory"), find("models", model)().shape
    for number, step in enumerate(found["steps"]):
        expected = (len(PROMPT) + number) * shape.kv_bytes_per_token("float32")
        assert step["cached"]["kv_bytes"] == step["uncached"]["kv_bytes"] == expected
    cached, uncached = ([step[arm]["flops"] for step in found["steps"]] for arm in ("cached", "uncached"))
    # The cached prefill attends to the whole preallocated cache, masked.
    assert cached[0] == pytest.approx(uncached[0], rel=0.05)
    assert all(mine < theirs / 4 for mine, theirs in zip(cached[1:], uncached[1:], strict=True))
    assert uncached == sorted(uncached)


WINDOW = 3


@pytest.mark.parametrize("what", ["attention", "memory", "batch"])
def test_a_window_shows_its_tokens_at_their_places(what):
    found = recorded(f"gpt2-nano:window={WINDOW}", what)
    if what == "batch":
        assert found["attended"] == WINDOW
        return
    if what == "memory":
        per_token = found["steps"][0]["cached"]["kv_bytes"] // WINDOW
        assert [step["cached"]["kv_bytes"] for step in found["steps"]] == [WINDOW * per_token] * NEW
        assert [step["cached"]["new_kv_bytes"] for step in found["steps"]] == [WINDOW * per_token, *[per_token] * (NEW - 1)]
        return
    for number, step in enumerate(found["steps"]):
        assert step["first"] == len(PROMPT) + number - WINDOW
        assert len(step["weights"]) == WINDOW
    recording = Recording(point(), {**found, "random_weights": True})
    figure = list(figures.attention(recording, DashboardOptions(layer=1, head=1)))[-1]
    bars = next(axes for axes in figure.axes if axes.patches and axes.get_title(loc="left").startswith("attention"))
    places = [round(bar.get_x() + bar.get_width() / 2) for bar in bars.patches]
    assert places == [len(PROMPT) + NEW - 1 - WINDOW + place for place in range(WINDOW)]
    named = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert named == figures.token_labels(found)[: len(PROMPT) + NEW - 1]


def test_uncached_bytes_are_those_that_an_uncached_pass_reads():
    """A cache of latents is smaller than the keys and values of a pass without it."""
    found = recorded("gpt2-mla-nano", "memory")
    assert found["steps"][-1]["uncached"]["kv_bytes"] > found["steps"][-1]["cached"]["kv_bytes"]
    recording = Recording(point("gpt2-mla-nano"), {**found, "random_weights": True})
    figure = list(figures.work(recording, DashboardOptions(what="memory")))[-1]
    texts = [text.get_text().strip() for text in figure.axes[1].texts]
    expected = [f"{found['steps'][-1][arm]['kv_bytes'] / 1024:,.4g} KiB" for arm in ("cached", "uncached")]
    assert texts == expected


def test_a_foreign_cache_holds_the_bytes_of_its_tensors():
    found = recorded(FOREIGN[1], "memory", layer=0)
    # One layer, two heads of eight numbers of four bytes; keys and values are one tensor.
    assert [step["cached"]["kv_bytes"] for step in found["steps"]] == [4 * 2 * 8 * (len(PROMPT) + n) for n in range(NEW)]
    attention = recorded(FOREIGN[1], layer=0)["steps"]
    assert [len(step["keys"]) * len(step["keys"][0]) * 2 * 4 for step in attention] == [
        step["cached"]["kv_bytes"] for step in found["steps"]
    ]


@pytest.mark.parametrize(("model", "is_random"), [("gpt2-nano", True), (FOREIGN[0], True), (FOREIGN[1], False)])
def test_random_weights_are_known_and_every_title_says_so(model, is_random):
    found = recorded(model, layer=0)
    assert found["random_weights"] is is_random
    named = figures.name_of(Recording(point(model), found))
    assert named == (f"{model} (random weights)" if is_random else model)
    for what in {"gpt2-nano": KINDS, FOREIGN[0]: KINDS[:1], FOREIGN[1]: KINDS[:2]}[model]:
        drawn = figures.frames(Recording(point(model), recorded(model, what, layer=0)), options(what=what, layer=0))
        assert next(drawn).get_suptitle().startswith(named)
    assert ("(random weights)" in kv_dashboard_page.page(Recording(point(model), found), options(), [])) == is_random


def test_a_long_path_of_a_model_keeps_its_end():
    path = f"nanogpt:/{'deep/' * 20}out/ckpt.pt"
    named = figures.name_of(Recording(point(path), {"random_weights": False}))
    assert (len(named), named[0], named.endswith("out/ckpt.pt")) == (figures.NAME_LETTERS, "\N{HORIZONTAL ELLIPSIS}", True)


def test_a_batch_reads_the_weights_once_and_the_cache_of_every_row():
    found, shape = recorded(what="batch"), find("models", "gpt2-nano")().shape
    assert [size["batch"] for size in found["sizes"]] == [1, 3]
    assert {size["weight_bytes"] for size in found["sizes"]} == {4 * shape.read_params}
    assert found["attended"] == len(PROMPT) + NEW - 1
    for size in found["sizes"]:
        assert size["kv_bytes"] == size["batch"] * found["attended"] * shape.kv_bytes_per_token("float32")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": 99}, "--layer 99 is not in model 'gpt2-nano'; give 0 to"),
        ({"head": -1}, "--head -1 is not in model 'gpt2-nano'; give 0 to"),
        ({"model": "test_kv_dashboard:deaf"}, "calls no scaled_dot_product_attention"),
        ({"model": "test_kv_dashboard:uncached", "what": "memory"}, "has no cache to compare with"),
        ({"prompt": "a" * 1000}, "is more than block_size"),
    ],
)
def test_what_a_model_cannot_show_is_one_line(changes, words):
    found = worker.record(request(**changes))
    assert words in found["user_error"]
    assert "\n" not in found["user_error"]


def options(**changes):
    return DashboardOptions(**{"prompt": PROMPT, "new_tokens": NEW, "layer": 1, "head": 1, **changes})


def recording(what):
    return Recording(point(), recorded(what=what))


@pytest.mark.parametrize(("what", "frames"), [("attention", NEW), ("memory", NEW), ("batch", 2)])
def test_a_gif_has_a_frame_per_step_and_stays_small(tmp_path, what, frames):
    path = tmp_path / "a.gif"
    assert views.write(recording(what), options(what=what), path) == frames
    with Image.open(path) as picture:
        assert picture.n_frames == frames
        assert picture.info["loop"] == 0
        assert picture.info["duration"] in (400, 1600)
    assert path.stat().st_size < 5e6


def test_the_drawn_bars_are_the_recorded_weights():
    found = recording("attention")
    for step, figure in zip(found.facts["steps"], figures.frames(found, options()), strict=True):
        axes = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("attention"))
        assert [bar.get_height() for bar in axes.patches] == step["weights"]
        top = float(axes.get_yticklabels()[-1].get_text())
        assert max(step["weights"]) <= top <= 2.5 * max(step["weights"])
        assert axes.get_ylim()[1] == pytest.approx(1.03 * top)
        assert f"weights, sum 1.000; the axis ends at {top:g}; dashed: equal weights" in axes.get_title(loc="left")
        keys = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("keys"))
        shown = keys.images[0].get_array()
        assert np.ma.masked_invalid(shown).count() == np.size(step["keys"])


@pytest.mark.parametrize("texts", ["ab", ["a token that is long", "$x$"]])
def test_no_two_labels_of_a_frame_are_printed_over_each_other(texts):
    """With short and with long tokens: the boxes of all texts of a frame, as drawn, lie apart and within it."""
    found = recorded(prompt="ab" * 30)
    facts = {**found, "texts": [texts[n % 2] for n in range(len(found["tokens"]))]}
    for what, recording_ in (("attention", facts), ("memory", recorded(what="memory"))):
        for figure in figures.frames(Recording(point(), recording_), options(what=what)):
            figure.set_dpi(100)
            figure.draw_without_rendering()
            boxes = [box for axes in figure.axes for box in text_boxes(axes)]
            assert len(boxes) > 12
            for number, (text, box) in enumerate(boxes):
                assert figure.bbox.fully_containsx(box.x0), text
                assert figure.bbox.fully_containsx(box.x1), text
                assert figure.bbox.fully_containsy(box.y0), text
                assert figure.bbox.fully_containsy(box.y1), text
                assert [other for other, place in boxes[number + 1 :] if box.overlaps(place)] == [], text


def test_tokens_without_room_for_a_label_are_said_to_have_none():
    found = recorded(prompt="ab" * 50)
    named = {}
    for letters in ("ab", ["abc", "d"]):
        facts = {**found, "texts": [letters[n % 2] for n in range(len(found["tokens"]))]}
        (values,) = [
            axes
            for axes in next(figures.frames(Recording(point(), facts), options())).axes
            if axes.get_title(loc="left").startswith("values")
        ]
        assert values.get_title(loc="left").endswith("; below, 1 of 2 tokens is named")
        named[letters[0]] = len(values.get_xticks())
    assert named == {"a": 50, "abc": 50}


def text_boxes(axes):
    """The texts of a panel and where they stand, a pixel less on each side: titles, labels, ticks, legend, annotations."""
    inside = [child for child in axes.get_children() if isinstance(child, Text)]
    legend = axes.get_legend().get_texts() if axes.get_legend() else []
    ticks = [label for axis in (axes.xaxis, axes.yaxis) for label in (*seen_ticks(axis), axis.label)] if axes.axison else []
    return [(text.get_text(), text.get_window_extent().padded(-1)) for text in (*inside, *ticks, *legend) if text.get_text()]


def seen_ticks(axis):
    """The labels of ticks within the ends of an axis."""
    low, high = sorted(axis.get_view_interval())
    return [
        label for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True) if low <= place <= high
    ]


def test_any_text_can_be_drawn_without_a_word(tmp_path, recwarn):
    found = recording("attention")
    facts = {**found.facts, "texts": [*"a$b$\\ \n\x0f名", *found.facts["texts"][9:]]}
    assert figures.token_labels(facts)[:9] == ["a", r"\$", "b", r"\$", "\\", "␣", "↵", r"\x0f", "名"]
    views.write(Recording(found.point, facts), options(), tmp_path / "a.gif")
    assert [str(each.message) for each in recwarn if "Glyph" in str(each.message)] == []


def test_the_page_holds_every_frame_and_names_stay_text(tmp_path):
    found = Recording(point(model="<script>alert(1)</script>"), recorded())
    text = kv_dashboard_page.page(found, options(), [b"\x89PNG one", b"\x89PNG two"])
    assert text.count('<img src="data:image/png;base64,') == 2
    assert "<script>alert(1)" not in text


def test_the_command_writes_a_file_and_a_document(nanobench_here, tmp_path):
    asked = ("--model", "gpt2-nano", "--prompt", PROMPT, "--new-tokens", 3, "--format", "html", "--json")
    done = nanobench_here("kv-dashboard", *asked, cwd=tmp_path, code=0)
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert (tmp_path / document["path"]).read_text().count("<img ") == 3
    assert len(document["steps"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--what", "nothing"), "unknown what 'nothing'"),
        (("--format", "mp4"), "unknown format 'mp4'"),
        (("--new-tokens", "0"), "--new-tokens 0 is not between 1 and 200"),
        (("--frame-s", "0"), "--frame-s 0.0 is not between 0.02 and 60"),
        (("--prompt", ""), "--prompt is empty"),
        (("--batch", "many"), "batch 'many' is not a whole number"),
        (("--batch", "auto"), "batch 'auto' is not a whole number"),
        (("--model", "nothing"), "unknown model 'nothing'"),
        (("--layer", "7", "--model", "gpt2-nano"), "--layer 7 is not in model"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(nanobench_here, tmp_path, arguments, message):
    done = nanobench_here("kv-dashboard", *arguments, cwd=tmp_path, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
