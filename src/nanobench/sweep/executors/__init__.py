"""Where a trial runs; one file per place."""

from typing import Any

from nanobench import registry

LOCAL = "local"
"""The executor on this machine."""


def is_local(options: Any) -> bool:
    """Whether the workers of some options, or of a site, run on this machine."""
    return registry.parse("executors", getattr(options, "executor", LOCAL)).name == LOCAL
