"""SD cards for a board: an image with a FAT32 filesystem, made with mtools, or a real card that is made one.

FAT32 on the whole card, without partitions: every PC reads it, and MicroPython.
"""

import argparse
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from . import PROGRAM, ToolError, boards, printable

_SECTOR_BYTES = 512
_LEAST_BYTES = 256 << 20
_MOST_BYTES = 1 << 40  # of the sectors that FAT32 and our driver can count
_CLUSTERS = 66_000  # FAT32 has at least 65,525: with fewer it is taken for FAT16
_MOST_CLUSTER = 64  # sectors: 32 KB, what the SD Association has up to 32 GB
_FILE_BYTES = (4 << 30) - 1
_FORBIDDEN = set('"*/:<>?\\|')
_PIECE_BYTES = 4 << 20
_SYS, _MOUNTS, _SWAPS = Path("/sys/class/block"), Path("/proc/self/mountinfo"), Path("/proc/swaps")


def run(arguments: argparse.Namespace) -> int:
    """`image --card DIR`, with -o FILE or --device DEVICE. Raises ToolError."""
    folder: Path = arguments.card
    if (arguments.output is None) == (arguments.device is None):
        raise ToolError("--card DIR wants either -o FILE or --device DEVICE")
    if arguments.device is None:
        boards.check_target(arguments.output)
        total = _check(folder)
        make(folder, arguments.output, max(_LEAST_BYTES, _round(total + total // 4)))
        print(f"{arguments.output}: FAT32 with {total:,} bytes of files")
        print(f"To try it: {PROGRAM} emulate --card {arguments.output}")
        return 0
    size = _card_bytes(arguments.device)
    total = _check(folder)
    print(f"{arguments.device}: {_model(arguments.device)}, {size / 1e9:.1f} GB. All that is on it will be lost.")
    print("Type yes to go on: ", end="", flush=True)
    if sys.stdin.readline().strip() != "yes":
        raise ToolError(f"nothing was written to {arguments.device}")
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "card.img"
        make(folder, image, size)
        _write(image, arguments.device)
    print(f"{arguments.device}: FAT32 with {total:,} bytes of files; it can be taken out")
    return 0


def make(folder: Path, output: Path, size: int) -> None:
    """A file of `size` bytes, mostly a hole, with a FAT32 filesystem that has what is in `folder`. Raises ToolError."""
    sectors = min(size, _MOST_BYTES) // _SECTOR_BYTES
    cluster = 1
    while cluster < _MOST_CLUSTER and sectors // (cluster * 2) > _CLUSTERS:
        cluster *= 2
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as file:
            file.truncate(sectors * _SECTOR_BYTES)
        geometry = ["-T", str(sectors), "-h", "255", "-s", "63", "-c", str(cluster)]
        _mtools("mformat", "-i", str(part), "-F", *geometry, "-v", "TFTPD", "::")
        found = [str(path.resolve()) for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        if found:
            with boards.waiting("copying the files"):
                _mtools("mcopy", "-i", str(part), "-s", "-Q", "-m", *found, "::")
        part.replace(output)
    except OSError as error:
        raise ToolError(f"can't write {output}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _mtools(*command: str) -> None:
    if not shutil.which(command[0]):
        raise ToolError("mtools is not installed, which makes FAT filesystems (Debian, Ubuntu: apt install mtools)")
    environment = os.environ | {"LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise ToolError(f"{command[0]}: {' '.join(result.stderr.split()) or 'failed'}")


def _round(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0


def _check(folder: Path) -> int:
    """How many bytes of files are in `folder`. Raises ToolError of what FAT can't hold."""
    if not folder.is_dir():
        raise ToolError(f"{folder} is not a folder: name one with the files for the card, --card DIR")
    total = 0
    seen: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.name[-1] in ". " or any(one in _FORBIDDEN or ord(one) < 32 for one in path.name):
            raise ToolError(f"{printable(str(name))}: FAT has no such names; rename it")
        if not path.name.isascii() or len(path.name) > 255:
            what = "of more than 255 letters" if path.name.isascii() else "but of ASCII letters"
            raise ToolError(f"{printable(str(name))}: MicroPython finds no names on FAT {what}; rename it")
        if (other := seen.setdefault(str(name).lower(), name)) != name:
            raise ToolError(f"{other} and {name} differ only in case, and on FAT both are the same file")
        if not path.is_dir():
            if not path.is_file():
                raise ToolError(f"{name} is neither a file nor a folder")
            size = path.stat().st_size
            if size > _FILE_BYTES:
                raise ToolError(f"{name} has {size:,} bytes, and a file on FAT 4 GB less one at most")
            total += size
    return total


# A real card, on Linux


def _card_bytes(device: Path) -> int:
    """The size of the card that `device` is. Raises ToolError if it is none, or is in use."""
    advice = "lsblk lists them"
    try:
        mode = device.stat().st_mode
    except OSError as error:
        raise ToolError(f"no card at {device}: {error.strerror}; {advice}") from None
    entry = _SYS / device.resolve().name
    if not stat.S_ISBLK(mode) or not entry.exists():
        raise ToolError(f"{device} is no disk; {advice}")
    if (entry / "partition").exists():
        raise ToolError(f"{device} is a part of a disk: name the whole card, such as /dev/sdb or /dev/mmcblk0")
    parts = [device.resolve(), *(device.resolve().parent / one.parent.name for one in entry.glob("*/partition"))]
    # By name and by number: / may be on a "/dev/root" that is nowhere else.
    used = {word for table in (_MOUNTS, _SWAPS) for word in table.read_text().split()}
    busy = [
        str(part)
        for part in parts
        if used & {str(part), (_SYS / part.name / "dev").read_text().strip()}
        or any((_SYS / part.name / "holders").iterdir())
    ]
    if busy:
        raise ToolError(f"{', '.join(busy)} is mounted or in use: a card is written only while it is not (umount it)")
    removable = (entry / "removable").read_text().strip() == "1" or device.resolve().name.startswith("mmcblk")
    if not removable:
        raise ToolError(f"{device} is a disk of this computer, not a card: only what can be taken out is written")
    size = int((entry / "size").read_text()) * _SECTOR_BYTES
    if not size:
        raise ToolError(f"there is no card in {device}")
    return size


def _model(device: Path) -> str:
    entry = _SYS / device.resolve().name / "device"
    for name in ("model", "name"):
        if (entry / name).exists():
            return printable((entry / name).read_text().strip())
    return "a card"


def _write(image: Path, device: Path) -> None:
    """Write `image` up to the end of what it holds; what is behind that stays, out of use."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    try:
        with image.open("rb") as source, device.open("r+b", buffering=0) as target:
            end = _end(source.fileno(), image.stat().st_size)
            with boards.progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as shown:
                task = shown.add_task("", total=end)
                while source.tell() < end:
                    target.write(source.read(min(_PIECE_BYTES, end - source.tell())))
                    os.fsync(target.fileno())
                    shown.update(task, completed=source.tell())
    except OSError as error:
        raise ToolError(f"can't write {device}: {error.strerror}") from None


def _end(file: int, size: int) -> int:
    """The end of the last piece of a file that is not a hole."""
    at = end = 0
    while at < size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            break
        at = end = os.lseek(file, at, os.SEEK_HOLE)
    os.lseek(file, 0, os.SEEK_SET)
    return end
