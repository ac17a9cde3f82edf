"""Sets the clock from the setting `ntp`: SNTP, RFC 4330 and 5905. Loaded only where that is set.

It never waits: the answer is looked for once a second, and the time since the request is added.
So the clock is right to the second where the answer takes less than that, as in a local network.
"""

import socket
from os import urandom
from time import gmtime, ticks_diff, ticks_ms

import machine
from micropython import const

from .journal import ALWAYS

_SECONDS = const(4)  # in which an answer must come
_SOON = const(64)  # seconds until the next request, without an answer
_LATER = const(14400)  # and with one
_TO_1970 = const(2208988800)  # seconds from 1900, where NTP's time begins
_TO_2000 = const(3155673600)
_TO_2024 = const(3913056000)  # what seems earlier has wrapped, in 2036


def also(tick):
    """A function for Server.serve_forever() that does what `tick` does, and keeps the clock."""
    run = []

    def both(server):
        if not run:
            run.append(_keeping(server))
        next(run[0])
        tick(server)

    return both


def _keeping(server):
    """A generator: what it does in each second."""
    host, _, port = server.settings["ntp"].partition(":")
    address = socket.getaddrinfo(host, int(port or "123"))[0][-1]
    told = None
    while True:
        wait = _SOON
        text = "no answer"
        sock = None
        request = urandom(8)  # as our time: the server repeats it
        began = ticks_ms()
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(address)
            sock.send(b"\x23" + bytes(39) + request)  # version 4, a client
        except OSError:  # no link, for one
            text = text if sock else "no socket is left"
        for _ in range(_SECONDS):
            yield
            try:
                data = sock.recv(48)  # pyright: ignore[reportOptionalMemberAccess]
            except (OSError, AttributeError):
                continue
            if len(data) == 48 and data[0] & 7 == 4 and data[24:32] == request:  # 4: a server
                wait = _LATER
                text = "has no time"  # or wants to be asked less often
                value = int.from_bytes(data[40:44], "big")
                if data[0] < 0xC0 and 0 < data[1] < 16 and value:
                    if value < _TO_2024:
                        value += 1 << 32
                    value += (ticks_diff(ticks_ms(), began) + data[44] * 4 + 500) // 1000
                    now = gmtime(value - (_TO_2000 if gmtime(0)[0] == 2000 else _TO_1970))
                    machine.RTC().datetime(now[:3] + now[6:7] + now[3:6] + (0,))
                    text = "the clock is set"
                break
        if sock:
            sock.close()
        if text != told:
            told = text
            server.journal.log(ALWAYS, "ntp: %s: %s", host, text)
        for _ in range(wait):
            yield
