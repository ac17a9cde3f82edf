"""`machine` for the everyday board. A line that starts with a record separator asks the host to
reset the board or to set its watchdog."""

import sys
import time


def _ask_host(text):
    sys.stdout.write("\x1e" + text + "\n")


def reset():
    _ask_host("reset")
    while True:  # until the host ends the process
        time.sleep(1)


class WDT:
    """The host restarts the board when it is not fed for `timeout` milliseconds."""

    def __init__(self, id=0, timeout=5000):
        _ask_host("watchdog %d" % timeout)

    def feed(self):
        _ask_host("feed")


class Pin:
    """A pin of a Pico W that keeps the value it was given. An input is high, as with a pull-up and
    nothing connected."""

    IN = 0
    OUT = 1
    PULL_UP = 1

    def __init__(self, id, mode=IN, pull=-1):
        if id != "LED" and (isinstance(id, str) or not 0 <= id < 30):
            raise ValueError("invalid pin")
        self._value = 0 if mode == self.OUT else 1

    def value(self, value=None):
        if value is None:
            return self._value
        self._value = int(value)


class Timer:
    """A timer that never fires. It only turns the watchdog off: once the server has stopped, this
    board has no prompt for which to feed it."""

    def __init__(self, id=-1):
        pass

    def init(self, period=-1, callback=None):
        _ask_host("watchdog 0")
