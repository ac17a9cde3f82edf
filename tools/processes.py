"""What a child process needs so that it never outlives us."""

import ctypes
import signal
import sys


def die_with_parent() -> None:
    """For preexec_fn: the child is killed when we end, however that happens. Linux only; elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
