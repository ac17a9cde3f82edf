"""What fields.py and connection.py make of a request; runs on CPython, and unchanged inside MicroPython."""

from tftpd import connection, fields


def refused(call, *arguments):
    """The status that `call` answers with."""
    try:
        call(*arguments)
    except fields.Failed as failed:
        return failed.code
    return None


def test_a_request_is_taken_apart():
    head = b"GET /a%20b?x=1 HTTP/1.1\r\nHost: tftpd\r\nX-One:  1 \r\nx-one: 2\r\nEmpty:"
    given = {"host": "tftpd", "x-one": "1,2", "empty": ""}
    assert fields.parse(head) == (b"GET", b"/a%20b?x=1", 1, given)
    assert fields.parse(b"HEAD / HTTP/1.0") == (b"HEAD", b"/", 0, {})


def test_an_absolute_target_names_the_host():
    for target, path in ((b"http://10.0.0.1:80/x", b"/x"), (b"HTTP://10.0.0.1:80", b"/")):
        parsed = fields.parse(b"GET " + target + b" HTTP/1.1\r\nHost: other")
        assert parsed[1] == path and parsed[3]["host"] == "10.0.0.1:80"


def test_what_is_no_request_is_refused():
    for line in (b"", b"GET", b"GET /", b"GET  / HTTP/1.1", b"GET / FTP/1.1", b"GET /a b HTTP/1.1", b"GET * HTTP/1.1"):
        assert refused(fields.parse, line + b"\r\nHost: x") == 400, line
    for version in (b"HTTP/2.0", b"HTTP/1", b"HTTP/1.x", b"HTTP/1.10"):
        assert refused(fields.parse, b"GET / " + version) == 505, version
    bad = (
        b"no colon",
        b": x",
        b"a b: c",
        b"Host : x",
        b" folded",
        b"\tfolded",
        b"a: \0",
        b"a: b\nc",
        b"a:\rb",
        b"\xff:",
    )
    for field in bad:
        assert refused(fields.parse, b"GET / HTTP/1.1\r\nA: b\r\n" + field) == 400, field
    for name in (b"Host", b"content-length", b"Transfer-Encoding"):
        assert refused(fields.parse, b"GET / HTTP/1.1\r\n" + name + b": 1\r\n" + name + b": 1") == 400, name


def test_escapes_stand_for_bytes():
    for target, path in ((b"/a%2fb%2F", b"/a/b/"), (b"/%25", b"/%"), (b"/x?a=%", b"/x"), (b"/%00%ff#f", b"/\0\xff")):
        assert fields.path_of(target) == path
    for target in (b"/%", b"/%2", b"/%2g", b"/%-1", b"/%+1", b"/a%%41"):
        assert refused(fields.path_of, target) == 400, target


def test_one_range_of_bytes():
    for value, part in (
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 10)),
        ("bytes=5-99", (5, 10)),
        ("Bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes= 2-3", (2, 4)),
    ):
        assert fields.byte_range(value, 10) == part, value
    # A range that makes no sense, another unit and several ranges are ignored: RFC 9110 section 14.2.
    for value in ("", "bytes", "bytes=", "bytes=-", "bytes=a-", "bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=--1"):
        assert fields.byte_range(value, 10) is None, value
    for value in ("bytes=10-", "bytes=10-20", "bytes=-0"):
        assert refused(fields.byte_range, value, 10) == 416, value
    assert refused(fields.byte_range, "bytes=0-", 0) == refused(fields.byte_range, "bytes=-1", 0) == 416


def test_the_names_of_the_board():
    for host in ("10.0.0.1", "10.0.0.1:8080", "tftpd", "TFTPD.local", "tftpd:80", "localhost:1"):
        assert fields.is_own(host, "tftpd"), host
    for host in (
        "",
        "evil.example",
        "tftpd.evil.example",
        "10.0.0.1.evil.example",
        "10.0.0.256",
        "tftpd:80@x",
        "1.2.3",
    ):
        assert not fields.is_own(host, "tftpd"), host


class Nothing:
    """In place of Http and of Ports."""

    def __init__(self):
        self.ports = self

    def look(self):
        pass


def lives(size, seconds):
    """For how many seconds, at most 1000, a client is kept that sends `size` bytes every so many `seconds`."""
    now = [0]
    clock, connection.ticks_ms = connection.ticks_ms, lambda: now[0]
    try:
        client = connection.Connection(Nothing(), None, "192.0.2.2", "")
        client.took(100_000)  # what it did before does not count
        while now[0] < 1_000_000:
            now[0] += 1000
            if client.until <= now[0]:
                break
            if now[0] % (1000 * seconds) == 0:
                client.took(size)
        return now[0] // 1000
    finally:
        connection.ticks_ms = clock


def test_a_client_has_to_do_a_kilobyte_a_second():
    assert lives(0, 1) == 30
    assert lives(1, 1) == lives(1, 29) == 31
    assert lives(500, 1) == 59
    assert lives(1000, 1) == lives(25_000, 25) == 1000
