"""What is in an HTTP request, and in the fields of an answer. No sockets, no files.

RFC 9110 (semantics), RFC 9112 (messages). Loaded with http.py.
"""

from time import gmtime

from micropython import const

from .journal import quoted

_CLOCK_SET = const(2024)  # the year from which the clock is believed
_DAYS = const("MonTueWedThuFriSatSun")
_MONTHS = const("JanFebMarAprMayJunJulAugSepOctNovDec")


class Failed(Exception):
    """A request that is answered with the status `code` (int) and `text` (str)."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code
        self.text = text


def path_of(target):
    """The path that `target` (bytes) of a request line stands for, without its query: bytes with
    each %XX in place of what it means. Raises Failed."""
    pieces = target.split(b"?")[0].split(b"#")[0].split(b"%")
    for at in range(1, len(pieces)):
        piece = pieces[at]
        digits = piece[:2]
        if len(digits) < 2 or not all([one in b"0123456789abcdefABCDEF" for one in digits]):
            raise Failed(400, "a % in the path without two hexadecimal digits")
        pieces[at] = bytes([int(digits, 16)]) + piece[2:]
    return b"".join(pieces)


def parse(head):
    """Take a request (bytes, up to the empty line) apart.

    Returns (method, target, version, fields): bytes, bytes, the digit after "HTTP/1." as int, and
    {name in lower case: value}, both str. Raises Failed.
    """
    lines = head.split(b"\r\n")
    for line in lines:  # also of a lone CR or LF, RFC 9112 section 2.2
        if any([(one < 32 and one != 9) or one == 127 for one in line]):
            raise Failed(400, "a control character")
    words = lines[0].split(b" ")
    if len(words) != 3 or words[2][:5] != b"HTTP/":
        raise Failed(400, "the first line is no request")
    method, target, version = words
    if not method.isalpha():  # the journal and put.py take it for ASCII
        raise Failed(400, "that is no method")
    if len(version) != 8 or version[5:7] != b"1." or not version[7:].isdigit():
        raise Failed(505, "HTTP/1.1 and HTTP/1.0 only")
    fields = {}
    for line in lines[1:]:
        try:
            name, colon, value = line.decode().partition(":")
        except UnicodeError:
            raise Failed(400, "a header field is not UTF-8")
        name = name.lower()
        # Also a continued line, and a space before the colon: RFC 9112 sections 5.1 and 5.2.
        if not colon or not name or " " in name or "\t" in name:
            raise Failed(400, "a line of the header is no field")
        value = value.strip(" \t")
        if name in fields:
            if name in ("host", "content-length", "transfer-encoding"):
                raise Failed(400, "%s twice" % name)
            value = fields[name] + "," + value
        fields[name] = value
    if b"/" not in target[:1] and target[:7].lower() == b"http://":  # absolute form
        authority, slash, path = target[7:].partition(b"/")
        if "host" in fields:
            fields["host"] = quoted(authority)[1:-1]
        target = slash + path or b"/"
    if target[:1] != b"/":
        raise Failed(400, "the path does not begin with /")
    return method, target, int(version[7:]), fields


def byte_range(value, size):
    """What the field Range asks for of a file of `size` bytes: (first, behind the last); None
    where the whole file is to be sent. Raises Failed where nothing of it is in the file."""
    unit, equals, spec = value.partition("=")
    first, dash, last = spec.strip().partition("-")
    if (
        unit.strip().lower() != "bytes"
        or not equals
        or not dash
        or not (first or last)
        or (first and not first.isdigit())
        or (last and not last.isdigit())  # also of several ranges
        or len(spec) > 40
    ):
        return None
    if not first:  # the last bytes
        start, end = max(size - int(last), 0), size
        if not int(last):
            start = size
    else:
        start, end = int(first), size
        if last:
            if int(last) < start:
                return None
            end = min(int(last) + 1, size)
    if start >= size:
        raise Failed(416, "the range is behind the end of the file")
    return start, end


def date(seconds):
    """An IMF-fixdate of RFC 9110 section 5.6.7; "" of a time when no clock was set."""
    year, month, day, hour, minute, second, weekday = gmtime(seconds)[:7]
    if year < _CLOCK_SET:
        return ""
    return "%s, %02d %s %d %02d:%02d:%02d GMT" % (
        _DAYS[3 * weekday : 3 * weekday + 3],
        day,
        _MONTHS[3 * month - 3 : 3 * month],
        year,
        hour,
        minute,
        second,
    )


def listed(tag, value):
    """Whether `tag` is one of those in the field If-None-Match or If-Match. No tag of this server
    is a weak one."""
    return value == "*" or tag in [one.strip().replace("W/", "") for one in value.split(",")]


def is_own(host, hostname):
    """Whether the field Host names this board: by an address, which no page elsewhere can have as
    its own name ("DNS rebinding" needs a name), or by its name in the local network."""
    name, _, port = host.lower().partition(":")
    if port and not port.isdigit():
        return False
    numbers = name.split(".")
    address = len(numbers) == 4 and all([one.isdigit() and int(one) < 256 for one in numbers])
    hostname = hostname.lower()
    return address or name in (hostname, hostname + ".local", "localhost")
