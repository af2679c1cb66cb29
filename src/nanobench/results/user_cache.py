"""What nanobench keeps about this machine between runs: calibrations and batch sizes, one JSON file each."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nanobench.records import JsonObject


def folder() -> Path:
    """The folder of these files: NANOBENCH_CACHE, or nanobench in the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanobench"
    return Path(os.environ.get("NANOBENCH_CACHE") or base)


def read(path: Path) -> JsonObject | None:
    """A document; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(path: Path, document: Mapping[str, object]) -> None:
    """Writes a document whole or not at all. Does nothing where the folder cannot be written."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.write_text(json.dumps(document))
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
