"""The frames of kv-dashboard as a GIF, or as a page with a slider."""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from nanobench.sweep.kv_dashboard import DashboardOptions, Recording
from nanobench.views import format
from nanobench.views.figures import kv_dashboard as figures
from nanobench.views.figures.style import STYLE

DPI = 100
COLOURS = 128
"""of the palette that all frames of a GIF share"""
LAST = 4
"""times as long as the others is the last frame shown"""


def write(found: Recording, options: DashboardOptions, path: Path) -> int:
    """Writes the file. Returns the number of its frames."""
    with mpl.rc_context(STYLE):
        images = [image(figure) for figure in figures.frames(found, options)]
    if options.format == "html":
        from nanobench.views.html import kv_dashboard_page

        path.write_text(kv_dashboard_page.page(found, options, list(map(png, images))), encoding="utf-8")
    else:
        write_gif(images, options.frame_s, path)
    return len(images)


def image(figure: Figure) -> Image.Image:
    """A figure as pixels."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph")
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def write_gif(images: Iterable[Image.Image], frame_s: float, path: Path) -> None:
    """A GIF that repeats for ever. Its frames share the palette of the first and the last one, which show all colours."""
    images = list(images)
    both = Image.new("RGB", (images[0].width, 2 * images[0].height))
    both.paste(images[0], (0, 0))
    both.paste(images[-1], (0, images[0].height))
    palette = both.quantize(COLOURS)
    frames = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in images]
    times_ms = [round(1000 * frame_s)] * len(frames)
    times_ms[-1] *= LAST
    frames[0].save(
        path, format="GIF", save_all=True, append_images=frames[1:], duration=times_ms, loop=0, optimize=False, disposal=1
    )


def png(picture: Image.Image) -> bytes:
    """A frame as PNG, in a small palette."""
    out = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return out.getvalue()


def sentence(found: Recording, options: DashboardOptions, frames: int, path: Path) -> str:
    """What was written."""
    size = format.text(path.stat().st_size, "B")
    return f"{path}: {format.count(frames, 'frame')} of {figures.name_of(found)}, {size}"
