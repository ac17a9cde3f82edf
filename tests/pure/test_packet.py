"""packet.py; runs on CPython under pytest, and unchanged inside MicroPython (test_micropython.py)."""

from tftpd import packet


def refusal(datagram):
    try:
        packet.parse_request(datagram)
    except packet.Refused as error:
        return error.code
    return None


def parsed(datagram):
    """The fields of a request."""
    request = packet.parse_request(datagram)
    assert request
    return request


def test_a_request_is_taken_apart():
    request = packet.parse_request(b"\0\1boot/u-boot.bin\0OcTeT\0blksize\x001468\0TSIZE\x000\0")
    assert request == (packet.RRQ, b"boot/u-boot.bin", "octet", [(b"blksize", b"1468"), (b"TSIZE", b"0")])


def test_a_request_without_options_has_none():
    assert packet.parse_request(b"\0\2a\0netascii\0") == (packet.WRQ, b"a", "netascii", [])


def test_an_empty_option_value_is_kept():
    assert parsed(b"\0\1a\0octet\0multicast\0\0tsize\x000\0")[3] == [
        (b"multicast", b""),
        (b"tsize", b"0"),
    ]


def test_an_option_without_its_value_is_left_out():
    for tail in (b"blksize", b"blksize\0", b"blksize\x0014"):
        assert parsed(b"\0\1a\0octet\0tsize\x000\0" + tail)[3] == [(b"tsize", b"0")]


def test_datagrams_shorter_than_a_request_and_errors_are_not_answered():
    for datagram in (b"", b"\0", b"\0\5", b"\0\5\0\1text\0"):
        assert packet.parse_request(datagram) is None


def test_other_datagrams_are_illegal():
    for datagram in (b"\0\0", b"\0\3\0\1data", b"\0\4\0\1", b"\0\6a\0b\0", b"\0\7", b"\1\1a\0octet\0", b"\xff\xff"):
        assert refusal(datagram) == packet.ILLEGAL, datagram


def test_an_unterminated_request_is_illegal():
    for datagram in (b"\0\1", b"\0\1a", b"\0\1a\0", b"\0\1a\0octet"):
        assert refusal(datagram) == packet.ILLEGAL, datagram


def test_a_request_over_512_bytes_is_illegal():
    name = b"a" * (512 - 2 - 1 - 6)
    assert parsed(b"\0\1" + name + b"\0octet\0")[1] == name
    assert refusal(b"\0\1a" + name + b"\0octet\0") == packet.ILLEGAL


def test_binary_is_octet_and_other_modes_are_illegal():
    assert parsed(b"\0\1a\0BiNary\0")[2] == "octet"
    for mode in (b"mail", b"", b"\xff\xfe"):
        assert refusal(b"\0\1a\0" + mode + b"\0") == packet.ILLEGAL


def test_an_error_packet():
    assert packet.error(packet.NOT_FOUND, "file not found") == b"\0\5\0\1file not found\0"


def test_an_oack_ends_with_one_nul():
    assert packet.oack([(b"tsize", b"5"), (b"blksize", b"8")]) == b"\0\6tsize\x005\0blksize\x008\0"
