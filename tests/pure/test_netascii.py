"""netascii.py; runs on CPython under pytest and, as it is, inside MicroPython (test_micropython.py)."""

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


def read_all(source, blksize):
    blocks = []
    while not blocks or len(blocks[-1]) == blksize:
        payload = bytearray(blksize)
        size = source.readinto(memoryview(payload))
        blocks.append(bytes(payload[:size]))
    return blocks


def test_line_ends_are_exact_at_every_block_border():
    for text in TEXTS:
        for blksize in (8, 9, 10, 11, 127, 128, 129, 512):
            blocks = read_all(NetasciiSource(io.BytesIO(text), 1), blksize)
            assert b"".join(blocks) == encoded(text), (text, blksize)


def test_every_block_of_the_window_can_be_read_again():
    text = b"a\rb\n\n\r" * 40
    whole = encoded(text)
    payload = bytearray(8)
    for windowsize in (1, 2, 3, 5):
        source = NetasciiSource(io.BytesIO(text), windowsize)
        for base in range(0, len(whole) // 8 - windowsize):
            for back_to in range(base + 1, base + windowsize + 1):  # roll back to each block of the window in turn
                source.seek(back_to)
                for block in range(back_to, base + windowsize + 1):
                    size = source.readinto(memoryview(payload))
                    assert bytes(payload[:size]) == whole[(block - 1) * 8 : block * 8], (windowsize, base, block)
