"""Compress what a board serves: NAME is stored as NAME.gz, and served under both names (firmware/tftpd/deflate.py)."""

import argparse
import gzip
import zlib
from pathlib import PurePosixPath

from . import ToolError

AUTO, ALL = "auto", "all"  # what shrinks by _WORTH and saves a block of flash; what shrinks at all
_WORTH = 0.1
SUFFIX = ".gz"
_WBITS = 12  # window of 4 KB: each transfer takes so much of the board's heap; 15 would save 1 to 3 % more
_MAX_COMPONENT = 255  # bytes of a file name, LittleFS's own limit


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compress",
        choices=(AUTO, ALL),
        help="store files as NAME.gz, and serve them as NAME too: those that shrink by 10 %% or more, or all",
    )


def pack(data: bytes, wbits: int = _WBITS) -> bytes:
    """`data` as a gzip file, for a window of 2 ** `wbits` bytes. The window is noted in the extra field, in a subfield
    "WB" (RFC 1952, 2.3.1.1), from which the board knows how much heap it takes."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -wbits, 9)
    extra = b"WB\x01\x00" + bytes((wbits,))
    header = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x02\xff" + len(extra).to_bytes(2, "little") + extra
    trailer = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return header + deflate.compress(data) + deflate.flush() + trailer


def shrink(files: dict[str, bytes], how: str, block: int) -> tuple[dict[str, bytes], str]:
    """`files` (paths and contents) with those compressed that are worth it; and what that saves, in words.

    how    AUTO or ALL
    block  bytes of a block of the flash

    Raises ToolError.
    """
    taken = {path.lower() for path in files}
    result: dict[str, bytes] = {}
    before = after = 0
    for path, data in files.items():
        name = f"{path}{SUFFIX}"
        if (
            path.lower().endswith(SUFFIX)
            or name.lower() in taken
            or len(PurePosixPath(name).name.encode()) > _MAX_COMPONENT
            or not _worth(len(data), len(packed := pack(data)), how, block)
        ):
            result[path] = data
            continue
        if gzip.decompress(packed) != data:
            raise ToolError(f"{path} is not the same after it was compressed and inflated: this zlib is broken")
        result[name] = packed
        before += len(data)
        after += len(packed)
    count = len(result.keys() - files.keys())
    if not count:
        return result, "nothing is worth compressing"
    return result, (
        f"{count} of {len(files)} files are compressed, and inflated again to compare: {before:,} bytes are {after:,}, "
        f"{100 * (before - after) / before:.0f} % saved; a transfer takes a window of {(1 << _WBITS) >> 10} KB of heap"
    )


def _worth(size: int, packed: int, how: str, block: int) -> bool:
    if how == ALL:
        return packed < size
    return packed <= size * (1 - _WORTH) and -(-packed // block) < -(-size // block)
