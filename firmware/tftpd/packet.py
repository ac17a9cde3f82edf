"""The packets of TFTP, to and from bytes.

RFC 1350 section 5 (RRQ, WRQ, DATA, ACK, ERROR) and RFC 2347 (options, OACK). No sockets, no files,
no clock. DATA and ACK are not built here: they are a four-byte header in a buffer that the
transfer owns (transfer.py).
"""

from micropython import const

RRQ = const(1)
WRQ = const(2)
DATA = const(3)
ACK = const(4)
ERROR = const(5)
_OACK = const(6)

# Error codes, RFC 1350 section 5 and RFC 2347. U-Boot starts again, for ever, on any code but 1
# and 2: so a permanent fault is NOT_FOUND or ACCESS, a temporary one UNDEFINED.
UNDEFINED = const(0)
NOT_FOUND = const(1)
ACCESS = const(2)
DISK_FULL = const(3)
ILLEGAL = const(4)
UNKNOWN_TID = const(5)
EXISTS = const(6)

MAX_REQUEST = const(512)  # octets, RFC 2347
_MODES = {b"octet": "octet", b"binary": "octet", b"netascii": "netascii"}  # lwIP's client


class Refused(Exception):
    """A request that is answered with an ERROR packet: `code` (int, RFC 1350) and `text` (str) of
    that packet."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code
        self.text = text


def parse_request(datagram):
    """Take an RRQ or WRQ (bytes) apart.

    Returns (opcode, name, mode, options): name is bytes as sent, mode "octet" or "netascii",
    options a list of (name, value) pairs of bytes as sent, in the order sent; a pair that is cut
    off at the end is left out. Returns None for a datagram that must not be answered: under two
    bytes, or an ERROR. Raises Refused (ILLEGAL) for everything else.
    """
    opcode = datagram[0] << 8 | datagram[1] if len(datagram) >= 2 else ERROR
    if opcode == ERROR:
        return None
    if opcode != RRQ and opcode != WRQ:
        raise Refused(ILLEGAL, "not a request (RRQ, WRQ)")
    if len(datagram) > MAX_REQUEST:  # some clients fill their packet with NULs
        datagram = datagram.rstrip(b"\0") + b"\0"
    if len(datagram) > MAX_REQUEST:
        raise Refused(ILLEGAL, "request longer than 512 bytes")
    fields = datagram[2:].split(b"\0")
    if len(fields) < 3:
        raise Refused(ILLEGAL, "no file name and mode in the request")
    mode = _MODES.get(fields[1].lower())
    if not mode:
        raise Refused(ILLEGAL, "mode not supported, use octet or netascii")
    # The last field is what stands behind the last NUL: nothing, or an option that was cut off.
    options = [(fields[i], fields[i + 1]) for i in range(2, len(fields) - 2, 2)]
    return opcode, fields[0], mode, options


def error(code, text):
    """An ERROR packet (bytes): `code` as in RFC 1350, `text` a str, sent as UTF-8."""
    return bytes((0, ERROR, 0, code)) + text.encode() + b"\0"


def oack(options):
    """An OACK packet (bytes) of (name, value) pairs of bytes, RFC 2347."""
    return bytes((0, _OACK)) + b"".join([name + b"\0" + value + b"\0" for name, value in options])
