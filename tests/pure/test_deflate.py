"""deflate.py; runs on CPython under pytest and, as it is, inside MicroPython (test_micropython.py)."""

import io
from binascii import crc32
from struct import pack

from tftpd import deflate
from tftpd.files import OctetSource, ReadAhead
from tftpd.netascii import NetasciiSource
from tftpd.options import Agreed as Options
from tftpd.packet import ACCESS, NOT_FOUND, Refused

from simulated import Bench, Files

DATA = bytes([i * i % 251 for i in range(8000)])
PIECE = 1024  # what is kept is kept in such
NOTE = b"WB\x01\x00\x09"  # a window of 512 bytes


def packed(data, note=b""):
    """A gzip file of `data` in stored blocks of 100 bytes (RFC 1951 section 3.2.4)."""
    flags, extra = (4, pack("<H", len(note)) + note) if note else (0, b"")
    file = b"\x1f\x8b\x08" + bytes((flags, 1, 2, 3, 4, 2, 3)) + extra
    pieces = [data[i : i + 100] for i in range(0, len(data), 100)] or [b""]
    for number, piece in enumerate(pieces):
        file += pack("<BHH", number == len(pieces) - 1, len(piece), len(piece) ^ 0xFFFF) + piece
    return file + pack("<II", crc32(data), len(data))


class Agreed:
    blksize = 8
    windowsize = 2


def opened(file, **settings):
    inflated = deflate.open(io.BytesIO(file), Files(**settings))
    size = inflated.seek(0, 2)
    inflated.seek(0)
    return inflated, size


def read(inflated, size):
    view = memoryview(bytearray(size))
    return bytes(view[: inflated.readinto(view)])


def read_all(file, piece=16):
    inflated, size = opened(file)
    data = b""
    while True:
        more = read(inflated, piece)
        data += more
        if len(more) < piece:
            assert len(data) == size
            return data


def refused(file):
    """The code with which it is refused, None if it is not."""
    try:
        inflated, _ = opened(file)
        while True:
            more = read(inflated, 7)
            if len(more) < 7:
                return None
    except Refused as refusal:
        return refusal.code


def test_what_is_read_is_what_was_packed():
    for size in (0, 1, 15, 16, 17, 99, 100, 101, 127, 128, 129, 600, 1023, 1024, 1025, 2048, 3000):
        for note in (b"", NOTE):
            for piece in (7, 16, 128, 1000):
                assert read_all(packed(DATA[:size], note), piece) == DATA[:size], (size, piece)


def test_the_size_comes_from_the_trailer():
    for size in (0, 1, 8000):
        assert opened(packed(DATA[:size]))[1] == size


def test_as_much_can_be_read_again_as_a_transfer_may_go_back():
    # windowsize 2 x 500 bytes, 1,000 read ahead, and what netascii may have read beyond its block
    kept = 2 * 500 + 1000 + 128
    for end in range(3000, 8000, 1000):
        inflated, _ = opened(packed(DATA), blksize=500, read_ahead=1000, windowsize=2)
        for start in range(0, end, 1000):
            inflated.seek(start)
            read(inflated, 1000)
        for back in range(1, kept + 1, 9):
            inflated.seek(end - back)
            assert read(inflated, min(700, back)) == DATA[end - back :][: min(700, back)]
            inflated.seek(end)


def test_the_farthest_rollback_finds_its_blocks():
    # All of a window is lost, and as much as fits has been read ahead of it.
    for blksize, windowsize in ((600, 10), (600, 1), (512, 11), (100, 16), (37, 4), (8, 16)):
        files = Files(blksize=600, read_ahead=3000, windowsize=64)
        file = deflate.open(io.BytesIO(packed(3 * DATA)), files)
        size = file.seek(0, 2)
        file.seek(0)
        asked = ((b"blksize", b"%d" % blksize), (b"windowsize", b"%d" % windowsize))
        agreed = Options(asked, 600, file.windowsize, size)
        assert agreed.windowsize == min(windowsize, 10)
        asked = ((b"blksize", b"%d" % blksize), (b"windowsize", b"%d" % agreed.windowsize))
        bench = Bench(b"", *asked, source=OctetSource(file, agreed), ahead=ReadAhead(3000), alone=True)
        assert bench.blocks() == ["OACK"]
        base, sent = 0, bench.ack(0)
        while len(sent) == agreed.windowsize:
            bench.wait_until_due()
            if agreed.windowsize > 1 and base:
                assert bench.ack(base) in (sent, [])
            base += agreed.windowsize
            sent = bench.ack(base)


def test_what_is_not_kept_any_more_is_an_error_and_no_other_bytes():
    inflated, _ = opened(packed(DATA), blksize=500, read_ahead=1000, windowsize=2)
    read(inflated, 8000)
    kept = 3 * PIECE
    for place in (0, 8000 - kept - 1):
        inflated.seek(place)
        try:
            read(inflated, 1)
        except OSError:
            continue
        raise AssertionError
    inflated.seek(8000 - kept)
    assert read(inflated, 1) == DATA[8000 - kept :][:1]


def test_a_place_that_was_not_reached_yet_is_an_error():
    inflated, _ = opened(packed(DATA))
    inflated.seek(4000)
    try:
        read(inflated, 1)
    except OSError:
        return
    raise AssertionError


def test_a_window_has_at_most_6000_bytes():
    for blksize, read_ahead, windowsize, granted in (
        (16, 32, 3, 3),
        (1468, 5900, 1, 1),
        (1468, 5900, 16, 4),
        (1468, 24000, 64, 4),
        (512, 5900, 64, 11),
        (8192, 24000, 64, 1),
    ):
        files = Files(blksize=blksize, read_ahead=read_ahead, windowsize=windowsize)
        assert deflate.open(io.BytesIO(packed(b"")), files).windowsize == granted


def test_it_takes_no_more_heap_than_its_file_is_long():
    inflated, _ = opened(packed(DATA), blksize=1468, read_ahead=200000)
    assert len(inflated._kept) * PIECE < len(DATA) + PIECE


def test_each_bit_that_flips_is_found_before_the_last_byte_or_does_no_harm():
    for note in (b"", NOTE):
        file = packed(DATA[:150], note)
        harmless = 0
        for bit in range(8 * len(file)):
            damaged = bytearray(file)
            damaged[bit >> 3] ^= 1 << (bit & 7)
            if refused(bytes(damaged)) is None:
                assert read_all(bytes(damaged)) == DATA[:150]
                harmless += 1
        # time, compression, system, flags "text" and "header CRC" that nobody reads; the note's name and number
        assert harmless < 8 * 12 + 8 * len(note), harmless


def test_a_file_that_is_cut_off_is_refused():
    file = packed(DATA[:150], NOTE)
    for length in range(len(file)):
        assert refused(file[:length]) == ACCESS, length


def test_what_is_behind_the_end_is_refused():
    for more in (b"\0", b"rubbish", packed(DATA[:50]), packed(b"")):
        assert refused(packed(DATA[:50]) + more) == ACCESS


def test_a_size_that_no_such_file_can_have_is_refused_at_once():
    file = packed(DATA)[:-4] + pack("<I", 0xFFFFFFFF)
    try:
        opened(file)
    except Refused as refusal:
        assert refusal.code == ACCESS
        return
    raise AssertionError


def test_a_folder_of_that_name_is_no_file():
    try:
        deflate.open(None, Files())
    except Refused as refusal:
        assert refusal.code == NOT_FOUND
        return
    raise AssertionError


def test_netascii_reads_it_as_any_other_file():
    text = b"one\ntwo\r\nthree\rfour\n" * 30
    whole = text.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    inflated, _ = opened(packed(text))
    source = NetasciiSource(inflated, Agreed)
    view = memoryview(bytearray(16))
    source.readinto(view)
    for base in range(0, len(whole) // 8 - 4):
        for block in (base + 2, base + 1):  # a window on, and back
            source.seek(block)
            source.readinto(view)
            assert bytes(view) == whole[8 * (block - 1) :][:16], (base, block)


def test_each_name_goes_before_its_compressed_file():
    assert deflate.ways([["10.0.0.1", "a"], ["a"]]) == [
        ["10.0.0.1", "a"],
        ("10.0.0.1", "a.gz"),
        ["a"],
        ("a.gz",),
    ]
    assert deflate.ways([[]]) == [[]]
