"""Handles a crash of the whole server: logs it to /crash.log, waits longer each time, resets.

Imported only when a crash happens; until then it takes no memory.
"""

import sys
import time

import machine
from micropython import const

_FILE = const("/crash.log")
_KEEP = const(2048)  # characters kept of the log of earlier crashes
_LONGEST_S = const(300)
_STEADY_S = const(600)  # after a run this long the pause starts from 1 s again
_MARK = const("restart in ")


def restart(fault, seconds, rest):
    """Log `fault`, wait and reset the board.

    fault    the exception
    seconds  how long the server ran
    rest     keeps the watchdog fed from a timer (Panel.rest)
    """
    sys.print_exception(fault)
    earlier = ""
    pause = 1
    try:
        with open(_FILE) as file:
            earlier = file.read()[-_KEEP:]
        if seconds < _STEADY_S:
            last = int(earlier.rsplit(_MARK, 1)[1].split()[0])
            pause = max(1, min(2 * last, _LONGEST_S))
    except Exception:  # no log, a damaged one, or no memory to read it
        pass
    try:
        with open(_FILE, "w") as file:
            file.write("%sran for %d s, %s%d s\n" % (earlier, seconds, _MARK, pause))
            sys.print_exception(fault, file)
    except Exception:  # flash full or worn out: the pause can't be stored, so use the longest
        pause = _LONGEST_S
    print("the server crashed, see %s: %s%d s, Ctrl-C for the prompt" % (_FILE, _MARK, pause))
    rest()
    time.sleep(pause)
    machine.reset()
