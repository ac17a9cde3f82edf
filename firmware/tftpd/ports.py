"""The UDP ports of the server: their sockets, the wait for them, and the dispatch of what comes.
No other file waits.

A transfer gets a port (TID) of its own as RFC 1350 section 4 asks, while the board gives out
sockets; a Pico W has 3 in all, and a request that finds none left shares a port. Two kinds of
sockets live on such a port:
- its own, which hears everyone: the transfers that share it, and strangers, who get ERROR 5;
- a `twin`, bound to the same number but connected to one client, which hears that client alone.
  readinto and write on it allocate nothing. Linux and lwIP hand a datagram to the connected socket
  first. Where no socket is left for a twin, the port's own is connected: strangers get no ERROR
  then, and others can't share the port. On a port that is shared already it does the work of all
  with recvfrom and sendto.

Each socket that is polled costs an ESP32 0.17 ms a turn, a seventh of a block. So there are two
poll sets: one of all sockets, to wait on, and one of those that the transfers under way need, for
the turns that don't wait; every 20 ms one of these polls all sockets too.
"""

import gc
import os
import select
import socket
import sys
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from .journal import ALWAYS
from .packet import MAX_REQUEST, UNKNOWN_TID, error

# After a send, so many turns do not wait, 0.1 to 6 ms in all: an ESP32 that waits wakes at its
# next tick, 10 ms later (docs/performance.md). Elsewhere waits are exact: half as many each time
# that nothing came.
_EAGER_TURNS = const(32)
_ALONE_MS = const(40)  # how long a lone transfer may hear its own socket in one turn
_SHARE_MS = const(4)  # how long a transfer with a twin may, while others share its port
_BURST = const(16)  # datagrams taken from one socket before the others get their turn
_WAITING = const(5)  # datagrams taken from it before the first of them is answered
_ENDED = const(8)  # clients of finished transfers that are remembered
_ROOM = const(64)  # bytes of a datagram that are received where no upload needs more
_REQUEST_ROOM = const(1025)  # on the listening port: some clients fill their request with NULs
_MORE = const(5)  # bytes of an upload's datagram: its header, and one to see that it is too long
_ESP32 = sys.platform == "esp32"


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

    def __init__(self, transfer, file, client, host, request, label, began, now):
        self.transfer = transfer
        self.file = file  # its source or sink
        self.client = client  # address as recvfrom gives it
        self.host = host  # the same as a text
        self.request = request  # the datagram, to know its duplicate from a new one
        self.label = label  # for the journal; None once that has been told
        self.began = began  # uptime_ms of the journal
        self.started = now  # ticks_ms, to judge a client that has not answered
        self.port: "Port | None" = None  # until it joins
        self.twin = None  # the socket connected to its client, None without one


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
        self.sock: "socket.socket | None" = None
        self.tid = tid
        self.users = self.twins = 0
        self.room = room
        self.waiting = []


class Ports:
    """All the ports, and the transfers that use them.

    listener  Port that requests come to
    sessions  [Session] of the transfers under way, the oldest first
    clients   {address: Session} of the same
    bound     {socket: Port} of the ports that are open
    twins     {socket: Session} of the connected sockets
    others    {socket: object} of sockets that are not of TFTP: go() is called when one is ready,
              close() when all are closed
    active    (socket, ...): those that are polled in each turn
    poller    the poll set of all sockets
    needed    that of those that the transfers under way need
    alone     what wait() gives without a poll: the only twin, if nothing else is to be done, and
              on an ESP32 `active`; else None
    poll_all  set it to have the next wait() poll all sockets
    due       ticks_ms at which turn() must be back while transfers are under way
    """

    others = {}  # replaced by what has such sockets
    active = ()

    def __init__(self, server):
        """`server`: Server, whose `settings` give the address of this host to bind to and the
        number of the listening port. It is called for a request, and for what is unusual."""
        self.server = server
        self.address = server.settings["address"]
        self.listener = Port(server.settings["port"], _REQUEST_ROOM)
        self.sessions = []
        self.clients = {}
        self.bound = {}
        self.twins = {}
        self.alone = None
        self.poll_all = False
        self.due = ticks_ms()
        self._ended = []  # addresses whose transfer has left a port that others still use
        self.poller = select.poll()
        self.needed = select.poll()
        self._eager = 0  # turns that are still to be made without waiting
        self._turns = _EAGER_TURNS  # as many the next time
        self._least_turns = _EAGER_TURNS if _ESP32 else 1
        self._generator = None

    def turn(self, timeout_ms):
        """Wait at most `timeout_ms` for datagrams, and give each to whom it is for. Opens the
        listening port first if it is closed; raises OSError if that can't be done.

        Returns the time (ticks_ms) to compare timers with.
        """
        if not (self._generator and self.listener.sock):
            self._begin()
        try:  # this frame has eleven words, see _run()
            return self._generator.send(timeout_ms)  # pyright: ignore[reportOptionalMemberAccess]
        except BaseException:  # as Ctrl-C's: the generator has ended
            self._generator = None
            raise

    # -- hot path

    def _run(self):
        """The generator behind turn(). It keeps its frame, where a function with more than eleven
        words of it allocates one per call (py/objfun.c in MicroPython): that took the everyday
        board 40 % of its time with eight clients.

        wait    until a socket has something, a timer is due, or the time is over
        twins   each connected socket gives an ACK to its transfer
        ports   each other socket gives its datagrams, a few in turn: to the transfers that share
                the port, to strangers an ERROR, and requests to the server. The listening port
                comes last, for what the others hear may free a place for a request
        yield   server.poll() runs the timers

        A transfer that returns True from pump() goes to server.attend(), one that raises to
        server.fail().
        """
        server = self.server
        listener = self.listener
        twins = self.twins
        clients = self.clients
        inbox = server.ahead.inbox
        pending = ()  # ports with datagrams that have been received and not been given
        now = 0
        while True:
            timeout_ms = yield now
            now = ticks_ms()
            until = None
            if self.sessions:
                if self.alone and not self.active:
                    until = ticks_add(now, min(timeout_ms, _ALONE_MS))
                timeout_ms = max(0, min(timeout_ms, ticks_diff(self.due, now)))
            ready = self.wait(0 if pending else timeout_ms)
            now = ticks_ms()
            readable = pending
            pending = ()
            given = False
            for sock, _ in ready:
                session = twins.get(sock)
                if session is None:  # `not` would look for a __bool__ of its class
                    port = self.bound.get(sock)
                    if port is None:
                        if sock in self.others:
                            self.others[sock].go()
                    elif port not in readable:
                        one = (port,)
                        readable = readable + one if port is listener else one + readable
                    continue
                transfer = session.transfer
                transfer.until = until
                if session.port.users > 1:
                    transfer.until = ticks_add(ticks_ms(), _SHARE_MS)
                try:
                    size = transfer.hear(inbox)
                except OSError as trouble:
                    if transfer.failed(trouble):
                        server.drive(session)
                    continue
                if size == 4:
                    given = True
                    try:  # server.drive() inlined: the frame of that call comes from the heap
                        if transfer.pump(inbox):
                            server.attend(session)
                    except Exception as trouble:
                        server.fail(session, trouble)
                elif size == 0:
                    self._mend_twin(session)
            for port in readable:
                given = True
                waiting = port.waiting
                # A Pico W's socket queues four datagrams, and more arrive while one is answered.
                # But five blocks of an upload would not fit into the heap.
                most = _WAITING if port.room < MAX_REQUEST else 1
                for _ in range(_BURST):
                    sock = port.sock
                    if not sock:
                        break
                    try:
                        for _ in range(most - len(waiting)):
                            waiting.append(sock.recvfrom(port.room))
                    except OSError:  # queue empty, or an ICMP error of an earlier packet
                        pass
                    except MemoryError:
                        self._hear_short(port)
                    if not waiting:
                        break
                    datagram, client = waiting.pop(0)
                    session = clients.get(client)
                    if session is not None and session.port is not port:
                        session = None
                    if port is listener and datagram[:2] in (b"\0\1", b"\0\2"):  # RRQ, WRQ
                        session = None
                    try:
                        if session is None or not datagram:
                            self._other(port, datagram, client)
                        elif session.transfer.pump(datagram):
                            server.attend(session)
                    except Exception as trouble:
                        server.fail(session, trouble)
                    if port is listener and session is None:
                        self.poll_all = True  # requests come in groups,
                        break  # and the new transfer goes first
                if port.waiting and port.sock:
                    pending += (port,)
            session = transfer = datagram = None  # this frame would keep them alive
            if given:
                self.look()
            # A datagram that came after the poll may be the answer that a timer waits for. A lone
            # transfer has just polled its socket, so for it the present time is right.
            if self.alone:
                now = ticks_ms()

    def wait(self, timeout_ms):
        """Wait for something to read, at most `timeout_ms`, or not at all while an answer may come
        at once. Gives (socket, event) for each socket that may have something."""
        if self._eager and (self.sessions or self.others):
            self._eager -= 1
            timeout_ms = 0
            if not self._eager:
                self._turns = max(self._turns >> 1, self._least_turns)
        if timeout_ms or self.poll_all or not self.sessions:
            self.poll_all = False
            return self.poller.ipoll(timeout_ms)
        # To ask whether there is something to read takes an ESP32 longer than to read it.
        return self.alone or self.needed.ipoll(0)

    def look(self):
        """Something was sent: look for the answer as often as it has been worth while."""
        if self._eager and self._turns < _EAGER_TURNS:
            self._turns <<= 1
        self._eager = self._turns

    # -- the unusual

    def _other(self, port, datagram, client):
        """Handle what is of no transfer on `port`: a request, a stranger's, or nothing at all."""
        if not datagram:
            self._mend(port)
            return
        peer = host_port(client)
        if port is not self.listener:
            if peer and datagram[:2] != b"\0\5" and client not in self._ended:
                self.reply(port, client, UNKNOWN_TID, "unknown transfer ID")
            peer = None
        # DATA, ACK and OACK came too late here: a client that acknowledges an ERROR would be
        # answered for ever.
        elif datagram[:2] in (b"\0\3", b"\0\4", b"\0\6"):
            peer = None
        # Two servers that send from their listening ports must not be made to talk to each other.
        if peer and not (peer[1] == port.tid and self.server.settings["single_port"]):
            self.server.request(datagram, client)
        else:
            self.server.journal.count("garbage")

    def _hear_short(self, port):
        """There is no memory for a datagram of `port.room` bytes: receive a short one all the
        same. A longer one is lost, and its sender gets an ERROR."""
        gc.collect()
        try:
            heard = port.sock.recvfrom(_ROOM)
            if len(heard[0]) < _ROOM:
                port.waiting.append(heard)
                return
            session = self.clients.get(heard[1])
            if port is self.listener and heard[0][:2] in (b"\0\1", b"\0\2"):
                if host_port(heard[1]):
                    self.server.refuse(None, *heard, MemoryError())
            elif session and session.port is port:
                self.server.fail(session, MemoryError())
        except (OSError, MemoryError):
            pass

    def _mend(self, port):
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

    def _mend_twin(self, session):
        """The same on a connected socket."""
        inbox = self.server.ahead.inbox
        try:
            size = session.transfer.hear(inbox)
        except OSError:
            size = None
        if size == 0:
            self._renew(session, True)
        if size is not None:
            self.server.drive(session, inbox if size == 4 else None)

    # -- opening and closing

    def socket(self, number, client=None):
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

    def _begin(self):
        generator = self._run()
        generator.send(None)
        self._generator = generator
        if not self.listener.sock:
            self.open(self.listener)
            where = map(self.server.settings.get, ("address", "port", "root"))
            self.server.journal.log(ALWAYS, "ready on %s:%d, files in %s", *where)

    def open(self, port):
        """Give the port its socket. Raises OSError."""
        port.sock = self.socket(port.tid)
        try:
            self.bound[port.sock] = port
            self.poller.register(port.sock, select.POLLIN)
            self.watch(port)
        except Exception:
            self.close(port)
            raise

    def close(self, port):
        """Close its socket."""
        self.bound.pop(port.sock, None)
        self.poller.unregister(port.sock)
        self.needed.unregister(port.sock)
        port.sock.close()
        port.sock = None

    def close_all(self):
        """Close every socket and forget every transfer, also what Ctrl-C has left half open."""
        for session in list(self.twins.values()):
            self._close_twin(session)
        for one in list(self.bound.values()):
            self.close(one)
        for one in list(self.others.values()):
            one.close()
        self.sessions.clear()
        self.clients.clear()

    def reply(self, port, client, code, text):
        """Send an ERROR, once. If it can't be sent it counts as lost on the air."""
        try:
            if port.sock:
                port.sock.sendto(error(code, text), client)
        except (OSError, MemoryError):
            pass

    def refuse(self, client, code, text):
        """Send an ERROR to who has no transfer, from a port of its own as RFC 1350 section 4 has
        it; from the listening port with single_port, or if the board has no socket left."""
        sock = None
        try:
            if not self.server.settings["single_port"]:
                sock = self.socket(int.from_bytes(os.urandom(2), "big") | 0xC000)
        except (OSError, MemoryError):
            pass
        if not sock:
            self.reply(self.listener, client, code, text)
            return
        try:
            sock.sendto(error(code, text), client)
        except (OSError, MemoryError):  # counts as lost, too
            pass
        sock.close()

    def new(self):
        """A port with a number of its own, or the least used one if the board has no socket."""
        taken = [port.tid for port in self.bound.values()]
        for _ in range(4):
            port = Port(int.from_bytes(os.urandom(2), "big") | 0xC000)  # RFC 6335: dynamic
            if port.tid not in taken:
                try:
                    self.open(port)
                    return port
                except OSError:  # the number is taken, or no socket is left
                    pass
        shared = self.listener
        for sock, port in self.bound.items():
            if port is self.listener or sock in self.twins:
                continue
            if shared is self.listener or port.users < shared.users:
                shared = port
        return shared

    def join(self, session):
        """The session's transfer begins: it is to use the session's port."""
        transfer = session.transfer
        port = session.port
        port.users += 1
        if transfer.path:
            port.room = max(port.room, transfer.blksize + _MORE)
        self.clients[session.client] = session
        self.sessions.append(session)
        self._turns = _EAGER_TURNS
        # No twin on the listening port, nor for an upload: readinto could join two of its blocks.
        self._renew(session, port is not self.listener and not transfer.path)

    def _renew(self, session, twin):
        """Let the session's transfer send and hear with a new twin, or without one."""
        self._close_twin(session)
        port = session.port
        client = session.client
        # A closure is faster than a method, which would look these up on its self.
        session.transfer.attach(lambda packet: port.sock.sendto(packet, client), None)
        if twin:
            self._open_twin(session)
        self.watch(port)

    def leave(self, session, told):
        """The session has ended: close what nobody uses any more. `told`: its client got an
        ERROR; else its late packets on a port that others use are no stranger's."""
        self._close_twin(session)
        self.clients.pop(session.client, None)
        self.sessions.remove(session)
        port = session.port
        port.users -= 1
        if port.users and not told:  # no ERROR 5 for its late packets there
            self._ended = self._ended[1 - _ENDED :] + [session.client]
        port.room = _REQUEST_ROOM if port is self.listener else _ROOM
        for other in self.sessions:
            if other.transfer.path and other.port is port:
                port.room = max(port.room, other.transfer.blksize + _MORE)
        if not port.users and port.sock and port is not self.listener:
            self.close(port)
        self.watch(port)

    def _open_twin(self, session):
        port = session.port
        try:
            twin = self.socket(port.tid, session.client)
        except (OSError, MemoryError):  # no socket left, or a system without twins
            if port.users > 1:
                return
            try:
                twin = port.sock
                twin.connect(session.client)
            except OSError:
                return
        session.twin = twin
        session.transfer.attach(twin.write, twin.readinto)
        port.twins += 1
        self.twins[twin] = session
        self.poller.register(twin, select.POLLIN)
        self.needed.register(twin, select.POLLIN)

    def _close_twin(self, session):
        twin = session.twin
        if twin:
            session.twin = session.transfer.until = None
            session.port.twins -= 1
            del self.twins[twin]
            self.poller.unregister(twin)
            self.needed.unregister(twin)
            if twin is not session.port.sock:
                twin.close()

    def watch(self, port):
        """Look at the socket of `port` in each turn if transfers need it."""
        if port.sock:  # None: it was deaf, and the board had no other
            if port.users > port.twins or port.sock in self.twins:
                self.needed.register(port.sock, select.POLLIN)
            else:
                self.needed.unregister(port.sock)
        alone = len(self.sessions) == len(self.twins) == 1 and (_ESP32 or not self.active)
        self.alone = (
            tuple([(sock, 0) for sock in list(self.twins) + list(self.active)]) if alone else None
        )
