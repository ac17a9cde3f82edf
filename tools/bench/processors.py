"""Binds servers and clients to processors. If the system chooses, a lock-step figure changes fourfold.

Together: client and server share one processor, which shows their processing cost. Apart: every packet wakes the other
processor, as a packet from a network would. Servers always run on the first processor, clients on the first or the
last.
"""

import os
import time
from pathlib import Path

_AVAILABLE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # Linux only


def two() -> bool:
    """Whether there are two processors, one each for servers and clients."""
    return len(_AVAILABLE) > 1


def for_servers() -> None:
    """Run child processes started from now on on the servers' processor."""
    if _AVAILABLE:
        os.sched_setaffinity(0, {_AVAILABLE[0]})


def for_clients(together: bool = False) -> None:
    """Run child processes of this thread on the clients' processor, or `together` with the servers on theirs."""
    if _AVAILABLE:
        os.sched_setaffinity(0, {_AVAILABLE[0 if together else -1]})


def busy() -> bool:
    """Whether other work runs now, which makes speeds unreliable. Takes half a second."""
    before = _used()
    time.sleep(0.5)
    return _used() - before > 0.1 * 0.5 * os.sysconf("SC_CLK_TCK")


def _used() -> int:
    """Clock ticks that all processors have worked since boot; Linux only (proc(5)), elsewhere 0."""
    try:
        user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    except OSError:
        return 0
    return int(user) + int(nice) + int(system)
