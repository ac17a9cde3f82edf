"""Build the flash of an emulated genuine board to measure."""

import random
from pathlib import Path
from typing import Any

from .. import boards, filesystem, firmware, image

FILE = "gauge.bin"
CONTENT = random.Random(1350).randbytes(64 << 10)


def whole(
    board: dict[str, Any],
    script: str = "",
    served: dict[str, bytes] | None = None,
    path: Path | None = None,
    flash_size: int | None = None,
    settings: dict[str, Any] | None = None,
) -> bytes:
    """The whole flash from address 0: MicroPython, the server, and `script` of this folder before main.py.

    served      name: content of the served files; by default only FILE
    path        MicroPython's file; by default the board's
    flash_size  bytes, of an ESP32; by default the board's
    settings    in addition to the required ones

    Raises ToolError.
    """
    path = path or firmware.base_image(board)
    base = firmware.read_base(boards.read_bytes(path), path)
    offset, size = image.place(board, base, flash_size)
    emulator = board["emulator"]
    settings = boards.check_settings({"ssid": emulator["ssid"], **emulator["settings"], **(settings or {})}, [])
    files = filesystem.board_files(settings, board["settings"])
    if script:
        files["/main.py"] = Path(__file__).with_name(script).read_bytes() + files["/main.py"]
    files |= {f"{filesystem.SERVED}/{name}": data for name, data in (served or {FILE: CONTENT}).items()}
    lfs = filesystem.build(board["filesystem"], size, files)
    if flash_size:
        return image.join_esp(base, offset, lfs, flash_size)
    return base.flash.ljust(offset, b"\xff") + lfs
