"""The tree that is served: which names are visible, how a file is opened, and how an upload gets
there.

Names come from strangers: RFC 1350 says only that they end with a NUL. The rules are in
docs/architecture.md.

An upload grows in a folder of its own, out of the served tree, and is renamed when it is whole:
LittleFS renames atomically, and what was closed before survives a power cut. A file that is being
read while it is replaced is moved to that folder first, for LittleFS gives the blocks of a file
without a name to others. Its new name tells recover() where it belongs.
"""

import os

from micropython import const

from .netascii import NetasciiSink, NetasciiSource
from .packet import ACCESS, DISK_FULL, EXISTS, NOT_FOUND, UNDEFINED, Refused

_ENOSPC = const(28)  # not in MicroPython's errno
_FOLDER = const(0x4000)  # bit of st_mode
_MAX_COMPONENT = const(255)  # LittleFS
_NO_LIMIT = const(0x3FFFFFFF)
_UPLOADS = const("/.uploads")
_NUMBERED = const("/%08d%s")
_SLASH = const("\x01")  # for "/" in the name of a file moved aside; no served name has one


class OctetSource:
    """Blocks of a file as they are; after a rollback they are read again."""

    def __init__(self, file, agreed):
        """`file`: opened for reading in binary; `agreed`: options.Agreed."""
        self.file = file
        self.blksize = agreed.blksize
        self.close = file.close
        # Fills a memoryview with the next blocks; fewer bytes at the end of the file only.
        self.readinto = file.readinto

    def seek(self, block):
        """Go to `block` (from 1, not wrapped)."""
        self.file.seek((block - 1) * self.blksize)


class Sink:
    """A file that grows out of sight until commit() puts it in its place."""

    def __init__(self, store, path, number, limit):
        """`store`: Store, among whose `writers` it is until then; `path`: where it is to go;
        `number`: its own; `limit`: bytes. Raises OSError."""
        self.store = store
        self.path = path
        self.temporary = _UPLOADS + _NUMBERED % (number, "")
        self.limit = limit
        self.file = open(self.temporary, "wb")
        store.writers.append(self)

    def write(self, data):
        """Add `data` (bytes-like). Raises Refused."""
        self.limit -= len(data)
        self.store.room -= len(data)
        if self.limit < 0:
            raise Refused(DISK_FULL, "file too large")
        if self.store.room < 0:
            raise Refused(DISK_FULL, "the flash is full")
        try:
            self.file.write(data)
        except OSError as trouble:
            raise _explained(trouble)

    def commit(self):
        """Make it the file at `path`, or leave all as it was and raise Refused."""
        try:
            self.file.close()
            self.store.put(self.temporary, self.path)
        except OSError as trouble:
            raise _explained(trouble)
        self.temporary = None
        self.store.writers.remove(self)

    def close(self):
        """Remove it unless it has been committed."""
        if self.temporary:
            try:
                self.file.close()
            except OSError:  # a full flash did not even take what was buffered
                pass
            _remove(self.temporary)
            self.temporary = None
            self.store.writers.remove(self)


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


def _remove(path):
    try:
        os.remove(path)
    except OSError:  # out of sight in any case; recover() tries again
        pass


def components(name):
    """Split the name of a request (bytes) into the components of a path below the root (list of
    str).

    `\\` is read as `/` (Windows boot manager); a leading `/`, empty components and `.` are
    dropped. Raises Refused: NOT_FOUND for what can't be the name of a visible file, ACCESS for
    `..`.
    """
    try:
        text = name.decode()
        # MicroPython lets over-long forms pass (C0 AE for "."), which written anew are another
        # text, and surrogates. ASCII has as many characters as bytes.
        if len(text) != len(name):
            anew = [chr(ord(one)) for one in text if not 0xD800 <= ord(one) < 0xE000]
            if "".join(anew) != text:
                raise ValueError
    except ValueError:
        raise Refused(NOT_FOUND, "name is not UTF-8")
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    for part in parts:
        if part == "..":
            raise Refused(ACCESS, "'..' is not allowed")
        control = any(ord(one) < 32 or 127 <= ord(one) < 160 for one in part)
        if part[0] == "." or control or len(part.encode()) > _MAX_COMPONENT:
            raise Refused(NOT_FOUND, "file not found")
    return parts


class Store:
    """The files below the root.

    writers  sinks that are not yet in their place
    room     bytes that these may still take, all together
    """

    def __init__(self, settings):
        """`settings`: as in docs/settings.md: root, write_to, overwrite, write_limit, keep_free,
        client_folders."""
        self.settings = settings
        self._root = settings["root"].rstrip("/")
        self._folders = [self._root + folder.rstrip("/") + "/" for folder in settings["write_to"]]
        self._number = 0  # of the next file in _UPLOADS
        self._readers = {}  # source: path
        self.writers = []
        self.room = 0

    def find(self, name, host):
        """The path and the size in bytes of the file with that name (bytes of a request), for the
        client at `host`. Raises Refused."""
        parts = components(name)
        # Each client has a folder of its own, which goes before the others; "only": it sees
        # nothing else.
        own = self.settings["client_folders"]
        if own:
            try:
                return self._find([host] + parts)
            except Refused as refusal:
                if own == "only" or refusal.code != NOT_FOUND:
                    raise
        return self._find(parts)

    def _find(self, parts):
        path = self._root + "".join(["/" + part for part in parts])
        try:
            stat = os.stat(path)
        except OSError:
            path = self._find_any_case(parts)
            stat = os.stat(path)
        if stat[0] & _FOLDER:
            raise Refused(ACCESS, "is a folder, not a file")
        return path, stat[6]

    def _find_any_case(self, parts):
        # For Windows, whose names have no case. An exact match goes first at each level. The names
        # are not kept: there may be thousands.
        path = self._root
        for part in parts:
            found = None
            try:
                for entry in os.ilistdir(path):
                    if entry[0] == part:
                        found = part
                        break
                    if not found and entry[0].lower() == part.lower():
                        found = entry[0]
            except OSError:  # a file where a folder is asked for
                pass
            if not found:
                raise Refused(NOT_FOUND, "file not found")
            path += "/" + found
        return path

    def open(self, path, mode, agreed):
        """The source of blocks for `path`; `mode` is "octet" or "netascii". Raises OSError."""
        file = open(path, "rb")
        source = (NetasciiSource if mode == "netascii" else OctetSource)(file, agreed)
        self._readers[source] = path
        return source

    # -- uploads

    def recover(self):
        """After a power cut: what was being written goes, what was being replaced comes back."""
        try:
            names = sorted(os.listdir(_UPLOADS), reverse=True)  # the newest first
        except OSError:  # there never was an upload
            return
        for name in names:
            path = "/".join(name.split(_SLASH)[1:])
            if path and not _exists("/" + path):
                try:
                    os.rename(_UPLOADS + "/" + name, "/" + path)
                except OSError:  # its folder is gone: here it is, for whoever misses it
                    pass
            else:
                _remove(_UPLOADS + "/" + name)

    def place(self, name, host):
        """The path at which a file with that name (bytes of a request) from the client at `host`
        is to be put. Raises Refused."""
        parts = components(name)
        if not parts:
            raise Refused(ACCESS, "is a folder, not a file")
        own = self.settings["client_folders"]
        if own and (own == "only" or _exists(self._root + "/" + host)):
            parts.insert(0, host)
        exists = True
        try:
            path, _ = self._find(parts)
        except Refused as refusal:
            if refusal.code != NOT_FOUND:
                raise
            exists = False
            folder = self._find_any_case(parts[:-1])
            if not os.stat(folder)[0] & _FOLDER:
                raise Refused(NOT_FOUND, "no such folder")
            path = folder + "/" + parts[-1]
        if not any(path.startswith(folder) for folder in self._folders):
            raise Refused(ACCESS, "no uploads to this folder")
        if exists and not self.settings["overwrite"]:
            raise Refused(EXISTS, "file exists")
        if any(sink.path.lower() == path.lower() for sink in self.writers):
            raise Refused(UNDEFINED, "somebody is writing this file")
        return path

    def create(self, path, mode, size):
        """The sink that makes the file at `path`.

        size  bytes that are to come, None where the client has not said

        Raises Refused.
        """
        stat = os.statvfs(self._root)
        self.room = stat[0] * stat[3] - self.settings["keep_free"]
        limit = self.settings["write_limit"]
        limit = _NO_LIMIT if limit is None else limit
        if size is not None and size > min(self.room, limit):
            raise Refused(DISK_FULL, "no room for %d bytes" % size)
        try:
            if not _exists(_UPLOADS):
                os.mkdir(_UPLOADS)
            self._number += 1
            sink = Sink(self, path, self._number, limit)
        except OSError as trouble:
            raise _explained(trouble)
        return NetasciiSink(sink) if mode == "netascii" else sink

    def put(self, temporary, path):
        """Rename `temporary` to `path`; who reads what is there now can go on. Raises OSError."""
        aside = None
        if path in self._readers.values():
            self._number += 1
            aside = _UPLOADS + _NUMBERED % (self._number, path.replace("/", _SLASH))
            os.rename(path, aside)
        try:
            os.rename(temporary, path)
        except OSError:
            if aside:
                os.rename(aside, path)
            raise
        for source, old in self._readers.items():
            if old == path:  # then it was moved aside
                self._readers[source] = aside

    def close(self, source):
        """Close a source or a sink."""
        source.close()
        path = self._readers.get(source, "")
        if path.startswith(_UPLOADS) and list(self._readers.values()).count(path) == 1:
            _remove(path)  # before it is forgotten, for Ctrl-C may come in between
        self._readers.pop(source, None)
