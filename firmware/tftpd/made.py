"""The files that the server makes itself, below `tftpd/` (reserved.py). Loaded with the first
request for one. What a file says is of the moment in which it was asked for.

status.json  one object:
  version, micropython, machine, hostname
  uptime     ms
  rssi       dBm; null where the board is not on Wi-Fi
  heap       [bytes free, bytes in use]
  volumes    a list of {root, free, size}, in bytes
  may_write  whether the asking client may
  clock      seconds since 1970; null if the clock is not set
  counters   those of journal.py
  now        transfers under way: a list of {op: RRQ, WRQ, GET, PUT, client: "address:port",
             name: as in the journal, bytes: delivered so far, size: in all or null, ms: since the
             start}
  last       the last lines of the journal, the newest at the end

Over HTTP the journal and its counters leave out who got one of these files, as the page asks for
one each second.

With client_folders a client gets only those transfers and lines that are its own.
"""

import gc
import json
import os
import sys
from binascii import crc32
from time import gmtime, ticks_diff, ticks_ms, time

from micropython import const

from . import __version__
from .files import OctetSource
from .journal import quoted
from .packet import ACCESS, NOT_FOUND, WRQ, Refused
from .reserved import FOLDER

_SHIFT = const(10)
_PIECE_BYTES = const(1 << 10)  # a heap in use seldom has more in one piece
_CLOCK_SET = const(2024)  # the year from which the clock is believed
_FROM_2000 = const(946684800)  # seconds since 1970 at the epoch of some ports
_LINES = const(20)
_REST = const(20)  # os.statvfs() takes 0.2 s with 1,500 files: at most so small a part of the time


class Made:
    """A file in memory: write() makes it, then it is open for reading.

    size  bytes
    crc   of the content, for HTTP
    kind  Content-Type, None for that of the name
    """

    kind = None

    def __init__(self):
        self._pieces = []
        self.size = self.crc = self._at = 0

    def write(self, text):
        """Add a str. Raises MemoryError."""
        data = text.encode()
        self.crc = crc32(data, self.crc)
        while data:
            at = self.size & (_PIECE_BYTES - 1)
            if not at:
                self._pieces.append(bytearray(_PIECE_BYTES))
            part = data[: _PIECE_BYTES - at]
            self._pieces[-1][at : at + len(part)] = part
            self.size += len(part)
            data = data[len(part) :]

    def seek(self, offset, whence=0):
        """As a file's."""
        self._at = self.size if whence else offset
        return self._at

    def readinto(self, view):
        """As a file's."""
        n = 0
        most = min(len(view), self.size - self._at)
        while n < most:
            i = self._at & (_PIECE_BYTES - 1)
            part = memoryview(self._pieces[self._at >> _SHIFT])[i : i + most - n]
            view[n : n + len(part)] = part
            n += len(part)
            self._at += len(part)
        return n

    def close(self):
        """As a file's."""


def text(value):
    """`value` as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


_volumes = {}  # root: (free, size, when it was asked, for how long it is kept)


def _space(files):
    """A list of (root, free, size)."""
    ports = files.server.ports
    answer = []
    for root in files.names.roots:
        now = ticks_ms()
        free, size, at, rest = _volumes.get(root, (0, 0, 0, -1))
        if rest < 0 or not (ports.sessions or 0 <= ticks_diff(now, at) < rest):
            try:
                os.stat(root)  # statvfs() of a card that is not there would tell of the flash
                stat = os.statvfs(root)
            except OSError:
                continue
            free, size = max(stat[0] * stat[3], 0), stat[1] * stat[2]  # LittleFS may count twice
            _volumes[root] = free, size, now, _REST * ticks_diff(ticks_ms(), now)
        answer.append((root, free, size))
    return answer


def _rssi(settings):
    if settings["ssid"] and not settings["wired"]:
        try:
            import network

            return network.WLAN(network.STA_IF).status("rssi")
        except Exception:  # of many kinds: not connected, not supported
            pass
    return None


def _name(quoted):
    return quoted.split('"', 1)[1].rsplit('"', 1)[0]


def _size(source):
    """Bytes in all of what a transfer sends; None if that is not known."""
    if type(source) is not OctetSource:
        return None
    file = source.file
    if hasattr(file, "size"):
        return file.size
    at = file.tell()
    size = file.seek(0, 2)
    file.seek(at)
    return size


def _now(files, host):
    """The transfers under way."""
    server = files.server
    uptime = server.journal.uptime_ms()
    for session in server.ports.sessions:
        if session.label and host in (None, session.host):
            client, op, name = session.label.split(" ", 2)
            yield {
                "op": op,
                "client": client,
                "name": _name(name),
                "bytes": session.transfer.delivered(),
                "size": _size(session.file),
                "ms": uptime - session.began,
            }
    for one in server.ports.others.values():
        doing = getattr(one, "doing", None)
        if doing and host in (None, one.host):
            op, path, began, size = doing
            yield {
                "op": op,
                "client": one.label,
                "name": _name(quoted(files.names.served(path))),
                "bytes": one.moved,
                "size": size,
                "ms": uptime - began,
            }


def _lines(files, host):
    """The last lines of the journal. The first in a full ring has lost its beginning."""
    text = bytes(files.ring).lstrip(b"\n")
    lines = text.split(b"\n")[len(text) // len(files.ring) : -1]
    lines = [line.decode() for line in lines]
    if host:
        lines = [line for line in lines if line.split(" ")[1].startswith(host + ":")]
    return lines


def _list(made, items):
    comma = "["
    for item in items:
        made.write(comma + text(item))
        comma = ","
    made.write("[]" if comma == "[" else "]")


def _micropython():
    return ".".join([str(one) for one in sys.implementation.version[:3]])


def _status(files, made, host, mine):
    server = files.server
    settings = server.settings
    clock = None
    if gmtime()[0] >= _CLOCK_SET:
        clock = int(time()) + (_FROM_2000 if gmtime(0)[0] == 2000 else 0)
    volumes = _space(files)
    if not server.ports.sessions:
        gc.collect()
    made.write(
        text(
            {
                "version": __version__,
                "micropython": _micropython(),
                "machine": sys.implementation._machine,
                "hostname": settings["hostname"],
                "uptime": server.journal.uptime_ms(),
                "rssi": _rssi(settings),
                "heap": [gc.mem_free(), gc.mem_alloc()],
                "volumes": [{"root": one[0], "free": one[1], "size": one[2]} for one in volumes],
                "may_write": bool(server.stores[WRQ]) and host in server.may[WRQ],
                "clock": clock,
                "counters": server.journal.counters,
            }
        )[:-1]
    )
    made.write(',"now":')
    _list(made, _now(files, mine))
    made.write(',"last":')
    _list(made, _lines(files, mine)[-_LINES:])
    made.write("}\n")


def _journal(files, made, host, mine):
    for line in _lines(files, mine):
        made.write(line + "\n")


def _metrics(files, made, host, mine):
    """https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4."""
    server = files.server
    told = {
        "uptime_seconds": server.journal.uptime_ms() / 1000,
        "rssi_dbm": _rssi(server.settings),
    }
    told["heap_free_bytes"] = gc.mem_free()
    told["heap_used_bytes"] = gc.mem_alloc()
    told["transfers"] = len(list(_now(files, None)))
    for name, value in server.journal.counters.items():
        made.write("# TYPE tftpd_%s_total counter\ntftpd_%s_total %d\n" % (name, name, value))
    for name, value in told.items():
        if value is not None:
            made.write("# TYPE tftpd_%s gauge\ntftpd_%s %s\n" % (name, name, value))
    volumes = _space(files)
    for at, name in ((1, "free"), (2, "size")):
        made.write("# TYPE tftpd_volume_%s_bytes gauge\n" % name)
        for one in volumes:
            label = text(one[0])
            made.write("tftpd_volume_%s_bytes{root=%s} %d\n" % (name, label, one[at]))
    told = __version__, _micropython(), text(sys.implementation._machine)
    made.write("# TYPE tftpd_info gauge\n")
    made.write('tftpd_info{version="%s",micropython="%s",machine=%s} 1\n' % told)
    made.kind = "text/plain; version=0.0.4; charset=utf-8"


def _version(files, made, host, mine):
    told = __version__, _micropython(), sys.implementation._machine
    made.write("micropython-tftpd %s\nMicroPython %s\n%s\n" % told)
    made.kind = "text/plain"


_MAKERS = {
    "status.json": _status,
    "journal.txt": _journal,
    "metrics": _metrics,
    "version": _version,
}


def find(files, name, host, found):
    """(path, Made) of `name` for the client at `host`. `files`: reserved.Reserved; `found`: as in
    Names.find(). Raises Refused, Later."""
    path = "%s/%s/%s" % (files.names.roots[0], FOLDER, name)
    if name in ("index.txt", "index.json"):
        from .index import index

        return path, index(files, name, host, found)
    maker = _MAKERS.get(name)
    if not maker:
        if name:
            raise Refused(NOT_FOUND, "file not found")
        raise Refused(ACCESS, "is a folder, not a file")
    made = Made()
    maker(files, made, host, host if files.settings["client_folders"] else None)
    return path, made
