"""The frames of kv-dashboard: attention over a growing cache, work with and without a cache, bytes per token by batch size.

All that is drawn was recorded (`worker/kv_dashboard.py`). Each function draws one frame after the other into the same figure.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from nanobench.records import JsonObject
from nanobench.sweep.kv_dashboard import DashboardOptions, Recording
from nanobench.views import format
from nanobench.views.figures.style import COLOURS, PREDICTED

SIZE_IN = (9.6, 5.6)
EMPTY = "#eeeeee"
"""Places of the cache that hold nothing yet."""
REFERENCE, CACHED, NEW = COLOURS[0], COLOURS[1], COLOURS[2]
MOST_LABELS = {1: 90, 2: 48}
"""Letters of the longest text of a token -> how many texts fit side by side."""
MOST_UPRIGHT = 66
"""How many longer ones fit, turned by 90 degrees."""
LABEL_LETTERS = 8
"""Longer texts of tokens are cut."""
NAME_LETTERS = 40
"""Longer names of models lose their beginning, as of a path."""
TOPS = tuple(sorted(digit * 10.0**-power for power in range(6) for digit in (1, 2, 5) if digit * 10.0**-power <= 1))
"""Where the axis of attention weights may end."""
SHOWN_TEXT = 72
"""Letters of the text that a frame shows."""
SPACE, LINE_END = "\N{OPEN BOX}", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"


def name_of(found: Recording) -> str:
    """The model, and whether its weights are random."""
    model = found.point.model
    short = model if len(model) <= NAME_LETTERS else f"\N{HORIZONTAL ELLIPSIS}{model[1 - NAME_LETTERS :]}"
    return f"{short} (random weights)" if found.facts["random_weights"] else short


def frames(found: Recording, options: DashboardOptions) -> Iterator[Figure]:
    """A figure per frame; each is valid until the next one is requested."""
    yield from {"attention": attention, "memory": work, "batch": batch}[options.what](found, options)


# Attention
def attention(found: Recording, options: DashboardOptions) -> Iterator[Figure]:
    """Query, key cache, attention weights and value cache of one head, a frame per generated token."""
    facts, labels = found.facts, token_labels(found.facts)
    steps, total = facts["steps"], facts["prompt_len"] + len(facts["steps"]) - 1
    where = f"layer {options.layer}, head {options.head}"
    how = "KV cache" if facts["cached"] else "keys and values, computed again in each step: the model has no cache"
    limits = {name: largest(steps, name) for name in ("query", "keys", "values")}
    for number, step in enumerate(steps):
        figure = Figure(figsize=SIZE_IN)
        grid = GridSpec(
            4, 2, figure, height_ratios=[0.5, 1, 0.7, 1], width_ratios=[1, 24], left=0.075, right=0.985, top=0.9, bottom=0.13
        )
        figure.suptitle(f"{name_of(found)}, {where}: {how}", x=0.012, ha="left", fontsize=11, weight="bold")
        text_strip(figure.add_subplot(grid[0, :]), facts, number)
        matrix(figure.add_subplot(grid[1, 0]), np.array([step["query"]]).T, 0, 1, limits["query"])
        keys = figure.add_subplot(grid[1, 1])
        matrix(keys, np.array(step["keys"]).T, step["first"], total, limits["keys"])
        weights = figure.add_subplot(grid[2, 1])
        bars(weights, step["weights"], step["first"], total)
        values = figure.add_subplot(grid[3, 1])
        matrix(values, np.array(step["values"]).T, step["first"], total, limits["values"])
        for axes, name in ((keys, "keys"), (weights, "attention"), (values, "values")):
            axes.set_title(titles(name, step), fontsize=8.5, loc="left", pad=3)
        figure.axes[1].set_title("query", fontsize=8.5, loc="left", pad=3)
        figure.axes[1].set_ylabel("dimension", fontsize=8)
        label_tokens(values, labels[:total], step["first"] + len(step["weights"]))
        yield figure


def titles(name: str, step: JsonObject) -> str:
    """What a panel shows."""
    tokens = len(step["weights"])
    width = len(step["query"])
    if name == "attention":
        scale = f"the axis ends at {top_of(step['weights']):g}; dashed: equal weights"
        return f"attention of the newest token: {format.count(tokens, 'weight')}, sum {sum(step['weights']):.3f}; {scale}"
    return f"{name}: {format.count(tokens, 'token')} x {width} dimensions"


def largest(steps: Sequence[JsonObject], name: str) -> float:
    """The value of a colour scale's end: all frames have the same."""
    return float(np.percentile(np.abs(np.array(steps[-1][name])), 99)) or 1.0


def matrix(axes: Axes, values_DS: Any, first: int, total: int, limit: float) -> None:
    """Keys or values: a column per token, from the first one that is attended to; other places are empty."""
    depth, end = len(values_DS), first + values_DS.shape[1]
    shown = np.full((depth, total), np.nan)
    shown[:, first:end] = values_DS
    axes.set_facecolor(EMPTY)
    axes.imshow(shown, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([0, depth - 1], ["0", str(depth - 1)], fontsize=7)
    axes.grid(visible=False)
    if total > 1:
        axes.axvline(end - 1.5, color=NEW, linewidth=1.2)
        axes.axvline(end - 0.5, color=NEW, linewidth=1.2)


def top_of(weights: Sequence[float]) -> float:
    """The first of TOPS that no weight exceeds: a scale of its own for each frame, as weights get smaller with each token."""
    return next((top for top in TOPS if top >= max(weights)), 1.0)


def bars(axes: Axes, weights: Sequence[float], first: int, total: int) -> None:
    """The attention weights, a bar per token, and what each would be if all were equal."""
    top = top_of(weights)
    axes.bar(range(first, first + len(weights)), weights, color=CACHED, width=0.85)
    axes.axhline(1 / len(weights), color="0.3", **PREDICTED)
    axes.set_xlim(-0.5, total - 0.5)
    axes.set_ylim(0, 1.03 * top)
    axes.set_yticks([0, top], ["0", f"{top:g}"], fontsize=7)
    axes.set_xticks([])
    axes.grid(visible=False, axis="x")


def token_labels(facts: JsonObject) -> list[str]:
    """The text of each token, with visible spaces; its number where it has no text."""
    pairs = zip(facts["tokens"], facts["texts"], strict=True)
    return [str(token) if text is None else "".join(map(visible, text)) for token, text in pairs]


def visible(letter: str) -> str:
    """A letter as a figure can show it: escaped where it has no shape, or would begin a formula."""
    known = {" ": SPACE, "\n": LINE_END, "$": r"\$"}
    return known.get(letter) or (letter if letter.isprintable() else letter.encode("unicode_escape").decode())


def label_tokens(axes: Axes, labels: Sequence[str], known: int) -> None:
    """The tokens below the cache, those that are in it."""
    words = [
        label if len(label) <= LABEL_LETTERS else f"{label[: LABEL_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}" for label in labels
    ]
    longest = max(map(len, words))
    every = -(-len(labels) // MOST_LABELS.get(longest, MOST_UPRIGHT))
    places = [place for place in range(0, len(labels), every) if place < known]
    if every > 1:
        axes.set_title(f"{axes.get_title(loc='left')}; below, 1 of {every} tokens is named", fontsize=8.5, loc="left", pad=3)
    axes.set_xticks(places, [words[place] for place in places], fontsize=7.5, rotation=90 if longest > 2 else 0)


def text_strip(axes: Axes, facts: JsonObject, number: int) -> None:
    """The text so far, the new token, and how far the generation is."""
    pairs = zip(token_labels(facts), facts["texts"], strict=True)
    labels, at = [f"[{label}]" if text is None else label for label, text in pairs], facts["prompt_len"] + number
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    before, new = "".join(labels[:at])[-SHOWN_TEXT:], labels[at]
    axes.text(0, 0.75, before, fontsize=9, family="monospace", color="0.35", va="center")
    axes.annotate(new, (1, 0.5), xycoords=axes.texts[-1], fontsize=9, family="monospace", color=NEW, weight="bold", va="center")
    share = (number + 1) / len(facts["steps"])
    axes.barh(0.12, 1, height=0.16, color=EMPTY)
    axes.barh(0.12, share, height=0.16, color=CACHED)
    axes.text(1, 0.42, f"token {number + 1} of {len(facts['steps'])}", fontsize=8, ha="right", color="0.35", va="center")


# Work and bytes
def work(found: Recording, options: DashboardOptions) -> Iterator[Figure]:
    """Operations so far and bytes of keys and values, cached beside uncached, to scale, a frame per generated token."""
    steps, arms = found.facts["steps"], ("uncached", "cached")
    flops = {arm: np.cumsum([step[arm]["flops"] for step in steps]) / 1e6 for arm in arms}
    read = {arm: np.array([step[arm]["kv_bytes"] for step in steps]) / 1024 for arm in arms}
    new = np.array([step["cached"]["new_kv_bytes"] for step in steps]) / 1024
    for number in range(len(steps)):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        figure.suptitle(
            f"{name_of(found)}: token {number + 1} of {len(steps)} behind a prompt of {found.facts['prompt_len']} tokens",
            x=0.012, ha="left", fontsize=11, weight="bold",
        )  # fmt: skip
        operations, memory = figure.subplots(1, 2)
        for arm, colour, marker in (("uncached", REFERENCE, "o"), ("cached", CACHED, "s")):
            label, shown = f"{arm}: {flops[arm][number]:,.4g} million", range(1, number + 2)
            operations.plot(shown, flops[arm][: number + 1], color=colour, marker=marker, markevery=[-1], label=label)
        operations.set_xlim(0, 1.05 * len(steps))
        operations.set_ylim(0, 1.1 * flops["uncached"][-1])
        operations.set_xlabel("generated tokens")
        operations.set_ylabel("operations so far (million, counted)")
        ratio = flops["uncached"][number] / flops["cached"][number]
        operations.set_title(f"work: uncached has done {ratio:.3g} times as many operations", fontsize=9, loc="left")
        operations.legend(fontsize=8.5, loc="upper left", frameon=False)
        kept = read["cached"][number] - new[number]
        memory.barh(["cached"], [kept], color=CACHED, label="kept from earlier steps")
        memory.barh(["cached"], [new[number]], left=[kept], color=NEW, hatch="//", label="computed now")
        memory.barh(["uncached"], [read["uncached"][number]], color=NEW, hatch="//")
        for row, arm in enumerate(("cached", "uncached")):
            memory.text(read[arm][number], row, f"  {read[arm][number]:,.4g} KiB", va="center", fontsize=8.5)
        memory.set_xlim(0, 1.3 * max(values.max() for values in read.values()))
        memory.set_xlabel("keys and values that the step reads (KiB)")
        memory.set_title("bytes: the cache keeps what uncached computes again", fontsize=9, loc="left")
        memory.set_ylim(-0.6, 2.0)
        memory.legend(fontsize=8, loc="upper right", frameon=False)
        memory.grid(visible=False, axis="y")
        yield figure


# Batch
def batch(found: Recording, options: DashboardOptions) -> Iterator[Figure]:
    """Bytes that a decode step reads per token: the rows of a batch share one read of the weights. A frame per batch size."""
    sizes = found.facts["sizes"]
    names = [str(size["batch"]) for size in sizes]
    weights = np.array([size["weight_bytes"] / size["batch"] for size in sizes]) / 2**20
    caches = np.array([size["kv_bytes"] / size["batch"] for size in sizes]) / 2**20
    for number, size in enumerate(sizes):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        figure.suptitle(
            f"{name_of(found)}: one read of the weights for {format.count(size['batch'], 'row')}",
            x=0.012,
            ha="left",
            fontsize=11,
            weight="bold",
        )
        axes = figure.subplots()
        shown = slice(0, number + 1)
        axes.bar(names[shown], weights[shown], color=REFERENCE, label="weights, shared by the rows")
        axes.bar(
            names[shown], caches[shown], bottom=weights[shown], color=CACHED, hatch="//", label="keys and values of its row"
        )
        for place in range(number + 1):
            value = weights[place] + caches[place]
            axes.text(place, value, f"{value:,.3g}", ha="center", va="bottom", fontsize=8.5)
        axes.set_xlim(-0.6, len(sizes) - 0.4)
        axes.set_ylim(0, 1.12 * (weights[0] + caches[0]))
        axes.set_xlabel("batch size (rows)")
        axes.set_ylabel("bytes read per generated token (MiB)")
        step_mib = (size["weight_bytes"] + size["kv_bytes"]) / 2**20
        axes.set_title(
            f"a step at batch {size['batch']} reads {step_mib:,.4g} MiB, with attention to {found.facts['attended']} tokens",
            fontsize=9, loc="left",
        )  # fmt: skip
        axes.legend(fontsize=8.5, frameon=False, loc="upper right")
        axes.grid(visible=False, axis="x")
        yield figure
