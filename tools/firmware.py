"""Download MicroPython's firmware for a board, the base of its image, into the cache folder.

Each file must have the SHA-256 that board/NAME/board.json states. If none is stated, the hash of the first download is
recorded beside the file and required from then on.
"""

import argparse
import glob
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from . import PROGRAM, ToolError, boards, esp, uf2

_NEWEST = "v1.29.0 (2026-08-24)"  # MicroPython's newest release when this was written
_TIMEOUT_S = 15
_CHUNK_BYTES = 1 << 16
_VERSION = re.compile(rb"(v\d+\.\d+\.\d+[-.\w]*) on \d{4}-\d\d-\d\d")  # from MicroPython's banner, as _MACHINE
_MACHINE = re.compile(rb"([ -~]+ with (?:RP2|ESP32)[-\w]*)\0")
_ESP_MAGIC = 0xE9


@dataclass(frozen=True)
class Base:
    """A parsed firmware file.

    name     of the file, for messages
    chip     its chip, named as `mcu` in board.json
    flash    contents of the flash from its first byte to the end of the firmware, gaps filled with 0xff
    version  of MicroPython, "v1.26.1"; "" if it is not MicroPython
    machine  the board in its banner, "Raspberry Pi Pico W with RP2040"
    """

    name: str
    chip: str
    flash: bytes
    version: str
    machine: str

    def __str__(self) -> str:
        return f"MicroPython {self.version} for {self.machine}" if self.version else "not MicroPython"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    boards.add_board(parser)
    parser.add_argument(
        "--version",
        metavar="V",
        help=f"of MicroPython, e.g. v1.25.0 (default: the board's first; the newest release is {_NEWEST})",
    )
    parser.add_argument(
        "--from", dest="source", type=boards.parse_path, metavar="FILE", help="take this file, do not download one"
    )
    parser.add_argument(
        "--allow-unknown", action="store_true", help="take a FILE for the same chip that board.json does not list"
    )
    parser.add_argument(
        "--mirror", type=_parse_url, metavar="URL", help="download from this folder instead of micropython.org"
    )
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    board = boards.load(arguments.board)
    if arguments.source:
        path = _adopt(board, arguments.source, arguments.allow_unknown)
    else:
        path = base_image(board, arguments.version, arguments.mirror)
    data = boards.read_bytes(path)
    known = any(entry["sha256"] == _sha256(data) for entry in board["firmware"])
    base = read_base(data, path)
    if arguments.json:
        facts = {"version": base.version, "machine": base.machine, "chip": base.chip, "bytes": len(data)}
        boards.print_json({"file": path, **facts, "sha256": _sha256(data), "known": known})
        return 0
    print(f"{path}\n{base}, {len(data):,} bytes")
    print(f"SHA-256 {_sha256(data)}, {'as in board.json' if known else 'not in board.json: recorded, not verified'}")
    return 0


def _parse_url(text: str) -> str:
    if not re.match(r"https?://[\w.:[\]-]+(/|$)", text):
        raise argparse.ArgumentTypeError(f"expected a URL that begins with http:// or https://, not {text!r}")
    return text


def cache() -> Path:
    """The folder of files kept between runs: $MICROPYTHON_TFTPD_CACHE, or one in the user's cache folder."""
    chosen = os.environ.get("MICROPYTHON_TFTPD_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("micropython-tftpd", appauthor=False)


def base_image(
    board: dict[str, Any], version: str | None = None, mirror: str | None = None, download: bool = True
) -> Path:
    """The board's firmware file in the cache, checked, and downloaded if it is missing. Raises ToolError.

    board     its board.json (boards.load)
    version   "v1.26.1"; None for the board's default
    mirror    URL of a folder to download from, None for the file's own URL
    download  False to raise ToolError if it is missing or damaged
    """
    entry = _entry(board, version)
    path = cache() / "firmware" / entry["file"]
    expected = entry["sha256"] or _recorded(path)
    if path.is_file():
        data = boards.read_bytes(path)
        if expected is None:  # the user put it there
            check_chip(board, read_base(data, path))
            expected = _record(path, data)
        if _sha256(data) == expected:
            return path
    if not download:
        raise ToolError(f"{path.name} {'in the cache is damaged' if path.exists() else 'is not in the cache'}")
    url = f"{mirror.rstrip('/')}/{entry['file']}" if mirror else entry["url"]
    if not url:
        raise ToolError(f"{path} has changed since it was taken: take it again, {PROGRAM} firmware --from FILE")
    return _download(board, url, path, expected)


def read_base(data: bytes, name: object, copied: bool = False) -> Base:
    """Parse a firmware file (.uf2, or .bin for an ESP32) or an image built from one.

    copied  it may also be a copy of the whole flash of an RP2 board

    Raises ToolError, also if its program is incomplete.
    """
    if uf2.is_uf2(data):
        blocks = uf2.read(data, name)
        chip, flash = uf2.CHIPS.get(uf2.main_family(blocks)), uf2.flash(blocks)
    else:
        chip, flash = _read_esp(data)
    if copied and not chip and (named := re.search(rb" with (RP2\d+)\0", data)):
        chip, flash = named[1].decode().lower(), data
    if chip is None:
        raise ToolError(f"{name} is not firmware for any supported board (a .uf2 for RP2, a .bin for ESP32)")
    if chip.startswith("esp"):
        esp.check_whole(chip, flash, name)
    version, machine = _VERSION.search(flash), _MACHINE.search(flash)
    return Base(
        str(name),
        chip,
        flash,
        version[1].decode() if version else "",
        re.sub(r"^(.*: |; )", "", machine[1].decode()) if machine else "an unknown board",
    )


def check_chip(board: dict[str, Any], base: Base) -> None:
    """Raises ToolError unless `base` is for the chip of `board`."""
    if base.chip != board["mcu"]:
        raise ToolError(f"{base.name} is for the {base.chip}, but the {board['product']} has the {board['mcu']}")


def _read_esp(data: bytes) -> tuple[str | None, bytes]:
    # Espressif's image header: magic, ..., chip ID at byte 12. MicroPython's file begins at the bootloader, our image
    # at the first byte of the flash.
    from esptool.targets import CHIP_DEFS

    for start in (0, 0x1000):
        if data[start : start + 1] == bytes((_ESP_MAGIC,)):
            number = int.from_bytes(data[start + 12 : start + 14], "little")
            for chip, facts in CHIP_DEFS.items():
                boot = facts.BOOTLOADER_FLASH_OFFSET
                if chip != "esp8266" and number == facts.IMAGE_CHIP_ID and start <= boot:
                    return chip, b"\xff" * (boot - start) + data
    return None, b""


def _entry(board: dict[str, Any], version: str | None) -> dict[str, Any]:
    known = board.get("firmware")
    if not known:
        raise ToolError(f"{board['product']}: there is no firmware to flash; {PROGRAM} emulate runs it")
    if version is None:
        return known[0]
    version = "v" + version.removeprefix("v")
    for entry in known:
        if entry["version"] == version:
            return entry
    stem, suffix = known[0]["file"].split("-")[0], Path(known[0]["file"]).suffix
    for path in sorted((cache() / "firmware").glob(f"{stem}-*{glob.escape(version)}{suffix}"), reverse=True):
        if _recorded(path):  # adopted with --allow-unknown
            return {"file": path.name, "sha256": None, "url": None}
    raise ToolError(
        f"no firmware {version} is known for this board, only {', '.join(entry['version'] for entry in known)}; "
        f"the newest release is {_NEWEST}; add your own file with {PROGRAM} firmware --from FILE --allow-unknown"
    )


def _download(board: dict[str, Any], url: str, path: Path, expected: str | None) -> Path:
    import pooch
    from requests import RequestException
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

    pooch.get_logger().setLevel("ERROR")
    _make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    columns = (TextColumn(path.name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with boards.progress(*columns) as progress:
            bar: Any = _Bar(progress)
            downloader: Any = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_S)
            pooch.retrieve(url, expected, fname=part.name, path=part.parent, downloader=downloader)
        data = part.read_bytes()
        check_chip(board, read_base(data, f"the file from {url}"))
        part.replace(path)
    except RequestException as error:
        status = getattr(error.response, "status_code", None)
        reason = f"status {status}" if status else f"{url.split('/')[2]} can't be reached, or the connection broke"
        damaged = "the file in the cache is damaged; " if path.exists() else ""
        raise ToolError(
            f"can't download {url} ({reason}): {damaged}download it elsewhere and copy it to {path}"
        ) from None
    except ValueError:  # pooch: the hash differs
        raise ToolError(
            f"{url} sent another file than expected: its SHA-256 is not {expected}; it was discarded"
        ) from None
    except OSError as error:
        raise ToolError(f"can't write {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    if expected is None:
        print(f"the SHA-256 of {path.name} was not known; recorded: {_record(path, data)}", file=sys.stderr)
    return path


class _Bar:
    """The progress bar interface of pooch, drawn by rich."""

    def __init__(self, progress: Any) -> None:
        self.total = 0
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def update(self, count: int) -> None:
        self._progress.update(self._task, total=self.total or None, advance=count)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        pass


def _adopt(board: dict[str, Any], source: Path, allow_unknown: bool) -> Path:
    data = boards.read_bytes(source)
    _entry(board, None)
    check_chip(board, read_base(data, source))
    digest = _sha256(data)
    name = source.name
    for entry in board["firmware"]:
        if entry["sha256"] == digest:
            return _keep(entry["file"], data)
        if entry["file"] == name and entry["sha256"]:
            raise ToolError(f"{source} is damaged or not what its name says: its SHA-256 is not {entry['sha256']}")
    if not allow_unknown and all(entry["file"] != name for entry in board["firmware"]):
        raise ToolError(f"board.json does not list {source} (its SHA-256 is {digest}): --allow-unknown takes it anyway")
    earlier = _recorded(cache() / "firmware" / name)
    if earlier not in (None, digest):
        raise ToolError(f"{source} differs from the {name} taken earlier, whose SHA-256 is {earlier}")
    path = _keep(name, data)
    _record(path, data)
    return path


def _keep(name: str, data: bytes) -> Path:
    path = cache() / "firmware" / name
    _make_folder(path.parent)
    boards.write_whole(path, data)
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(f"can't create {folder}: {error.strerror}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")  # in the format of `sha256sum -c`


def _record(path: Path, data: bytes) -> str:
    digest = _sha256(data)
    boards.write_whole(_note(path), f"{digest}  {path.name}\n".encode())
    return digest


def _recorded(path: Path) -> str | None:
    note = _note(path)
    if not note.is_file():
        return None
    digest = re.match(rb"[0-9a-f]{64}\b", boards.read_bytes(note))
    if not digest:
        raise ToolError(f"{note} holds no SHA-256: remove it, and that of {path.name} is recorded again")
    return digest[0].decode()
