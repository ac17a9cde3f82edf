"""What the server says on the console, and what it counts. Nothing is logged per block."""

from time import ticks_diff, ticks_ms

ERROR = 0
WARNING = 1
INFO = 2
DEBUG = 3
LEVELS = ("error", "warning", "info", "debug")


class Journal:
    """Log lines up to a level, each with the time since the journal began, and counters by name in `counters`."""

    def __init__(self, level):
        """`level`: one of LEVELS."""
        self._level = LEVELS.index(level)
        self._last = ticks_ms()
        self._uptime_ms = 0
        self.counters = {
            "requests": 0,
            "refused": 0,
            "done": 0,
            "failed": 0,
            "bytes": 0,
            "resent": 0,
            "garbage": 0,
        }

    def uptime_ms(self):
        """Milliseconds since the journal began. Wants to be called every few days: ticks_ms wraps after 12."""
        now = ticks_ms()
        self._uptime_ms += ticks_diff(now, self._last)
        self._last = now
        return self._uptime_ms

    def log(self, level, text, *values):
        """Print `text % values` if `level` (ERROR to DEBUG) is not above the chosen one."""
        if level <= self._level:
            now = self.uptime_ms()
            print("%d.%03d" % (now // 1000, now % 1000), text % values if values else text)
