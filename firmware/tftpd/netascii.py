"""A file as netascii: RFC 764's line ends, LF as CR LF and a lone CR as CR NUL, exact across the
borders of blocks.

RFC 1350 section 1 names the mode, RFC 764 ("NVT printer") its line ends. The size of the stream is
not known before it has been read, and a block of it has no fixed place in the file, so that place
is noted for each block of the window.
"""

from array import array

from micropython import const

_LF = const(10)
_CR = const(13)
_CHUNK_BYTES = const(128)


class NetasciiSource:
    """Blocks of a file as netascii, with the methods of store.OctetSource."""

    def __init__(self, file, agreed):
        """`file`: opened for reading in binary; `agreed`: options.Agreed."""
        self.file = file
        self.close = file.close
        self._chunk = bytearray(_CHUNK_BYTES)
        self.blksize = agreed.blksize
        # Where block b starts, at b % len: offset in the file * 2, + 1 if the second byte of a
        # pair is owed. Kept for a window and for the blocks read ahead (transfer._AHEAD_BLOCKS).
        self._starts = array("I", [0] * (agreed.windowsize + 18))
        self._block = 1  # the next one

    def seek(self, block):
        """Go to `block` (from 1, not wrapped): one that was read, a window ago at most."""
        self._block = block

    def readinto(self, view):
        """Fill `view` (memoryview) with the next blocks; returns the bytes written.

        They are fewer than `view` holds at the end of the file only. Raises OSError.
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
        """Write the next block to `view` from `n` on, up to `room`; returns where it ends."""
        file = self.file
        starts = self._starts
        chunk = self._chunk
        place = starts[self._block % len(starts)]
        offset = place >> 1
        owed = -1
        at = have = 0
        if place & 1:  # the byte before says which second byte is owed
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
    """Takes blocks of netascii for a sink that is given the file's own bytes."""

    def __init__(self, sink):
        """`sink`: as store.Sink."""
        self.sink = sink
        self.path = sink.path
        self.close = sink.close
        self._cr = False  # the last byte was a CR: LF or NUL is to follow

    def write(self, data):
        """As store.Sink.write. A CR before anything but LF and NUL, which RFC 764 does not know,
        is kept."""
        plain = bytearray(len(data) + 1)  # a CR of the block before may come first
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
        """As store.Sink.commit."""
        if self._cr:
            self.sink.write(b"\r")
        self.sink.commit()
