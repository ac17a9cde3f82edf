"""How long a board with a large and full flash takes to start: an emulated ESP32-C3 whose MicroPython is given a flash
of 16 MB, by its own clock (gauge.py).

`python -m tools.bench.large` prints a line of JSON: what large_board.py measures, of a full filesystem of 14 MB with
1,000 files, and of one with a single file.
"""

import hashlib
import json
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

from .. import boards, esp, firmware
from . import flash, gauge, peers

_FILES = 1000
_FOLDERS = 10
_FLASH_BYTES = 16 << 20
_FILESYSTEM_BYTES = 14 << 20
_TABLE = 0x8000  # of the partitions


def _base(board: dict[str, Any], folder: Path) -> Path:
    """MicroPython's own file with its partition `vfs` made as large as the flash."""
    data = bytearray(firmware.base_image(board).read_bytes())
    table = bytes(data[_TABLE : _TABLE + 0xC00])
    at = table.index(b"vfs".ljust(16, b"\0")) - 12
    table = table[: at + 8] + struct.pack("<I", _FILESYSTEM_BYTES) + table[at + 12 :]
    end = table.find(b"\xeb\xeb")
    if end >= 0:
        table = table[: end + 16] + hashlib.md5(table[:end]).digest() + table[end + 32 :]
    data[_TABLE : _TABLE + 0xC00] = table
    assert max(one.end for one in esp.partitions(bytes(data), "base")) == _FLASH_BYTES
    (folder / "base.bin").write_bytes(data)
    return folder / "base.bin"


def measure(sizes: list[int]) -> dict[str, int]:
    """The figures for files of these `sizes` in bytes. Raises ToolError."""
    board = boards.load(gauge.BOARD)
    chance = random.Random(1350)
    with tempfile.TemporaryDirectory(prefix="large-") as name:
        folder = Path(name)
        served = {
            f"folder-{number % _FOLDERS}/file-{number:04}.bin": chance.randbytes(size)
            for number, size in enumerate(sizes)
        }
        whole = folder / "flash.bin"
        whole.write_bytes(flash.whole(board, "large_board.py", served, _base(board, folder), _FLASH_BYTES))
        with gauge.board(whole, folder / "record.pcap", peers.free_port()) as wait_for:
            return json.loads(wait_for("bench: {").partition(": ")[2])


if __name__ == "__main__":
    # In blocks of flash, some bytes of which are LittleFS's own; the last ones are for the server.
    blocks = _FILESYSTEM_BYTES // 4096 - 80
    sizes = [4080 * (blocks // _FILES + (number < blocks % _FILES)) for number in range(_FILES)]
    print(json.dumps({"full": measure(sizes), "one file": measure([1000])}))
