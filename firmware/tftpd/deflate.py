"""Compressed files: what is stored as NAME.gz is served as NAME too, inflated while it is read.

RFC 1951 and 1952. Loaded only once there is a file with such a name.
"""

import gc
from struct import unpack

from deflate import GZIP, DeflateIO
from micropython import const

from .packet import ACCESS, NOT_FOUND, Refused

_ESPIPE = const(29)  # not in MicroPython's errno
_LENGTH_MIN = const(18)  # of a gzip file: header and trailer
_HEADER_BYTES = const(17)  # with the subfield below
_SIZE_BYTES = const(4)  # ISIZE, at the end
_EXTRA = const(4)  # FLG.FEXTRA
# The window that the data was compressed with is not told by RFC 1952. The tools note it in a
# subfield of the "extra field" (tools/compress.py); other files may need the largest.
_WINDOW = const(b"WB\x01\x00")
_WBITS_MIN = const(8)
_WBITS_MAX = const(15)
_RATIO_MAX = const(1032)  # bytes that a byte of deflated data may stand for
_AHEAD_BLOCKS = const(16)  # of a transfer
_KEPT_BYTES = const(6000)  # of a window; more would be faster only if inflating were
_SHIFT = const(10)
_PIECE_BYTES = const(1 << 10)
# What such a transfer must leave of the heap: an ESP32 takes what its Wi-Fi needs from the same
# memory, and with less than 12 KB left it heard nobody any more.
_RESERVE_BYTES = const(32768)
_CHUNK_BYTES = const(128)  # of netascii.py, which goes back to the end of a block


def ways(ways):
    """`ways`: as Files.ways() gives them; returns them with those to the compressed files, which
    are tuples: NAME goes before NAME.gz in the same folder."""
    more = []
    for way in ways:
        more.append(way)
        if way:
            more.append(tuple(way[:-1] + [way[-1] + ".gz"]))
    return more


class Inflated:
    """What is in a gzip file, as a file that is open for reading. It can be read again from as far
    back as a transfer may go; so nothing is inflated twice.

    windowsize  the largest that such a transfer may have: its blocks are kept
    """

    def __init__(self, file, files):
        """`file`: as Names.find() gives it; `files`: Files. Raises Refused for a folder."""
        if not file:
            raise Refused(NOT_FOUND, "file not found")
        self.file = file
        self.files = files
        self.close = file.close
        settings = files.settings
        blksize = settings["blksize"]
        ahead = max(blksize, settings["read_ahead"])
        self.windowsize = max(min(settings["windowsize"], _KEPT_BYTES // blksize), 1)
        # A transfer goes back to the first block of its window, and has read ahead of the last.
        ahead = min(ahead, _AHEAD_BLOCKS * blksize)
        self._keep = ahead + self.windowsize * blksize + _CHUNK_BYTES

    def seek(self, offset, whence=0):
        """As a file's: to `offset`, or with `whence` 2 to the end, once, before anything else.

        Returns the position. Raises Refused, OSError.
        """
        if whence:
            offset = self._open()
        self._at = offset
        return offset

    def _open(self):
        """The size, from the trailer."""
        file = self.file
        self._length = length = file.seek(0, 2)
        self._damaged_if(length < _LENGTH_MIN)
        file.seek(length - _SIZE_BYTES)
        (size,) = unpack("<I", file.read())
        file.seek(0)
        header = file.read(_HEADER_BYTES)
        self._damaged_if(header[:3] != b"\x1f\x8b\x08" or size > length * _RATIO_MAX)
        wbits = _WBITS_MAX
        if header[3] & _EXTRA and header[12:16] == _WINDOW:
            wbits = header[16]
            self._damaged_if(not _WBITS_MIN <= wbits <= _WBITS_MAX)
        while wbits > _WBITS_MIN and size <= 1 << (wbits - 1):
            wbits -= 1
        file.seek(0)
        self.size = size
        self._end = 0  # so much has been inflated; the last of it is kept
        try:
            # In pieces, for a heap seldom has so much in one.
            pieces = (min(self._keep, size) >> _SHIFT) + 1
            need = (pieces << _SHIFT) + (1 << wbits) + _RESERVE_BYTES
            if gc.mem_free() < need:
                gc.collect()
                if gc.mem_free() < need:
                    raise MemoryError
            self._kept = [memoryview(bytearray(_PIECE_BYTES)) for _ in range(pieces)]
            self._inflater = DeflateIO(file, GZIP, wbits)
            # Its window is allocated now, and a header that is damaged is known now.
            self._inflate(self._kept[0][: min(_CHUNK_BYTES, size)])
        except MemoryError:
            if self.files.readers or wbits < _WBITS_MAX:
                raise
            text = "compressed with a window of 32 KB, for which the heap has no room"
            raise Refused(ACCESS, text)
        return size

    def _damaged_if(self, damaged):
        if damaged:
            raise Refused(ACCESS, "the compressed file is damaged, or not of one piece")

    def _inflate(self, piece):
        """Fill `piece` with what comes next. Before the last byte is given, all that was read is
        compared with the trailer."""
        try:
            good = self._inflater.readinto(piece) == len(piece)
            self._end += len(piece)
            if self._end == self.size:  # nothing is to follow; CRC32 is compared by read()
                good = good and not self._inflater.read(1) and self.file.tell() == self._length
        except (OSError, EOFError):
            good = False
        if not good:
            self._damaged_if(True)

    def readinto(self, view):
        """Fill `view` (memoryview); returns the bytes written. Raises Refused."""
        kept = self._kept
        at = self._at
        most = min(len(view), self.size - at)
        n = 0
        while n < most:
            i = at & (_PIECE_BYTES - 1)
            piece = kept[(at >> _SHIFT) % len(kept)][i : i + most - n]
            again = self._end - at
            if again:
                if not 0 < again <= len(kept) << _SHIFT:
                    raise OSError(_ESPIPE, "not kept any more")
                piece = piece[:again]
            else:
                self._inflate(piece)
            end = n + len(piece)
            view[n:end] = piece
            at += end - n
            n = end
        self._at = at
        return n


open = Inflated  # names that MicroPython has already take no heap where they are used
