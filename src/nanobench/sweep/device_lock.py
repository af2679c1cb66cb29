"""A lock per device, so that only one run measures on it at a time. A file lock that names its holder."""

import getpass
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from nanobench.errors import UserError

FOLDER = "/tmp/nanobench"
CHECK_EVERY_S = 2.0
"""How often a waiting command checks the lock: rarely, so that it does not disturb the run it waits for."""


@contextmanager
def hold(device: str, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a device while the block runs. The kernel releases the lock when the process ends, however that happens.

    Raises UserError where another process holds it, unless `wait`: then it reports the holder and waits.
    """
    name = physical(device)
    path = folder() / f"{name.replace(':', '-')}.lock"
    lock = FileLock(path, mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(f"{name} is held by {holder(path)}; wait with --wait, or stop that process") from None
        say(f"{name} is held by {holder(path)}; waiting")
        lock.acquire(poll_interval=CHECK_EVERY_S)
    except OSError as error:
        raise UserError(f"{path} cannot be locked: {error.strerror}; set another folder in NANOBENCH_LOCKS") from None
    note = path.with_suffix(".holder")
    try:
        with suppress(OSError):
            write_note(note, json.dumps(myself()))
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


def write_note(path: Path, text: str) -> None:
    """Writes a new file in a folder of all users: never through a link that somebody has left there."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "w") as file:
        file.write(text)


@contextmanager
def hold_all(devices: Iterable[str], wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Holds several devices while the block runs, as `hold` does; one that has two names here is held once."""
    with ExitStack() as locks:
        for device in {physical(device): device for device in devices}.values():
            locks.enter_context(hold(device, wait, say))
        yield


def devices_of_ranks(device: str, ranks: int) -> list[str]:
    """The devices that so many ranks run on: each has a GPU of its own, from the first one on; on a CPU they share it."""
    return [f"cuda:{rank}" for rank in range(ranks)] if ranks > 1 and device.startswith("cuda") else [device]


@contextmanager
def hold_gpus(wait: bool, say: Callable[[str], None]) -> Iterator[tuple[str, ...]]:
    """Holds every free GPU while the block runs, at least one, and gives their names for CUDA_VISIBLE_DEVICES.

    It gives none where this process has one GPU only: a worker then needs no choice. Raises UserError as `hold` does.
    """
    gpus, free = visible_gpus(), list[str]()
    with ExitStack() as locks:
        for index, gpu in enumerate(gpus):
            with suppress(UserError):
                locks.enter_context(hold(f"cuda:{index}", False, say))
                free.append(gpu)
        if not free:
            locks.enter_context(hold("cuda:0", wait, say))
            free = gpus[:1]
        yield tuple(free) if len(gpus) > 1 else ()


def visible_gpus() -> list[str]:
    """The GPUs that torch counts in this process, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(count_gpus())]
    return [name.strip() for name in named.split(",") if name.strip()]


def count_gpus() -> int:
    """The GPUs of this machine that NVML knows; 0 without it."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def folder() -> Path:
    """The folder of this machine's locks, shared by all users."""
    path = Path(os.environ.get("NANOBENCH_LOCKS", FOLDER))
    try:
        path.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):
            path.chmod(0o777)
    except OSError as error:
        raise UserError(f"{path} cannot be created: {error.strerror}; set another folder in NANOBENCH_LOCKS") from None
    return path


def physical(device: str) -> str:
    """The device by its index on the machine: torch counts only the GPUs in CUDA_VISIBLE_DEVICES."""
    kind, _, index = device.partition(":")
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if kind != "cuda":
        return kind
    number = int(index or 0)
    return f"cuda:{visible[number].strip() if number < len(visible) else number}"


def guess(device: str) -> str:
    """The device that `auto` most likely means, found without torch, because locking comes before any worker starts."""
    if device != "auto":
        return device
    return "cuda:0" if count_gpus() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") else "cpu"


def gpu_of(device: str) -> dict[str, str | int]:
    """A GPU's name and memory from NVML; empty where NVML does not report them."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(physical(device).partition(":")[2] or 0))
        return {"name": str(pynvml.nvmlDeviceGetName(handle)), "bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)}
    except (pynvml.NVMLError, ValueError):
        return {}


def user() -> str:
    """The name of the user, or the number of one that the machine has no name for."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def myself() -> dict[str, str | int]:
    """This process as the holder of the lock."""
    command = " ".join(shlex.quote(word) for word in [Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "user": user(), "since": since, "command": command, "folder": os.getcwd()}


def holder(path: Path) -> str:
    """The holder of a lock in words."""
    try:
        who = json.loads(path.with_suffix(".holder").read_text())
        return f"`{who['command']}` (pid {who['pid']}, {who['user']}, since {who['since']}, in {who['folder']})"
    except (OSError, ValueError, KeyError):
        return "another nanobench process"
