"""The server: the poll loop, requests, the timers and the limits.

One thread. Requests come to the listening port, what transfers hear comes to theirs (ports.py).
"""

import gc
import os
import sys
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from .access import Ranges, gives_way
from .files import UPLOADS, Files
from .journal import ALWAYS, DEBUG, INFO, Journal, quoted
from .names import Later
from .options import Agreed
from .packet import ACCESS, MAX_REQUEST, RRQ, UNDEFINED, UNKNOWN_TID, WRQ, Refused, parse_request
from .ports import Ports, Session, host_port
from .transfer import DONE, ReadAhead, ReadTransfer

_LISTEN_MS = const(20)  # how long requests and strangers may wait while transfers are busy,
_ALONE_MS = const(40)  # and while a single busy transfer polls its own socket
_TICK_MS = const(1000)
# No transfer waits so long: 255 s x 100 retries are 7 hours. What seems to be due later has been
# due for days in which nobody called poll(), for ticks_ms wraps after 12.4 of them.
_LONGEST_MS = const(28800000)
_SHARE_MS = const(4)  # how long a twin is served in one turn while other clients share its port
_RESERVE = const(2048)  # contiguous bytes of heap that a new transfer must leave free
_BURST = const(16)  # datagrams taken from one socket before the others get their turn
_WAITING = const(5)  # datagrams taken from it before the first of them is answered
_SLICE_MS = const(10)  # how long folders are listed in one go,
_REST_MS = const(30)  # and how long transfers have the loop after that
_LATER = const(8)  # requests that may wait for a listing
_TOLD_REPEATS = const(2)  # duplicates of a request after which the journal says so
_ENDED = const(8)  # clients of finished transfers that are remembered
_LEAST_BLKSIZE = const(512)  # RFC 1350's, for requests without options
_FRAME_BLKSIZE = const(1468)  # the largest that fits into one Ethernet frame


def _explained(trouble):
    """(code, text) of the ERROR packet for an exception."""
    if isinstance(trouble, Refused):
        return trouble.code, trouble.text
    if isinstance(trouble, MemoryError):
        return UNDEFINED, "no memory just now, try again"
    if isinstance(trouble, OSError):
        return UNDEFINED, "can't read the file: %s" % trouble
    sys.print_exception(trouble)
    return UNDEFINED, "internal error: %s" % repr(trouble)


def _label(opcode, name, mode, options):
    """A request for the journal; `name` is bytes, `options` are (name, value) pairs of bytes."""
    what = "%s %s %s" % ("WRQ" if opcode == WRQ else "RRQ", quoted(name), mode)
    if options:
        what += " " + quoted(b" ".join([b"=".join(pair) for pair in options]))[1:-1]
    return what


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
        self.journal = Journal(settings["log"])
        self.ahead = self._make_ahead(max(settings["blksize"], settings["read_ahead"]))
        self.files = Files(settings, gc.mem_free() // 32)  # an eighth of what is free, at most
        self.uploads = self._load_uploads()
        self._may = {RRQ: Ranges(settings["read_from"]), WRQ: Ranges(settings["write_from"])}
        self.ports = Ports(settings["address"], settings["port"])
        self._sessions = []
        self._clients = {}  # address: Session
        self._later = {}  # address: (request, what was found for it so far), of Later
        self._ended = []  # addresses whose transfer has left a port that others still use
        self._due = 0  # ticks_ms before which no transfer's timer is due
        self._running = False
        self._turns = None

    def _load_uploads(self):
        """The Uploads, or None where uploads are off. Recovers from a power cut in either case."""
        allowed = self.settings["write_from"]
        try:
            left = os.listdir(UPLOADS)
        except OSError:  # no upload so far
            left = None
        if not allowed and not left:
            return None
        from .uploads import Uploads

        uploads = Uploads(self.settings, self.files)
        uploads.recover()
        if not allowed:
            return None
        for trouble in uploads.make_folders():
            self.journal.log(ALWAYS, trouble)
        return uploads

    def _make_ahead(self, size):
        """A ReadAhead of `size` bytes, or of a quarter of the free heap if that is less. The
        largest blksize that is granted follows from it."""
        settings = self.settings
        gc.collect()
        size = max(min(size, gc.mem_free() // 4), _LEAST_BLKSIZE)
        while True:
            try:
                ahead = ReadAhead(size)
                break
            except MemoryError:  # the heap has no contiguous block of that size
                if size == _LEAST_BLKSIZE:
                    raise
                size = max(size // 2, _LEAST_BLKSIZE)
        for name in ("blksize", "read_ahead"):
            if settings[name] > size:
                what = "%s: lowered from %d to %d, for want of heap"
                self.journal.log(ALWAYS, what, name, settings[name], size)
        self.blksize = min(settings["blksize"], size)
        return ahead

    # -- for the user

    def serve_forever(self, tick=None):
        """Serve until stop() is called. An exception, as Ctrl-C's, stops the server and goes on.

        `tick(server)` is called about once a second; what it raises goes to the journal. Raises
        OSError if the port can't be opened.
        """
        self._running = True
        last = ticks_ms()
        told = None
        try:
            while self._running:
                if self.poll(_TICK_MS):
                    continue
                now = ticks_ms()
                if tick and not 0 <= ticks_diff(now, last) < _TICK_MS:
                    last = now
                    trouble = None
                    try:
                        tick(self)
                    except Exception as fault:
                        trouble = repr(fault)
                    if trouble and trouble != told:  # once, not each second
                        self.journal.log(ALWAYS, "tick: %s", trouble)
                    told = trouble
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
        jobs = self.files.names.jobs
        rested = ticks_ms()  # when folders may be listed again
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
            else:
                self.journal.uptime_ms()  # before ticks_ms wraps
                if jobs:
                    timeout_ms = 0
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
                except OSError as trouble:
                    if transfer.unsent(trouble):
                        self._attend(session, None, -1)
                    continue
                if size == 4:
                    something = True
                    try:  # _drive() inlined: the frame of that call would come from the heap
                        size = transfer.pump(inbox)
                        # None: its timer is due no sooner than _MARGIN_MIN_MS (= _LISTEN_MS).
                        if size is not None:
                            self._attend(session, inbox, size)
                    except Exception as trouble:
                        self._fail(session, trouble)
                elif size == 0:  # a dead socket, see Ports.mend()
                    ports.renew(session)
                    self._drive(session)
            if listener in behind:
                ports.all = True  # requests come in groups
                if len(behind) > 1:  # listener last: the others may free a place
                    behind = sorted(behind, key=lambda port: port is listener)
            for port in behind:
                something = True
                waiting = port.waiting
                # A Pico W's socket queues four datagrams, and more arrive while one is answered.
                # But five blocks of an upload would not fit into the heap.
                most = _WAITING if port.room < MAX_REQUEST else 1
                session = None
                try:
                    for _ in range(_BURST):
                        if not port.sock:
                            break
                        try:
                            while len(waiting) < most:
                                waiting.append(port.sock.recvfrom(port.room))
                        except OSError:  # queue empty, or an ICMP error of an earlier packet
                            pass
                        except MemoryError:
                            self._hear_short(port)
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
                            if port is listener:  # the new transfer goes first
                                break
                        session = None
                # A fault in a transfer, or no memory to receive or to answer.
                except Exception as trouble:
                    self._fail(session, trouble)
                if port.waiting and port.sock:
                    ports.behind += (port,)
            session = transfer = datagram = None  # the generator's frame would keep them alive
            if something:
                ports.look()
            more = False
            if sessions:
                # `now` is the time of the poll: a datagram that came later may be the answer that
                # a timer waits for. A lone transfer has read its socket since.
                if ports.alone:
                    now = ticks_ms()
                more = 0 < ticks_diff(self._due, now) <= _LISTEN_MS
                if not more:
                    self._run_timers(now)
            if jobs and (not sessions or not 0 <= ticks_diff(rested, now) <= _REST_MS):
                self._list()
                rested = ticks_add(ticks_ms(), _REST_MS)

    def stop(self):
        """End all transfers with an ERROR to their clients and close every socket and file.

        poll() and serve_forever() start anew.
        """
        self._running = False
        self._later = {}
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
        kind = datagram[:2]
        listener = self.ports.listener
        strange = port is not listener
        if strange and peer and kind != b"\0\5" and client not in self._ended:
            self.ports.reply(port, client, UNKNOWN_TID, "unknown transfer ID")
        # On the listening port nobody has a transfer. DATA, ACK and OACK are late ones; to answer
        # those of a client that acknowledges an ERROR would never end. And two servers that send
        # from their listening ports must not be made to talk to each other.
        late = kind in (b"\0\3", b"\0\4", b"\0\6")
        alike = peer and peer[1] == listener.tid and self.settings["single_port"]
        if strange or not peer or late or alike:
            self.journal.count("garbage")
            return
        if session and session.request == datagram and session.transfer.repeat_request(now):
            if session.transfer.repeats == _TOLD_REPEATS:
                what = "%s: asked again, our answers don't seem to arrive"
                self.journal.log(INFO, what, session.label)
            self._drive(session)
        elif self._later.get(client, b"")[:1] != (datagram,):
            self._later.pop(client, None)
            self._answer(datagram, client, {})

    def _answer(self, datagram, client, found):
        """Start what a request asks for, or refuse it. `found`: as in Names.find()."""
        request = None
        try:
            request = parse_request(datagram)
            if request:
                session = self._clients.get(client)
                if session:
                    self._end(session, "replaced by a new request")
                self._start(request, datagram, client, found)
        except Later:  # the client will ask again if this is one too many
            if len(self._later) < _LATER:
                self._later[client] = (datagram, found)
            return
        except Exception as trouble:
            self._refuse(request, datagram, client, trouble)
        if request:
            self.journal.count("requests")

    def _refuse(self, request, datagram, client, trouble):
        """Answer `datagram` with an ERROR; `request`: as parse_request() gives it, or None."""
        code, text = _explained(trouble)
        host, number = host_port(client)  # pyright: ignore[reportGeneralTypeIssues]
        self.journal.count("refused")
        if self.journal.may_tell(host):
            what = _label(*request) if request else repr(datagram[:64])
            self.journal.log(INFO, "%s:%d %s: refused, %s", host, number, what, text)
        if self.settings["single_port"]:
            self.ports.reply(self.ports.listener, client, code, text)
        else:
            self.ports.refuse(client, code, text)

    def _list(self):
        """List folders for a while; what waits for what is known then is answered."""
        names = self.files.names
        try:
            known = names.work(_SLICE_MS)
        except Exception as trouble:  # then it is not known, and looked for once more
            self.journal.log(ALWAYS, "names: %s", repr(trouble))
            known = True
        if known:
            later = self._later
            self._later = {}
            for client, (datagram, found) in later.items():
                self._answer(datagram, client, found)

    def _hear_short(self, port):
        """There is no memory for a datagram on `port`: who sent a long one is told."""
        datagram, client = self.ports.hear_short(port)
        session = self._clients.get(client)
        if session and session.port is port:
            self._fail(session, MemoryError())
        elif client and host_port(client):
            self._refuse(None, datagram, client, MemoryError())

    def _start(self, request, datagram, client, found):
        opcode, name, mode, asked = request
        host, number = host_port(client)  # pyright: ignore[reportGeneralTypeIssues]
        settings = self.settings
        ports = self.ports
        now = ticks_ms()
        if host not in self._may[opcode]:
            what = "takes no uploads from" if opcode == WRQ else "is not for"
            raise Refused(ACCESS, "this server %s you" % what)
        uploads = self.uploads if opcode == WRQ else None
        path = ""
        ways = None
        if uploads:
            path = uploads.place(name, host, found)
            self._give_way(uploads.rival(self._sessions, path, host, now))
        else:
            ways = self.files.ways(name, host)
        own = [session for session in self._sessions if session.host == host]
        late = gives_way(own, settings["transfers_per_client"], host, now)
        late = late or gives_way(self._sessions, settings["transfers"], host, now)
        self._give_way(late)
        # Allocate long-lived objects before the heap fragments.
        if self._sessions:  # without any, _end() has just collected
            gc.collect()
        for one, off in settings["options_off"].items():
            if host in Ranges([one]):
                refused = [name.encode() for name in off] if off != "all" else ()
                asked = [one for one in asked if refused and one[0].lower() not in refused]
        file = None
        try:
            if uploads:
                agreed = Agreed(asked, self.blksize, settings["wrq_windowsize"], upload=True)
                file = uploads.create(path, mode, agreed.tsize)
                make = uploads.transfer
            else:
                path, file = self.files.find(ways, found)
                size = file.seek(0, 2)
                file.seek(0)
                if mode == "netascii":
                    size = None  # not known before the file has been read
                agreed = Agreed(asked, self.blksize, settings["windowsize"], size)
                file = self.files.source(file, path, mode, agreed)
                make = ReadTransfer
            transfer = make(
                file, self.ahead, agreed, settings["timeout"], settings["retries"], ticks_ms
            )
            if uploads:
                transfer.path = path
            served = path[len(self.files.names.root) :].encode()
            label = _label(opcode, served, mode, agreed.granted)
            label = "%s:%d %s" % (host, number, label)
            began = self.journal.uptime_ms()
            session = Session(
                transfer, file, ports.listener, client, host, datagram, label, began, now
            )
            # Fail now rather than when the next request, or this upload's block, is received.
            bytearray(max(_RESERVE, agreed.blksize if uploads else 0))
            if not settings["single_port"]:
                session.port = ports.new()  # last, because nothing below closes it
        except Exception:
            if file:
                self.files.close(file)
            raise
        self._due = now
        self._sessions.append(session)
        self._clients[client] = session
        ports.join(session, twin=not uploads and session.port is not ports.listener)
        self._drive(session)

    def _give_way(self, session):
        if session:
            code = UNDEFINED if session.transfer.proven else None  # no ERROR to a forged address
            self._end(session, "has not answered, and gives way", code)

    # -- transfers

    def _drive(self, session, late=None):
        """Resume the transfer, because its timer expired at `late` (ticks_ms) or because it has
        something to send; end it if it is finished."""
        transfer = session.transfer
        try:
            if late is not None:
                transfer.expired(late)
            self._attend(session, None, -1 if transfer.outcome else transfer.pump(None))
        except Exception as trouble:
            self._fail(session, trouble)
        self.ports.look()

    def _fail(self, session, trouble):
        """An exception ends one transfer, or none, never the server."""
        code, text = _explained(trouble)
        if session in self._sessions:  # not None, and not ended yet
            transfer = session.transfer
            if transfer.blocked and not transfer.path and transfer.blksize > _FRAME_BLKSIZE:
                self.blksize = max(transfer.blksize // 2, _FRAME_BLKSIZE)
                self.journal.log(INFO, "blksize: lowered to %d, which can be sent", self.blksize)
            transfer.outcome = text
            self._end(session, text, code)

    def _attend(self, session, word, size):
        """Handle what pump() did not: a datagram of `size` bytes, or an outcome."""
        transfer = session.transfer
        while size and size > 0:
            now = ticks_ms()
            transfer.receive(word or self.ahead.inbox, size, now)
            word = None
            size = None if transfer.outcome else transfer.pump(None)
            if transfer.path and transfer.whole():
                self.journal.finished(session, DONE)  # it only dallies from now on
        if transfer.outcome:
            self._end(session, transfer.outcome)
        elif ticks_diff(transfer.due, self._due) < 0:
            self._due = transfer.due

    def _run_timers(self, now):
        self.journal.uptime_ms()  # before ticks_ms wraps
        self.ports.all = True
        wait = _LISTEN_MS
        for session in self._sessions:
            transfer = session.transfer
            # Judge by when this should have run. A timer that expired since, in a long turn of
            # ours, gets one more turn in which the answer may be read.
            if not 0 < ticks_diff(transfer.due, self._due) < _LONGEST_MS:
                self._drive(session, late=now)
            if transfer.outcome:  # the list has changed: go on in the next turn
                wait = 0
                break
            wait = min(wait, ticks_diff(transfer.due, now))
        self._due = ticks_add(now, wait)

    def _end(self, session, outcome, code=None):
        """Release everything the transfer holds; with a `code` its client gets an ERROR. A
        transfer that only waits for its last ACK counts as done."""
        transfer = session.transfer
        content = transfer.dallying(ticks_ms()) or (code is None and transfer.whole())
        if transfer.outcome is None and content:
            outcome, code = DONE, None
        transfer.outcome = outcome
        self.files.close(session.file)  # slow; Ctrl-C here: stop() ends the session
        self._sessions.remove(session)
        del self._clients[session.client]
        if self.ahead.owner is transfer:
            self.ahead.owner = None
        if code is not None:
            self.ports.reply(session.port, session.client, code, outcome)
        elif session.port.users > 1:  # no ERROR 5 for its late packets there
            self._ended = self._ended[1 - _ENDED :] + [session.client]
        self.ports.leave(session, self._sessions)
        self.journal.finished(session, outcome)
        if not self._sessions:
            gc.collect()
            self.journal.log(DEBUG, "idle, %d bytes of heap in use", gc.mem_alloc())
