"""What becomes of a crash of the whole server: /crash.log, a pause that grows, a new start.

Imported when it happens only; until then it takes no memory.
"""

import sys
import time

import machine
from micropython import const

_FILE = const("/crash.log")
_KEEP = const(2048)  # characters of earlier crashes
_LONGEST_S = const(300)
_STEADY_S = const(600)  # who ran so long did not crash at once: the pauses begin anew
_MARK = const("restart in ")


def restart(fault, seconds, rest):
    """Log `fault`, wait and start the board anew.

    seconds  how long the server ran
    rest     feeds the watchdog
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
    except Exception:  # there is none, or it is broken, or there is no memory to read it
        pass
    try:
        with open(_FILE, "w") as file:
            file.write("%sran for %d s, %s%d s\n" % (earlier, seconds, _MARK, pause))
            sys.print_exception(fault, file)
    except Exception:  # the flash is full, or worn out: so nobody knows what the last pause was
        pause = _LONGEST_S
    print("the server crashed, see %s: %s%d s, Ctrl-C for the prompt" % (_FILE, _MARK, pause))
    rest()
    time.sleep(pause)
    machine.reset()
