"""HTTP/1.1 beside TFTP: the same files for the same clients. This is the port, and who may
connect; connection.py, loaded with the first one, answers GET and HEAD, and put.py has the rest.

RFC 9110 (semantics), RFC 9112 (messages). Loaded only where the setting `http_port` is set. It
runs in the loop of ports.py, which calls go() when a socket is ready.
"""

import os
import socket
import sys
from select import POLLIN, POLLOUT
from time import ticks_diff, ticks_ms

from micropython import const

from .journal import ALWAYS
from .packet import RRQ
from .ports import host_port

RP2 = sys.platform == "rp2"
# An ESP32 has 10 sockets in all: two listen, and a TFTP transfer takes two.
_CONNECTIONS = {"rp2": 4, "esp32": 6}.get(sys.platform, 8)
_TCP = const(6)  # IPPROTO_TCP


def give_up(sock, why):
    """Send a last answer without a body, as far as the socket takes it. What the client has sent
    is read, for a socket that is closed with data resets the connection."""
    try:
        sock.write("HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % why)
        sock.recv(2048)
    except OSError:
        pass


def also(tick):
    """A function for Server.serve_forever() that does what `tick` does, if it is one, and serves
    HTTP from its first call on."""
    http = []

    def both(server):
        if not http:
            http.append(Http(server))
        http[0].tend()
        if tick:
            tick(server)

    return both


class Http:
    """The listening socket, and the connections."""

    def __init__(self, server):
        """`server`: Server, whose settings give http_port and hostname, and who may read."""
        self.server = server
        self.ports = ports = server.ports
        ports.others = dict(ports.others)
        self._busy = set()  # sockets that are polled in each turn
        self.ahead = server.ahead
        self.journal = server.journal
        self.readers = server.may[RRQ]
        self.connections = []
        self.nonce = "".join(["%02x" % one for one in os.urandom(4)])
        self._sock = None
        self._told = None

    def tend(self):
        """Once a second: open the port if it is closed, and give up clients that take too long."""
        if not self._sock:
            try:
                self._sock = self._listening(self.server.settings["http_port"])
                self.watch(self, self._sock, POLLIN)
                self.journal.log(ALWAYS, "http: port %d", self.server.settings["http_port"])
            except OSError as trouble:
                if repr(trouble) != self._told:
                    self._told = repr(trouble)
                    self.journal.log(ALWAYS, "http: can't listen: %s", trouble)
        now = ticks_ms()
        for connection in list(self.connections):
            left_ms = ticks_diff(connection.until, now)
            if left_ms <= 0 or connection.holds_up(left_ms):
                connection.expired()

    def tag(self, changed, size):
        """The ETag of a file of `size` bytes that was changed at the time `changed`."""
        return '"%s-%x-%x"' % (self.nonce, changed, size)

    def close(self):
        """Close everything."""
        for connection in list(self.connections):
            connection.close()
        if self._sock:
            self.watch(self, self._sock)
            self._sock.close()
            self._sock = None

    def watch(self, what, sock, events=0):
        """Have go() of `what` called when `sock` is ready for `events` (of select.poll), without
        them not any more. One that is to be written to is polled in each turn."""
        ports = self.ports
        for polled in (ports.poller, ports.needed):
            polled.unregister(sock)
        ports.others.pop(sock, None)
        self._busy.discard(sock)
        if events:
            ports.others[sock] = what
            ports.poller.register(sock, events)
        if events == POLLOUT:
            self._busy.add(sock)
            ports.needed.register(sock, events)
        ports.active = tuple(self._busy)
        ports.watch(ports.listener)

    def _listening(self, number):
        """A socket that listens on TCP port `number`. Raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(socket.getaddrinfo(self.ports.address, number)[0][-1])
            sock.listen(64 if sys.platform == "linux" else _CONNECTIONS)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock

    def go(self):
        """Somebody connects."""
        try:
            sock, address = self._sock.accept()  # pyright: ignore[reportOptionalMemberAccess]
            sock.setblocking(False)
            # A short file need not wait for the ACK of its head, 40 ms. On an RP2 this would write
            # through a null pointer if the client has just gone.
            if not RP2:
                sock.setsockopt(_TCP, getattr(socket, "TCP_NODELAY", 1), 1)
        except OSError:
            return
        peer = host_port(address)
        if len(self.connections) >= _CONNECTIONS:
            idle = [one for one in self.connections if one.idle]
            if idle:
                idle[0].close()
        if not peer or len(self.connections) >= _CONNECTIONS:
            give_up(sock, "503 Busy\r\nRetry-After: 2")
            sock.close()
            return
        from .connection import Connection

        connection = Connection(self, sock, peer[0], "%s:%d" % peer)
        self.connections.append(connection)
        connection.go()
