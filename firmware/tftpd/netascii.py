"""Converts a file to and from netascii: LF as CR LF, a lone CR as CR NUL, also where a pair is
split between two blocks.

RFC 1350 section 1 names the mode, RFC 764 ("NVT printer") defines its line ends. The size of the
stream is not known until all of it has been read, and the offset of a block in the file can't be
computed from its number. So the offset of each block of the window is stored.
"""

from array import array

from micropython import const

_LF = const(10)
_CR = const(13)
_CHUNK_BYTES = const(128)


class NetasciiSource:
    """Reads a file as blocks of netascii, with the methods of files.OctetSource."""

    def __init__(self, file, agreed):
        """`file`: opened for reading in binary; `agreed`: options.Agreed."""
        self.file = file
        self.close = file.close
        self._chunk = bytearray(_CHUNK_BYTES)
        self.blksize = agreed.blksize
        # Where block b starts, at index b % len: offset in the file * 2, + 1 if the block starts
        # with the second byte of a pair. Enough entries for a window and for the blocks read
        # ahead (files._AHEAD_BLOCKS).
        self._starts = array("I", [0] * (agreed.windowsize + 18))
        self._block = 1  # the next block to read

    def seek(self, block):
        """Go to `block` (from 1, not wrapped), which was read at most one window ago."""
        self._block = block

    def readinto(self, view):
        """Fill `view` (memoryview) with the next blocks. Returns the number of bytes written, less
        than its length only at the end of the file. Raises OSError.
        """
        n = 0
        while n < len(view):
            end = n + self.blksize
            n = self._read_block(view, n, end)
            self._block += 1
            if n < end:
                break
        return n

    def _read_block(self, view, n, room):
        """Write the next block to `view`, from index `n` up to `room`. Returns where it ends."""
        file = self.file
        starts = self._starts
        chunk = self._chunk
        place = starts[self._block % len(starts)]
        offset = place >> 1
        owed = -1  # the second byte of a pair, still to be written; -1 for none
        at = have = 0
        if place & 1:  # the first byte of the pair, just before, tells the second
            file.seek(offset - 1)
            have = file.readinto(chunk)
            at = 1
            owed = _LF if chunk[0] == _LF else 0
        else:
            file.seek(offset)
        while n < room:
            if owed >= 0:
                view[n] = owed
                n += 1
                owed = -1
                continue
            if at >= have:
                have = file.readinto(chunk)
                at = 0
                if not have:
                    break
            byte = chunk[at]
            at += 1
            offset += 1
            if byte == _LF:
                view[n] = _CR
                owed = _LF
            elif byte == _CR:
                view[n] = _CR
                owed = 0
            else:
                view[n] = byte
            n += 1
        starts[(self._block + 1) % len(starts)] = offset << 1 | (owed >= 0)
        return n


class NetasciiSink:
    """Decodes blocks of netascii and writes the bytes of the file to another sink."""

    def __init__(self, sink):
        """`sink`: uploads.Sink."""
        self.sink = sink
        self.path = sink.path
        self.close = sink.close
        self._cr = False  # the last byte was a CR: LF or NUL must follow

    def write(self, data):
        """As uploads.Sink.write. A CR before any byte but LF or NUL, which RFC 764 does not
        define, is kept."""
        plain = bytearray(len(data) + 1)  # a CR from the previous block may come first
        n = 0
        cr = self._cr
        for byte in data:
            if cr:
                cr = False
                if byte == _LF:
                    plain[n] = _LF
                    n += 1
                    continue
                plain[n] = _CR
                n += 1
                if byte == 0:
                    continue
            if byte == _CR:
                cr = True
            else:
                plain[n] = byte
                n += 1
        self._cr = cr
        self.sink.write(memoryview(plain)[:n])

    def commit(self):
        """As uploads.Sink.commit."""
        if self._cr:
            self.sink.write(b"\r")
        self.sink.commit()
