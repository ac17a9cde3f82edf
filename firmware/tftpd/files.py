"""The files that are served: which one a client gets, the source of its blocks, and the buffer
they are read into."""

import os

from micropython import const

from .names import Names, components
from .options import Agreed
from .packet import ACCESS, NOT_FOUND, Refused
from .rrq import ReadTransfer

_AHEAD_BLOCKS = const(16)  # at most: each costs its transfer a memoryview
UPLOADS = const("/.uploads")  # holds unfinished uploads, and files replaced while being read


def remove(path):
    """Remove a file in UPLOADS."""
    try:
        os.remove(path)
    except OSError:  # it is not served in any case; the next start tries again
        pass


class ReadAhead:
    """The buffer from which all transfers send. It holds the next blocks of one transfer.

    One shared buffer takes less heap than one for each transfer. Blocks that are read together are
    sent together, which wakes a client once and not for each (docs/performance.md). The data is
    contiguous as in the file, from byte 4 on. The header of a block overwrites the end of the
    block before it, which has been sent by then.

    size   bytes of data that fit
    owner  the transfer whose blocks are in the buffer
    inbox  the last packet from a connected socket: an ACK, or the first bytes of an ERROR
    """

    def __init__(self, size):
        """`size`: at least the largest blksize."""
        self.view = memoryview(bytearray(4 + size))
        self.size = size
        self.owner = None
        self.inbox = bytearray(4)

    def cut(self, blksize, window):
        """Return views of the buffer for a transfer: a list with a view of each block and its
        header, a view of the data of as many whole windows as fit, and one of a single window."""
        view = self.view
        count = min(_AHEAD_BLOCKS, self.size // blksize)
        packets = [view[i : i + 4 + blksize] for i in range(0, count * blksize, blksize)]
        step = min(window, count)
        data = view[4 : 4 + (count - count % step) * blksize]
        return packets, data, data[: step * blksize]


class OctetSource:
    """Reads a file in blocks, unchanged. After a rollback the blocks are read again."""

    def __init__(self, file, agreed):
        """`file`: opened for reading in binary; `agreed`: options.Agreed."""
        self.file = file
        self.blksize = agreed.blksize
        self.close = file.close
        # Fills a memoryview with the next blocks. Returns less than its length only at the end of
        # the file.
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

    transfer = ReadTransfer

    def __init__(self, settings, most):
        """`settings`: as in docs/settings.md: root, client_folders; `most`: of Names."""
        self.settings = settings
        roots = settings["root"]
        roots = [roots] if isinstance(roots, str) else roots
        self.names = Names([root.rstrip("/") for root in roots], most)
        self.readers = {}

    def own(self, parts, host):
        """Return client_folders of the settings after a check of `parts` (list of str).

        A folder named like an address is for that client alone, so Refused is raised if `host` is
        another. (With "only" no client can reach the folder of another.)
        """
        own = self.settings["client_folders"]
        if own is True and parts and _is_address(parts[0]) and parts[0] != host:
            raise Refused(ACCESS, "the folder of another client")
        return own

    def place(self, name, host, found):
        """Return the candidates for `name` (bytes of a request) from the client at `host`: a list
        of the parts of each path. The first that exists is meant. `found` is unused. Raises
        Refused."""
        if name[-1:] == b"\xff":  # old PXE ROMs add it with some DHCP servers; no name ends so
            name = name[:-1]
        parts = components(name)
        # The client's own folder goes before the rest; with "only" it is all that it sees.
        own = self.own(parts, host)
        ways = [parts]
        if own:
            ways.insert(0, [host] + parts)
            if own == "only":
                ways.pop()
        if self.names.deflate:
            from . import deflate

            ways = deflate.ways(ways)
        ways = [way for way in ways if self.names.may_be(way)]
        if not ways:
            raise Refused(NOT_FOUND, "file not found")
        return ways

    def open(self, ways, found, mode, asked, blksize):
        """Open the first of `ways` that is there.

        found    as in Names.find()
        mode     "octet" or "netascii"
        asked    options of the request, pairs of bytes
        blksize  the largest that is granted

        Returns (path, source of its blocks, options.Agreed). Raises Refused, Later, OSError.
        """
        path, file = self.find(ways, found)
        try:
            size = file.seek(0, 2)
            file.seek(0)
            if mode == "netascii":
                size = None  # not known before the file has been read
            windowsize = getattr(file, "windowsize", self.settings["windowsize"])
            agreed = Agreed(asked, blksize, windowsize, size)
            return path, self.source(file, path, mode, agreed), agreed
        except BaseException:  # also that of Ctrl-C
            file.close()
            raise

    def find(self, ways, found):
        """Return (path, file open for reading) of the first of `ways` that exists. `found`: as in
        Names.find(). Raises Refused, Later, OSError."""
        try:
            path, file = self.names.find(ways[0], found)
            if type(ways[0]) is tuple:
                from . import deflate

                file = deflate.open(file, self)
        except Refused:
            if not ways[1:]:
                raise
            return self.find(ways[1:], found)
        if not file:
            raise Refused(ACCESS, "is a folder, not a file")
        return path, file

    def source(self, file, path, mode, agreed):
        """Make the source of blocks of `file`, open from `path`. `mode`: "octet" or "netascii"."""
        kind = OctetSource
        if mode == "netascii":  # loaded at first use: 1.3 KB of heap
            from .netascii import NetasciiSource

            kind = NetasciiSource
        source = kind(file, agreed)
        self.readers[source] = path
        return source

    def close(self, source):
        """Close `source`. A file moved aside (Uploads.put) is removed with its last reader."""
        source.close()
        path = self.readers.get(source, "")
        if UPLOADS + "/" in path and list(self.readers.values()).count(path) == 1:
            remove(path)  # first, as Ctrl-C may come before the next line
            remove(path[: -len(".old")])  # the note with its path
        self.readers.pop(source, None)
