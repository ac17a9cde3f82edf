"""`tftpd/index.txt` and `tftpd/index.json`: every file that the asking client may read, with its
size and CRC32. Loaded with the first request for one of them.

A job of Names.work() lists the folders and reads the files in slices. Each CRC32 is kept, 12 bytes
a file, until Names.add() tells that the file was put there anew, or it has another size.
"""

import gc
import os
from array import array
from binascii import crc32
from errno import ENOENT
from struct import unpack

from micropython import const

from .made import Made, text
from .names import Later, _hash, components, place
from .packet import UNDEFINED, Refused

_FOLDER = const(0x4000)  # of os.ilistdir()
_PARTS = const(4)
_SLICE_BYTES = const(1024)  # read in one step
# Of heap that an index leaves free. With 1,500 files and 32 KB left an ESP32-C3 could not send any
# more: its heap had grown into what Wi-Fi needs.
_RESERVE_BYTES = const(49152)
_READS = const(8)  # files
_GZIP = const(b"\x1f\x8b\x08")
_TRAILER = const(8)  # bytes, RFC 1952: CRC32 and size
_GZIP_MIN = const(18)  # bytes


class Sums:
    """The CRC32 of files. A file is in the part that the end of its path's hash say; a part
    has three arrays, sorted by the hash. One part of all would need much heap in one piece."""

    def __init__(self, names):
        self.most = (names.most >> 1) // _PARTS
        self.reads = 0
        self.parts = [_part() for _ in range(_PARTS)]
        self.add = names.add
        names.add = self.told  # so no other module calls this one

    def _at(self, path):
        """(the part, where in it, whether it is there)"""
        number = _hash(path)
        part = self.parts[number % _PARTS]
        at = place(part[0], number)
        return part, at, part[0][at : at + 1] == array("i", (number,))

    def told(self, path):
        """In place of Names.add(): the file at `path` is another one."""
        part, at, there = self._at(path)
        if there:
            part[1][at] = 0
        self.add(path)

    def get(self, path, size):
        """The CRC32 of the file at `path`, which has `size` bytes; None if it is not known."""
        part, at, there = self._at(path)
        return part[2][at] if there and part[1][at] == _check(path, size) else None

    def put(self, path, size, crc):
        """Keep it. If there are too many in a part, or no memory, drop those."""
        part, at, there = self._at(path)
        try:
            if not there:
                if len(part[0]) >= self.most:
                    raise MemoryError
                for values in part:
                    values.append(0)
                    view = memoryview(values)
                    view[at + 1 :] = view[at:-1]
            part[0][at] = _hash(path)
            part[1][at] = _check(path, size)
            part[2][at] = crc
        except MemoryError:
            part[:] = _part()


def _part():
    """Hashes of paths; checks of size and path, odd, 0 once they are not valid; CRC32s."""
    return [array("i"), array("I"), array("I")]


def _check(path, size):
    return (size * 31 ^ hash(path)) & 0xFFFFFFFF | 1


_sums: "Sums" = None  # pyright: ignore[reportAssignmentType]  # from the first request on
_busy = False  # one at a time, for the heap's sake


def index(files, name, host, found):
    """Made of the index called `name`. Arguments as of made.find(). Raises Refused, Later."""
    global _sums
    names = files.names
    if not _sums:
        _sums = Sums(names)
    made = found.get(name)
    if isinstance(made, Refused):
        raise made
    if made is None:
        if name not in found and not _busy:
            found[name] = None
            names.jobs.append(_indexing(files, name, host, found))
        raise Later
    return made


def _indexing(files, name, host, found):
    """A job of Names.work(): set found[name] to a Made, or to Refused."""
    global _busy
    _busy = True
    answer = Refused(UNDEFINED, "can't list the files, try again")  # unless all goes well
    made = Made()
    comma = "["
    checked = 0
    try:
        for one in _walk(files, host):
            if one:
                path, size, crc, stored = one
                if name[-1] == "t":
                    made.write("%08x %d %s\n" % (crc, size, path))
                else:
                    what = [path, size, "%08x" % crc] + ([stored] if stored else [])
                    made.write(comma + text(what))
                    comma = ",\n"
                if made.size >= checked:
                    checked = made.size + _SLICE_BYTES
                    gc.collect()
                    if gc.mem_free() < _RESERVE_BYTES:
                        raise MemoryError
            yield
        if name[-1] == "n":
            made.write("]\n" if comma != "[" else "[]\n")
        answer = made
    except MemoryError:
        answer = Refused(UNDEFINED, "no memory for a list of so many files")
    except OSError as trouble:
        answer = Refused(UNDEFINED, "can't read the files: %s" % trouble)
    finally:
        found[name] = answer
        _busy = False


def _walk(files, host):
    """Gives None after each step, and for each file that is served to `host` (name, size, CRC32,
    name of the compressed file that it comes from or None)."""
    names = files.names
    own = files.settings["client_folders"]
    layers = []  # (which of Files.place()'s ways, folder): what is in one hides it in later ones
    if own:
        layers += [(0, root + "/" + host) for root in names.roots]
    if own != "only":
        layers += [(1, root) for root in names.roots]
    view = memoryview(bytearray(_SLICE_BYTES))
    for layer in layers:
        folders = [("", names.entries(layer[1]))]
        while folders:
            below, entries = folders[-1]
            for entry in entries:
                yield
                name = below + "/" + entry[0]
                if not _is_named(files, name, host) or (
                    own and layer[0] and not below and entry[0] == host
                ):
                    continue
                path = layer[1] + name
                if entry[1] & _FOLDER:
                    folders.append((name, names.entries(path)))
                    break
                if _is_served(files, name, host, layers, layer, False):
                    summed = yield from _sum(files, path, entry, view)
                    if summed:
                        yield name[1:], summed[0], summed[1], None
                plain = name[:-3]
                if (
                    names.deflate
                    and name[-3:].lower() == ".gz"
                    and _is_served(files, plain, host, layers, layer, True)
                ):
                    trailer = _trailer(path)
                    if trailer:
                        yield plain[1:], trailer[1], trailer[0], name[1:]
            else:
                folders.pop()


def _is_named(files, name, host):
    """Whether a request can have such a name, of a file or folder."""
    parts = name[1:].split("/")
    part = parts[-1]
    try:
        files.own(parts, host)
        # Quicker for most: repr() would escape what is not allowed.
        plain = not part.startswith(".") and len(repr(part)) == len(part) + 2
        return plain or components(part.encode()) == [part]
    except Refused:
        return False


def _is_served(files, name, host, layers, layer, inflated):
    """Whether the file `name` of that layer is what a request for it gets, and not that of another
    layer. `inflated`: it is a compressed one, which gives way to a plain one of any root."""
    names = files.names
    if files.settings["rules"]:
        parts = name[1:].split("/")
        try:
            ways = files.place(name.encode(), host, {})
        except Refused:
            return False
        if parts not in ways and [host] + parts not in ways:
            return False
    before = True
    for way, folder in layers:
        before = before and folder != layer[1]
        if way > layer[0] or not (before or inflated):
            break
        path = folder + name
        if _is_there(names, path) or (
            names.deflate
            and before
            and (inflated or way < layer[0])
            and _is_there(names, path + ".gz")
        ):
            return False
    return True


def _is_there(names, path):
    """In any case, if the hashes of all names are known; these may be of files that are gone."""
    if not names._may_be(path):
        return False
    try:
        os.stat(path)
        return True
    except OSError:
        pass
    folder, _, name = path.rpartition("/")
    name = name.lower()
    return bool(names.indexed and [1 for one in names.entries(folder) if one[0].lower() == name])


def _sum(files, path, entry, view):
    """(size, CRC32) of the file at `path`, None if it is gone. Gives None after each step."""
    size = entry[3] if len(entry) > 3 else -1
    crc = _sums.get(path, size)
    while crc is None:
        try:
            file = open(path, "rb")
        except OSError as trouble:
            if trouble.errno == ENOENT:
                return None
            raise
        files.readers[file] = path
        try:
            so_far = size = 0
            while True:
                n = file.readinto(view)
                so_far = crc32(view[:n], so_far)
                size += n
                if not n:
                    break
                yield
            if files.readers[file] == path:  # else an upload has replaced it
                crc = so_far
                _sums.put(path, size, crc)
        finally:
            files.close(file)
        # An open file takes 1 to 2 KB. The heap of an ESP32 grows by garbage in small pieces, and
        # takes for good what Wi-Fi needs.
        _sums.reads += 1
        if _sums.reads % _READS == 0:
            gc.collect()
    return size, crc


def _trailer(path):
    """(CRC32, size) of what is in a gzip file, as its end says; None if it is none."""
    with open(path, "rb") as file:
        if file.read(3) != _GZIP or file.seek(0, 2) < _GZIP_MIN:
            return None
        file.seek(-_TRAILER, 2)
        return unpack("<II", file.read())
