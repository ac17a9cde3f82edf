"""Uploads: where a file is written, and how it is put in its place.

It is written in a folder of its own, outside the served tree, and renamed when it is complete:
LittleFS renames atomically, and what was written before a close survives a power cut. A file that
is replaced while it is being read is moved to that folder first ("moved aside"), because LittleFS
reuses the blocks of a file without a name. A note beside it tells recover() where it belongs.

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
_NUMBERED = const("/%08d")
_ASIDE = const(".old")  # behind the number of the note with its path
_NOTE_BYTES = const(1024)
_CARD = const("/card")  # where a card is mounted (cards.py)
_FOLDER_BLOCKS = const(2)  # most that a folder takes for one more name
_POINTERS = const(8)  # mean bytes in a LittleFS block (its DESIGN.md, "CTZ skip-lists")


class Sink:
    """Writes a file under a temporary name; commit() puts it in its place.

    The file is created with the first block, not with the request: a request may have a false
    sender, and flash wears out.
    """

    def __init__(self, uploads, volume, path, limit, spare):
        """`uploads`: Uploads; `volume`: Volume, whose free blocks it takes; `path`: the final
        path; `limit`: bytes; `spare`: bytes of heap that the open file will need."""
        self.uploads = uploads
        self.volume = volume
        self.path = path
        self.limit = limit
        self.size = 0
        self.taken = 0  # blocks of flash
        self.temporary = None
        self.file = None
        self.spare = bytearray(spare)  # reserves the heap for open(), which comes later

    def write(self, data):
        """Add `data` (bytes-like). Raises Refused."""
        volume = self.volume
        self.size += len(data)
        if self.size > self.limit:
            raise Refused(DISK_FULL, "file too large")
        more = volume.blocks(self.size) - self.taken
        if more:
            volume.take(more)
            self.taken += more
        try:
            if not self.file:
                self.spare = None
                gc.collect()
                self.temporary = volume.new_temporary()
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
            except OSError:  # no room: the buffered data could not be written
                pass
            remove(self.temporary)
            self.temporary = None
            self.volume.take(-self.taken)


def _explained(trouble):
    if trouble.errno == _ENOSPC:
        return Refused(DISK_FULL, "the filesystem is full")
    return Refused(UNDEFINED, "can't write the file: %s" % trouble)


def exists(path):
    """Whether there is something at `path`."""
    try:
        os.stat(path)
        return True
    except OSError:
        return False


class Volume:
    """A file system: what uploads may take of it, and the folder in which they grow."""

    def __init__(self, mount, keep_free):
        """`mount`: where it is mounted, "" for the flash; `keep_free`: bytes."""
        self._mount = mount
        self._keep_free = keep_free
        self._number = 0  # of the last file made in UPLOADS
        self._block = 0  # bytes; 0 before the first _look()
        self._room = 0  # blocks that uploads may still take
        self._changed = False  # since the last _look()

    def recover(self):
        """After a power cut: remove unfinished files, restore files that were being replaced."""
        folder = self._mount + UPLOADS
        names = None
        # Once more after a change: LittleFS may hide a name until its first write after a cut.
        while True:
            before = names
            try:
                names = sorted(os.listdir(folder), reverse=True)  # newest first
            except OSError:  # no upload so far
                return
            if names == before:
                return
            for name in names:
                self._restore(folder + "/" + name)

    def _restore(self, there):
        """Put a file moved aside back if its path is free; remove all else."""
        note = there[: -len(_ASIDE)]
        path = there.endswith(_ASIDE) and self._noted(note)
        if path and not exists(path):
            try:
                os.rename(there, path)
            except OSError:  # its folder is gone: it stays here, for the user to find
                if note[-8:].isdigit():
                    self._number = max(self._number, int(note[-8:]))
        elif not exists(there + _ASIDE):
            remove(there)

    def _noted(self, note):
        """The path in a note, "" if there is none."""
        try:
            with open(note) as file:
                return file.read(_NOTE_BYTES)
        except (OSError, ValueError):  # ValueError: it is not UTF-8, so no note
            return ""

    def blocks(self, size):
        """How many blocks a file of `size` bytes takes."""
        return size // (self._block - _POINTERS) + 1

    def has_room(self, size):
        """Whether a file of `size` bytes fits."""
        if not self._block:
            self._look()
        return self._has_room(self.blocks(size))

    def new_temporary(self):
        """The path of a new file in UPLOADS. Raises OSError."""
        folder = self._mount + UPLOADS
        if not exists(folder):
            os.mkdir(folder)
        self._number += 1
        return folder + _NUMBERED % self._number

    def _has_room(self, blocks):
        # _look() takes 0.2 s on an ESP32-C3 with 1,500 files, so it is called only if it may help.
        if blocks > self._room and self._changed:
            self._look()
        return blocks <= self._room

    def _look(self):
        stat = os.statvfs(self._mount or "/")
        self._block = stat[0]
        self._room = stat[3] - _FOLDER_BLOCKS + -self._keep_free // stat[0]
        self._changed = False

    def take(self, blocks):
        """Take `blocks` for an upload; a negative number gives them back. Raises Refused."""
        if blocks > 0 and not self._has_room(blocks):
            raise Refused(DISK_FULL, "the %s is full" % (self._mount[1:] or "flash"))
        self._room -= blocks
        self._changed = True


class Uploads:
    """The files that are being written. Has the methods of Files that start a transfer."""

    transfer = WriteTransfer

    def __init__(self, settings, files):
        """`settings`: as in docs/settings.md: write_from, write_to, overwrite, write_limit,
        keep_free, card; `files`: Files."""
        self.settings = settings
        self.files = files
        roots = files.names.roots
        self._folders = []  # those that take uploads
        self._wanted = []  # those of them that are made
        for folder in settings["write_to"]:
            folder = folder.rstrip("/") + "/"
            # With several roots it may be named by its whole path.
            if roots[1:] and any(folder.startswith(root + "/") for root in roots):
                places = [folder]
            else:
                places = [root + folder for root in roots]
            self._folders += places
            self._wanted.append(places[0])
        self._flash = Volume("", settings["keep_free"])
        self._card = Volume(_CARD, settings["keep_free"])
        self._open_bytes = 0  # of heap for an open file
        self.writing = []  # paths, in lower case, that HTTP writes to

    def make_folders(self):
        """Make the folders of write_to below the first root, or where they are named by their
        whole path. Returns a list of errors (str)."""
        troubles = []
        for folder in self._wanted:
            if folder.startswith(_CARD + "/") and not exists(_CARD):
                continue  # or it would be made in the flash
            made = ""
            for part in folder.strip("/").split("/"):
                made += "/" + part
                if not exists(made):
                    try:
                        os.mkdir(made)
                    except OSError as trouble:  # its parent is a file, for one
                        troubles.append("write_to: can't make %s: %s" % (made, trouble))
        return troubles

    def recover(self):
        """After a power cut: put each file system in order."""
        self._flash.recover()
        self._card.recover()

    def card_changed(self):
        """There is another card, or none."""
        self._card = Volume(_CARD, self.settings["keep_free"])
        self._card.recover()

    def _volume(self, path):
        return self._card if path.startswith(_CARD + "/") else self._flash

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
            path = self._new(parts, found)
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

    def _new(self, parts, found):
        """Return the path of a new file: in the first root whose folder takes uploads. Raises
        Refused, Later."""
        path = None
        for root in self.files.names.roots:
            folder = self._folder(parts[:-1], found, [root])
            if folder:
                path = folder + "/" + parts[-1]
                if any(path.startswith(one) for one in self._folders):
                    break
        if not path:
            raise Refused(NOT_FOUND, "no such folder")
        return path

    def _folder(self, parts, found, roots=None):
        """Return the path of the folder `parts`, None if it is not a folder. Raises Later."""
        try:
            path, file = self.files.names.find(parts, found, roots)
        except Refused:
            return None
        if file:
            file.close()
        return path if os.stat(path)[0] & _FOLDER else None

    def rival(self, sessions, path, host, now):
        """Return which of `sessions` (ports.Session) writes the file at `path` and may_end() for
        `host`; None if nobody writes it. Raises Refused if that one may not end."""
        if path.lower() in self.writing:
            raise Refused(UNDEFINED, "somebody is writing this file")
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
        volume = self._volume(path)
        if not self._open_bytes:
            self._measure()
        if (size or 0) > limit or not volume.has_room(size or 0):
            raise Refused(DISK_FULL, "no room for %d bytes" % (size or 0))
        sink = Sink(self, volume, path, limit, self._open_bytes)
        if mode == "netascii":
            from .netascii import NetasciiSink

            return NetasciiSink(sink)
        return sink

    def _measure(self):
        """See how much heap an open file takes."""
        for name, kind, *_ in os.ilistdir("/"):
            if kind == _FILE:
                gc.collect()
                before = gc.mem_alloc()
                open("/" + name).close()
                self._open_bytes = gc.mem_alloc() - before

    def put(self, temporary, path):
        """Rename `temporary` to `path`. Reads of the old file can go on. Raises OSError."""
        aside = None
        if path in self.files.readers.values():
            aside = self._move_aside(path, path)
        try:
            os.rename(temporary, path)
        except BaseException:  # also that of Ctrl-C
            if aside:
                os.rename(aside, path)
            raise
        self._is_aside(path, aside)
        self.files.names.add(path)

    def delete(self, path):
        """Remove the file at `path`. Reads of it can go on. Raises Refused."""
        try:
            if path in self.files.readers.values():
                self._is_aside(path, self._move_aside(path, ""))
            else:
                os.remove(path)
        except OSError as trouble:
            raise _explained(trouble)
        self._volume(path).take(0)

    def _move_aside(self, path, wanted):
        """Return where the file at `path` is now. `wanted`: where recover() is to put it if the
        power is cut meanwhile, "" to remove it."""
        note = self._volume(path).new_temporary()
        with open(note, "w") as file:
            file.write(wanted)
        os.rename(path, note + _ASIDE)
        return note + _ASIDE

    def _is_aside(self, path, aside):
        for source, old in self.files.readers.items():
            if old == path:  # it reads the file that was moved aside
                self.files.readers[source] = aside
