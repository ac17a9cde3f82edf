"""Conformance with tftpy, a client and library that many test rigs use."""

import io

import pytest
import tftpy

from board import Board
from served import SERVED


def download(board: Board, name: str, mode: str = "octet", **options: int) -> bytes:
    client = tftpy.TftpClient(*board.address, options=options)
    result = io.BytesIO()
    result.close = lambda: None  # type: ignore[method-assign]  # tftpy closes what it writes to
    client.download(name, result, timeout=2)
    return result.getvalue()


@pytest.mark.parametrize("blksize", [None, 8, 512, 1428, 1468])
@pytest.mark.parametrize("name", [name for name in SERVED if name.startswith(("size", "empty"))])
def test_every_size_arrives_whole(board: Board, name: str, blksize: int | None):
    if blksize == 8 and len(SERVED[name]) > 10_000:
        pytest.skip("a large file in 8-byte blocks: once, in test_more_than_65535_blocks")
    board.skip_if_too_slow(len(SERVED[name]) / (blksize or 512))
    options = {"blksize": blksize} if blksize else {}
    assert download(board, name, **options) == SERVED[name]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("blksize", [512, 1428, 1468])
def test_a_mebibyte_arrives_whole(board: Board, blksize: int):
    assert download(board, "mebi.bin", blksize=blksize) == SERVED["mebi.bin"]


def test_a_file_of_more_than_65535_blocks_arrives_whole(board: Board):
    board.skip_if_too_slow(65536)
    assert download(board, "rollover.bin", blksize=8) == SERVED["rollover.bin"]


def test_tsize_is_the_size_of_the_file(board: Board):
    assert download(board, "size-5000", tsize=0, blksize=1024) == SERVED["size-5000"]


def test_a_missing_file_is_error_1(board: Board):
    with pytest.raises(tftpy.TftpShared.TftpFileNotFoundError):
        download(board, "missing")
