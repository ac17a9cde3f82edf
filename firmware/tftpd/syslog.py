"""Sends the lines of the journal to a syslog server: RFC 5424 over UDP (RFC 5426). Loaded only
where the setting `syslog` is set.

They go out of the listening socket, as a Pico W has three in all. A line that can't be sent is
counted, and never logged.
"""

from socket import getaddrinfo
from time import gmtime, ticks_diff, ticks_ms, time

from micropython import const

from .journal import INFO
from .transfer import DONE, PROBED

_DAEMON = const(24)  # RFC 5424 section 6.2.1: the facility times eight, and then the severity
_LINES = const(20)  # that are sent in a second
_LONGEST = const(800)  # characters of a line: what fits into one frame


def follow(server):
    """Send what the journal of `server` (Server) prints from now on to its setting `syslog`."""
    listener = server.ports.listener
    host, _, port = server.settings["syslog"].partition(":")
    port = port or "514"
    client = getaddrinfo(host, int(port))[0][-1]
    name = server.settings["hostname"]
    now = ticks_ms()  # when the second began in which
    left = _LINES  # so many may still be sent
    lost = 0

    def tell(level, line):
        nonlocal now, left, lost
        line = line.split(" ", 1)[1]  # without the time since the start
        # What comes from there could be an echo of our own lines.
        if line.startswith(host + ":" + port + " "):
            return
        if not 0 <= ticks_diff(ticks_ms(), now) < 1000:
            now = ticks_ms()
            left = _LINES
        severity = 5  # notice
        if level >= INFO:  # warning, informational, debug
            good = ": %s, " % DONE in line or ": %s, " % PROBED in line
            severity = 7 if level > INFO else 6 if good else 4
        began = "%d-%02d-%02dT%02d:%02d:%02dZ" % gmtime(time())[:6]
        if began < "2024":  # the clock is not set
            began = "-"
        if lost:
            line = "(%d lines lost) %s" % (lost, line)
        lost += 1
        if left and listener.sock:
            left -= 1
            line = "<%d>1 %s %s tftpd - - - %s" % (
                _DAEMON + severity,
                began,
                name,
                line[:_LONGEST],
            )
            try:
                listener.sock.sendto(line.encode(), client)
                lost = 0
            except (OSError, MemoryError):  # no link, or no memory in the network stack
                pass

    server.journal.also += (tell,)
