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


class RTC:
    """The clock: what is set here is what `time` gives from then on."""

    def datetime(self, now):
        year, month, day, _, hour, minute, second, _ = now
        time.set(time.mktime((year, month, day, hour, minute, second, 0, 0)))  # pyright: ignore[reportAttributeAccessIssue]


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


class SDCard:
    """The card slot: a card is in it while the file `image` is there. `host`: the host's files,
    which can't be seen any more when a card is put in."""

    host = None
    image = ""

    def __init__(self, slot=1, width=1, sck=None, mosi=None, miso=None, cs=None, freq=20_000_000):
        self._file = None

    def info(self):
        if not self._file:
            self._file = self.host.open(self.image, "r+b")  # pyright: ignore[reportAttributeAccessIssue]
        return self._file.seek(0, 2), 512

    def _go(self, number):
        """To that block; raises OSError if the card was pulled out, even if it is back."""
        try:
            self.host.stat(self.image)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError:
            self.deinit()
        if not self._file:
            raise OSError(5, "no card")
        self._file.seek(number * 512)

    def readblocks(self, number, buffer):
        self._go(number)
        return self._file.readinto(buffer) == len(buffer)  # pyright: ignore[reportOptionalMemberAccess]

    def writeblocks(self, number, buffer):
        self._go(number)
        return self._file.write(buffer) == len(buffer)  # pyright: ignore[reportOptionalMemberAccess]

    def ioctl(self, operation, argument):
        if operation == 4:
            return self.info()[0] // 512
        return 512 if operation == 5 else 0

    def deinit(self):
        if self._file:
            self._file.close()
        self._file = None


class Timer:
    """A timer that never fires. It only turns the watchdog off: once the server has stopped, this
    board has no prompt for which to feed it."""

    def __init__(self, id=-1):
        pass

    def init(self, period=-1, callback=None):
        _ask_host("watchdog 0")
