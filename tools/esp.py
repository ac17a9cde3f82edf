"""Images of the ESP32 family: read the partition table, check that a file is complete.

docs.espressif.com, ESP-IDF, "Partition Tables"; esptool, "Firmware Image Format".
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

from . import ToolError

SECTOR_BYTES = 4096  # the erase unit of the flash
_TABLE = 0x8000  # offset of the partition table
_TABLE_BYTES = 0xC00  # its largest size
_APP = 0  # partition type of a program
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Partition:
    """`kind`: type, `offset` in the flash and `size` in bytes."""

    name: str
    kind: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


def partitions(flash: bytes, name: object) -> list[Partition]:
    """The partition table in the contents of a flash. Raises ToolError.

    name  of the file, for messages
    """
    table, found = flash[_TABLE : _TABLE + _TABLE_BYTES], []
    if len(table) < _TABLE_BYTES:
        raise ToolError(f"{name} is truncated: it ends before its partition table does")
    for start in range(0, len(table), 32):
        entry = table[start : start + 32]
        if entry[:2] == b"\xeb\xeb" and entry[16:] != hashlib.md5(table[:start]).digest():
            raise ToolError(f"the partition table of {name} is damaged: its MD5 is wrong")
        if entry[:2] != b"\xaa\x50":
            break
        kind, offset, size, label = struct.unpack("<2xBxII16s4x", entry)
        if offset % SECTOR_BYTES:
            raise ToolError(f"the partition table of {name} is damaged: a partition is at {offset:#x}")
        found.append(Partition(label.rstrip(b"\0").decode("latin-1"), kind, offset, size))
    if not found:
        raise ToolError(f"{name} has no partition table at {_TABLE:#x}")
    return found


def check_whole(chip: str, flash: bytes, name: object) -> None:
    """Raises ToolError unless the program is complete and its SHA-256 is the one stored with it."""
    from esptool.bin_image import LoadFirmwareImage
    from esptool.logger import log

    app = next((one for one in partitions(flash, name) if one.kind == _APP), None)
    if not app:
        return
    log.set_verbosity("silent")
    try:
        program: Any = LoadFirmwareImage(chip, flash[app.offset : app.end])
    except (RuntimeError, struct.error, IndexError, TypeError):  # esptool raises any of these on damaged data
        raise ToolError(f"{name} is truncated or damaged: its program at {app.offset:#x} is not whole") from None
    if not program.append_digest:
        return
    if program.stored_digest != program.calc_digest:
        raise ToolError(f"{name} is truncated or damaged: the SHA-256 of its program at {app.offset:#x} is wrong")
    rest = flash[app.offset + program.data_length + _DIGEST_BYTES :]
    if len(rest) >= SECTOR_BYTES and not rest.strip(b"\xff"):  # MicroPython's own file ends with the program
        raise ToolError(f"{name} is truncated: it ends in the gap between its program and the filesystem")
