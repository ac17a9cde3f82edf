"""The server: its sockets, the poll loop, the timers and the limits. The only file that waits.

One thread. Requests come to the listening port. A transfer gets a port (TID) of its
own as RFC 1350 section 4 asks, while the board gives out sockets; a Pico W has 3 in all, and a
request that finds none left shares a port. Two kinds of sockets live on such a port:
- its own, which hears everyone: the transfers that share it, and strangers, who get ERROR 5;
- a `twin`, bound to the same number but connected to one client, which hears that client alone.
  readinto and write on it allocate nothing. Linux and lwIP hand a datagram to the connected socket
  first. Where no socket is left for a twin, the port's does its work with recvfrom and sendto.

Each socket that is polled costs an ESP32 0.17 ms a turn, a seventh of a block. So there are two
poll sets: one of all sockets, to wait on, and one of those that the transfers under way need, for
the turns that don't wait; while these go on and on, all are looked at now and then.
"""

import gc
import os
import select
import socket
import sys
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from .access import Ranges
from .journal import ALWAYS, DEBUG, INFO, Journal
from .options import Agreed
from .packet import (
    ACCESS,
    ILLEGAL,
    MAX_REQUEST,
    UNDEFINED,
    UNKNOWN_TID,
    WRQ,
    Refused,
    error,
    parse_request,
)
from .store import Store
from .transfer import DONE, ReadAhead, ReadTransfer
from .upload import WriteTransfer

_LISTEN_MS = const(20)  # while transfers keep it busy, new requests and strangers wait so long,
_ALONE_MS = const(40)  # and so long while a single transfer goes on and on
_TICK_MS = const(1000)
# After a transfer has sent something the answer is looked for so often without waiting, 0.1 to 6
# ms: an ESP32 that waits wakes at its next tick, 10 ms later (docs/performance.md). Where waits
# are exact, half as often each time that nothing came.
_EAGER_TURNS = const(32)
_BURST = const(16)  # datagrams taken from one socket before the others have their turn
_WAITING = const(4)  # of these, how many are taken at most before they are answered
_ROOM = const(64)  # bytes of a datagram that are received where no upload needs more
_SHARE_MS = const(4)  # in which a twin's client is heard again and again where others share a port
_RESERVE = const(2048)  # bytes of heap in one piece that a transfer must leave
_PROVE_MS = const(250)  # what a client gets to answer, when others want its place


def _host_port(address):
    """(host, port) of an address from recvfrom: a tuple, or on the Unix port a sockaddr_in."""
    if isinstance(address, tuple):
        return address[0], address[1]
    return "%d.%d.%d.%d" % tuple(address[4:8]), address[2] << 8 | address[3]


def _explained(trouble):
    """(code, text) of the ERROR that tells a client of an exception."""
    if isinstance(trouble, Refused):
        return trouble.code, trouble.text
    if isinstance(trouble, MemoryError):
        return UNDEFINED, "no memory just now, try again"
    if isinstance(trouble, OSError):
        return UNDEFINED, "can't read the file: %s" % trouble
    sys.print_exception(trouble)
    return UNDEFINED, "internal error: %s" % repr(trouble)


def _least_turns():
    """How often to look at least: once where a wait of 1 ms takes no more than 2."""
    nothing = select.poll()
    waits = []
    for _ in range(4):  # of which one may have been to the next tick, or be late
        started = ticks_ms()
        nothing.poll(1)
        waits.append(ticks_diff(ticks_ms(), started))
    return 1 if sorted(waits)[1] <= 2 else _EAGER_TURNS


class _Port:
    """A UDP port: its socket (None while closed), its number, how many transfers use it, how much
    of a datagram is received (bytes), and what has been received and waits for its answer."""

    def __init__(self, tid, room=_ROOM):
        self.sock = None
        self.tid = tid
        self.users = 0
        self.room = room
        self.waiting = []


class _Session:
    """A transfer with its place on the network and what the journal wants to know of it."""

    def __init__(self, transfer, file, port, client, host, request, label, now):
        self.transfer = transfer
        self.file = file  # its source or sink
        self.client = client  # address as recvfrom gives it
        self.host = host  # the same as a text
        self.request = request  # the datagram, to know its repeat from a new one
        self.label = label  # for the journal; None once that has been told
        self.started = now
        self.port = port
        self.twin = None  # connected socket, or None
        self.send_from_port()

    def send_from_port(self):
        """Let the transfer do without a twin."""
        port = self.port
        client = self.client
        # No method, which would look for all this on its self.
        self.transfer.send = lambda packet: port.sock.sendto(packet, client)


class Server:
    """Serves the files below `settings["root"]` over TFTP.

    settings   dict as settings.load() gives it: address, port, single_port, root, client_folders,
               transfers, transfers_per_client,
               blksize, windowsize, read_ahead, timeout (s), retries, log, read_from,
               and for uploads wrq_windowsize, write_from, write_to, overwrite, write_limit,
               keep_free
    """

    def __init__(self, settings):
        self._settings = settings
        self._store = Store(settings)
        self._store.recover()
        self._may_read = Ranges(settings["read_from"])
        self._may_write = Ranges(settings["write_from"])
        self._journal = Journal(settings["log"])
        self._poller = select.poll()  # all sockets
        self._needed = select.poll()  # those of them that the transfers under way need
        self._all = False  # in the next turn all are to be looked at
        self._behind = ()  # ports whose datagrams wait for their answer
        self._listener = _Port(settings["port"], MAX_REQUEST + 1)
        self._ports = {}  # socket: _Port, the listener's among them
        self._twins = {}  # socket: _Session
        self._sessions = []
        self._clients = {}  # address: _Session
        self._ahead = ReadAhead(max(settings["blksize"], settings["read_ahead"]))
        self._due = 0  # ticks_ms before which no transfer's timer is due
        self._alone = None  # what ipoll would give, where there is one twin and no other socket
        self._eager = 0  # turns that are still to be made without waiting
        self._turns = _EAGER_TURNS  # as many the next time
        self._least_turns = _least_turns()
        self._running = False

    # -- for the user

    def serve_forever(self, tick=None):
        """Serve until stop() is called. An exception, as Ctrl-C's, stops the server and goes on.

        `tick(server)` is called about once a second. Raises OSError if the port can't be opened.
        """
        self._running = True
        last = ticks_ms()
        try:
            while self._running:
                if self.poll(_TICK_MS):
                    continue
                now = ticks_ms()
                if ticks_diff(now, last) >= _TICK_MS:
                    last = now
                    self._journal.uptime_ms()
                    if tick:
                        tick(self)
        finally:
            self.stop()

    def poll(self, timeout_ms):
        """One turn of the loop: wait at most `timeout_ms` for something to do, and do it.

        While transfers are under way many a turn does not wait at all, and finds nothing.
        Returns False if there is time for something else before the next turn, as there is many
        times a second. Opens the port first if it is closed; raises OSError if that can't be done.
        """
        if self._listener.sock is None:
            settings = self._settings
            self._open(self._listener)
            self._journal.log(
                ALWAYS,
                "ready on %s:%d, files in %s",
                settings["address"],
                settings["port"],
                settings["root"],
            )
        until = None
        if self._sessions:
            now = ticks_ms()
            if self._alone:
                until = ticks_add(now, min(timeout_ms, _ALONE_MS))
            wait = ticks_diff(self._due, now)
            if wait < timeout_ms:
                timeout_ms = wait if wait > 0 else 0
        # Hot path.
        twins = self._twins
        behind = self._behind
        if behind:
            self._behind = ()
            timeout_ms = 0
        elif self._eager:
            self._eager -= 1
            timeout_ms = 0
            if not self._eager:
                self._turns = max(self._turns >> 1, self._least_turns)
        if timeout_ms or self._all:
            self._all = False
            ready = self._poller.ipoll(timeout_ms)
        else:  # to ask whether there is something to read takes an ESP32 longer than to read it
            ready = self._alone or self._needed.ipoll(0)
        now = ticks_ms()
        for sock, _ in ready:
            if sock in twins:
                self._hear_twin(twins[sock], until)
            else:
                port = self._ports.get(sock)
                if port and port not in behind:
                    behind += (port,)
                self._all = True  # a request seldom comes alone
        for port in behind:
            if port.sock and port is not self._listener:
                self._hear(port)
        if self._listener in behind:  # last: what the others say may make room
            self._hear(self._listener)
        if self._sessions:
            # As of the poll: what has come since may be what a timer waits for.
            if self._alone:  # pump() has looked for it
                now = ticks_ms()
            if ticks_diff(now, self._due) < 0:
                return True
            self._run_timers(now)
        return False

    def stop(self):
        """End all transfers with an ERROR to their clients and close every socket and file.

        poll() and serve_forever() start anew.
        """
        self._running = False
        now = ticks_ms()
        for session in list(self._sessions):
            if session.transfer.dallying(now):
                self._end(session, DONE)
            else:
                self._end(session, "the server stops", UNDEFINED)
        if self._listener.sock:
            self._close(self._listener)
            self._journal.log(ALWAYS, "stopped")

    def stats(self):
        """Counters since the start (dict of int), `uptime_ms`, and `transfers` under way."""
        counters = dict(self._journal.counters)
        counters["uptime_ms"] = self._journal.uptime_ms()
        counters["transfers"] = len(self._sessions)
        return counters

    # -- sockets

    def _socket(self, number, client=None):
        """A socket bound to port `number`. Raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if number != self._listener.tid:  # a twin wants to be bound to the same number
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(socket.getaddrinfo(self._settings["address"], number)[0][-1])
            if client:
                sock.connect(client)
            sock.setblocking(False)
        except Exception:
            sock.close()
            raise
        return sock

    def _open(self, port):
        port.sock = self._socket(port.tid)
        self._ports[port.sock] = port
        self._poller.register(port.sock, select.POLLIN)
        self._watch(port)

    def _watch(self, port):
        """Look at the socket of `port` in each turn if transfers need it."""
        sessions = self._sessions
        if sessions and all(s.twin for s in sessions if s.port is port):
            self._needed.unregister(port.sock)
        else:
            self._needed.register(port.sock, select.POLLIN)
        self._alone = ((sessions[0].twin, 0),) if len(sessions) == 1 and sessions[0].twin else None

    def _close(self, port):
        del self._ports[port.sock]
        self._poller.unregister(port.sock)
        self._needed.unregister(port.sock)
        port.sock.close()
        port.sock = None
        port.waiting = []

    def _open_twin(self, session):
        try:
            twin = self._socket(session.port.tid, session.client)
        except OSError:  # no socket left, or a system without twins: the port's socket does
            return
        session.twin = twin
        session.transfer.send = twin.write
        session.transfer.hear = twin.readinto
        self._twins[twin] = session
        self._poller.register(twin, select.POLLIN)
        self._needed.register(twin, select.POLLIN)

    def _close_twin(self, session):
        twin = session.twin
        if twin:
            session.twin = session.transfer.hear = session.transfer.until = None
            session.send_from_port()
            del self._twins[twin]
            self._poller.unregister(twin)
            self._needed.unregister(twin)
            twin.close()

    def _new_port(self):
        """A port with a number of its own, or the least used one if the board has no socket."""
        taken = [port.tid for port in self._ports.values()]
        for _ in range(4):
            port = _Port(int.from_bytes(os.urandom(2), "big") | 0xC000)  # RFC 6335: dynamic
            if port.tid not in taken:
                try:
                    self._open(port)
                    return port
                except OSError:  # the number is taken, or no socket is left
                    pass
        ports = [port for port in self._ports.values() if port is not self._listener]
        return min(ports, key=lambda port: port.users) if ports else self._listener

    # -- requests

    def _hear(self, port):
        """Some datagrams on a socket that hears everyone: to ask anew for each takes long."""
        # Hot path where transfers share a port.
        recvfrom = port.sock.recvfrom
        room = port.room
        listening = port is self._listener
        clients = self._clients
        # A Pico W's socket queues four, and others come while one is answered: some wait here.
        most = _WAITING if room == _ROOM else 0
        waiting = port.waiting
        more = True
        session = None
        try:
            for _ in range(_BURST):
                if more:
                    try:
                        waiting.append(recvfrom(room))
                        while len(waiting) <= most:
                            waiting.append(recvfrom(room))
                    # No more; or an ICMP message about an earlier packet; or it is lost.
                    except (OSError, MemoryError):
                        more = False
                        if not waiting:
                            break
                elif not waiting:
                    break
                datagram, client = waiting.pop(0)
                if not datagram:
                    # After one an ESP32's socket never receives again (seen on v1.24.0 and
                    # v1.25.0: recvfrom gives b"" for ever): a new one. Elsewhere it does no harm.
                    try:
                        datagram, client = recvfrom(room)
                    except OSError:
                        continue
                    if not datagram:
                        self._close(port)
                        self._open(port)
                        break
                session = clients.get(client)
                asks = listening and datagram[:2] in (b"\0\1", b"\0\2")  # RRQ, WRQ
                if asks or not session or session.port is not port:
                    self._hear_other(port, datagram, client, session)
                    if listening:  # what a request has begun comes first
                        break
                else:
                    size = session.transfer.pump(datagram)
                    if size is not None:
                        self._attend(session, datagram, size)
                        if not port.sock:
                            break
                session = None
        except Exception as trouble:
            code, text = _explained(trouble)
            if session:
                self._end(session, text, code)
        if port.waiting:
            self._behind += (port,)
        self._look()

    def _hear_twin(self, session, until):
        """What one client said: an ACK, or the head of something else. Hot path."""
        transfer = session.transfer
        if session.port.users > 1:
            until = ticks_add(ticks_ms(), _SHARE_MS)
        transfer.until = until
        inbox = self._ahead.inbox
        try:
            size = transfer.hear(inbox)
            if size is None:
                return
            if size == 0:
                size = transfer.hear(inbox)
        except OSError:  # an ICMP message about an earlier packet: the timers know better
            return
        if size == 4:
            self._drive(session, inbox)
        elif size == 0:  # deaf, as in _hear()
            self._close_twin(session)
            self._open_twin(session)
            self._watch(session.port)
            self._drive(session)

    def _hear_other(self, port, datagram, client, session):
        """A request, or a datagram from a stranger."""
        host, number = _host_port(client)
        first = int(host.split(".")[0])
        if number == 0 or first == 0 or first >= 224:  # nobody, multicast, broadcast: no answer
            self._journal.count("garbage")
        elif port is self._listener:
            self._request(datagram, client, host, number, session, ticks_ms())
        elif datagram[:2] != b"\0\5":  # no ERROR to an ERROR
            self._journal.count("garbage")
            self._reply(port.sock, client, UNKNOWN_TID, "unknown transfer ID")

    def _request(self, datagram, client, host, number, session, now):
        if session and session.request == datagram and session.transfer.repeat_request(now):
            self._drive(session)
            return
        if session:
            done = session.transfer.dallying(now)
            self._end(session, DONE if done else "replaced by a new request")
        try:
            request = parse_request(datagram)
            if request:
                self._journal.count("requests")
                self._start(request, datagram, client, host, now)
            else:
                self._journal.count("garbage")
            return
        except Exception as trouble:
            code, text = _explained(trouble)
        self._journal.count("refused")
        self._journal.log(INFO, "%s:%d %s refused: %s", host, number, repr(datagram[2:66]), text)
        self._reply(self._listener.sock, client, code, text)

    def _start(self, request, datagram, client, host, now):
        opcode, name, mode, asked = request
        settings = self._settings
        upload = opcode == WRQ
        if host not in (self._may_write if upload else self._may_read):
            what = "takes no uploads from" if upload else "is not for"
            raise Refused(ACCESS, "this server %s you" % what)
        if mode == "binary":  # lwIP's client
            mode = "octet"
        if mode not in ("octet", "netascii"):
            raise Refused(ILLEGAL, "mode not supported, use octet or netascii")
        own = [session for session in self._sessions if session.host == host]
        self._make_room(own, settings["transfers_per_client"], host, now)
        self._make_room(self._sessions, settings["transfers"], host, now)
        # What is to stay must not come to lie among garbage, or it cuts the heap to pieces.
        if self._sessions:  # else the end of the last one has collected it
            gc.collect()
        store = self._store
        if upload:
            path = store.place(name, host)
            agreed = Agreed(asked, settings["blksize"], settings["wrq_windowsize"], upload=True)
            file = store.create(path, mode, agreed.tsize)
        else:
            path, size = store.find(name, host)
            if mode == "netascii":
                size = None  # not known before the file has been read
            agreed = Agreed(asked, settings["blksize"], settings["windowsize"], size)
            file = store.open(path, mode, agreed)
        try:
            limits = (agreed, settings["timeout"], settings["retries"], ticks_ms)
            if upload:
                transfer = WriteTransfer(file, *limits)
            else:
                transfer = ReadTransfer(file, self._ahead, *limits)
            served = path[len(settings["root"]) :]
            label = "%s %s %s %s" % ("WRQ" if upload else "RRQ", served, mode, agreed.text)
            bytearray(_RESERVE)  # or the next request could not even be heard, and refused
            port = self._listener if settings["single_port"] else self._new_port()
            session = _Session(transfer, file, port, client, host, datagram, label.rstrip(), now)
        except Exception:
            store.close(file)
            raise
        port.users += 1
        if upload:
            port.room = max(port.room, 4 + agreed.blksize + 1)
        elif port is not self._listener:
            self._open_twin(session)
        if not self._sessions:
            self._due = now
        self._sessions.append(session)
        self._clients[client] = session
        self._watch(self._listener)
        self._watch(port)
        self._eager = self._turns = _EAGER_TURNS
        self._drive(session)

    def _make_room(self, sessions, limit, host, now):
        """See that one more of `sessions`, for `host`, is within `limit`, or raise Refused."""
        if len(sessions) < limit:
            return
        for session in sessions:
            if session.transfer.dallying(now):
                self._end(session, DONE)
                return
        # Whoever asks and never answers, perhaps with a false address, keeps nobody out: the
        # oldest such transfer gives way, at once to a client that has fewer.
        hosts = [session.host for session in sessions]
        for session in sessions:
            late = ticks_diff(now, session.started) >= _PROVE_MS
            if not session.transfer.proven and (
                late or hosts.count(session.host) > hosts.count(host) + 1
            ):
                self._end(session, "has not answered, and gives way")
                return
        raise Refused(UNDEFINED, "busy with %d transfers, try again" % len(sessions))

    def _reply(self, sock, client, code, text):
        try:
            sock.sendto(error(code, text), client)
        except (OSError, MemoryError):  # lost like a packet on the air; the client asks again
            pass

    # -- transfers

    def _drive(self, session, word=None, late=None):
        """Let the transfer go on, with `word` from its client, or because it is due (`late`:
        ticks_ms), or end it. Hot path."""
        transfer = session.transfer
        try:
            if late is not None:
                transfer.expired(late)
            size = -1 if transfer.outcome else transfer.pump(word)
            if size is not None:
                self._attend(session, word, size)
        except Exception as trouble:  # a fault of ours ends one transfer, not the server
            code, text = _explained(trouble)
            self._end(session, text, code)
        self._look()

    def _attend(self, session, word, size):
        """See to what pump(word) left."""
        transfer = session.transfer
        while size and size > 0:
            now = ticks_ms()
            transfer.receive(word or self._ahead.inbox, size, now)
            word = None
            size = None if transfer.outcome else transfer.pump(None)
            if isinstance(transfer, WriteTransfer) and transfer.dallying(now):
                self._tell(session, DONE)  # it stays only to repeat its ACK
        if transfer.outcome:
            self._end(session, transfer.outcome)
        # If pump() left nothing it is due later: by _MARGIN_MIN_MS, which is _LISTEN_MS.
        elif ticks_diff(transfer.due, self._due) < 0:
            self._due = transfer.due

    def _look(self):
        """Look for answers without waiting, as often as it has been worth while."""
        if self._eager and self._turns < _EAGER_TURNS:
            self._turns <<= 1
        self._eager = self._turns

    def _run_timers(self, now):
        self._all = True
        wait = _LISTEN_MS
        sessions = self._sessions
        i = len(sessions)
        while i:  # backwards, for a transfer that ends leaves the list
            i -= 1
            session = sessions[i]
            left = ticks_diff(session.transfer.due, now)
            if left <= 0:
                self._drive(session, None, now)
                if session.transfer.outcome:
                    continue
                left = ticks_diff(session.transfer.due, now)
            if left < wait:
                wait = left
        self._due = ticks_add(now, wait)

    def _end(self, session, outcome, code=None):
        """Give back all that the transfer holds; with a `code` its client gets an ERROR."""
        port = session.port
        session.transfer.outcome = outcome
        self._store.close(session.file)  # takes long: who is interrupted here is ended by stop()
        self._sessions.remove(session)
        del self._clients[session.client]
        if self._ahead.owner is session.transfer:
            self._ahead.owner = None
        if code is not None:
            self._reply(port.sock, session.client, code, outcome)
        self._close_twin(session)
        port.users -= 1
        if port.users:
            self._watch(port)
        elif port is not self._listener:
            self._close(port)
        self._watch(self._listener)
        self._tell(session, outcome)
        if not self._sessions:
            gc.collect()
            self._journal.log(DEBUG, "idle, %d bytes of heap in use", gc.mem_alloc())

    def _tell(self, session, outcome):
        """The journal's line of a transfer, once."""
        if session.label:
            client = "%s:%d" % _host_port(session.client)
            ms = ticks_diff(session.transfer.progress, session.started)
            self._journal.finished(client, session.label, outcome, session.transfer, ms)
            session.label = None
