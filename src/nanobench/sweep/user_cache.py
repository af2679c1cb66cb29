"""What was found out about this machine and is kept between runs: a JSON file per finding."""

import json
import os
from pathlib import Path
from typing import Any


def folder() -> Path:
    """Where findings are kept: NANOBENCH_CACHE, or nanobench in the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanobench"
    return Path(os.environ.get("NANOBENCH_CACHE") or base)


def read(path: Path) -> dict[str, Any] | None:
    """A finding; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def write(path: Path, found: dict[str, Any]) -> None:
    """Keeps a finding for later, whole or not at all, if the folder can be written."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(found))
        part.replace(path)
    except OSError:
        return
