"""The files that are served: which one a client gets, and where its blocks come from."""

import os

from micropython import const

from .names import Names, components, is_folder
from .netascii import NetasciiSource
from .packet import ACCESS, NOT_FOUND, Refused

UPLOADS = const("/.uploads")  # where uploads grow, and where is moved what is read meanwhile


def remove(path):
    """Remove a file in UPLOADS."""
    try:
        os.remove(path)
    except OSError:  # out of sight in any case; the next start tries again
        pass


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


def _is_address(part):
    numbers = part.split(".")
    return len(numbers) == 4 and all(
        number.isdigit() and len(number) <= 3 and int(number) <= 255 for number in numbers
    )


class Files:
    """The files below the root.

    names    Names of what is there
    readers  {source: path} of the files that are being read
    """

    def __init__(self, settings, most):
        """`settings`: as in docs/settings.md: root, client_folders; `most`: of Names."""
        self.settings = settings
        self.names = Names(settings["root"].rstrip("/"), most)
        self.readers = {}

    def own(self, parts, host):
        """Who `parts` (list of str) may be looked up for: a folder with the name of an address
        belongs to that client alone. Raises Refused."""
        own = self.settings["client_folders"]
        if own and parts and _is_address(parts[0]) and parts[0] != host:
            raise Refused(ACCESS, "the folder of another client")
        return own

    def find(self, name, host, found):
        """The path and the size in bytes of the file with that name (bytes of a request), for the
        client at `host`. `found`: as in Names.find(). Raises Refused, Later."""
        if name[-1:] == b"\xff":  # old PXE ROMs behind some DHCP servers; no name ends so
            name = name[:-1]
        parts = components(name)
        # Each client has a folder of its own, which goes before the others; "only": it sees
        # nothing else.
        own = self.own(parts, host)
        if own:
            try:
                return self.file([host] + parts, found)
            except Refused as refusal:
                if own == "only" or refusal.code != NOT_FOUND:
                    raise
        return self.file(parts, found)

    def file(self, parts, found):
        """The same of its components (list of str)."""
        path, stat = self.names.find(parts, found)
        if is_folder(stat):
            raise Refused(ACCESS, "is a folder, not a file")
        return path, stat[6]

    def open(self, path, mode, agreed):
        """The source of blocks for `path`; `mode` is "octet" or "netascii". Raises OSError."""
        file = open(path, "rb")
        source = (NetasciiSource if mode == "netascii" else OctetSource)(file, agreed)
        self.readers[source] = path
        return source

    def close(self, source):
        """Close it. A file that was moved aside goes with its last reader."""
        source.close()
        path = self.readers.get(source, "")
        if path.startswith(UPLOADS + "/") and list(self.readers.values()).count(path) == 1:
            remove(path)  # before it is forgotten, for Ctrl-C may come in between
            remove(path[:-1])  # the note with its path, if it has one (Uploads.put)
        self.readers.pop(source, None)
