"""Option negotiation: the options asked for in, the agreed values and the OACK out.

RFC 2347 (the rules), 2348 (blksize), 2349 (timeout, tsize), 7440 (windowsize). Only what was asked
is granted, in the order asked, once; an unknown option, or a value out of range, is left out of
the OACK as if it had not been asked.
"""

from .packet import oack


def _number(value, low, high, limit):
    """The decimal number in `value` (bytes), but at most `limit`, if it lies in low..high, else
    None (iPXE sends empty values)."""
    # int() takes signs, spaces and underscores too; ten digits hold every value that an option can
    # have.
    number = int(value) if value.isdigit() and len(value) <= 10 else -1
    return min(number, limit) if low <= number <= high else None


class Agreed:
    """The values that hold for one transfer.

    blksize     bytes of data in a block, 8..65464
    windowsize  blocks sent before an ACK is awaited, 1..65535
    timeout     seconds, the longest wait before a repeat; None where the client asked for none
    tsize       bytes that an upload is to have; None for a read, or where the client has not said
    oack        the OACK packet with the granted options (bytes), b"" where there are none
    granted     [(name, value)] of bytes in it
    """

    def __init__(self, options, blksize, windowsize, size=None, upload=False):
        """`options`: (name, value) pairs of bytes as asked for; `blksize`, `windowsize`: the
        most that is granted; `size`: the file's size in bytes, None where it is not known;
        `upload`: the client states the size."""
        self.blksize = 512
        self.windowsize = 1
        self.timeout = self.tsize = None
        granted = []
        seen = set()
        for name, value in options:
            key = name.lower()
            number = None
            if key in seen:
                pass
            elif key == b"blksize":
                number = _number(value, 8, 65464, blksize)
                self.blksize = number or 512
            elif key == b"windowsize":
                number = _number(value, 1, 65535, windowsize)
                self.windowsize = number or 1
            elif key == b"timeout":
                self.timeout = number = _number(value, 1, 255, 255)
            elif key == b"tsize" and upload:
                self.tsize = number = _number(value, 0, 1 << 32, 1 << 32)
            elif key == b"tsize" and value.isdigit() and size:
                # The real size whatever was sent (U-Boot sends rubbish); none for an empty file:
                # curl aborts on 0.
                number = size
            seen.add(key)
            if number is not None:
                granted.append((name, b"%d" % number))
        self.oack = oack(granted) if granted else b""
        self.granted = granted
