"""The flash of a genuine board that is to be measured: one script goes before main.py, one file is served."""

import random
from pathlib import Path
from typing import Any

from .. import boards, filesystem, firmware, image

FILE = "gauge.bin"
CONTENT = random.Random(1350).randbytes(64 << 10)


def with_script(board: dict[str, Any], script: str) -> bytes:
    """All of the flash from address 0: MicroPython, the server, FILE, and `script` of this folder before main.py.

    Raises ToolError.
    """
    path = firmware.base_image(board)
    base = firmware.read_base(boards.read_bytes(path), path)
    offset, size = image.place(board, base)
    emulator = board["emulator"]
    settings = boards.check_settings({"ssid": emulator["ssid"], **emulator["settings"]}, [])
    files = filesystem.board_files(settings, board["settings"])
    files["/main.py"] = Path(__file__).with_name(script).read_bytes() + files["/main.py"]
    files[f"{filesystem.SERVED}/{FILE}"] = CONTENT
    return base.flash.ljust(offset, b"\xff") + filesystem.build(board["filesystem"], size, files)
