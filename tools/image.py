"""Build the one file to flash on a board: MicroPython, the server, the settings and the files of a folder.

For RP2 boards it is a UF2 file, to copy to the drive of boot mode. For the ESP32 family it is a .bin file, which
esptool writes to flash offset 0.
"""

import argparse
import hashlib
import json
import os
import secrets
import shlex
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import PROGRAM, ToolError, boards, card, compress, earlier, esp, filesystem, firmware, printable, uf2
from .earlier import Earlier
from .firmware import Base

_SECTOR_BYTES = esp.SECTOR_BYTES  # also a block of the filesystem
_SECRET = "password"  # is in the name of each setting that is one
_LETTERS = "abcdefghijkmnopqrstuvwxyz2345678"  # of the password for the first set-up, as in firmware/setup.py
_ADVICE = "leave some out, or give a larger flash with --flash-size (make run FLASH=)"

# To read a filesystem, only the block size matters.
_LAYOUT = {"block_size": _SECTOR_BYTES, "prog_size": 256, "read_size": 256}


@dataclass(frozen=True)
class Image:
    """An image and the facts in its summary: sizes and offsets in bytes, `files` by absolute path on the board, what
    compression `saved` in words, the paths that were `kept` of an earlier image."""

    data: bytes
    base: Base
    firmware_size: int
    files: dict[str, bytes]
    warnings: list[str]
    offset: int
    size: int
    used: int
    saved: str
    kept: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    boards.add_board(parser, required=False)
    parser.add_argument("--files", type=boards.parse_path, metavar="DIR", help="the folder to serve")
    parser.add_argument(
        "--update",
        type=boards.parse_path,
        metavar="OLD",
        help="keep the files and settings of an earlier image, or of a copy of a board's flash; --files adds to them",
    )
    parser.add_argument(
        "-o", dest="output", type=boards.parse_path, metavar="OUT", help="the file to write, .uf2 or .bin"
    )
    parser.add_argument(
        "--settings", type=boards.parse_path, metavar="FILE", help="a settings.json with the Wi-Fi's name"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting of FILE (docs/settings.md); may be repeated",
    )
    parser.add_argument(
        "--flash-size", type=boards.parse_size, metavar="SIZE", help="of the flash, e.g. 16M (default: the board's)"
    )
    compress.add_argument(parser)
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--version", metavar="V", help="of MicroPython, e.g. v1.26.1 (default: the board's first)")
    base.add_argument("--base", type=boards.parse_path, metavar="FILE", help="your own MicroPython file as the base")
    parser.add_argument(
        "--whole", action="store_true", help="write the whole filesystem: old contents of its free part are erased"
    )
    parser.add_argument(
        "--card", type=boards.parse_path, metavar="DIR", help="make an SD card with the files of DIR instead: FAT32"
    )
    parser.add_argument(
        "--device", type=boards.parse_path, metavar="DEVICE", help="with --card: a real card to write, such as /dev/sdb"
    )
    parser.add_argument(
        "--inspect", type=boards.parse_path, metavar="FILE", help="list the contents of an image, and do nothing else"
    )
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.inspect:
        return _inspect(arguments.inspect, arguments.json)
    if arguments.card:
        return card.run(arguments)
    if arguments.device:
        raise ToolError(f"--device is for --card DIR; {PROGRAM} flash writes a board")
    for option in ("board", "files", "output"):
        if getattr(arguments, option) is None and not (option == "files" and arguments.update):
            raise ToolError(f"{'-o' if option == 'output' else '--' + option} is missing (see --help)")
    board = boards.load(arguments.board)
    output: Path = arguments.output
    boards.check_target(output)
    _check_suffix(board, output)
    old = read_earlier(board, arguments.update, bool(arguments.settings)) if arguments.update else None
    settings = boards.read_settings(arguments.settings) if arguments.settings else old.settings if old else {}
    settings = boards.check_settings(settings, arguments.set, arguments.settings)
    chosen = board["settings"] | settings
    sets_up = "WiFi" in board["features"] and not chosen.get("ssid") and not chosen.get("wired")
    if sets_up and "setup_password" not in settings:
        settings["setup_password"] = "".join(secrets.choice(_LETTERS) for _ in range(10))
    image = make(
        board,
        arguments.files,
        settings,
        base=arguments.base,
        version=arguments.version,
        flash_size=arguments.flash_size,
        whole=arguments.whole,
        compressed=arguments.compress,
        old=old,
    )
    boards.write_whole(output, image.data, private=any(_SECRET in name for name in settings))
    if arguments.json:
        facts = _facts(image, arguments.board, output)
        boards.print_json(facts | ({"setup_password": settings["setup_password"]} if sets_up else {}))
    else:
        _summary(image, output, bool(settings.get("write_from")))
        if image.saved:
            print(image.saved)
        if old:
            names = ", ".join(sorted(old.settings)) or "none"
            print(f"kept of {arguments.update}: files {len(image.kept)}, settings {names}")
    for warning in image.warnings:
        boards.warn(warning)
    if arguments.json:
        return 0
    print(f"To flash it: {how_to_flash(board, output)}")
    if sets_up:
        password = settings["setup_password"]
        how = "with a password that it shows on its console" if password is None else "without a password"
        print(
            "There is no Wi-Fi in it, so the board opens one of its own, tftpd-XXXX, "
            f"{f'with the password {printable(password)}' if password else how}. Join that with a "
            "phone and open http://192.168.4.1/ to choose yours (docs/setup.md), or give --settings FILE here."
        )
    return 0


def _check_suffix(board: dict[str, Any], output: Path) -> None:
    right, wrong = (".uf2", ".bin") if board["mcu"].startswith("rp2") else (".bin", ".uf2")
    if output.suffix.lower() == wrong:
        raise ToolError(f"an image for the {board['product']} is a {right} file: -o {output.with_suffix(right)}")


def make(
    board: dict[str, Any],
    folder: Path | None,
    settings: dict[str, Any],
    *,
    base: Path | None = None,
    version: str | None = None,
    flash_size: int | None = None,
    whole: bool = False,
    kept: bytes | None = None,
    compressed: str | None = None,
    old: Earlier | None = None,
) -> Image:
    """The flashable image of a board. Raises ToolError.

    board       its board.json (boards.load)
    folder      the files to serve, None for none
    settings    for its /settings.json, checked (boards.check_settings)
    base        MicroPython's file; None for that of `version` in the cache
    version     None for the board's default
    flash_size  bytes, None for the board's own
    whole       include all of the filesystem, not only its used blocks
    kept        an earlier filesystem of this board (at place()); its files win over those of `folder`
    compressed  which files to store as NAME.gz (compress.shrink); None for none
    old         an earlier image (read_earlier()); the files of `folder` win over its files
    """
    if "firmware" not in board:
        raise ToolError(f"{board['product']}: there is nothing to flash; {PROGRAM} emulate runs it")
    path = base or firmware.base_image(board, version)
    raw = boards.read_bytes(path)
    original = firmware.read_base(raw, path)
    firmware.check_chip(board, original)
    offset, size = place(board, original, flash_size)
    layout = board["filesystem"]
    served = filesystem.served(folder, settings, compressed, layout["block_size"])
    files, warnings = served.files, served.warnings
    if kept is not None:
        files = filesystem.without(files, filesystem.names(layout, kept))  # a file on the earlier filesystem wins
    server = filesystem.board_files(settings, board["settings"])
    replaced = {*files, *served.packed}
    users = {path: data for path, data in (old.kept(server) if old else {}).items() if path not in replaced}
    files = users | files | server
    rp2 = original.chip.startswith("rp2")
    fixed = rp2 or _vfs(original)  # whatever the size of the flash
    advice = ("" if compressed else "try --compress auto, or ") + ("leave some out" if fixed else _ADVICE)
    folders = [*served.folders, *(old.folders if old else ())]
    lfs = filesystem.build(layout, size, files, kept, advice, folders)
    used = filesystem.used_blocks(layout, lfs)
    blocks = set(range(size // _SECTOR_BYTES)) if whole else used
    if rp2:
        data = _join_uf2(uf2.read(raw, path), offset, lfs, blocks)
    else:
        actual = flash_size or board["flash_size"]
        data = join_esp(original, offset, lfs[: (max(blocks) + 1) * _SECTOR_BYTES], actual)
        if not fixed:
            warnings.append(
                "this MicroPython uses the rest of the flash for the filesystem, so the flash must really have "
                f"{boards.format_size(actual)}: esptool flash-id shows its size, --flash-size sets it"
            )
    if not any(entry["sha256"] == hashlib.sha256(raw).hexdigest() for entry in board["firmware"]):
        warnings.append(f"board.json does not list the SHA-256 of {path}, which claims to be {original}")
    taken = len(used) * _SECTOR_BYTES
    return Image(data, original, len(raw), files, warnings, offset, size, taken, served.saved, sorted(users))


def read_earlier(board: dict[str, Any], path: Path, other_settings: bool = False) -> Earlier:
    """The user's files and settings in an earlier image of a board, or in a copy of its flash. Raises ToolError.

    other_settings  leave out the settings, which may then be wrong
    """
    base = firmware.read_base(boards.read_bytes(path), path, copied=True)
    firmware.check_chip(board, base)
    return earlier.sort(path, *_tree(base, board), other_settings)


def place(board: dict[str, Any], base: Base, flash_size: int | None = None) -> tuple[int, int]:
    """The place of the filesystem of `base` on a board: flash offset and size in bytes. Raises ToolError."""
    actual = flash_size or board["flash_size"]
    if base.chip.startswith("rp2"):
        offset, size = _place_rp2(base) or (board["filesystem"]["offset"], board["filesystem"]["size"])
        if flash_size and offset + size < flash_size:  # the place is compiled in
            raise ToolError(
                f"this MicroPython is built for a flash of {boards.format_size(offset + size)}, "
                f"not {boards.format_size(flash_size)}: --base FILE takes one that was"
            )
    else:
        offset, size = _place_esp(base, actual)
    if offset + size > actual:
        raise ToolError(
            f"the filesystem of this MicroPython ends at {boards.format_size(offset + size)}, but the flash has "
            f"{boards.format_size(actual)}{'' if flash_size else ': --flash-size gives the size of a larger one'}"
        )
    if len(base.flash) > offset:
        raise ToolError(
            f"{base.name} reaches {len(base.flash) - offset:,} bytes into its own filesystem: "
            "give MicroPython's original file, not an image built from it"
        )
    return offset, size


def how_to_flash(board: dict[str, Any], image: Path) -> str:
    """Instructions, or the command, to flash `image`."""
    flashing = board["flashing"]
    if flashing["how"] == "uf2":
        return f"{flashing['press']}, then copy {image} to the drive {flashing['drive']}"
    python = os.path.relpath(sys.executable)
    command = f"{shlex.quote(python)} -m esptool --chip {board['mcu']} --baud {flashing['baud']} write-flash 0"
    return f"{command} {shlex.quote(str(image))}\n({flashing['press']})"


# RP2


def _place_rp2(base: Base) -> tuple[int, int] | None:
    # The firmware states it as a "block device" in its binary info (pico-sdk, binary_info/structure.h): type 7, tag
    # "MP", name, address, size.
    flash = base.flash
    found = flash.find(struct.pack("<H2s", 7, b"MP"))
    if not 0 <= found <= len(flash) - 16:
        return None
    _, name, address, size = struct.unpack_from("<4I", flash, found)
    start, offset = name - uf2.XIP, address - uf2.XIP
    if start < 0 or flash[start : start + 12] != b"MicroPython\0":
        return None
    if offset < 0 or size < 2 * _SECTOR_BYTES or (offset | size) % _SECTOR_BYTES or offset + size > uf2.FLASH_BYTES:
        raise ToolError(f"{base.name} is damaged: it claims a filesystem of {size:,} bytes at {address:#x}")
    return offset, size


def _join_uf2(base: list[uf2.Block], offset: int, lfs: bytes, blocks: set[int]) -> bytes:
    # Whole sectors, in order of address: the boot ROM erases a sector when its first block arrives. Blocks of another
    # family (the workaround for erratum RP2350-E10) stay first and unchanged.
    family = uf2.main_family(base)
    parts = [(one.address, one.payload) for one in base if one.family == family]
    for number in sorted(blocks):
        for start in range(number * _SECTOR_BYTES, (number + 1) * _SECTOR_BYTES, uf2.PAYLOAD):
            parts.append((uf2.XIP + offset + start, lfs[start : start + uf2.PAYLOAD]))
    others = [one.raw for one in base if one.family != family]
    total = len(parts)
    ours = [uf2.block(address, payload, number, total, family) for number, (address, payload) in enumerate(parts)]
    return b"".join(others + ours)


# ESP32 family


def _vfs(base: Base) -> esp.Partition | None:
    return next((partition for partition in esp.partitions(base.flash, base.name) if partition.name == "vfs"), None)


def _place_esp(base: Base, flash_size: int) -> tuple[int, int]:
    # As in MicroPython's ports/esp32/main.c: the partition `vfs` if there is one (up to v1.25), else all flash after
    # the last partition.
    end = max(partition.end for partition in esp.partitions(base.flash, base.name))
    if end > flash_size:
        raise ToolError(
            f"the partition table of {base.name} ends at {boards.format_size(end)}, "
            f"but the flash has {boards.format_size(flash_size)}"
        )
    vfs = _vfs(base)
    offset, size = (vfs.offset, vfs.size) if vfs else (end, flash_size - end)
    if size < 2 * _SECTOR_BYTES:
        raise ToolError(f"a flash of {boards.format_size(flash_size)} has no room for a filesystem after MicroPython")
    return offset, size // _SECTOR_BYTES * _SECTOR_BYTES


def join_esp(base: Base, offset: int, lfs: bytes, flash_size: int) -> bytes:
    """`base` with a filesystem at `offset`, for a flash of `flash_size` bytes, from address 0 on. Raises ToolError."""
    import esptool
    from esptool.logger import log

    chip = esptool.CHIP_DEFS[base.chip]
    size = f"{flash_size >> 20}MB"
    if flash_size & 0xFFFFF or size not in chip.FLASH_SIZES:
        raise ToolError(f"there is no {base.chip} with {boards.format_size(flash_size)} of flash")
    boot = chip.BOOTLOADER_FLASH_OFFSET
    log.set_verbosity("silent")
    # merge_bin writes the flash size into the bootloader's header and updates its hash.
    try:
        data = esptool.merge_bin([(boot, base.flash[boot:]), (offset, lfs)], base.chip, flash_size=size)
    except esptool.FatalError as error:
        raise ToolError(f"esptool can't build an image from {base.name}: {error}") from None
    assert data
    if data[boot + 3] & 0xF0 != chip.FLASH_SIZES[size]:
        raise ToolError(f"the bootloader of {base.name} is damaged: esptool does not recognize it")
    return data


# Summary and --inspect


def _facts(image: Image, board: str, output: Path) -> dict[str, Any]:
    place = {"offset": image.offset, "bytes": image.size, "used": image.used}
    return {
        "file": output,
        "board": board,
        "bytes": len(image.data),
        "sha256": hashlib.sha256(image.data).hexdigest(),
        "base": {"version": image.base.version, "machine": image.base.machine, "bytes": image.firmware_size},
        "filesystem": place,
        "files": {name: len(data) for name, data in sorted(image.files.items())},
        "kept": image.kept,
    }


def _summary(image: Image, output: Path, uploads: bool) -> None:
    files = image.files
    server = [data for name, data in files.items() if name.startswith("/lib/") or name in ("/boot.py", "/main.py")]
    config = [files["/settings.json"], files["/board.json"]]
    served = len(files) - len(server) - len(config)
    own = sum(map(len, server)) + sum(map(len, config))
    data = sum(map(len, files.values()))
    end = image.offset + image.size
    rows: list[tuple[str, int, str]] = [
        (f"{image.base}", image.firmware_size, ""),
        (f"the server, {len(server)} files", sum(map(len, server)), ""),
        ("its settings", sum(map(len, config)), ""),
        (f"{served} served {'file' if served == 1 else 'files'}", data - own, ""),
        ("the filesystem's own", image.used - data, f"in blocks of {_SECTOR_BYTES}"),
        (
            "free for uploads" if uploads else "free",
            image.size - image.used,
            f"of {image.size:,} at {image.offset:#x} to {end:#x}",
        ),
        (f"{output}", len(image.data), ""),
    ]
    _print(("what", "bytes", ""), [(what, f"{size:,}", remark) for what, size, remark in rows])


def _inspect(path: Path, as_json: bool = False) -> int:
    raw = boards.read_bytes(path)
    base = firmware.read_base(raw, path)
    found, files = _find(base) or (0, 0), files_in(base)
    try:
        settings = json.loads(files.get("/settings.json", b"{}"))
        settings |= {name: "(not shown)" for name in settings if _SECRET in name}
    except (ValueError, TypeError, RecursionError):
        settings = None
    if as_json:
        facts = {"file": path, "bytes": len(raw), "chip": base.chip, "version": base.version, "machine": base.machine}
        facts["filesystem"] = {"offset": found[0], "bytes": found[1]}
        facts["files"] = {name: len(data) for name, data in sorted(files.items())}
        boards.print_json(facts | {"settings": settings})
        return 0
    rows = [("what", f"{base}"), ("chip", base.chip), ("file", f"{len(raw):,} bytes")]
    if uf2.is_uf2(raw):
        blocks = uf2.read(raw, path)
        families = dict.fromkeys(f"{one.family:#x}" for one in blocks)
        rows.append(("UF2", f"{len(blocks):,} blocks of {' and '.join(families)}"))
    else:
        rows.append(("flash", f"{boards.format_size(_header_size(base))}, according to the image header"))
        for one in esp.partitions(base.flash, path):
            rows.append(("partition", f"{one.name} {one.offset:#x} to {one.end:#x}"))
    if found[1]:
        rows.append(("filesystem", f"{found[0]:#x} to {sum(found):#x}, {found[1]:,} bytes"))
    _print(("", ""), rows)
    if not files:
        print("no files in it")
        return 0
    _print(("file", "bytes"), [(name, f"{len(data):,}") for name, data in sorted(files.items())])
    print("settings:", "unreadable" if settings is None else json.dumps(settings))
    return 0


def files_in(base: Base) -> dict[str, bytes]:
    """The files in an image, absolute paths and contents; none in a base. Raises ToolError if they are incomplete."""
    return _tree(base)[0]


def _tree(base: Base, board: dict[str, Any] | None = None) -> tuple[dict[str, bytes], list[str]]:
    # Files and folders, as filesystem.tree(). An RP2 whose firmware does not state the place has it from its `board`.
    facts = board["filesystem"] if board else {"offset": 0, "size": 0}
    places = [_find(base) or (facts["offset"], facts["size"])]
    if base.chip.startswith("esp") and len(base.flash) > _header_size(base):
        places.append(_place_esp(base, len(base.flash)))  # in a copy of a flash: MicroPython may detect its size
    for offset, size in places:
        lfs = base.flash[offset : offset + size]
        if found := filesystem.tree(_LAYOUT, lfs, size) if lfs.strip(b"\xff") else ({}, []):
            return found
    raise ToolError(f"{base.name} is truncated or damaged: its filesystem is not whole")


def _find(base: Base) -> tuple[int, int] | None:
    # As place(), but only from the file itself.
    return _place_rp2(base) if base.chip.startswith("rp2") else _place_esp(base, _header_size(base))


def _header_size(base: Base) -> int:
    import esptool

    chip = esptool.CHIP_DEFS[base.chip]
    field = base.flash[chip.BOOTLOADER_FLASH_OFFSET + 3] & 0xF0
    size = next((size for size, code in chip.FLASH_SIZES.items() if code == field), None)
    if not size:
        raise ToolError(f"{base.name} is damaged: its header gives no valid flash size")
    return boards.parse_size(size)


def _print(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(titles))
    for title in titles:
        table.add_column(title, justify="right" if title == "bytes" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    boards.print_table(table)
