"""options.py; runs on CPython under pytest, and unchanged inside MicroPython (test_micropython.py)."""

from tftpd.options import Agreed


def agreed(*asked, size: "int | None" = 1000):
    return Agreed(asked, 1468, 16, size)


def test_nothing_asked_nothing_granted():
    plain = agreed()
    assert (plain.blksize, plain.windowsize, plain.timeout, plain.oack) == (512, 1, None, b"")


def test_granted_in_the_order_asked_under_the_names_sent():
    all_four = agreed((b"TimeOut", b"5"), (b"tsize", b"0"), (b"BLKSIZE", b"1024"), (b"windowsize", b"4"))
    assert all_four.oack == b"\0\6TimeOut\x005\0tsize\x001000\0BLKSIZE\x001024\0windowsize\x004\0"
    assert (all_four.blksize, all_four.windowsize, all_four.timeout) == (1024, 4, 5)


def test_more_than_the_limit_is_granted_as_the_limit():
    both = agreed((b"blksize", b"8192"), (b"windowsize", b"65535"))
    assert both.oack == b"\0\6blksize\x001468\0windowsize\x0016\0"
    assert (both.blksize, both.windowsize) == (1468, 16)


def test_never_more_than_asked():
    both = agreed((b"blksize", b"8"), (b"windowsize", b"1"))
    assert (both.blksize, both.windowsize) == (8, 1)


def test_a_bad_value_drops_that_option_only():
    bad = {
        b"blksize": (
            b"",
            b"7",
            b"0",
            b"65465",
            b"-8",
            b"+512",
            b" 512",
            b"5_12",
            b"0x200",
            b"512.0",
            b"9" * 300,
            b"\xff",
        ),
        b"windowsize": (b"", b"0", b"65536", b"-1", b"one"),
        b"timeout": (b"", b"0", b"256", b"1.5"),
        b"tsize": (b"", b"-1", b"x"),
    }
    for name, values in bad.items():
        for value in values:
            result = agreed((name, value), (b"tsize" if name != b"tsize" else b"blksize", b"512"))
            expected = b"\0\6tsize\x001000\0" if name != b"tsize" else b"\0\6blksize\x00512\0"
            assert result.oack == expected, (name, value)


def test_unknown_options_are_ignored():
    assert agreed((b"multicast", b""), (b"utimeout", b"100"), (b"", b""), (b"\xff\xfe", b"1")).oack == b""


def test_an_option_asked_twice_counts_once():
    twice = agreed((b"blksize", b"1000"), (b"BlkSize", b"600"))
    assert twice.oack == b"\0\6blksize\x001000\0" and twice.blksize == 1000


def test_tsize_is_the_real_size_whatever_was_sent():
    # U-Boot sends whatever is in its memory.
    assert agreed((b"tsize", b"4294967296123"), size=77).oack == b"\0\6tsize\x0077\0"


def test_no_tsize_for_an_empty_file_or_an_unknown_size():
    # curl aborts on a tsize of 0; the size of a netascii transfer is not known.
    for size in (0, None):
        result = agreed((b"tsize", b"0"), (b"blksize", b"512"), size=size)
        assert result.oack == b"\0\6blksize\x00512\0"
        assert agreed((b"tsize", b"0"), size=size).oack == b""
