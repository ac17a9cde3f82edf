"""The files that the server makes itself, below `tftpd/` (reserved.py). Loaded with the first
request for one. What a file says is of the moment in which it was asked for.

status.json  one object:
  version, micropython, machine, hostname
  uptime     ms
  rssi       dBm; null where the board is not on Wi-Fi
  heap       [bytes free, bytes in use]
  volumes    a list of {root, free, size}, in bytes
  may_write  whether the asking client may
  overwrite  the setting: whether it may also replace and delete
  clock      seconds since 1970; null if the clock is not set
  counters   those of journal.py
  now        transfers under way: a list of {op: RRQ, WRQ, GET, PUT, client: "address:port",
             name: as in the journal, bytes: delivered so far, size: in all or null, ms: since the
             start}
  last       the last lines of the journal, the newest at the end
  boots      what machines have booted, as far as the kept lines tell: see stories.py

Over HTTP the journal and its counters leave out who got one of these files, as the page asks for
one each second.

With client_folders a client gets only those transfers, lines and boots that are its own.
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
from .names import Names
from .packet import ACCESS, NOT_FOUND, WRQ, Refused
from .reserved import FOLDER
from .stories import stories

_PIECE_BYTES = const(1024)  # a heap in use seldom has more in one piece
_CLOCK_SET = const(2024)  # the year from which the clock is believed
_FROM_2000 = const(946684800)  # seconds since 1970 at the epoch of some ports
_LINES = const(20)
_REST = const(20)  # os.statvfs() takes 0.2 s with 1,500 files: at most so small a part of the time
_INDEXES = ("index.txt", "index.json")


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
            at = self.size % _PIECE_BYTES
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
            i = self._at % _PIECE_BYTES
            part = memoryview(self._pieces[self._at // _PIECE_BYTES])[i : i + most - n]
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
    """A list of {root, free, size}."""
    answer = []
    for root in files.names.roots:
        now = ticks_ms()
        free, size, at, rest = _volumes.get(root, (0, 0, 0, -1))
        if rest < 0 or not (files.server.ports.sessions or 0 <= ticks_diff(now, at) < rest):
            try:
                os.stat(root)  # statvfs() of a card that is not there would tell of the flash
                stat = os.statvfs(root)
            except OSError:
                continue
            free = max(stat[0] * stat[3], 0)  # LittleFS may count a block twice
            size = stat[0] * stat[2]
            _volumes[root] = free, size, now, _REST * ticks_diff(ticks_ms(), now)
        answer.append({"root": root, "free": free, "size": size})
    return answer


def _rssi(settings):
    if settings["ssid"] and not settings["wired"]:
        try:
            import network

            return network.WLAN(network.STA_IF).status("rssi")
        except Exception:  # of many kinds: not connected, not supported
            pass
    return None


def _facts(files, host):
    server = files.server
    settings = server.settings
    clock = None
    if gmtime()[0] >= _CLOCK_SET:
        clock = int(time()) + (_FROM_2000 if gmtime(0)[0] == 2000 else 0)
    if not server.ports.sessions:
        gc.collect()
    return {
        "version": __version__,
        "micropython": ".".join([str(one) for one in sys.implementation.version[:3]]),
        "machine": sys.implementation._machine,
        "hostname": settings["hostname"],
        "uptime": server.journal.uptime_ms(),
        "rssi": _rssi(settings),
        "heap": [gc.mem_free(), gc.mem_alloc()],
        "volumes": _space(files),
        "may_write": bool(server.stores[WRQ]) and host in server.may[WRQ],
        "overwrite": settings["overwrite"],
        "clock": clock,
        "counters": server.journal.counters,
    }


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


def _now(files, mine):
    """The transfers under way: (host, op, client, quoted name, bytes, size, uptime_ms of the
    beginning)."""
    server = files.server
    found = []
    for one in server.ports.sessions:
        if one.label:
            client, op, name = one.label.split(" ", 2)
            moved = one.transfer.delivered()
            found.append((one.host, op, client, name, moved, _size(one.file), one.began))
    for one in server.ports.others.values():
        doing = getattr(one, "doing", None)
        if doing:
            op, path, began, size = doing
            name = quoted(Names.served(files.names, path, b""))  # not as rules.py tells it
            found.append((one.host, op, one.label, name, one.moved, size, began))
    return [
        {
            "op": op,
            "client": client,
            "name": name.split('"', 1)[1].rsplit('"', 1)[0].split('" -> "')[-1],
            "bytes": moved,
            "size": size,
            "ms": server.journal.uptime_ms() - began,
        }
        for host, op, client, name, moved, size, began in found
        if mine in (None, host)
    ]


def _lines(files, mine):
    """The last lines of the journal. The first in a full ring has lost its beginning."""
    kept = bytes(files.ring).lstrip(b"\n")
    lines = kept.split(b"\n")[len(kept) // len(files.ring) : -1]
    lines = [line.decode() for line in lines]
    if mine:
        lines = [line for line in lines if line.split(" ")[1].startswith(mine + ":")]
    return lines


def _status(files, made, host, mine):
    lead = text(_facts(files, host))[:-1]
    lines = _lines(files, mine)
    boots = stories(_lines(files, None) if mine else lines)
    if mine:
        boots = [one for one in boots if one["client"] == mine]
    for name, items in (
        ("now", _now(files, mine)),
        ("last", lines[-_LINES:]),
        ("boots", boots),
    ):
        made.write('%s,"%s":' % (lead, name))
        lead = "["
        for item in items:  # one by one: together they need much heap in one piece
            made.write(lead + text(item))
            lead = ","
        lead = "]" if items else "[]"
    made.write(lead + "}\n")


def _journal(files, made, host, mine):
    for line in _lines(files, mine):
        made.write(line + "\n")


def _metrics(files, made, host, mine):
    """https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4."""
    facts = _facts(files, host)
    made.kind = "text/plain; version=0.0.4; charset=utf-8"

    def tell(name, value, kind="gauge"):
        made.write("# TYPE tftpd_%s %s\n" % (name, kind))
        for label, number in value if type(value) is list else [("", value)]:
            made.write("tftpd_%s%s %s\n" % (name, label, number))

    for name, number in facts["counters"].items():
        tell(name + "_total", number, "counter")
    tell("uptime_seconds", facts["uptime"] / 1000)
    tell("transfers", len(_now(files, None)))
    if facts["rssi"] is not None:
        tell("rssi_dbm", facts["rssi"])
    for at, name in enumerate(("free", "used")):
        tell("heap_%s_bytes" % name, facts["heap"][at])
    for name in ("free", "size"):
        label = "{root=%s}"
        tell(
            "volume_%s_bytes" % name,
            [(label % text(one["root"]), one[name]) for one in facts["volumes"]],
        )
    names = ["%s=%s" % (name, text(facts[name])) for name in ("version", "micropython", "machine")]
    tell("info", [("{%s}" % ",".join(names), 1)])


def _version(files, made, host, mine):
    facts = _facts(files, host)
    made.kind = "text/plain"
    made.write("micropython-tftpd %(version)s\nMicroPython %(micropython)s\n%(machine)s\n" % facts)


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
    if name in _INDEXES:
        from .index import index

        return path, index(files, name, host, found)
    if name not in _MAKERS:
        raise Refused(NOT_FOUND if name else ACCESS, "no such file is made here")
    made = Made()
    _MAKERS[name](files, made, host, host if files.settings["client_folders"] else None)
    return path, made
