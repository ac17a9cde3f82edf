"""What the server says on the console, and what it counts. Nothing is logged per block."""

from time import ticks_diff, ticks_ms

from .transfer import DONE, PROBED

ALWAYS = -1  # tools wait for these lines
INFO = 2
DEBUG = 3


class Journal:
    """Log lines up to a level, each with the seconds since the journal began, and counters.

    counters  dict of int: requests, refused, done, failed (transfers by how they ended), bytes
              (delivered), resent (packets), garbage (datagrams that were no part of anything)
    """

    def __init__(self, level):
        """`level`: "error", "warning", "info" or "debug"."""
        self._level = ("error", "warning", "info", "debug").index(level)
        self._last = ticks_ms()
        self._uptime_ms = 0
        names = ("requests", "refused", "done", "failed", "bytes", "resent", "garbage")
        self.counters = {name: 0 for name in names}

    def uptime_ms(self):
        """Milliseconds since the journal began. To be called every few days: ticks_ms wraps."""
        now = ticks_ms()
        self._uptime_ms += ticks_diff(now, self._last)
        self._last = now
        return self._uptime_ms

    def log(self, level, text, *values):
        """Print `text % values` if `level` (ALWAYS to DEBUG) is not above the chosen one."""
        if level <= self._level:
            now = self.uptime_ms()
            print("%d.%03d" % (now // 1000, now % 1000), text % values if values else text)

    def count(self, name, number=1):
        """Add `number` to the counter called `name`."""
        self.counters[name] += number

    def finished(self, session, outcome):
        """The one line of a transfer that has ended, once.

        session   ports.Session; its `label` is "host:port RRQ name mode options"
        outcome   how it ended: DONE, PROBED, or what somebody may want to look into
        """
        label = session.label
        if not label:
            return
        session.label = None
        transfer = session.transfer
        ms = ticks_diff(transfer.progress, session.started)
        self.count("done" if outcome in (DONE, PROBED) else "failed")
        delivered = transfer.delivered()
        self.count("bytes", delivered)
        self.count("resent", transfer.resent)
        if transfer.peer_error is not None:
            outcome += ", ERROR %d" % transfer.peer_error
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
