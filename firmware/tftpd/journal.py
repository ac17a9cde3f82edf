"""The server's log, printed on the console, and its counters. Nothing is logged per block.

A line takes 9 ms on a console of 115,200 baud, and nothing is served meanwhile. So lines that any
host can cause are limited per second; the others are counted and reported in one line.
"""

from time import ticks_diff, ticks_ms

from micropython import const

from .packet import WRQ
from .transfer import DONE, PROBED

ALWAYS = -1  # at every level: tools wait for these lines
INFO = 2
DEBUG = 3
_SECOND_MS = const(1000)
_WRAP_MS = const(1 << 30)  # period of ticks_ms
_LINES = const(8)  # per second that any host can cause; 1 while more are held back
_LONGEST = const(128)  # characters of a name that are printed


def _shown(one):
    number = ord(one)
    if one in '"\\':
        return "\\" + one
    if (
        32 <= number < 127
        or (160 < number < 0x300 and number != 0xAD)
        or 0x370 <= number < 0x530
        or 0x3041 <= number < 0xD7A4
    ):
        return one
    return repr(one)[1:-1] if number < 128 else "\\u%04x" % number


def quoted(sent):
    """Return the text that a client sent (bytes) in quotes, safe to print.

    Only ASCII and letters of scripts written from left to right are printed as they are. All else
    is escaped, as it may be unprintable or forge a line. What is not UTF-8 is shown as bytes. A
    str (rules.py) is quoted already.
    """
    if isinstance(sent, str):
        return sent
    try:
        text = sent.decode()
    except UnicodeError:
        return repr(sent[:_LONGEST])
    # A loop over the text itself, or an index, would keep each character for good: see names.py.
    shown = [_shown(text[at : at + 1]) for at in range(min(len(text), _LONGEST))]
    return '"%s"%s' % ("".join(shown), "..." if len(text) > _LONGEST else "")


def label(opcode, name, mode, options):
    """Describe a request in a line. `name`: bytes; `options`: (name, value) pairs of bytes."""
    what = "%s %s %s" % ("WRQ" if opcode == WRQ else "RRQ", quoted(name), mode)
    if options:
        what += " " + quoted(b" ".join([b"=".join(pair) for pair in options]))[1:-1]
    return what


class Journal:
    """Prints log lines up to a level, each with the seconds since the start, and counts events.

    also      functions that are called with each line that was printed: its level, the line
    counters  dict of int: requests, refused, done, failed (transfers by how they ended), bytes
              (delivered), resent (packets), garbage (datagrams that are no request and belong to
              no transfer)
    """

    also = ()

    def __init__(self, level):
        """`level`: "error", "warning", "info" or "debug"."""
        self._level = ("error", "warning", "info", "debug").index(level)
        self._last = ticks_ms()
        self._uptime_ms = 0
        self._second = 0  # uptime_ms() when `_left` was last reset
        self._left = _LINES  # lines that may still be printed in this second
        self._untold = 0  # lines that were held back
        self._host = None  # the host of all of those; None if several
        names = ("requests", "refused", "done", "failed", "bytes", "resent", "garbage")
        self.counters = {name: 0 for name in names}

    def uptime_ms(self):
        """Milliseconds since the start. Call at least every 12 days, as ticks_ms wraps."""
        now = ticks_ms()
        passed = ticks_diff(now, self._last)
        self._uptime_ms += passed if passed >= 0 else passed + _WRAP_MS
        self._last = now
        if self._uptime_ms - self._second >= _SECOND_MS:
            self._second = self._uptime_ms
            untold = self._untold
            self._left = 1 if untold else _LINES
            if untold:
                self._untold = 0
                host = self._host or "several hosts"
                self.log(INFO, "%s: %d more refused or unanswered", host, untold)
        return self._uptime_ms

    def log(self, level, text, *values):
        """Print `text % values` unless `level` (ALWAYS to DEBUG) is above the journal's."""
        if level <= self._level:
            now = self.uptime_ms()
            text = "%d.%03d %s" % (now // 1000, now % 1000, text % values if values else text)
            print(text)
            for tell in self.also:
                tell(level, text)

    def may_tell(self, host):
        """Whether a line that any host can cause may be printed now; `host` (str) caused this one.

        If not, it is counted and reported later.
        """
        if self._level < INFO:
            return False
        self.uptime_ms()
        if self._left:
            self._left -= 1
            return True
        self._host = host if self._untold == 0 or self._host == host else None
        self._untold += 1
        return False

    def count(self, name, number=1):
        """Add `number` to the counter called `name`."""
        self.counters[name] += number

    def finished(self, session, outcome):
        """Log and count a transfer that has ended. Does nothing if called again.

        session   ports.Session; its `label` is 'host:port RRQ "name" mode options'
        outcome   how it ended: DONE, PROBED, or the text of a failure
        """
        label = session.label
        if not label:
            return
        session.label = None
        transfer = session.transfer
        silence = ticks_diff(ticks_ms(), transfer.progress)
        ms = max(self.uptime_ms() - session.began - silence, 0)
        self.count("done" if outcome in (DONE, PROBED) else "failed")
        delivered = transfer.delivered()
        self.count("bytes", delivered)
        self.count("resent", transfer.resent)
        error = transfer.peer_error
        if error is not None:
            outcome += ", ERROR %d" % (error[0] << 8 | error[1])
            if error[2:]:
                outcome += " " + quoted(error[2:].split(b"\0")[0])
        if transfer.proven or self.may_tell(session.host):
            self.log(
                INFO,
                "%s: %s, %d bytes in %d.%03d s, %d KB/s, %d resent",
                label,
                outcome,
                delivered,
                ms // 1000,
                ms % 1000,
                delivered // max(ms, 1),
                transfer.resent,
            )
