"""Flash an image on a connected board, and wait until the board serves.

An RP2 board in boot mode is a USB drive, to which the image is copied; a board that runs MicroPython is restarted into
boot mode first. An ESP32 is flashed by esptool through its serial port.
"""

import argparse
import functools
import glob
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

from . import PROGRAM, ToolError, boards, firmware, monitor
from .image import files_in

_SERVING_S = 90
_DRIVE_S = 20  # time limit for the drive to appear
_POLL_S = 0.2
_STEP_BYTES = 64 << 10  # written to a drive between two updates of the progress bar
_INFO = "INFO_UF2.TXT"
# Where Linux desktops, macOS and Windows mount drives.
_MOUNTS = ("/media/*", "/media/*/*", "/run/media/*/*", "/mnt", "/mnt/*", "/Volumes/*", "[D-Z]:/")
_BY_LABEL = "/dev/disk/by-label/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    boards.add_board(parser)
    parser.add_argument("image", type=boards.parse_path, metavar="IMAGE", help=f"a file made by {PROGRAM} image")
    monitor.add_device(parser)
    parser.add_argument("--drive", type=boards.parse_path, metavar="DIR", help="the drive of an RP2 board in boot mode")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    boards.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    board = boards.load(arguments.board)
    if "flashing" not in board:
        raise ToolError(f"{board['product']}: there is nothing to flash; {PROGRAM} emulate runs it")
    if arguments.json and not arguments.yes:
        raise ToolError("--json asks no questions: add --yes to flash without confirmation")
    path: Path = arguments.image
    image = boards.read_bytes(path)
    base = firmware.read_base(image, path)
    firmware.check_chip(board, base)
    files_in(base)
    if board["flashing"]["how"] == "uf2":
        work = _uf2(board, path, image, arguments)
    else:
        work = _esptool(board, path, image, arguments)
    if not arguments.json:
        print(f"{path}: {base}, {len(image):,} bytes")
    if not arguments.yes and not _agreed(work.question):
        print("nothing is done")
        return 1
    work.do()
    device = arguments.device
    port = monitor.Port((lambda: device) if device else lambda: monitor.find_port(board["mcu"]))
    try:
        with boards.waiting("waiting until it serves"):
            url = monitor.wait_until_serving(port, _SERVING_S)
    finally:
        port.close()
    if arguments.json:
        boards.print_json({**monitor.facts(url), "board": arguments.board, "file": path})
    else:
        print(f"serving {url}", flush=True)
    return 0


def _agreed(question: str) -> bool:
    try:
        return input(f"{question}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        raise ToolError("nothing is done, since nobody answers: --yes flashes without asking") from None


class _Work:
    """A step to confirm: the `question` to the user, and the function that `do`es it."""

    def __init__(self, question: str, do: Callable[[], None]) -> None:
        self.question = question
        self.do = do


def _progress(what: str) -> Any:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return boards.progress(TextColumn(what, markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())


# RP2


def _uf2(board: dict[str, Any], path: Path, image: bytes, arguments: argparse.Namespace) -> _Work:
    label = board["flashing"]["drive"]
    drive: Path | None = arguments.drive
    if drive:
        _check_drive(board, drive)
    elif not (drive := _find_drive(label)):
        device = arguments.device or _runs_micropython(board, label)
        question = f"Restart the board at {device} into boot mode, and write {path} to it"
        return _Work(question, lambda: _write(_boot_mode(device, label), path, image))
    return _Work(f"Write {path} to the {board['product']} at {drive}", lambda: _write(drive, path, image))


def _label(drive: Path) -> str | None:
    """The board ID that the boot ROM gives on `drive`, None if it is no boot ROM's drive."""
    try:
        lines = (drive / _INFO).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Board-ID:")), "")


def _check_drive(board: dict[str, Any], drive: Path) -> None:
    label = _label(drive)
    if label is None:
        raise ToolError(f"{drive} is not the drive of a board in boot mode: it has no {_INFO}")
    if label != board["flashing"]["drive"]:
        raise ToolError(
            f"the drive {drive} is a {label}, but that of the {board['product']} is a {board['flashing']['drive']}"
        )


def _drives() -> dict[Path, str]:
    folders = {Path(name) for pattern in _MOUNTS for name in glob.glob(pattern)}
    return {folder: label for folder in sorted(folders) if (label := _label(folder)) is not None}


def _find_drive(label: str) -> Path | None:
    found = [folder for folder, its in _drives().items() if its == label]
    if len(found) > 1:
        raise ToolError(f"several boards are in boot mode; choose one with --drive: {', '.join(map(str, found))}")
    if not found and os.path.exists(_BY_LABEL + label):
        raise ToolError(
            f"the board is connected, but its drive is not mounted: run udisksctl mount -b {_BY_LABEL}{label}"
        )
    return found[0] if found else None


def _runs_micropython(board: dict[str, Any], label: str) -> str:
    try:
        return monitor.find_port(board["mcu"])
    except ToolError as error:
        others = "".join(f"; the drive {folder} is a {its}" for folder, its in _drives().items())
        if "several" in str(error):
            raise
        raise ToolError(
            f"no {board['product']} is connected: {board['flashing']['press']}, and the drive {label} appears{others}"
        ) from None


def _boot_mode(device: str, label: str) -> Path:
    command = [sys.executable, "-m", "mpremote", "connect", device, "resume", "bootloader"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr or result.stdout).strip().splitlines()[-1:]
        raise ToolError(f"the board at {device} does not enter boot mode: {' '.join(last)}")
    end = time.monotonic() + _DRIVE_S
    while time.monotonic() < end:
        if drive := _find_drive(label):
            return drive
        time.sleep(_POLL_S)
    raise ToolError(f"the board is in boot mode, but no drive {label} has appeared: give its folder with --drive")


def _write(drive: Path, path: Path, image: bytes) -> None:
    target = drive / path.with_suffix(".uf2").name
    done = 0
    try:
        with _progress(f"writing to {drive}") as progress, target.open("wb", buffering=0) as file:
            task = progress.add_task("", total=len(image))
            while done < len(image):
                done += file.write(image[done : done + _STEP_BYTES])
                os.fsync(file.fileno())
                progress.update(task, completed=done)
    except OSError as error:
        # The board restarts when it has the last block, and its drive disappears, perhaps before the write returns.
        if len(image) - done > _STEP_BYTES or _label(drive) is not None:
            raise ToolError(f"can't write {target}: {error.strerror}; unplug the board and try again") from None


# ESP32


def _esptool(board: dict[str, Any], path: Path, image: bytes, arguments: argparse.Namespace) -> _Work:
    if arguments.drive:
        raise ToolError(f"--drive is for RP2 boards; the {board['product']} has a serial port: --device")
    # MicroPython's own file begins with the bootloader, our image with the first byte of the flash.
    offset = int(board["deploy_options"]["flash_offset"], 0) if image[:1] == b"\xe9" else 0
    device = arguments.device or monitor.find_port(board["mcu"])
    question = f"Write {path} to the {board['product']} at {device}, from offset {offset:#x} on"
    return _Work(question, lambda: _flash_esp(board, device, offset, image))


def _flash_esp(board: dict[str, Any], device: str, offset: int, image: bytes) -> None:
    import serial
    from esptool import FatalError, attach_flash, connect_esp, reset_chip, run_stub, write_flash

    flashing = board["flashing"]
    try:
        with _progress(f"writing to {device}") as progress:
            task = progress.add_task("", total=None)
            _logger().show = lambda done, total: progress.update(task, completed=done, total=total)
            with connect_esp(device, board["mcu"]) as rom:
                esp = run_stub(rom)
                if not device.startswith("socket:"):
                    esp.change_baud(flashing["baud"])
                attach_flash(esp)
                write_flash(esp, [(offset, image)])
                reset_chip(esp, "hard-reset")
    except (FatalError, serial.SerialException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ToolError(f"{reason}; {flashing['press']}") from None


@functools.cache  # esptool accepts a logger only once
def _logger() -> Any:
    """A logger for esptool that passes progress to `show` and drops all text. Errors arrive as exceptions."""
    from esptool.logger import TemplateLogger, log

    class Logger(TemplateLogger):
        show: ClassVar[Callable[[int, int], None]]

        def progress_bar(
            self, cur_iter: int, total_iters: int, prefix: str = "", suffix: str = "", bar_length: int = 30
        ) -> None:
            Logger.show(cur_iter, total_iters)

        def print(self, *args: object, **kwargs: object) -> None:
            pass

        note = warning = error = set_verbosity = print

        def stage(self, finish: bool = False) -> None:
            pass

    cast(Any, log).set_logger(Logger())
    return Logger
