"""Figures as part of a page: the SVG of matplotlib with ids of its own, in colours for light and dark, and shapes only."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

from nanobench.views.html.colours import on_dark

SHAPES = ("svg", "g", "defs", "path", "use", "rect", "clipPath", "pattern", "image", "title")
"""Elements that are kept: nothing else is drawn by a figure, and none of these runs anything."""
NUMBERS = ("d", "x", "y", "width", "height")
KEPT = (*NUMBERS, "transform", "viewBox", "patternUnits")
"""Attributes that are kept as they are; `style`, `id` and references become those of the page."""
PNG = "data:image/png;base64,"
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
STYLE = re.compile(r"[-\w\s:;#.,%()]*")
REFERENCE = re.compile(r"#([-\w]+)")
PLACE = re.compile(r"url\(#([-\w]+)\)")
"""A reference in a style or an attribute."""
LONG = re.compile(r"\d+\.\d{3,}")


class Inks:
    """The styles of all drawings of a page: each is a class, whose colours follow the ground of the page."""

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}
        self.drawings = 0

    def new_prefix(self) -> str:
        """What the ids of the next drawing begin with."""
        self.drawings += 1
        return f"d{self.drawings}-"

    def class_of(self, style: str) -> str:
        """The class that stands for a style."""
        return self.classes.setdefault(style if STYLE.fullmatch(style) else "", f"i{len(self.classes)}")

    def css(self) -> str:
        """The rules of all classes."""
        return "\n".join(f"svg .{name}{{{rule(style)}}}" for style, name in self.classes.items())


def rule(style: str) -> str:
    """A style whose colours have twins for a dark ground; old browsers keep the colours of the light one."""
    parts = [":".join(map(str.strip, part.split(":", 1))) for part in style.split(";") if ":" in part]
    both = [COLOUR.sub(lambda found: f"light-dark({found[0]},{on_dark(found[0])})", part) for part in parts]
    return ";".join([*parts, *(each for each in both if each not in parts)])


def inline(path: Path, words: str, inks: Inks) -> Markup:
    """The SVG in a file that matplotlib wrote, for a page; `words` say what it shows to those who do not see it."""
    root = ElementTree.parse(path).getroot()
    prefix = inks.new_prefix()
    names = {name: f"{prefix}{number}" for number, name in enumerate(dict.fromkeys(references(root)))}
    found = cleaned(root, names, inks)
    if found is None:
        return Markup("")
    for size in ("width", "height"):
        found.attrib.pop(size, None)
    found.attrib |= {"role": "img", "aria-label": words}
    return Markup(ElementTree.tostring(found, encoding="unicode"))


def references(root: Element) -> Iterator[str]:
    """The ids that something refers to."""
    for node in root.iter():
        for value in node.attrib.values():
            yield from PLACE.findall(value)
            if found := REFERENCE.fullmatch(value):
                yield found[1]


def cleaned(node: Element, names: dict[str, str], inks: Inks) -> Element | None:
    """An element with what is kept of it; None for one that is no shape."""
    tag = without_namespace(str(node.tag))
    if tag not in SHAPES:
        return None
    made = Element(tag, dict(attributes(node, names, inks)))
    if tag == "title":
        made.text = node.text
    made.extend(each for child in node if (each := cleaned(child, names, inks)) is not None)
    return made


def attributes(node: Element, names: dict[str, str], inks: Inks) -> Iterator[tuple[str, str]]:
    """The attributes that are kept of an element."""
    for name, value in node.attrib.items():
        name, found = without_namespace(name), REFERENCE.fullmatch(value)
        if name == "id" and value in names:
            yield "id", names[value]
        elif name == "style":
            yield "class", inks.class_of(PLACE.sub(lambda place: f"url(#{names[place[1]]})", value))
        elif name == "href" and found:
            yield "href", f"#{names[found[1]]}"
        elif name == "href" and is_png(value):
            yield "href", value
        elif name == "clip-path" and (clip := PLACE.fullmatch(value)):
            yield "clip-path", f"url(#{names[clip[1]]})"
        elif name in KEPT:
            yield name, shortened(value) if name in NUMBERS else value


def is_png(value: str) -> bool:
    """Whether a reference is a picture that stands in it."""
    try:
        return value.startswith(PNG) and base64.b64decode(value.removeprefix(PNG))[:4] == b"\x89PNG"
    except ValueError:
        return False


def shortened(value: str) -> str:
    """Numbers with two decimals, a hundredth of a point, on one line."""
    return " ".join(LONG.sub(lambda found: f"{float(found[0]):.2f}", value).split())


def without_namespace(name: str) -> str:
    """The name of an element or attribute alone."""
    return name.rpartition("}")[2]
