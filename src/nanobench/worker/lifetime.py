"""The lifetime of a worker: it ends with the process that started it, however that process ends."""

import ctypes
import os
import signal
import sys

LAUNCHER = "NANOBENCH_LAUNCHER"
"""Environment variable with the PID of the process that started this one: the control process, or the launcher of ranks."""
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def end_with_launcher() -> None:
    """See end_with_parent. Does nothing in a worker that was started manually."""
    if LAUNCHER in os.environ:
        end_with_parent(int(os.environ[LAUNCHER]))


def end_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when its parent ends (Linux), and exits if the parent ended before that.

    The order matters: a parent that has ended already sends no signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
