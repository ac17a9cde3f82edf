"""The server: the poll loop, requests, the timers and the limits.

One thread. Requests come to the listening port, what transfers hear comes to theirs (ports.py).
"""

import gc
import sys
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from .access import Ranges, gives_way
from .journal import ALWAYS, DEBUG, INFO, Journal
from .options import Agreed
from .packet import ACCESS, MAX_REQUEST, RRQ, UNDEFINED, UNKNOWN_TID, WRQ, Refused, parse_request
from .ports import Ports, Session, host_port
from .store import Store
from .transfer import DONE, ReadAhead, ReadTransfer
from .upload import WriteTransfer

_LISTEN_MS = const(20)  # while transfers keep it busy, new requests and strangers wait so long,
_ALONE_MS = const(40)  # and so long while a single transfer goes on and on
_TICK_MS = const(1000)
_SHARE_MS = const(4)  # in which a twin's client is heard again and again where others share a port
_RESERVE = const(2048)  # bytes of heap in one piece that a transfer must leave
_BURST = const(16)  # datagrams taken from one socket before the others have their turn
_WAITING = const(5)  # how many are taken at most before the first of them is answered


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


class Server:
    """Serves the files below `settings["root"]` over TFTP.

    settings   dict as settings.load() gives it: address, port, single_port, root, client_folders,
               transfers, transfers_per_client,
               blksize, windowsize, read_ahead, timeout (s), retries, log, read_from,
               and for uploads wrq_windowsize, write_from, write_to, overwrite, write_limit,
               keep_free
    """

    def __init__(self, settings):
        self.settings = settings
        self.store = Store(settings)
        self.store.recover()
        self._may = {RRQ: Ranges(settings["read_from"]), WRQ: Ranges(settings["write_from"])}
        self.journal = Journal(settings["log"])
        self.ports = Ports(settings["address"], settings["port"])
        self._sessions = []
        self._clients = {}  # address: Session
        self.ahead = ReadAhead(max(settings["blksize"], settings["read_ahead"]))
        self._due = 0  # ticks_ms before which no transfer's timer is due
        self._running = False
        self._turns = None

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
                    self.journal.uptime_ms()
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
        if not self._turns:
            self._turns = self._run()
            self._turns.send(None)
        try:
            return self._turns.send(timeout_ms)
        except BaseException:  # as Ctrl-C's: the generator has ended
            self._turns = None
            raise

    def _run(self):
        """The generator behind poll(), which has its frame once: that of a function with more than
        eleven words comes from the heap for each call (py/objfun.c in MicroPython), which took the
        everyday board 40 % of its time with eight clients. Hot path, the exceptions apart."""
        ports = self.ports
        listener = ports.listener
        twins = ports.twins
        sessions = self._sessions
        clients = self._clients
        inbox = self.ahead.inbox
        more = False
        while True:
            timeout_ms = yield more
            if listener.sock is None:
                ports.open(listener)
                where = map(self.settings.get, ("address", "port", "root"))
                self.journal.log(ALWAYS, "ready on %s:%d, files in %s", *where)
            until = None
            if sessions:
                now = ticks_ms()
                if ports.alone:
                    until = ticks_add(now, min(timeout_ms, _ALONE_MS))
                wait = ticks_diff(self._due, now)
                if wait < timeout_ms:
                    timeout_ms = wait if wait > 0 else 0
            ready = ports.wait(timeout_ms)
            now = ticks_ms()
            behind = ports.behind
            ports.behind = ()
            something = False
            for sock, _ in ready:
                if sock not in twins:
                    port = ports.heard.get(sock)
                    if port and port not in behind:
                        behind += (port,)
                    continue
                session = twins[sock]
                transfer = session.transfer
                shares = session.port.users > 1
                transfer.until = ticks_add(ticks_ms(), _SHARE_MS) if shares else until
                try:
                    size = transfer.hear(inbox)
                    if size == 0:
                        size = transfer.hear(inbox)
                except OSError:  # an ICMP message about an earlier packet: the timers know better
                    continue
                if size == 4:
                    something = True
                    try:  # as _drive() does, for which its frame would come from the heap
                        size = transfer.pump(inbox)
                        # None: it is due later, by _MARGIN_MIN_MS, which is _LISTEN_MS.
                        if size is not None:
                            self._attend(session, inbox, size)
                    except Exception as trouble:
                        self._fail(session, trouble)
                elif size == 0:  # deaf, as Ports.mend() has it
                    ports.renew(session)
                    self._drive(session)
            if listener in behind:
                ports.all = True  # a request seldom comes alone
                if len(behind) > 1:  # last: what the others say may make room
                    behind = sorted(behind, key=lambda port: port is listener)
            for port in behind:
                something = True
                waiting = port.waiting
                # A Pico W's socket queues four, and others come while one is answered. Five of
                # an upload's usual blocks would be more than the heap has to spare.
                most = _WAITING if port.room < MAX_REQUEST else 1
                session = None
                try:
                    for _ in range(_BURST):
                        if not port.sock:
                            break
                        try:
                            while len(waiting) < most:
                                waiting.append(port.sock.recvfrom(port.room))
                        # No more; or an ICMP message about an earlier packet; or it is lost.
                        except (OSError, MemoryError):
                            pass
                        if not waiting:
                            break
                        datagram, client = waiting.pop(0)
                        if not datagram:
                            ports.mend(port)
                            continue
                        session = clients.get(client)
                        asks = port is listener and datagram[:2] in (b"\0\1", b"\0\2")  # RRQ, WRQ
                        if session and session.port is port and not asks:
                            size = session.transfer.pump(datagram)  # as above
                            if size is not None:
                                self._attend(session, datagram, size)
                        else:
                            self._request(port, datagram, client, session)
                            if port is listener:  # what a request has begun comes first
                                break
                        session = None
                # A fault of a transfer; or no memory to hear, nor to answer.
                except Exception as trouble:
                    self._fail(session, trouble)
                if port.waiting and port.sock:
                    ports.behind += (port,)
            session = transfer = datagram = None  # or they would stay in memory
            if something:
                ports.look()
            more = False
            if sessions:
                # As of the poll: what has come since may be what a timer waits for.
                if ports.alone:  # pump() has looked for it
                    now = ticks_ms()
                more = ticks_diff(now, self._due) < 0
                if not more:
                    self._run_timers(now)

    def stop(self):
        """End all transfers with an ERROR to their clients and close every socket and file.

        poll() and serve_forever() start anew.
        """
        self._running = False
        for session in list(self._sessions):
            self._end(session, "the server stops", UNDEFINED)
        if self.ports.listener.sock:
            self.ports.close(self.ports.listener)
            self.journal.log(ALWAYS, "stopped")

    def stats(self):
        """Counters since the start (dict of int), `uptime_ms`, and `transfers` under way."""
        journal = self.journal
        return dict(journal.counters, uptime_ms=journal.uptime_ms(), transfers=len(self._sessions))

    # -- requests

    def _request(self, port, datagram, client, session):
        """A request, or a datagram from a stranger."""
        now = ticks_ms()
        peer = host_port(client)
        if not peer or port is not self.ports.listener:
            self.journal.count("garbage")
            if peer and datagram[:2] != b"\0\5":  # no ERROR to an ERROR
                self.ports.reply(port, client, UNKNOWN_TID, "unknown transfer ID")
            return
        if session and session.request == datagram and session.transfer.repeat_request(now):
            self._drive(session)
            return
        try:
            request = parse_request(datagram)
            if not request:
                self.journal.count("garbage")
                return
            if session:
                self._end(session, "replaced by a new request")
            self.journal.count("requests")
            self._start(request, datagram, client, peer, now)
        except Exception as trouble:
            code, text = _explained(trouble)
            self.journal.count("refused")
            self.journal.log(INFO, "%s:%d %s refused: %s", *peer, repr(datagram[2:66]), text)
            self.ports.reply(port, client, code, text)

    def _start(self, request, datagram, client, peer, now):
        opcode, name, mode, asked = request
        host, number = peer
        settings = self.settings
        ports = self.ports
        upload = opcode == WRQ
        if host not in self._may[opcode]:
            what = "takes no uploads from" if upload else "is not for"
            raise Refused(ACCESS, "this server %s you" % what)
        own = [session for session in self._sessions if session.host == host]
        late = gives_way(own, settings["transfers_per_client"], host, now)
        late = late or gives_way(self._sessions, settings["transfers"], host, now)
        if late:
            self._end(late, "has not answered, and gives way")
        # What is to stay must not come to lie among garbage, or it cuts the heap to pieces.
        if self._sessions:  # else the end of the last one has collected it
            gc.collect()
        store = self.store
        if upload:
            path = store.place(name, host)
            agreed = Agreed(asked, settings["blksize"], settings["wrq_windowsize"], upload=True)
            file = store.create(path, mode, agreed.tsize)
        else:
            path, size = store.find(name, host)
            size = None if mode == "netascii" else size  # not known before the file has been read
            agreed = Agreed(asked, settings["blksize"], settings["windowsize"], size)
            file = store.open(path, mode, agreed)
        try:
            limits = (agreed, settings["timeout"], settings["retries"], ticks_ms)
            if upload:
                transfer = WriteTransfer(file, *limits)
            else:
                transfer = ReadTransfer(file, self.ahead, *limits)
            what = "WRQ" if upload else "RRQ"
            served = path[len(settings["root"]) :]
            label = "%s:%d %s %s %s %s" % (host, number, what, served, mode, agreed.text)
            bytearray(_RESERVE)  # or the next request could not even be heard, and refused
            port = ports.listener
            session = Session(transfer, file, port, client, host, datagram, label.rstrip(), now)
            if not settings["single_port"]:
                session.port = port = ports.new()  # last: it stays open
        except Exception:
            store.close(file)
            raise
        if upload:
            port.room = max(port.room, 4 + agreed.blksize + 1)
        self._due = now
        self._sessions.append(session)
        self._clients[client] = session
        ports.join(session, twin=not upload and port is not ports.listener)
        self._drive(session)

    # -- transfers

    def _drive(self, session, late=None):
        """Let the transfer go on, since it is `late` (ticks_ms) or has something to send, or end
        it."""
        transfer = session.transfer
        try:
            if late is not None:
                transfer.expired(late)
            self._attend(session, None, -1 if transfer.outcome else transfer.pump(None))
        except Exception as trouble:
            self._fail(session, trouble)
        self.ports.look()

    def _fail(self, session, trouble):
        """An exception: a fault of ours ends one transfer, or none, not the server."""
        code, text = _explained(trouble)
        if session in self._sessions:  # None, and who has ended, are not
            session.transfer.outcome = text
            self._end(session, text, code)

    def _attend(self, session, word, size):
        """See to what pump() left."""
        transfer = session.transfer
        while size and size > 0:
            now = ticks_ms()
            transfer.receive(word or self.ahead.inbox, size, now)
            word = None
            size = None if transfer.outcome else transfer.pump(None)
            if isinstance(transfer, WriteTransfer) and transfer.dallying(now):
                self.journal.finished(session, DONE)  # it stays only to repeat its ACK
        if transfer.outcome:
            self._end(session, transfer.outcome)
        elif ticks_diff(transfer.due, self._due) < 0:
            self._due = transfer.due

    def _run_timers(self, now):
        self.ports.all = True
        wait = _LISTEN_MS
        for session in self._sessions:
            transfer = session.transfer
            if ticks_diff(transfer.due, now) <= 0:
                self._drive(session, late=now)
            if transfer.outcome:  # it has left the list: the others in the next turn
                wait = 0
                break
            wait = min(wait, ticks_diff(transfer.due, now))
        self._due = ticks_add(now, wait)

    def _end(self, session, outcome, code=None):
        """Give back all that the transfer holds; with a `code` its client gets an ERROR. To one
        that only waits for a last ACK nothing has happened."""
        transfer = session.transfer
        if transfer.outcome is None and transfer.dallying(ticks_ms()):
            outcome, code = DONE, None
        transfer.outcome = outcome
        self.store.close(session.file)  # takes long: who is interrupted here is ended by stop()
        self._sessions.remove(session)
        del self._clients[session.client]
        if self.ahead.owner is transfer:
            self.ahead.owner = None
        if code is not None:
            self.ports.reply(session.port, session.client, code, outcome)
        self.ports.leave(session)
        self.journal.finished(session, outcome)
        if not self._sessions:
            gc.collect()
            self.journal.log(DEBUG, "idle, %d bytes of heap in use", gc.mem_alloc())
