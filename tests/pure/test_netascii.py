"""netascii.py; runs on CPython under pytest, and unchanged inside MicroPython (test_micropython.py)."""

import io

from tftpd.netascii import NetasciiSource

TEXTS = (
    b"",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n\n\r\r\r",
    b"plain",
    b"a\nb\rc\r\nd",
    b"\r\n" * 90,
    b"x" * 127 + b"\n" + b"\r" * 130,
)


def encoded(data):
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


class Agreed:
    def __init__(self, blksize, windowsize):
        self.blksize = blksize
        self.windowsize = windowsize


def read_all(source, blksize, count):
    """The whole stream, `count` blocks at a time."""
    data = b""
    while True:
        payload = bytearray(count * blksize)
        size = source.readinto(memoryview(payload))
        data += bytes(payload[:size])
        if size < len(payload):
            return data


def test_line_ends_are_exact_at_every_block_border():
    for text in TEXTS:
        for blksize in (8, 9, 10, 11, 127, 128, 129, 512):
            for count in (1, 3):
                source = NetasciiSource(io.BytesIO(text), Agreed(blksize, count))
                assert read_all(source, blksize, count) == encoded(text), (text, blksize)


def test_every_block_of_the_window_can_be_read_again():
    text = b"a\rb\n\n\r" * 40
    whole = encoded(text)
    for windowsize in (1, 2, 3, 5):
        payload = bytearray(8 * windowsize)
        source = NetasciiSource(io.BytesIO(text), Agreed(8, windowsize))
        source.readinto(memoryview(payload))
        for base in range(0, len(whole) // 8 - 2 * windowsize):
            # Roll back to each block of the window in turn, read ahead from there, and move on by one.
            for block in range(base + windowsize, base, -1):
                source.seek(block)
                size = source.readinto(memoryview(payload))
                assert bytes(payload[:size]) == whole[(block - 1) * 8 :][:size], (windowsize, base, block)
