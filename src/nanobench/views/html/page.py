"""The frame of every page: its template, style and script in one file, under a policy that lets nothing else run."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nanobench.views.html.drawing import Inks

FLAG = re.compile(r"--[a-z][-a-z]*")
"""An option of the command line, in prose."""


def render(template: str, inks: Inks, **content: Any) -> str:
    """A page from a template of this folder. All texts are escaped; `inks` holds the styles of the drawings in `content`."""
    script = read("script.js")
    return (
        environment()
        .get_template(template)
        .render(
            content,
            style=Markup(f"{read('style.css')}\n{inks.css()}\n"),
            script=Markup(script),
            policy=policy(script),
        )
    )


@cache
def environment() -> Environment:
    """The templates of this folder. Every text is escaped, and a name that is not given is an error."""
    found = Environment(
        loader=PackageLoader("nanobench.views", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["flags"] = flags
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found


def flags(text: str) -> Markup:
    """A text whose options, like --launches, stay on one line."""
    return Markup(FLAG.sub(r'<code class="flag">\g<0></code>', str(escape(text))))


def read(name: str) -> str:
    """A file of this folder."""
    return resources.files("nanobench.views.html").joinpath(name).read_text(encoding="utf-8")


def policy(script: str) -> str:
    """What a browser lets the page do: run this script, use the page's own styles, and show pictures that stand in it."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = {"default-src": "'none'", "script-src": f"'sha256-{digest}'", "style-src": "'unsafe-inline'", "img-src": "data:"}
    return "; ".join(f"{name} {value}" for name, value in {**allowed, "base-uri": "'none'", "form-action": "'none'"}.items())
