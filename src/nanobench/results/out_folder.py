"""What --out names: a new folder on this machine, or a URI, whose run is measured into a folder of the cache first."""

import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from nanobench import errors
from nanobench.errors import UserError
from nanobench.results import mirror
from nanobench.results.place import is_uri
from nanobench.results.request import SWEEPS

PUBLISHED = ("kv-sweep", "train-throughput", "ab", "tune")
"""Commands whose --out may be a URI."""
OF_SEVERAL = ("bisect", "selftest")
"""Commands whose --out holds several runs, each in a folder of its own."""


def choose(out: str, command: str) -> Path:
    """The folder of a new run; for a URI the one where it is measured. Raises UserError where there is a run already, or none
    can be written; makes nothing yet, but the folder for a URI.
    """
    if is_uri(out):
        if command not in PUBLISHED:
            raise UserError(f"--out {out}: {command} writes into a folder of this machine only; give a folder, and copy it")
        return mirror.begin(out, command)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(out) if out else Path("results") / f"{command}-{stamp}"
    check_writable(folder)
    if holds_run(folder) or (command in OF_SEVERAL and any(map(holds_run, folder.glob("*/")))):
        resume = f", or continue that one with --resume {folder}" if command in SWEEPS else ""
        raise UserError(f"{folder} holds another run; give another --out{resume}")
    return folder


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / "run.json").exists() or (folder / "raw").exists()


def check_writable(out: str | Path) -> None:
    """Raises UserError where no file can be made in a folder that may not exist yet. Leaves nothing behind."""
    if is_uri(out):
        raise UserError(f"--out {out} is no folder of this machine; give one, and copy it")
    folder = Path(out)
    missing: list[Path] = []
    try:
        missing += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        why = errors.cause(error) if isinstance(error, OSError) else str(error)
        raise UserError(f"--out {folder} cannot be written: {why}; give another --out") from None
    finally:
        for path in missing:
            with suppress(OSError, ValueError):
                path.rmdir()


def folder_at(place: str) -> Path:
    """The folder that --resume names, or that of the copy for a URI."""
    return mirror.folder_at(place) if is_uri(place) else Path(place)
