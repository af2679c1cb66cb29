"""The folders in the user's cache that hold copies of runs at URIs: one per run, removed when it was not used for long."""

import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from nanobench.errors import UserError, writing
from nanobench.results import user_cache
from nanobench.results.place import Place

MARKER = "place.json"
"""Beside a copy that leads, because the run is measured here and not wholly published yet: its URI."""
DAYS_KEPT = 30
"""Copies that were not used for so long are removed."""
FIX = "set NANOBENCH_CACHE to a folder that can be written"


def base() -> Path:
    """The folder of all copies."""
    return user_cache.folder() / "runs"


def home_of(place: Place) -> Path:
    """The folder that holds the copy of the run at a place."""
    return base() / hashlib.sha256(place.uri.encode()).hexdigest()[:16]


def copy_in(home: Path, place: Place) -> Path:
    """The copy itself: it has the name of the run's folder."""
    return home / (PurePosixPath(place.path).name or "run")


def use(home: Path) -> None:
    """Makes a folder that only its user can read, or says that it is used again. Raises UserError where it can't be written."""
    with writing(home, FIX):
        for each in (user_cache.folder(), base(), home):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(home)


def mark(home: Path, place: Place) -> None:
    """Lets the copy lead. Raises UserError where it cannot be written."""
    use(home)
    with writing(home, FIX):
        part = home / f"{MARKER}.part"
        part.write_text(json.dumps({"uri": place.uri}))
        part.replace(home / MARKER)


def unmark(home: Path) -> None:
    """Lets the copy follow the place."""
    (home / MARKER).unlink(missing_ok=True)


def leads(home: Path) -> bool:
    """Whether the copy may hold what is nowhere else."""
    return (home / MARKER).exists()


def uri_in(home: Path) -> str:
    """The URI of a copy that leads. Raises UserError where another sweep has taken its folder."""
    try:
        return str(json.loads((home / MARKER).read_text())["uri"])
    except (OSError, ValueError, KeyError):
        raise UserError(f"{home} was changed by another sweep into the same URI; start this one again") from None


def clear(home: Path) -> None:
    """Makes room for another run: a copy with trials that may be nowhere else gets another name, any other is removed."""
    if leads(home) and any(home.glob("*/raw/*.parquet")):
        home.rename(home.with_name(f"{home.name}-{time.time_ns()}"))
    else:
        shutil.rmtree(home, ignore_errors=True)


def prune() -> None:
    """Removes copies that were not used for long. Those that may hold what is nowhere else are kept."""
    with suppress(OSError):
        for home in list(base().iterdir()):
            if not leads(home) and time.time() - home.stat().st_mtime > DAYS_KEPT * 86400:
                shutil.rmtree(home, ignore_errors=True)
