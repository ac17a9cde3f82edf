"""What becomes of a crash of the whole server: /crash.log, a pause that grows, a new start.

Imported when it happens only; until then it takes no memory.
"""

import gc
import sys
import time

import machine
from micropython import const

_FILE = "/crash.log"
_KEEP = const(2048)  # characters of earlier crashes
_LONGEST_S = const(300)
_STEADY_S = const(600)  # who ran so long did not crash at once: the pauses begin anew
_MARK = "restart in "


def _write(fault, seconds):
    """Add `fault` to the log; `seconds` is how long the server ran. Returns the pause in seconds
    before it is to start again."""
    earlier = ""
    pause = 1
    try:
        with open(_FILE) as file:
            earlier = file.read()[-_KEEP:]
        if seconds < _STEADY_S and _MARK in earlier:
            pause = min(2 * int(earlier.rsplit(_MARK, 1)[1].split(" ")[0]), _LONGEST_S)
    except (OSError, ValueError):  # there is none, or it is broken
        pass
    try:
        with open(_FILE, "w") as file:
            file.write("%sran for %d s, %s%d s\n" % (earlier, seconds, _MARK, pause))
            sys.print_exception(fault, file)
    except OSError:  # the flash is full, or worn out: so nobody knows what the last pause was
        pause = _LONGEST_S
    return pause


def restart(fault, seconds, rest):
    """Log `fault`, wait and start the board anew; `rest`: feeds the watchdog. As _write()."""
    gc.collect()
    sys.print_exception(fault)
    pause = _write(fault, seconds)
    print("the server crashed, see %s: restart in %d s, Ctrl-C for the prompt" % (_FILE, pause))
    rest()
    time.sleep(pause)
    machine.reset()
