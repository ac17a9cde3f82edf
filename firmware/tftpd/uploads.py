"""Uploads: where a file is written, and how it is put in its place.

It is written in a folder of its own, outside the served tree, and renamed when it is complete:
LittleFS renames atomically, and what was written before a close survives a power cut. A file that
is replaced while it is being read is moved to that folder first ("moved aside"), because LittleFS
reuses the blocks of a file without a name. Its new name tells recover() where it belongs.

Loaded only if uploads are allowed or files are left in that folder (start.py).
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
_SLASH = const("\x01")  # replaces "/" in the name of a file moved aside; no served name has it
_FOLDER_BLOCKS = const(2)  # most that a folder takes for one more name
_POINTERS = const(8)  # mean bytes in a LittleFS block (its DESIGN.md, "CTZ skip-lists")


class Sink:
    """Writes a file under a temporary name; commit() puts it in its place.

    The file is created with the first block, not with the request: a request may have a false
    sender, and flash wears out.
    """

    def __init__(self, uploads, path, limit, spare):
        """`uploads`: Uploads, whose free blocks it takes; `path`: the final path; `limit`: bytes;
        `spare`: bytes of heap that the open file will need."""
        self.uploads = uploads
        self.path = path
        self.limit = limit
        self.size = 0
        self.taken = 0  # blocks of flash
        self.temporary = None
        self.file = None
        self.spare = bytearray(spare)  # reserves the heap for open(), which comes later

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
        """Put the file at `path`. If that fails, change nothing and raise Refused."""
        try:
            self.file.close()  # pyright: ignore[reportOptionalMemberAccess]
            self.uploads.put(self.temporary, self.path)
        except OSError as trouble:
            raise _explained(trouble)
        self.temporary = None

    def close(self):
        """Remove the file unless it was committed, and give its blocks back."""
        if self.temporary:
            try:
                if self.file:
                    self.file.close()
            except OSError:  # the flash is full: the buffered data could not be written
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
    """The files that are being written. Has the methods of Files that start a transfer."""

    transfer = WriteTransfer

    def __init__(self, settings, files):
        """`settings`: as in docs/settings.md: write_from, write_to, overwrite, write_limit,
        keep_free; `files`: Files."""
        self.settings = settings
        self.files = files
        root = files.names.root
        self._folders = [root + folder.rstrip("/") + "/" for folder in settings["write_to"]]
        self._number = 0  # of the last file made in UPLOADS
        self._block = 0  # bytes; 0 before the first _look()
        self._room = 0  # blocks of flash that uploads may still take
        self._changed = False  # since the last _look()
        self._open_bytes = 0  # of heap for an open file

    def make_folders(self):
        """Make the folders of write_to. Returns a list of errors (str)."""
        troubles = []
        for folder in self._folders:
            made = ""
            for part in folder.strip("/").split("/"):
                made += "/" + part
                if not _exists(made):
                    try:
                        os.mkdir(made)
                    except OSError as trouble:  # its parent is a file, for one
                        troubles.append("write_to: can't make %s: %s" % (made, trouble))
        return troubles

    def recover(self):
        """After a power cut: remove unfinished files, restore files that were being replaced."""
        try:
            names = sorted(os.listdir(UPLOADS), reverse=True)  # newest first
        except OSError:  # no upload so far
            return
        for name in names:
            there = UPLOADS + "/" + name
            path = "/".join(name.split(_SLASH)[1:])
            if name[-1] == _SLASH:
                path = self._noted(there)
            if path and not _exists("/" + path):
                try:
                    os.rename(there, "/" + path)
                except OSError:  # its folder is gone: it stays here for the user to find
                    pass
            else:
                remove(there)

    def _noted(self, aside):
        """Read the path of the file moved `aside`, which was too long for its name.

        The note with the path has the bare number as its name; recover() removes it next.
        """
        try:
            with open(aside[:-1]) as note:
                return note.read()[1:]
        except OSError:
            return ""

    def place(self, name, host, found):
        """Return the path for an upload with `name` (bytes of a request) from the client at
        `host`. `found`: as in Names.find(). Raises Refused, Later."""
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
        if not self.settings["overwrite"] and (exists or self._compressed(parts, found)):
            raise Refused(EXISTS, "file exists")
        return path

    def _compressed(self, parts, found):
        """Whether there is a compressed file of that name, which the upload would hide. Raises
        Later."""
        file = None
        if self.files.names.deflate:
            try:
                _, file = self.files.names.find(parts[:-1] + [parts[-1] + ".gz"], found)
            except Refused:
                pass
        if file:
            file.close()
        return bool(file)

    def _folder(self, parts, found):
        """Return the path of the folder `parts`, None if it is not a folder. Raises Later."""
        try:
            path, file = self.files.names.find(parts, found)
        except Refused:
            return None
        if file:
            file.close()
        return path if os.stat(path)[0] & _FOLDER else None

    def rival(self, sessions, path, host, now):
        """Return which of `sessions` (ports.Session) writes the file at `path` and may_end() for
        `host`; None if no session writes it. Raises Refused if that one may not end."""
        for session in sessions:
            writing = session.transfer.path
            same = writing and writing.lower() == path.lower()
            if same and not session.transfer.whole():
                if may_end(session, host, now):
                    return session
                raise Refused(UNDEFINED, "somebody is writing this file")
        return None

    def open(self, path, found, mode, asked, blksize):
        """As Files.open(), but with the sink for the file at `path`."""
        agreed = Agreed(asked, blksize, self.settings["wrq_windowsize"], upload=True)
        return path, self.create(path, mode, agreed.tsize), agreed

    def create(self, path, mode, size):
        """Make the sink for the file at `path`.

        size  bytes that the client announced (tsize), None if it did not

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
        # _look() takes 0.2 s on an ESP32-C3 with 1,500 files, so it is called only if it may help.
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
        """Take `blocks` for an upload; a negative number gives them back. Raises Refused."""
        if blocks > 0 and not self._has_room(blocks):
            raise Refused(DISK_FULL, "the flash is full")
        self._room -= blocks
        self._changed = True

    def put(self, temporary, path):
        """Rename `temporary` to `path`. Reads of the old file can go on. Raises OSError."""
        aside = None
        if path in self.files.readers.values():
            self._number += 1
            aside = _NUMBERED % (self._number, path.replace("/", _SLASH))
            if len(aside.encode()) > _MAX_NAME:  # a note, a second file, holds the path
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
            if old == path:  # it reads the file that was moved aside
                self.files.readers[source] = aside
