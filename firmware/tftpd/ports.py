"""The UDP ports of the server: their sockets, and how it waits for them. No other file waits.

A transfer gets a port (TID) of its own as RFC 1350 section 4 asks, while the board gives out
sockets; a Pico W has 3 in all, and a request that finds none left shares a port. Two kinds of
sockets live on such a port:
- its own, which hears everyone: the transfers that share it, and strangers, who get ERROR 5;
- a `twin`, bound to the same number but connected to one client, which hears that client alone.
  readinto and write on it allocate nothing. Linux and lwIP hand a datagram to the connected socket
  first. Where no socket is left for a twin, the port's does its work with recvfrom and sendto.

Each socket that is polled costs an ESP32 0.17 ms a turn, a seventh of a block. So there are two
poll sets: one of all sockets, to wait on, and one of those that the transfers under way need, for
the turns that don't wait; while these go on and on, all are looked at now and then.
"""

# What is called for a port is called for an open one.
# pyright: reportOptionalMemberAccess=false

import gc
import os
import select
import socket
import sys

from micropython import const

from .packet import error

# After a transfer has sent something the answer is looked for so often without waiting, 0.1 to 6
# ms: an ESP32 that waits wakes at its next tick, 10 ms later (docs/performance.md). Elsewhere
# waits are exact: half as often each time that nothing came.
_EAGER_TURNS = const(32)
_ROOM = const(64)  # bytes of a datagram that are received where no upload needs more
_REQUEST_ROOM = const(1025)  # on the listening port: some clients fill their request with NULs
_MORE = const(5)  # bytes of an upload's datagram: the header, and one that makes it too long


def host_port(address):
    """(host, port) of an address from recvfrom: a tuple, or on the Unix port a sockaddr_in. None
    for one that is never answered: port 0, nobody, multicast, broadcast."""
    host, port = address[:2]
    if not isinstance(address, tuple):
        host = "%d.%d.%d.%d" % tuple(address[4:8])
        port = address[2] << 8 | address[3]
    return (host, port) if port and 0 < int(host.split(".")[0]) < 224 else None


class Session:
    """A transfer with its place on the network and what the journal wants to know of it."""

    def __init__(self, transfer, file, port, client, host, request, label, began, now):
        self.transfer = transfer
        self.file = file  # its source or sink
        self.client = client  # address as recvfrom gives it
        self.host = host  # the same as a text
        self.request = request  # the datagram, to know its repeat from a new one
        self.label = label  # for the journal; None once that has been told
        self.began = began  # uptime_ms of the journal
        self.started = now  # ticks_ms, to judge a client that has not answered
        self.port = port
        self.twin = None  # as Ports has it


class Port:
    """A UDP port and the socket that hears everyone on it.

    sock     the socket, None while the port is closed
    tid      its number
    users    how many transfers use it
    twins    how many of these have a twin
    room     bytes of a datagram that are received
    waiting  [(datagram, address)] that have been received and not been given yet
    """

    def __init__(self, tid, room=_ROOM):
        self.sock: socket.socket | None = None
        self.tid = tid
        self.users = self.twins = 0
        self.room = room
        self.waiting = []


class Ports:
    """All the ports.

    listener  Port that requests come to
    heard     {socket: Port} of those that are open
    twins     {socket: Session}
    alone     what wait() gives where there is one twin and no other transfer, else None
    all       set it to have the next wait() look at all sockets
    behind    tuple of ports on which datagrams are waiting; wait() does not wait then
    """

    def __init__(self, address, number):
        """`address`: of this host to bind to; `number`: of the listening port."""
        self.address = address
        self.listener = Port(number, _REQUEST_ROOM)
        self.heard = {}
        self.twins = {}
        self.alone = None
        self.all = False
        self.behind: tuple = ()
        self.users = 0  # of all ports
        self._poller = select.poll()  # all sockets
        self._needed = select.poll()  # those of them that the transfers under way need
        self._eager = 0  # turns that are still to be made without waiting
        self._turns = _EAGER_TURNS  # as many the next time
        self._least_turns = _EAGER_TURNS if sys.platform == "esp32" else 1

    def wait(self, timeout_ms):
        """Wait for something to read, at most `timeout_ms`, or not at all while an answer may come
        at once. Gives (socket, event) for each socket that may have something. Hot path."""
        if self._eager and self.users:
            self._eager -= 1
            timeout_ms = 0
            if not self._eager:
                self._turns = max(self._turns >> 1, self._least_turns)
        if self.behind:
            timeout_ms = 0
        if timeout_ms or self.all or not self.users:
            self.all = False
            return self._poller.ipoll(timeout_ms)
        # To ask whether there is something to read takes an ESP32 longer than to read it.
        return self.alone or self._needed.ipoll(0)

    def look(self):
        """Something was sent: look for the answer as often as it has been worth while."""
        if self._eager and self._turns < _EAGER_TURNS:
            self._turns <<= 1
        self._eager = self._turns

    # -- opening and closing

    def _socket(self, number, client=None):
        """A socket bound to port `number`. Raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if number != self.listener.tid:  # a twin wants to be bound to the same number
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(socket.getaddrinfo(self.address, number)[0][-1])
            if client:
                sock.connect(client)
            sock.setblocking(False)
        except Exception:
            sock.close()
            raise
        return sock

    def open(self, port):
        """Give the port its socket. Raises OSError."""
        port.sock = self._socket(port.tid)
        self.heard[port.sock] = port
        self._poller.register(port.sock, select.POLLIN)
        self._watch(port)

    def close(self, port):
        """Close its socket."""
        del self.heard[port.sock]
        self._poller.unregister(port.sock)
        self._needed.unregister(port.sock)
        port.sock.close()
        port.sock = None

    def reply(self, port, client, code, text):
        """Send an ERROR, once: if it can't be sent it is lost, as on the air."""
        try:
            if port.sock:
                port.sock.sendto(error(code, text), client)
        except (OSError, MemoryError):
            pass

    def refuse(self, client, code, text):
        """Send an ERROR to who has no transfer, from a port of its own as RFC 1350 section 4 has
        it; from the listening port if the board has no socket left."""
        try:
            sock = self._socket(int.from_bytes(os.urandom(2), "big") | 0xC000)
        except (OSError, MemoryError):
            self.reply(self.listener, client, code, text)
            return
        try:
            sock.sendto(error(code, text), client)
        except (OSError, MemoryError):  # lost, as on the air
            pass
        sock.close()

    def hear_short(self, port):
        """There is no memory for a datagram of `port.room`: a short one is received all the same.
        Returns the first bytes of a longer one, which is lost, and its address; else two None."""
        gc.collect()
        try:
            heard = port.sock.recvfrom(_ROOM)
        except (OSError, MemoryError):
            return None, None
        if len(heard[0]) == _ROOM:
            return heard
        port.waiting.append(heard)
        return None, None

    def mend(self, port):
        """An empty datagram came: an ESP32's socket is deaf from then on, recvfrom gives b"" for
        ever (seen on v1.24.0 and v1.25.0). If the next is empty too the port gets a new socket,
        which elsewhere loses what is in its queue. Raises OSError."""
        try:
            port.waiting.append(port.sock.recvfrom(port.room))
        except (OSError, MemoryError):  # no more, as a rule
            pass
        if port.waiting and not port.waiting[0][0]:
            while port.waiting and not port.waiting[0][0]:
                del port.waiting[0]
            self.close(port)
            self.open(port)

    def new(self):
        """A port with a number of its own, or the least used one if the board has no socket."""
        taken = [port.tid for port in self.heard.values()]
        for _ in range(4):
            port = Port(int.from_bytes(os.urandom(2), "big") | 0xC000)  # RFC 6335: dynamic
            if port.tid not in taken:
                try:
                    self.open(port)
                    return port
                except OSError:  # the number is taken, or no socket is left
                    pass
        ports = [port for port in self.heard.values() if port is not self.listener]
        return min(ports, key=lambda port: port.users) if ports else self.listener

    def join(self, session, twin):
        """The session's transfer is to use its port, with a `twin` (bool) if there can be one."""
        port = session.port
        port.users += 1
        if session.transfer.path:
            port.room = max(port.room, session.transfer.blksize + _MORE)
        self.users += 1
        self._turns = _EAGER_TURNS
        self.renew(session, twin)

    def renew(self, session, twin=True):
        """Let the session's transfer send and hear with a new twin, or without one."""
        self._close_twin(session)
        port = session.port
        client = session.client
        # No method, which would look for all this on its self.
        session.transfer.send = lambda packet: port.sock.sendto(packet, client)
        if twin:
            self._open_twin(session)
        self._watch(port)

    def leave(self, session, others):
        """The session has ended, `others` have not: close what nobody uses any more."""
        self._close_twin(session)
        port = session.port
        port.users -= 1
        self.users -= 1
        rooms = [_REQUEST_ROOM if port is self.listener else _ROOM]
        for other in others:
            if other.transfer.path and other.port is port:
                rooms.append(other.transfer.blksize + _MORE)
        port.room = max(rooms)
        if not port.users and port.sock and port is not self.listener:
            self.close(port)
        self._watch(port)

    def _open_twin(self, session):
        port = session.port
        try:
            twin = self._socket(port.tid, session.client)
        # No socket left, no memory, or a system without twins: the port's socket does.
        except (OSError, MemoryError):
            return
        session.twin = twin
        session.transfer.send = twin.write
        session.transfer.hear = twin.readinto
        port.twins += 1
        self.twins[twin] = session
        self._poller.register(twin, select.POLLIN)
        self._needed.register(twin, select.POLLIN)

    def _close_twin(self, session):
        twin = session.twin
        if twin:
            session.twin = session.transfer.hear = session.transfer.until = None
            session.port.twins -= 1
            del self.twins[twin]
            self._poller.unregister(twin)
            self._needed.unregister(twin)
            twin.close()

    def _watch(self, port):
        """Look at the socket of `port` in each turn if transfers need it."""
        if port.sock:  # None: it was deaf, and the board had no other
            if port.users > port.twins:
                self._needed.register(port.sock, select.POLLIN)
            else:
                self._needed.unregister(port.sock)
        alone = self.users == len(self.twins) == 1
        self.alone = tuple([(twin, 0) for twin in self.twins]) if alone else None
