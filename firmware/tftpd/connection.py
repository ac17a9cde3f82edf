"""A client of http.py: its requests, and the answers to GET and HEAD; put.py and page.py have the
rest. Loaded with the first one.

Each connection is a generator that reads like blocking code and yields the event that it waits
for. RFC 9110 (semantics), RFC 9112 (messages).
"""

import os
import socket
import sys
from errno import EAGAIN, ENOMEM
from select import POLLIN, POLLOUT
from time import ticks_add, ticks_diff, ticks_ms, time

from micropython import const

from .fields import Failed, byte_range, date, is_own, listed, parse, path_of
from .http import RP2, give_up
from .journal import ALWAYS, INFO, quoted
from .names import Later
from .packet import ACCESS, DISK_FULL, EXISTS, NOT_FOUND, Refused
from .transfer import DONE

_HEAD_BYTES = const(2048)  # of a request with its header fields
_REQUEST_MS = const(10_000)  # for a request, from its first byte or the connection on
_IDLE_MS = const(20_000)  # a connection is kept so long for the next request,
_STALLED_MS = 10_000 if RP2 else 30_000  # and for a client that sends or takes nothing
_LINGER_MS = const(1000)  # after the answer to a client that may still send: see _talking()
# On an RP2 all that waits to be sent or acknowledged, of TCP and UDP, shares 8,000 bytes, and a
# write that finds no room there stops the board for up to 10 s (extmod/modlwip.c, lwip_tcp_send).
# So one of these is written at once, if there is room for it and for a block of TFTP. To ask takes
# as long as to send a third of it: it is not asked for full segments to the only client, while it
# takes all at once, since TCP_SND_BUF has room for eight, and these fit.
_PIECES = (3200, 1600, 400) if RP2 else ()
_BESIDE = const(4800)  # is written at once beside TFTP: it takes as long as a window of 4
_WRITES = const(8)  # in one turn, while nobody else waits for it
_SEGMENT = 800 if RP2 else 1440  # TCP_MSS
_RESERVE = const(1900)  # a block of 1468, and what lwIP adds to it and to a piece
# While a file is sent the last byte of the request stays unread: to close a socket that has some
# resets the connection, and that memory is free at once. Else lwIP holds it for another 10 s.
_PEEK = getattr(socket, "MSG_PEEK", 0) if RP2 else 0  # MicroPython 1.26
_HOLDS_MS = const(3000)  # a client that has taken nothing for so long makes room for who needs it
_SLOW_MS = const(20)  # until it takes more, of a client that does not take all at once
_NOWHERE = ("127.0.0.1", 9)  # no route leads there: EHOSTUNREACH, or ENOMEM without room
_TYPES = {
    "css": "text/css",
    "efi": "application/efi",
    "html": "text/html",
    "htm": "text/html",
    "js": "text/javascript",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "xml": "text/xml",
}
_READS = (b"GET", b"HEAD")
# A page that somebody has stored must not act as the board's own.
_FILE = (
    "ETag: %s\r\nAccept-Ranges: %s\r\nCache-Control: no-cache\r\n"
    "Content-Security-Policy: sandbox\r\n"
)
CHANGED = "the file is not the one that the request is for"
_MORE = {
    401: 'WWW-Authenticate: Basic realm="tftpd"\r\n',
    405: "Allow: GET, HEAD, PUT, DELETE\r\n",
    503: "Retry-After: 2\r\n",
}
_STATUS = {NOT_FOUND: 404, ACCESS: 403, DISK_FULL: 507, EXISTS: 409}  # of what TFTP refuses


class Connection:
    """A client.

    until       ticks_ms at which it is given up
    idle        between two requests
    data        what it has sent that has not been read (bytes)
    wants_more  it did not ask for the connection to be closed
    was_read    all of its present request has been read
    keep        the connection stays open after this answer
    moved       bytes of the present file that were sent or received
    doing       what, of which path, since when (uptime_ms of the journal) and how many bytes in
                all; None while no file is sent or received
    """

    doing = None
    blocked = False  # it waits for memory of the network stack
    NEXT = POLLOUT  # what a generator yields to be resumed in the next turn

    def __init__(self, http, sock, host, label):
        """`host`: its address (str); `label`: the same with its port, for the journal."""
        self.http = http
        self.sock = sock
        self.host = host
        self.label = label
        self.idle = self.keep = self.wants_more = False
        self.data = b""
        self.moved = 0
        self.until = ticks_add(ticks_ms(), _REQUEST_MS)
        self._wanted = 0
        self._slow = False  # it does not take all at once
        self._unread = False  # the last byte of its request, see _PEEK
        self._file = None
        self._talk = self._talking()

    def go(self):
        """Continue: the socket is ready. Whatever happens ends this connection at most."""
        try:
            wanted = next(self._talk)
            if wanted != self._wanted:
                self._wanted = wanted
                self.http.watch(self, self.sock, wanted)
            return
        except StopIteration:
            pass
        except OSError:  # the client is gone, or the file can't be read: its length tells
            pass
        except MemoryError:
            self.http.journal.log(ALWAYS, "http: no memory")
        except Exception as trouble:
            sys.print_exception(trouble)
        self.close()

    def close(self):
        """End it."""
        if self in self.http.connections:
            self.http.connections.remove(self)
            self.http.watch(self, self.sock)
            self.sock.close()
            self._talk.close()  # runs what is in `finally`

    def expired(self):
        """`until` has come."""
        if self.until and self._wanted == POLLIN and not self.idle:
            give_up(self.sock, "408 Request Timeout")
        self.close()

    def holds_up(self, left_ms):
        """Whether others wait for memory while it takes nothing. `left_ms`: until `until`."""
        if not self._unread or self._wanted != POLLOUT or left_ms > _STALLED_MS - _HOLDS_MS:
            return False
        waiting = [one.blocked for one in self.http.connections if one is not self]
        return any(waiting + [one.transfer.blocked for one in self.http.ports.sessions])

    def _release(self):
        if self._file:
            self.http.server.files.close(self._file)
            self._file = None
        if self.http.ahead.owner is self:
            self.http.ahead.owner = None

    def _for(self, ms):
        self.until = ticks_add(ticks_ms(), ms)

    def took(self, size):
        """The client has taken, or sent, `size` bytes of a file."""
        self.moved += size
        self._lives(size)

    def _lives(self, size, pause_ms=_STALLED_MS):
        """Each byte lets a client live for another millisecond, up to `pause_ms` from now: so it
        has to do 1 KB/s, with pauses, and no slower one can keep its place. What it does next is
        looked for at once."""
        now = ticks_ms()
        self._for(min(ticks_diff(self.until, now) + size, pause_ms))
        self.http.ports.look()

    def finished(self, method, target, outcome, began):
        """Log and count a transfer that has ended. `outcome`: DONE or why not; `began`:
        uptime_ms of the journal."""
        journal = self.http.journal
        self.doing = None
        ms = max(journal.uptime_ms() - began, 0)
        size = self.moved
        journal.count("requests")
        journal.count("done" if outcome == DONE else "failed")
        journal.count("bytes", size)
        told = self.label, method.decode(), quoted(target), outcome, size, ms // 1000, ms % 1000
        text = "%s %s %s: %s, %d bytes in %d.%03d s, %d KB/s"
        journal.log(INFO, text, *told, size // max(ms, 1))

    # -- generators

    def _talking(self):
        self.keep = True
        while self.keep:
            while True:
                self.data = self.data.lstrip(b"\r\n")  # RFC 9112 section 2.2
                end = self.data.find(b"\r\n\r\n")
                if end >= 0 or len(self.data) > _HEAD_BYTES:
                    break
                yield POLLIN
                more = self._received()
                if more == b"":
                    return
                if more:
                    if self.idle:
                        self.idle = False
                        self._for(_REQUEST_MS)
                    self.data += more
            head = self.data[:end] if end >= 0 else None
            self.data = self.data[end + 4 :]
            yield from self._answering(head)
            self.idle = self.keep
            self._for(_IDLE_MS)
        # A socket that is closed with data that was not read, or gets more, resets the connection,
        # and the client may lose the answer: RFC 9112 section 9.6.
        self._for(_LINGER_MS)
        self.idle = True
        while True:
            more = self._received()
            if more == b"" or (self.was_read and not more):
                return
            if more:
                self._lives(len(more), _LINGER_MS)
            yield self.NEXT if self.was_read else POLLIN

    def _received(self):
        """What has come (bytes), b"" at the end, None for nothing. Raises OSError."""
        sock = self.sock
        try:
            self._read_all()
            if not _PEEK:
                return sock.recv(512)
            more = sock.recv(512, _PEEK)
            size = (self.data + more).find(b"\r\n\r\n") + 4 - len(self.data)
            if size > 3 - len(self.data):
                self._unread = True
                sock.recv(size - 1)
                return more[:size]
            return sock.recv(512)
        except OSError as trouble:
            if trouble.errno == EAGAIN:
                return None
            raise

    def _read_all(self):
        """Read the last byte of a request too."""
        if self._unread:
            self._unread = False
            self.sock.recv(1)

    def _fits(self, size):
        """Whether lwIP has memory for so many bytes and for a block of TFTP."""
        try:
            view = self.http.ahead.view[: size + _RESERVE]
            self.http.ports.listener.sock.sendto(view, _NOWHERE)
        except OSError as trouble:
            return trouble.errno != ENOMEM
        return True

    def _write(self, data):
        """Write of `data` (memoryview) what can be: return how much (int), or None."""
        http = self.http
        ports = http.ports
        if _PIECES and ports.listener.sock:
            slow = self._slow
            for session in ports.sessions:
                slow = slow or session.transfer.blocked
                data = data[:_BESIDE]
            self._slow = slow
            if slow or len(data) % _SEGMENT or len(http.connections) > 1:
                for piece in _PIECES:
                    data = data[:piece]
                    self.blocked = not self._fits(len(data))
                    if not self.blocked:
                        break
                else:
                    return None
        return self.sock.write(data)

    def sending(self, data):
        """Send it (bytes)."""
        data = memoryview(data)
        while data:
            sent = self._write(data)
            if sent:
                data = data[sent:]
                self._lives(sent)
            else:
                yield POLLOUT

    def _answering(self, head):
        """Answer a request."""
        self._for(_STALLED_MS)
        self.moved = 0
        method, target = b"", b""
        self.keep = self.was_read = False
        try:
            if head is None:
                raise Failed(431, "a request of more than %d bytes" % _HEAD_BYTES)
            method, target, minor, fields = parse(head)
            self._check(method, minor, fields)
            self.wants_more = minor > 0 and "close" not in fields.get("connection", "").lower()
            # A body is read by put.py alone, and what follows one that is not read is no request.
            self.was_read = fields.get("content-length", "0") == "0"
            self.keep = self.wants_more and self.was_read
            name = path_of(target)
            if method in _READS and name[-1:] == b"/":
                from .page import listing

                yield from listing(self, method, target, fields)
            elif method in _READS:
                yield from self._serving(method, target, fields)
            else:
                from .put import storing

                self._read_all()
                yield from storing(self, method, target, fields)
        except (Failed, Refused) as trouble:
            code = trouble.code
            if isinstance(trouble, Refused):
                code = _STATUS.get(code, 503)
            yield from self._refusing(method, target, code, trouble.text)
        finally:
            self._release()

    def _check(self, method, minor, fields):
        http = self.http
        if "transfer-encoding" in fields:
            raise Failed(501, "no Transfer-Encoding")
        if not fields.get("content-length", "0").isdigit():
            raise Failed(400, "Content-Length is no number")
        host = fields.get("host")
        if host is None and minor:
            raise Failed(400, "no Host")
        if not minor:
            fields.pop("expect", None)  # RFC 9110 section 10.1.1
        if host and not is_own(host, http.server.settings["hostname"]):
            raise Failed(403, "this board is not %s" % host[:64])
        if self.host not in http.readers:
            raise Failed(403, "this server is not for you")
        if method not in _READS and method not in (b"PUT", b"DELETE"):
            raise Failed(405, "GET, HEAD, PUT and DELETE only")

    def _refusing(self, method, target, code, text):
        http = self.http
        http.journal.count("refused")
        if http.journal.may_tell(self.host):
            told = self.label, method.decode()[:16], quoted(target), code, text
            http.journal.log(INFO, "%s %s %s: %d, %s", *told)
        body = (text + "\n").encode()
        kind = "text/plain; charset=utf-8"
        head = self.head(code, kind, len(body), _MORE.get(code, ""), text)
        yield from self.sending(head if method == b"HEAD" else head + body)

    def head(self, code, kind, size, more="", reason="OK"):
        """The status line and the fields of an answer (bytes). `kind`, `size`: of its body, None
        where it ends with the connection; `more`: further fields."""
        if code not in (204, 304):  # RFC 9110 sections 8.6 and 15.4.5
            more += "Content-Type: %s\r\n" % kind
            if size is not None:
                more += "Content-Length: %d\r\n" % size
        now = date(time())
        if now:
            more += "Date: %s\r\n" % now
        how = "keep-alive" if self.keep else "close"
        head = "HTTP/1.1 %d %s\r\n%sX-Content-Type-Options: nosniff\r\nConnection: %s\r\n\r\n"
        return (head % (code, reason, more, how)).encode()

    def waiting(self, ask, *arguments):
        """Return what ask(*arguments) does, once it does not raise Later any more."""
        while True:
            try:
                return ask(*arguments)
            except Later:
                self._for(_STALLED_MS)
                yield self.NEXT

    def _finding(self, target):
        """Return (path, file, size). Raises Refused, Failed."""
        files = self.http.server.files
        ways = files.place(path_of(target), self.host, {})
        path, file = yield from self.waiting(files.find, ways, {})
        files.readers[file] = path
        self._file = file
        size = file.seek(0, 2)
        file.seek(0)
        return path, file, size

    def _serving(self, method, target, fields):
        http = self.http
        began = http.journal.uptime_ms()
        path, file, size = yield from self._finding(target)
        if http.server.settings["rules"]:
            target = http.server.files.names.served(path, path_of(target))
        whole = hasattr(file, "windowsize")  # compressed: it is inflated from its start
        changed = getattr(file, "crc", None)
        modified = ""
        if changed is None:  # else it was made just now, by made.py
            changed = os.stat(path)[8]
            modified = date(changed)
        tag = http.tag(changed, size)
        more = _FILE % (tag, "none" if whole else "bytes")
        if modified:
            more += "Last-Modified: %s\r\n" % modified
        name = path.split("/")[-1].lower()
        if whole and name.endswith(".gz"):
            name = name[:-3]
        kind = getattr(file, "kind", None) or _TYPES.get(
            name.rpartition(".")[2], "application/octet-stream"
        )
        code, start, end = 200, 0, size
        asked = fields.get("if-none-match")
        since = fields.get("if-modified-since", "-")
        if not listed(tag, fields.get("if-match", "*")):
            raise Failed(412, CHANGED)
        if listed(tag, asked) if asked else since == modified:
            yield from self.sending(self.head(304, kind, size, more))
            return
        if (
            method == b"GET"
            and not whole
            and fields.get("if-range", tag) in (tag, modified or tag)
        ):
            try:
                wanted = byte_range(fields.get("range", ""), size)
            except Failed:
                more += "Content-Range: bytes */%d\r\n" % size
                yield from self.sending(self.head(416, kind, 0, more))
                return
            if wanted:
                code = 206
                start, end = wanted
                more += "Content-Range: bytes %d-%d/%d\r\n" % (start, end - 1, size)
        head = self.head(code, kind, end - start, more)
        if method == b"HEAD":
            yield from self.sending(head)
        elif hasattr(file, "crc"):  # a page asks for such a file each second
            yield from self._streaming(file, start, end, head)
        else:
            self.doing = "GET", path, began, end - start
            outcome = "broken off"
            try:
                yield from self._streaming(file, start, end, head)
                outcome = DONE
            finally:
                self.finished(method, target, outcome, began)

    def _writes(self):
        """How many more writes may come in this turn."""
        http = self.http
        alone = len(http.connections) == 1 and not http.ports.sessions
        return _WRITES if alone and not self._slow else 0

    def _streaming(self, file, start, end, head):
        """Send `head` (bytes) and behind it the bytes of `file` from `start` to `end`. They go
        through the buffer of all transfers: after another one has used it they are read again."""
        ahead = self.http.ahead
        view = ahead.view
        readinto = file.readinto
        full = len(view) // _SEGMENT * _SEGMENT or len(view)
        beside = min(full, _BESIDE) if _PIECES else full
        sessions = self.http.ports.sessions
        self._slow = bool(self.data)  # requests were sent ahead
        at = start - len(head)  # what has been sent; the head stands before `start`
        first = behind = at  # what is in the buffer
        place = 0  # of the file
        writes = self._writes()  # more of them in this turn
        taken = 0  # in this turn
        while at < end:
            if at >= behind or ahead.owner is not self:
                ahead.owner = self
                first = at
                part = head[len(head) + at - start :][:full] if at < start else b""
                used = len(part)
                view[:used] = part
                behind = at + used
                room = (beside if sessions else full) - used
                room = min(room, end - behind) if behind >= start else 0
                if room:
                    if place != behind:
                        file.seek(behind)
                    behind = place = behind + readinto(view[used : used + room])
                if behind == at:
                    raise OSError(EAGAIN)  # the file has become shorter
            size = behind - at
            data = view[at - first : behind - first]
            whole = not size % _SEGMENT or behind == end  # segments, but for the last one
            sent = self.sock.write(data) if writes and whole else self._write(data)
            if sent:
                at += sent
                taken += sent
                self.moved = max(at - start, 0)
            writes -= 1
            if not sent or writes < 0:
                if taken:
                    self._lives(taken)
                    taken = 0
                now = ticks_ms()
                yield POLLOUT
                if sent != size and ticks_diff(ticks_ms(), now) > _SLOW_MS:
                    self._slow = True
                writes = self._writes()
        while self._unread and self.http.ports.listener.sock and not self._fits(0):
            yield POLLOUT
