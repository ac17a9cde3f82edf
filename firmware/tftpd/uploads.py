"""Uploads: how a file that is sent gets to its place.

It grows in a folder of its own, out of the served tree, and is renamed when it is whole: LittleFS
renames atomically, and what was closed before survives a power cut. A file that is being read
while it is replaced is moved to that folder first, for LittleFS gives the blocks of a file without
a name to others. Its new name tells recover() where it belongs.

Loaded only where uploads are allowed.
"""

import gc
import os

from micropython import const

from .access import may_end
from .files import UPLOADS, remove
from .names import components
from .options import Agreed
from .packet import ACCESS, DISK_FULL, EXISTS, NOT_FOUND, UNDEFINED, Refused
from .wrq import WriteTransfer

_ENOSPC = const(28)  # not in MicroPython's errno
_FOLDER = const(0x4000)  # of os.stat()
_FILE = const(0x8000)  # of os.ilistdir()
_NO_LIMIT = const(0x3FFFFFFF)
_MAX_NAME = const(255)  # bytes; LittleFS
_NUMBERED = const("/%08d%s")
_SLASH = const("\x01")  # for "/" in the name of a file moved aside; no served name has one
_FOLDER_BLOCKS = const(2)  # that a folder may take when it gets one more name
_POINTERS = const(8)  # bytes of a LittleFS block, on the average (its DESIGN.md, "CTZ skip-lists")


class Sink:
    """A file that grows out of sight until commit() puts it in its place.

    It is made with the first block: a request may have a false sender, and flash wears out.
    """

    def __init__(self, uploads, path, limit, spare):
        """`uploads`: Uploads, whose room it takes; `path`: where it is to go; `limit`: bytes;
        `spare`: bytes of heap that the open file will take."""
        self.uploads = uploads
        self.path = path
        self.limit = limit
        self.size = 0
        self.taken = 0  # blocks
        self.temporary = None
        self.file = None
        self.spare = bytearray(spare)  # or the file could not be opened any more

    def write(self, data):
        """Add `data` (bytes-like). Raises Refused."""
        uploads = self.uploads
        self.size += len(data)
        if self.size > self.limit:
            raise Refused(DISK_FULL, "file too large")
        more = uploads.blocks(self.size) - self.taken
        if more:
            uploads.take(more)
            self.taken += more
        try:
            if not self.file:
                self.spare = None
                gc.collect()
                self.temporary = uploads.new_temporary()
                self.file = open(self.temporary, "wb")
            self.file.write(data)  # pyright: ignore[reportOptionalMemberAccess]
        except OSError as trouble:
            raise _explained(trouble)

    def commit(self):
        """Make it the file at `path`, or leave all as it was and raise Refused."""
        try:
            self.file.close()  # pyright: ignore[reportOptionalMemberAccess]
            self.uploads.put(self.temporary, self.path)
        except OSError as trouble:
            raise _explained(trouble)
        self.temporary = None

    def close(self):
        """Remove it unless it has been committed, and give back what it took."""
        if self.temporary:
            try:
                if self.file:
                    self.file.close()
            except OSError:  # a full flash did not even take what was buffered
                pass
            remove(self.temporary)
            self.temporary = None
            self.uploads.take(-self.taken)


def _explained(trouble):
    if trouble.errno == _ENOSPC:
        return Refused(DISK_FULL, "the flash is full")
    return Refused(UNDEFINED, "can't write the file: %s" % trouble)


def _exists(path):
    try:
        os.stat(path)
        return True
    except OSError:
        return False


class Uploads:
    """The files that are being written; with the methods of Files that start a transfer."""

    transfer = WriteTransfer

    def __init__(self, settings, files):
        """`settings`: as in docs/settings.md: write_from, write_to, overwrite, write_limit,
        keep_free; `files`: Files."""
        self.settings = settings
        self.files = files
        root = files.names.root
        self._folders = [root + folder.rstrip("/") + "/" for folder in settings["write_to"]]
        self._number = 0  # of the last file in UPLOADS
        self._block = 0  # bytes; 0 before the first look at the flash
        self._room = 0  # blocks that uploads may still take
        self._changed = False  # since that look
        self._open_bytes = 0  # of heap that an open file takes

    def make_folders(self):
        """Make those that take uploads; returns what could not be done (list of str)."""
        troubles = []
        for folder in self._folders:
            made = ""
            for part in folder.strip("/").split("/"):
                made += "/" + part
                if not _exists(made):
                    try:
                        os.mkdir(made)
                    except OSError as trouble:  # as below a file
                        troubles.append("write_to: can't make %s: %s" % (made, trouble))
        return troubles

    def recover(self):
        """After a power cut: what was being written goes, what was being replaced comes back."""
        try:
            names = sorted(os.listdir(UPLOADS), reverse=True)  # the newest first
        except OSError:  # there never was an upload
            return
        for name in names:
            there = UPLOADS + "/" + name
            path = "/".join(name.split(_SLASH)[1:])
            if name[-1] == _SLASH:
                path = self._noted(there)
            if path and not _exists("/" + path):
                try:
                    os.rename(there, "/" + path)
                except OSError:  # its folder is gone: here it is, for whoever misses it
                    pass
            else:
                remove(there)

    def _noted(self, aside):
        """Where the file moved `aside` belongs, for which its name had no room: it is in the file
        with the bare number, which is next to be removed."""
        try:
            with open(aside[:-1]) as note:
                return note.read()[1:]
        except OSError:
            return ""

    def place(self, name, host, found):
        """The path at which a file with that name (bytes of a request) from the client at `host`
        is to be put. `found`: as in Names.find(). Raises Refused, Later."""
        parts = components(name)
        if not parts or name[-1:] in b"/\\":
            raise Refused(ACCESS, "is a folder, not a file")
        own = self.files.own(parts, host)
        if own and (own == "only" or self._folder([host], found)):
            parts.insert(0, host)
        exists = True
        try:
            path, file = self.files.names.find(parts, found)
            if not file:
                raise Refused(ACCESS, "is a folder, not a file")
            file.close()
        except Refused as refusal:
            if refusal.code != NOT_FOUND:
                raise
            exists = False
            folder = self._folder(parts[:-1], found)
            if not folder:
                raise Refused(NOT_FOUND, "no such folder")
            path = folder + "/" + parts[-1]
        if not any(path.startswith(folder) for folder in self._folders):
            raise Refused(ACCESS, "no uploads to this folder")
        if exists and not self.settings["overwrite"]:
            raise Refused(EXISTS, "file exists")
        return path

    def _folder(self, parts, found):
        """Its path, None if that is no folder. Raises Later."""
        try:
            path, file = self.files.names.find(parts, found)
        except Refused:
            return None
        if file:
            file.close()
        return path if os.stat(path)[0] & _FOLDER else None

    def rival(self, sessions, path, host, now):
        """Who of `sessions` (server.py) writes the file at `path` and gives it up for `host`; None
        without one. Raises Refused if it is still at it."""
        for session in sessions:
            writing = session.transfer.path
            same = writing and writing.lower() == path.lower()
            if same and not session.transfer.whole():
                if may_end(session, host, now):
                    return session
                raise Refused(UNDEFINED, "somebody is writing this file")
        return None

    def open(self, path, found, mode, asked, blksize):
        """As Files.open(): the sink that makes the file at `path`."""
        agreed = Agreed(asked, blksize, self.settings["wrq_windowsize"], upload=True)
        return path, self.create(path, mode, agreed.tsize), agreed

    def create(self, path, mode, size):
        """The sink that makes the file at `path`.

        size  bytes that are to come, None where the client has not said

        Raises Refused.
        """
        limit = self.settings["write_limit"]
        limit = _NO_LIMIT if limit is None else limit
        if not self._block:
            self._look()
        if size is not None and (size > limit or not self._has_room(self.blocks(size))):
            raise Refused(DISK_FULL, "no room for %d bytes" % size)
        sink = Sink(self, path, limit, self._open_bytes)
        if mode == "netascii":
            from .netascii import NetasciiSink

            return NetasciiSink(sink)
        return sink

    def blocks(self, size):
        """How many blocks of flash a file of `size` bytes takes."""
        return size // (self._block - _POINTERS) + 1

    def new_temporary(self):
        """The path of a new file in UPLOADS. Raises OSError."""
        if not _exists(UPLOADS):
            os.mkdir(UPLOADS)
        self._number += 1
        return UPLOADS + _NUMBERED % (self._number, "")

    def _has_room(self, blocks):
        # To look takes an ESP32-C3 with 1,500 files 0.2 s, so it is done only if it may help.
        if blocks > self._room and self._changed:
            self._look()
        return blocks <= self._room

    def _look(self):
        if not self._open_bytes:
            for name, kind, *_ in os.ilistdir("/"):
                if kind == _FILE:
                    gc.collect()
                    before = gc.mem_alloc()
                    open("/" + name).close()
                    self._open_bytes = gc.mem_alloc() - before
        stat = os.statvfs(self.files.names.root)
        self._block = stat[0]
        self._room = stat[3] - _FOLDER_BLOCKS + -self.settings["keep_free"] // stat[0]
        self._changed = False

    def take(self, blocks):
        """An upload takes so many blocks, or gives them back. Raises Refused."""
        if not self._has_room(blocks):
            raise Refused(DISK_FULL, "the flash is full")
        self._room -= blocks
        self._changed = True

    def put(self, temporary, path):
        """Rename `temporary` to `path`; who reads what is there now can go on. Raises OSError."""
        aside = None
        if path in self.files.readers.values():
            self._number += 1
            aside = _NUMBERED % (self._number, path.replace("/", _SLASH))
            if len(aside.encode()) > _MAX_NAME:  # a file of its own has the path
                with open(UPLOADS + _NUMBERED % (self._number, ""), "w") as note:
                    note.write(path)
                aside = _NUMBERED % (self._number, _SLASH)
            aside = UPLOADS + aside
            os.rename(path, aside)
        try:
            os.rename(temporary, path)
        except OSError:
            if aside:
                os.rename(aside, path)
            raise
        self.files.names.add(path)
        for source, old in self.files.readers.items():
            if old == path:  # then it was moved aside
                self.files.readers[source] = aside
