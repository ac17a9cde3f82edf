"""Which processor servers and clients run on. Left to the system, that changes a lock-step figure fourfold.

Together: every packet is handed over on one processor, which shows what client and server cost. Apart: every packet
wakes the other processor, as one from the network would. Servers always have the first processor, clients that or the
last.
"""

import os
import time
from pathlib import Path

_AVAILABLE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # Linux only


def two() -> bool:
    """Whether servers and clients can be set apart."""
    return len(_AVAILABLE) > 1


def for_servers() -> None:
    """What this process starts from now on runs on the servers' processor."""
    if _AVAILABLE:
        os.sched_setaffinity(0, {_AVAILABLE[0]})


def for_clients(together: bool = False) -> None:
    """What this thread starts from now on runs on the clients' processor, or with the servers on theirs."""
    if _AVAILABLE:
        os.sched_setaffinity(0, {_AVAILABLE[0 if together else -1]})


def busy() -> bool:
    """Whether something else is at work just now, so that speeds are not to be trusted. Takes half a second."""
    before = _used()
    time.sleep(0.5)
    return _used() - before > 0.1 * 0.5 * os.sysconf("SC_CLK_TCK")


def _used() -> int:
    """Ticks that all processors together have worked since the start; Linux, see proc(5)."""
    try:
        user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    except OSError:
        return 0
    return int(user) + int(nice) + int(system)
