"""Read and write the blocks of UF2 files (github.com/microsoft/uf2, README.md).

A file is a sequence of 512-byte blocks, each with its own target address. The boot ROM of an RP2040 or RP2350 takes the
blocks of its family, erases a flash sector when its first block arrives, and restarts after the number of blocks that
each block states.
"""

import struct
from collections import Counter
from dataclasses import dataclass

from . import ToolError

SIZE = 512  # bytes in a block, of which we fill 256 with payload
PAYLOAD = 256
XIP = 0x10000000  # address of the flash on an RP2040 or RP2350
FLASH_BYTES = 16 << 20  # the most they can address
# Family ID: its chip (`mcu` in board.json), from github.com/microsoft/uf2, utils/uf2families.json.
CHIPS = {0xE48BFF56: "rp2040", 0xE48BFF59: "rp2350", 0xE48BFF5A: "rp2350"}

_HEAD = struct.Struct("<8I")
_MAGIC = (0x0A324655, 0x9E5D5157)
_MAGIC_END = struct.pack("<I", 0x0AB16F30)
_FAMILY_PRESENT = 0x2000
_MAX_PAYLOAD = 476


@dataclass(frozen=True)
class Block:
    """One block: target `address`, `payload`, block `number` of `total`, `family` ID; `raw` is all 512 bytes."""

    address: int
    payload: bytes
    number: int
    total: int
    family: int
    raw: bytes


def is_uf2(data: bytes) -> bool:
    return data[:8] == struct.pack("<2I", *_MAGIC)


def read(data: bytes, name: object) -> list[Block]:
    """The blocks of a file in order. Raises ToolError unless its main family is complete and goes to the flash.

    name  of the file, for messages
    """
    blocks = []
    for start in range(0, len(data), SIZE):
        raw = data[start : start + SIZE]
        if not is_uf2(raw) or raw[-4:] != _MAGIC_END or len(raw) < SIZE:
            raise ToolError(f"{name} is not a whole UF2 file: block {start // SIZE} is damaged or truncated")
        _, _, flags, address, length, number, total, family = _HEAD.unpack_from(raw)
        if length > _MAX_PAYLOAD:
            raise ToolError(f"{name} is not a whole UF2 file: block {start // SIZE} claims an impossible length")
        family = family if flags & _FAMILY_PRESENT else 0
        blocks.append(Block(address, raw[_HEAD.size :][:length], number, total, family, raw))
    _check(blocks, name)
    return blocks


def _check(blocks: list[Block], name: object) -> None:
    family = main_family(blocks)
    ours = [one for one in blocks if one.family == family]
    for one in ours:
        if not XIP <= one.address <= XIP + FLASH_BYTES - len(one.payload):
            raise ToolError(
                f"{name} is not for a flash: block {one.number} goes to {one.address:#x}, "
                f"but the flash is at {XIP:#x} to {XIP + FLASH_BYTES:#x}"
            )
    # The boot ROM would wait forever for missing blocks.
    if sorted(one.number for one in ours) != list(range(len(ours))) or {one.total for one in ours} != {len(ours)}:
        raise ToolError(f"{name} is not whole: it has {len(ours):,} of {ours[0].total:,} blocks")


def block(address: int, payload: bytes, number: int, total: int, family: int) -> bytes:
    """The 512 bytes of block `number` of `total` with a `payload` of PAYLOAD bytes."""
    head = _HEAD.pack(*_MAGIC, _FAMILY_PRESENT, address, len(payload), number, total, family)
    return (head + payload).ljust(SIZE - 4, b"\0") + _MAGIC_END


def main_family(blocks: list[Block]) -> int:
    """The family of the firmware: RP2350 files begin with a block of another family (erratum RP2350-E10)."""
    return Counter(one.family for one in blocks).most_common(1)[0][0]


def flash(blocks: list[Block]) -> bytes:
    """The flash contents that the main family writes, from the first byte on; 0xff where nothing is written."""
    family = main_family(blocks)
    ours = [one for one in blocks if one.family == family]
    contents = bytearray(b"\xff" * max((one.address - XIP + len(one.payload) for one in ours), default=0))
    for one in ours:
        start = one.address - XIP
        contents[start : start + len(one.payload)] = one.payload
    return bytes(contents)
