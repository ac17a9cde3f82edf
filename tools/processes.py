"""Child processes that never outlive this one."""

import ctypes
import signal
import sys


def die_with_parent() -> None:
    """For preexec_fn: the kernel kills the child when this process ends. Linux only; elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
