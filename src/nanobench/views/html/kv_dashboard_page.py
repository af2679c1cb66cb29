"""The frames of kv-dashboard on a page, one at a time, chosen by a slider."""

import base64
from collections.abc import Sequence

from nanobench.sweep.kv_dashboard import DashboardOptions, Recording
from nanobench.views.figures import kv_dashboard as figures
from nanobench.views.html import page as frame
from nanobench.views.html.drawing import PNG, Inks

TITLES = {
    "attention": "what attention reads while tokens are generated",
    "memory": "work and bytes with a KV cache and without",
    "batch": "bytes per token by batch size",
}


def page(found: Recording, options: DashboardOptions, pictures: Sequence[bytes]) -> str:
    """The page; `pictures` are the frames as PNG."""
    title = f"{figures.name_of(found)}: {TITLES[options.what]}"
    return frame.render(
        "kv_dashboard.html",
        Inks(),
        title=f"nanobench kv-dashboard: {title}",
        name=title,
        frames=[PNG + base64.b64encode(picture).decode() for picture in pictures],
        labels=labels(found, options),
        frame_ms=round(1000 * options.frame_s),
    )


def labels(found: Recording, options: DashboardOptions) -> list[str]:
    """What each frame shows, for those who do not see it."""
    if options.what == "batch":
        return [f"batch size {size['batch']}" for size in found.facts["sizes"]]
    count = len(found.facts["steps"])
    return [f"generated token {number + 1} of {count}" for number in range(count)]
