"""The server: requests, timers, limits, and the end of a transfer.

One thread. poll() is one turn: ports.py waits and gives each datagram to whom it is for, then the
timers run.
"""

import gc
import sys
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from .access import Ranges, allowed, gives_way
from .journal import ALWAYS, DEBUG, INFO, Journal, label
from .names import Later
from .packet import ACCESS, RRQ, UNDEFINED, WRQ, Refused, parse_request
from .ports import Ports, Session, host_port
from .transfer import DONE

_LISTEN_MS = const(20)  # how long requests and strangers may wait while transfers are busy
_TICK_MS = const(1000)
# No transfer waits so long: 255 s x 100 retries are 7 hours. What seems to be due later has been
# due for days in which nobody called poll(), for ticks_ms wraps after 12.4 of them.
_LONGEST_MS = const(28800000)
_RESERVE = const(2048)  # contiguous bytes of heap that a new transfer must leave free
_SLICE_MS = const(10)  # how long folders are listed in one go,
_REST_MS = const(30)  # and how long transfers have the loop after that
_LATER = const(8)  # requests that may wait for a listing
_TOLD_REPEATS = const(2)  # duplicates of a request after which the journal says so
_FRAME_BLKSIZE = const(1468)  # the largest that fits into one Ethernet frame


def _explained(trouble):
    """(code, text) of the ERROR packet for an exception."""
    if isinstance(trouble, Refused):
        return trouble.code, trouble.text
    if isinstance(trouble, MemoryError):
        gc.collect()  # for the journal's line, and the answer
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
               options_off,
               and for uploads wrq_windowsize, write_from, write_to, overwrite, write_limit,
               keep_free
    """

    def __init__(self, settings):
        self.settings = settings
        self.journal = Journal(settings["log"])
        from .start import start

        self.ahead, self.files, uploads = start(self)
        self.blksize = min(settings["blksize"], self.ahead.size)  # the largest that is granted
        self.stores: dict = {RRQ: self.files, WRQ: uploads}
        self.may = {RRQ: Ranges(settings["read_from"]), WRQ: Ranges(settings["write_from"])}
        self.ports = Ports(self)
        self._later = {}  # address: (request, what was found for it so far), of Later
        self._rested = ticks_ms()  # until when transfers have the loop, after a listing
        self._running = False
        if settings["syslog"]:
            from .syslog import follow

            follow(self)

    # -- for the user

    def serve_forever(self, tick=None):
        """Serve until stop() is called. Any exception, as that of Ctrl-C, stops the server and is
        raised again.

        `tick(server)` is called about once a second; what it raises goes to the journal. Raises
        OSError if the port can't be opened.
        """
        self._running = True
        last = ticks_ms()
        told = None
        try:
            while self._running:
                more = True
                try:
                    more = self.poll(_TICK_MS)
                except MemoryError as trouble:  # of no transfer
                    self.fail(None, trouble)
                now = ticks_ms()
                if more or not tick or 0 <= ticks_diff(now, last) < _TICK_MS:
                    continue
                last = now
                try:
                    tick(self)
                    told = None
                except Exception as trouble:
                    if repr(trouble) != told:  # once, not each second
                        told = repr(trouble)
                        self.journal.log(ALWAYS, "tick: %s", told)
        finally:
            self.stop()

    def poll(self, timeout_ms):
        """One turn: wait at most `timeout_ms` for something to do, and do it.

        Returns True if the next turn is to come at once, False if there is time for something
        else first, as there is many times a second. While transfers are under way many turns do
        not wait at all, and find nothing. Opens the port first if it is closed; raises OSError if
        that can't be done.
        """
        ports = self.ports
        sessions = ports.sessions
        jobs = self.files.names.jobs
        if not sessions:
            self.journal.uptime_ms()  # before ticks_ms wraps
            if jobs:
                timeout_ms = 0
        now = ports.turn(timeout_ms)
        more = bool(sessions) and 0 < ticks_diff(ports.due, now) <= _LISTEN_MS
        if sessions and not more:
            self._run_timers(now)
        if jobs and (not sessions or not 0 <= ticks_diff(self._rested, now) <= _REST_MS):
            self._list()
        return more

    def stop(self):
        """End all transfers with an ERROR to their clients and close every socket and file.

        poll() and serve_forever() start anew.
        """
        self._running = False
        self._later = {}
        for session in list(self.ports.sessions):
            self._end(session, "the server stops", UNDEFINED)
        if self.ports.listener.sock:
            self.ports.close_all()
            self.journal.log(ALWAYS, "stopped")

    def stats(self):
        """Counters since the start (dict of int), `uptime_ms`, and `transfers` under way."""
        counters = dict(self.journal.counters, uptime_ms=self.journal.uptime_ms())
        return dict(counters, transfers=len(self.ports.sessions))

    # -- requests

    def request(self, datagram, client):
        """A datagram that may be a request came from `client` to the listening port."""
        session = self.ports.clients.get(client)
        now = ticks_ms()
        if session and session.request == datagram and session.transfer.repeat_request(now):
            if session.transfer.repeats == _TOLD_REPEATS and not session.transfer.proven:
                what = "%s: asked again, our answers seem to be lost"
                self.journal.log(INFO, what, session.label)
            self.drive(session)
        elif self._later.get(client, b"")[:1] != (datagram,):
            self._later.pop(client, None)
            self._answer(datagram, client, {})

    def refuse(self, request, datagram, client, trouble):
        """Answer `datagram` with an ERROR; `request`: as parse_request() gives it, or None."""
        code, text = _explained(trouble)
        host, number = host_port(client)  # pyright: ignore[reportGeneralTypeIssues]
        self.journal.count("refused")
        if self.journal.may_tell(host):
            what = label(*request) if request else repr(datagram[:64])
            self.journal.log(INFO, "%s:%d %s: refused, %s", host, number, what, text)
        self.ports.refuse(client, code, text)

    def _answer(self, datagram, client, found):
        """Start what a request asks for, or refuse it. `found`: as in Names.find()."""
        request = None
        try:
            request = parse_request(datagram)
            if request:
                session = self.ports.clients.get(client)
                if session:
                    self._end(session, "replaced by a new request")
                self._start(request, datagram, client, found)
        except Later:  # with a full queue the request is dropped: the client asks again
            if len(self._later) < _LATER:
                self._later[client] = (datagram, found)
            return
        except Exception as trouble:
            self.refuse(request, datagram, client, trouble)
        if request:
            self.journal.count("requests")

    def _list(self):
        """List folders for a while, then answer the requests that waited for the result."""
        if self.files.names.work(_SLICE_MS):
            later = self._later
            self._later = {}
            for client, (datagram, found) in later.items():
                self._answer(datagram, client, found)
        self._rested = ticks_add(ticks_ms(), _REST_MS)

    def _start(self, request, datagram, client, found):
        """Start the transfer that is asked for. Raises Refused, Later, OSError, MemoryError."""
        opcode, name, mode, asked = request
        host, number = host_port(client)  # pyright: ignore[reportGeneralTypeIssues]
        settings = self.settings
        ports = self.ports
        now = ticks_ms()
        if host not in self.may[opcode]:
            what = "takes no uploads from" if opcode == WRQ else "is not for"
            raise Refused(ACCESS, "this server %s you" % what)
        store = self.stores[opcode]
        where = store.place(name, host, found)
        if opcode == WRQ:
            self.give_way(store.rival(ports.sessions, where, host, now))
        self.give_way(gives_way(ports.sessions, settings, host, now))
        # Allocate long-lived objects before the heap fragments.
        if ports.sessions:  # without any, _end() has just collected
            gc.collect()
        asked = allowed(asked, settings["options_off"], host)
        path, file, agreed = store.open(where, found, mode, asked, self.blksize)
        session = None
        try:
            limits = settings["timeout"], settings["retries"]
            transfer = store.transfer(file, self.ahead, agreed, *limits, ticks_ms)
            path = self.files.names.served(path, name)
            told = "%s:%d %s" % (host, number, label(opcode, path, mode, agreed.granted))
            began = self.journal.uptime_ms()
            session = Session(transfer, file, client, host, datagram, told, began, now)
            # Fail now rather than when the next request, or this upload's block, is received.
            bytearray(max(_RESERVE, agreed.blksize if transfer.path else 0))
            session.port = ports.listener if settings["single_port"] else ports.new()
            ports.due = now
            ports.join(session)
        except BaseException:  # also that of Ctrl-C
            if session not in ports.sessions:
                self.files.close(file)
            raise
        self.drive(session)

    def give_way(self, session):
        """End `session` (ports.Session, or None) for another transfer."""
        if session:
            code = UNDEFINED if session.transfer.proven else None  # no ERROR to a forged address
            self._end(session, "has not answered, and gives way", code)

    # -- transfers

    def drive(self, session, word=None, now=None):
        """Resume the transfer: with `word` of its client, because its timer has expired at `now`
        (ticks_ms), or because it has something to send."""
        transfer = session.transfer
        try:
            if now is not None:
                transfer.expired(now)
            if not transfer.outcome:
                transfer.pump(word)
            self.attend(session)
        except Exception as trouble:
            self.fail(session, trouble)
        self.ports.look()

    def attend(self, session):
        """See to a transfer that has sent something, or has ended, or has the file whole."""
        transfer = session.transfer
        if transfer.path and transfer.whole():
            self.journal.finished(session, DONE)  # it only dallies from now on
        if transfer.outcome:
            self._end(session, transfer.outcome)
        elif ticks_diff(transfer.due, self.ports.due) < 0:
            self.ports.due = transfer.due

    def fail(self, session, trouble):
        """An exception ends at most one transfer, never the server."""
        code, text = _explained(trouble)
        if session in self.ports.sessions:  # not None, and not ended yet
            transfer = session.transfer
            stuck = transfer.blocked and not transfer.path and isinstance(trouble, Refused)
            if stuck and transfer.blksize > _FRAME_BLKSIZE:
                self.blksize = min(self.blksize, max(transfer.blksize // 2, _FRAME_BLKSIZE))
                self.journal.log(INFO, "blksize: lowered to %d, which can be sent", self.blksize)
            self._end(session, text, code)

    def _run_timers(self, now):
        ports = self.ports
        self.journal.uptime_ms()  # before ticks_ms wraps
        ports.poll_all = True
        wait = _LISTEN_MS
        for session in ports.sessions:
            transfer = session.transfer
            # Compare with the time for which this was scheduled, not with now: an answer that came
            # during a long turn is read first.
            if not 0 < ticks_diff(transfer.due, ports.due) < _LONGEST_MS:
                self.drive(session, None, now)
            if transfer.outcome:  # the list has changed: go on in the next turn
                wait = 0
                break
            wait = min(wait, ticks_diff(transfer.due, now))
        ports.due = ticks_add(now, wait)

    def _end(self, session, outcome, code=None):
        """Release everything that the transfer holds; with a `code` its client gets an ERROR. A
        transfer that only waits for its last ACK counts as done."""
        transfer = session.transfer
        if transfer.outcome:
            outcome, code = transfer.outcome, None
        elif transfer.dallying(ticks_ms()) or (code is None and transfer.whole()):
            outcome, code = DONE, None
        transfer.outcome = outcome
        self.files.close(session.file)  # slow; after Ctrl-C here stop() ends the session again
        if self.ahead.owner is transfer:
            self.ahead.owner = None
        if code is not None:
            self.ports.reply(session.port, session.client, code, outcome)
        self.ports.leave(session, code is not None)
        self.journal.finished(session, outcome)
        if not self.ports.sessions:
            gc.collect()
            self.journal.log(DEBUG, "idle, %d bytes of heap in use", gc.mem_alloc())
