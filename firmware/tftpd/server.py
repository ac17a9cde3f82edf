"""The server: its sockets, the poll loop, the timers and the limits. The only file that waits.

One thread, one poll set. Requests come to the listening port. A transfer gets a port (TID) of its own as RFC 1350
section 4 asks, for as long as the board gives out sockets (a Pico W: 3 in all, a request that finds none left shares
one). On such a port two sockets may live:
- the `port` socket hears everyone: the transfers that share it, and strangers, who are told ERROR 5;
- a `twin`, bound to the same number but connected to one client, hears that client alone, and with readinto and write
  on it a block allocates nothing. lwIP and Linux hand a datagram to the connected socket first. Where there is no socket
  left for a twin, its work is done by the `port` socket, with recvfrom and sendto.
"""

import errno
import gc
import os
import select
import socket
import sys
from time import ticks_add, ticks_diff, ticks_ms

from . import journal
from .options import Agreed
from .packet import (
    ACCESS,
    ERROR,
    ILLEGAL,
    MAX_REQUEST,
    RRQ,
    UNDEFINED,
    UNKNOWN_TID,
    WRQ,
    Refused,
    const,
    error,
    parse_request,
)
from .store import Store
from .transfer import DONE, PROBED, ReadTransfer

_IDLE_MS = const(60_000)  # no transfer's timer is further away than the next look at the timers
_TICK_MS = const(1000)
_BUSY = (errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS)  # a send that may be tried again shortly


def _host_port(address):
    """(host, port) of an address from recvfrom: a tuple on boards, a packed sockaddr_in on the Unix port."""
    if isinstance(address, tuple):
        return address[0], address[1]
    return "%d.%d.%d.%d" % tuple(address[4:8]), address[2] << 8 | address[3]


class _Port:
    """A socket that hears everyone: its number (TID) and how many transfers live on it."""

    def __init__(self, sock, tid):
        self.sock = sock
        self.tid = tid
        self.users = 0


class _Session:
    """A transfer with its place on the network and what the journal wants to know of it."""

    def __init__(self, transfer, source, client, request, label, now):
        self.transfer = transfer
        self.source = source
        self.client = client  # address as recvfrom gives it
        self.request = request  # the datagram, to know its repeat from a new one
        self.label = label  # "name mode options" for the journal
        self.started = now
        self.port = None
        self.twin = None  # connected socket, or None
        self.inbox = bytearray(4)  # an ACK, or the head of an ERROR


class Server:
    """Serves the files below `settings["root"]` over TFTP.

    settings   dict as settings.load() gives it: address, port, single_port, root, transfers, blksize, windowsize,
               timeout (s), retries, log
    """

    def __init__(self, settings):
        self._settings = settings
        self._store = Store(settings["root"])
        self._journal = journal.Journal(settings["log"])
        self._listener = None
        self._running = False
        self._close_all()

    def _close_all(self):
        self._poller = select.poll()
        self._ports = []
        self._twins = {}  # socket: session
        self._sessions = []
        self._clients = {}  # address: session
        self._due = 0  # no transfer is due before; ticks_ms

    # -- for the user -------------------------------------------------------------------------------------------------

    def serve_forever(self, tick=None):
        """Serve until stop() is called; an exception (Ctrl-C) stops the server too, and goes on to the caller.

        `tick(server)` is called about once a second. Raises OSError if the port can't be opened.
        """
        self._running = True
        last = ticks_ms()
        try:
            while self._running:
                self.poll(_TICK_MS)
                now = ticks_ms()
                if ticks_diff(now, last) >= _TICK_MS:
                    last = now
                    self._journal.uptime_ms()
                    if tick:
                        tick(self)
        finally:
            self.stop()

    def poll(self, timeout_ms):
        """One turn of the loop: wait at most `timeout_ms` for something to do, and do it. Opens the port when need be."""
        if self._listener is None:
            self._open()
        if self._sessions:
            timeout_ms = min(timeout_ms, max(ticks_diff(self._due, ticks_ms()), 0))
        for sock, _ in self._poller.ipoll(timeout_ms):
            session = self._twins.get(sock)
            now = ticks_ms()
            if session is None:
                self._hear(sock, now)
                continue
            try:
                size = sock.readinto(session.inbox)
            except OSError:  # an ICMP message about an earlier packet: the timers know better
                continue
            if size:
                session.transfer.receive(session.inbox, size, now)
                self._drive(session, now)
        now = ticks_ms()
        if self._sessions and ticks_diff(now, self._due) >= 0:
            self._run_timers(now)

    def stop(self):
        """End all transfers with an ERROR to their clients and close every socket and file; poll() starts anew."""
        self._running = False
        for session in list(self._sessions):
            self._end(session, "the server stops", UNDEFINED)
        if self._listener:
            self._listener.sock.close()
            self._listener = None
            self._journal.log(journal.INFO, "stopped")
        self._close_all()

    def stats(self):
        """Counters since the start (dict of int), with `uptime_ms`, and `transfers` under way."""
        counters = dict(self._journal.counters)
        counters["uptime_ms"] = self._journal.uptime_ms()
        counters["transfers"] = len(self._sessions)
        return counters

    # -- sockets ------------------------------------------------------------------------------------------------------

    def _open(self):
        settings = self._settings
        self._listener = _Port(self._socket(settings["port"]), settings["port"])
        self._journal.log(journal.INFO, "ready on %s:%d, files in %s", settings["address"], settings["port"], settings["root"])

    def _socket(self, number, shared=False, client=None):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(socket.getaddrinfo(self._settings["address"], number)[0][-1])
            if client:
                sock.connect(client)
            sock.setblocking(False)
            self._poller.register(sock, select.POLLIN)
        except Exception:
            sock.close()
            raise
        return sock

    def _give_sockets(self, session):
        """A port for a new transfer, and a twin if the board has a socket to spare."""
        port = self._listener if self._settings["single_port"] else self._new_port()
        session.port = port
        port.users += 1
        if port is not self._listener:
            try:
                session.twin = self._socket(port.tid, True, session.client)
                self._twins[session.twin] = session
            except OSError:  # none left, or a system without such twins: the port's socket does
                pass

    def _new_port(self):
        taken = [port.tid for port in self._ports]
        for _ in range(4):
            tid = int.from_bytes(os.urandom(2), "big") | 0xC000  # dynamic ports, RFC 6335
            if tid not in taken and tid != self._settings["port"]:
                try:
                    port = _Port(self._socket(tid, True), tid)
                except OSError:  # the number is taken, or the board has no more sockets
                    continue
                self._ports.append(port)
                return port
        return min(self._ports, key=lambda port: port.users) if self._ports else self._listener

    def _close(self, sock):
        self._poller.unregister(sock)
        sock.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _hear(self, sock, now):
        """A datagram on a socket that hears everyone."""
        listening = sock is self._listener.sock
        try:
            datagram, client = sock.recvfrom(MAX_REQUEST + 1 if listening else 64)
        except OSError:  # gone in the meantime, or an ICMP message about an earlier packet
            return
        session = self._clients.get(client)
        opcode = datagram[1] if len(datagram) > 1 and not datagram[0] else 0
        if session and session.port.sock is sock and not (listening and opcode in (RRQ, WRQ)):
            session.transfer.receive(datagram, len(datagram), now)
            self._drive(session, now)
        elif listening:
            self._request(datagram, client, session, now)
        elif opcode != ERROR:
            self._count("garbage")
            self._reply(sock, client, UNKNOWN_TID, "unknown transfer ID")

    def _request(self, datagram, client, session, now):
        host, port = _host_port(client)
        first = int(host.split(".")[0])
        if port == 0 or first == 0 or first >= 224:  # nobody, multicast or broadcast: not to be answered
            self._count("garbage")
            return
        if session and session.request == datagram and session.transfer.repeat_request(now):
            self._drive(session, now)
            return
        if session:
            self._end(session, "replaced by a new request")
        try:
            request = parse_request(datagram)
            if request is None:
                self._count("garbage")
                return
            self._count("requests")
            self._start(request, datagram, client, now)
        except Refused as refusal:
            self._refuse(client, datagram, refusal.code, refusal.text)
        except MemoryError:
            self._refuse(client, datagram, UNDEFINED, "no memory just now, try again")
        except OSError as trouble:
            self._refuse(client, datagram, UNDEFINED, "can't open the file: %s" % trouble)

    def _start(self, request, datagram, client, now):
        opcode, name, mode, options = request
        settings = self._settings
        if opcode == WRQ:
            raise Refused(ACCESS, "this server takes no uploads")
        if mode == "binary":  # lwIP's client
            mode = "octet"
        if mode not in ("octet", "netascii"):
            raise Refused(ILLEGAL, "mode not supported, use octet or netascii")
        if len(self._sessions) >= settings["transfers"]:
            raise Refused(UNDEFINED, "busy with %d transfers, try again" % len(self._sessions))
        path, size = self._store.find(name)
        agreed = Agreed(options, settings["blksize"], settings["windowsize"], size if mode == "octet" else None)
        label = "%s %s %s" % (path[len(settings["root"]) :], mode, agreed.oack[2:].replace(b"\0", b" ").decode())
        source = self._store.open(path, mode, agreed.windowsize)
        try:
            transfer = ReadTransfer(source, agreed, settings["timeout"], settings["retries"], now)
            session = _Session(transfer, source, client, datagram, label, now)
            self._give_sockets(session)
        except Exception:
            source.close()
            raise
        if not self._sessions or ticks_diff(transfer.due, self._due) < 0:
            self._due = transfer.due
        self._sessions.append(session)
        self._clients[client] = session
        self._drive(session, now)

    def _refuse(self, client, datagram, code, text):
        self._count("refused")
        self._journal.log(journal.INFO, "%s:%d %s: refused, %s", *_host_port(client), repr(datagram[2:66]), text)
        self._reply(self._listener.sock, client, code, text)

    def _reply(self, sock, client, code, text):
        try:
            sock.sendto(error(code, text), client)
        except OSError:  # lost like a packet on the air; the client asks again
            pass

    def _count(self, what, number=1):
        self._journal.counters[what] += number

    # -- transfers ----------------------------------------------------------------------------------------------------

    def _drive(self, session, now):
        """Send what the transfer wants to send. Hot path: with a twin it allocates nothing."""
        transfer = session.transfer
        twin = session.twin
        try:
            while transfer.outcome is None:
                packet = transfer.outgoing()
                if packet is None:
                    break
                try:
                    if twin:
                        free = twin.write(packet) is not None
                    else:
                        session.port.sock.sendto(packet, session.client)
                        free = True
                except OSError as trouble:
                    # What isn't "try again" is a link that is down or an ICMP message: as good as lost on the air.
                    free = trouble.errno not in _BUSY
                if not free:
                    transfer.blocked(now)
                    break
                transfer.sent(now)
        except OSError as trouble:
            self._end(session, "can't read the file: %s" % trouble, UNDEFINED)
            return
        except Exception as trouble:  # a fault of ours ends one transfer, not the server
            sys.print_exception(trouble)
            self._end(session, "internal error: %s" % repr(trouble), UNDEFINED)
            return
        if transfer.outcome:
            self._end(session, transfer.outcome)
        elif ticks_diff(transfer.due, self._due) < 0:
            self._due = transfer.due

    def _run_timers(self, now):
        due = ticks_add(now, _IDLE_MS)
        i = len(self._sessions)
        while i:  # backwards, for a transfer that ends leaves the list
            i -= 1
            session = self._sessions[i]
            transfer = session.transfer
            if ticks_diff(now, transfer.due) >= 0:
                transfer.expired(now)
                self._drive(session, now)
            if transfer.outcome is None and ticks_diff(transfer.due, due) < 0:
                due = transfer.due
        self._due = due

    def _end(self, session, outcome, code=None):
        """Give back all that the transfer holds and write its line; with a `code` its client gets an ERROR."""
        transfer = session.transfer
        transfer.outcome = outcome
        if code is not None:
            self._reply(session.port.sock, session.client, code, outcome)
        session.source.close()
        self._sessions.remove(session)
        del self._clients[session.client]
        if session.twin:
            del self._twins[session.twin]
            self._close(session.twin)
        port = session.port
        port.users -= 1
        if not port.users and port is not self._listener:
            self._ports.remove(port)
            self._close(port.sock)
        self._count("done" if outcome in (DONE, PROBED) else "failed")
        self._count("bytes", transfer.delivered)
        self._count("resent", transfer.resent)
        if transfer.peer_error is not None:
            outcome += ", ERROR %d" % transfer.peer_error
        ms = max(ticks_diff(ticks_ms(), session.started), 1)
        self._journal.log(
            journal.INFO,
            "%s:%d RRQ %s: %s, %d bytes in %d.%03d s, %d KB/s, %d resent",
            *_host_port(session.client),
            session.label,
            outcome,
            transfer.delivered,
            ms // 1000,
            ms % 1000,
            transfer.delivered // ms,
            transfer.resent,
        )
        if not self._sessions:
            gc.collect()
            self._journal.log(journal.DEBUG, "idle, %d bytes of heap in use", gc.mem_alloc())
